//! What a model is computed with: the memory of a device and the operations on it, forward and backward.
//!
//! [`Backend`] is what [`crate::transformer`] is written over. [`Cpu`] is the backend that results are quoted from:
//! fused, single-threaded operations with a fixed order of sums. `Cuda` is for GPUs, with kernels of its own. [`Portable`]
//! composes candle's tensors, on any device that candle knows. What each operation means stands once more,
//! independently, in [`crate::reference`].
//!
//! Three rules hold for every operation. Activations are whole buffers, `(rows, width)` row by row; weights and their
//! gradients are places of one flat memory. *Gradients of weights are added to what is there; gradients of activations
//! are new buffers*, but for the residual stream, to which each half of a block adds. And nothing comes back to the host
//! between the begin of a forward and the end of its backward pass, so that a device may run behind: but for the
//! log-probabilities that a preference loss is made of, and the routes of a mixture of experts.
//!
//! *Invariant:* `unsafe` occurs in this folder only.

pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub mod cuda;
mod device;
mod dropout;
mod memory;
mod portable;
mod precision;

pub use cpu::Cpu;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub use cuda::Cuda;
pub use device::{Device, Work};
pub use dropout::{Dropout, mix};
pub use memory::Memory;
pub use portable::Portable;
pub use precision::Precision;

use crate::Result;
use crate::config::ModelConfig;
use crate::layout::{ExpertsLayout, Matrix};
use crate::optimizer::{AdamW, Muon};
use crate::spec::Heads;
use serde::Serialize;
use std::ops::Range;

mod sealed {
    /// Backends are those of this crate.
    pub trait Sealed {}
}

/// Queries, keys and values of a batch, or their gradients, key-value head by key-value head.
pub struct Qkv<B: Memory> {
    /// Rotated queries times `1 / sqrt(head_dim)`: `(n_kv_heads, n, repeats, head_dim)`.
    pub q: B::Buffer,
    /// Rotated keys: `(n_kv_heads, n, head_dim)`.
    pub k: B::Buffer,
    /// Values: `(n_kv_heads, n, head_dim)`.
    pub v: B::Buffer,
}

/// What an attention is like.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Its sizes.
    pub heads: Heads,
    /// Last positions that a query sees, its own among them; `None`: all of its document.
    pub window: Option<usize>,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// That of a shape, without dropout.
    pub fn of(config: &ModelConfig) -> Self {
        Self { heads: config.heads(), window: config.window, dropout: None }
    }
}

/// What a document sees, from its first position to its last: the first so many positions of one cache after another.
pub type Pieces<'a, C> = Vec<(&'a C, usize)>;

/// Heads that lie side by side in the rows of a buffer, such as the queries in those of the `wqkv` product.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Width of the buffer's rows.
    pub width: usize,
    /// First column.
    pub first: usize,
    /// Number of heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Over which positions a router is balanced, and how strongly.
#[derive(Debug, Clone, Default)]
pub struct Balancing {
    /// Offsets of spans of positions, each with a balance of its own.
    pub spans: Vec<usize>,
    /// Weight of each span's balance.
    pub weight: f32,
    /// Where the spans are parts of a larger batch that is balanced as a whole: each expert's share of its load times
    /// their number, `(experts,)`. Loads carry no gradient, so that the parts then sum to the balance of the whole.
    pub load: Option<Vec<f32>>,
}

/// What the router of one layer did in one pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouterStats {
    /// Tokens that each expert got.
    pub load: Vec<u64>,
    /// Sum over tokens of the entropy of their scores, in nats.
    pub entropy_sum: f64,
    /// Tokens routed.
    pub tokens: u64,
    /// The layer's balancing loss, this pass's share of the batch.
    pub aux_loss: f64,
}

impl RouterStats {
    /// Passes together, layer by layer.
    pub fn sum(passes: &[Vec<Self>]) -> Vec<Self> {
        let mut sums: Vec<Self> = vec![];
        for pass in passes {
            sums.resize(pass.len(), Self::default());
            sums.iter_mut().zip(pass).for_each(|(sum, layer)| sum.merge(layer));
        }
        sums
    }

