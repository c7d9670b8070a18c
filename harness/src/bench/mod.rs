//! How fast this program is on this machine: training, exams, tokenizing, writing.
//!
//! A shape flows in and one [`Report`] flows out. The work is synthetic, the code that does it is the code of real
//! stages. *Invariant:* floating-point operations are counted by [`model::Cost`] alone.

mod cases;

pub use cases::{exam, generate, tokenize, train};

use crate::system::on_threads;
use model::backend::cpu::matrix_peak;
use model::{Device, ModelConfig, Precision};
use serde::Serialize;
use std::time::{Duration, Instant};

/// What is measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// The shape of the model; weights are random.
    #[serde(skip)]
    pub model: ModelConfig,
    /// Tokens of a row or of a prompt.
    pub seq_len: usize,
    /// Rows, questions or texts of a step.
    pub batch_size: usize,
    /// Where the model is computed, and with which numbers.
    pub device: Device,
    /// Those of a GPU.
    pub precision: Precision,
    /// Lanes of a training batch.
    pub lanes: usize,
    /// Threads; 0 takes all cores.
    pub threads: usize,
    /// Steps that are measured.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
}

/// Answers of each question of an exam.
pub const OPTIONS: usize = 4;

/// What the questions of an exam have in common.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExamCase {
    /// Tokens that all prompts begin with, fewer than they have.
    pub shared: usize,
    /// Tokens of each answer; 1 is a letter.
    pub answer_len: usize,
}

/// What reading common beginnings once is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sharing {
    /// What was asked.
    #[serde(flatten)]
    pub exam: ExamCase,
    /// Tokens of the questions, each prompt read by itself: once for its letters, once for each longer answer.
    pub tokens_alone: usize,
    /// Tokens where every common beginning is read once.
    pub tokens_distinct: usize,
    /// Tokens that were read.
    pub tokens_read: usize,
    /// `tokens_alone` over `tokens_distinct`.
    pub ceiling: f64,
    /// The median time with each prompt by itself over that of exams, measured in turn.
    pub speedup: f64,
    /// `speedup` over `ceiling`.
    pub of_ceiling: f64,
}

/// The median, slowest and fastest step, in units a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// The median step.
    pub median: f64,
    /// The slowest step.
    pub min: f64,
    /// The fastest step.
    pub max: f64,
}

impl Rate {
    /// From the seconds of steps of `units` each; `seconds` is not empty.
    fn new(units: f64, mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let (fastest, slowest) = (seconds[0], seconds[seconds.len() - 1]);
        let middle = (seconds[(seconds.len() - 1) / 2] + seconds[seconds.len() / 2]) / 2.0;
        Self { median: units / middle, min: units / slowest, max: units / fastest }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `train`, `exam`, `tokenize` or `generate`.
    pub case: &'static str,
    /// The keys of the model's shape; absent where there is no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<ModelConfig>,
    /// Rows, steps and threads.
    #[serde(flatten)]
    pub settings: Case,
    /// Weights in total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<usize>,
    /// Tokens a second; of an exam those that it reads.
    pub tokens_per_second: Rate,
    /// Questions a second of an exam.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions_per_second: Option<Rate>,
    /// What sharing is worth in an exam.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Megabytes of text a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub megabytes_per_second: Option<Rate>,
    /// Cost over time, in 10^9 floating-point operations a second; absent where there is no model.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    /// Largest resident set, in MiB.
    pub peak_rss_mb: f64,
    /// The most of a GPU's memory that was in use, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_mb: Option<f64>,
}

/// How well the machine's arithmetic is used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compute {
    /// 10^9 floating-point operations a second of the median step.
    pub gflops: f64,
    /// 10^9 floating-point operations a second of bare matrix products in the same run.
    pub peak_gflops: f64,
    /// `gflops` over `peak_gflops`.
    pub mfu: f64,
    /// The same of the fastest step, which other programs on the machine disturbed least.
    pub mfu_max: f64,
}

impl Compute {
    /// `flops_per_token` is the cost of one of the tokens that `rate` counts.
    fn new(rate: Rate, flops_per_token: f64, threads: usize) -> anyhow::Result<Self> {
        Ok(Self::beside(rate, flops_per_token, on_threads(threads, || Ok(matrix_peak()))?))
    }

