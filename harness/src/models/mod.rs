//! Models that are put to use: where their files are, what they are called, which stage made them, what they answer.

mod ask;

pub use ask::{Form, Written, questions};

use crate::config::Stage;
use crate::data::Tokenizer;
use crate::plan::short_name;
use crate::runs::manifest::Manifest;
use anyhow::{Context, Result};
use model::{Backend, Cpu, Transformer};
use std::path::{Path, PathBuf};

/// Where a model is.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// Its name; `None` takes the name of its stage run, or of its folder.
    pub name: Option<String>,
    /// The folder of its files.
    pub dir: PathBuf,
    /// Where it comes from, for people.
    pub source: String,
    /// Folder of the tokenizer, where the model folder has none.
    pub tokenizer: Option<PathBuf>,
}

/// A model that is ready to write.
pub struct Model<B: Backend = Cpu> {
    /// Its name.
    pub name: String,
    /// Where it comes from, for people.
    pub source: String,
    /// The stage that made it, where one of ours did.
    pub stage: Option<Stage>,
    /// Its weights.
    pub transformer: Transformer<B>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl ModelFiles {
    /// A model folder, and that of its tokenizer where it has none.
    pub fn of(dir: PathBuf, tokenizer: Option<PathBuf>) -> Self {
        Self { name: None, source: dir.display().to_string(), dir, tokenizer }
    }

    /// Loads the model to a backend.
    ///
    /// # Errors
    /// Where the folder holds no model or no tokenizer, or they do not fit together.
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

    /// What the model is called.
    pub fn called(&self) -> String {
        let run = || Some(self.manifest()?).map(|manifest| short_name(manifest.stage, manifest.uuid));
        self.name.clone().or_else(run).unwrap_or_else(|| name_of(&self.dir))
    }

    /// That of the stage run that made it.
    fn manifest(&self) -> Option<Manifest> {
        Manifest::read(self.dir.parent()?).ok()?
    }
}

/// The last part of a folder's name.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}
