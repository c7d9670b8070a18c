//! What trials will cost, before anything runs.

use super::Trial;
use crate::config::{TrainStage, Training, TrialConfig};
use model::ops::cross_entropy::BLOCK;
use model::trainer::GROUP_POSITIONS;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// MiB of the program with its tokenizer and data, without a model; measured.
const PROGRAM: f64 = 120.0;

/// Bytes of one f32.
const FLOAT: f64 = 4.0;

/// Bytes of one MiB.
const MIB: f64 = 1024.0 * 1024.0;

/// The expected cost of one trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanRow {
    /// First eight digits of the trial's UUID.
    pub trial: String,
    /// Swept and solved keys with their values, in the sweep's order.
    #[serde(serialize_with = "as_map")]
    pub keys: Vec<(String, Value)>,
    /// Weights, in total.
    pub params: u64,
    /// Weights that one token passes through.
    pub active_params: u64,
    /// Tokens trained on, over the stages whose length is known; absent if none is.
    pub tokens: Option<u64>,
    /// Floating-point operations of training on them.
    pub flops: Option<f64>,
    /// Stages that train by passes over their data: their length is known once the data is read.
    pub open: Vec<TrainStage>,
    /// Estimated peak memory of training, in MiB; see [`memory_mb`].
    pub memory_mb: f64,
}

/// The expected cost of every trial.
pub fn plan(trials: &[Trial]) -> Vec<PlanRow> {
    trials.iter().map(row).collect()
}

fn row(trial: &Trial) -> PlanRow {
    let config = &trial.config;
    let (mut tokens, mut flops, mut open) = (None, None, Vec::new());
    for (stage, training) in config.stages() {
        match stage_tokens(training) {
            _ if !training.enabled => {}
            None => open.push(stage),
            Some(count) => {
                let per_token = config.model.train_flops_per_token(training.seq_len);
                tokens = Some(tokens.unwrap_or(0u64).saturating_add(count));
                flops = Some(flops.unwrap_or(0.0) + count as f64 * per_token);
            }
        }
    }
    PlanRow {
        trial: trial.id.simple().to_string()[..8].to_string(),
        keys: trial.keys.clone(),
        params: config.model.params() as u64,
        active_params: config.model.active_params() as u64,
        tokens,
        flops,
        open,
        memory_mb: memory_mb(config),
    }
}

/// Tokens of a stage, where its length does not depend on data. By steps it is an upper bound: every row full.
fn stage_tokens(training: &Training) -> Option<u64> {
    let by_steps = training.steps.map(|steps| {
        [training.batch_size, training.accumulation, training.seq_len]
            .into_iter()
            .fold(steps, |tokens, factor| tokens.saturating_mul(factor as u64))
    });
    by_steps.or(training.tokens)
}

/// Estimated peak memory of training on a CPU, in MiB; the largest stage counts.
///
/// In f32: weights, two moments, a gradient for each lane, and weights and moments once more while a checkpoint is
/// written; and for every thread the group of rows that it works on ([`model::trainer::GROUP_POSITIONS`]): what each
/// block keeps for the backward pass (its two inputs, queries, keys, values, attention, the values before the
/// activation), what one block needs beside that, and a block of the head's logits.
pub fn memory_mb(config: &TrialConfig) -> f64 {
    let model = &config.model;
    let hidden = match model.is_moe() {
        true => (model.top_k + model.n_shared_experts) * model.expert_dim(),
        false => model.ffn_dim(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if config.threads == 0 { cores } else { config.threads };
    let (d, qkv) = (model.d_model, model.qkv_dim());
    let kept = model.n_layers * (3 * d + qkv + 2 * hidden);
    let passing = 4 * d + 2 * qkv + 3 * hidden;
    let stage = |(stage, training): (TrainStage, &Training)| {
        let answers = if stage == TrainStage::Dpo { 2 } else { 1 };
        let rows_of_lane = training.batch_size.div_ceil(training.lanes.max(1));
        let row = training.seq_len.saturating_mul(answers);
        let group = rows_of_lane.saturating_mul(row).min(GROUP_POSITIONS.max(row)) as f64;
        let lane = group * (kept + passing) as f64 + group.min(BLOCK as f64) * model.vocab_size as f64;
        let copies = (6 + training.lanes) as f64;
        let floats = model.params() as f64 * copies + threads.min(training.lanes) as f64 * lane;
        PROGRAM + FLOAT * floats / MIB
    };
    config.stages().into_iter().filter(|entry| entry.1.enabled).map(stage).fold(0.0, f64::max)
}

/// The rows as a table for a terminal.
pub fn render_table(rows: &[PlanRow]) -> String {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in rows.iter().flat_map(|row| &row.keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut header = vec!["trial"];
    header.extend(&keys);
    header.extend(["params", "active", "tokens", "FLOPs", "memory MiB"]);
    let mut lines: Vec<Vec<String>> = vec![header.into_iter().map(Into::into).collect()];
    for row in rows {
        let more = if row.open.is_empty() { "" } else { "+" };
        let mut cells = vec![row.trial.clone()];
        cells.extend(keys.iter().map(|key| {
            let value = row.keys.iter().find(|pair| pair.0 == *key).map(|pair| &pair.1);
            value.map_or(String::new(), plain)
        }));
        cells.extend([
            short(row.params as f64),
            short(row.active_params as f64),
            row.tokens.map_or("?".into(), |tokens| short(tokens as f64) + more),
            row.flops.map_or("?".into(), |flops| format!("{flops:.2e}{more}")),
            format!("{:.0}", row.memory_mb),
        ]);
        lines.push(cells);
    }
    let mut table = aligned(&lines);
    let mut open: Vec<&str> = rows.iter().flat_map(|row| &row.open).map(|stage| stage.name()).collect();
    open.sort_unstable();
    open.dedup();
    if !open.is_empty() {
        table += &format!("+ and {}, which train by passes over their data\n", open.join(", "));
    }
    table
}

/// Columns two spaces apart; numbers to the right, text to the left.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width_of = |column: usize| lines.iter().map(|line| width(&line[column])).max().unwrap_or(0);
    let is_number = |cell: &str| {
        cell.is_empty() || cell == "?" || cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    };
    let is_right = |column: usize| column > 0 && lines[1..].iter().all(|line| is_number(&line[column]));
    let layout: Vec<(usize, bool)> =
        (0..columns).map(|column| (width_of(column), is_right(column))).collect();
    let mut table = String::new();
    for line in lines {
        let mut text = String::new();
        for (cell, (wide, is_right)) in line.iter().zip(&layout) {
            let room = " ".repeat(wide - width(cell));
            text += &if *is_right { format!("{room}{cell}  ") } else { format!("{cell}{room}  ") };
        }
        table += text.trim_end();
        table.push('\n');
    }
    table
}

/// Places of a terminal that a text takes: two for each glyph of East Asia.
fn width(text: &str) -> usize {
    let is_wide = |c: char| matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f | 0xff00..=0xff60 | 0x20000..=0x3fffd);
    text.chars().map(|c| if is_wide(c) { 2 } else { 1 }).sum()
}

/// A value as people write it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => crate::config::UNSET.into(),
        Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// `998.6K`, `1.01M`: three digits or four.
fn short(number: f64) -> String {
    for (unit, name) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "K")] {
        if number >= unit {
            let scaled = number / if name == "K" { 1e3 } else { unit };
            let digits = if scaled >= 100.0 { 1 } else { 2 };
            return format!("{scaled:.digits$}{name}");
        }
    }
    number.to_string()
}

