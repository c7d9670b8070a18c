//! The stage graph: the stage runs that trials need, each once, in an order in which they can be run.

use super::facts::{Facts, Files, Reading};
use super::planner::Planner;
use super::trunk::{self, Trunk};
use super::tune::PlannedTuning;
use crate::config::{ExamPoint, Stage, TrialConfig, differing, plain};
use crate::data::files::Inputs;
use crate::records::short_id;
use crate::runs::claim::{Held, Watch};
use crate::runs::manifest::{Input, Manifest, RunStatus};
use crate::runs::recorded::RecordedTrial;
use crate::sweep::{Part, Trial};
use anyhow::{Result, bail};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use uuid::Uuid;

/// The state of a planned stage run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Finished; its results are used.
    Done,
    /// Not there and not needed: everything that would be made from it is finished.
    Unneeded,
    /// To be run from the start.
    Fresh,
    /// To be resumed: it was stopped or interrupted.
    Unfinished,
    /// To be run again, for this reason: it failed, or its results are no longer intact.
    Again(String),
    /// Being worked on by this owner.
    Running(String),
    /// Waits for a tuned value to be chosen; it may then get another name or become unneeded.
    Held,
    /// A tuning candidate whose training failed, for this reason; it ranks last and is not run again.
    Lost(String),
}

impl State {
    /// Whether it is to be worked on now, or is being worked on.
    pub fn is_open(&self) -> bool {
        !matches!(self, State::Done | State::Unneeded | State::Held | State::Lost(_))
    }

    /// Whether it is to be worked on, now or once a value is chosen.
    pub fn is_left(&self) -> bool {
        self.is_open() || *self == State::Held
    }
}

/// Whether a trial is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Participation {
    /// It is to be run.
    Active,
    /// It may be run once a tuned value is chosen.
    Pending,
    /// It is not run: a candidate whose value was eliminated, whose training failed, or that is not needed.
    Inactive,
}

/// A stage run of the plan.
#[derive(Debug, Clone)]
pub struct StageNode {
    /// Its stage.
    pub stage: Stage,
    /// Its name, derived from everything that its results depend on.
    pub uuid: Uuid,
    /// The name that it would have without the seed.
    pub setting: Uuid,
    /// The files that it reads, by the key that names them.
    pub files: Files,
    /// Its folder.
    pub dir: PathBuf,
    /// The folder of its manifest, metrics and answers, if that is not `dir`.
    pub kept: Option<PathBuf>,
    /// The configuration of the first trial that needs it.
    pub config: Arc<TrialConfig>,
    /// Index of the tokenizer's stage run.
    pub tokenizer: Option<usize>,
    /// Index of the data's stage run.
    pub data: Option<usize>,
    /// Index of the stage run whose model it starts from or examines.
    pub model: Option<usize>,
    /// Which weights of the model an exam examines: the final ones, or snapshots on the way.
    pub at: ExamPoint,
    /// Indices of the trials that need it.
    pub trials: Vec<usize>,
    /// Its state when the plan was made.
    pub state: State,
    /// Number of attempts when the plan was made.
    pub attempts: u32,
    /// The stage run that takes its first steps, if any.
    pub trunk: Option<Trunk>,
    /// Estimated floating-point operations of this stage run itself; 0 for stages that do not train.
    pub weight: f64,
    /// Probability that it is run: below 1 if a tuning eliminates some of the candidates that need it.
    pub chance: f64,
}

impl StageNode {
    /// Indices of the stage runs that must be finished first.
    pub fn needs(&self) -> impl Iterator<Item = usize> {
        [self.tokenizer, self.data, self.model].into_iter().flatten()
    }

    /// The folder of its manifest, metrics and answers: its own, or the one where they are kept without it.
    pub fn record(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.dir)
    }

    /// Its name for display: `pretrain-0b1c2d3e`.
    pub fn short(&self) -> String {
        short_name(self.stage, self.uuid)
    }
}

/// A stage run's name for display; the folder has the whole UUID.
pub fn short_name(stage: Stage, uuid: Uuid) -> String {
    format!("{stage}-{}", short_id(uuid))
}

/// A trial of the plan.
#[derive(Debug, Clone)]
pub struct PlannedTrial {
    /// Its name, derived from the names of its stage runs.
    pub uuid: Uuid,
    /// The same without the seed: trials of the same setting differ in their seed only.
    pub setting: Uuid,
    /// The trial; a tuned one holds the chosen value once there is one.
    pub trial: Trial,
    /// Indices of its stage runs, in the order of the recipe.
    pub stages: Vec<usize>,
    /// Whether it is to be run.
    pub participation: Participation,
}

