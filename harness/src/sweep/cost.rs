//! The expected cost of trials, before anything runs.

use super::{Part, Trial};
use crate::config::{RowKind, TrainStage, Training, TrialConfig, plain};
use crate::system::cores;
use crate::track::table;
use model::backend::cpu::cross_entropy::BLOCK;
use model::cost::roofline::{GPU_POSITIONS, bytes, gpu_idle};
use model::cost::step;
use model::{Backend, Cpu, ModelConfig, Precision};
use rayon::prelude::*;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// MiB of the program with its tokenizer and data, without a model; measured.
const PROGRAM: f64 = 120.0;

/// Bytes per f32.
const FLOAT: f64 = 4.0;

/// Approximate MiB that CUDA and its libraries take on a GPU.
const CUDA: f64 = 600.0;

/// Positions whose logits exist at the same time on a GPU; the same as in the CUDA backend.
const GPU_LOGITS: f64 = 4096.0;

/// Bytes per MiB.
const MIB: f64 = 1024.0 * 1024.0;

/// The expected cost of one trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CostRow {
    /// The trial's name for display.
    pub trial: String,
    /// Swept and solved keys with their values, in the sweep's order.
    #[serde(serialize_with = "as_map")]
    pub keys: Vec<(String, Value)>,
    /// Total number of parameters.
    pub params: u64,
    /// Number of parameters that one token passes through.
    pub active_params: u64,
    /// Upper bound on the target tokens, over the stages whose length is known; `None` if none is.
    pub tokens: Option<u64>,
    /// Upper bound on the floating-point operations of training on them; see [`model::Cost`].
    pub flops: Option<f64>,
    /// Whether tokens and operations are exact: they are once the data of every stage is prepared.
    pub exact: bool,
    /// Stages whose tokens or operations are unknown until their data is prepared.
    pub open: Vec<TrainStage>,
    /// Estimated peak memory of training, in MiB; see [`memory_mb`] and [`gpu_memory_mb`].
    pub memory_mb: f64,
}

/// Target tokens and operations of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Extent {
    /// Target tokens; `None` if unknown.
    pub tokens: Option<u64>,
    /// Floating-point operations; `None` if unknown.
    pub flops: Option<f64>,
}

/// The expected cost of every trial; `known` returns the exact extent of a stage of the trial at an index if its data is
/// prepared, and `memory` the peak memory of a configuration in MiB.
pub fn costs(
    trials: &[Trial],
    name: impl Fn(usize) -> String + Sync,
    known: impl Fn(usize, TrainStage) -> Option<Extent> + Sync,
    memory: impl Fn(&TrialConfig) -> f64 + Sync,
) -> Vec<CostRow> {
    trials
        .par_iter()
        .enumerate()
        .map(|(index, trial)| row(trial, name(index), |stage| known(index, stage), memory(&trial.config)))
        .collect()
}

fn row(trial: &Trial, name: String, known: impl Fn(TrainStage) -> Option<Extent>, memory_mb: f64) -> CostRow {
    let config = &trial.config;
    let mut row = CostRow {
        trial: name,
        keys: trial.keys.clone(),
        params: config.model.params() as u64,
        active_params: config.model.active_params() as u64,
        tokens: None,
        flops: None,
        exact: true,
        open: Vec::new(),
        memory_mb,
    };
    if let Some(Part::Tuned { tuning, chosen: None }) = &trial.part {
        for (_, value) in row.keys.iter_mut().filter(|(key, _)| *key == tuning.key) {
            *value = "to be tuned".into();
        }
    }
    for (stage, training) in trial.stages() {
        let exact = known(stage);
        row.exact &= exact.is_some();
        let extent = exact.unwrap_or_else(|| at_most(config, stage, training));
        if extent.tokens.is_none() || extent.flops.is_none() {
            row.open.push(stage);
        }
        if let Some(tokens) = extent.tokens {
            row.tokens = Some(row.tokens.unwrap_or(0).saturating_add(tokens));
            if let Some(value) = trial.tokens_that_follow(stage, &mut row.keys) {
                *value = match exact {
                    Some(_) => tokens.into(),
                    None => format!("<= {tokens}").into(),
                };
            }
        }
        if let Some(flops) = extent.flops {
            row.flops = Some(row.flops.unwrap_or(0.0) + flops);
        }
    }
    row
}

