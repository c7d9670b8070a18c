//! The exact lengths of training stages, once their data is prepared.

use super::graph::{StageGraph, StageNode, State};
use crate::config::{TrainStage, TrialConfig};
use crate::runs::manifest::Manifest;
use crate::sweep::Extent;
use crate::train::{Objective, length};
use serde_json::json;
use std::collections::BTreeMap;

/// Most rows that a plan reads; further stages keep their upper bounds.
const MAX_ROWS: f64 = 5e7;

/// Tokens and operations of each stage run of the plan, in its order: recorded for finished ones, computed from the prepared
/// data for others. `None` for stages that do not train, and while the data is not prepared.
pub fn extents(graph: &StageGraph) -> Vec<Option<Extent>> {
    extents_of(graph, |_| true)
}

/// Like [`extents`], with `None` for stage runs of which nothing is left: their manifests are not read.
pub fn extents_left(graph: &StageGraph) -> Vec<Option<Extent>> {
    extents_of(graph, |node| node.state.is_left())
}

fn extents_of(graph: &StageGraph, is_asked: impl Fn(&StageNode) -> bool) -> Vec<Option<Extent>> {
    let (mut open, mut left) = (Open::default(), MAX_ROWS);
    let mut extent = |node: &StageNode| -> Option<Extent> {
        let stage = node.stage.training().filter(|_| is_asked(node))?;
        if node.state == State::Done {
            let results = Manifest::read(node.record()).ok()??.results;
            return Some(Extent { tokens: Some(results.tokens), flops: Some(results.flops) });
        }
        let data = &graph.nodes[node.data?];
        if data.state != State::Done {
            return None;
        }
        let length = length(stage, &node.config, open.data(stage, node, data)?, left)?;
        left -= length.rows as f64;
        Some(Extent { tokens: Some(length.tokens), flops: Some(length.flops) })
    };
    graph.nodes.iter().map(&mut extent).collect()
}

/// The data opened last for each stage, with its key: trials that differ only in their model share it.
#[derive(Default)]
struct Open(BTreeMap<TrainStage, (String, Objective)>);

impl Open {
    fn data(&mut self, stage: TrainStage, node: &StageNode, data: &StageNode) -> Option<&Objective> {
        let name = rows_of(stage, &node.config, data);
        if self.0.get(&stage).is_none_or(|(opened, _)| *opened != name) {
            // If it cannot be opened, the error is reported when the stage runs.
            let opened = Objective::new(stage, &node.config, &data.dir.join(stage.name())).ok()?;
            self.0.insert(stage, (name, opened));
        }
        self.0.get(&stage).map(|(_, opened)| opened)
    }
}

/// A key of everything that determines the rows of a stage.
fn rows_of(stage: TrainStage, config: &TrialConfig, data: &StageNode) -> String {
    let training = stage.training(config);
    let loss = (stage.spec().answers)(config);
    let shares = config.data.shares(stage);
    json!([data.uuid, training.seq_len, training.packing, loss, config.seed, shares]).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{AnswerLoss, RowKind};
    use crate::execute::testing::{Fake, run};
    use crate::plan::testing::{plan, trial};
    use crate::status::overview;
    use crate::track::METRICS;
    use std::fs;
    use std::path::Path;

    #[test]
    fn records_without_their_folders_give_extents_and_last_rows() {
        let [runs, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let trials = [trial(|_| {})];
        run(&plan(&trials, kept.path()), &Fake::default());
        let folders = fs::read_dir(kept.path()).unwrap().map(|entry| entry.unwrap().path());
        for folder in folders.filter(|path| path.is_dir()) {
            fs::write(folder.join(METRICS), "step,tokens,split,loss\n7,10,train,2.5\n").unwrap();
        }
        let graph = StageGraph::plan_with(&trials, |_| None, runs.path(), Some(kept.path())).unwrap();
        let recorded = Extent { tokens: Some(10), flops: Some(0.0) };
        let stages = &overview(&graph).trials[0].stages;
        for ((node, extent), stage) in graph.nodes.iter().zip(extents(&graph)).zip(stages) {
            let is_trained = node.stage.training().is_some();
            assert!(node.kept.is_some() && node.state == State::Done);
            assert_eq!(extent, is_trained.then_some(recorded));
            assert_eq!(stage.last.as_ref().map(|row| row.step), is_trained.then_some(7));
        }
    }

    #[test]
    fn rows_follow_from_which_answers_have_loss() {
        let graph = plan(&[trial(|_| {})], Path::new("nowhere"));
        let rows = |stage: TrainStage, loss: AnswerLoss| {
            let mut config = TrialConfig::default();
            let of_stage = [&mut config.sft.answer_loss, &mut config.sft_multi.answer_loss];
            of_stage.into_iter().chain([&mut config.lora.answer_loss]).for_each(|key| *key = loss);
            rows_of(stage, &config, &graph.nodes[0])
        };
        for stage in TrainStage::all() {
            let differ = rows(stage, AnswerLoss::Last) != rows(stage, AnswerLoss::Every);
            assert_eq!(differ, stage.rows() == RowKind::Conversations, "{}", stage.name());
        }
    }
}
