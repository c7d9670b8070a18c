//! The verb `bench`: one line of JSON a case.

use super::device_arg::DeviceArgs;
use super::say;
use crate::bench::{self, Case, ExamCase};
use crate::system::on_threads;
use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use model::{Device, ModelConfig};
use std::path::PathBuf;

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Optimizer steps over full rows
    #[command(
        after_help = "Example: mindscale bench train --d-model 512 --n-layers 8 --n-heads 16 --n-kv-heads 8 --seq-len 512 --batch-size 8"
    )]
    Train(CaseArgs),
    /// Questions of an exam, --batch-size at a time, with their common beginnings read once and each by itself
    #[command(after_help = "Example: mindscale bench exam --seq-len 480 --shared 400 --answer-len 6")]
    Exam {
        #[command(flatten)]
        case: CaseArgs,
        /// Tokens that all prompts begin with, as few-shot prompts of a subject do
        #[arg(long, default_value_t = 0)]
        shared: usize,
        /// Tokens of each of four answers; 1 is a letter
        #[arg(long, default_value_t = 1)]
        answer_len: usize,
    },
    /// Texts to tokenize, --batch-size at a time
    #[command(after_help = "Example: mindscale bench tokenize --tokenizer my-tokenizer --text lines.txt")]
    Tokenize {
        #[command(flatten)]
        case: CaseArgs,
        /// A tokenizer.json or its folder; unset: one of --vocab-size entries is trained
        #[arg(long)]
        tokenizer: Option<PathBuf>,
        /// A file of one text a line; unset: texts of the built-in world
        #[arg(long)]
        text: Option<PathBuf>,
    },
    /// Texts written behind a prompt of --seq-len tokens, --batch-size at a time; a step is a token of each
    #[command(
        after_help = "Example: mindscale bench generate --d-model 512 --n-layers 8 --batch-size 1 --steps 64"
    )]
    Generate(CaseArgs),
}

/// The shape and the amount of work.
#[derive(Debug, Args)]
pub struct CaseArgs {
    /// Width of the residual stream
    #[arg(long, default_value_t = 128)]
    d_model: usize,
    /// Blocks
    #[arg(long, default_value_t = 4)]
    n_layers: usize,
    /// Query heads
    #[arg(long, default_value_t = 4)]
    n_heads: usize,
    /// Key-value heads
    #[arg(long, default_value_t = 2)]
    n_kv_heads: usize,
    /// Entries of the vocabulary
    #[arg(long, default_value_t = 6400)]
    vocab_size: usize,
    /// Routed experts; 0 is a dense model
    #[arg(long, default_value_t = 0)]
    n_experts: usize,
    /// Routed experts of a token
    #[arg(long, default_value_t = 2)]
    top_k: usize,
    /// Experts of every token, where there are routed ones
    #[arg(long, default_value_t = 1)]
    n_shared_experts: usize,
    /// Tokens of a row or of a prompt
    #[arg(long, default_value_t = 256)]
    seq_len: usize,
    /// Rows, questions or texts of a step
    #[arg(long, default_value_t = 16)]
    batch_size: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Lanes of a training batch
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Threads; 0 takes all cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Steps that are measured
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// Steps before them
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

/// Measures one case and prints it.
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
        "note: these figures hold for this machine and what else runs on it; compare programs in turn, not by memory"
    );
    say(serde_json::to_string(&report)?)?;
    Ok(true)
}
