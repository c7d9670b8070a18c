//! How much of a sweep is done, and how long the rest will take at the pace of this execution.

use crate::plan::StageGraph;
use crate::track::Progress;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The progress of each stage run since this execution began.
pub struct Pace {
    began: Instant,
    shares: Mutex<Vec<Option<Share>>>,
}

/// The progress of a stage run, as a fraction from 0 to 1.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Its progress when first reported; above 0 if it was resumed.
    first: f64,
    now: f64,
}

impl Pace {
    /// Tracks this number of stage runs, from now on.
    pub fn new(stage_runs: usize) -> Self {
        Self { began: Instant::now(), shares: Mutex::new(vec![None; stage_runs]) }
    }

    fn note(&self, index: usize, now: f64) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares[index].get_or_insert(Share { first: now, now }).now = now;
    }

    /// The share of all work that is done, and the seconds that the rest will take; lost work is left out.
    ///
    /// `None` if no work is known; the seconds are `None` if nothing has been done in this execution.
    pub fn total(
        &self,
        graph: &StageGraph,
        is_done: impl Fn(usize) -> bool,
        is_lost: impl Fn(usize) -> bool,
    ) -> Option<(f64, Option<f64>)> {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut done, mut done_here) = (0.0, 0.0, 0.0);
        for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| !is_lost(*index)) {
            let now = match shares[index] {
                _ if is_done(index) => 1.0,
                share => share.map_or(0.0, |share| share.now),
            };
            // A branch weighs its own steps alone, and begins with those of its trunk taken.
            let adopted = node.trunk.map_or(0.0, |trunk| trunk.share);
            let own = |progress: f64| ((progress - adopted) / (1.0 - adopted)).max(0.0);
            let weight = node.weight * node.chance;
            all += weight;
            done += weight * own(now);
            done_here += shares[index].map_or(0.0, |share| weight * (own(now) - own(share.first)));
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let left = (done_here > 0.0).then(|| (all - done) * seconds / done_here);
        (all > 0.0).then(|| (done / all, left))
    }
}

/// Forwards a stage run's progress and records it in a [`Pace`].
pub struct TrackedProgress {
    /// The progress display to forward to.
    pub shown: Box<dyn Progress>,
    /// Length of the present phase, in its own unit.
    pub total: AtomicU64,
    /// Index of the stage run.
    pub node: usize,
    /// Where the progress is recorded.
    pub pace: Arc<Pace>,
}

impl Progress for TrackedProgress {
    fn start(&self, label: &str, total: u64, unit: &str) {
        self.total.store(total, Ordering::Relaxed);
        self.shown.start(label, total, unit);
    }

    fn update(&self, done: u64, message: &str) {
        let total = self.total.load(Ordering::Relaxed);
        if total > 0 {
            self.pace.note(self.node, done.min(total) as f64 / total as f64);
        }
        self.shown.update(done, message);
    }

    fn finish(&self, message: &str) {
        self.shown.finish(message);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Stage;
    use crate::config::TrainStage;
    use crate::plan::Trunk;
    use crate::plan::testing::{plan, trial};
    use std::path::Path;

    #[test]
    fn a_branch_is_done_as_far_as_its_own_steps_are() {
        let mut graph = plan(&[trial(|_| {})], Path::new("nowhere"));
        graph.nodes.iter_mut().for_each(|node| node.weight = 0.0);
        let last = graph.nodes.len() - 1;
        (graph.nodes[last].weight, graph.nodes[last - 1].weight) = (2.0, 6.0);
        graph.nodes[last].trunk = Some(Trunk { node: last - 1, share: 0.75 });
        let pace = Pace::new(graph.nodes.len());
        // It begins at three quarters; of the last quarter half is done.
        pace.note(last, 0.75);
        std::thread::sleep(std::time::Duration::from_millis(20));
        pace.note(last, 0.875);
        let (share, left) = pace.total(&graph, |_| false, |_| false).unwrap();
        let spent = pace.began.elapsed().as_secs_f64();
        assert_eq!(share, 0.125);
        // One part of eight took `spent`.
        assert!((spent * 5.0..spent * 7.01).contains(&left.unwrap()), "{left:?} after {spent}");
    }

    #[test]
    fn what_was_done_before_does_not_count_for_the_pace() {
        let trial = |seed| {
            trial(|config| {
                config.seed = seed;
                (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
            })
        };
        let graph = plan(&[trial(1), trial(2)], Path::new("nowhere"));
        let trained: Vec<usize> = (0..graph.nodes.len())
            .filter(|&n| graph.nodes[n].stage == Stage::Train(TrainStage::Pretrain))
            .collect();
        let pace = Pace::new(graph.nodes.len());
        assert_eq!(pace.total(&graph, |_| false, |_| false), Some((0.0, None)));
        // Both weigh the same; one resumes from its middle, and half of its remainder is done.
        pace.note(trained[0], 0.5);
        std::thread::sleep(std::time::Duration::from_millis(20));
        pace.note(trained[0], 0.75);
        let (share, left) = pace.total(&graph, |_| false, |_| false).unwrap();
        let spent = pace.began.elapsed().as_secs_f64();
        assert_eq!(share, 0.375);
        // A quarter of a stage run took `spent`; five quarters are left.
        assert!((spent * 4.0..spent * 5.01).contains(&left.unwrap()), "{left:?} after {spent}");
        let (share, _) = pace.total(&graph, |index| index == trained[0], |_| false).unwrap();
        assert_eq!(share, 0.5);
        let (share, _) = pace.total(&graph, |_| false, |index| index == trained[1]).unwrap();
        assert_eq!(share, 0.75);
    }
}
