//! Makes a plan: derives the names of each trial's stage runs, and adds each stage run to the graph once.

use super::facts::{Files, name_of};
use super::graph::{Participation, PlannedTrial, StageGraph, StageNode, State, standing};
use super::names::{Named, stage_runs};
use super::tune::{PlannedTuning, Standing, tunings};
use crate::config::{ExamPoint, Stage, TrainStage, TrialConfig};
use crate::data::files::Inputs;
use crate::runs::manifest::{Manifest, RunStatus};
use crate::runs::recorded::{RecordedStage, RecordedTrial};
use crate::sweep::{Part, Trial};
use anyhow::{Context, Result};
use rayon::prelude::*;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// The names of all entries of a folder.
fn names_in(folder: &Path) -> HashSet<OsString> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// A plan under construction.
pub struct Planner<'a> {
    runs: &'a Path,
    /// The names in `runs`: most stage runs of a new sweep are missing, and are then not looked up on disk.
    there: HashSet<OsString>,
    /// The folder with the records of stage runs that outlast their folders, if any.
    kept: Option<&'a Path>,
    nodes: Vec<StageNode>,
    by_name: HashMap<Uuid, usize>,
}

/// Indices of the stage runs that a stage run reads.
#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    tokenizer: Option<usize>,
    data: Option<usize>,
    model: Option<usize>,
}

/// The source of the names of a trial's stage runs.
enum Origin<'a> {
    /// Derived from its configuration and files.
    Trial(Vec<Named>),
    /// Taken from the record of an earlier run.
    Record(&'a RecordedTrial),
}

/// A trial, with its tuned value if one is chosen, and the source of its names.
struct Settled<'a> {
    trial: Trial,
    /// The names of the trial and of its setting, if they are not derived from those of its stage runs.
    names: Option<[Uuid; 2]>,
    origin: Origin<'a>,
    participation: Participation,
}

/// Settles a tuned trial: its value is the one that its candidates, or else its record, have chosen, if any. Its name is
/// derived from the tuning, not from the choice: from its candidates' names and from the stage runs that it would have
/// with the first value.
fn settle<'a>(
    trial: &Trial,
    tuning: &PlannedTuning,
    tried: &[Uuid],
    recorded: Option<&'a RecordedTrial>,
    inputs: &Mutex<Inputs>,
) -> Result<Settled<'a>> {
    let chosen = match tuning.standing {
        Standing::Chosen(value) => Some(value),
        _ => recorded.and_then(|recorded| recorded.part.as_ref()?.chosen()),
    };
    let settled = trial.with_choice(chosen)?;
    let participation = if chosen.is_some() { Participation::Active } else { Participation::Pending };
    if let Some(recorded) = recorded.filter(|recorded| recorded.part == settled.part) {
        return Ok(Settled { trial: settled, names: None, origin: Origin::Record(recorded), participation });
    }
    let rule = names_of(trial, inputs)?;
    let tried = || tried.iter().copied();
    let uuid = name_of(tried().chain(rule.iter().map(|run| run.uuid)));
    let setting = name_of(tried().chain(rule.iter().map(|run| run.setting)));
    let named = if chosen.is_some() { names_of(&settled, inputs)? } else { rule };
    Ok(Settled { trial: settled, names: Some([uuid, setting]), origin: Origin::Trial(named), participation })
}

fn names_of(trial: &Trial, inputs: &Mutex<Inputs>) -> Result<Vec<Named>> {
    stage_runs(&trial.config, trial.until(), inputs)
}

/// Number of trials whose names are derived in one parallel batch.
const AT_A_TIME: usize = 1024;

impl<'a> Planner<'a> {
    /// A planner for stage runs in the folder `runs`; records of missing ones may be in `kept`.
    pub fn new(runs: &'a Path, kept: Option<&'a Path>) -> Self {
        Self { runs, there: names_in(runs), kept, nodes: Vec::new(), by_name: HashMap::new() }
    }

