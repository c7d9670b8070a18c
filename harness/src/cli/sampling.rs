//! How tokens are chosen: the options that `generate` and `chat` have in common.

use clap::Args;
use model::{GenerateOptions, Sampling};
use serde::Serialize;

/// The defaults are those of MiniMind's chat.
#[derive(Debug, Clone, Args, Serialize)]
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

    /// Sets an option by its name, such as `temperature` or `top-p`.
    ///
    /// # Errors
    /// Where there is no such option, or it cannot have this value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let count = || value.parse().map_err(|_| format!("{value:?}: expected a whole number"));
        match name.replace('_', "-").as_str() {
            "max-tokens" => self.max_tokens = count()?,
            "temperature" => self.temperature = temperature(value)?,
            "top-k" => self.top_k = count()?,
            "top-p" => self.top_p = top_p(value)?,
            "min-p" => self.min_p = min_p(value)?,
            "repetition-penalty" => self.repetition_penalty = repetition_penalty(value)?,
            "seed" => self.seed = value.parse().map_err(|_| format!("{value:?}: expected a whole number"))?,
            _ => {
                let names = NAMES.join(", ");
                let hint = crate::config::did_you_mean(name, NAMES);
                return Err(format!("there is no option {name:?}, expected {names}{hint}"));
            }
        }
        Ok(())
    }

    /// Every option with its value.
    pub fn show(&self) -> String {
        let Self { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = self;
        format!(
            "max-tokens {max_tokens}, temperature {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}, \
             repetition-penalty {repetition_penalty}, seed {seed}"
        )
    }
}

const NAMES: [&str; 7] =
    ["max-tokens", "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed"];

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
