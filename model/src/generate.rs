//! Text generation from prompts.

use crate::Result;
use crate::backend::Backend;
use crate::sampling::{LogProbs, Sampling};
use crate::transformer::Transformer;
use crate::writing::{Event, GenerationBatch, TextId};
use std::ops::ControlFlow;

/// Options of text generation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Seed of the sampler; equal seeds give equal texts.
    pub seed: u64,
    /// Index of the text among several with the same seed, from 0.
    pub choice: u64,
    /// Tokens that end the text, of which they are not a part.
    pub stop: Vec<u32>,
    /// If set, log-probabilities of each token are returned, with those of this many most likely tokens at its place.
    pub log_probs: Option<usize>,
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// Log-probabilities at its place, if requested.
    pub log_probs: Option<LogProbs>,
}

impl<B: Backend> Transformer<B> {
    /// Generates a text after `prompt` and returns the new tokens. `on_token` receives each token as it is generated and can
    /// end the text.
    ///
    /// # Errors
    /// If the prompt is empty or has a token outside the vocabulary, an option is invalid, the logits of the model are not
    /// finite, or the device fails.
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: impl FnMut(Token) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let texts = self.generate_together(&[(prompt, options)], |_, token| on_token(token))?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// Generates several texts at once, each with its own sampler; see [`Self::generate`]. `on_token` also receives the index
    /// of the text. The result for a text does not depend on the others.
    ///
    /// # Errors
    /// Same as [`Self::generate`], for any of the texts.
    pub fn generate_together(
        &self,
        prompts: &[(&[u32], &GenerateOptions)],
        mut on_token: impl FnMut(usize, Token) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut batch = GenerationBatch::new(self);
        let mut ids: Vec<TextId> = vec![];
        for &(prompt, options) in prompts {
            ids.extend(batch.begin(prompt, std::slice::from_ref(options), None)?);
        }
        let mut texts = vec![vec![]; prompts.len()];
        while !batch.is_empty() {
            for (id, event) in batch.step() {
                // Ids are in ascending order.
                let Ok(number) = ids.binary_search(&id) else { continue };
                match event {
                    Event::Token(token) => {
                        texts[number].push(token.id);
                        if on_token(number, token).is_break() {
                            batch.leave(id);
                        }
                    }
                    Event::Failed(error) => return Err(error),
                    Event::Prompt(_) | Event::Stop(_) | Event::Length => {}
                }
            }
        }
        Ok(texts)
    }
}
