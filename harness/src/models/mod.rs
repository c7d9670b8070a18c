//! Models for inference: where their files are, their names, the stages that trained them, and what they generate.
//!
//! A model is a folder, whoever trained it: stage runs, exports of other programs and `serve` are treated alike. Nothing
//! is trained here.

mod ask;

pub use ask::{Form, Written, questions};

use crate::config::Stage;
use crate::data::Tokenizer;
use crate::plan::short_name;
use crate::runs::manifest::Manifest;
use anyhow::{Context, Result};
use model::{Backend, Cpu, Transformer};
use std::path::{Path, PathBuf};

/// Location of a model.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// Name of the model; `None` for the name of its stage run, or else of its folder.
    pub name: Option<String>,
    /// Folder of its files.
    pub dir: PathBuf,
    /// Where it comes from, for people.
    pub source: String,
    /// Folder of the tokenizer; `None` if it is in the model folder.
    pub tokenizer: Option<PathBuf>,
}

/// A loaded model.
pub struct Model<B: Backend = Cpu> {
    /// Name of the model.
    pub name: String,
    /// Where it comes from, for people.
    pub source: String,
    /// Stage that trained it; `None` if no stage run of ours did.
    pub stage: Option<Stage>,
    /// Weights and shape.
    pub transformer: Transformer<B>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl ModelFiles {
    /// Creates the location of a model folder; `tokenizer` is needed if that has none.
    pub fn of(dir: PathBuf, tokenizer: Option<PathBuf>) -> Self {
        Self { name: None, source: dir.display().to_string(), dir, tokenizer }
    }

    /// Loads the model onto a backend.
    ///
    /// # Errors
    /// If the folder contains no model or no tokenizer, or they do not match.
    pub fn load<B: Backend>(&self, backend: &B) -> Result<Model<B>> {
        self.read(backend).with_context(|| self.dir.display().to_string())
    }

    fn read<B: Backend>(&self, backend: &B) -> Result<Model<B>> {
        let Self { dir, source, tokenizer, .. } = self;
        let tokenizer = Tokenizer::load(tokenizer.as_deref().unwrap_or(dir))?;
        let transformer = Transformer::load(dir, backend)?;
        tokenizer.ensure_fits(transformer.config.vocab_size)?;
        let stage = self.manifest().map(|manifest| manifest.stage);
        Ok(Model { name: self.called(), source: source.clone(), stage, transformer, tokenizer })
    }

    /// Returns the model's name.
    pub fn called(&self) -> String {
        let run = || Some(self.manifest()?).map(|manifest| short_name(manifest.stage, manifest.uuid));
        self.name.clone().or_else(run).unwrap_or_else(|| name_of(&self.dir))
    }

    /// Reads the manifest of the stage run that trained the model, if any.
    fn manifest(&self) -> Option<Manifest> {
        Manifest::read(self.dir.parent()?).ok()?
    }
}

/// Returns the last component of a folder's path.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}
