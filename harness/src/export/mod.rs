//! Exports models for other programs: folders with weights, tokenizer, generation settings and a model card.
//!
//! A model folder flows in, a folder in another format flows out. File formats and architectures of other programs are
//! in `model::weights`. *Invariant:* a folder is written completely or not at all, and a model that the other program
//! would compute differently is refused.

mod card;
mod vocabulary;

use crate::data::Tokenizer;
use crate::fsutil::{folder, write_atomic};
use anyhow::{Context, Result};
use model::weights::gguf::{self, Precision};
use model::weights::hugging_face::{self, Architecture, Ends};
use model::weights::{minimind, write_hugging_face};
use model::{ModelConfig, Weights};
use serde_json::{Value, json};
use std::path::Path;

/// Format of the exported folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// transformers.
    HuggingFace,
    /// llama.cpp: one file with everything.
    Gguf(Precision),
    /// MiniMind v1: a PyTorch state dict.
    Pth,
}

/// Writes the model in `dir` to the new folder `out`; returns its class there, such as `LlamaForCausalLM`, and its
/// size.
///
/// # Errors
/// If the model or its tokenizer cannot be read, something exists at `out`, or the other program cannot compute the
/// model.
pub fn export(dir: &Path, tokenizer: &Path, format: Format, out: &Path) -> Result<Exported> {
    let (config, weights) = model::folder::read(dir)?;
    let tokenizer = Tokenizer::load(tokenizer)?;
    tokenizer.ensure_fits(config.vocab_size)?;
    let kind = kind(format, &config).with_context(|| dir.display().to_string())?;
    let card = card::write(dir, out, &config, format, &kind)?;
    let name = out.file_name().map_or("model".into(), |name| name.to_string_lossy());
    folder::whole(
        out,
        |_| false,
        |draft| {
            let ends = Ends { bos: tokenizer.bos(), eos: tokenizer.eos() };
            let json = |name: &str, value: &Value| {
                write_atomic(&draft.join(name), format!("{value:#}\n").as_bytes())
            };
            match format {
                Format::HuggingFace => {
                    json("config.json", &hugging_face::config_json(&config, ends)?)?;
                    write_atomic(&draft.join("model.safetensors"), &write_hugging_face(&config, &weights)?)?;
                }
                Format::Gguf(precision) => {
                    let vocabulary = vocabulary::of(&tokenizer, config.vocab_size)?;
                    let bytes = gguf::write(&name, &config, &weights, precision, &vocabulary)?;
                    write_atomic(&draft.join(gguf_file(precision)), &bytes)?;
                }
                Format::Pth => {
                    json("config.json", &minimind::config_json(&config)?)?;
                    write_atomic(&draft.join("model.pth"), &minimind::write_pth(&config, &weights)?)?;
                }
            }
            if !matches!(format, Format::Gguf(_)) {
                tokenizer.save(draft)?; // a GGUF file contains it
            }
            json("generation_config.json", &generation(ends))?;
            write_atomic(&draft.join("README.md"), card.as_bytes())
        },
    )?;
    Ok(Exported { kind, params: config.params() as u64 })
}

/// Result of an export.
#[derive(Debug)]
pub struct Exported {
    /// Name of the model's class in the other program.
    pub kind: String,
    /// Number of parameters.
    pub params: u64,
}

/// Returns the name of the model's class in the other program; an error if it has none.
fn kind(format: Format, config: &ModelConfig) -> Result<String> {
    Ok(match format {
        Format::HuggingFace => Architecture::of(config)?.class().into(),
        Format::Gguf(_) => format!("{} of llama.cpp", gguf::Architecture::of(config)?.name()),
        Format::Pth => minimind::config_json(config).map(|_| "MiniMind v1".into())?,
    })
}

/// Returns the name of the GGUF file.
fn gguf_file(precision: Precision) -> String {
    format!("model-{}.gguf", precision.name())
}

/// Returns `generation_config.json`: the default sampling settings of `mindscale generate`.
fn generation(ends: Ends) -> Value {
    json!({
        "bos_token_id": ends.bos,
        "eos_token_id": ends.eos,
        "do_sample": true,
        "temperature": 0.7,
        "top_k": 8,
    })
}

/// Writes a model folder in our format, completely or not at all.
///
/// # Errors
/// If something exists at `out`, the tokenizer cannot be read or has more entries than the model, or a file cannot be
/// written.
pub fn import(config: &ModelConfig, weights: Weights, tokenizer: &Path, out: &Path) -> Result<Tokenizer> {
    let from = tokenizer.display();
    let tokenizer = Tokenizer::load(tokenizer)?;
    tokenizer.ensure_fits(config.vocab_size).with_context(|| from.to_string())?;
    let bytes = model::weights::write_safetensors(&weights.layout, &weights.flat)?;
    folder::whole(
        out,
        |_| false,
        |draft| {
            write_atomic(&draft.join("config.json"), &model::folder::write_config(config))?;
            tokenizer.save(draft)?;
            write_atomic(&draft.join("model.safetensors"), &bytes)
        },
    )?;
    Ok(tokenizer)
}
