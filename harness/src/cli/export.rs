//! The verb `export`.

use super::model_arg::ModelArg;
use super::say;
use crate::export::{self, Format};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use model::weights::gguf::Precision;
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
    /// How numbers are written for llama.cpp; unset: f16
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    precision: Option<TypeArg>,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Whom an exported folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// transformers, and all that reads its folders: config.json, model.safetensors
    Hf,
    /// llama.cpp, and all that reads its files: model-TYPE.gguf
    Gguf,
    /// MiniMind v1: model.pth, config.json
    Pth,
}

/// How numbers are written for llama.cpp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TypeArg {
    /// As they are
    F32,
    /// In half precision
    F16,
    /// In about a byte each; rows must be multiples of 32
    #[value(name = "q8_0")]
    Q8_0,
}

impl TypeArg {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F16 => Precision::F16,
            Self::Q8_0 => Precision::Q8_0,
        }
    }
}

/// Writes a model for other programs.
pub fn export(args: &ExportArgs) -> Result<bool> {
    let dir = args.model.folder()?;
    let format = match args.to {
        FormatArg::Hf => Format::HuggingFace,
        FormatArg::Gguf => Format::Gguf(args.precision.unwrap_or(TypeArg::F16).precision()),
        FormatArg::Pth => Format::Pth,
    };
    if args.precision.is_some() && args.to != FormatArg::Gguf {
        bail!("--type is for --to gguf; the others hold numbers as they are, f32");
    }
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&dir);
    let written = export::export(&dir, tokenizer, format, &args.out)?;
    let params = crate::track::number(written.params);
    say(format!("{}, {params} parameters in {}", written.kind, args.out.display()))?;
    Ok(true)
}
