//! Inference over many sequences at once: log-probabilities and routes, without gradients.

use crate::backend::cpu::math::log_sum_exp;
use crate::backend::{Backend, RouterStats};
use crate::tokens::{Ragged, Sequence};
use crate::trainer::groups;
use crate::transformer::{Mode, Transformer};
use crate::{Error, Result};
use rayon::prelude::*;

/// Maximum number of positions per pass of a thread.
const THREAD_POSITIONS: usize = 1024;

/// Returns the maximum number of positions per pass of a backend.
pub(crate) const fn group_positions<B: Backend>() -> usize {
    if B::LANES { THREAD_POSITIONS } else { B::GROUP_POSITIONS }
}

/// Applies `work` to groups of items and returns the results in order. The groups run in parallel on the current rayon
/// threads if the backend computes there, otherwise one after another.
pub(crate) fn in_groups<B: Backend, T: Sync, R: Send>(
    items: &[T],
    positions: impl Fn(&T) -> usize,
    work: impl Fn(&[T]) -> Result<R> + Sync + Send,
) -> Result<Vec<R>> {
    let groups = groups(items, positions, group_positions::<B>());
    match B::LANES {
        true => groups.into_par_iter().map(work).collect(),
        false => groups.into_iter().map(work).collect(),
    }
}

/// A prompt, and the candidates for the next token whose probabilities are requested.
#[derive(Debug, Clone, Copy)]
pub struct NextToken<'a> {
    /// Ids of the prompt, `(len,)`; at least one.
    pub prompt: &'a [u32],
    /// Ids of the candidates.
    pub ids: &'a [u32],
}

impl AsRef<[u32]> for NextToken<'_> {
    fn as_ref(&self) -> &[u32] {
        self.prompt
    }
}

impl<B: Backend> Transformer<B> {
    /// Computes `weight * log p(target)` at every position of every sequence: `(len,)` each.
    ///
    /// The result for a sequence does not depend on the others.
    ///
    /// # Errors
    /// If a result is not finite, a token is not in the vocabulary, or the device fails.
    pub fn token_log_probs(&self, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>> {
        let results = in_groups::<B, _, Vec<Vec<f32>>>(sequences, Sequence::len, |group| {
            let pass = self.pass(Ragged::new(group), Mode::Infer)?;
            let values = pass.log_probs(&pass.forward()?.0)?;
            check_finite(values.iter().copied())?;
            Ok(pass.batch().rows.windows(2).map(|r| values[r[0]..r[1]].to_vec()).collect())
        })?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Computes the routing statistics of each layer, summed over all sequences; empty for dense models.
    ///
    /// # Errors
    /// If a sequence is empty, a token is not in the vocabulary, or the device fails.
    pub fn routes<T: AsRef<[u32]> + Sync>(&self, sequences: &[T]) -> Result<Vec<RouterStats>> {
        let passes = in_groups::<B, _, _>(
            sequences,
            |ids| ids.as_ref().len(),
            |group| {
                let pass = self.pass(Ragged::prompts(group), Mode::Route { dropout_seed: None })?;
                pass.routes_of(&pass.forward()?.1)
            },
        )?;
        Ok(RouterStats::sum(&passes))
    }

    /// Computes the probabilities of the candidates as next token of each prompt, by softmax over the vocabulary.
    ///
    /// Prompts are packed without padding; only the last position of each reaches the head.
    ///
    /// # Errors
    /// If a prompt is empty, a token is not in the vocabulary, a result is not finite, or the device fails.
    pub fn next_token_probabilities(&self, asked: &[NextToken]) -> Result<Vec<Vec<f64>>> {
        if asked.iter().any(|a| a.prompt.is_empty()) {
            return Err(Error::Input("a prompt is empty, expected at least one token".into()));
        }
        if let Some(id) = asked.iter().flat_map(|a| a.ids).find(|&&id| id as usize >= self.config.vocab_size)
        {
            return Err(Error::Input(format!("token id {id} is outside the model's vocabulary")));
        }
        let work = |group: &[NextToken]| -> Result<Vec<Vec<f64>>> {
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
        };
        let results = in_groups::<B, _, _>(asked, |a| a.prompt.len(), work)?;
        Ok(results.into_iter().flatten().collect())
    }
}

pub(crate) fn check_finite(mut values: impl Iterator<Item = f32>) -> Result<()> {
    match values.find(|value| !value.is_finite()) {
        Some(value) => Err(Error::Input(format!(
            "the model's probabilities are not finite ({value}); its weights diverged in training or are damaged"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backend::{Cpu, Portable};

    #[test]
    fn cores_take_small_groups_and_a_gpu_large_ones_one_after_the_other() {
        let work = |group: &[usize]| Ok((group.len(), std::thread::current().id()));
        let sizes = |found: Vec<(usize, _)>| found.into_iter().map(|group| group.0).collect::<Vec<_>>();
        let on_cores = in_groups::<Cpu, _, _>(&[500; 5], |positions| *positions, work).unwrap();
        assert_eq!(sizes(on_cores), [2, 2, 1]);
        // At most 8192 positions per group, all groups on this thread.
        let on_a_gpu = in_groups::<Portable, _, _>(&[500; 40], |positions| *positions, work).unwrap();
        assert!(on_a_gpu.iter().all(|group| group.1 == std::thread::current().id()));
        assert_eq!(sizes(on_a_gpu), [16, 16, 8]);
    }
}
