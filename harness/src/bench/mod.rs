//! Speed of this program on this machine: training, exams, tokenization, generation.
//!
//! A shape flows in and one [`Report`] flows out. The inputs are synthetic; the measured code is that of real stages.
//! *Invariant:* floating-point operations are counted by [`model::Cost`] alone.

mod cases;

pub use cases::{exam, generate, tokenize, train};

use crate::system::on_threads;
use model::backend::Activity;
use model::backend::cpu::matrix_peak;
use model::{Device, ModelConfig, Precision};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A benchmark case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Shape of the model, whose weights are random.
    #[serde(skip)]
    pub model: ModelConfig,
    /// Tokens per row or prompt.
    pub seq_len: usize,
    /// Rows, questions or texts per step.
    pub batch_size: usize,
    /// Device that the model runs on.
    pub device: Device,
    /// Number format of a GPU's computations.
    pub precision: Precision,
    /// Lanes of a training batch.
    pub lanes: usize,
    /// Number of threads; 0 uses all cores.
    pub threads: usize,
    /// Number of measured steps.
    pub steps: usize,
    /// Number of warm-up steps before the measured ones.
    pub warmup: usize,
}

/// Number of answers per exam question.
pub const OPTIONS: usize = 4;

/// What the prompts of an exam share, and the length of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ExamCase {
    /// Length in tokens of the prefix that all prompts share; less than the prompts' length.
    pub shared: usize,
    /// Tokens per answer; 1 stands for a letter.
    pub answer_len: usize,
}

/// Speedup from reading shared prefixes once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sharing {
    /// The measured exam.
    #[serde(flatten)]
    pub exam: ExamCase,
    /// Tokens read without sharing: each prompt once for its letters, or once for each longer answer.
    pub tokens_alone: usize,
    /// Tokens if every shared prefix is read exactly once.
    pub tokens_distinct: usize,
    /// Tokens actually read with sharing.
    pub tokens_read: usize,
    /// Upper bound of the speedup: `tokens_alone` over `tokens_distinct`.
    pub ceiling: f64,
    /// Upper bound of the speedup if every operation took equally long: tokens after a prefix attend to all of it, and
    /// logits of an answer's tokens cannot be shared.
    pub operations_ceiling: f64,
    /// Median time without sharing over median time with sharing, measured alternately.
    pub speedup: f64,
    /// `speedup` over `ceiling`.
    pub of_ceiling: f64,
    /// `speedup` over `operations_ceiling`.
    pub of_operations_ceiling: f64,
}

/// Rates of the median, slowest and fastest step, in units per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// Rate of the median step.
    pub median: f64,
    /// Rate of the slowest step.
    pub min: f64,
    /// Rate of the fastest step.
    pub max: f64,
}

impl Rate {
    /// Computes the rates from the seconds of steps of `units` each; `seconds` must not be empty.
    fn new(units: f64, mut seconds: Vec<f64>) -> Self {
        seconds.sort_unstable_by(f64::total_cmp);
        let (fastest, slowest) = (seconds[0], seconds[seconds.len() - 1]);
        let middle = (seconds[(seconds.len() - 1) / 2] + seconds[seconds.len() / 2]) / 2.0;
        Self { median: units / middle, min: units / slowest, max: units / fastest }
    }
}

/// Result of a benchmark case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `train`, `exam`, `tokenize` or `generate`.
    pub case: &'static str,
    /// Keys of the model's shape; `None` if the case has no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<ModelConfig>,
    /// The measured case.
    #[serde(flatten)]
    pub settings: Case,
    /// Number of parameters; `None` if the case has no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<usize>,
    /// Tokens per second; for an exam, tokens actually read.
    pub tokens_per_second: Rate,
    /// Exam questions per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions_per_second: Option<Rate>,
    /// Speedup from sharing in an exam.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Megabytes (10^6 bytes) of text per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub megabytes_per_second: Option<Rate>,
    /// Arithmetic throughput; `None` if the case has no model.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
    /// Peak resident set size in MiB.
    pub peak_rss_mb: f64,
    /// Peak GPU memory in use, in MiB; `None` on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_device_mb: Option<f64>,
    /// What a training step asks of a GPU; `None` on the CPU.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub device_work: Option<DeviceWork>,
}

