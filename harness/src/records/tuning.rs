//! What was tried before a value was chosen.

use super::Status;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// How a key got its value, for the settings that share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningRecord {
    /// The sweep.
    pub sweep: String,
    /// What it was chosen for, such as `model.n_layers = 4`; empty where all settings share it.
    pub of: String,
    /// The key.
    pub key: String,
    /// The metric that decides, such as `pretrain.val_loss`.
    pub metric: String,
    /// The value that was chosen, once it is.
    pub chosen: Option<Value>,
    /// Why the choice deserves a second look, or could not be made.
    pub warning: Option<String>,
    /// Values that each rung tries.
    pub rungs: Vec<usize>,
    /// What was tried, in order.
    pub tried: Vec<Tried>,
}

/// One value, tried with one seed on one rung.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The candidate's name.
    pub trial: Uuid,
    /// The rung, from 1 on.
    pub rung: usize,
    /// The value.
    pub value: Value,
    /// The seed.
    pub seed: u64,
    /// How it ended; one that was not needed is pending.
    pub status: Status,
    /// The validation loss.
    pub loss: Option<f64>,
    /// Why there is none.
    pub reason: Option<String>,
    /// Target tokens that its stage was trained on.
    pub tokens: u64,
    /// Floating-point operations of that training.
    pub flops: f64,
    /// Seconds of it.
    pub wall_seconds: f64,
    /// The name of the stage run's folder.
    pub run: String,
}

impl TuningRecord {
    /// Floating-point operations of all that was tried.
    pub fn flops(&self) -> f64 {
        self.tried.iter().map(|tried| tried.flops).sum()
    }

    /// Seconds of all that was tried.
    pub fn wall_seconds(&self) -> f64 {
        self.tried.iter().map(|tried| tried.wall_seconds).sum()
    }

    /// Mean losses of a rung, from 1 on, by value as numbers: those of values that finished with every seed.
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
