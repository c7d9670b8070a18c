//! Every trial: its status, its cost, its stage runs and the command that repeats it.

use super::super::number::{Digits, NOTHING, plain};
use super::super::results::observation::Results;
use super::super::tables::grid::Grid;
use super::Origin;
use crate::config::{TrialConfig, UNSET, differing, get};
use crate::fsutil::shell_word;
use crate::records::{Status, TrialRecord};
use crate::track::{counted, number, time};
use minijinja::{Value, context};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The trials that did not finish.
pub fn unfinished(trials: &[TrialRecord], results: &Results) -> Vec<Value> {
    let of = |t: &TrialRecord| context! { label => results.label(t), seed => t.seed, status => status(t), reason => t.reason };
    trials.iter().filter(|trial| trial.status != Status::Done).map(of).collect()
}

/// The table of all trials.
pub fn overview(trials: &[TrialRecord], results: &Results) -> Grid {
    let has_exams = trials.iter().any(|trial| trial.last_exam().is_some());
    let mut heads =
        vec!["setting", "seed", "status", "tokens", "FLOPs", "seconds", "memory (MiB)", "bits per byte"];
    heads.extend(has_exams.then_some("accuracy (%)"));
    let digits = Digits::of(3, trials.iter().filter_map(|trial| trial.val_bpb));
    let row = |t: &TrialRecord| {
        let mut cells = vec![
            results.label(t).to_owned(),
            t.seed.to_string(),
            status(t),
            number(t.train_tokens),
            operations(t.train_flops),
            format!("{:.1}", t.wall_seconds),
            number(t.peak_rss_mb.round() as u64),
            t.val_bpb.map_or(NOTHING.into(), |bpb| digits.text(bpb)),
        ];
        if has_exams {
            let accuracy = t.last_exam().map(|exam| format!("{:.1}", 100.0 * exam.tally.accuracy()));
            cells.push(accuracy.unwrap_or_else(|| NOTHING.into()));
        }
        cells.into_iter().map(Into::into).collect()
    };
    Grid {
        title: "Trials and their cost".into(),
        heads: heads.into_iter().map(String::from).collect(),
        text_columns: 1,
        rows: by_setting(trials).into_iter().flat_map(|(_, group)| group).map(row).collect(),
        ..Grid::default()
    }
}

/// Trials by setting, in order of first appearance.
pub fn by_setting(trials: &[TrialRecord]) -> Vec<(Uuid, Vec<&TrialRecord>)> {
    let mut groups: Vec<(Uuid, Vec<&TrialRecord>)> = vec![];
    for trial in trials {
        match groups.iter_mut().find(|(setting, _)| *setting == trial.setting) {
            Some((_, group)) => group.push(trial),
            None => groups.push((trial.setting, vec![trial])),
        }
    }
    groups
}

/// Settings with their configuration, trials and stage runs.
pub fn settings(trials: &[TrialRecord], results: &Results, origin: &Origin) -> Vec<Value> {
    let shown = |(_, group): &(Uuid, Vec<&TrialRecord>)| {
        let first = group[0];
        context! {
            label => results.label(first), params => number(first.params), active => number(first.active_params),
            count => counted(group.len(), "seed"), changed => changed(&first.config), keys => read(first), seed => first.seed,
            trials => group.iter().map(|trial| one(trial, origin)).collect::<Vec<_>>(),
        }
    };
    by_setting(trials).iter().map(shown).collect()
}

fn one(trial: &TrialRecord, origin: &Origin) -> Value {
    let stages = trial.stages.iter().map(|stage| {
        let trained = stage.trained.as_ref();
        context! {
            stage => stage.stage, dir => stage.dir.display().to_string(), status => stage.status,
            tokens => trained.map(|t| number(t.tokens)), flops => trained.map(|t| operations(t.flops)),
            time => time(stage.wall_seconds), memory => number(stage.peak_rss_mb.round() as u64), ended => stage.ended,
        }
    });
    let has_model = |stage: &&crate::records::StageRecord| stage.trained.is_some();
    let model =
        trial.stages.iter().rfind(has_model).and_then(|stage| short_name(stage.dir.file_name()?.to_str()?));
    context! {
        trial => trial.trial.to_string(), seed => trial.seed, status => status(trial), reason => trial.reason,
        run => (!origin.run.is_empty()).then(|| format!("{} --only {}", origin.run, shell_word(&format!("trial == '{}'", trial.trial)))),
        model, stages => stages.collect::<Vec<_>>(),
    }
}

/// Shortens the folder of a stage run to the name that commands take and print: `sft-cedd4909`.
fn short_name(folder: &str) -> Option<String> {
    let (stage, uuid) = folder.split_once('-')?;
    Some(format!("{stage}-{}", uuid.get(..8)?))
}

/// The keys that differ from their defaults, except the seed: `model.n_layers = 4`. `None` if this version cannot parse
/// the configuration.
fn changed(config: &str) -> Option<Vec<String>> {
    let config = TrialConfig::from_toml(config).ok()?;
    let tree = serde_json::to_value(&config).ok()?;
    let keys = differing(&TrialConfig::default(), &config).into_iter().filter(|key| *key != "seed");
    Some(keys.filter_map(|key| Some(line(key, get(&tree, key)?))).collect())
}

/// All keys that the stage runs of a trial read, with the values at that time; keys that later versions added are
/// absent.
fn read(trial: &TrialRecord) -> Vec<String> {
    let keys: BTreeMap<_, _> = trial.stages.iter().flat_map(|stage| &stage.keys).collect();
    keys.into_iter().map(|(key, value)| line(key, value)).collect()
}

/// Formats a key with its value.
fn line(key: &str, value: &serde_json::Value) -> String {
    if value.is_null() { format!("{key} = {UNSET}") } else { format!("{key} = {value}") }
}

fn status(trial: &TrialRecord) -> String {
    format!("{:?}", trial.status).to_lowercase()
}

/// Formats floating-point operations: `1.23e15`.
pub fn operations(flops: f64) -> String {
    if flops > 0.0 { plain(flops) } else { NOTHING.into() }
}