    /// The same beside the rate of bare products, in 10^9 operations a second.
    fn beside(rate: Rate, flops_per_token: f64, peak_gflops: f64) -> Self {
        let gflops = rate.median * flops_per_token / 1e9;
        let mfu_max = rate.max * flops_per_token / 1e9 / peak_gflops;
        Self { gflops, peak_gflops, mfu: gflops / peak_gflops, mfu_max }
    }
}

/// Seconds of each of `steps` calls, after `warmup` others.
fn time_steps(case: &Case, mut step: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    for _ in 0..case.warmup {
        step()?;
    }
    (0..case.steps.max(1))
        .map(|_| {
            let began = Instant::now();
            step()?;
            Ok(began.elapsed().max(Duration::from_nanos(1)).as_secs_f64())
        })
        .collect()
}

/// Token ids without meaning, the same every time.
fn synthetic_ids(count: usize, vocab_size: usize, salt: u64) -> Vec<u32> {
    let ids = (0..count as u64).map(|i| model::backend::mix(i ^ (salt << 32)) % vocab_size as u64);
    ids.map(|id| id as u32).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn small() -> Case {
        let model = ModelConfig { d_model: 16, n_layers: 1, vocab_size: 300, ..ModelConfig::default() };
        Case {
            model,
            seq_len: 12,
            batch_size: 3,
            device: Device::Cpu,
            precision: Precision::F32,
            lanes: 2,
            threads: 1,
            steps: 2,
            warmup: 1,
        }
    }

    #[test]
    fn rates_are_of_the_middle_slowest_and_fastest_step() {
        let rate = Rate::new(12.0, vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!(rate, Rate { median: 12.0 / 2.5, min: 3.0, max: 12.0 });
    }

    #[test]
    fn training_is_counted_by_the_configuration() {
        let report = train(&small()).unwrap();
        let (rate, compute) = (report.tokens_per_second, report.compute.unwrap());
        assert!(rate.min <= rate.median && rate.median <= rate.max);
        let cost = model::Cost::training(&small().model).per_token(12);
        assert!((compute.gflops - rate.median * cost / 1e9).abs() < 1e-9);
        assert!((compute.mfu - compute.gflops / compute.peak_gflops).abs() < 1e-12);
        let line = serde_json::to_string(&report).unwrap();
        for key in ["\"case\":\"train\"", "\"d_model\":16", "\"seq_len\":12", "\"mfu\":", "\"peak_rss_mb\":"]
        {
            assert!(line.contains(key), "{key} in {line}");
        }
    }

    #[test]
    fn every_case_yields_a_report() {
        let questions = exam(&small(), ExamCase { shared: 0, answer_len: 1 }).unwrap();
        let per_token = questions.tokens_per_second.median / questions.questions_per_second.unwrap().median;
        assert!((per_token - 12.0).abs() < 1e-6);
        let case = Case { seq_len: 40, ..small() };
        let sharing = exam(&case, ExamCase { shared: 20, answer_len: 3 }).unwrap().sharing.unwrap();
        // Three questions of 20 + 20 tokens with four answers of which two tokens are read.
        assert_eq!((sharing.tokens_alone, sharing.tokens_read), (12 * 42, 20 + 3 * 20 + 12 * 2));
        assert!(sharing.tokens_distinct <= sharing.tokens_read && sharing.speedup > 0.0);
        assert!(generate(&small()).unwrap().tokens_per_second.median > 0.0);
        let report = tokenize(&small(), None, None).unwrap();
        assert!(report.megabytes_per_second.unwrap().median > 0.0 && report.compute.is_none());
    }

    #[cfg(feature = "emulate")]
    #[test]
    fn a_gpu_is_measured_in_every_case_of_a_model() {
        let case =
            Case { device: Device::Cuda(None), precision: Precision::Bf16, steps: 1, warmup: 0, ..small() };
        let exam = exam(&case, ExamCase { shared: 5, answer_len: 2 });
        // Weights in f32 and bf16, and activations of a few positions; not the 8 MiB that a GPU's copies are measured by.
        let weights = 6.0 * case.model.params() as f64 / f64::from(1 << 20);
        for report in [train(&case), exam, generate(&case)].map(Result::unwrap) {
            let peak = report.peak_device_mb.unwrap();
            assert!(peak > weights && peak < 2.0 && report.compute.unwrap().gflops > 0.0, "{report:?}");
        }
    }
}
