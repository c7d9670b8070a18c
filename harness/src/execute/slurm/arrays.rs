//! The stage graph as job arrays.
//!
//! *Invariant:* a task waits for the stage run that it needs, and for no other: where a whole array follows another,
//! each task waits for the task of the same number.

use crate::config::Stage;
use crate::plan::{StageGraph, StageNode};
use std::collections::BTreeMap;

/// A job array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// The number of its job; `None` if it is still to be submitted.
    pub job: Option<String>,
    /// The stage of all its tasks.
    pub stage: Stage,
    /// The resources of its tasks, as options of `sbatch`.
    pub options: Vec<String>,
    /// Most tasks that run at a time; `None` for no limit.
    pub at_once: Option<usize>,
    /// Index of the stage run of each task, by the task's number in the array.
    pub tasks: BTreeMap<usize, usize>,
    /// What its tasks wait for.
    pub after: After,
}

/// What the tasks of an array wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// Each task waits for the task of the same number in the array of this index.
    Same(usize),
    /// All tasks wait for one task: index of the array, number of the task.
    One(usize, usize),
}

/// Job arrays of the remaining stage runs of a graph, in an order in which they can be submitted.
///
/// `queued` holds the job and task of each stage run that is already in the queue; their arrays come first. Task numbers
/// are below `most`.
pub fn arrays(graph: &StageGraph, queued: &[Option<(String, usize)>], most: usize) -> Vec<Array> {
    let mut arrays: Vec<Array> = Vec::new();
    // Array and task of each stage run that is placed.
    let mut places: Vec<Option<(usize, usize)>> = vec![None; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some((job, task)) = &queued[index] else { continue };
        let known = arrays.iter().position(|array| array.job.as_ref() == Some(job));
        let array = known.unwrap_or_else(|| {
            arrays.push(Array {
                job: Some(job.clone()),
                stage: node.stage,
                options: Vec::new(),
                at_once: None,
                tasks: BTreeMap::new(),
                after: After::Nothing,
            });
            arrays.len() - 1
        });
        arrays[array].tasks.insert(*task, index);
        places[index] = Some((array, *task));
    }
    let is_left = |index: usize| graph.nodes[index].state.is_open() && queued[index].is_none();
    let mut left: Vec<usize> = (0..graph.nodes.len()).filter(|&index| is_left(index)).collect();
    while !left.is_empty() {
        // Those whose needs are placed, grouped by resources and by the array and task that they need.
        let mut alike: BTreeMap<_, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        let mut later = Vec::new();
        for index in left {
            let node = &graph.nodes[index];
            let slurm = &node.config.slurm;
            let asked = || (node.stage, slurm.sbatch(node.stage.computes()), slurm.at_once);
            match last_need(graph, node) {
                None => alike.entry((asked(), None)).or_default().entry(0).or_default().push(index),
                Some(need) => match places[need] {
                    None => later.push(index),
                    Some((array, task)) => {
                        let group = alike.entry((asked(), Some(array))).or_default();
                        group.entry(task).or_default().push(index);
                    }
                },
            }
        }
        for (((stage, options, at_once), parent), by_task) in alike {
            for (after, tasks) in split(parent, by_task, most) {
                for (&task, &index) in &tasks {
                    places[index] = Some((arrays.len(), task));
                }
                arrays.push(Array { job: None, stage, options: options.clone(), at_once, tasks, after });
            }
        }
        left = later;
    }
    arrays
}

/// The stage run that finishes last among the needed ones that are left: it needs the others itself.
fn last_need(graph: &StageGraph, node: &StageNode) -> Option<usize> {
    let needs = [node.model, node.data, node.tokenizer];
    needs.into_iter().flatten().find(|&need| graph.nodes[need].state.is_open())
}

