//! What trials will cost, before they run.

use super::Trial;
use crate::run::stage::{recipe, training_of};
use serde::Serialize;

/// One trial in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanRow {
    /// Swept and solved keys.
    pub keys: Vec<(String, serde_json::Value)>,
    /// Weights.
    pub params: usize,
    /// Weights that a token passes through.
    pub active_params: usize,
    /// Target tokens of the stages whose budget is known beforehand.
    pub tokens: u64,
    /// Floating-point operations for those tokens.
    pub flops: f64,
    /// Weights, moments and one gradient per lane, in MiB; activations come on top.
    pub state_mb: f64,
}

/// All trials in numbers.
pub fn plan(trials: &[Trial]) -> Vec<PlanRow> {
    trials.iter().map(row).collect()
}

fn row(trial: &Trial) -> PlanRow {
    let config = &trial.config;
    let (mut tokens, mut flops, mut lanes) = (0, 0.0, 0);
    for stage in recipe(config) {
        let training = training_of(config, stage);
        lanes = lanes.max(training.lanes);
        if let (Some(budget), None) = (training.tokens, training.steps) {
            tokens += budget;
            flops += budget as f64 * config.model.train_flops_per_token(training.seq_len);
        }
    }
    let params = config.model.params();
    PlanRow {
        keys: trial.keys.clone(),
        params,
        active_params: config.model.active_params(),
        tokens,
        flops,
        state_mb: (params * 4 * (3 + lanes)) as f64 / f64::from(1 << 20),
    }
}

/// The plan as a table for a terminal.
pub fn render_table(rows: &[PlanRow]) -> String {
    let mut table: Vec<Vec<String>> = vec![];
    let keys: Vec<String> =
        rows.first().map(|r| r.keys.iter().map(|(k, _)| k.clone()).collect()).unwrap_or_default();
    let fixed = ["params", "active", "tokens", "FLOPs", "state MiB"].map(String::from);
    table.push(keys.into_iter().chain(fixed).collect());
    for row in rows {
        let values = row.keys.iter().map(|(_, v)| v.as_str().map_or_else(|| v.to_string(), String::from));
        let numbers = [
            crate::track::number(row.params as u64),
            crate::track::number(row.active_params as u64),
            if row.tokens > 0 { crate::track::number(row.tokens) } else { "by data".into() },
            if row.tokens > 0 { format!("{:.2e}", row.flops) } else { "by data".into() },
            format!("{:.1}", row.state_mb),
        ];
        table.push(values.chain(numbers).collect());
    }
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| table.iter().filter_map(|r| Some(r.get(c)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| -> String {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:>w$}")).collect();
        cells.join("  ") + "\n"
    };
    table.iter().map(line).collect()
}
