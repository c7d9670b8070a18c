//! Writing on: the prompt is read at once, then one token at a time.

use crate::Result;
use crate::backend::Backend;
use crate::sampling::{LogProbs, Sampling};
use crate::transformer::Transformer;
use crate::writing::{Event, TextId, Writing};
use std::ops::ControlFlow;

/// How a text is written on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Equal seeds write equal texts.
    pub seed: u64,
    /// Which of several texts of one seed it is; the first is 0.
    pub choice: u64,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
    /// Log-probabilities of each token, with so many of the likeliest at its place.
    pub log_probs: Option<usize>,
}

/// A token that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Which.
    pub id: u32,
    /// Log-probabilities at its place, where they were asked for.
    pub log_probs: Option<LogProbs>,
}

impl<B: Backend> Transformer<B> {
    /// Writes on after `prompt` and returns the new tokens; `on_token` gets each as it comes and may end it.
    ///
    /// # Errors
    /// Where the prompt is empty or has a token outside the vocabulary, an option makes no sense, or the model's logits
    /// are not finite.
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: impl FnMut(Token) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let texts = self.generate_together(&[(prompt, options)], |_, token| on_token(token))?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// [`Self::generate`] of several texts at once, each with a sampler of its own; `on_token` gets the number of the
    /// text as well. What one text becomes does not depend on the others.
    ///
    /// # Errors
    /// As [`Self::generate`], for any of the texts.
    pub fn generate_together(
        &self,
        prompts: &[(&[u32], &GenerateOptions)],
        mut on_token: impl FnMut(usize, Token) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut writing = Writing::new(self);
        let mut ids: Vec<TextId> = vec![];
        for &(prompt, options) in prompts {
            ids.extend(writing.begin(prompt, std::slice::from_ref(options), None)?);
        }
        let mut texts = vec![vec![]; prompts.len()];
        while !writing.is_empty() {
            for (id, event) in writing.step() {
                // Ids come in order.
                let Ok(number) = ids.binary_search(&id) else { continue };
                match event {
                    Event::Token(token) => {
                        texts[number].push(token.id);
                        if on_token(number, token).is_break() {
                            writing.leave(id);
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