impl PlannedTrial {
    /// Whether every stage run of it is finished.
    pub fn is_done(&self, graph: &StageGraph) -> bool {
        self.stages.iter().all(|&stage| matches!(graph.nodes[stage].state, State::Done | State::Unneeded))
            && self.stages.last().is_some_and(|&last| graph.nodes[last].state == State::Done)
    }

    /// Its name for display: the swept keys with their values, such as `n_layers=4 seed=1`.
    pub fn label(&self) -> String {
        if self.trial.keys.is_empty() {
            return self.trial.sweep.clone();
        }
        let short = |(key, value): &(String, serde_json::Value)| {
            format!("{}={}", key.rsplit('.').next().unwrap_or(key), plain(value))
        };
        // Null: tokens that follow from a number of operations, and values that are not chosen yet.
        let is_known = |(_, value): &&(String, serde_json::Value)| !value.is_null();
        let keys: Vec<String> = self.trial.keys.iter().filter(is_known).map(short).collect();
        keys.join(" ")
    }
}

/// The plan: trials, their stage runs and the state of each.
#[derive(Debug, Clone)]
pub struct StageGraph {
    /// The trials, in the order of the sweep.
    pub trials: Vec<PlannedTrial>,
    /// The stage runs; each comes after those that it needs.
    pub nodes: Vec<StageNode>,
    /// The tunings and their progress.
    pub tunings: Vec<PlannedTuning>,
}

impl StageGraph {
    /// Plans the stage runs of `trials` in the folder `runs`. Reads files to derive names; writes only the cache of digests.
    ///
    /// # Errors
    /// If a file that a name depends on cannot be read, or if two trials of one sweep are equal.
    pub fn plan(trials: &[Trial], runs: &Path) -> Result<Self> {
        Self::plan_with(trials, |_| None, runs, None)
    }

