//! The verb `bench`: prints one line of JSON per case.

use super::device_arg::DeviceArgs;
use super::say;
use crate::bench::{self, Case, ExamCase};
use crate::system::on_threads;
use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use model::{Device, ModelConfig};
use std::path::PathBuf;

/// The benchmark to run.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Measure optimizer steps on full rows
    #[command(
        after_help = "Example: mindscale bench train --d-model 512 --n-layers 8 --n-heads 16 --n-kv-heads 8 --seq-len 512 --batch-size 8"
    )]
    Train(CaseArgs),
    /// Measure exam questions, --batch-size at a time, both with their common prefix shared and with each question on
    /// its own
    #[command(after_help = "Example: mindscale bench exam --seq-len 480 --shared 400 --answer-len 6")]
    Exam {
        #[command(flatten)]
        case: CaseArgs,
        /// Length in tokens of the prefix that all prompts share, as few-shot prompts of a subject do
        #[arg(long, default_value_t = 0)]
        shared: usize,
        /// Tokens of each of the four answers; 1 stands for a letter
        #[arg(long, default_value_t = 1)]
        answer_len: usize,
    },
    /// Measure the tokenization of texts, --batch-size at a time
    #[command(after_help = "Example: mindscale bench tokenize --tokenizer my-tokenizer --text lines.txt")]
    Tokenize {
        #[command(flatten)]
        case: CaseArgs,
        /// A tokenizer.json or its folder; unset: train one with --vocab-size entries
        #[arg(long)]
        tokenizer: Option<PathBuf>,
        /// File with one text per line; unset: texts of the built-in world
        #[arg(long)]
        text: Option<PathBuf>,
    },
    /// Measure generation after a prompt of --seq-len tokens, --batch-size texts at a time; a step adds one token to
    /// each
    #[command(
        after_help = "Example: mindscale bench generate --d-model 512 --n-layers 8 --batch-size 1 --steps 64"
    )]
    Generate(CaseArgs),
}

/// Shape of the model and amount of work.
#[derive(Debug, Args)]
pub struct CaseArgs {
    /// Width of the residual stream
    #[arg(long, default_value_t = 128)]
    d_model: usize,
    /// Number of blocks
    #[arg(long, default_value_t = 4)]
    n_layers: usize,
    /// Number of query heads
    #[arg(long, default_value_t = 4)]
    n_heads: usize,
    /// Number of key-value heads
    #[arg(long, default_value_t = 2)]
    n_kv_heads: usize,
    /// Number of vocabulary entries
    #[arg(long, default_value_t = 6400)]
    vocab_size: usize,
    /// Number of routed experts; 0: a dense model
    #[arg(long, default_value_t = 0)]
    n_experts: usize,
    /// Routed experts per token
    #[arg(long, default_value_t = 2)]
    top_k: usize,
    /// Shared experts, which every token uses, if there are routed ones
    #[arg(long, default_value_t = 1)]
    n_shared_experts: usize,
    /// Tokens per row or prompt
    #[arg(long, default_value_t = 256)]
    seq_len: usize,
    /// Rows, questions or texts per step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Lanes of a training batch
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Number of threads; 0: all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Number of measured steps
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Number of warm-up steps before the measured ones
    #[arg(long, default_value_t = 2)]
    warmup: usize,
}

impl CaseArgs {
    fn case(&self) -> Result<Case> {
        let model = ModelConfig {
            d_model: self.d_model,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            vocab_size: self.vocab_size,
            n_experts: self.n_experts,
            top_k: self.top_k,
            n_shared_experts: self.n_shared_experts,
            max_seq_len: self.seq_len,
            ..ModelConfig::default()
        };
        model.validate()?;
        let amounts = [
            ("--seq-len", self.seq_len),
            ("--batch-size", self.batch_size),
            ("--lanes", self.lanes),
            ("--steps", self.steps),
        ];
        for (flag, amount) in amounts {
            ensure!(amount > 0, "{flag} is 0, expected at least 1");
        }
        let DeviceArgs { device, precision } = self.device;
        let Self { seq_len, batch_size, lanes, threads, steps, warmup, .. } = *self;
        Ok(Case { model, seq_len, batch_size, device, precision, lanes, threads, steps, warmup })
    }
}

/// Measures one case and prints the result.
pub fn bench(verb: &BenchVerb) -> Result<bool> {
    let case = match verb {
        BenchVerb::Train(args) | BenchVerb::Generate(args) => args.case()?,
        BenchVerb::Exam { case, .. } | BenchVerb::Tokenize { case, .. } => case.case()?,
    };
    ensure!(
        case.device == Device::Cpu || !matches!(verb, BenchVerb::Tokenize { .. }),
        "--device {}: texts are tokenized on the processor; leave --device out",
        case.device
    );
    let report = on_threads(case.threads, || match verb {
        BenchVerb::Train(_) => bench::train(&case),
        BenchVerb::Exam { shared, answer_len, .. } => {
            let (shared, answer_len) = (*shared, *answer_len);
            ensure!(answer_len > 0, "--answer-len is 0, expected at least 1");
            ensure!(
                shared < case.seq_len,
                "--shared is {shared}, expected fewer than --seq-len = {}",
                case.seq_len
            );
            bench::exam(&case, ExamCase { shared, answer_len })
        }
        BenchVerb::Generate(_) => bench::generate(&case),
        BenchVerb::Tokenize { tokenizer, text, .. } => {
            bench::tokenize(&case, tokenizer.as_deref(), text.as_deref())
        }
    })?;
    eprintln!(
        "note: these figures hold for this machine and its current load; to compare programs, run them one after the other"
    );
    say(serde_json::to_string(&report)?)?;
    Ok(true)
}