fn as_map<S: Serializer>(keys: &[(String, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(keys.iter().map(|(key, value)| (key, value)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sweep::{Overrides, Sweep};

    const SWEEP: &str = r#"
name = "a"
[base]
threads = 1
tokenizer.path = "t"
[base.model]
d_model = 4
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 10
hidden_dim = 6
[base.pretrain]
tokens = 1000
seq_len = 8
batch_size = 2
lanes = 1
[base.sft]
steps = 3
seq_len = 8
batch_size = 2
[base.dpo]
seq_len = 8
batch_size = 1
[axes]
seed = [1, 2]
"device" = ["cpu", "cuda:10"]
"model.n_experts" = [0, 2]
[[exclude]]
seed = 1
device = "cuda:10"
[[exclude]]
seed = 2
device = "cpu"
"#;

    #[test]
    fn costs_are_those_of_the_shape() {
        let trials = Sweep::read_str("a.toml", SWEEP, &Overrides::default()).unwrap().expand().unwrap();
        let rows = plan(&trials);
        let row = &rows[0];
        // As in the model's own test: 48 products of attention, 72 of the feed-forward, 40 of the head, and two norms.
        assert_eq!((row.params, row.active_params), (48 + 72 + 40 + 3 * 4, 48 + 72 + 40 + 3 * 4));
        assert_eq!(row.tokens, Some(1000 + 3 * 2 * 8));
        assert_eq!(row.flops, Some(1048.0 * 3.0 * 2.0 * (48.0 + 72.0 + 40.0 + 32.0)));
        assert_eq!(row.open, [TrainStage::Dpo]);
        // dpo, with its four lanes: 172 weights ten times; a lane has two answers of 8 tokens, each of which leaves
        // 12 + 8 + 12 floats, has 16 + 16 + 18 in passing and 10 logits.
        let floats = 172.0 * 10.0 + 16.0 * (32.0 + 50.0 + 10.0);
        assert_eq!(row.memory_mb, PROGRAM + 4.0 * floats / 1024.0 / 1024.0);
        let json = serde_json::to_value(row).unwrap();
        assert_eq!(json["keys"], serde_json::json!({ "seed": 1, "device": "cpu", "model.n_experts": 0 }));
        assert_eq!(json["open"], serde_json::json!(["dpo"]));
    }

    #[test]
    fn the_table_is_aligned() {
        let trials = Sweep::read_str("a.toml", SWEEP, &Overrides::default()).unwrap().expand().unwrap();
        let mut rows = plan(&trials);
        for row in &mut rows {
            row.trial = "0123abcd".into();
        }
        rows[1].params = 12_345_678;
        assert_eq!(
            render_table(&rows),
            "trial     seed  device   model.n_experts  params  active  tokens    FLOPs  memory MiB\n\
             0123abcd     1  cpu                    0     172     172   1048+  1.21e6+         120\n\
             0123abcd     1  cpu                    2  12.35M     324   1048+  2.16e6+         120\n\
             0123abcd     2  cuda:10                0     172     172   1048+  1.21e6+         120\n\
             0123abcd     2  cuda:10                2     324     324   1048+  2.16e6+         120\n\
             + and dpo, which train by passes over their data\n"
        );
    }

    #[test]
    fn numbers_are_short_and_wide_glyphs_counted() {
        assert_eq!([short(9999.0), short(12_345.0), short(998_600.0)], ["9999", "12.35K", "998.6K"]);
        assert_eq!([short(1.01e6), short(2e9)], ["1.01M", "2.00B"]);
        assert_eq!(width("a题目"), 5);
    }
}