    /// Like [`Self::plan`], but takes the names of a trial's stage runs from its record if `known` returns one; that needs
    /// none of its files. A stage run that is not in `runs` is represented by what is in the folder `kept`: enough to show
    /// it, not to build on it.
    ///
    /// # Errors
    /// The same as for [`Self::plan`].
    pub fn plan_with<'a>(
        trials: &[Trial],
        known: impl Fn(&Trial) -> Option<&'a RecordedTrial> + Sync,
        runs: &Path,
        kept: Option<&Path>,
    ) -> Result<Self> {
        let inputs = Mutex::new(Inputs::remembered(runs));
        let planned = Planner::new(runs, kept).plan(trials, known, &inputs);
        // Save the digests even if a later file is missing.
        inputs.into_inner().unwrap_or_else(PoisonError::into_inner).save()?;
        let mut graph = planned?;
        graph.ensure_different()?;
        graph.mark_held();
        graph.mark_unneeded();
        trunk::share(&mut graph);
        Ok(graph)
    }

    /// The trials of the study: all except tuning candidates.
    pub fn study(&self) -> impl Iterator<Item = &PlannedTrial> {
        self.trials.iter().filter(|planned| !planned.trial.is_candidate())
    }

    /// Kind of the device of the first trial: `cpu` or `cuda`.
    pub fn device(&self) -> &'static str {
        self.trials.first().map_or("cpu", |planned| planned.trial.config.device.kind())
    }

    /// Returns an error if two trials of one sweep are equal: they would be compared with themselves.
    fn ensure_different(&self) -> Result<()> {
        let mut first: HashMap<(&str, Uuid), usize> = HashMap::new();
        for (index, planned) in self.trials.iter().enumerate() {
            let earlier = *first.entry((&planned.trial.sweep, planned.uuid)).or_insert(index);
            if earlier == index {
                continue;
            }
            let keys = differing(&self.trials[earlier].trial.config, &planned.trial.config);
            // An experiment may name one sweep twice; and candidates of different settings may be equal if the settings differ in a later
            // stage only.
            if !keys.is_empty() && !planned.trial.is_candidate() {
                bail!(
                    "sweep {}: trials {} and {} are the same, as {} {} the same content; expected each once",
                    planned.trial.sweep,
                    earlier + 1,
                    index + 1,
                    keys.join(", "),
                    if keys.len() == 1 { "names" } else { "name" },
                );
            }
        }
        Ok(())
    }

    /// Index of the stage run with this name.
    pub fn find(&self, uuid: Uuid) -> Option<usize> {
        self.nodes.iter().position(|node| node.uuid == uuid)
    }

    /// Everything that the results of a stage run depend on.
    pub fn facts(&self, node: usize) -> Facts {
        let node = &self.nodes[node];
        let name = |index: Option<usize>| Some(self.nodes[index?].uuid);
        Reading::new(&node.config).facts(
            node.stage,
            &node.at,
            name(node.tokenizer),
            name(node.model),
            &node.files,
        )
    }

    /// The same graph with the current states of its stage runs.
    pub fn refreshed(&self) -> Self {
        let mut graph = self.clone();
        for node in graph.nodes.iter_mut().filter(|node| node.kept.is_none()) {
            (node.state, node.attempts) = standing(&node.dir, node.uuid);
        }
        graph.mark_held();
        graph.mark_unneeded();
        graph
    }

    /// Whether a stage run of the trial is left to run.
    pub fn is_left(&self, planned: &PlannedTrial) -> bool {
        planned.stages.iter().any(|&index| self.nodes[index].state.is_left())
    }

    /// Whether no stage run is left to run.
    pub fn is_finished(&self) -> bool {
        !self.nodes.iter().any(|node| node.state.is_left())
    }

    /// Marks stage runs that only waiting trials need as held, and those that only eliminated candidates need as lost or unneeded.
    pub(super) fn mark_held(&mut self) {
        if self.tunings.is_empty() {
            return;
        }
        let mut chances: HashMap<usize, f64> = HashMap::new();
        for tuning in &self.tunings {
            for &candidate in &tuning.candidates {
                if let Some(Part::Candidate { rung, .. }) = self.trials[candidate].trial.part {
                    chances.insert(candidate, tuning.chance(rung));
                }
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.state.is_open()) {
            let has = |participation: Participation| {
                node.trials.iter().any(|&trial| self.trials[trial].participation == participation)
            };
            node.state = match std::mem::replace(&mut node.state, State::Unneeded) {
                state if has(Participation::Active) => state,
                _ if has(Participation::Pending) => State::Held,
                State::Again(reason) => State::Lost(reason),
                _ => State::Unneeded,
            };
            node.chance = node
                .trials
                .iter()
                .map(|trial| chances.get(trial).unwrap_or(&1.0))
                .fold(0.0, |a, &b| a.max(b));
        }
    }

    /// The tuning that a trial takes part in, with its index.
    pub fn tuning_of(&self, planned: &PlannedTrial) -> Option<(usize, &PlannedTuning)> {
        let of = &planned.trial.part.as_ref()?.tuning().of;
        let is_its = |(_, tuning): &(usize, &PlannedTuning)| {
            tuning.sweep == planned.trial.sweep && tuning.tuning.of == *of
        };
        self.tunings.iter().enumerate().find(is_its)
    }

    /// The inputs of a stage run, in the form that its manifest lists them.
    pub fn inputs(&self, node: usize) -> Vec<Input> {
        let input = |index: usize| Input { stage: self.nodes[index].stage, uuid: self.nodes[index].uuid };
        self.nodes[node].needs().map(input).collect()
    }

    /// Marks tokenizers and data that no remaining stage run reads as unneeded.
    pub(super) fn mark_unneeded(&mut self) {
        let mut is_used = vec![false; self.nodes.len()];
        for index in (0..self.nodes.len()).rev() {
            let node = &mut self.nodes[index];
            if !node.state.is_left() {
                continue;
            }
            if matches!(node.stage, Stage::Tokenizer | Stage::Data) && !is_used[index] {
                node.state = State::Unneeded;
            } else {
                node.needs().for_each(|need| is_used[need] = true);
            }
        }
    }
}

/// The state of the stage run in `dir`, and its number of attempts.
pub fn standing(dir: &Path, uuid: Uuid) -> (State, u32) {
    // If the claim cannot be read, taking it reports the error.
    let held = Watch::default().look(dir).unwrap_or(Held::Free);
    let manifest = match Manifest::read(dir) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => {
            let state = match held {
                Held::By(owner) => State::Running(owner.describe()),
                Held::Free | Held::Dead(_) => State::Fresh,
            };
            return (state, 0);
        }
        // A damaged manifest concerns this stage run only.
        Err(error) => return (State::Again(format!("{error:#}")), 0),
    };
    let state = match (manifest.status, held) {
        _ if manifest.uuid != uuid => State::Again(format!("its manifest is that of {}", manifest.uuid)),
        (RunStatus::Done, _) => match manifest.damage(dir) {
            Some(damage) => State::Again(damage),
            None => State::Done,
        },
        (_, Held::By(owner)) => State::Running(owner.describe()),
        (RunStatus::Failed, _) => State::Again(manifest.reason.unwrap_or_else(|| "it failed".into())),
        (RunStatus::Running | RunStatus::Stopped, _) => State::Unfinished,
    };
    (state, manifest.attempts)
}
