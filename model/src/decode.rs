//! Reading sequences piece by piece: keys and values of what was read stay in a cache.
//!
//! A [`KvCache`] belongs to one sequence and knows nothing of the model, which many sequences share.
//! [`Transformer::extend`] reads on in several sequences at once; some may read a whole prompt while others read the one
//! token they have just written. Blocks, rotation and attention are the same code as in training.

use crate::backend::{Backend, Pieces};
use crate::spec::Heads;
use crate::tokens::{Ragged, Sequence};
use crate::transformer::{KeyValues, Mode, Transformer};
use crate::{Error, Result};
use std::sync::Arc;

/// What one sequence has read: rotated keys, and values, of every layer.
pub struct KvCache<B: Backend> {
    /// What it goes on from, which others may share.
    before: Option<Arc<KvCache<B>>>,
    layers: Vec<B::Cache>,
    heads: Heads,
    backend: B,
    /// Positions of its own that there is room for.
    room: usize,
    /// Positions of its own that were read.
    read: usize,
}

/// What a sequence reads next.
pub struct Reading<'a, B: Backend> {
    /// What it has read.
    pub cache: &'a mut KvCache<B>,
    /// The number of an earlier one that is read in the same pass, behind which this one goes on; its cache is empty then,
    /// and after the pass it holds the end of what was read alone.
    pub after: Option<usize>,
    /// The ids to read, one at least.
    pub ids: &'a [u32],
    /// The first place among these ids whose logits are wanted, with all behind it; their number wants none.
    pub logits_from: usize,
}

impl<B: Backend> KvCache<B> {
    fn new(
        backend: B,
        heads: Heads,
        layers: usize,
        room: usize,
        before: Option<Arc<KvCache<B>>>,
    ) -> Result<Self> {
        let layers = (0..layers).map(|_| backend.cache(heads, room)).collect::<Result<_>>()?;
        Ok(Self { before, layers, heads, backend, room, read: 0 })
    }

    /// Positions read so far.
    pub fn len(&self) -> usize {
        self.shared() + self.read
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions that there is room for.
    pub fn capacity(&self) -> usize {
        self.shared() + self.room
    }

    /// Positions of what it goes on from.
    fn shared(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.len())
    }

    /// An empty cache that goes on from another, with room for `room` further positions: what several sequences begin
    /// with is read and kept once.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn behind(before: Arc<Self>, room: usize) -> Result<Self> {
        let (backend, heads, layers) = (before.backend.clone(), before.heads, before.layers.len());
        Self::new(backend, heads, layers, room, Some(before))
    }

    /// A copy to go on from, with room for `capacity` positions in all.
    ///
    /// # Errors
    /// Where there is less room than was read.
    pub fn fork(&self, capacity: usize) -> Result<Self> {
        let (len, shared) = (self.len(), self.shared());
        if capacity < len {
            return Err(Error::Input(format!("{len} positions do not fit into a cache of {capacity}")));
        }
        let (backend, layers) = (self.backend.clone(), self.layers.len());
        let mut to = Self::new(backend, self.heads, layers, capacity - shared, self.before.clone())?;
        for (to, from) in to.layers.iter_mut().zip(&self.layers) {
            self.backend.cache_copy(to, from, self.read, self.heads)?;
        }
        to.read = self.read;
        Ok(to)
    }

    /// What a layer has of all positions.
    fn pieces(&self, layer: usize) -> Pieces<'_, B::Cache> {
        let mut pieces = self.before.as_ref().map_or(vec![], |before| before.pieces(layer));
        pieces.push((&self.layers[layer], self.read));
        pieces
    }
}

impl<B: Backend> Transformer<B> {
    /// An empty cache for `capacity` positions.
    ///
    /// # Errors
    /// Where the device has no room for it.
    pub fn cache(&self, capacity: usize) -> Result<KvCache<B>> {
        KvCache::new(self.backend.clone(), self.config.heads(), self.config.n_layers, capacity, None)
    }

    /// Reads further ids of several sequences and returns the logits of what follows the last of each,
    /// `(vocab_size,)` each. What comes out for one does not depend on the others.
    ///
    /// # Errors
    /// As [`Self::extend_with`].
    pub fn extend(&self, sequences: &mut [(&mut KvCache<B>, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![vec![]; sequences.len()];
        let mut readings: Vec<Reading<B>> = (sequences.iter_mut())
            .map(|(cache, ids)| Reading { cache, after: None, ids, logits_from: ids.len().saturating_sub(1) })
            .collect();
        self.extend_with(&mut readings, |number, _, logits| found[number] = logits.to_vec())?;
        Ok(found)
    }

    /// Reads further ids of several sequences; `on_logits` hears of each sequence's number, the place among its ids
    /// and the logits of what follows there, `(vocab_size,)`, in order. What it hears of one sequence does not depend
    /// on the others.
    ///
    /// # Errors
    /// Where a sequence has nothing to read, no room for it, or a token outside the vocabulary, or goes on behind one
    /// that does not stand before it; then none has read anything.
    pub fn extend_with(
        &self,
        sequences: &mut [Reading<B>],
        on_logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let mut starts: Vec<usize> = vec![];
        for (number, Reading { cache, after, ids, .. }) in sequences.iter().enumerate() {
            let (len, more) = (cache.len(), ids.len());
            if more == 0 {
                return Err(Error::Input("nothing to read; a prompt needs at least one token".into()));
            }
            if len + more > cache.capacity() {
                let capacity = cache.capacity();
                return Err(Error::Input(format!(
                    "{len} tokens were read and {more} more do not fit into a cache of {capacity}"
                )));
            }
            starts.push(match *after {
                None => len,
                Some(after) if after < number && len == 0 => starts[after] + sequences[after].ids.len(),
                Some(after) => {
                    return Err(Error::Input(format!(
                        "sequence {number}, which has read {len} tokens, cannot go on behind sequence {after}"
                    )));
                }
            });
        }
        let rows: Vec<Sequence> = sequences.iter().map(|reading| Sequence::document(reading.ids)).collect();
        let pass = self.pass(Ragged { starts, ..Ragged::new(&rows) }, Mode::Infer)?;
        let mut x = pass.embed()?;
        for layer in 0..self.config.n_layers {
            let bounds = pass.batch().documents.windows(2);
            let documents = (sequences.iter_mut().zip(bounds))
                .map(|(Reading { cache, after, .. }, bounds)| {
                    let KvCache { before, layers, read, .. } = &mut **cache;
                    KeyValues {
                        before: before.as_ref().map_or(vec![], |before| before.pieces(layer)),
                        after: *after,
                        cache: &mut layers[layer],
                        read: *read,
                        rows: bounds[0]..bounds[1],
                    }
                })
                .collect();
            x = pass.block_cached(layer, &x, documents)?;
        }
        let wanted: Vec<(usize, usize)> = (sequences.iter().enumerate())
            .flat_map(|(number, reading)| (reading.logits_from..reading.ids.len()).map(move |i| (number, i)))
            .collect();
        pass.each_logits(&x, &wanted, on_logits)?;
        for Reading { cache, ids, .. } in sequences {
            cache.read += ids.len();
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
