//! The keys that hold one of some words.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the training data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The built-in world: generated text, questions, preference pairs and exam sheets.
    World,
    /// The files named by `data.pretrain`, `data.sft` and `data.dpo`.
    Files,
    /// A probe: k-hop induction.
    Hops,
    /// A probe: associative recall.
    Recall,
    /// A probe: knowledge capacity.
    Capacity,
}

impl Source {
    /// As it is written.
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

/// What happens to a row that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BadRow {
    /// Stop with file, line and reason.
    Error,
    /// Leave it out, count it and list it in the log.
    Skip,
}

/// What happens to content under a key, or in a column, that the layout of a data file has no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownKeys {
    /// Stop with file, line and key.
    Error,
    /// Read on without it, count the rows and tell the keys of each file.
    Ignore,
}

/// Which tokens of a conversation a row holds, and which of them carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowStyle {
    /// The loss falls on answers, as the turns tell them; rows without a word of them are left out.
    Turns,
    /// As MiniMind v1: the loss falls on all that follows the last `<s>assistant` of the cut ids, or their fourth.
    Minimind,
}

/// How documents become rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Several documents a row, attention and positions separated per document.
    Separated,
    /// One document a row, cut at `seq_len` as MiniMind does (padding is never computed).
    Single,
}

/// Which answers of a conversation carry loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerLoss {
    /// The last answer of the cut conversation of which words are left.
    Last,
    /// Every assistant turn.
    Every,
}

/// How a first-order optimizer updates weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    Adamw,
    /// Adam without weight decay, as MiniMind trains.
    Adam,
    /// Muon for the matrices of blocks, with the same learning rate (Jordan et al. 2024; Liu et al. 2025), and AdamW for
    /// embedding, head, router and norms.
    Muon,
}

/// The course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine from `lr` to `min_lr_ratio * lr`.
    Cosine,
    /// A straight line from `lr` to `min_lr_ratio * lr`.
    Linear,
    /// `lr` throughout.
    Constant,
    /// Warm-up, stable, decay: `lr` until the last `decay_share` of the steps, then a line to `min_lr_ratio * lr`.
    Wsd,
}

/// The preference loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DpoLoss {
    /// `-log sigmoid(beta * margin)` (Rafailov et al. 2023, eq. 7).
    Sigmoid,
    /// `(margin - 1 / (2 beta))^2` (Azar et al. 2023, eq. 17).
    Ipo,
}

/// How an exam question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The letter with the highest next-token probability behind the listed options, as MiniMind's.
    Letter,
    /// The option whose text is most likely as the answer, behind the listed options.
    Cloze,
    /// The option whose text is most likely as the answer to the question alone: OLMES's cloze formulation (Gu et al. 2024).
    Continuation,
}
