//! Writing on: the prompt is read at once, then one token at a time.

use crate::Result;
use crate::backend::Backend;
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

impl<B: Backend> Transformer<B> {
    /// Writes on after `prompt` and returns the new tokens; `on_token` gets each as it comes and may end it.
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        mut on_token: impl FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Vec<u32>> {
        let mut sampler = Sampler::new(options.sampling, options.seed, self.config.vocab_size, prompt)?;
        let mut cache = self.cache(prompt.len() + options.max_tokens)?;
        let mut logits = self.read(&mut cache, prompt)?;
        let mut written = Vec::with_capacity(options.max_tokens);
        while written.len() < options.max_tokens {
            let id = sampler.next(&logits)?;
            if options.stop.contains(&id) {
                break;
            }
            written.push(id);
            if on_token(id).is_break() || written.len() == options.max_tokens {
                break;
            }
            logits = self.read(&mut cache, &[id])?;
        }
        Ok(written)
    }
}
