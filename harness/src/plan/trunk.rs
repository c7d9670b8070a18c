//! Which stage run leaves a checkpoint for which: trainings of one stage that differ in their length only share their
//! first steps, see [`crate::train::trunk`].
//!
//! *Invariant:* a trunk is not a dependency: names, facts and results of a stage run are the same without it.

use super::planner::training_flops;
use super::{StageGraph, State};
use crate::config::{Schedule, TrainStage};
use crate::train::trunk::{checkpoint_for, has_begun, shared_steps};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The stage run that takes the first steps of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trunk {
    /// Its index in the graph.
    pub node: usize,
    /// Approximate share of the branch's steps that it takes; the number of steps may depend on data that is not prepared yet.
    pub share: f64,
}

/// Keys that the shared steps do not depend on, as long as the learning rates are the same.
const LENGTH: [&str; 6] = ["steps", "flops", "tokens", "epochs", "decay_share", "min_lr_ratio"];

/// Gives every remaining training the longest suitable one as its trunk, and reduces its weight to the steps left to it.
pub fn share(graph: &mut StageGraph) {
    let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let keys: Vec<Option<String>> =
        (0..graph.nodes.len()).into_par_iter().map(|index| key(graph, index)).collect();
    for (index, key) in keys.into_iter().enumerate() {
        if let Some(key) = key {
            alike.entry(key).or_default().push(index);
        }
    }
    let mut found = vec![];
    for mut group in alike.into_values().filter(|group| group.len() > 1) {
        group.sort_by(|&a, &b| graph.nodes[b].weight.total_cmp(&graph.nodes[a].weight).then(a.cmp(&b)));
        for &branch in &group {
            found.extend(trunk(graph, &group, branch).map(|trunk| (branch, trunk)));
        }
    }
    for (branch, trunk) in found {
        graph.nodes[branch].weight *= 1.0 - trunk.share;
        graph.nodes[branch].trunk = Some(trunk);
    }
}

impl StageGraph {
    /// The graph in which every training takes all its own steps, as Slurm's jobs do.
    pub fn apart(&self) -> Self {
        let mut graph = self.clone();
        for node in &mut graph.nodes {
            node.trunk = None;
            node.weight = node.stage.training().map_or(0.0, |stage| training_flops(&node.config, stage));
        }
        graph
    }
}

/// What trainings must have in common to share steps: everything but the length, and how often they log. `None` for stage
/// runs that do not train, and for schedules other than WSD and constant.
fn key(graph: &StageGraph, index: usize) -> Option<String> {
    let node = &graph.nodes[index];
    let stage = node.stage.training()?;
    let training = stage.training(&node.config);
    match training.schedule {
        Schedule::Wsd | Schedule::Constant => {}
        Schedule::Cosine | Schedule::Linear => return None,
    }
    let mut facts = graph.facts(index);
    LENGTH.iter().for_each(|key| drop(facts.keys.remove(format!("{}.{key}", stage.name()).as_str())));
    facts.keys.remove("exam.at");
    let data = node.data.map(|data| graph.nodes[data].uuid);
    Some(format!("{facts} {data:?} {}", training.log_every))
}

/// The stage run that a branch begins from: the longest of its group that is still to be run, or that has left a
/// checkpoint for the branch.
fn trunk(graph: &StageGraph, group: &[usize], branch: usize) -> Option<Trunk> {
    let node = &graph.nodes[branch];
    let stage = node.stage.training()?;
    let training = stage.training(&node.config);
    // A training that keeps checkpoints for good has to take its steps itself.
    if !node.state.is_left() || training.keeps_for_good() || has_begun(&node.dir) {
        return None;
    }
    let serves = |&&longer: &&usize| {
        let longer = &graph.nodes[longer];
        // A held stage run serves as trunk only for one that is held as well.
        let will_run = longer.state.is_open() || longer.state == State::Held && node.state == State::Held;
        longer.weight > node.weight && (will_run || checkpoint_for(node.uuid, &longer.dir).exists())
    };
    let longest = *group.iter().find(serves)?;
    let steps = |index: usize| steps(graph, index, stage);
    let other = stage.training(&graph.nodes[longest].config);
    let shared = shared_steps((other, steps(longest)), (training, steps(branch)));
    let share = shared as f64 / steps(branch).max(1) as f64;
    (shared > 0).then_some(Trunk { node: longest, share })
}

/// Approximate number of optimizer steps of a training.
fn steps(graph: &StageGraph, index: usize, stage: TrainStage) -> u64 {
    let node = &graph.nodes[index];
    let training = stage.training(&node.config);
    let step =
        stage.positions_of_step(&node.config) as f64 * node.config.cost(stage).per_token(training.seq_len);
    training.steps.unwrap_or((node.weight / step).round() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Stage;
    use crate::plan::testing::{plan, trial};

    #[test]
    fn the_longest_training_is_the_trunk_of_those_that_differ_in_length() {
        let dir = tempfile::tempdir().unwrap();
        let change = |steps: u64, change: fn(&mut crate::config::Training)| {
            trial(|config| {
                let training = &mut config.pretrain.training;
                (training.steps, training.schedule) = (Some(steps), Schedule::Wsd);
                change(training);
            })
        };
        let trials = [
            change(100, |_| ()),
            change(1000, |_| ()),
            change(400, |_| ()),
            change(400, |t| t.decay_share = 0.5),
            change(400, |t| t.lr = 2e-3),
            change(401, |t| t.log_every = 7),
            change(500, |t| t.keep_every = 10),
            change(300, |t| t.schedule = Schedule::Cosine),
        ];
        let graph = plan(&trials, dir.path());
        let pretraining = |trial: usize| {
            let is_it = |&&node: &&usize| graph.nodes[node].stage == Stage::Train(TrainStage::Pretrain);
            *graph.trials[trial].stages.iter().find(is_it).unwrap()
        };
        let trunk = |trial: usize| graph.nodes[pretraining(trial)].trunk;
        for (branch, share) in [(0, 0.8), (2, 0.8), (3, 0.5)] {
            let trunk = trunk(branch).unwrap();
            assert_eq!(trunk.node, pretraining(1));
            assert!((trunk.share - share).abs() < 0.02, "{branch}: {}", trunk.share);
        }
        assert!([1, 4, 5, 6, 7].map(trunk).iter().all(Option::is_none));
        // A branch weighs only its own steps: 20 of 100, compared with 1000.
        let weight = |trial: usize| graph.nodes[pretraining(trial)].weight;
        assert!((weight(0) / weight(1) - 0.02).abs() < 0.002);
        // Apart, it weighs all of them.
        let apart = graph.apart();
        assert!(apart.nodes.iter().all(|node| node.trunk.is_none()));
        let weight = |trial: usize| apart.nodes[pretraining(trial)].weight;
        assert!((weight(0) / weight(1) - 0.1).abs() < 0.01);
    }
}
