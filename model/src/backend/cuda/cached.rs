//! Attention over caches: documents with a single query, as in generation, read keys and values in place; for other
//! documents they are copied into contiguous arrays first.

use super::Cuda;
use super::arguments::{AttentionCached, CopyPositions, Piece, Span};
use super::attention::{self, Document, Shape};
use super::driver::{Address, Grid};
use super::memory::{Batch, Buffer, Cache, DevicePlan};
use super::queue::{self, MAX_GRID_Y, THREADS};
use crate::backend::{Attention, Device, Pieces, Qkv};
use crate::spec::Heads;
use crate::{Error, Result};
use std::ops::Range;

/// A document: the batch rows of its queries, and the keys that they see.
type Seen<'a> = (Range<usize>, &'a Pieces<'a, Cache>);

/// Positions of keys or values: the address of the first head's, and the stride to the next head, in elements.
#[derive(Clone, Copy)]
struct Positions {
    at: Address,
    stride: usize,
}

/// One block for each head, in y or z of a grid.
fn blocks_of_heads(heads: usize) -> Result<u32> {
    if heads > MAX_GRID_Y {
        return Err(Error::Input(format!(
            "attention on CUDA: the model has {heads} heads, expected at most {MAX_GRID_Y}"
        )));
    }
    Ok(heads as u32)
}

impl Cuda {
    /// The positions from `first` on in an array with room for `capacity`.
    fn positions(&self, at: Address, first: usize, capacity: usize, heads: Heads) -> Positions {
        let width = heads.head_dim;
        Positions { at: at + (first * width * self.dtype().size()) as u64, stride: capacity * width }
    }

    fn copy_positions(&self, copies: &[(Positions, Positions, usize)], heads: Heads) -> Result<()> {
        let pieces = copies.iter().filter(|(.., count)| *count > 0).map(|(to, from, count)| Piece {
            to: to.at,
            from: from.at,
            to_stride: to.stride as i64,
            from_stride: from.stride as i64,
            len: (count * heads.head_dim) as i32,
            unused: 0,
        });
        let pieces: Vec<Piece> = pieces.collect();
        let Some(longest) = pieces.iter().map(|piece| piece.len as usize).max() else { return Ok(()) };
        let list = self.queue.upload(&pieces)?;
        // As many blocks as the longest piece needs, up to 64; each processes its piece in strides.
        let blocks = longest.div_ceil(THREADS as usize).min(64) as u32;
        let of_heads = blocks_of_heads(heads.n_kv_heads)?;
        for first in (0..pieces.len()).step_by(MAX_GRID_Y) {
            let rows = (pieces.len() - first).min(MAX_GRID_Y) as u32;
            let grid = Grid { blocks: [blocks, rows, of_heads], threads: THREADS, shared: 0 };
            let arguments = CopyPositions { pieces: list.at + (first * size_of::<Piece>()) as u64 };
            self.queue.run_in(&queue::kernel_name("copy_positions", self.dtype()), grid, &arguments)?;
        }
        Ok(())
    }

    pub(super) fn append(
        &self,
        cache: &Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        heads: Heads,
    ) -> Result<()> {
        let n = qkv.k.len / heads.kv_width();
        let copy = |to: Address, from: Address| {
            let to = self.positions(to, read, cache.capacity, heads);
            (to, self.positions(from, rows.start, n, heads), rows.len())
        };
        let copies = [copy(cache.k.at, qkv.k.room.at), copy(cache.v.at, qkv.v.room.at)];
        self.copy_positions(&copies, heads)
    }

    pub(super) fn copy_cache(&self, to: &Cache, from: &Cache, read: usize, heads: Heads) -> Result<()> {
        let copy = |of: fn(&Cache) -> Address| {
            let positions = |cache: &Cache| self.positions(of(cache), 0, cache.capacity, heads);
            (positions(to), positions(from), read)
        };
        self.copy_positions(&[copy(|cache| cache.k.at), copy(|cache| cache.v.at)], heads)
    }

