//! The verb `export`: writes a model for other programs.

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
    /// Target format of the folder
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: FormatArg,
    /// Folder to write, which must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Number format of --to gguf; unset: f16
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    precision: Option<TypeArg>,
    /// Folder of the tokenizer, if the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
}

/// Target format of an exported folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// transformers and compatible programs: config.json, model.safetensors
    Hf,
    /// llama.cpp and compatible programs: model-TYPE.gguf
    Gguf,
    /// MiniMind v1: model.pth, config.json
    Pth,
}

/// Number format of a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TypeArg {
    /// 32 bits, without loss
    F32,
    /// Half precision
    F16,
    /// About one byte per number; row lengths must be multiples of 32
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

/// Exports a model for other programs.
pub fn export(args: &ExportArgs) -> Result<bool> {
    let dir = args.model.folder()?;
    let format = match args.to {
        FormatArg::Hf => Format::HuggingFace,
        FormatArg::Gguf => Format::Gguf(args.precision.unwrap_or(TypeArg::F16).precision()),
        FormatArg::Pth => Format::Pth,
    };
    if args.precision.is_some() && args.to != FormatArg::Gguf {
        bail!("--type applies to --to gguf only; the other formats store f32");
    }
    let tokenizer = args.tokenizer.as_deref().unwrap_or(&dir);
    let written = export::export(&dir, tokenizer, format, &args.out)?;
    let params = crate::track::number(written.params);
    say(format!("{}, {params} parameters in {}", written.kind, args.out.display()))?;
    Ok(true)
}
