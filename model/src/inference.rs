//! Results without gradients, over many sequences at once.

use crate::backend::cpu::math::log_sum_exp;
use crate::backend::{Backend, RouterStats};
use crate::tokens::{Ragged, Sequence};
use crate::trainer::groups;
use crate::transformer::{Mode, Transformer};
use crate::{Error, Result};
use rayon::prelude::*;

/// Positions that go through the model together.
pub const GROUP_POSITIONS: usize = 1024;

/// A prompt, and the tokens whose probability as the next one is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NextToken<'a> {
    /// What the model reads, `(len,)`.
    pub prompt: &'a [u32],
    /// The tokens in question.
    pub ids: &'a [u32],
}

impl AsRef<[u32]> for NextToken<'_> {
    fn as_ref(&self) -> &[u32] {
        self.prompt
    }
}

impl<B: Backend> Transformer<B> {
    /// `weight * log p(target)` of every position of every sequence.
    ///
    /// Sequences are shared out over the current rayon threads; each result depends on its sequence alone.
    ///
    /// # Errors
    /// A model whose results are not finite has none.
    pub fn token_log_probs(&self, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
        let groups = groups(sequences, Sequence::len, GROUP_POSITIONS);
        let results = groups.into_par_iter().map(|group| {
            let pass = self.pass(Ragged::new(group), Mode::Infer)?;
            let values = pass.log_probs(&pass.forward()?.0)?;
            check_finite(values.iter().copied())?;
            Ok(pass.batch().rows.windows(2).map(|r| values[r[0]..r[1]].to_vec()).collect())
        });
        let results: Vec<Vec<Vec<f32>>> = results.collect::<Result<_>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Where the tokens of sequences go, layer by layer and over all of them; empty for dense models.
    ///
    /// # Errors
    /// Where a sequence is empty, a token is not in the vocabulary, or the device fails.
    pub fn routes<T: AsRef<[u32]> + Sync>(&self, sequences: &[T]) -> Result<Vec<RouterStats>> {
        let groups = groups(sequences, |ids| ids.as_ref().len(), GROUP_POSITIONS);
        let passes = groups.into_par_iter().map(|group| {
            let pass = self.pass(Ragged::prompts(group), Mode::Route { dropout_seed: None })?;
            pass.routes_of(&pass.forward()?.1)
        });
        let passes: Vec<Vec<RouterStats>> = passes.collect::<Result<_>>()?;
        Ok(RouterStats::sum(&passes))
    }

    /// Probabilities of tokens as the next one after each prompt, by softmax over the vocabulary.
    ///
    /// Prompts are packed without padding; only the last position of each reaches the head.
    ///
    /// # Errors
    /// Where a prompt is empty, a token is not in the vocabulary, or a result is not finite.
    pub fn next_token_probabilities(&self, asked: &[NextToken]) -> Result<Vec<Vec<f64>>> {
        if asked.iter().any(|a| a.prompt.is_empty()) {
            return Err(Error::Input("a prompt without tokens has no next token".into()));
        }
        if let Some(id) = asked.iter().flat_map(|a| a.ids).find(|&&id| id as usize >= self.config.vocab_size)
        {
            return Err(Error::Input(format!("token id {id} is outside the model's vocabulary")));
        }
        let groups = groups(asked, |a| a.prompt.len(), GROUP_POSITIONS);
        let results = groups.into_par_iter().map(|group| {
            let pass = self.pass(Ragged::prompts(group), Mode::Infer)?;
            let last: Vec<usize> = pass.batch().rows[1..].iter().map(|end| end - 1).collect();
            let logits = pass.logits(&pass.forward()?.0, &last)?;
            let rows = logits.chunks_exact(self.config.vocab_size).zip(group);
            rows.map(|(row, asked)| {
                let total = log_sum_exp(row);
                let found: Vec<f64> =
                    asked.ids.iter().map(|&id| (f64::from(row[id as usize]) - total).exp()).collect();
                check_finite(found.iter().map(|&p| p as f32))?;
                Ok(found)
            })
            .collect()
        });
        let results: Vec<Vec<Vec<f64>>> = results.collect::<Result<_>>()?;
        Ok(results.into_iter().flatten().collect())
    }
}

pub(crate) fn check_finite(mut values: impl Iterator<Item = f32>) -> Result<()> {
    match values.find(|value| !value.is_finite()) {
        Some(value) => Err(Error::Input(format!(
            "the model's probabilities are not finite numbers but {value}: its weights have grown too large, or are damaged"
        ))),
        None => Ok(()),
    }
}
