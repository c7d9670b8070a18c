//! The record of a plan in a folder of results.

use super::{PlannedTrial, StageGraph};
use crate::runs::recorded::{RecordedStage, RecordedTrial};
use anyhow::{Context, Result};

impl StageGraph {
    /// The records of the trials, with the names of their stage runs.
    ///
    /// # Errors
    /// If a configuration cannot be written as TOML.
    pub fn recorded(&self) -> Result<Vec<RecordedTrial>> {
        self.trials.iter().map(|planned| self.recorded_trial(planned)).collect()
    }

    fn recorded_trial(&self, planned: &PlannedTrial) -> Result<RecordedTrial> {
        let stage = |&index: &usize| {
            let node = &self.nodes[index];
            let model = node.model.map(|model| self.nodes[model].uuid);
            RecordedStage { stage: node.stage, uuid: node.uuid, model, at: node.at.clone() }
        };
        // The configuration of the sweep: `part` records which tuned value was chosen.
        let config = planned.trial.with_choice(None)?.config;
        Ok(RecordedTrial {
            trial: planned.uuid,
            setting: planned.setting,
            sweep: planned.trial.sweep.clone(),
            keys: planned.trial.keys.clone(),
            config: toml::to_string(&*config).with_context(|| format!("trial {}", planned.uuid))?,
            stages: planned.stages.iter().map(stage).collect(),
            part: planned.trial.part.clone(),
        })
    }
}
