//! Incremental reading of sequences with a cache of keys and values.
//!
//! A [`KvCache`] belongs to one sequence and does not reference the model, which many sequences share.
//! [`Transformer::extend`] extends several sequences at once; some may read a whole prompt while others read the single
//! token that they have just generated. Blocks, rotary positions and attention use the same code as training.

use crate::backend::{Backend, Pieces};
use crate::spec::Heads;
use crate::tokens::{Ragged, Sequence};
use crate::transformer::{KeyValues, Mode, Transformer};
use crate::{Error, Result};
use std::sync::Arc;

/// KV cache of one sequence: the rotated keys and the values of every layer.
pub struct KvCache<B: Backend> {
    /// Prefix that this cache extends, possibly shared with other caches.
    prefix: Option<Arc<KvCache<B>>>,
    layers: Vec<B::Cache>,
    heads: Heads,
    backend: B,
    /// Capacity without the prefix, in positions.
    room: usize,
    /// Number of positions read, without the prefix.
    read: usize,
}

/// The next ids of one sequence.
pub struct Reading<'a, B: Backend> {
    /// Cache of the sequence.
    pub cache: &'a mut KvCache<B>,
    /// Index of an earlier reading of the same call that this one continues. Its own cache must be empty; after the call it
    /// holds only the ids of this reading.
    pub continues: Option<usize>,
    /// Ids to read, at least one.
    pub ids: &'a [u32],
    /// First place among the ids whose logits are needed, together with all later ones; `ids.len()` for none.
    pub logits_from: usize,
}

impl<B: Backend> KvCache<B> {
    fn new(
        backend: B,
        heads: Heads,
        layers: usize,
        room: usize,
        prefix: Option<Arc<KvCache<B>>>,
    ) -> Result<Self> {
        let bytes = room.checked_mul(heads.kv_width()).and_then(|len| len.checked_mul(size_of::<f32>()));
        if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(Error::Input(format!("a KV cache of {room} positions does not fit into memory")));
        }
        let layers = (0..layers).map(|_| backend.cache(heads, room)).collect::<Result<_>>()?;
        Ok(Self { prefix, layers, heads, backend, room, read: 0 })
    }

    /// Returns the number of positions read so far, including the prefix.
    pub fn len(&self) -> usize {
        self.prefix_len() + self.read
    }

    /// Returns whether no position was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the capacity in positions, including the prefix.
    pub fn capacity(&self) -> usize {
        self.prefix_len() + self.room
    }

    /// Returns the number of positions of the prefix.
    fn prefix_len(&self) -> usize {
        self.prefix.as_ref().map_or(0, |prefix| prefix.len())
    }

    /// Creates an empty cache that extends another one, with room for `room` further positions: a prefix of several sequences
    /// is read and stored once.
    ///
    /// # Errors
    /// If the device runs out of memory.
    pub fn extending(prefix: Arc<Self>, room: usize) -> Result<Self> {
        let (backend, heads, layers) = (prefix.backend.clone(), prefix.heads, prefix.layers.len());
        Self::new(backend, heads, layers, room, Some(prefix))
    }

    /// Copies the cache, with a total capacity of `capacity` positions; a shared prefix is not copied.
    ///
    /// # Errors
    /// If `capacity` is less than the number of positions read, or the device runs out of memory.
    pub fn fork(&self, capacity: usize) -> Result<Self> {
        let (len, shared) = (self.len(), self.prefix_len());
        if capacity < len {
            return Err(Error::Input(format!("{len} positions do not fit into a cache of {capacity}")));
        }
        let (backend, layers) = (self.backend.clone(), self.layers.len());
        let mut to = Self::new(backend, self.heads, layers, capacity - shared, self.prefix.clone())?;
        for (to, from) in to.layers.iter_mut().zip(&self.layers) {
            self.backend.cache_copy(to, from, self.read, self.heads)?;
        }
        to.read = self.read;
        Ok(to)
    }

    /// Returns the pieces of a layer's cache, from the prefix on, that hold all positions.
    fn pieces(&self, layer: usize) -> Pieces<'_, B::Cache> {
        let mut pieces = self.prefix.as_ref().map_or(vec![], |prefix| prefix.pieces(layer));
        pieces.push((&self.layers[layer], self.read));
        pieces
    }
}

impl<B: Backend> Transformer<B> {
    /// Creates an empty cache for `capacity` positions.
    ///
    /// # Errors
    /// If the device runs out of memory.
    pub fn cache(&self, capacity: usize) -> Result<KvCache<B>> {
        KvCache::new(self.backend.clone(), self.config.heads(), self.config.n_layers, capacity, None)
    }

    /// Reads further ids of several sequences and returns the logits after the last id of each, `(vocab_size,)` each. The
    /// result for a sequence does not depend on the others.
    ///
    /// # Errors
    /// Same as [`Self::extend_with`].
    pub fn extend(&self, sequences: &mut [(&mut KvCache<B>, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let mut found = vec![vec![]; sequences.len()];
        let mut readings: Vec<Reading<B>> = (sequences.iter_mut())
            .map(|(cache, ids)| Reading {
                cache,
                continues: None,
                ids,
                logits_from: ids.len().saturating_sub(1),
            })
            .collect();
        self.extend_with(&mut readings, |number, _, logits| found[number] = logits.to_vec())?;
        Ok(found)
    }

    /// Reads further ids of several sequences. Calls `on_logits` in order with the index of a sequence, a place among its
    /// ids and the logits after that place, `(vocab_size,)`. The logits of a sequence do not depend on the others.
    ///
    /// # Errors
    /// If a sequence has no ids to read, too little room or a token outside the vocabulary, continues a sequence that is not
    /// before it, or the device fails. No sequence then counts as extended.
    pub fn extend_with(
        &self,
        sequences: &mut [Reading<B>],
        on_logits: impl FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let mut starts: Vec<usize> = vec![];
        for (number, Reading { cache, continues, ids, .. }) in sequences.iter().enumerate() {
            let (len, more) = (cache.len(), ids.len());
            if more == 0 {
                return Err(Error::Input("the prompt is empty, expected at least one token".into()));
            }
            if len + more > cache.capacity() {
                let capacity = cache.capacity();
                return Err(Error::Input(format!(
                    "{len} tokens were read and {more} more do not fit into a cache of {capacity}"
                )));
            }
            starts.push(match *continues {
                None => len,
                Some(earlier) if earlier < number && len == 0 => {
                    starts[earlier] + sequences[earlier].ids.len()
                }
                Some(earlier) => {
                    return Err(Error::Input(format!(
                        "sequence {number}, which has read {len} tokens, cannot continue sequence {earlier}"
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
                .map(|(Reading { cache, continues, .. }, bounds)| {
                    let KvCache { prefix, layers, read, .. } = &mut **cache;
                    KeyValues {
                        prefix: prefix.as_ref().map_or(vec![], |prefix| prefix.pieces(layer)),
                        continues: *continues,
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

    /// Calls [`Self::extend`] for a single sequence.
    ///
    /// # Errors
    /// Same as [`Self::extend`].
    pub fn read(&self, cache: &mut KvCache<B>, ids: &[u32]) -> Result<Vec<f32>> {
        Ok(self.extend(&mut [(cache, ids)])?.swap_remove(0))
    }
}
