//! The trials for TensorBoard: `tensorboard --logdir results/<name>/tensorboard` lists them in its HPARAMS tab.

use super::columns::Column;
use super::output::Output;
use super::results::labels;
use super::results::observation::Results;
use crate::records::{Status, TrialRecord, short_id};
use crate::track::hparams::{EVENTS, Varied};
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;

/// Name of its folder within a folder of results.
pub const FOLDER: &str = "tensorboard";

/// The columns shown for a finished trial, if it has them.
const MEASURES: [&str; 10] = [
    "val_loss",
    "val_bpb",
    "exam_accuracy",
    "capacity_bits",
    "params",
    "active_params",
    "train_tokens",
    "train_flops",
    "wall_seconds",
    "peak_rss_mb",
];

/// Writes the swept keys, and a folder for each trial that is done or has failed.
pub fn write(question: &str, results: &Results, out: &mut Output) -> Result<()> {
    let mut keys = results.keys().to_vec();
    keys.push("seed".into());
    let columns: Vec<Column> = MEASURES.iter().filter_map(|name| Column::find(name).ok()).collect();
    let observations = results.observations(&[]);
    let mut measured: BTreeMap<_, Vec<(String, f64)>> = BTreeMap::new();
    for observation in &observations {
        let numbers = columns.iter().filter_map(|c| Some((c.name().to_string(), c.number(observation)?)));
        measured.insert(observation.trial.trial, numbers.filter(|(_, number)| number.is_finite()).collect());
    }
    let ended: Vec<(&TrialRecord, Vec<Option<Value>>)> = results
        .trials()
        .filter(|(trial, _)| matches!(trial.status, Status::Done | Status::Failed))
        .map(|(trial, config)| {
            let value = |key: &String| labels::value(trial, config, key).filter(|v| !v.is_null()).cloned();
            (trial, keys.iter().map(value).collect())
        })
        .collect();
    let is_measured = |name: &str| measured.values().flatten().any(|(of, _)| of == name);
    let varied = Varied {
        description: question.into(),
        keys: keys.iter().enumerate().map(|(i, key)| (key.clone(), distinct(&ended, i))).collect(),
        measures: columns
            .iter()
            .filter(|column| is_measured(column.name()))
            .map(|column| (column.name().into(), column.label().into()))
            .collect(),
    };
    out.write(&format!("{FOLDER}/{EVENTS}"), &varied.events()?)?;
    for (trial, values) in &ended {
        let numbers = measured.get(&trial.trial).map_or(&[][..], Vec::as_slice);
        let events = varied.trial(values, numbers, trial.status == Status::Done)?;
        out.write(&format!("{FOLDER}/{}/{EVENTS}", folder(results.label_by_keys(trial), trial)), &events)?;
    }
    Ok(())
}

/// The distinct values of a key over the trials.
fn distinct(ended: &[(&TrialRecord, Vec<Option<Value>>)], key: usize) -> Vec<Value> {
    let mut found: Vec<Value> = vec![];
    for value in ended.iter().filter_map(|(_, values)| values[key].as_ref()) {
        if !found.contains(value) {
            found.push(value.clone());
        }
    }
    found
}

/// The name of a trial in TensorBoard: its setting, its seed and the start of its UUID.
fn folder(label: &str, trial: &TrialRecord) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "=._-".contains(c) { c } else { '_' };
    let label: String = label.chars().map(plain).take(100).collect();
    format!("{label}_seed={}_{}", trial.seed, short_id(trial.trial))
}
