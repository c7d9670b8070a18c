//! The stage graph: the stage runs that trials need, each once, in an order in which they can run.

use super::facts::Facts;
use crate::config::{Stage, TrainStage, TrialConfig, recipe, training_of};
use crate::data::files::Inputs;
use crate::runs::claim::{Held, Watch};
use crate::runs::manifest::{Input, Manifest, RunStatus};
use crate::runs::recorded::{RecordedStage, RecordedTrial};
use crate::sweep::Trial;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How a planned stage run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Finished; its results are used.
    Done,
    /// Not there, and not needed: all that would be made from it is finished.
    Spare,
    /// To be run from the start.
    Fresh,
    /// To be gone on with: it was stopped or interrupted.
    Unfinished,
    /// To be run again: it failed, or its results are no longer whole.
    Again(String),
    /// Somebody works on it.
    Running(String),
}

impl State {
    /// Whether it is still to be worked on.
    pub fn is_open(&self) -> bool {
        !matches!(self, State::Done | State::Spare)
    }
}

/// A stage run of the plan.
#[derive(Debug, Clone)]
pub struct StageNode {
    /// All that its results depend on.
    pub facts: Facts,
    /// Its name.
    pub uuid: Uuid,
    /// Its folder.
    pub dir: PathBuf,
    /// The configuration of the first trial that needs it.
    pub config: TrialConfig,
    /// The tokenizer's stage run, by index.
    pub tokenizer: Option<usize>,
    /// The data's stage run, by index.
    pub data: Option<usize>,
    /// The stage run whose model it starts from or examines, by index.
    pub model: Option<usize>,
    /// Trials that need it, by index.
    pub trials: Vec<usize>,
    /// How it stood when the plan was made.
    pub state: State,
    /// How often it had been worked on when the plan was made.
    pub sittings: u32,
    /// Floating-point operations that it will take, as far as can be told beforehand.
    pub weight: f64,
}

impl StageNode {
    /// The stage.
    pub fn stage(&self) -> Stage {
        self.facts.stage
    }

    /// Stage runs that must be finished first, by index.
    pub fn needs(&self) -> impl Iterator<Item = usize> {
        [self.tokenizer, self.data, self.model].into_iter().flatten()
    }

    /// As shown to people: `pretrain-0b1c2d3e`.
    pub fn short(&self) -> String {
        short_name(self.stage(), self.uuid)
    }
}

/// A stage run's name as shown to people; the folder has the whole UUID.
pub fn short_name(stage: Stage, uuid: Uuid) -> String {
    let uuid = uuid.simple().to_string();
    format!("{stage}-{}", &uuid[..8])
}

/// A trial of the plan.
#[derive(Debug, Clone)]
pub struct PlannedTrial {
    /// Its name.
    pub uuid: Uuid,
    /// The trial.
    pub trial: Trial,
    /// Its stage runs in the order of the recipe, by index.
    pub stages: Vec<usize>,
}

impl PlannedTrial {
    /// As shown to people: `n_layers=4 seed=1`.
    pub fn label(&self) -> String {
        if self.trial.keys.is_empty() {
            return self.trial.sweep.clone();
        }
        let short = |(key, value): &(String, serde_json::Value)| {
            let key = key.rsplit('.').next().unwrap_or(key);
            match value {
                serde_json::Value::String(text) => format!("{key}={text}"),
                other => format!("{key}={other}"),
            }
        };
        // Tokens that follow from a number of operations are not known yet.
        let known =
            |(key, value): &&(String, serde_json::Value)| !(value.is_null() && key.ends_with(".tokens"));
        let keys: Vec<String> = self.trial.keys.iter().filter(known).map(short).collect();
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
}

impl StageGraph {
    /// Plans the stage runs of `trials` in the folder `runs`. Reads files to name them; changes nothing but the memory of digests.
    pub fn plan(trials: &[Trial], runs: &Path) -> Result<Self> {
        Self::plan_with(trials, |_| None, runs)
    }

    /// As [`Self::plan`], with the names of stage runs from the record of a trial, where `known` has one: that needs
    /// none of its files.
    pub fn plan_with<'a>(
        trials: &[Trial],
        known: impl Fn(&Trial) -> Option<&'a RecordedTrial>,
        runs: &Path,
    ) -> Result<Self> {
        let mut planner =
            Planner { runs, inputs: Inputs::remembered(runs), nodes: Vec::new(), by_name: BTreeMap::new() };
        let one = |(index, trial): (usize, &Trial)| match known(trial) {
            Some(recorded) => planner.recorded(index, trial, recorded),
            None => planner.trial(index, trial),
        };
        let planned: Result<Vec<_>> = trials.iter().enumerate().map(one).collect();
        // What was read is worth remembering even if a later file is missing.
        planner.inputs.save()?;
        let mut graph = Self { trials: planned?, nodes: planner.nodes };
        graph.drop_what_nothing_needs();
        Ok(graph)
    }

    /// The same stage runs as they stand now.
    pub fn looked_at_again(&self) -> Self {
        let mut graph = self.clone();
        for node in &mut graph.nodes {
            (node.state, node.sittings) = standing(&node.dir, node.uuid);
        }
        graph.drop_what_nothing_needs();
        graph
    }

    /// Whether every stage run is finished.
    pub fn is_finished(&self) -> bool {
        !self.nodes.iter().any(|node| node.state.is_open())
    }

    /// The inputs of a stage run, as its manifest names them.
    pub fn inputs(&self, node: usize) -> Vec<Input> {
        let input = |index: usize| Input { stage: self.nodes[index].stage(), uuid: self.nodes[index].uuid };
        self.nodes[node].needs().map(input).collect()
    }

