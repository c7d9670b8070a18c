//! What training stages train on exactly, once their data is prepared.

use super::graph::{StageGraph, StageNode, State};
use crate::config::{TrainStage, TrialConfig};
use crate::runs::manifest::Manifest;
use crate::sweep::Extent;
use crate::train::{Objective, length};
use serde_json::json;
use std::collections::BTreeMap;

/// Rows that a plan looks at before it leaves stages at their bounds.
const MOST_ROWS: f64 = 5e7;

/// What each stage run of the plan trains on, in its order: of those that are done as recorded, of others as their data
/// says; `None` where nothing is trained, or the data is not there.
pub fn extents(graph: &StageGraph) -> Vec<Option<Extent>> {
    let (mut open, mut left) = (Open::default(), MOST_ROWS);
    let mut extent = |node: &StageNode| -> Option<Extent> {
        let stage = node.stage.training()?;
        if node.state == State::Done {
            let results = Manifest::read(&node.dir).ok()??.results;
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

/// The data that was opened last, by stage: trials that differ in their model share it.
#[derive(Default)]
struct Open(BTreeMap<TrainStage, (String, Objective)>);

impl Open {
    fn data(&mut self, stage: TrainStage, node: &StageNode, data: &StageNode) -> Option<&Objective> {
        let name = rows_of(stage, &node.config, data);
        if self.0.get(&stage).is_none_or(|(opened, _)| *opened != name) {
            // What cannot be opened is told when the stage runs.
            let opened = Objective::new(stage, &node.config, &data.dir.join(stage.name())).ok()?;
            self.0.insert(stage, (name, opened));
        }
        self.0.get(&stage).map(|(_, opened)| opened)
    }
}

/// All that the rows of a stage follow from.
fn rows_of(stage: TrainStage, config: &TrialConfig, data: &StageNode) -> String {
    let training = stage.training(config);
    let loss = (stage.spec().answers)(config);
    let shares = config.data.shares(stage);
    json!([data.uuid, training.seq_len, training.packing, loss, config.seed, shares]).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AnswerLoss, RowKind};
    use crate::plan::testing::{plan, trial};
    use std::path::Path;

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
