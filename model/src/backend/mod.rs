//! Compute backends: the memory of a device and the operations on it, forward and backward.
//!
//! [`crate::transformer`] is generic over [`Backend`]. [`Cpu`] is the backend that quoted results come from: fused,
//! single-threaded operations with a fixed summation order. `Cuda` is for GPUs and has its own kernels. [`Portable`]
//! composes candle tensors and runs on any device that candle supports. [`crate::reference`] defines each operation a
//! second time, independently.
//!
//! Three rules hold for every operation. Activations are whole row-major buffers of shape `(rows, width)`; weights and
//! their gradients are ranges of one flat memory. *Gradients of weights are added to the existing values; gradients of
//! activations are new buffers*, except for the residual stream, to which each half of a block adds. And nothing from
//! the start of a forward pass to the end of the update waits for the device, so that it can run asynchronously; the
//! exceptions are the log-probabilities of a preference loss and the routes of a mixture of experts.
//!
//! *Invariant:* in this crate, `unsafe` occurs in this folder only.

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
pub use memory::{Activity, Memory};
pub use portable::Portable;
pub use precision::Precision;

use crate::Result;
use crate::config::ModelConfig;
use crate::layout::{ExpertsLayout, Matrix};
use crate::optimizer::{AdamW, Clipping, Muon};
use crate::spec::Heads;
use serde::Serialize;
use std::ops::Range;

mod sealed {
    /// Restricts backends to those of this crate.
    pub trait Sealed {}
}

/// Queries, keys and values of a batch, or their gradients, grouped by key-value head.
pub struct Qkv<B: Memory> {
    /// Rotated queries, scaled by `1 / sqrt(head_dim)`: `(n_kv_heads, n, repeats, head_dim)`.
    pub q: B::Buffer,
    /// Rotated keys: `(n_kv_heads, n, head_dim)`.
    pub k: B::Buffer,
    /// Values: `(n_kv_heads, n, head_dim)`.
    pub v: B::Buffer,
}

/// Parameters of an attention operation.
#[derive(Debug, Clone, Copy)]
pub struct Attention {
    /// Number and width of the heads.
    pub heads: Heads,
    /// Number of most recent positions that a query attends to, including its own; `None`: its whole document.
    pub window: Option<usize>,
    /// Dropout of the attention probabilities, if any.
    pub dropout: Option<Dropout>,
}

impl Attention {
    /// The attention of a model configuration, without dropout.
    pub fn of(config: &ModelConfig) -> Self {
        Self { heads: config.heads(), window: config.window, dropout: None }
    }
}

/// The keys that a document attends to, in order: consecutive pieces, each the first `n` positions of a cache.
pub type Pieces<'a, C> = Vec<(&'a C, usize)>;

/// Adjacent attention heads within the rows of a buffer, such as the query columns of the `wqkv` product.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Row width of the buffer, in elements.
    pub width: usize,
    /// First column of the heads.
    pub first: usize,
    /// Number of heads.
    pub heads: usize,
    /// Width of one head, in columns.
    pub head_dim: usize,
}

/// The spans of positions over which a router is balanced, and the weight of the balancing loss.
#[derive(Debug, Clone, Default)]
pub struct Balancing {
    /// Boundaries of consecutive spans of positions; each span is balanced separately.
    pub spans: Vec<usize>,
    /// Loss weight of each span.
    pub weight: f32,
    /// Load of the whole batch if the spans are parts of a larger batch that is balanced as a whole: each expert's
    /// fraction of the routed tokens times the number of experts, `(experts,)`. Loads carry no gradient, so the losses
    /// of the parts sum to that of the whole.
    pub load: Option<Vec<f32>>,
}

/// Statistics of one layer's router over one pass.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouterStats {
    /// Number of tokens routed to each expert.
    pub load: Vec<u64>,
    /// Sum over tokens of the entropy of the router scores, in nats.
    pub entropy_sum: f64,
    /// Number of tokens routed.
    pub tokens: u64,
    /// Balancing loss of the layer: the contribution of this pass to that of the batch.
    pub aux_loss: f64,
}

impl RouterStats {
    /// Sums the statistics of several passes, layer by layer.
    pub fn sum(passes: &[Vec<Self>]) -> Vec<Self> {
        let mut sums: Vec<Self> = vec![];
        for pass in passes {
            sums.resize(pass.len(), Self::default());
            sums.iter_mut().zip(pass).for_each(|(sum, layer)| sum.merge(layer));
        }
        sums
    }

    /// Adds the statistics of another pass of the same layer.
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
    /// Location of `W` in the model's weights, `(out, in)`.
    pub weight: Matrix,
    /// Range of the frozen `W` within the base weights of all adapters.
    pub base: Range<usize>,
    /// Location of `A` in the adapter weights, `(rank, in)`.
    pub a: Matrix,
    /// Location of `B` in the adapter weights, `(out, rank)`.
    pub b: Matrix,
}

