//! What a run is about to do, in one line.

use super::extents::extents_left;
use super::time::{Estimator, Totals, times};
use super::{StageGraph, StageNode, State};
use crate::sweep::Extent;
use crate::track::{counted, time};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;

/// Floating-point operations from which on it is worth measuring the processor for a second or two: about half a minute.
const WORTH_MEASURING: f64 = 1e12;

/// Returns the floating-point operations of a stage run trained on its own, and those left if a trunk takes its first
/// steps; both times its probability of being run.
pub fn flops(node: &StageNode, extent: Option<Extent>) -> (f64, f64) {
    let share = node.trunk.map_or(0.0, |trunk| trunk.share);
    let whole = extent.and_then(|extent| extent.flops).unwrap_or(node.weight / (1.0 - share));
    (node.chance * whole, node.chance * whole * (1.0 - share))
}

/// Describes the work that is left: trials, stage runs, operations of training and, if a pace is known, the time.
///
/// # Errors
/// If the processor cannot be measured.
pub fn outline(graph: &StageGraph, runs: &Path) -> Result<String> {
    let trials: BTreeSet<_> = graph.study().map(|planned| planned.uuid).collect();
    let done = graph.nodes.iter().filter(|node| node.state == State::Done).count();
    let extents = extents_left(graph);
    let left = || graph.nodes.iter().zip(&extents).filter(|(node, _)| node.state.is_left());
    let is_exact = left().all(|(node, extent)| node.stage.training().is_none() || extent.is_some());
    let at_most = if is_exact { "" } else { "at most " };
    let training: f64 = left().map(|(node, extent)| flops(node, *extent).1).sum();
    let mut text = format!(
        "{}: {} to run, {done} done",
        counted(trials.len(), "trial"),
        counted(left().count(), "stage run"),
    );
    if left().next().is_none() {
        return Ok(text);
    }
    if training > 0.0 {
        text += &format!("; {at_most}{training:.2e} FLOPs of training");
    }
    let by = match Estimator::recorded(runs, graph.device()) {
        None if training >= WORTH_MEASURING => Estimator::measured(graph.device())?,
        recorded => recorded,
    };
    if let Some(by) = by {
        let totals = Totals::of(graph, &times(graph, &extents, &by), &by, None);
        let seconds = totals.stages.last().map_or(0.0, |all| all.seconds);
        text += &format!("; {at_most}{} {}, one stage run after the other", time(seconds), totals.by);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::testing::{plan, trial};

    #[test]
    fn the_work_is_counted_before_it_begins() {
        let dir = tempfile::tempdir().unwrap();
        let trials = [1, 2].map(|seed| {
            trial(|config| {
                config.seed = seed;
                config.pretrain.training.steps = Some(2);
                (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
            })
        });
        let graph = plan(&trials, dir.path());
        let text = outline(&graph, dir.path()).unwrap();
        let count = graph.nodes.len();
        assert!(
            text.starts_with(&format!("2 trials: {count} stage runs to run, 0 done; at most ")),
            "{text}"
        );
        // Too little work to measure the processor for.
        assert!(text.ends_with(" FLOPs of training"), "{text}");
    }

    #[test]
    fn without_work_there_is_neither_training_nor_time() {
        let dir = tempfile::tempdir().unwrap();
        let graph = plan(&[], dir.path());
        assert_eq!(outline(&graph, dir.path()).unwrap(), "0 trials: 0 stage runs to run, 0 done");
    }
}
