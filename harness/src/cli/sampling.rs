//! How tokens are chosen, as options.

use clap::Args;
use model::{GenerateOptions, Sampling};

/// The defaults are those of MiniMind's chat.
#[derive(Debug, Clone, Args)]
pub struct SamplingArgs {
    /// New tokens at most
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_tokens: usize,
    /// Logits are divided by it; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.7, allow_negative_numbers = true, value_parser = temperature)]
    pub temperature: f64,
    /// Choose among so many of the likeliest tokens; 0 is all
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub top_k: usize,
    /// Choose among the likeliest tokens that together reach this probability; 1 is all
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true, value_parser = top_p)]
    pub top_p: f64,
    /// Choose among tokens that have this share of the likeliest one's probability; 0 is all
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true, value_parser = min_p)]
    pub min_p: f64,
    /// Makes tokens that were seen less likely; 1 changes nothing
    #[arg(long, value_name = "R", default_value_t = 1.0, allow_negative_numbers = true, value_parser = repetition_penalty)]
    pub repetition_penalty: f64,
    /// Equal seeds write equal texts
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// End the text where this string begins; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = stop)]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// How a text is written; `stop` are the tokens that end it.
    pub fn options(&self, stop: Vec<u32>) -> GenerateOptions {
        let &Self { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = self;
        let sampling = Sampling { repetition_penalty, temperature, top_k, top_p, min_p };
        GenerateOptions { max_tokens, sampling, seed, stop, ..GenerateOptions::default() }
    }
}

/// A number with which `set` makes sense of sampling.
fn checked(text: &str, set: impl Fn(f64) -> Sampling) -> Result<f64, String> {
    let value = text.parse().map_err(|_| "expected a number, such as 0.7".to_owned())?;
    set(value).validate().map_err(|error| error.to_string())?;
    Ok(value)
}

fn temperature(text: &str) -> Result<f64, String> {
    checked(text, |temperature| Sampling { temperature, ..Sampling::default() })
}

fn top_p(text: &str) -> Result<f64, String> {
    checked(text, |top_p| Sampling { top_p, ..Sampling::default() })
}

fn min_p(text: &str) -> Result<f64, String> {
    checked(text, |min_p| Sampling { min_p, ..Sampling::default() })
}

fn repetition_penalty(text: &str) -> Result<f64, String> {
    checked(text, |repetition_penalty| Sampling { repetition_penalty, ..Sampling::default() })
}

fn stop(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("expected a text of at least one character".into()) } else { Ok(text.into()) }
}