/// Description and measured peak throughput of a GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// Device name, memory and compute capability, and the driver and library versions.
    pub name: String,
    /// Throughput of large bare matrix products in the backend's precision, in 10^9 floating-point operations per second.
    pub gflops: f64,
    /// Throughput of large copies, reads and writes both counted, in 10^9 bytes per second.
    pub copied_gb: f64,
}

/// Operations of a device.
///
/// `n` is the number of positions of a batch, `d` the width of the residual stream. Every operation returns an error if
/// its device fails, for example by running out of memory.
#[allow(clippy::missing_errors_doc)] // stated once, above
pub trait Backend: Memory {
    /// Whether several lanes run in parallel, each with its own gradient; otherwise there is a single lane.
    const LANES: bool;
    /// Number of positions up to which a lane groups items into one pass: large enough for tall matrix products, small
    /// enough to bound memory.
    const GROUP_POSITIONS: usize;
    /// Whether operations are queued on a device, which computes them while the process goes on.
    const QUEUES: bool = false;

    /// Returns the GPU's description and measured peak throughput; `None` for the CPU, whose peak [`cpu::matrix_peak`] measures.
    fn about(&self) -> Result<Option<About>> {
        Ok(None)
    }

    // Activations.

    /// `y += x`.
    fn add(&self, y: &mut Self::Buffer, x: &Self::Buffer) -> Result<()>;
    /// Multiplies every element by its dropout factor; forward and backward are the same.
    fn dropout(&self, x: &mut Self::Buffer, dropout: Dropout) -> Result<()>;
    /// Gathers rows. `x`: `(n, width)`; returns `(rows, width)`.
    fn select(&self, x: &Self::Buffer, rows: &[u32], width: usize) -> Result<Self::Buffer>;
    /// The gradient of [`Backend::select`]: `(n, width)`, zero in rows that were not selected.
    fn scatter(&self, dy: &Self::Buffer, rows: &[u32], n: usize, width: usize) -> Result<Self::Buffer>;

    // Embedding.

    /// Looks up the row of `table` for every token: `(n, d)`.
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

