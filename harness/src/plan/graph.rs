//! The stage graph: the stage runs that trials need, each once, in an order in which they can run.

use super::facts::{Facts, Files, Reading};
use super::planner::Planner;
use super::trunk::{self, Trunk};
use super::tune::PlannedTuning;
use crate::config::{At, Stage, TrialConfig, differing, plain};
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

/// How a planned stage run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Finished; its results are used.
    Done,
    /// Not there, and not needed: all that would be made from it is finished.
    Unneeded,
    /// To be run from the start.
    Fresh,
    /// To be resumed: it was stopped or interrupted.
    Unfinished,
    /// To be run again: it failed, or its results are no longer whole.
    Again(String),
    /// Somebody works on it.
    Running(String),
    /// It waits for a value to be chosen, and may then have another name or be unneeded.
    Held,
    /// A candidate of a tuning whose training failed; it counts as the worst, and is not run again.
    Lost(String),
}

impl State {
    /// Whether it is to be worked on now.
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
pub enum Play {
    /// It is.
    In,
    /// Once a value is chosen, and perhaps not even then.
    Waits,
    /// It is a candidate for a value that has dropped out, or was never needed.
    Out,
}

/// A stage run of the plan.
#[derive(Debug, Clone)]
pub struct StageNode {
    /// The stage.
    pub stage: Stage,
    /// Its name, which follows from all that its results depend on.
    pub uuid: Uuid,
    /// The name that it would have without a seed.
    pub setting: Uuid,
    /// The files that it reads, by the keys that name them.
    pub files: Files,
    /// Its folder.
    pub dir: PathBuf,
    /// Where its manifest, metrics and answers are, if not in its folder.
    pub kept: Option<PathBuf>,
    /// The configuration of the first trial that needs it.
    pub config: Arc<TrialConfig>,
    /// The tokenizer's stage run, by index.
    pub tokenizer: Option<usize>,
    /// The data's stage run, by index.
    pub data: Option<usize>,
    /// The stage run whose model it starts from or examines, by index.
    pub model: Option<usize>,
    /// The weights that sit an exam.
    pub at: At,
    /// Trials that need it, by index.
    pub trials: Vec<usize>,
    /// How it stood when the plan was made.
    pub state: State,
    /// How often it had been worked on when the plan was made.
    pub attempts: u32,
    /// The stage run that takes its first steps, where one does.
    pub trunk: Option<Trunk>,
    /// Floating-point operations that it will take itself, as far as can be told beforehand.
    pub weight: f64,
    /// How likely it is to be run: below 1 where a tuning drops some of its like.
    pub chance: f64,
}

impl StageNode {
    /// Stage runs that must be finished first, by index.
    pub fn needs(&self) -> impl Iterator<Item = usize> {
        [self.tokenizer, self.data, self.model].into_iter().flatten()
    }

    /// Where its manifest, metrics and answers are: in its folder, or where they are kept without it.
    pub fn record(&self) -> &Path {
        self.kept.as_deref().unwrap_or(&self.dir)
    }

    /// As shown to people: `pretrain-0b1c2d3e`.
    pub fn short(&self) -> String {
        short_name(self.stage, self.uuid)
    }
}

/// A stage run's name as shown to people; the folder has the whole UUID.
pub fn short_name(stage: Stage, uuid: Uuid) -> String {
    format!("{stage}-{}", short_id(uuid))
}

/// A trial of the plan.
#[derive(Debug, Clone)]
pub struct PlannedTrial {
    /// Its name, made of those of its stage runs.
    pub uuid: Uuid,
    /// The same without a seed: what is compared.
    pub setting: Uuid,
    /// The trial; of a tuned one with the value that was chosen, as soon as one is.
    pub trial: Trial,
    /// Its stage runs in the order of the recipe, by index.
    pub stages: Vec<usize>,
    /// Whether it is to be run.
    pub play: Play,
}

impl PlannedTrial {
    /// Whether every stage run of it is finished.
    pub fn is_done(&self, graph: &StageGraph) -> bool {
        self.stages.iter().all(|&stage| matches!(graph.nodes[stage].state, State::Done | State::Unneeded))
            && self.stages.last().is_some_and(|&last| graph.nodes[last].state == State::Done)
    }

    /// As shown to people: `n_layers=4 seed=1`.
    pub fn label(&self) -> String {
        if self.trial.keys.is_empty() {
            return self.trial.sweep.clone();
        }
        let short = |(key, value): &(String, serde_json::Value)| {
            format!("{}={}", key.rsplit('.').next().unwrap_or(key), plain(value))
        };
        // Tokens that follow from a number of operations, and values that are still to be chosen.
        let is_known = |(_, value): &&(String, serde_json::Value)| !value.is_null();
        let keys: Vec<String> = self.trial.keys.iter().filter(is_known).map(short).collect();
        keys.join(" ")
    }
}

/// What is to be run, and what is there already.
#[derive(Debug, Clone)]
pub struct StageGraph {
    /// The trials, in the sweep's order.
    pub trials: Vec<PlannedTrial>,
    /// The stage runs; each stands after those it needs.
    pub nodes: Vec<StageNode>,
    /// What is tuned, and how far that has come.
    pub tunings: Vec<PlannedTuning>,
}

impl StageGraph {
    /// Plans the stage runs of `trials` in the folder `runs`. Reads files to name them; changes nothing but the memory of digests.
    ///
    /// # Errors
    /// Where a file that a name depends on cannot be read.
    pub fn plan(trials: &[Trial], runs: &Path) -> Result<Self> {
        Self::plan_with(trials, |_| None, runs, None)
    }

