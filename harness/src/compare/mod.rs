//! Answers of several models to the same prompts, side by side, and what a judge thinks of them.
//!
//! Models and prompts flow in, a [`Comparison`] flows out: [`answer`] has the models write, [`Judge`] asks another model
//! which of two answers is better, [`Comparison::render`] shows it all. *Invariant:* one seed gives one comparison, to the
//! last byte, but for what a judge says.

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
    /// The options that all of them wrote with, by name.
    pub sampling: Value,
    /// The prompts, each with an answer of every model.
    pub prompts: Vec<Asked>,
    /// What the judge said, where one was asked.
    pub judge: Option<Judged>,
}

/// A model that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// What it is called beside its answers: A, B, ...
    pub letter: String,
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// The stage that made it, where one of ours did.
    pub stage: Option<&'static str>,
    /// Its weights.
    pub params: usize,
    /// What it is given to write behind.
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

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// What was written, without the prompt.
    pub text: String,
    /// How it ended.
    pub finish_reason: Finish,
    /// Tokens that were written.
    pub tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The share of the other models' answers that it was judged better than, equal ones counting half; `None` where it
    /// was not judged.
    pub score: Option<f64>,
}

/// How an answer ended, by OpenAI's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By itself, or by a string.
    Stop,
    /// It was cut.
    Length,
}

impl Finish {
    /// As files have it.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// The letters of the model at a place: A to Z, then AA, AB, ...
fn letter(place: usize) -> String {
    let last = char::from(b'A' + (place % 26) as u8);
    match place / 26 {
        0 => last.to_string(),
        before => format!("{}{last}", letter(before - 1)),
    }
}
