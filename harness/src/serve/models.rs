//! The models that are served, each with its tokenizer and its scheduler.

use super::error::ApiError;
use super::scheduler::{Limits, Scheduler};
use crate::config::Stage;
use crate::data::Tokenizer;
use crate::models::Model;
use crate::system::now;
use anyhow::Result;
use model::Backend;
use std::sync::Arc;

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
    /// Starts the scheduler of a model; `threads` 0 takes all cores.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn new<B: Backend>(model: Model<B>, limits: Limits, threads: usize) -> Result<Self> {
        let Model { name, source, stage, transformer, tokenizer } = model;
        let config = Arc::clone(&transformer.config);
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
            stage: stage.map(Stage::name),
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