/// Arranges stage runs that need tasks of one array into as few arrays as possible.
fn split(
    parent: Option<usize>,
    by_task: BTreeMap<usize, Vec<usize>>,
    most: usize,
) -> Vec<(After, BTreeMap<usize, usize>)> {
    let ranks = by_task.values().map(Vec::len).max().unwrap_or(0);
    match parent {
        Some(parent) if ranks <= by_task.len() => (0..ranks)
            .map(|rank| {
                let task = |(&task, alike): (&usize, &Vec<usize>)| Some((task, *alike.get(rank)?));
                (After::Same(parent), by_task.iter().filter_map(task).collect())
            })
            .collect(),
        _ => by_task
            .iter()
            .flat_map(|(&task, alike)| {
                let after = parent.map_or(After::Nothing, |parent| After::One(parent, task));
                alike
                    .chunks(most.max(1))
                    .map(move |chunk| (after, chunk.iter().copied().enumerate().collect()))
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainStage;
    use crate::plan::testing::{plan, trial};
    use std::path::Path;

    fn graph(trials: &[(u64, f64)]) -> StageGraph {
        let trial = |&(seed, lr): &(u64, f64)| {
            trial(|config| {
                (config.seed, config.sft.training.lr) = (seed, lr);
                config.exam.after = vec![TrainStage::Dpo];
            })
        };
        plan(&trials.iter().map(trial).collect::<Vec<_>>(), Path::new("nowhere"))
    }

    /// Each array as its stage, its number of tasks and what it waits for; asserts first that every task waits for exactly
    /// the stage run that it needs.
    fn shapes(
        graph: &StageGraph,
        queued: &[Option<(String, usize)>],
        most: usize,
    ) -> Vec<(String, usize, After)> {
        let arrays = arrays(graph, queued, most);
        let mut seen = vec![0; graph.nodes.len()];
        for array in &arrays {
            for (&task, &index) in &array.tasks {
                seen[index] += 1;
                assert!(task < most);
                let waits_for = match array.after {
                    After::Nothing => None,
                    After::Same(parent) => Some(arrays[parent].tasks[&task]),
                    After::One(parent, task) => Some(arrays[parent].tasks[&task]),
                };
                if array.job.is_none() {
                    assert_eq!(waits_for, last_need(graph, &graph.nodes[index]));
                }
            }
        }
        assert!(seen.iter().all(|&times| times == 1), "{seen:?}");
        arrays.iter().map(|array| (array.stage.to_string(), array.tasks.len(), array.after)).collect()
    }

    fn none_queued(graph: &StageGraph) -> Vec<Option<(String, usize)>> {
        vec![None; graph.nodes.len()]
    }

    #[test]
    fn trials_without_shared_work_are_one_array_a_stage() {
        let graph = graph(&[(1, 1e-3), (2, 1e-3), (3, 1e-3)]);
        let stage = |name: &str, tasks, after| (name.to_string(), tasks, after);
        assert_eq!(
            shapes(&graph, &none_queued(&graph), 1000),
            [
                stage("tokenizer", 1, After::Nothing),
                stage("data", 1, After::Same(0)),
                stage("pretrain", 3, After::One(1, 0)),
                stage("sft", 3, After::Same(2)),
                stage("dpo", 3, After::Same(3)),
                stage("exam", 3, After::Same(4)),
            ]
        );
    }

    #[test]
    fn variants_of_a_shared_stage_wait_for_it_alone() {
        let stage = |name: &str, tasks, after| (name.to_string(), tasks, after);
        // One pretraining, three variants: one array that waits for one task.
        let one = graph(&[(1, 1e-3), (1, 2e-3), (1, 3e-3)]);
        assert_eq!(
            shapes(&one, &none_queued(&one), 1000)[2..4],
            [stage("pretrain", 1, After::Same(1)), stage("sft", 3, After::One(2, 0))]
        );
        // Three seeds with two variants each: two arrays, each following the parent task by task.
        let variants: Vec<(u64, f64)> = (1..=3).flat_map(|seed| [(seed, 1e-3), (seed, 2e-3)]).collect();
        let many = graph(&variants);
        assert_eq!(
            shapes(&many, &none_queued(&many), 1000)[3..],
            [
                stage("sft", 3, After::Same(2)),
                stage("sft", 3, After::Same(2)),
                stage("dpo", 3, After::Same(3)),
                stage("dpo", 3, After::Same(4)),
                stage("exam", 3, After::Same(5)),
                stage("exam", 3, After::Same(6)),
            ]
        );
    }

    #[test]
    fn arrays_keep_to_the_size_that_slurm_allows() {
        let graph = graph(&[1, 2, 3, 4, 5].map(|seed| (seed, 1e-3)));
        let shapes = shapes(&graph, &none_queued(&graph), 2);
        let sizes: Vec<(&str, usize)> =
            shapes.iter().map(|(stage, tasks, _)| (stage.as_str(), *tasks)).collect();
        assert_eq!(
            sizes[2..8],
            [("pretrain", 2), ("pretrain", 2), ("pretrain", 1), ("sft", 2), ("sft", 2), ("sft", 1)]
        );
    }

    #[test]
    fn what_is_queued_already_is_waited_for() {
        let graph = graph(&[(1, 1e-3), (2, 1e-3)]);
        let mut queued = none_queued(&graph);
        let of = |name: &str| {
            (0..graph.nodes.len()).filter(|&n| graph.nodes[n].stage.name() == name).collect::<Vec<_>>()
        };
        for (name, job) in [("tokenizer", "7"), ("data", "8")] {
            queued[of(name)[0]] = Some((job.into(), 0));
        }
        queued[of("pretrain")[1]] = Some(("9".into(), 4));
        let shapes = shapes(&graph, &queued, 1000);
        assert_eq!(shapes[3..6].iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["pretrain", "sft", "sft"]);
        assert_eq!((shapes[3].2, shapes[4].2), (After::Same(1), After::Same(2)));
    }
}