    /// Returns `x / rms(x) * scale`, and `1 / rms` of every row, `(n,)`.
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<(Self::Buffer, Self::Floats)>;
    /// Recomputes the result of [`Backend::rms_norm`] from the saved `1 / rms`.
    fn rms_norm_recompute(
        &self,
        x: &Self::Buffer,
        inverse: &Self::Floats,
        w: &Self::Weights,
        scale: &Range<usize>,
    ) -> Result<Self::Buffer>;
    /// Adds the gradient of `x` to `dx`, that of the residual stream, and the gradient of the scale to `grads`.
    #[allow(clippy::too_many_arguments)] // the inputs of the forward pass, each named
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
    /// Normalizes each head in place; returns `1 / rms` of each, `(n, heads)`.
    fn head_norm(
        &self,
        x: &mut Self::Buffer,
        columns: Columns,
        w: &Self::Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<Self::Floats>;
    /// Replaces `dx`, the gradient of the normalized heads, by that of the unnormalized heads `x`, in place.
    #[allow(clippy::too_many_arguments)] // the inputs of the forward pass, each named
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

    /// Rotates queries and keys (Su et al. 2021, eq. 34, on interleaved pairs) and arranges queries, keys and values by
    /// head. `qkv`: `(n, qkv_width)`.
    fn split_heads(&self, qkv: &Self::Buffer, batch: &Self::Batch, heads: Heads) -> Result<Qkv<Self>>;
    /// The gradient of [`Backend::split_heads`].
    fn join_heads(&self, grad: &Qkv<Self>, batch: &Self::Batch, heads: Heads) -> Result<Self::Buffer>;
    /// Causal attention within documents: returns the result, `(n, width)`, and the log-sum-exp of each row of scores,
    /// `(n_kv_heads, n, repeats)`.
    fn attention(
        &self,
        qkv: &Qkv<Self>,
        batch: &Self::Batch,
        attention: &Attention,
    ) -> Result<(Self::Buffer, Self::Floats)>;
    /// Computes the gradients of queries, keys and values from `dout`, the gradient of the result `out`.
    fn attention_backward(
        &self,
        dout: &Self::Buffer,
        out: &Self::Buffer,
        lse: &Self::Floats,
        qkv: &Qkv<Self>,
        batch: &Self::Batch,
        attention: &Attention,
    ) -> Result<Qkv<Self>>;
    /// Allocates a cache for the keys and values of `capacity` positions.
    fn cache(&self, heads: Heads, capacity: usize) -> Result<Self::Cache>;
    /// Writes the keys and values of a document, `rows` of the batch, after the `read` positions that the cache already holds.
    fn cache_append(
        &self,
        cache: &mut Self::Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        heads: Heads,
    ) -> Result<()>;
    /// Copies the first `read` positions of `from` to the start of `to`.
    fn cache_copy(&self, to: &mut Self::Cache, from: &Self::Cache, read: usize, heads: Heads) -> Result<()>;
    /// [`Backend::attention`] with the keys and values of each document of the batch, including its own at the end, in caches.
    /// Every document has at least one piece. Dropout is ignored: it is used only in training, which uses no caches.
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
    /// The backward pass of `weight * swiglu(x)`, row by row and in place; `weights`: `(n,)`, `None` means 1 for every row.
    ///
    /// On entry `y`, `(n, hidden)`, is the gradient of the weighted result; on return it holds the weighted result
    /// itself, and `x` holds its own gradient. Returns the gradients of the weights, `(n,)`.
    fn swiglu_backward(
        &self,
        y: &mut Self::Buffer,
        x: &mut Self::Buffer,
        weights: Option<&Self::Floats>,
        hidden: usize,
    ) -> Result<Self::Floats>;

    // Mixture of experts. Rows of tokens are grouped by expert: `(n top_k, width)`.

    /// Takes the softmax of `logits`, `(n, experts)`, and selects the best `top_k` experts of each token; equal scores
    /// prefer the lower expert index. The weights are renormalized to sum to one if `top_k > 1`.
    fn route(&self, logits: &Self::Buffer, experts: &ExpertsLayout) -> Result<Self::Routes>;
    /// The gradient of the logits, from the gradients of the row weights, `(n top_k,)`, and of the balancing loss.
    fn route_backward(
        &self,
        dweights: &Self::Floats,
        routes: &Self::Routes,
        balancing: &Balancing,
    ) -> Result<Self::Buffer>;
    /// Returns the router's statistics. Waits for the device.
    fn route_stats(&self, routes: &Self::Routes, balancing: &Balancing) -> Result<RouterStats>;
    /// The weight of each row, `(n top_k,)`.
    fn route_weights(&self, routes: &Self::Routes) -> Result<Self::Floats>;
    /// Gathers the rows of tokens, grouped by expert. `x`: `(n, width)`.
    fn permute(&self, x: &Self::Buffer, routes: &Self::Routes, width: usize) -> Result<Self::Buffer>;
    /// Adds rows back to their tokens, multiplied by their weights if `weighted`. `y`: `(n, width)`.
    fn unpermute_add(
        &self,
        y: &mut Self::Buffer,
        x: &Self::Buffer,
        routes: &Self::Routes,
        weighted: bool,
        width: usize,
    ) -> Result<()>;
    /// [`Backend::linear`] of each expert's rows with that expert's weight.
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

    // Head: softmax and cross-entropy over blocks of positions, so that the full logits are never materialized.

    /// Returns `-log softmax(x headᵀ)[target]` of each row, `(n,)`. `x`: `(n, d)`, normalized.
    fn cross_entropy(
        &self,
        x: &Self::Buffer,
        w: &Self::Weights,
        head: &Matrix,
        targets: &[u32],
    ) -> Result<Self::Floats>;
    /// Returns the same and the gradient of the weighted sum of the losses with respect to `x`, `(n, d)`; adds that of the head.
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

    /// Adds the gradient of a lane to a sum and sets it to zero.
    fn accumulate(&self, sum: &mut Self::Floats, gradient: &mut Self::Floats) -> Result<()>;
    /// Computes the norm of a gradient, in f64, and its scale in the updates. `parts`: ranges of the gradient, each with the
    /// number by which it is multiplied in the norm.
    fn grad_scale(
        &self,
        grads: &Self::Floats,
        parts: &[(Range<usize>, f64)],
        clipping: &Clipping,
    ) -> Result<Self::GradScale>;
    /// Returns the norm; waits until it is there, but not for operations queued after [`Backend::grad_scale`].
    fn grad_norm(&self, scale: Self::GradScale) -> Result<f64>;
    /// Updates the weights of `range` and their moments `[first, second]`; changes nothing if the norm of the gradient is not
    /// finite.
    fn adamw(
        &self,
        w: &mut Self::Weights,
        moments: &mut [Self::Floats; 2],
        grads: &Self::Floats,
        scale: &Self::GradScale,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()>;
    /// Updates matrices and their momentum, which is the first of the moments; changes nothing if the norm of the gradient is
    /// not finite.
    fn muon(
        &self,
        w: &mut Self::Weights,
        moments: &mut [Self::Floats; 2],
        grads: &Self::Floats,
        scale: &Self::GradScale,
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
    /// Writes the gradients of `A` and `B` to `grads`, the gradient of the adapter weights, from `dw`, that of the
    /// model's weights.
    fn adapt_backward(
        &self,
        grads: &mut Self::Floats,
        dw: &Self::Floats,
        adapters: &Self::Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()>;
}