/// Upper bounds on the extent of a stage, as far as its configuration determines them: every row is full and one document.
pub fn at_most(config: &TrialConfig, stage: TrainStage, training: &Training) -> Extent {
    let cost = config.cost(stage);
    let step = stage.positions_of_step(config);
    let step_flops = cost.per_token(training.seq_len) * step as f64;
    match (training.steps, training.flops, training.tokens) {
        (Some(steps), ..) => {
            Extent { tokens: Some(steps.saturating_mul(step)), flops: Some(steps as f64 * step_flops) }
        }
        (None, Some(flops), _) => Extent {
            // The bounds assume documents so short that attention costs nothing, and that rounding to whole steps adds one.
            tokens: Some(((flops / cost.linear) as u64).saturating_add(step)),
            flops: Some((flops + 0.5 * step_flops).max(step_flops)),
        },
        (None, None, Some(tokens)) => {
            let tokens = tokens.saturating_add(step - 1);
            // If only answers are targets, the number of positions without loss is unknown.
            let all_targets = config.rows(stage) == RowKind::Pretrain;
            let flops = all_targets.then(|| tokens as f64 * cost.per_token(training.seq_len));
            Extent { tokens: Some(tokens), flops }
        }
        (None, None, None) => Extent::default(),
    }
}

/// Estimated peak memory of training on a CPU, in MiB, of the stage that needs most.
///
/// In f32: the weights, two moments, a gradient for each lane in progress and one for the finished lanes, and everything
/// but the gradients once more while a checkpoint is written. In addition, for every thread the group of rows that it works
/// on ([`Backend::GROUP_POSITIONS`]): what each block keeps for the backward pass (its inputs, queries, keys, values, attention,
/// the values before the activation, as far as `recompute` keeps them), the temporaries of one block, and a block of the
/// head's logits.
pub fn memory_mb(config: &TrialConfig) -> f64 {
    let model = &config.model;
    let threads = if config.threads == 0 { cores() } else { config.threads };
    let stage = |(stage, training): (TrainStage, &Training)| {
        let rows_of_lane = training.rows_of_step().div_ceil(training.lanes.max(1));
        let row = training.seq_len.saturating_mul(stage.sequences_per_row());
        let group = rows_of_lane.saturating_mul(row).min(Cpu::GROUP_POSITIONS.max(row)) as f64;
        let kept = step::kept(model, training.recompute) + passing(model);
        let lane = group * kept + group.min(BLOCK as f64) * model.vocab_size as f64;
        let copies = (6 + training.lanes.min(threads + 1)) as f64;
        let floats = model.params() as f64 * copies + threads.min(training.lanes) as f64 * lane;
        PROGRAM + FLOAT * floats / MIB
    };
    config.stages().filter(|entry| entry.1.enabled).map(stage).fold(0.0, f64::max)
}

/// Numbers per position that one block needs temporarily, in addition to those that it keeps.
fn passing(model: &ModelConfig) -> f64 {
    (4 * model.d_model + 2 * model.heads().qkv_width() + 3 * step::hidden(model)) as f64
}

/// Estimated peak memory of training on a GPU, in MiB, of the stage that needs most.
///
/// The weights, two moments and a gradient in f32, and a copy of the weights if activations are in half precision; for
/// preferences also the reference's weights and for adapters the frozen weights, likewise with a copy. For the rows of one
/// pass what each block keeps and the temporaries of one block, as on a CPU; a block of logits and its gradient; at most the
/// memory that the allocator leaves idle; and what CUDA itself takes.
pub fn gpu_memory_mb(config: &TrialConfig, precision: Precision) -> f64 {
    let model = &config.model;
    let number = bytes(precision);
    let copy = if number < FLOAT { number } else { 0.0 };
    let stage = |(stage, training): (TrainStage, &Training)| {
        let row = training.seq_len.saturating_mul(stage.sequences_per_row());
        let group = training.rows_of_step().saturating_mul(row).min(GPU_POSITIONS.max(row)) as f64;
        let more = if training_has_two_models(config, stage) { FLOAT + copy } else { 0.0 };
        let weights = model.params() as f64 * (4.0 * FLOAT + copy + more);
        let kept = step::kept(model, training.recompute) + passing(model);
        let logits = group.min(GPU_LOGITS) * model.vocab_size as f64;
        let used = weights + number * group * kept + (FLOAT + number) * logits;
        CUDA + (used + gpu_idle(used as usize) as f64) / MIB
    };
    config.stages().filter(|entry| entry.1.enabled).map(stage).fold(0.0, f64::max)
}

