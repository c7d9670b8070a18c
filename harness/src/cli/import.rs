//! The verb `import`: converts a model of another program into a model folder.

use super::{note, say, whole};
use anyhow::{Context, Result, bail};
use clap::Args;
use model::weights::{gguf, minimind};
use model::{ModelConfig, Weights, folder};
use std::path::{Path, PathBuf};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder with config.json and model.safetensors, pytorch_model.bin (either may be split, with an index) or *.pth;
    /// or a single .pth or .gguf file
    from: PathBuf,
    /// Model folder to write, which must not exist yet
    to: PathBuf,
    /// File of the weights, if it is not in the folder
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Folder of the tokenizer, if the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Number of query heads of a single .pth file, which does not contain it; unset: 16, as in all models that
    /// MiniMind published
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    n_heads: Option<usize>,
}

/// Converts a model of another program into a model folder.
pub fn import(args: &ImportArgs) -> Result<bool> {
    let (dir, weights) = match args.from.is_file() {
        true => (args.from.parent().unwrap_or(Path::new(".")), Some(args.from.as_path())),
        false => (args.from.as_path(), args.weights.as_deref()),
    };
    let config_file = dir.join("config.json");
    let is_gguf = |path: &Path| path.extension().is_some_and(|end| end == "gguf");
    if args.n_heads.is_some() && weights.is_none_or(is_gguf) {
        bail!(
            "--n-heads is for a lone .pth file; a folder's config.json and a GGUF file contain the number of heads"
        );
    }
    let (config, weights) = match weights {
        Some(weights) if is_gguf(weights) => gguf::read(weights)?,
        None => folder::read(dir)?,
        Some(weights) if config_file.is_file() && args.n_heads.is_none() => {
            folder::read_parts(&config_file, weights)?
        }
        Some(weights) => lone(weights, args.n_heads)?,
    };
    let tokenizer = args.tokenizer.as_deref().unwrap_or(dir);
    if args.tokenizer.is_none() && !tokenizer.join("tokenizer.json").is_file() {
        bail!("{}: holds no tokenizer.json; --tokenizer names the folder of one", tokenizer.display());
    }
    let params = crate::track::number(config.params() as u64);
    let tokenizer =
        crate::export::import(&config, weights, tokenizer, &args.to).context("the model folder")?;
    if let Some(why) = tokenizer.no_template() {
        say(format!("not usable for chats, fine-tuning or exams: {why}"))?;
    }
    say(format!("{params} parameters in {}", args.to.display()))?;
    Ok(true)
}

/// Reads a state dict without a config.json.
fn lone(path: &Path, n_heads: Option<usize>) -> Result<(ModelConfig, Weights)> {
    let tensors = folder::read_weights(path)?;
    let config = minimind::shape_of(&tensors, n_heads.unwrap_or(minimind::HEADS), path)?;
    if n_heads.is_none() {
        note(&format!(
            "{}: no config.json next to it; assuming MiniMind's {} query and {} key-value heads",
            path.display(),
            config.n_heads,
            config.n_kv_heads
        ));
    }
    let weights = Weights::from_tensors(&config, tensors, path)?;
    Ok((config, weights))
}