    /// Adds another pass of the same layer.
    pub fn merge(&mut self, other: &Self) {
        self.load.resize(other.load.len().max(self.load.len()), 0);
        for (mine, theirs) in self.load.iter_mut().zip(&other.load) {
            *mine += theirs;
        }
        self.entropy_sum += other.entropy_sum;
        self.tokens += other.tokens;
        self.aux_loss += other.aux_loss;
    }
}

/// A low-rank adapter: `W = base + scale B A`.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// `W` in the model's weights, `(out, in)`.
    pub weight: Matrix,
    /// The frozen `W` among those of all adapters.
    pub base: Range<usize>,
    /// `A` in the adapters' weights, `(rank, in)`.
    pub a: Matrix,
    /// `B` in the adapters' weights, `(out, rank)`.
    pub b: Matrix,
}

/// What a GPU is, and how fast at most.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// Its name, memory and compute capability, and the versions of what it is driven by.
    pub name: String,
    /// 10^9 floating-point operations a second of large bare matrix products in the backend's precision.
    pub gflops: f64,
    /// 10^9 bytes a second of large copies, read and written.
    pub copied_gb: f64,
}

/// Operations of a device.
///
/// `n` is the number of positions of a batch, `d` the width of the residual stream. Every operation fails where its device
/// does, as by running out of memory.
#[allow(clippy::missing_errors_doc)] // said once, above
pub trait Backend: Memory {
    /// Whether lanes are worked on in parallel, each with a gradient of its own; otherwise there is a single lane.
    const LANES: bool;
    /// A lane takes items together until they reach this many positions: tall products, bounded memory.
    const GROUP_POSITIONS: usize;

    /// What a GPU is, and how fast at most, measured; `None` where it is the processor: see [`cpu::matrix_peak`].
    fn about(&self) -> Result<Option<About>> {
        Ok(None)
    }

    // Activations.

    /// `y += x`.
    fn add(&self, y: &mut Self::Buffer, x: &Self::Buffer) -> Result<()>;
    /// Multiplies every element by its factor of dropout, forward and backward alike.
    fn dropout(&self, x: &mut Self::Buffer, dropout: Dropout) -> Result<()>;
    /// Rows side by side. `x`: `(n, width)`; returns `(rows, width)`.
    fn select(&self, x: &Self::Buffer, rows: &[u32], width: usize) -> Result<Self::Buffer>;
    /// The gradient of [`Backend::select`]: `(n, width)`, zero in rows that were not selected.
    fn scatter(&self, dy: &Self::Buffer, rows: &[u32], n: usize, width: usize) -> Result<Self::Buffer>;

    // Embedding.

    /// The row of `table` of every token: `(n, d)`.
    fn embed(&self, w: &Self::Weights, table: &Matrix, batch: &Self::Batch) -> Result<Self::Buffer>;
    /// Adds to the gradient of `table`. `dx`: `(n, d)`.
    fn embed_backward(
        &self,
        grads: &mut Self::Floats,
        table: &Matrix,
        dx: &Self::Buffer,
        batch: &Self::Batch,
    ) -> Result<()>;

    // RMSNorm, over the last dimension (Zhang & Sennrich 2019, eq. 4).

