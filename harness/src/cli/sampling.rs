//! Sampling options of the verbs that generate text.

use super::whole;
use clap::Args;
use model::{GenerateOptions, Sampling};
use serde::Serialize;

/// Sampling options; the defaults are those of MiniMind's chat.
#[derive(Debug, Clone, Args, Serialize)]
pub struct SamplingArgs {
    /// Maximum number of new tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>)]
    pub max_tokens: usize,
    /// Divisor of the logits; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = temperature)]
    pub temperature: f64,
    /// Sample from the K most likely tokens; 0: from all
    #[arg(long, value_name = "K", default_value_t = 8, value_parser = whole::<usize>)]
    pub top_k: usize,
    /// Sample from the most likely tokens that together reach this probability; 1: from all
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = top_p)]
    pub top_p: f64,
    /// Sample from tokens with at least this fraction of the most likely token's probability; 0: from all
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = min_p)]
    pub min_p: f64,
    /// Penalty for tokens that have already occurred; 1: none
    #[arg(long, value_name = "R", default_value_t = 1.0, value_parser = repetition_penalty)]
    pub repetition_penalty: f64,
    /// Seed; equal seeds generate equal texts
    #[arg(long, value_name = "S", default_value_t = 1, value_parser = whole::<u64>)]
    pub seed: u64,
    /// End the text before this string; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = stop)]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// Returns the options of generation; `stop` are the tokens that end a text.
    pub fn options(&self, stop: Vec<u32>) -> GenerateOptions {
        let &Self { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } = self;
        let sampling = Sampling { repetition_penalty, temperature, top_k, top_p, min_p };
        GenerateOptions { max_tokens, sampling, seed, stop, ..GenerateOptions::default() }
    }

    /// Sets an option by its name, such as `temperature` or `top-p`. `stop` is replaced by one string; an empty value
    /// removes all.
    ///
    /// # Errors
    /// If there is no such option, or the value is not allowed.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name.replace('_', "-").as_str() {
            "max-tokens" => self.max_tokens = whole(value)?,
            "temperature" => self.temperature = temperature(value)?,
            "top-k" => self.top_k = whole(value)?,
            "top-p" => self.top_p = top_p(value)?,
            "min-p" => self.min_p = min_p(value)?,
            "repetition-penalty" => self.repetition_penalty = repetition_penalty(value)?,
            "seed" => self.seed = whole(value)?,
            "stop" => {
                self.stop =
                    Some(value).filter(|value| !value.is_empty()).map(str::to_owned).into_iter().collect()
            }
            _ => {
                let names = NAMES.join(", ");
                let hint = crate::config::did_you_mean(name, NAMES);
                return Err(format!("there is no option {name:?}, expected {names}{hint}"));
            }
        }
        Ok(())
    }

    /// Formats every option with its value.
    pub fn show(&self) -> String {
        let Self { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop } = self;
        let stop: Vec<String> = stop.iter().map(|text| format!("{text:?}")).collect();
        let stop = if stop.is_empty() { "none".into() } else { stop.join(" ") };
        format!(
            "max-tokens {max_tokens}, temperature {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}, \
             repetition-penalty {repetition_penalty}, seed {seed}, stop {stop}"
        )
    }
}

const NAMES: [&str; 8] =
    ["max-tokens", "temperature", "top-k", "top-p", "min-p", "repetition-penalty", "seed", "stop"];

/// Parses a number and validates the sampling options that `set` makes of it.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stop_strings_are_set_and_shown() {
        let mut args = SamplingArgs {
            max_tokens: 128,
            temperature: 0.7,
            top_k: 8,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 1,
            stop: vec![],
        };
        assert!(args.show().ends_with(", seed 1, stop none"), "{}", args.show());
        args.set("stop", "。").unwrap();
        assert_eq!(args.stop, ["。"]);
        assert!(args.show().ends_with(", stop \"。\""), "{}", args.show());
        args.set("stop", "").unwrap();
        assert!(args.stop.is_empty());
        assert_eq!(args.set("top-k", "-1").unwrap_err(), "expected a whole number of 0 or more");
        assert!(args.set("stops", "a").unwrap_err().ends_with("did you mean stop?"));
    }
}
