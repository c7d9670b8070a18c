//! Helpers for tests: trials and their plans.
#![allow(clippy::unwrap_used)]

use super::StageGraph;
use crate::config::TrialConfig;
use crate::sweep::Trial;
use serde_json::json;
use std::path::Path;

/// A trial with the default configuration, modified by `change`.
pub fn trial(change: impl FnOnce(&mut TrialConfig)) -> Trial {
    let mut config = TrialConfig::default();
    change(&mut config);
    Trial {
        sweep: "test".into(),
        keys: vec![("seed".into(), json!(config.seed))],
        config: config.into(),
        part: None,
    }
}

/// The stage graph of `trials`.
pub fn plan(trials: &[Trial], runs: &Path) -> StageGraph {
    StageGraph::plan(trials, runs).unwrap()
}