    /// Tokenizers and data are needed only where something is made from them.
    fn drop_what_nothing_needs(&mut self) {
        for index in (0..self.nodes.len()).rev() {
            let node = &self.nodes[index];
            let is_material = matches!(node.stage(), Stage::Tokenizer | Stage::Data);
            let is_used =
                self.nodes.iter().any(|user| user.state.is_open() && user.needs().any(|need| need == index));
            if is_material && node.state.is_open() && !is_used {
                self.nodes[index].state = State::Spare;
            }
        }
    }
}

struct Planner<'a> {
    runs: &'a Path,
    inputs: Inputs,
    nodes: Vec<StageNode>,
    by_name: BTreeMap<Uuid, usize>,
}

impl Planner<'_> {
    fn trial(&mut self, index: usize, trial: &Trial) -> Result<PlannedTrial> {
        let mut stages = Vec::new();
        self.stages(index, &trial.config, &mut stages)
            .with_context(|| format!("sweep {}, trial {}", trial.sweep, index + 1))?;
        Ok(PlannedTrial { uuid: trial.id, trial: trial.clone(), stages })
    }

    /// A trial whose stage runs have their names from a record.
    fn recorded(&mut self, index: usize, trial: &Trial, recorded: &RecordedTrial) -> Result<PlannedTrial> {
        let mut stages: Vec<usize> = Vec::new();
        for RecordedStage { stage, uuid, model } in &recorded.stages {
            let of = |wanted: Stage| stages.iter().copied().find(|&s| self.nodes[s].stage() == wanted);
            let needs = match stage {
                Stage::Tokenizer => [None; 3],
                Stage::Data => [of(Stage::Tokenizer), None, None],
                _ => {
                    let model = stages.iter().copied().find(|&s| Some(self.nodes[s].uuid) == *model);
                    [of(Stage::Tokenizer), of(Stage::Data), model]
                }
            };
            let facts = Facts { stage: *stage, facts: serde_json::Value::Null, files: Vec::new() };
            stages.push(self.named(index, &trial.config, facts, *uuid, needs)?);
        }
        Ok(PlannedTrial { uuid: trial.id, trial: trial.clone(), stages })
    }

    fn stages(&mut self, trial: usize, config: &TrialConfig, stages: &mut Vec<usize>) -> Result<()> {
        let facts = Facts::of_tokenizer(config, &mut self.inputs)?;
        let tokenizer = self.node(trial, config, facts, [None; 3])?;
        let tokenizer_uuid = self.nodes[tokenizer].uuid;
        let facts = Facts::of_data(config, tokenizer_uuid, &mut self.inputs)?;
        let data = self.node(trial, config, facts, [Some(tokenizer), None, None])?;
        stages.extend([tokenizer, data]);

        let exams = config.exams();
        let mut model = None;
        for stage in recipe(config) {
            let start_from = model.map(|model: usize| self.nodes[model].uuid);
            let facts = Facts::of_training(config, stage, tokenizer_uuid, start_from, &mut self.inputs)?;
            let trained = self.node(trial, config, facts, [Some(tokenizer), Some(data), model])?;
            stages.push(trained);
            model = Some(trained);
            if exams.contains(&stage) {
                let uuid = self.nodes[trained].uuid;
                let facts = Facts::of_exam(config, tokenizer_uuid, uuid, &mut self.inputs)?;
                let needs = [Some(tokenizer), Some(data), Some(trained)];
                stages.push(self.node(trial, config, facts, needs)?);
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        trial: usize,
        config: &TrialConfig,
        facts: Facts,
        needs: [Option<usize>; 3],
    ) -> Result<usize> {
        let uuid = facts.uuid();
        self.named(trial, config, facts, uuid, needs)
    }

    fn named(
        &mut self,
        trial: usize,
        config: &TrialConfig,
        facts: Facts,
        uuid: Uuid,
        [tokenizer, data, model]: [Option<usize>; 3],
    ) -> Result<usize> {
        if let Some(&index) = self.by_name.get(&uuid) {
            if !self.nodes[index].trials.contains(&trial) {
                self.nodes[index].trials.push(trial);
            }
            return Ok(index);
        }
        let dir = self.runs.join(format!("{}-{uuid}", facts.stage));
        let (state, sittings) = standing(&dir, uuid);
        let weight = match facts.stage.training() {
            Some(stage) => training_flops(config, stage),
            None => 0.0,
        };
        self.nodes.push(StageNode {
            facts,
            uuid,
            dir,
            config: config.clone(),
            tokenizer,
            data,
            model,
            trials: vec![trial],
            state,
            sittings,
            weight,
        });
        self.by_name.insert(uuid, self.nodes.len() - 1);
        Ok(self.nodes.len() - 1)
    }
}

/// How the stage run in `dir` stands, and how often it was worked on.
fn standing(dir: &Path, uuid: Uuid) -> (State, u32) {
    let held = Watch::default().look(dir);
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
    (state, manifest.sittings)
}

/// What a training stage will cost, about: by its length where it is given, else by that of one pass.
fn training_flops(config: &TrialConfig, stage: TrainStage) -> f64 {
    let training = training_of(config, stage);
    let answers = if stage == TrainStage::Dpo { 2 } else { 1 };
    let step = (training.seq_len * training.batch_size * training.accumulation * answers) as f64;
    let tokens = match (training.steps, training.flops, training.tokens) {
        (Some(steps), ..) => steps as f64 * step,
        (None, Some(flops), _) => return flops,
        (None, None, Some(tokens)) => tokens as f64,
        (None, None, None) => training.epochs * 1e6,
    };
    tokens * config.cost(stage).per_token(training.seq_len)
}
