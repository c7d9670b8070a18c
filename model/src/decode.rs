//! Reading sequences piece by piece: keys and values of what was read stay in a cache.
//!
//! A [`KvCache`] belongs to one sequence and knows nothing of the model, which many sequences share.
//! [`Transformer::extend`] reads on in several sequences at once; some may read a whole prompt while others read the one
//! token they have just written. Blocks, rotation and attention are the same code as in training.

use crate::backend::Backend;
use crate::spec::Heads;
use crate::tokens::{Ragged, Sequence};
use crate::transformer::{KeyValues, Mode, Transformer};
use crate::{Error, Result};

/// Places whose logits are made together: all of a long prompt's would take much memory.
const LOGIT_ROWS: usize = 64;

/// What one sequence has read: rotated keys, and values, of every layer.
pub struct KvCache<B: Backend> {
    layers: Vec<B::Cache>,
    heads: Heads,
    backend: B,
    capacity: usize,
    len: usize,
}

/// What a sequence reads next.
pub struct Reading<'a, B: Backend> {
    /// What it has read.
    pub cache: &'a mut KvCache<B>,
    /// The ids to read, one at least.
    pub ids: &'a [u32],
    /// The first place among these ids whose logits are wanted, with all behind it; their number wants none.
    pub logits_from: usize,
}

impl<B: Backend> KvCache<B> {
    /// Positions read so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A cache of the same beginning, to go on from: what several sequences begin with is read once.
    ///
    /// # Errors
    /// Where there is less room than was read.
    pub fn fork(&self, capacity: usize) -> Result<Self> {
        if capacity < self.len {
            let len = self.len;
            return Err(Error::Input(format!("{len} positions do not fit into a cache of {capacity}")));
        }
        let layer = |from: &B::Cache| {
            let mut to = self.backend.cache(self.heads, capacity)?;
            self.backend.cache_copy(&mut to, from, self.len, self.heads)?;
            Ok(to)
        };
        Ok(Self {
            layers: self.layers.iter().map(layer).collect::<Result<_>>()?,
            heads: self.heads,
            backend: self.backend.clone(),
            capacity,
            len: self.len,
        })
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<B: Backend> Transformer<B> {
    /// An empty cache for `capacity` positions.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn cache(&self, capacity: usize) -> Result<KvCache<B>> {
        let (heads, backend) = (self.config.heads(), self.backend.clone());
        let layers = (0..self.config.n_layers).map(|_| backend.cache(heads, capacity));
        Ok(KvCache { layers: layers.collect::<Result<_>>()?, heads, backend, capacity, len: 0 })
    }

    /// Reads further ids of several sequences and returns the logits of what follows the last of each,
    /// `(vocab_size,)` each. What comes out for one does not depend on the others.
    ///
    /// # Errors
    /// As [`Self::extend_with`].
    pub fn extend(&self, sequences: &mut [(&mut KvCache<B>, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![vec![]; sequences.len()];
        let mut readings: Vec<Reading<B>> = (sequences.iter_mut())
            .map(|(cache, ids)| Reading { cache, ids, logits_from: ids.len().saturating_sub(1) })
            .collect();
        self.extend_with(&mut readings, |number, _, logits| found[number] = logits.to_vec())?;
        Ok(found)
    }

    /// Reads further ids of several sequences; `on_logits` hears of each sequence's number, the place among its ids
    /// and the logits of what follows there, `(vocab_size,)`, in order. What it hears of one sequence does not depend
    /// on the others.
    ///
    /// # Errors
    /// Where a sequence has nothing to read, no room for it, or a token outside the vocabulary; then none has read
    /// anything.
    pub fn extend_with(
        &self,
        sequences: &mut [Reading<B>],
        mut on_logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        for Reading { cache, ids, .. } in sequences.iter() {
            let (len, more, capacity) = (cache.len, ids.len(), cache.capacity);
            if more == 0 {
                return Err(Error::Input("nothing to read; a prompt needs at least one token".into()));
            }
            if len + more > capacity {
                return Err(Error::Input(format!(
                    "{len} tokens were read and {more} more do not fit into a cache of {capacity}"
                )));
            }
        }
        let rows: Vec<Sequence> = sequences.iter().map(|reading| Sequence::document(reading.ids)).collect();
        let starts = sequences.iter().map(|reading| reading.cache.len).collect();
        let pass = self.pass(Ragged { starts, ..Ragged::new(&rows) }, Mode::Infer)?;
        let mut x = pass.embed()?;
        for layer in 0..self.config.n_layers {
            let bounds = pass.batch().documents.windows(2);
            let mut caches: Vec<KeyValues<B>> = (sequences.iter_mut().zip(bounds))
                .map(|(reading, bounds)| KeyValues {
                    read: reading.cache.len,
                    cache: &mut reading.cache.layers[layer],
                    rows: bounds[0]..bounds[1],
                })
                .collect();
            x = pass.block_cached(layer, &x, &mut caches)?;
        }
        let starts = &pass.batch().documents;
        let wanted: Vec<(usize, usize)> = (sequences.iter().enumerate())
            .flat_map(|(number, reading)| (reading.logits_from..reading.ids.len()).map(move |i| (number, i)))
            .collect();
        for places in wanted.chunks(LOGIT_ROWS) {
            let rows: Vec<usize> = places.iter().map(|(number, i)| starts[*number] + i).collect();
            let logits = pass.logits(&x, &rows)?;
            for (&(number, i), logits) in places.iter().zip(logits.chunks_exact(self.config.vocab_size)) {
                on_logits(number, i, logits);
            }
        }
        for Reading { cache, ids, .. } in sequences {
            cache.len += ids.len();
        }
        Ok(())
    }

    /// [`Self::extend`] of a single sequence.
    ///
    /// # Errors
    /// As [`Self::extend`].
    pub fn read(&self, cache: &mut KvCache<B>, ids: &[u32]) -> Result<Vec<f32>> {
        Ok(self.extend(&mut [(cache, ids)])?.swap_remove(0))
    }
}
