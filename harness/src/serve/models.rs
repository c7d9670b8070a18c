//! The served models, each with its tokenizer and scheduler.

use super::error::ApiError;
use super::scheduler::{Limits, Scheduler};
use crate::config::Stage;
use crate::data::Tokenizer;
use crate::models::Model;
use crate::system::now;
use anyhow::Result;
use model::Backend;
use std::sync::Arc;

/// Text of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spelling {
    /// Its bytes, which may be part of a character; for a special token, its name.
    pub bytes: Box<[u8]>,
    /// Number of characters that begin in it; 0 for a special token, which appears in no text.
    pub characters: usize,
}

/// A served model.
pub struct Served {
    /// Name for clients.
    pub name: String,
    /// Where it was loaded from.
    pub source: String,
    /// Name of the stage that trained it; `None` if no stage run of ours did.
    pub stage: Option<&'static str>,
    /// Number of parameters.
    pub params: usize,
    /// Context length in tokens.
    pub context: usize,
    /// Number of vocabulary entries.
    pub vocab_size: usize,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Text of each token, by id.
    pub spellings: Arc<[Spelling]>,
    /// Scheduler that generates its texts.
    pub scheduler: Scheduler,
}

impl Served {
    /// Starts the scheduler of a model; `threads` 0 uses all cores.
    ///
    /// # Errors
    /// If the threads cannot be started.
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
        let scheduler = Scheduler::start(
            Arc::new(transformer.for_generation()),
            Arc::clone(&tokenizer),
            limits,
            threads,
        )?;
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

    /// Returns how many tokens fit after a prompt.
    ///
    /// # Errors
    /// If the prompt itself does not fit, or contains ids outside the vocabulary.
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