/// Whether a second model's weights are held in addition to the trained ones.
fn training_has_two_models(config: &TrialConfig, stage: TrainStage) -> bool {
    stage.compares_answers() || (stage.spec().adapters)(config).is_some()
}

/// Formats the rows as a table for a terminal.
pub fn render_table(rows: &[CostRow]) -> String {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in rows.iter().flat_map(|row| &row.keys) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut header = vec!["trial"];
    header.extend(&keys);
    header.extend(["params", "active", "tokens", "FLOPs", "memory MiB"]);
    let mut lines = Vec::new();
    for row in rows {
        let more = if row.open.is_empty() { "" } else { "+" };
        let bound = if row.exact { "" } else { "<= " };
        let mut cells = vec![row.trial.clone()];
        cells.extend(keys.iter().map(|key| {
            let value = row.keys.iter().find(|pair| pair.0 == *key).map(|pair| &pair.1);
            value.map_or(String::new(), plain)
        }));
        cells.extend([
            short(row.params as f64),
            short(row.active_params as f64),
            row.tokens.map_or("?".into(), |tokens| format!("{bound}{}{more}", short(tokens as f64))),
            row.flops.map_or("?".into(), |flops| format!("{bound}{flops:.2e}{more}")),
            format!("{:.0}", row.memory_mb),
        ]);
        lines.push(cells);
    }
    let mut text = table(&header, &lines) + "\n";
    let mut open: Vec<&str> = rows.iter().flat_map(|row| &row.open).map(|stage| stage.name()).collect();
    open.sort_unstable();
    open.dedup();
    if !open.is_empty() {
        text +=
            &format!("+ leaves out {}, whose length is known once the data is prepared\n", open.join(", "));
    }
    text
}

