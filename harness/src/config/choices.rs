//! Types of the keys whose value is one of a few words.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Source of the training data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The built-in world: generated text, questions, preference pairs and exam sheets.
    World,
    /// The files named by `data.pretrain`, `data.sft`, `data.sft_multi`, `data.lora` and `data.dpo`.
    Files,
    /// Probe of k-hop induction.
    Hops,
    /// Probe of associative recall.
    Recall,
    /// Probe of knowledge capacity.
    Capacity,
}

impl Source {
    /// Returns the value as it is written in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::World => "world",
            Self::Files => "files",
            Self::Hops => "hops",
            Self::Recall => "recall",
            Self::Capacity => "capacity",
        }
    }
}

/// What to do with a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRow {
    /// Stop, reporting file, line and reason.
    Error,
    /// Leave it out, count it and list it in the log.
    Skip,
}

/// What to do with content under a key, or in a column, that the layout of a data file does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownKeys {
    /// Stop, reporting file, line and key.
    Error,
    /// Skip the content, count the rows and report the keys of each file.
    Ignore,
}

/// Which tokens of a conversation a row holds, and which of them carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowStyle {
    /// Loss on the answers, whose turns may override which ones; rows without a word of an answer left are dropped.
    Turns,
    /// As MiniMind v1: loss on everything after the last `<s>assistant` of the truncated ids, or from their fourth id
    /// if there is none.
    Minimind,
}

/// How documents are packed into the rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Several documents per row; attention and positions are separate for each document.
    Separated,
    /// One document per row, truncated at `seq_len` as MiniMind does (padding is never computed).
    Single,
}

/// Which answers of a conversation carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerLoss {
    /// The last answer of the truncated conversation that still has words.
    Last,
    /// Every assistant turn.
    Every,
}

/// Optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    Adamw,
    /// Adam without weight decay, as MiniMind trains.
    Adam,
    /// Muon for the matrices of the blocks, with the same learning rate (Jordan et al. 2024; Liu et al. 2025); AdamW
    /// for embedding, head, router and norms.
    Muon,
}

/// Learning-rate schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine from `lr` to `min_lr_ratio * lr`.
    Cosine,
    /// Linear from `lr` to `min_lr_ratio * lr`.
    Linear,
    /// Constant `lr`.
    Constant,
    /// Warm-up, stable, decay: `lr` until the last `decay_share` of the steps, then linear to `min_lr_ratio * lr`.
    Wsd,
}

/// How exam prompts are worded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ExamFormat {
    /// As MiniMind does: the question is a user turn in the chat template.
    Minimind,
    /// As the tasks `ceval-valid` of lm-evaluation-harness do: plain text, without the chat template.
    LmEval,
}

/// How an exam question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// By the letter with the highest next-token probability after the listed options, as MiniMind does.
    Letter,
    /// By the option whose text is the most likely answer, after the listed options.
    Cloze,
    /// By the option whose text is the most likely answer to the question alone: OLMES's cloze formulation (Gu et al.
    /// 2024).
    Continuation,
}
