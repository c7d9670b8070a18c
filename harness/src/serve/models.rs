//! The models that are served, each with its tokenizer and its scheduler.

use super::error::ApiError;
use super::scheduler::{Limits, Scheduler};
use crate::data::Tokenizer;
use crate::plan::short_name;
use crate::runs::manifest::Manifest;
use crate::system::now;
use anyhow::{Result, ensure};
use model::{Cpu, Transformer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model to serve.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    /// Its name for clients; `None` takes the name of its stage run, or of its folder.
    pub name: Option<String>,
    /// The folder of its files.
    pub dir: PathBuf,
    /// Where it comes from, for people.
    pub source: String,
    /// Folder of the tokenizer, where the model folder has none.
    pub tokenizer: Option<PathBuf>,
}

/// What a token is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// Its bytes, which may be a part of a character; of a special token its name.
    pub bytes: Box<[u8]>,
    /// Characters that begin in it; a special token has none, as no text shows it.
    pub characters: usize,
}

/// A model that is ready to write.
pub struct Served {
    /// Its name for clients.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// The stage that made it, where one of ours did.
    pub stage: Option<&'static str>,
    /// Weights.
    pub params: usize,
    /// Positions that it is meant for.
    pub context: usize,
    /// Entries of its vocabulary.
    pub vocab_size: usize,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// What each token is.
    pub spellings: Arc<[Spelling]>,
    /// Where it is asked to write.
    pub scheduler: Scheduler,
}

impl Served {
    /// Loads a model and starts its scheduler; `threads` 0 takes all cores.
    ///
    /// # Errors
    /// Where the folder holds no model or no tokenizer, or they do not fit together.
    pub fn load(files: &ModelFiles, limits: Limits, threads: usize) -> Result<Self> {
        let ModelFiles { name, dir, source, tokenizer } = files;
        let tokenizer = Tokenizer::load(tokenizer.as_deref().unwrap_or(dir))?;
        let transformer = Transformer::load(dir, &Cpu)?;
        let manifest = dir.parent().and_then(|run| Manifest::read(run).ok().flatten());
        let run = manifest.as_ref().map(|manifest| short_name(manifest.stage, manifest.uuid));
        let name = name.clone().or(run).unwrap_or_else(|| name_of(dir));
        let stage = manifest.map(|manifest| manifest.stage.name());
        Self::new(name, source.clone(), stage, transformer, tokenizer, limits, threads)
    }

    /// Serves a model that is loaded.
    ///
    /// # Errors
    /// Where the tokenizer has ids that the model does not know, or no thread can be started.
    pub fn new(
        name: String,
        source: String,
        stage: Option<&'static str>,
        transformer: Transformer,
        tokenizer: Tokenizer,
        limits: Limits,
        threads: usize,
    ) -> Result<Self> {
        let config = Arc::clone(&transformer.config);
        ensure!(
            tokenizer.vocab_size() <= config.vocab_size,
            "{source}: the tokenizer has {} entries and the model {}; expected the model's own tokenizer",
            tokenizer.vocab_size(),
            config.vocab_size
        );
        let tokenizer = Arc::new(tokenizer);
        let shown = tokenizer.spellings().into_iter().zip(tokenizer.token_bytes());
        let spellings = shown.map(|(bytes, len)| {
            let begins = bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
            Spelling { characters: if len == 0 { 0 } else { begins }, bytes: bytes.into() }
        });
        let spellings = spellings.collect();
        let scheduler = Scheduler::start(Arc::new(transformer), Arc::clone(&tokenizer), limits, threads)?;
        Ok(Self {
            name,
            source,
            stage,
            params: config.params(),
            context: config.max_seq_len,
            vocab_size: config.vocab_size,
            created: now() as u64,
            tokenizer,
            spellings,
            scheduler,
        })
    }

    /// How many tokens fit behind a prompt.
    ///
    /// # Errors
    /// Where the prompt itself does not fit, or has ids that the model does not know.
    pub fn room(&self, prompt: &[u32]) -> Result<usize, ApiError> {
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= self.vocab_size) {
            let problem = format!(
                "has the id {id}, expected less than {}, the size of the vocabulary",
                self.vocab_size
            );
            return Err(ApiError::param("prompt", problem));
        }
        self.context.checked_sub(prompt.len()).ok_or_else(|| {
            ApiError::bad(format!(
                "the prompt has {} tokens, and this model's maximum context length is {} tokens; shorten it",
                prompt.len(),
                self.context
            ))
            .with_code("context_length_exceeded")
        })
    }
}

/// The last part of a folder's name.
fn name_of(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "model".into())
}
