//! The verb `export`.

use super::model_arg::ModelArg;
use super::say;
use crate::export::{self, Format};
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Whom the folder is for
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: FormatArg,
    /// The folder to write, which is not there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Whom an exported folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// transformers, and all that reads its folders: config.json, model.safetensors
    Hf,
    /// MiniMind v1: model.pth, config.json
    Pth,
}

/// Writes a model for other programs.
pub fn export(args: &ExportArgs) -> Result<bool> {
    let dir = args.model.folder()?;
    let format = match args.to {
        FormatArg::Hf => Format::HuggingFace,
        FormatArg::Pth => Format::Pth,
    };
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&dir);
    let written = export::export(&dir, tokenizer, format, &args.out)?;
    let params = crate::track::number(written.params);
    say(format!("{}, {params} parameters in {}", written.kind, args.out.display()))?;
    Ok(true)
}