    /// As [`Self::plan`], with the names of stage runs from the record of a trial, where `known` has one: that needs
    /// none of its files. What is `kept` of stage runs stands for those that are not there: to be shown, not to be built
    /// upon.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_with<'a>(
        trials: &[Trial],
        known: impl Fn(&Trial) -> Option<&'a RecordedTrial> + Sync,
        runs: &Path,
        kept: Option<&Path>,
    ) -> Result<Self> {
        let inputs = Mutex::new(Inputs::remembered(runs));
        let planned = Planner::new(runs, kept).plan(trials, known, &inputs);
        // What was read is worth remembering even if a later file is missing.
        inputs.into_inner().unwrap_or_else(PoisonError::into_inner).save()?;
        let mut graph = planned?;
        graph.ensure_different()?;
        graph.hold_what_waits();
        graph.drop_what_nothing_needs();
        trunk::share(&mut graph);
        Ok(graph)
    }

    /// The trials of the study: all but those that only try values for them.
    pub fn study(&self) -> impl Iterator<Item = &PlannedTrial> {
        self.trials.iter().filter(|planned| !planned.trial.is_candidate())
    }

    /// Two trials of one sweep that come to the same would be compared with themselves.
    fn ensure_different(&self) -> Result<()> {
        let mut first: HashMap<(&str, Uuid), usize> = HashMap::new();
        for (index, planned) in self.trials.iter().enumerate() {
            let earlier = *first.entry((&planned.trial.sweep, planned.uuid)).or_insert(index);
            if earlier == index {
                continue;
            }
            let keys = differing(&self.trials[earlier].trial.config, &planned.trial.config);
            // An experiment may name one sweep twice, and settings may differ behind what their candidates are tried for.
            if !keys.is_empty() && !planned.trial.is_candidate() {
                bail!(
                    "sweep {}: trials {} and {} come to the same, as {} {} the same content; expected each once",
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

    /// The place of the stage run with this name.
    pub fn find(&self, uuid: Uuid) -> Option<usize> {
        self.nodes.iter().position(|node| node.uuid == uuid)
    }

    /// All that the results of a stage run depend on.
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

    /// The same stage runs as they stand now.
    pub fn looked_at_again(&self) -> Self {
        let mut graph = self.clone();
        for node in graph.nodes.iter_mut().filter(|node| node.kept.is_none()) {
            (node.state, node.attempts) = standing(&node.dir, node.uuid);
        }
        graph.hold_what_waits();
        graph.drop_what_nothing_needs();
        graph
    }

    /// Whether a stage run of a trial is not finished.
    pub fn is_left(&self, planned: &PlannedTrial) -> bool {
        planned.stages.iter().any(|&index| self.nodes[index].state.is_left())
    }

    /// Whether every stage run is finished.
    pub fn is_finished(&self) -> bool {
        !self.nodes.iter().any(|node| node.state.is_left())
    }

    /// What only candidates need that are out of play is not run; what only trials need that wait, not yet.
    pub(super) fn hold_what_waits(&mut self) {
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
            let play = |play: Play| node.trials.iter().any(|&trial| self.trials[trial].play == play);
            node.state = match std::mem::replace(&mut node.state, State::Unneeded) {
                state if play(Play::In) => state,
                _ if play(Play::Waits) => State::Held,
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

    /// The tuning that a trial has part in, by its place, and itself.
    pub fn tuning_of(&self, planned: &PlannedTrial) -> Option<(usize, &PlannedTuning)> {
        let of = &planned.trial.part.as_ref()?.tuning().of;
        let is_its = |(_, tuning): &(usize, &PlannedTuning)| {
            tuning.sweep == planned.trial.sweep && tuning.tuning.of == *of
        };
        self.tunings.iter().enumerate().find(is_its)
    }

    /// The inputs of a stage run, as its manifest names them.
    pub fn inputs(&self, node: usize) -> Vec<Input> {
        let input = |index: usize| Input { stage: self.nodes[index].stage, uuid: self.nodes[index].uuid };
        self.nodes[node].needs().map(input).collect()
    }

    /// Tokenizers and data are needed only where something is made from them.
    pub(super) fn drop_what_nothing_needs(&mut self) {
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

/// How the stage run in `dir` stands, and how often it was worked on.
pub fn standing(dir: &Path, uuid: Uuid) -> (State, u32) {
    // Where a claim cannot be read, taking it tells.
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
        // What is damaged is that stage run's trouble, not that of all others.
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