    pub(super) fn attend_cached(
        &self,
        qkv: &Qkv<Self>,
        seen: &[Pieces<'_, Cache>],
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Buffer> {
        let heads = attention.heads;
        let out = self.dirty(batch.len() * heads.width())?;
        let documents = batch.documents.windows(2).map(|bounds| bounds[0]..bounds[1]).zip(seen);
        let is_written = |(rows, _): &(Range<usize>, &Pieces<'_, Cache>)| {
            rows.len() == 1 && heads.head_dim <= Device::MAX_CUDA_HEAD_DIM
        };
        let (written, read): (Vec<_>, Vec<_>) = documents.partition(is_written);
        if !written.is_empty() {
            self.attend_in_place(&out, qkv, &written, batch.len(), attention)?;
        }
        if !read.is_empty() {
            self.attend_gathered(&out, qkv, &read, batch.len(), attention)?;
        }
        Ok(out)
    }

    /// Attends for documents with a single query, reading the caches in place.
    fn attend_in_place(
        &self,
        out: &Buffer,
        qkv: &Qkv<Self>,
        documents: &[Seen<'_>],
        n: usize,
        attention: &Attention,
    ) -> Result<()> {
        let heads = attention.heads;
        let (mut spans, mut starts) = (vec![], vec![0i32]);
        for (_, pieces) in documents {
            let mut first = 0;
            for (cache, keys) in pieces.iter().filter(|(_, keys)| *keys > 0) {
                let (stride, end) = ((cache.capacity * heads.head_dim) as i64, first + *keys as i32);
                spans.push(Span { k: cache.k.at, v: cache.v.at, stride, first, end });
                first = end;
            }
            starts.push(spans.len() as i32);
        }
        let rows: Vec<i32> = documents.iter().map(|(rows, _)| rows.start as i32).collect();
        let (spans, starts) = (self.queue.upload(&spans)?, self.queue.upload(&starts)?);
        let rows = self.queue.upload(&rows)?;
        let arguments = AttentionCached {
            out: out.room.at,
            q: qkv.q.room.at,
            spans: spans.at,
            starts: starts.at,
            rows: rows.at,
            n: n as i32,
            repeats: heads.repeats() as i32,
            head_dim: heads.head_dim as i32,
            window: attention.window.map_or(1 << 30, |window| window.min(1 << 30)) as i32,
        };
        let blocks = [documents.len() as u32, blocks_of_heads(heads.n_heads)?, 1];
        // Floats: the query, 32 weights for each of 8 warps, and each warp's partial result with its maximum and sum.
        let shared = size_of::<f32>() * (heads.head_dim + 8 * 32 + 8 * (heads.head_dim + 2));
        let grid = Grid { blocks, threads: THREADS, shared };
        self.queue.run_in(&queue::kernel_name("attention_cached", self.dtype()), grid, &arguments)
    }

    /// Attends for any documents, after copying their keys and values into contiguous arrays.
    fn attend_gathered(
        &self,
        out: &Buffer,
        qkv: &Qkv<Self>,
        seen: &[Seen<'_>],
        n: usize,
        attention: &Attention,
    ) -> Result<()> {
        let heads = attention.heads;
        let (mut documents, mut n_keys) = (vec![], 0usize);
        for (rows, pieces) in seen {
            let keys: usize = pieces.iter().map(|(_, keys)| keys).sum();
            documents.push(Document {
                q_start: rows.start as i32,
                q_len: rows.len() as i32,
                k_start: n_keys as i32,
                k_len: keys as i32,
            });
            n_keys += keys;
        }
        let (k, v) = (self.dirty(n_keys * heads.kv_width())?, self.dirty(n_keys * heads.kv_width())?);
        let (mut copies, mut next) = (vec![], 0);
        for &(cache, keys) in seen.iter().flat_map(|(_, pieces)| pieces.iter()) {
            for (to, from) in [(k.room.at, cache.k.at), (v.room.at, cache.v.at)] {
                let to = self.positions(to, next, n_keys, heads);
                copies.push((to, self.positions(from, 0, cache.capacity, heads), keys));
            }
            next += keys;
        }
        self.copy_positions(&copies, heads)?;
        let plan = DevicePlan::new(self, &documents, heads)?;
        let lse = self.dirty_floats(n * heads.n_heads)?;
        let shape = Shape { heads, n, n_keys, window: attention.window, dropout: None, dtype: self.dtype() };
        let places = [&qkv.q, &k, &v].map(|part| part.room.at);
        attention::forward(&self.queue, &shape, &plan, places, out.room.at, lse.room.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_heads_than_a_grid_has_blocks_are_refused() {
        assert_eq!(blocks_of_heads(65_535).ok(), Some(65_535));
        let problem = blocks_of_heads(65_536).map_err(|error| error.to_string());
        let expected = "attention on CUDA: the model has 65536 heads, expected at most 65535";
        assert_eq!(problem, Err(expected.into()));
    }
}
