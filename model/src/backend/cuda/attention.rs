//! Attention over ragged documents: which blocks of the kernels do what, and their arguments.
//!
//! The kernels (`kernels/attention.cuh`) take tiles: so many rows of queries of a document, a position having a row for
//! each of its `repeats` heads, or so many keys. A block takes one tile of one key-value head.

use super::arguments::Dropped;
use super::driver::{Address, Dtype, Grid};
use super::memory::OnDevice;
use super::queue::{self, Arguments, Queue};
use crate::backend::Dropout;
use crate::spec::Heads;
use crate::{Error, Result};
use std::cmp::Reverse;

/// Threads of a block.
const THREADS: u32 = 128;
/// Warps of a block; each takes 16 rows of queries, or keys, at a time.
const WARPS: usize = 4;
/// Widths of heads that kernels are compiled for; a head takes the next one.
const WIDTHS: [usize; 5] = [16, 32, 64, 96, 128];
/// A window that is none.
const NO_WINDOW: usize = 1 << 30;

/// Where queries and keys of a document lie; its queries are the last of its keys' positions.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// Position of the first query in the batch.
    pub q_start: i32,
    /// Number of queries.
    pub q_len: i32,
    /// Position of the first key among all keys.
    pub k_start: i32,
    /// Number of keys.
    pub k_len: i32,
}

/// What a block works on: rows of queries or keys of a document.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// The document.
    pub document: i32,
    /// Its first row, `position * repeats + repeat`, or its first key, counted in the document.
    pub first: i32,
}

/// How attention among documents is shared out. Tiles with more to see come first, so that a card's last blocks are
/// short.
#[derive(Debug)]
pub struct Plan {
    /// The documents.
    pub documents: Vec<Document>,
    /// Tiles of rows of queries.
    pub query_tiles: Vec<Tile>,
    /// Tiles of keys.
    pub key_tiles: Vec<Tile>,
}

impl Plan {
    /// For the kernels of heads of this width and numbers of this type.
    pub fn new(documents: &[Document], repeats: usize, head_dim: usize, dtype: Dtype) -> Self {
        let sizes = Sizes::of(head_dim, dtype);
        let repeats = repeats as i32;
        let tiles = |rows: fn(&Document, i32) -> i32, step: usize| {
            let numbered = (0..).zip(documents);
            numbered.flat_map(move |(document, of)| {
                (0..rows(of, repeats)).step_by(step).map(move |first| Tile { document, first })
            })
        };
        let mut query_tiles: Vec<Tile> = tiles(|of, repeats| of.q_len * repeats, sizes.rows).collect();
        let mut key_tiles: Vec<Tile> = tiles(|of, _| of.k_len, sizes.rows).collect();
        let of = |tile: &Tile| &documents[tile.document as usize];
        query_tiles.sort_by_key(|tile| Reverse(of(tile).k_len - of(tile).q_len + tile.first / repeats));
        key_tiles.sort_by_key(|tile| Reverse((of(tile).k_len - tile.first).min(of(tile).q_len)));
        Self { documents: documents.to_vec(), query_tiles, key_tiles }
    }
}

/// What an attention is like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Its sizes.
    pub heads: Heads,
    /// Positions of the batch.
    pub n: usize,
    /// Positions of all keys.
    pub n_keys: usize,
    /// Last positions that a query sees, its own among them; `None`: all.
    pub window: Option<usize>,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
    /// Of queries, keys, values and results.
    pub dtype: Dtype,
}

impl Shape {
    /// The compiled width that serves its heads.
    fn width(&self) -> Result<usize> {
        let head_dim = self.heads.head_dim;
        WIDTHS.into_iter().find(|&width| head_dim <= width).ok_or_else(|| {
            Error::Input(format!(
                "attention on CUDA: head_dim is {head_dim}, expected at most {}; use more heads",
                WIDTHS[WIDTHS.len() - 1]
            ))
        })
    }

    fn all(&self, documents: Address, tiles: Address) -> All {
        All {
            documents,
            tiles,
            dropout: self.dropout.into(),
            n: self.n as i32,
            n_keys: self.n_keys as i32,
            kv_heads: self.heads.n_kv_heads as i32,
            repeats: self.heads.repeats() as i32,
            head_dim: self.heads.head_dim as i32,
            window: self.window.map_or(NO_WINDOW, |window| window.min(NO_WINDOW)) as i32,
        }
    }
}

/// Rows and bytes of the kernels of one width and type: `QueryTile` and `KeyTile` of the kernels.
#[derive(Debug, PartialEq, Eq)]
struct Sizes {
    /// Rows of a tile of queries, and keys of a tile of keys.
    rows: usize,
    /// Bytes of shared memory of each kernel.
    forward: usize,
    backward_keys: usize,
    backward_queries: usize,
}