    /// `x / rms(x) * scale`, and `1 / rms` of every row, `(n,)`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<(Self::Buffer, Self::Floats)>;
    /// The same from the saved `1 / rms`.
    fn rms_norm_again(
        &self,
        x: &Self::Buffer,
        inverse: &Self::Floats,
        w: &Self::Weights,
        scale: &Range<usize>,
    ) -> Result<Self::Buffer>;
    /// Adds the gradient of `x` to `dx`, the residual stream's, and that of the scale to `grads`.
    #[allow(clippy::too_many_arguments)] // what the forward pass had, each named
    fn rms_norm_backward(
        &self,
        dx: &mut Self::Buffer,
        grads: &mut Self::Floats,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        inverse: &Self::Floats,
        w: &Self::Weights,
        scale: &Range<usize>,
    ) -> Result<()>;
    /// Normalises heads in place, each by itself; returns `1 / rms` of each, `(n, heads)`.
    fn head_norm(
        &self,
        x: &mut Self::Buffer,
        columns: Columns,
        w: &Self::Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<Self::Floats>;
    /// Turns the gradient of the normalised heads into that of `x`, the heads before, in place.
    #[allow(clippy::too_many_arguments)] // what the forward pass had, each named
    fn head_norm_backward(
        &self,
        dx: &mut Self::Buffer,
        grads: &mut Self::Floats,
        x: &Self::Buffer,
        inverse: &Self::Floats,
        columns: Columns,
        w: &Self::Weights,
        scale: &Range<usize>,
    ) -> Result<()>;

    // Linear layers.

    /// `x wᵀ`: `(n, d_out)`.
    fn linear(&self, x: &Self::Buffer, w: &Self::Weights, m: &Matrix) -> Result<Self::Buffer>;
    /// `y += x wᵀ`.
    fn linear_add(&self, y: &mut Self::Buffer, x: &Self::Buffer, w: &Self::Weights, m: &Matrix)
    -> Result<()>;
    /// `dy w`: `(n, d_in)`.
    fn linear_input_grad(&self, dy: &Self::Buffer, w: &Self::Weights, m: &Matrix) -> Result<Self::Buffer>;
    /// `dx += dy w`.
    fn linear_input_grad_add(
        &self,
        dx: &mut Self::Buffer,
        dy: &Self::Buffer,
        w: &Self::Weights,
        m: &Matrix,
    ) -> Result<()>;
    /// Adds `dyᵀ x` to the gradient of the weight.
    fn linear_weight_grad(
        &self,
        grads: &mut Self::Floats,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        m: &Matrix,
    ) -> Result<()>;

    // Attention.

    /// Rotates queries and keys (Su et al. 2021, eq. 34, on interleaved pairs) and lays all out head by head.
    /// `qkv`: `(n, qkv_width)`.
    fn split_heads(&self, qkv: &Self::Buffer, batch: &Self::Batch, heads: Heads) -> Result<Qkv<Self>>;
    /// The gradient of [`Backend::split_heads`].
    fn join_heads(&self, grad: &Qkv<Self>, batch: &Self::Batch, heads: Heads) -> Result<Self::Buffer>;
    /// Causal attention within documents: `(n, width)`, and the log-sum-exp of each row of scores,
    /// `(n_kv_heads, n, repeats)`.
    fn attention(
        &self,
        qkv: &Qkv<Self>,
        batch: &Self::Batch,
        attention: &Attention,
    ) -> Result<(Self::Buffer, Self::Floats)>;
    /// The gradients of queries, keys and values, from that of the result `out`.
    fn attention_backward(
        &self,
        dout: &Self::Buffer,
        out: &Self::Buffer,
        lse: &Self::Floats,
        qkv: &Qkv<Self>,
        batch: &Self::Batch,
        attention: &Attention,
    ) -> Result<Qkv<Self>>;
    /// Room for the keys and values of `capacity` positions.
    fn cache(&self, heads: Heads, capacity: usize) -> Result<Self::Cache>;
    /// Writes the keys and values of a document's `rows` of a batch behind the `read` positions that are there.
    fn cache_append(
        &self,
        cache: &mut Self::Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        heads: Heads,
    ) -> Result<()>;
    /// The first `read` positions of `from` as the first of `to`.
    fn cache_copy(&self, to: &mut Self::Cache, from: &Self::Cache, read: usize, heads: Heads) -> Result<()>;
    /// [`Backend::attention`] where the keys and values of each document of the batch, its own at the end, are in caches.
    fn attention_cached(
        &self,
        qkv: &Qkv<Self>,
        seen: &[Pieces<'_, Self::Cache>],
        batch: &Self::Batch,
        attention: &Attention,
    ) -> Result<Self::Buffer>;

    // Feed-forward.

    /// `silu(gate) up` (Shazeer 2020, eq. 6). `x`: `(n, 2 hidden)`, the gate first; returns `(n, hidden)`.
    fn swiglu(&self, x: &Self::Buffer, hidden: usize) -> Result<Self::Buffer>;
    /// The backward pass of `weight * swiglu(x)` row by row, in place; `weights`: `(n,)`, `None` is one for each.
    ///
    /// `y`, `(n, hidden)`, is the gradient of the weighted result, and then the weighted result itself; `x` becomes its
    /// own gradient; returns the gradients of the weights, `(n,)`.
    fn swiglu_backward(
        &self,
        y: &mut Self::Buffer,
        x: &mut Self::Buffer,
        weights: Option<&Self::Floats>,
        hidden: usize,
    ) -> Result<Self::Floats>;

    // Mixture of experts. Rows of tokens for experts lie expert by expert: `(n top_k, width)`.

    /// Softmax of `logits`, `(n, experts)`; the best `top_k`, equal scores preferring the lower expert; weights
    /// renormalised to sum to one where `top_k > 1`.
    fn route(&self, logits: &Self::Buffer, experts: &ExpertsLayout) -> Result<Self::Routes>;
    /// The gradient of the logits, from that of the weights of rows, `(n top_k,)`, and of the balancing loss.
    fn route_backward(
        &self,
        dweights: &Self::Floats,
        routes: &Self::Routes,
        balancing: &Balancing,
    ) -> Result<Self::Buffer>;
    /// What the router did. This waits for the device.
    fn route_stats(&self, routes: &Self::Routes, balancing: &Balancing) -> Result<RouterStats>;
    /// Each row's weight, `(n top_k,)`.
    fn route_weights(&self, routes: &Self::Routes) -> Result<Self::Floats>;
    /// The rows of tokens, expert by expert. `x`: `(n, width)`.
    fn permute(&self, x: &Self::Buffer, routes: &Self::Routes, width: usize) -> Result<Self::Buffer>;
    /// Adds rows back to their tokens, each times its weight where `weighted`. `y`: `(n, width)`.
    fn unpermute_add(
        &self,
        y: &mut Self::Buffer,
        x: &Self::Buffer,
        routes: &Self::Routes,
        weighted: bool,
        width: usize,
    ) -> Result<()>;
    /// [`Backend::linear`] of each expert's rows with its own weight.
    fn grouped_linear(
        &self,
        x: &Self::Buffer,
        w: &Self::Weights,
        experts: &[Matrix],
        routes: &Self::Routes,
    ) -> Result<Self::Buffer>;
    /// [`Backend::linear_input_grad`] of each expert's rows.
    fn grouped_input_grad(
        &self,
        dy: &Self::Buffer,
        w: &Self::Weights,
        experts: &[Matrix],
        routes: &Self::Routes,
    ) -> Result<Self::Buffer>;
    /// [`Backend::linear_weight_grad`] of each expert's rows.
    fn grouped_weight_grad(
        &self,
        grads: &mut Self::Floats,
        dy: &Self::Buffer,
        x: &Self::Buffer,
        experts: &[Matrix],
        routes: &Self::Routes,
    ) -> Result<()>;

    // Head: softmax with cross-entropy over blocks of positions, so that the full logits never exist.

    /// `-log softmax(x headᵀ)[target]` of each row, `(n,)`. `x`: `(n, d)`, normalised.
    fn cross_entropy(
        &self,
        x: &Self::Buffer,
        w: &Self::Weights,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Self::Floats>;
    /// The same, and the gradient of `sum of weights * result` by `x`, `(n, d)`; adds that of the head.
    #[allow(clippy::too_many_arguments)] // the loss's inputs, each named
    fn cross_entropy_backward(
        &self,
        grads: &mut Self::Floats,
        x: &Self::Buffer,
        w: &Self::Weights,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
    ) -> Result<(Self::Floats, Self::Buffer)>;

    // Updates.

    /// Adds the gradient of a lane to a sum, and makes it zero.
    fn accumulate(&self, sum: &mut Self::Floats, gradient: &mut Self::Floats) -> Result<()>;
    /// The sum of squares of some numbers in f64. This waits for the device.
    fn sum_of_squares(&self, floats: &Self::Floats, range: Range<usize>) -> Result<f64>;
    /// Updates the weights of `range` and their moments `[first, second]`.
    fn adamw(
        &self,
        w: &mut Self::Weights,
        moments: &mut [Self::Floats; 2],
        grads: &Self::Floats,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()>;
    /// Updates matrices and their momentum, the first of the moments.
    fn muon(
        &self,
        w: &mut Self::Weights,
        moments: &mut [Self::Floats; 2],
        grads: &Self::Floats,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()>;

    // Adapters.

    /// Writes `base + scale B A` into the weights of a model. `base`: the frozen weights of all adapters.
    fn adapt(
        &self,
        w: &mut Self::Weights,
        base: &Self::Floats,
        adapters: &Self::Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()>;
    /// Writes the gradients of `A` and `B` into `grads`, those of the adapters' weights, from those of the model's.
    fn adapt_backward(
        &self,
        grads: &mut Self::Floats,
        dw: &Self::Floats,
        adapters: &Self::Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()>;
}