/// Formats a number with three or four digits: `998.6K`, `1.01M`.
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
        let rows = costs(&trials, |_| "1".into(), |_, _| None, memory_mb);
        let row = &rows[0];
        // As in the model's own test: 48 products of attention, 72 of the feed-forward, 40 of the head, and two norms.
        assert_eq!((row.params, row.active_params), (48 + 72 + 40 + 3 * 4, 48 + 72 + 40 + 3 * 4));
        // Both are bounds: 1000 tokens and what fills the last batch of 16, and three steps of full rows.
        assert_eq!((row.tokens, row.exact), (Some(1015 + 3 * 2 * 8), false));
        assert_eq!(row.flops, Some(1063.0 * 3.0 * 2.0 * (48.0 + 72.0 + 40.0 + 32.0)));
        assert_eq!(row.open, [TrainStage::Dpo]);
        // dpo, on one thread: 172 weights eight times; a lane has two answers of 8 tokens, each of which keeps 12 + 8 + 12 floats
        // and needs 16 + 16 + 18 temporarily and 10 logits.
        let floats = 172.0 * 8.0 + 16.0 * (32.0 + 50.0 + 10.0);
        assert_eq!(row.memory_mb, PROGRAM + 4.0 * floats / 1024.0 / 1024.0);
        let json = serde_json::to_value(row).unwrap();
        assert_eq!(json["keys"], serde_json::json!({ "seed": 1, "device": "cpu", "model.n_experts": 0 }));
        assert_eq!(json["open"], serde_json::json!(["dpo"]));
    }

    #[test]
    fn a_gpu_holds_weights_twice_and_activations_in_its_numbers() {
        let trials = Sweep::read_str("a.toml", SWEEP, &Overrides::default()).unwrap().expand().unwrap();
        let config = &trials[0].config;
        // dpo: master weights, moments, gradient and the reference's weights, with working copies of both; two answers of 8
        // tokens, each with 32 and 50 numbers; logits in f32 and their gradient. 256 MiB may be idle.
        let bf16 = 172.0 * (4.0 * 4.0 + 4.0 + 2.0 * 2.0) + 16.0 * (2.0 * 82.0 + 6.0 * 10.0);
        assert_eq!(gpu_memory_mb(config, Precision::Bf16), CUDA + 256.0 + bf16 / 1024.0 / 1024.0);
        let f32 = 172.0 * 5.0 * 4.0 + 16.0 * (4.0 * 82.0 + 8.0 * 10.0);
        assert_eq!(gpu_memory_mb(config, Precision::Tf32), CUDA + 256.0 + f32 / 1024.0 / 1024.0);
    }

    #[test]
    fn the_table_is_aligned() {
        let trials = Sweep::read_str("a.toml", SWEEP, &Overrides::default()).unwrap().expand().unwrap();
        let mut rows = costs(&trials, |_| "1".into(), |_, _| None, memory_mb);
        for row in &mut rows {
            row.trial = "0123abcd".into();
        }
        rows[1].params = 12_345_678;
        assert_eq!(
            render_table(&rows),
            "trial     seed  device   model.n_experts  params  active  tokens    FLOPs       memory MiB\n\
             0123abcd     1  cpu                    0     172     172  <= 1063+  <= 1.22e6+         120\n\
             0123abcd     1  cpu                    2  12.35M     324  <= 1063+  <= 2.19e6+         120\n\
             0123abcd     2  cuda:10                0     172     172  <= 1063+  <= 1.22e6+         120\n\
             0123abcd     2  cuda:10                2     324     324  <= 1063+  <= 2.19e6+         120\n\
             + leaves out dpo, whose length is known once the data is prepared\n"
        );
    }

    #[test]
    fn what_follows_from_the_data_is_a_bound_until_it_is_there() {
        let text = SWEEP.replace("[axes]", "[solve]\n\"dpo.tokens\" = { flops = 1e6 }\n[axes]");
        let trials = Sweep::read_str("a.toml", &text, &Overrides::default()).unwrap().expand().unwrap();
        let before = &costs(&trials, |_| "1".into(), |_, _| None, memory_mb)[0];
        assert_eq!(before.open, []);
        // 4 forward passes of 2 * 160 operations per token, and one step of two answers of 8 tokens.
        assert_eq!(before.keys.last().unwrap(), &("dpo.tokens".into(), "<= 797".into()));
        assert_eq!(before.tokens, Some(1063 + 797));
        let extent = Extent { tokens: Some(10), flops: Some(99.0) };
        let after = &costs(&trials, |_| "1".into(), |trial, _| (trial == 0).then_some(extent), memory_mb);
        assert_eq!((after[0].tokens, after[0].flops, after[0].exact), (Some(30), Some(297.0), true));
        assert_eq!(after[0].keys.last().unwrap().1, 10);
        let table = render_table(after);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().skip(1).collect();
        assert_eq!(cells, ["1", "cpu", "0", "10", "172", "172", "30", "2.97e2", "120"]);
        assert!(table.lines().nth(3).unwrap().contains(" <= 797 "), "{table}");
        assert!(table.lines().nth(3).unwrap().contains(" <= 1860 "), "{table}");
        // An unknown part of an answer row's tokens is without loss.
        let text = SWEEP.replace("steps = 3", "tokens = 100");
        let trials = Sweep::read_str("a.toml", &text, &Overrides::default()).unwrap().expand().unwrap();
        assert_eq!(
            costs(&trials, |_| "1".into(), |_, _| None, memory_mb)[0].open,
            [TrainStage::Sft, TrainStage::Dpo]
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([short(9999.0), short(12_345.0), short(998_600.0)], ["9999", "12.35K", "998.6K"]);
        assert_eq!([short(1.01e6), short(2e9)], ["1.01M", "2.00B"]);
    }
}
