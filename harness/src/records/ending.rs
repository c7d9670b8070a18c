//! The end of a training, from the last rows of its metrics.csv.

use crate::track::{MetricsTable, MetricsTableRow};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The end of a training: means over the recorded steps in the last tenth of all steps, which always include the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Training loss in nats per target token; for preferences in nats per pair.
    pub train_loss: Option<f64>,
    /// Target tokens per second over the whole training, validations included.
    pub tokens_per_second: Option<f64>,
    /// For preferences, mean reward margin of the last validation; without held-out pairs, of the last training steps.
    pub reward_margin: Option<f64>,
    /// Share of pairs whose chosen answer has the higher reward, likewise.
    pub reward_accuracy: Option<f64>,
    /// For mixtures of experts, entropy of the router's probabilities in nats, mean over tokens and layers.
    pub router_entropy: Option<f64>,
    /// Share of a layer's routes that go to its most loaded expert, mean over layers.
    pub max_expert_load: Option<f64>,
    /// Number of experts, over all layers, that receive no token in a step; the minimum over these steps.
    pub dead_experts: Option<u64>,
}

impl Ending {
    /// Reads a metrics.csv; `None` if it does not exist or has no training row.
    pub fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let course = MetricsTable::of(&text)?;
        let step = course.column("step")?;
        let (mut train, mut held_out) = (vec![], None);
        for row in course.rows() {
            match row.split {
                "train" => train.push(row),
                "val" => held_out = Some(row),
                _ => {}
            }
        }
        let last = train.last()?.number(step)?;
        let is_late = |row: &&MetricsTableRow| row.number(step).is_some_and(|at| at > 0.9 * last);
        let late: Vec<&MetricsTableRow> = train.iter().filter(is_late).collect();
        let recorded = |name: &str| -> Vec<f64> {
            let Some(column) = course.column(name) else { return vec![] };
            late.iter().filter_map(|row| row.number(column)).filter(|v| v.is_finite()).collect()
        };
        let at_end = |name: &str| {
            let values = recorded(name);
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let held_out_at_end = |name: &str| held_out.as_ref()?.number(course.column(name)?);
        let total = |name: &str| train.last()?.number(course.column(name)?);
        Some(Self {
            train_loss: at_end("loss"),
            tokens_per_second: total("tokens").zip(total("elapsed_seconds")).map(|(t, s)| t / s.max(1e-9)),
            reward_margin: held_out_at_end("reward_margin").or_else(|| at_end("reward_margin")),
            reward_accuracy: held_out_at_end("reward_accuracy").or_else(|| at_end("reward_accuracy")),
            router_entropy: at_end("router_entropy"),
            max_expert_load: at_end("max_expert_load"),
            dead_experts: recorded("dead_experts").into_iter().reduce(f64::min).map(|fewest| fewest as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_ending_is_the_mean_of_the_last_tenth_and_the_last_validation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.csv");
        assert_eq!(Ending::read(&path), None);
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Ending::read(&path)
        };
        let heads = "step,tokens,split,loss,lr,grad_norm,tokens_per_second,elapsed_seconds";
        assert_eq!(read(&format!("{heads}\n")), None);
        let found = read(&format!(
            "{heads},reward_margin,reward_accuracy\n1,100,train,9,,,5,1,0,0.1\n90,9000,train,5,,,5,80,0,0.1\n\
             95,9500,train,3,,,5,90,0.5,0.2\n95,9500,val,2,,,,91,0.75,0.3\n100,10000,train,2,,,5,100,1,0.4\n\
             100,10000,train:web,7,,,,100,,\n100,10000,val,2,,,,101,1.25,0.625\n"
        ));
        let expected = Ending {
            train_loss: Some(2.5),
            tokens_per_second: Some(100.0),
            reward_margin: Some(1.25),
            reward_accuracy: Some(0.625),
            ..Ending::default()
        };
        assert_eq!(found, Some(expected));
        // Without held-out pairs, and with experts of which some are dead; the first step is too early to count.
        let found = read(&format!(
            "{heads},reward_margin,router_entropy,max_expert_load,dead_experts\n\
             1,10,train,2,,,5,0.5,0.25,1,0.25,0\n96,15,train,1,,,5,0.75,0.5,0.5,0.5,3\n100,20,train,1,,,5,1,0.5,1,1,1\n"
        ));
        let expected = Ending {
            train_loss: Some(1.0),
            tokens_per_second: Some(20.0),
            reward_margin: Some(0.5),
            router_entropy: Some(0.75),
            max_expert_load: Some(0.75),
            dead_experts: Some(1),
            ..Ending::default()
        };
        assert_eq!(found, Some(expected));
    }
}
