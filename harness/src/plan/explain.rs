//! Explains why a stage run has to be run.

use super::{StageGraph, short_name};
use crate::runs::manifest::{Manifest, RunStatus};
use crate::track::listed;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Most differences that are listed.
const SHOWN: usize = 4;

/// Explains why a stage run has to be run: names the finished stage run of the same stage that is most similar (a failed one
/// if none finished) and the facts in which they differ.
pub fn explain(graph: &StageGraph, node: usize, runs: &Path) -> Option<String> {
    let facts = json!(graph.facts(node));
    let node = &graph.nodes[node];
    let entries = std::fs::read_dir(runs).ok()?;
    let prefix = format!("{}-", node.stage);
    let mut dirs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .collect();
    dirs.sort();
    let ended = dirs.into_iter().filter_map(|dir| {
        let manifest = Manifest::read(&dir).ok()??;
        let has_ended = matches!(manifest.status, RunStatus::Done | RunStatus::Failed);
        (has_ended && manifest.uuid != node.uuid).then_some(manifest)
    });
    let (manifest, differences) = ended
        .map(|manifest| {
            let differences = differences(&manifest.facts, &facts);
            (manifest, differences)
        })
        .min_by_key(|(manifest, differences)| (manifest.status != RunStatus::Done, differences.len()))?;
    let failed = if manifest.status == RunStatus::Done { "" } else { ", which failed," };
    let other = short_name(manifest.stage, manifest.uuid) + failed;
    if differences.is_empty() {
        return Some(format!("{other} was made by a program version whose results differ"));
    }
    Some(format!("unlike {other} in {}", listed(&differences, SHOWN)))
}

/// The differences between two facts, such as `pretrain.lr (0.001, now 0.002)`.
fn differences(old: &Value, new: &Value) -> Vec<String> {
    let none = Map::new();
    let inside = |facts: &Value, part: &str| facts[part].as_object().unwrap_or(&none).clone();
    let mut found: Vec<String> = [("tokenizer", "the tokenizer"), ("model", "the model it starts from")]
        .into_iter()
        .filter(|(part, _)| old[part] != new[part])
        .map(|(_, name)| name.into())
        .collect();
    for part in ["keys", "files"] {
        let (old, new) = (inside(old, part), inside(new, part));
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            match (old.get(key), new.get(key)) {
                (old, new) if old == new => {}
                _ if part == "files" => found.push(format!("the files of {key}")),
                (old, new) => found.push(format!("{key} ({}, now {})", shown(old), shown(new))),
            }
        }
    }
    found
}

fn shown(value: Option<&Value>) -> String {
    value.map_or("nothing".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Stage, TrainStage};
    use crate::execute::testing::{Fake, run, seeds};
    use crate::plan::State;
    use crate::plan::testing::{plan, trial};

    #[test]
    fn a_plan_says_why_something_is_stale() {
        let runs = tempfile::tempdir().unwrap();
        run(&plan(&seeds(&[1]), runs.path()), &Fake::default());
        let other = trial(|config| config.dpo.training.lr = 0.5);
        let graph = plan(&[other], runs.path());
        let dpo = graph.nodes.iter().position(|node| node.stage == Stage::Train(TrainStage::Dpo)).unwrap();
        let why = explain(&graph, dpo, runs.path()).unwrap();
        assert!(why.ends_with("in dpo.lr (0.00004, now 0.5)"), "{why}");
        assert!(graph.nodes[..4].iter().all(|node| node.state == State::Done));
        // If no stage run has finished, a failed one is named.
        let runs = tempfile::tempdir().unwrap();
        let fails = Fake { fail: Some((Stage::Train(TrainStage::Sft), 1)), ..Fake::default() };
        run(&plan(&seeds(&[1]), runs.path()), &fails);
        let graph = plan(&[trial(|config| config.sft.training.lr = 0.5)], runs.path());
        let sft = graph.nodes.iter().position(|node| node.stage == Stage::Train(TrainStage::Sft)).unwrap();
        let why = explain(&graph, sft, runs.path()).unwrap();
        assert!(why.ends_with(", which failed, in sft.lr (0.0001, now 0.5)"), "{why}");
    }
}