    /// Plans all trials: candidates and untuned trials first, then tuned trials. Names come from the record of a trial if
    /// `known` returns one, and otherwise follow from the trial alone.
    ///
    /// # Errors
    /// If a file that a name depends on cannot be read.
    pub fn plan<'r>(
        mut self,
        trials: &[Trial],
        known: impl Fn(&Trial) -> Option<&'r RecordedTrial> + Sync,
        inputs: &Mutex<Inputs>,
    ) -> Result<StageGraph> {
        let mut planned: Vec<Option<PlannedTrial>> = vec![None; trials.len()];
        let is_tuned = |index: &usize| matches!(trials[*index].part, Some(Part::Tuned { .. }));
        let (tuned, plain): (Vec<usize>, Vec<usize>) = (0..trials.len()).partition(is_tuned);
        let name = |index: usize| {
            let trial = &trials[index];
            let origin = match known(trial) {
                Some(recorded) => Origin::Record(recorded),
                None => Origin::Trial(names_of(trial, inputs)?),
            };
            Ok(Settled { trial: trial.clone(), names: None, origin, participation: Participation::Active })
        };
        self.add_all(trials, &plain, &mut planned, name)?;
        let last = |candidate: usize| {
            let last = planned[candidate].as_ref().and_then(|planned| planned.stages.last());
            let run = last.map(|&last| &self.nodes[last]);
            run.map_or((Path::new(""), Uuid::nil()), |run| (run.record(), run.uuid))
        };
        let tunings = tunings(trials, last);
        for tuning in &tunings {
            for (place, &candidate) in tuning.candidates.iter().enumerate() {
                if let (Some(planned), Some(Part::Candidate { value, rung, .. })) =
                    (&mut planned[candidate], &trials[candidate].part)
                {
                    planned.participation = tuning.participation(place, *rung, *value);
                }
            }
        }
        let by_trial: HashMap<usize, (&PlannedTuning, Vec<Uuid>)> = tunings
            .iter()
            .flat_map(|tuning| {
                let tried = tuning.candidates.iter().filter_map(|&trial| Some(planned[trial].as_ref()?.uuid));
                let tried: Vec<Uuid> = tried.collect();
                tuning.tuned.iter().map(move |&trial| (trial, (tuning, tried.clone())))
            })
            .collect();
        let name = |index: usize| {
            let trial = &trials[index];
            let (tuning, tried) = by_trial.get(&index).context("its candidates are not planned")?;
            settle(trial, tuning, tried, known(trial), inputs)
        };
        self.add_all(trials, &tuned, &mut planned, name)?;
        Ok(StageGraph { trials: planned.into_iter().flatten().collect(), nodes: self.nodes, tunings })
    }

    /// Adds the trials `some`; their names are derived in parallel.
    fn add_all<'r>(
        &mut self,
        trials: &[Trial],
        some: &[usize],
        planned: &mut [Option<PlannedTrial>],
        name: impl Fn(usize) -> Result<Settled<'r>> + Sync,
    ) -> Result<()> {
        for part in some.chunks(AT_A_TIME) {
            let named: Vec<Result<Settled>> = part.par_iter().map(|&index| name(index)).collect();
            for (&index, named) in part.iter().zip(named) {
                let place = || format!("sweep {}, trial {}", trials[index].sweep, index + 1);
                let Settled { trial, names, origin, participation } = named.with_context(place)?;
                let found = match origin {
                    Origin::Trial(named) => self.trial(index, &trial, named),
                    Origin::Record(recorded) => self.recorded(index, &trial, recorded),
                };
                let [uuid, setting] = names.unwrap_or([found.uuid, found.setting]);
                planned[index] = Some(PlannedTrial { uuid, setting, participation, ..found });
            }
        }
        Ok(())
    }

    fn trial(&mut self, index: usize, trial: &Trial, named: Vec<Named>) -> PlannedTrial {
        let uuid = name_of(named.iter().map(|run| run.uuid));
        let setting = name_of(named.iter().map(|run| run.setting));
        let mut stages: Vec<usize> = Vec::new();
        for Named { stage, uuid, setting, files, model, at } in named {
            let needs = Needs {
                tokenizer: (stage != Stage::Tokenizer).then(|| stages[0]),
                data: stage.computes().then(|| stages[1]),
                model: model.map(|model| stages[model]),
            };
            let names = Names { uuid, setting, at };
            let known = self.known(index, uuid);
            stages.push(known.unwrap_or_else(|| self.add(index, &trial.config, stage, names, files, needs)));
        }
        PlannedTrial { uuid, setting, trial: trial.clone(), stages, participation: Participation::Active }
    }

    /// Adds a trial whose stage runs are named by a record.
    fn recorded(&mut self, index: usize, trial: &Trial, recorded: &RecordedTrial) -> PlannedTrial {
        let mut stages: Vec<usize> = Vec::new();
        for RecordedStage { stage, uuid, model, at } in &recorded.stages {
            let of = |wanted: Stage| stages.iter().copied().find(|&s| self.nodes[s].stage == wanted);
            let mut needs = Needs::default();
            if *stage != Stage::Tokenizer {
                needs.tokenizer = of(Stage::Tokenizer);
            }
            if stage.computes() {
                needs.data = of(Stage::Data);
                needs.model = stages.iter().copied().find(|&s| Some(self.nodes[s].uuid) == *model);
            }
            let known = self.known(index, *uuid);
            // The setting of a recorded stage run is never read.
            let new = || Names { uuid: *uuid, setting: Uuid::nil(), at: at.clone() };
            stages.push(
                known.unwrap_or_else(|| self.add(index, &trial.config, *stage, new(), Files::new(), needs)),
            );
        }
        let (uuid, setting) = (recorded.trial, recorded.setting);
        PlannedTrial { uuid, setting, trial: trial.clone(), stages, participation: Participation::Active }
    }

    /// Index of the stage run with this name if it is in the plan already; `trial` is added to its trials.
    fn known(&mut self, trial: usize, uuid: Uuid) -> Option<usize> {
        let index = *self.by_name.get(&uuid)?;
        let trials = &mut self.nodes[index].trials;
        if trials.last() != Some(&trial) {
            trials.push(trial);
        }
        Some(index)
    }

    fn add(
        &mut self,
        trial: usize,
        config: &Arc<TrialConfig>,
        stage: Stage,
        Names { uuid, setting, at }: Names,
        files: Files,
        Needs { tokenizer, data, model }: Needs,
    ) -> usize {
        let folder = format!("{stage}-{uuid}");
        let dir = self.runs.join(&folder);
        let is_there = self.there.contains(OsStr::new(&folder));
        let (state, attempts) = if is_there { standing(&dir, uuid) } else { (State::Fresh, 0) };
        let kept =
            self.kept.filter(|_| !is_there).map(|kept| kept.join(&folder)).filter(|kept| kept.is_dir());
        let state = kept.as_deref().map_or(state, ended);
        let weight = stage.training().map_or(0.0, |stage| training_flops(config, stage));
        let (config, trials) = (Arc::clone(config), vec![trial]);
        let index = self.nodes.len();
        self.by_name.insert(uuid, index);
        self.nodes.push(StageNode {
            stage,
            uuid,
            setting,
            files,
            dir,
            kept,
            config,
            tokenizer,
            data,
            model,
            at,
            trials,
            state,
            attempts,
            trunk: None,
            weight,
            chance: 1.0,
        });
        index
    }
}

/// The names of a stage run, and the weights that an exam examines.
struct Names {
    uuid: Uuid,
    /// The name without the seed.
    setting: Uuid,
    at: ExamPoint,
}

/// The state of a stage run of which only the record is kept.
fn ended(kept: &Path) -> State {
    match Manifest::read(kept) {
        Ok(Some(manifest)) if manifest.status == RunStatus::Done => State::Done,
        Ok(manifest) => State::Again(manifest.and_then(|m| m.reason).unwrap_or_else(|| "it failed".into())),
        Err(error) => State::Again(format!("{error:#}")),
    }
}

/// Estimated floating-point operations of a training stage: by its configured length, or else one million tokens per epoch.
pub(super) fn training_flops(config: &TrialConfig, stage: TrainStage) -> f64 {
    let training = stage.training(config);
    let step = stage.positions_of_step(config) as f64;
    let tokens = match (training.steps, training.flops, training.tokens) {
        (Some(steps), ..) => steps as f64 * step,
        (None, Some(flops), _) => return flops,
        (None, None, Some(tokens)) => tokens as f64,
        (None, None, None) => training.epochs * 1e6,
    };
    tokens * config.cost(stage).per_token(training.seq_len)
}
