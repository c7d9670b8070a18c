//! The record of a tuning: the values that were tried before one was chosen.

use super::Status;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// How the value of a key was chosen for the settings that share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningRecord {
    /// Name of the sweep.
    pub sweep: String,
    /// The settings that it was chosen for, such as `model.n_layers = 4`; empty if all settings share it.
    pub of: String,
    /// The tuned key.
    pub key: String,
    /// The metric that decides, such as `pretrain.val_loss`; lower is better.
    pub metric: String,
    /// The chosen value; `None` if none is chosen yet.
    pub chosen: Option<Value>,
    /// Why the choice deserves a second look or could not be made.
    pub warning: Option<String>,
    /// Number of values that each rung tries.
    pub rungs: Vec<usize>,
    /// The candidates, in order.
    pub tried: Vec<CandidateRecord>,
}

/// A candidate: one value, tried with one seed on one rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// Name of the candidate trial.
    pub trial: Uuid,
    /// The rung, counted from 1.
    pub rung: usize,
    /// The value.
    pub value: Value,
    /// The seed.
    pub seed: u64,
    /// Its status; a candidate that was not needed is pending.
    pub status: Status,
    /// The validation loss; `None` if there is none.
    pub loss: Option<f64>,
    /// Why there is no loss, if the candidate failed.
    pub reason: Option<String>,
    /// Target tokens that its stage trained on.
    pub tokens: u64,
    /// Floating-point operations of that stage.
    pub flops: f64,
    /// Seconds of that stage.
    pub wall_seconds: f64,
    /// Folder name of its stage run.
    pub run: String,
}

impl TuningRecord {
    /// Floating-point operations of all candidates.
    pub fn flops(&self) -> f64 {
        self.tried.iter().map(|tried| tried.flops).sum()
    }

    /// Seconds of all candidates.
    pub fn wall_seconds(&self) -> f64 {
        self.tried.iter().map(|tried| tried.wall_seconds).sum()
    }

    /// For each value of a rung, counted from 1, that finished with every seed: the value, its mean loss and its number of seeds.
    pub fn means(&self, rung: usize) -> Vec<(Value, f64, usize)> {
        let mut means: Vec<(Value, Vec<Option<f64>>)> = Vec::new();
        for tried in self.tried.iter().filter(|tried| tried.rung == rung) {
            match means.iter_mut().find(|(value, _)| *value == tried.value) {
                Some((_, losses)) => losses.push(tried.loss),
                None => means.push((tried.value.clone(), vec![tried.loss])),
            }
        }
        let mean = |(value, losses): (Value, Vec<Option<f64>>)| {
            let seeds = losses.len();
            let sum: Option<f64> = losses.into_iter().sum();
            Some((value, sum? / seeds as f64, seeds))
        };
        means.into_iter().filter_map(mean).collect()
    }
}
