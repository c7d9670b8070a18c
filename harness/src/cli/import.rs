//! The verb `import`.

use super::say;
use crate::data::Tokenizer;
use anyhow::{Context, Result};
use clap::Args;
use model::{Cpu, Transformer, Weights, folder};
use std::path::PathBuf;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A folder as MiniMind publishes it: config.json and pytorch_model.bin, *.pth or model.safetensors
    from: PathBuf,
    /// The model folder to write
    to: PathBuf,
    /// Weights, where they lie elsewhere
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Turns a MiniMind checkpoint into a model folder.
pub fn import(args: &ImportArgs) -> Result<bool> {
    let transformer = match &args.weights {
        Some(path) => {
            let config = folder::read_config(&args.from.join("config.json"))?;
            let weights = Weights::from_tensors(&config, folder::read_weights(path)?, path)?;
            Transformer::from_weights(&config, weights, &Cpu)?
        }
        None => Transformer::load(&args.from, &Cpu)?,
    };
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&args.from);
    crate::train::save_model(&transformer, &args.to, tokenizer).context("the model folder")?;
    if let Some(why) = Tokenizer::load(&args.to)?.no_template() {
        say(format!("no chats, fine-tuning or exams with it: {why}"))?;
    }
    say(format!(
        "{} parameters in {}",
        crate::track::number(transformer.config.params() as u64),
        args.to.display()
    ))?;
    Ok(true)
}