/// What a step asks of a GPU, on average.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DeviceWork {
    /// Number of kernels, matrix products, copies and fills.
    pub device_operations: f64,
    /// Number of times that the process waits for the GPU.
    pub device_waits: f64,
    /// Milliseconds that it waits.
    pub device_waited_ms: f64,
}

impl DeviceWork {
    /// Divides what was done between two readings among `steps` steps.
    fn between(before: Activity, after: Activity, steps: usize) -> Self {
        let each = |total: f64| total / steps as f64;
        Self {
            device_operations: each((after.operations - before.operations) as f64),
            device_waits: each((after.waits - before.waits) as f64),
            device_waited_ms: each((after.waited - before.waited).as_secs_f64() * 1e3),
        }
    }
}

/// Arithmetic throughput relative to that of bare matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compute {
    /// Throughput of the median step, in 10^9 floating-point operations per second.
    pub gflops: f64,
    /// Throughput of bare matrix products in the same run, in 10^9 floating-point operations per second.
    pub peak_gflops: f64,
    /// Model FLOPs utilization: `gflops` over `peak_gflops`.
    pub mfu: f64,
    /// Utilization of the fastest step, which other programs on the machine disturbed least.
    pub mfu_max: f64,
}

impl Compute {
    /// Measures bare matrix products for comparison; `flops_per_token` is the cost of one of the tokens that `rate`
    /// counts.
    fn new(rate: Rate, flops_per_token: f64, threads: usize) -> anyhow::Result<Self> {
        Ok(Self::beside(rate, flops_per_token, on_threads(threads, || Ok(matrix_peak()))?))
    }

    /// Compares with a known rate of bare matrix products, in 10^9 floating-point operations per second.
    fn beside(rate: Rate, flops_per_token: f64, peak_gflops: f64) -> Self {
        let gflops = rate.median * flops_per_token / 1e9;
        let mfu_max = rate.max * flops_per_token / 1e9 / peak_gflops;
        Self { gflops, peak_gflops, mfu: gflops / peak_gflops, mfu_max }
    }
}

/// Returns the seconds of each of `steps` calls, after `warmup` unmeasured ones.
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

/// Returns pseudo-random token ids, the same for each `salt`.
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
        // Three questions of 20 + 20 tokens, with four answers each, of which two tokens are read.
        assert_eq!((sharing.tokens_alone, sharing.tokens_read), (12 * 42, 20 + 3 * 20 + 12 * 2));
        assert!(sharing.tokens_distinct <= sharing.tokens_read && sharing.speedup > 0.0);
        // Every answer token has logits of its own, but all answers to a question share those of their first.
        let (cost, head) = (model::Cost::forward(&case.model), (2 * 16 * case.model.vocab_size) as f64);
        let operations = |tokens: usize, squares: f64, logits: f64| {
            (cost.linear - head) * tokens as f64 + cost.quadratic * squares + head * logits
        };
        let alone = operations(12 * 42, 12.0 * 42.0 * 42.0, 12.0 * 3.0);
        let squares = 20.0 * 20.0 + 3.0 * (40.0 * 40.0 - 20.0 * 20.0) + 12.0 * (42.0 * 42.0 - 40.0 * 40.0);
        let shared = operations(sharing.tokens_distinct, squares, 3.0 + 12.0 * 2.0);
        assert!((sharing.operations_ceiling / (alone / shared) - 1.0).abs() < 1e-12);
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
        // Weights in f32 and bf16, and activations of a few positions; not the 8 MiB with which a GPU's copy speed is
        // measured.
        let weights = 6.0 * case.model.params() as f64 / f64::from(1 << 20);
        for report in [train(&case), exam, generate(&case)].map(Result::unwrap) {
            let peak = report.peak_device_mb.unwrap();
            assert!(peak > weights && peak < 2.0 && report.compute.unwrap().gflops > 0.0, "{report:?}");
        }
        // The losses of the only pass, and the norm.
        let work = |steps| train(&Case { steps, ..case.clone() }).unwrap().device_work.unwrap();
        let (one, three) = (work(1), work(3));
        assert!(one.device_waits == 2.0 && one.device_operations > 50.0, "{one:?}");
        assert_eq!((three.device_waits, three.device_operations), (2.0, one.device_operations));
    }
}
