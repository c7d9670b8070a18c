//! Keys that are computed so that a constraint holds.

use crate::config::{TrainStage, TrialConfig};
use crate::run::stage::training_of;
use toml::Value;

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// So many parameters.
    Params {
        /// The number aimed at.
        target: f64,
        /// Whether only active ones count.
        active: bool,
        /// The key is a multiple of this.
        multiple_of: u64,
        /// Largest relative miss.
        tolerance: f64,
    },
    /// So many floating-point operations of training.
    Flops(f64),
}

impl Constraint {
    /// From `{ params = N, multiple_of = M, tolerance = T }`, `{ active_params = N, .. }` or `{ flops = F }`.
    pub fn new(key: &str, value: &Value) -> Result<Self, String> {
        let expected =
            "expected { params = N, multiple_of = M, tolerance = T }, active_params or { flops = F }";
        let table = value.as_table().ok_or_else(|| format!("{key}: {expected}"))?;
        let known = ["params", "active_params", "flops", "multiple_of", "tolerance"];
        if let Some(unknown) = table.keys().find(|k| !known.contains(&k.as_str())) {
            return Err(format!("{key}: {unknown} is unknown here, {expected}"));
        }
        let number =
            |name: &str| table.get(name).and_then(|v| v.as_float().or(v.as_integer().map(|i| i as f64)));
        if let Some(flops) = number("flops") {
            return match key.ends_with(".tokens") && flops > 0.0 {
                true => Ok(Self::Flops(flops)),
                false => Err(format!(
                    "{key}: flops fix the tokens of a stage, expected a key such as pretrain.tokens"
                )),
            };
        }
        let (target, active) = match (number("params"), number("active_params")) {
            (Some(target), None) => (target, false),
            (None, Some(target)) => (target, true),
            _ => return Err(format!("{key}: {expected}")),
        };
        if !["model.d_model", "model.n_layers", "model.hidden_dim", "model.expert_hidden_dim"].contains(&key)
        {
            let keys = "model.d_model, model.n_layers, model.hidden_dim or model.expert_hidden_dim";
            return Err(format!("{key}: params fix a dimension, expected {keys}"));
        }
        let multiple_of = number("multiple_of").unwrap_or(1.0).max(1.0) as u64;
        Ok(Self::Params { target, active, multiple_of, tolerance: number("tolerance").unwrap_or(0.02) })
    }

    /// The value of `key` for which the constraint holds best.
    pub fn solve(&self, key: &str, config: &TrialConfig) -> Result<Value, String> {
        match *self {
            Self::Flops(flops) => {
                let stage = match key.split('.').next() {
                    Some("sft") => TrainStage::Sft,
                    Some("lora") => TrainStage::Lora,
                    Some("dpo") => TrainStage::Dpo,
                    _ => TrainStage::Pretrain,
                };
                let per_token = config.model.train_flops_per_token(training_of(config, stage).seq_len);
                Ok(Value::Integer((flops / per_token).round() as i64))
            }
            Self::Params { target, active, multiple_of, tolerance } => {
                let count = |value: u64| {
                    let mut model = config.model.clone();
                    let value = value as usize;
                    match key {
                        "model.d_model" => model.d_model = value,
                        "model.n_layers" => model.n_layers = value,
                        "model.hidden_dim" => model.hidden_dim = Some(value),
                        _ => model.expert_hidden_dim = Some(value),
                    }
                    let count = if active { model.active_params() } else { model.params() };
                    model.validate().is_ok().then_some(count as f64)
                };
                let (mut best, mut value) = (None::<(f64, u64, f64)>, multiple_of);
                while value <= 1 << 16 {
                    if let Some(count) = count(value) {
                        let miss = (count / target - 1.0).abs();
                        if best.is_none_or(|(least, _, _)| miss < least) {
                            best = Some((miss, value, count));
                        }
                        // Counts grow with every dimension.
                        if count > 2.0 * target {
                            break;
                        }
                    }
                    value += multiple_of;
                }
                let what = if active { "active parameters" } else { "parameters" };
                match best {
                    Some((miss, value, _)) if miss <= tolerance => Ok(Value::Integer(value as i64)),
                    Some((miss, value, count)) => Err(format!(
                        "{key}: no multiple of {multiple_of} gives {target} {what} within {tolerance}; the nearest, {value}, gives {count} ({:.1} % off)",
                        100.0 * miss
                    )),
                    None => Err(format!("{key}: no multiple of {multiple_of} gives a valid shape")),
                }
            }
        }
    }
}
