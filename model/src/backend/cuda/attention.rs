//! Attention over ragged documents: the division of work into blocks, and the kernel arguments.
//!
//! The kernels (`kernels/attention.cuh`) process tiles: some query rows of a document, where a position has one row for
//! each of its `repeats` heads, or some keys. A block processes one tile of one key-value head.

use super::arguments::Dropped;
use super::driver::{Address, Dtype, Grid};
use super::memory::DevicePlan;
use super::queue::{self, Arguments, Queue};
use crate::backend::{Device, Dropout};
use crate::spec::Heads;
use crate::{Error, Result};
use std::cmp::Reverse;

/// Threads per block.
const THREADS: u32 = 128;
/// Warps per block; each processes 16 query rows, or 16 keys, at a time.
const WARPS: usize = 4;
/// Head widths that kernels are compiled for; a head uses the smallest one that is at least its own.
const WIDTHS: [usize; 5] = [16, 32, 64, 96, Device::MAX_CUDA_HEAD_DIM];
/// Stands for no window.
const NO_WINDOW: usize = 1 << 30;

/// Location of a document's queries and keys; its queries belong to the last of its keys' positions.
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

/// The work of one block: query rows or keys of a document.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Index of the document.
    pub document: i32,
    /// The first row, `position * repeats + repeat`, or the first key, counted within the document.
    pub first: i32,
}

/// The division of attention into tiles. Tiles with the most work come first, so that the last blocks on a GPU are short.
#[derive(Debug)]
pub struct Plan {
    /// The documents.
    pub documents: Vec<Document>,
    /// Tiles of query rows.
    pub query_tiles: Vec<Tile>,
    /// Tiles of keys.
    pub key_tiles: Vec<Tile>,
}

impl Plan {
    /// Divides documents for the kernels of heads of this width and this element type.
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

/// Parameters of an attention operation.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number and width of the heads.
    pub heads: Heads,
    /// Number of positions in the batch.
    pub n: usize,
    /// Number of positions of all keys.
    pub n_keys: usize,
    /// Number of most recent positions that a query attends to, including its own; `None`: all.
    pub window: Option<usize>,
    /// Dropout of the attention probabilities, if any.
    pub dropout: Option<Dropout>,
    /// Element type of queries, keys, values and results.
    pub dtype: Dtype,
}

impl Shape {
    /// The compiled head width that is used.
    fn width(&self) -> Result<usize> {
        let head_dim = self.heads.head_dim;
        WIDTHS.into_iter().find(|&width| head_dim <= width).ok_or_else(|| {
            Error::Input(format!(
                "attention on CUDA: head_dim is {head_dim}, expected at most {}; use more heads",
                Device::MAX_CUDA_HEAD_DIM
            ))
        })
    }

    fn common(&self, documents: Address, tiles: Address) -> CommonArguments {
        CommonArguments {
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

/// Tile and shared-memory sizes for one width and type, as in `QueryTile` and `KeyTile` of the kernels.
#[derive(Debug, PartialEq, Eq)]
struct Sizes {
    /// Query rows per query tile, and keys per key tile.
    rows: usize,
    /// Shared memory of each kernel, in bytes.
    forward: usize,
    backward_keys: usize,
    backward_queries: usize,
}

impl Sizes {
    fn of(head_dim: usize, dtype: Dtype) -> Self {
        let width = WIDTHS.into_iter().find(|&width| head_dim <= width).unwrap_or(Device::MAX_CUDA_HEAD_DIM);
        let narrow = dtype.size() == 2;
        let rows = 16 * WARPS * if narrow && width <= 64 { 2 } else { 1 };
        // Keys per step over a query tile, and rows per step over a key tile.
        let key_step = if narrow { 64 } else { step_of_f32(width) };
        let row_step = if narrow { if width <= 64 { 64 } else { 32 } } else { step_of_f32(width) };
        let pitch = |numbers: usize| numbers * dtype.size() + 16;
        // 2-byte types keep the resident tile in registers and load it through the memory of the second step; f32 reads
        // everything from shared memory, and also converts sums to factors through it.
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
struct CommonArguments {
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
    all: CommonArguments,
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
    all: CommonArguments,
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
    all: CommonArguments,
}

// SAFETY: `#[repr(C)]`, with the same fields, in order and type, as the kernel's structure.
unsafe impl Arguments for Forward {}
// SAFETY: the same.
unsafe impl Arguments for Delta {}
// SAFETY: the same.
unsafe impl Arguments for BackwardKeys {}
// SAFETY: the same.
unsafe impl Arguments for BackwardQueries {}

/// Runs attention on `[q, k, v]`: writes the result `out` and the log-sum-exp of each row. See
/// [`crate::Backend::attention`].
///
/// # Errors
/// Returns an error if heads are wider than 128, or if the device fails.
pub fn forward(
    queue: &Queue,
    shape: &Shape,
    plan: &DevicePlan,
    qkv: [Address; 3],
    out: Address,
    lse: Address,
) -> Result<()> {
    let tiles = &plan.plan.query_tiles;
    let all = shape.common(plan.documents.at, plan.query_tiles.at);
    let shared = Sizes::of(shape.heads.head_dim, shape.dtype).forward;
    run(queue, "attention_forward", shape, tiles, shared, &Forward { qkv, out, lse, all })
}

/// Computes the gradients of `[q, k, v]` from `[dout, out, lse, delta]`; `delta` is scratch memory for
/// `(n_kv_heads, n, repeats)` f32 values.
///
/// # Errors
/// As for [`forward`].
pub fn backward(
    queue: &Queue,
    shape: &Shape,
    plan: &DevicePlan,
    qkv: [Address; 3],
    [dout, out, lse, delta]: [Address; 4],
    [dq, dk, dv]: [Address; 3],
) -> Result<()> {
    shape.width()?;
    let sizes = Sizes::of(shape.heads.head_dim, shape.dtype);
    let all = |tiles| shape.common(plan.documents.at, tiles);
    let CommonArguments { n, kv_heads, repeats, head_dim, .. } = all(0);
    // 8 threads per row.
    let blocks = (shape.n * shape.heads.n_heads).div_ceil(queue::THREADS as usize / 8);
    if blocks > 0 {
        let arguments = Delta { out, dout, delta, n, kv_heads, repeats, head_dim };
        queue.run(&queue::kernel_name("attention_delta", shape.dtype), blocks, 0, &arguments)?;
    }
    let keys = BackwardKeys { qkv, dout, lse, delta, dkv: [dk, dv], all: all(plan.key_tiles.at) };
    run(queue, "attention_keys", shape, &plan.plan.key_tiles, sizes.backward_keys, &keys)?;
    let queries = BackwardQueries { qkv, dout, lse, delta, dq, all: all(plan.query_tiles.at) };
    run(queue, "attention_queries", shape, &plan.plan.query_tiles, sizes.backward_queries, &queries)
}

/// Runs a kernel over the tiles of all key-value heads.
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
