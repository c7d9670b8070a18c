//! Writing on: the prompt is read at once, then one token at a time.

use crate::Result;
use crate::backend::Backend;
use crate::decode::KvCache;
use crate::sampling::{Sampler, Sampling};
use crate::transformer::Transformer;
use std::ops::ControlFlow;

/// How a text is written on.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// New tokens at most.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Equal seeds write equal texts.
    pub seed: u64,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
}

/// A text that is being written.
struct Writing<'a, B: Backend> {
    cache: KvCache<B>,
    sampler: Sampler,
    options: &'a GenerateOptions,
    /// What the model reads next: the prompt, then each token as it was chosen.
    next: Vec<u32>,
    written: Vec<u32>,
    ended: bool,
}

impl<B: Backend> Writing<'_, B> {
    /// Chooses a token from the logits of what was read; `on_token` gets it and may end the text.
    fn choose(&mut self, logits: &[f32], on_token: impl FnOnce(u32) -> ControlFlow<()>) -> Result<()> {
        if self.written.len() == self.options.max_tokens {
            self.ended = true;
            return Ok(());
        }
        let id = self.sampler.next(logits)?;
        if self.options.stop.contains(&id) {
            self.ended = true;
            return Ok(());
        }
        self.written.push(id);
        self.next = vec![id];
        self.ended = on_token(id).is_break() || self.written.len() == self.options.max_tokens;
        Ok(())
    }
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
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let texts = self.generate_together(&[(prompt, options)], |_, id| on_token(id))?;
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
        mut on_token: impl FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>> {
        let mut texts = vec![];
        for &(prompt, options) in prompts {
            let sampler = Sampler::new(options.sampling, options.seed, self.config.vocab_size, prompt)?;
            let cache = self.cache(prompt.len() + options.max_tokens)?;
            let next = prompt.to_vec();
            texts.push(Writing { cache, sampler, options, next, written: vec![], ended: false });
        }
        while texts.iter().any(|text| !text.ended) {
            let open = texts.iter_mut().filter(|text| !text.ended);
            let mut reading: Vec<(&mut KvCache<B>, &[u32])> =
                open.map(|text| (&mut text.cache, text.next.as_slice())).collect();
            let logits = self.extend(&mut reading)?;
            let open = texts.iter_mut().enumerate().filter(|(_, text)| !text.ended);
            for ((number, text), logits) in open.zip(&logits) {
                text.choose(logits, |id| on_token(number, id))?;
            }
        }
        Ok(texts.into_iter().map(|text| text.written).collect())
    }
}
