//! The verb `generate`: a model writes on, token by token.

use super::model_arg::ModelArg;
use super::say;
use crate::data::stream::TextStream;
use crate::data::{Message, SpecialText, Tokenizer};
use anyhow::Result;
use clap::Args;
use model::{Cpu, GenerateOptions, Sampling, Transformer};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `generate`. The defaults are those of MiniMind's chat.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArg,
    /// The beginning of a document, or with --chat a question
    #[arg(long)]
    prompt: String,
    /// New tokens at most
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Logits are divided by it; 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f64,
    /// Choose among so many of the likeliest tokens; 0 is all
    #[arg(long, default_value_t = 8)]
    top_k: usize,
    /// Choose among the likeliest tokens that together reach this probability; 1 is all
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Makes tokens that were seen less likely; 1 changes nothing
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f64,
    /// Equal seeds write equal texts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Put the prompt into the chat template, as a user's turn
    #[arg(long)]
    chat: bool,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Print JSON for programs, when the text is complete
    #[arg(long)]
    json: bool,
}

/// Writes on after a prompt.
pub fn generate(args: &GenerateArgs) -> Result<bool> {
    let dir = args.model.folder()?;
    let tokenizer = Tokenizer::load(args.tokenizer.as_deref().unwrap_or(&dir))?;
    let transformer = Transformer::load(&dir, &Cpu)?;
    let prompt = if args.chat {
        tokenizer.conversation(&[Message::new("user", args.prompt.as_str())], SpecialText::Characters)?.ids
    } else {
        tokenizer.encode_opening(&args.prompt)?
    };
    let longest = transformer.config.max_seq_len;
    if prompt.len() + args.max_tokens > longest {
        tracing::warn!(
            "{} tokens of prompt and {} new ones are more than the {longest} that the model is meant for",
            prompt.len(),
            args.max_tokens
        );
    }
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling: Sampling {
            repetition_penalty: args.repetition_penalty,
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
        },
        seed: args.seed,
        stop: tokenizer.eos().into_iter().collect(),
    };

    let (mut stream, mut text, mut failed) = (TextStream::new(&tokenizer), String::new(), None);
    let began = Instant::now();
    let mut first = None;
    let written = transformer.generate(&prompt, &options, |id| {
        first.get_or_insert_with(Instant::now);
        let mut piece = || -> Result<()> {
            let piece = stream.push(id)?;
            text.push_str(&piece);
            if args.json { Ok(()) } else { show(&piece) }
        };
        match piece() {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let ended = Instant::now();
    let rest = stream.finish()?;
    if !args.json {
        say(rest)?;
        return Ok(true);
    }
    let first = first.unwrap_or(ended);
    // The first token comes of reading the prompt; the others are what writing costs.
    let per_second = written.len().saturating_sub(1) as f64 / (ended - first).as_secs_f64().max(1e-9);
    say(serde_json::json!({
        "text": text + &rest,
        "tokens": written.len(),
        "tokens_per_second": per_second,
        "prompt_tokens": prompt.len(),
        "seconds_to_first_token": (first - began).as_secs_f64(),
        "stopped": written.len() < args.max_tokens,
    }))?;
    Ok(true)
}

/// Prints a piece of text at once.
fn show(piece: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(piece.as_bytes())?;
    Ok(out.flush()?)
}