impl Sizes {
    fn of(head_dim: usize, dtype: Dtype) -> Self {
        let width = WIDTHS.into_iter().find(|&width| head_dim <= width).unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        let narrow = dtype.size() == 2;
        let rows = 16 * WARPS * if narrow && width <= 64 { 2 } else { 1 };
        // Keys of a step, or rows of a step over a tile of keys.
        let key_step = if narrow { 64 } else { step_of_f32(width) };
        let row_step = if narrow { if width <= 64 { 64 } else { 32 } } else { step_of_f32(width) };
        let pitch = |numbers: usize| numbers * dtype.size() + 16;
        // A type of two bytes keeps what stays in registers, and brings it there through the place of the second step; f32
        // reads all from shared memory, and goes through it from sums to factors.
        let shared = |stays: usize, step: usize| {
            if narrow {
                (2 * step + stays.max(2 * step)) * pitch(width)
            } else {
                (2 * step + stays) * pitch(width) + 16 * WARPS * pitch(step)
            }
        };
        let steps_of_rows = if narrow && width > 32 {
            (4 * row_step + 2 * rows) * pitch(width) // keys and values stay in shared memory
        } else {
            shared(2 * rows, row_step)
        };
        let stages = if narrow { 2 } else { 1 };
        Self {
            rows,
            forward: shared(rows, key_step),
            backward_keys: steps_of_rows + stages * row_step * size_of::<[f32; 2]>(),
            backward_queries: shared(2 * rows, key_step),
        }
    }
}

fn step_of_f32(width: usize) -> usize {
    if width <= 64 { 32 } else { 16 }
}

/// `Attention` of attention.cuh.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct All {
    documents: Address,
    tiles: Address,
    dropout: Dropped,
    n: i32,
    n_keys: i32,
    kv_heads: i32,
    repeats: i32,
    head_dim: i32,
    window: i32,
}

/// `AttentionForward`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Forward {
    qkv: [Address; 3],
    out: Address,
    lse: Address,
    all: All,
}

/// `AttentionDelta`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Delta {
    out: Address,
    dout: Address,
    delta: Address,
    n: i32,
    kv_heads: i32,
    repeats: i32,
    head_dim: i32,
}

/// `AttentionKeys`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BackwardKeys {
    qkv: [Address; 3],
    dout: Address,
    lse: Address,
    delta: Address,
    dkv: [Address; 2],
    all: All,
}

/// `AttentionQueries`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct BackwardQueries {
    qkv: [Address; 3],
    dout: Address,
    lse: Address,
    delta: Address,
    dq: Address,
    all: All,
}

// SAFETY: `#[repr(C)]`, with the fields of the kernel's structure in their order and of their types.
unsafe impl Arguments for Forward {}
// SAFETY: the same.
unsafe impl Arguments for Delta {}
// SAFETY: the same.
unsafe impl Arguments for BackwardKeys {}
// SAFETY: the same.
unsafe impl Arguments for BackwardQueries {}

/// Attention of `[q, k, v]`: the result `out` and the log-sum-exp of each row. See [`crate::Backend::attention`].
///
/// # Errors
/// Where heads are wider than 128, or the device fails.
pub fn forward(
    queue: &Queue,
    shape: &Shape,
    plan: &OnDevice,
    qkv: [Address; 3],
    out: Address,
    lse: Address,
) -> Result<()> {
    let tiles = &plan.plan.query_tiles;
    let all = shape.all(plan.documents.at, plan.query_tiles.at);
    let shared = Sizes::of(shape.heads.head_dim, shape.dtype).forward;
    run(queue, "attention_forward", shape, tiles, shared, &Forward { qkv, out, lse, all })
}

/// The gradients of `[q, k, v]`, from `[dout, out, lse, delta]`; `delta` is `(n_kv_heads, n, repeats)` f32 of room.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    queue: &Queue,
    shape: &Shape,
    plan: &OnDevice,
    qkv: [Address; 3],
    [dout, out, lse, delta]: [Address; 4],
    [dq, dk, dv]: [Address; 3],
) -> Result<()> {
    shape.width()?;
    let sizes = Sizes::of(shape.heads.head_dim, shape.dtype);
    let all = |tiles| shape.all(plan.documents.at, tiles);
    let All { n, kv_heads, repeats, head_dim, .. } = all(0);
    // 8 threads a row.
    let blocks = (shape.n * shape.heads.n_heads).div_ceil(queue::THREADS as usize / 8);
    if blocks > 0 {
        let arguments = Delta { out, dout, delta, n, kv_heads, repeats, head_dim };
        queue.run(&queue::of("attention_delta", shape.dtype), blocks, 0, &arguments)?;
    }
    let keys = BackwardKeys { qkv, dout, lse, delta, dkv: [dk, dv], all: all(plan.key_tiles.at) };
    run(queue, "attention_keys", shape, &plan.plan.key_tiles, sizes.backward_keys, &keys)?;
    let queries = BackwardQueries { qkv, dout, lse, delta, dq, all: all(plan.query_tiles.at) };
    run(queue, "attention_queries", shape, &plan.plan.query_tiles, sizes.backward_queries, &queries)
}

/// Runs a kernel over tiles of all heads.
fn run(
    queue: &Queue,
    kernel: &str,
    shape: &Shape,
    tiles: &[Tile],
    shared: usize,
    arguments: &impl Arguments,
) -> Result<()> {
    let kernel = format!("{kernel}_{}_{}", shape.width()?, shape.dtype.suffix());
    let blocks = u32::try_from(tiles.len() * shape.heads.n_kv_heads).unwrap_or(u32::MAX);
    if blocks == 0 {
        return Ok(());
    }
    queue.run_in(&kernel, Grid { blocks: [blocks, 1, 1], threads: THREADS, shared }, arguments)
}

#[cfg(test)]
mod tests;
