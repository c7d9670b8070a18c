//! Answers of several models to the same prompts, side by side, and the verdicts of a judge on them.
//!
//! Models and prompts flow in, a [`Comparison`] flows out: [`answer`] generates the answers, [`Judge`] asks another
//! model which of two answers is better, [`Comparison::render`] formats the result. *Invariant:* a seed determines the
//! comparison to the last byte, except for the judge's replies.

mod ask;
mod client;
mod judge;
mod page;
mod show;
mod tally;
#[cfg(test)]
mod tests;

pub use ask::{Ask, answer};
pub use client::Client;
pub use judge::{Judge, Judgement, Verdict};
pub use show::Format;
pub use tally::{Judged, Pair, Share};

use crate::models::Form;
use serde::Serialize;
use serde_json::Value;

/// The answers of several models to some prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The models, in the order of their letters.
    pub models: Vec<Compared>,
    /// The sampling options of all models, by name.
    pub sampling: Value,
    /// The prompts, each with an answer of every model.
    pub prompts: Vec<Asked>,
    /// The judge's verdicts, if there was a judge.
    pub judge: Option<Judged>,
}

/// A model in a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Letter of the model next to its answers: A, B, ...
    pub letter: String,
    /// Name of the model.
    pub name: String,
    /// Where the model was loaded from.
    pub source: String,
    /// Name of the stage that trained it; `None` if no stage run of ours did.
    pub stage: Option<&'static str>,
    /// Number of parameters.
    pub params: usize,
    /// How the model is prompted.
    pub form: Form,
}

/// A prompt and the answers to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Asked {
    /// The prompt.
    pub prompt: String,
    /// The answers, in the order of the models.
    pub answers: Vec<Answer>,
}

/// An answer to a prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// Generated text, without the prompt.
    pub text: String,
    /// How the text ended.
    pub finish_reason: Finish,
    /// Number of generated tokens.
    pub tokens: usize,
    /// Number of tokens of the prompt.
    pub prompt_tokens: usize,
    /// Fraction of the other models' answers that it was judged better than, ties counting half; `None` if it was not
    /// judged.
    pub score: Option<f64>,
}

/// How an answer ended, named as in OpenAI's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By an end token or a stop string.
    Stop,
    /// By its maximum length.
    Length,
}

impl Finish {
    /// Returns the name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// Returns the letters of the model at an index: A to Z, then AA, AB, ...
fn letter(place: usize) -> String {
    let last = char::from(b'A' + (place % 26) as u8);
    match place / 26 {
        0 => last.to_string(),
        before => format!("{}{last}", letter(before - 1)),
    }
}
