//! The exact lengths of training stages, once their data is prepared.

use super::graph::{StageGraph, StageNode, State};
use crate::config::{TrainStage, TrialConfig};
use crate::runs::manifest::Manifest;
use crate::sweep::Extent;
use crate::train::{Objective, length};
use anyhow::Result;
use serde_json::json;
use std::path::Path;

/// Most documents that a plan orders, which takes a few seconds; further stages keep their upper bounds.
const MAX_DOCUMENTS: f64 = 5e7;

/// Tokens and operations of each stage run of the plan, in its order: recorded for finished ones, computed from the prepared
/// data for others. `None` for stages that do not train, and while the data is not prepared.
pub fn extents(graph: &StageGraph) -> Vec<Option<Extent>> {
    extents_of(graph, |_| true, Objective::new)
}

/// Like [`extents`], with `None` for stage runs of which nothing is left: their manifests are not read.
pub fn extents_left(graph: &StageGraph) -> Vec<Option<Extent>> {
    extents_of(graph, |node| node.state.is_left(), Objective::new)
}

/// Extents of the stage runs that are asked for; `open` opens the data of a stage.
fn extents_of(
    graph: &StageGraph,
    is_asked: impl Fn(&StageNode) -> bool,
    mut open: impl FnMut(TrainStage, &TrialConfig, &Path) -> Result<Objective>,
) -> Vec<Option<Extent>> {
    let mut extents = vec![None; graph.nodes.len()];
    let mut prepared = vec![];
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| is_asked(node)) {
        let Some(stage) = node.stage.training() else { continue };
        let data = node.data.map(|data| &graph.nodes[data]);
        if node.state == State::Done {
            let results = Manifest::read(node.record()).ok().flatten().map(|manifest| manifest.results);
            extents[index] =
                results.map(|results| Extent { tokens: Some(results.tokens), flops: Some(results.flops) });
        } else if let Some(data) = data.filter(|data| data.state == State::Done) {
            let unseeded = rows_of(stage, &node.config, data);
            prepared.push((unseeded, node.config.seed, index, stage, data.dir.join(stage.name())));
        }
    }
    // Data is opened once for all stage runs that read it.
    prepared.sort();
    let mut left = MAX_DOCUMENTS;
    for of_data in prepared.chunk_by(|a, b| a.0 == b.0) {
        let (_, seed, first, stage, folder) = &of_data[0];
        // If it cannot be opened, the error is reported when the stage runs.
        let Ok(mut rows) = open(*stage, &graph.nodes[*first].config, folder) else { continue };
        let mut seed = *seed;
        for &(_, own_seed, index, stage, _) in of_data {
            if left <= 0.0 {
                return extents;
            }
            if own_seed != seed {
                rows.reseed(own_seed);
                seed = own_seed;
            }
            let Some(length) = length(stage, &graph.nodes[index].config, &rows, &mut left) else { continue };
            extents[index] = Some(Extent { tokens: Some(length.tokens), flops: Some(length.flops) });
        }
    }
    extents
}

/// A key of everything but the seed that determines the rows of a stage.
fn rows_of(stage: TrainStage, config: &TrialConfig, data: &StageNode) -> String {
    let training = stage.training(config);
    let loss = (stage.spec().answers)(config);
    let shares = config.data.shares(stage);
    json!([stage, data.uuid, training.seq_len, training.packing, loss, shares]).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{AnswerLoss, RowKind, Stage};
    use crate::data::Kind;
    use crate::data::store::tests::store_of;
    use crate::execute::testing::{Fake, run};
    use crate::plan::testing::{plan, trial};
    use crate::status::overview;
    use crate::track::METRICS;
    use crate::train;
    use std::fs;

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
    fn data_is_opened_once_for_all_seeds_and_models() {
        let runs = tempfile::tempdir().unwrap();
        let of = |n_layers: usize, seed: u64| {
            trial(|config| {
                (config.seed, config.model.n_layers) = (seed, n_layers);
                let training = &mut config.pretrain.training;
                (training.seq_len, training.batch_size, training.tokens) = (16, 1, Some(300));
                config.sft.training.enabled = false;
                config.dpo.training.enabled = false;
            })
        };
        let mut graph = plan(&[of(1, 1), of(1, 2), of(2, 1), of(2, 2), of(2, 3)], runs.path());
        let data = graph.nodes.iter().position(|node| node.stage == Stage::Data).unwrap();
        graph.nodes[data].state = State::Done;
        let folder = graph.nodes[data].dir.join("pretrain");
        let documents: Vec<Vec<u32>> = (0..90u32).map(|i| vec![5; 2 + (i * i % 13) as usize]).collect();
        let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        for side in ["train", "val"] {
            store_of(&folder.join(side), Kind::Pretrain, 100, &documents);
        }
        let mut opened = 0;
        let found = extents_of(
            &graph,
            |_| true,
            |stage, config, folder| {
                opened += 1;
                Objective::new(stage, config, folder)
            },
        );
        assert_eq!(opened, 1);
        let mut tokens = vec![];
        for (node, extent) in graph.nodes.iter().zip(found) {
            let alone = node.stage.training().map(|stage| {
                let rows = Objective::new(stage, &node.config, &folder).unwrap();
                let mut left = MAX_DOCUMENTS;
                let length = length(stage, &node.config, &rows, &mut left).unwrap();
                // Every pass but the first is drawn for the number of rows and again for their tokens.
                let drawn = rows.documents() as f64 * (2.0 * length.passes.ceil() - 1.0);
                assert_eq!(MAX_DOCUMENTS - left, drawn);
                assert_eq!(train::length(stage, &node.config, &rows, &mut 0.0), None);
                tokens.push(length.tokens);
                Extent { tokens: Some(length.tokens), flops: Some(length.flops) }
            });
            assert_eq!(extent, alone);
        }
        assert!(tokens.len() == 5 && tokens[0] == tokens[2] && tokens[0] != tokens[1], "{tokens:?}");
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
