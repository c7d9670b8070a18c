//! Kernel arguments: the counterparts of the structures in `kernels/*.cu`, field by field.

#![allow(missing_docs)] // documented with the kernels

use super::driver::Address;
use super::queue::Arguments;
use crate::backend::Dropout;

/// Declares structures with C layout.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy)]
        pub struct $name { $(pub $field: $type),* }
        // SAFETY: `#[repr(C)]`, with the same fields, in order and type, as the kernel's structure.
        unsafe impl Arguments for $name {}
    )*};
}

/// `Dropout` of common.cuh; a rate of 0 means no dropout.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Dropped {
    pub seed: u64,
    pub rate: f32,
    pub unused: i32,
}

impl From<Option<Dropout>> for Dropped {
    fn from(dropout: Option<Dropout>) -> Self {
        dropout.map_or_else(Self::default, |of| Self { seed: of.seed, rate: of.rate, unused: 0 })
    }
}

/// An element of `CopyPositions::pieces`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub to: Address,
    pub from: Address,
    pub to_stride: i64,
    pub from_stride: i64,
    pub len: i32,
    pub unused: i32,
}

/// An element of `AttentionCached::spans`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub k: Address,
    pub v: Address,
    pub stride: i64,
    pub first: i32,
    pub end: i32,
}

/// `GradScale` of update.cu.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct GradScale {
    pub norm: f64,
    pub factor: f32,
    pub unused: i32,
}

/// An element of `ScaleGradient::parts`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NormPart {
    pub weight: f64,
    pub first: i32,
    pub end: i32,
}

arguments! {
    Add { y: Address, x: Address, len: i64 }
    Drop { x: Address, len: i64, dropout: Dropped }
    Gather { to: Address, from: Address, places: Address, n: i32, width: i32, divisor: i32 }
    Scatter { to: Address, from: Address, places: Address, n: i32, width: i32 }
    /// Also for `Widen`.
    Narrow { to: Address, from: Address, len: i64 }
    ColumnSum { sums: Address, partial: Address, rows: i32, width: i32 }
    CopyPositions { pieces: Address }
    AttentionCached {
        out: Address, q: Address, spans: Address, starts: Address, rows: Address,
        n: i32, repeats: i32, head_dim: i32, window: i32,
    }
    EmbedBackward {
        grads: Address, dx: Address, tokens: Address, starts: Address, sorted: Address, width: i32, lanes: i32,
    }
    RmsNorm {
        y: Address, inverse: Address, x: Address, scale: Address,
        rows: i32, d: i32, heads: i32, width: i32, first: i32, again: i32, eps: f32,
    }
    RmsNormBackward {
        dx: Address, partial: Address, dy: Address, x: Address, inverse: Address, scale: Address,
        rows: i32, rows_per_block: i32, d: i32, heads: i32, width: i32, first: i32, adds: i32,
    }
    /// For both `SplitHeads` and `JoinHeads`.
    SplitHeads {
        rows: Address, q: Address, k: Address, v: Address, cos: Address, sin: Address, positions: Address,
        n: i32, n_kv_heads: i32, repeats: i32, head_dim: i32, scale: f32,
    }
    SwiGlu { y: Address, x: Address, n: i32, hidden: i32 }
    SwiGluBackward { y: Address, x: Address, dweights: Address, weights: Address, n: i32, hidden: i32 }
    CrossEntropy {
        nll: Address, dlogits: Address, logits: Address, targets: Address, weights: Address, vocab: i32,
    }
    Route {
        scores: Address, chosen: Address, weights: Address, logits: Address, n: i32, experts: i32, top_k: i32,
    }
    CountRows { counts: Address, chosen: Address, n: i32, experts: i32, top_k: i32 }
    PlaceRows { counts: Address, offsets: Address, experts: i32, blocks: i32 }
    OrderRows {
        order: Address, row_of: Address, row_weights: Address, firsts: Address, chosen: Address, weights: Address,
        n: i32, experts: i32, top_k: i32,
    }
    RouteSpans {
        loads: Address, means: Address, entropy: Address, scores: Address, chosen: Address, spans: Address,
        experts: i32, top_k: i32,
    }
    RouteBackward {
        dlogits: Address, dweights: Address, scores: Address, chosen: Address, weights: Address, row_of: Address,
        loads: Address, load: Address, spans: Address, n: i32, experts: i32, top_k: i32, n_spans: i32, balance: f32,
    }
    Unpermute {
        y: Address, x: Address, row_of: Address, weights: Address, n: i32, width: i32, top_k: i32,
    }
    SumOfSquares { parts: Address, x: Address, len: i64 }
    ScaleGradient {
        scale: Address, sums: Address, parts: Address, max_norm: f64, eps: f64, loss_scale: f64, n_parts: i32, unused: i32,
    }
    Accumulate { sum: Address, x: Address, len: i64 }
    AdamW {
        w: Address, working: Address, m: Address, v: Address, grad: Address, scale: Address, len: i64,
        beta1: f32, beta2: f32, step_size: f32, inverse_root: f32, eps: f32, keep: f32,
    }
    MuonMomentum {
        update: Address, momentum: Address, grad: Address, scale: Address, starts: Address, len: i64,
        beta: f32, unused: i32,
    }
    Normalise { x: Address, parts: Address, len: i64, n_parts: i32, eps: f32 }
    MuonStep {
        w: Address, working: Address, update: Address, scale: Address, starts: Address, len: i64, keep: f32, rate: f32,
    }
}
