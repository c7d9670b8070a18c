//! The CPU backend: fused operations on slices, single-threaded, each with a fixed summation order.
//!
//! Lanes and groups of sequences run in parallel, above the operations; only operations over all weights, between the
//! passes, are distributed over the threads of the current rayon pool, in pieces of a fixed size.
//!
//! *Invariant:* every result has the same bits on every [`gemm::Path`] and for any number of threads.

pub(super) mod adamw;
mod adapter;
pub mod attention;
mod buffer;
pub mod cross_entropy;
pub mod gemm;
pub mod math;
mod memory;
mod muon;
mod peak;
pub mod rms_norm;
mod rope;
pub mod router;
pub mod swiglu;
mod weights;

pub use buffer::Buffer;
pub use memory::Batch;
pub use peak::matrix_peak;
pub use weights::Weights;

use super::{
    Adapter, Attention, Backend, Balancing, Columns, Dropout, Pieces, Qkv, RouterStats, sealed::Sealed,
};
use crate::Result;
use crate::layout::{ExpertsLayout, Matrix};
use crate::optimizer::{AdamW, Clipping, GradScale, Muon};
use crate::spec::Heads;
use rayon::prelude::*;
use std::ops::Range;

/// Elements per piece of an operation over all weights; fixed, so that sums keep their order.
const PIECE: usize = 1 << 16;

/// The CPU backend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu;

impl Sealed for Cpu {}

impl Backend for Cpu {
    const LANES: bool = true;
    const GROUP_POSITIONS: usize = 512;

    fn add(&self, y: &mut Buffer, x: &Buffer) -> Result<()> {
        math::add_assign(y, x);
        Ok(())
    }

    fn dropout(&self, x: &mut Buffer, dropout: Dropout) -> Result<()> {
        dropout.apply(x);
        Ok(())
    }

    fn select(&self, x: &Buffer, rows: &[u32], width: usize) -> Result<Buffer> {
        Ok(gather(x, rows.iter().map(|&row| row as usize), rows.len(), width))
    }

    fn scatter(&self, dy: &Buffer, rows: &[u32], n: usize, width: usize) -> Result<Buffer> {
        let mut dx = Buffer::zeros(n * width);
        for (dy, &row) in dy.chunks_exact(width).zip(rows) {
            dx[row as usize * width..][..width].copy_from_slice(dy);
        }
        Ok(dx)
    }

    fn embed(&self, w: &Weights, table: &Matrix, batch: &Batch) -> Result<Buffer> {
        let ids = batch.ids.iter().map(|&id| id as usize);
        Ok(gather(&w[table.range.clone()], ids, batch.len(), table.d_in))
    }

    fn embed_backward(&self, grads: &mut Buffer, table: &Matrix, dx: &Buffer, batch: &Batch) -> Result<()> {
        let (dtable, d) = (&mut grads[table.range.clone()], table.d_in);
        for (&id, dx) in batch.ids.iter().zip(dx.chunks_exact(d)) {
            math::add_assign(&mut dtable[id as usize * d..][..d], dx);
        }
        Ok(())
    }

    fn rms_norm(&self, x: &Buffer, w: &Weights, scale: &Range<usize>, eps: f64) -> Result<(Buffer, Buffer)> {
        let scale = &w[scale.clone()];
        let (mut y, mut inverse) = (Buffer::dirty(x.len()), Buffer::dirty(x.len() / scale.len()));
        rms_norm::forward(&mut y, &mut inverse, x, scale, eps as f32);
        Ok((y, inverse))
    }

    fn rms_norm_recompute(
        &self,
        x: &Buffer,
        inverse: &Buffer,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<Buffer> {
        let mut y = Buffer::dirty(x.len());
        rms_norm::again(&mut y, inverse, x, &w[scale.clone()]);
        Ok(y)
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Buffer,
        grads: &mut Buffer,
        dy: &Buffer,
        x: &Buffer,
        inverse: &Buffer,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<()> {
        rms_norm::backward(dx, &mut grads[scale.clone()], dy, x, &w[scale.clone()], inverse);
        Ok(())
    }

    fn head_norm(
        &self,
        x: &mut Buffer,
        columns: Columns,
        w: &Weights,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<Buffer> {
        let mut inverse = Buffer::dirty(x.len() / columns.width * columns.heads);
        rms_norm::heads_in_place(x, &mut inverse, columns, &w[scale.clone()], eps as f32);
        Ok(inverse)
    }

    fn head_norm_backward(
        &self,
        dx: &mut Buffer,
        grads: &mut Buffer,
        x: &Buffer,
        inverse: &Buffer,
        columns: Columns,
        w: &Weights,
        scale: &Range<usize>,
    ) -> Result<()> {
        rms_norm::heads_backward(dx, &mut grads[scale.clone()], x, columns, &w[scale.clone()], inverse);
        Ok(())
    }

    fn linear(&self, x: &Buffer, w: &Weights, m: &Matrix) -> Result<Buffer> {
        let n = x.len() / m.d_in;
        let mut y = Buffer::dirty(n * m.d_out);
        linear(&mut y, x, w, m, false);
        Ok(y)
    }

    fn linear_add(&self, y: &mut Buffer, x: &Buffer, w: &Weights, m: &Matrix) -> Result<()> {
        linear(y, x, w, m, true);
        Ok(())
    }

    fn linear_input_grad(&self, dy: &Buffer, w: &Weights, m: &Matrix) -> Result<Buffer> {
        let n = dy.len() / m.d_out;
        let mut dx = Buffer::dirty(n * m.d_in);
        gemm::linear_input_grad(&mut dx, dy, &w[m.range.clone()], n, m.d_in, false);
        Ok(dx)
    }

    fn linear_input_grad_add(&self, dx: &mut Buffer, dy: &Buffer, w: &Weights, m: &Matrix) -> Result<()> {
        gemm::linear_input_grad(dx, dy, &w[m.range.clone()], dy.len() / m.d_out, m.d_in, true);
        Ok(())
    }

    fn linear_weight_grad(&self, grads: &mut Buffer, dy: &Buffer, x: &Buffer, m: &Matrix) -> Result<()> {
        gemm::linear_weight_grad(&mut grads[m.range.clone()], dy, x, x.len() / m.d_in, m.d_in);
        Ok(())
    }

    fn split_heads(&self, qkv: &Buffer, batch: &Batch, heads: Heads) -> Result<Qkv<Self>> {
        Ok(rope::split(qkv, batch, &batch.rotations, heads))
    }

    fn join_heads(&self, grad: &Qkv<Self>, batch: &Batch, heads: Heads) -> Result<Buffer> {
        Ok(rope::join(grad, batch, &batch.rotations, heads))
    }

    fn attention(&self, qkv: &Qkv<Self>, batch: &Batch, attention: &Attention) -> Result<(Buffer, Buffer)> {
        let mut out = Buffer::dirty(batch.len() * attention.heads.width());
        let lse = attention::forward(&mut out, qkv, batch, attention);
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        dout: &Buffer,
        out: &Buffer,
        lse: &Buffer,
        qkv: &Qkv<Self>,
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Qkv<Self>> {
        Ok(attention::backward(dout, out, lse, qkv, batch, attention))
    }

    fn cache(&self, heads: Heads, capacity: usize) -> Result<attention::Cache> {
        Ok(attention::Cache::new(heads, capacity))
    }

    fn cache_append(
        &self,
        cache: &mut attention::Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        _: Heads,
    ) -> Result<()> {
        cache.append(read, qkv, rows);
        Ok(())
    }

    fn cache_copy(
        &self,
        to: &mut attention::Cache,
        from: &attention::Cache,
        read: usize,
        _: Heads,
    ) -> Result<()> {
        to.copy(from, read);
        Ok(())
    }

    fn attention_cached(
        &self,
        qkv: &Qkv<Self>,
        seen: &[Pieces<attention::Cache>],
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Buffer> {
        let mut out = Buffer::dirty(batch.len() * attention.heads.width());
        attention::forward_cached(&mut out, &qkv.q, seen, batch, attention);
        Ok(out)
    }

    fn swiglu(&self, x: &Buffer, hidden: usize) -> Result<Buffer> {
        let mut y = Buffer::dirty(x.len() / 2);
        swiglu::forward(&mut y, x, hidden);
        Ok(y)
    }

    fn swiglu_backward(
        &self,
        y: &mut Buffer,
        x: &mut Buffer,
        weights: Option<&Buffer>,
        hidden: usize,
    ) -> Result<Buffer> {
        let n = y.len() / hidden;
        let mut dweights = Buffer::dirty(n);
        match weights {
            Some(weights) => swiglu::backward_in_place(y, x, weights, &mut dweights, hidden),
            None => {
                let mut ones = Buffer::dirty(n);
                ones.fill(1.0);
                swiglu::backward_in_place(y, x, &ones, &mut dweights, hidden);
            }
        }
        Ok(dweights)
    }

    fn route(&self, logits: &Buffer, experts: &ExpertsLayout) -> Result<router::Routes> {
        Ok(router::Routes::new(logits.to_vec(), experts.router.d_out, experts.top_k))
    }

    fn route_backward(
        &self,
        dweights: &Buffer,
        routes: &router::Routes,
        balancing: &Balancing,
    ) -> Result<Buffer> {
        Ok(routes.backward(dweights, balancing))
    }

    fn route_stats(&self, routes: &router::Routes, balancing: &Balancing) -> Result<RouterStats> {
        Ok(routes.stats(balancing))
    }

    fn route_weights(&self, routes: &router::Routes) -> Result<Buffer> {
        Ok(routes.row_weights())
    }

    fn permute(&self, x: &Buffer, routes: &router::Routes, width: usize) -> Result<Buffer> {
        Ok(gather(x, routes.tokens(), routes.order.len(), width))
    }

    fn unpermute_add(
        &self,
        y: &mut Buffer,
        x: &Buffer,
        routes: &router::Routes,
        weighted: bool,
        width: usize,
    ) -> Result<()> {
        let rows = x.chunks_exact(width).zip(routes.tokens()).zip(&routes.order);
        for ((x, token), &place) in rows {
            let y = &mut y[token * width..][..width];
            match weighted {
                true => math::add_scaled(y, routes.weights[place as usize], x),
                false => math::add_assign(y, x),
            }
        }
        Ok(())
    }

    fn grouped_linear(
        &self,
        x: &Buffer,
        w: &Weights,
        experts: &[Matrix],
        routes: &router::Routes,
    ) -> Result<Buffer> {
        let product = |y: &mut [f32], x: &[f32], m: &Matrix| linear(y, x, w, m, false);
        Ok(grouped(product, x, experts, routes, |m| [m.d_in, m.d_out]))
    }

    fn grouped_input_grad(
        &self,
        dy: &Buffer,
        w: &Weights,
        experts: &[Matrix],
        routes: &router::Routes,
    ) -> Result<Buffer> {
        let product = |dx: &mut [f32], dy: &[f32], m: &Matrix| {
            gemm::linear_input_grad(dx, dy, &w[m.range.clone()], dy.len() / m.d_out, m.d_in, false);
        };
        Ok(grouped(product, dy, experts, routes, |m| [m.d_out, m.d_in]))
    }

    fn grouped_weight_grad(
        &self,
        grads: &mut Buffer,
        dy: &Buffer,
        x: &Buffer,
        experts: &[Matrix],
        routes: &router::Routes,
    ) -> Result<()> {
        for (m, rows) in experts.iter().zip(routes.groups()) {
            let (dy, x) = (&dy[of(&rows, m.d_out)], &x[of(&rows, m.d_in)]);
            gemm::linear_weight_grad(&mut grads[m.range.clone()], dy, x, rows.len(), m.d_in);
        }
        Ok(())
    }

    fn cross_entropy(&self, x: &Buffer, w: &Weights, head: &Matrix, targets: &[u32]) -> Result<Buffer> {
        let mut nll = Buffer::dirty(targets.len());
        cross_entropy::forward(&mut nll, x, &w[head.range.clone()], targets, head.d_in);
        Ok(nll)
    }

    fn cross_entropy_backward(
        &self,
        grads: &mut Buffer,
        x: &Buffer,
        w: &Weights,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
    ) -> Result<(Buffer, Buffer)> {
        let (mut nll, mut dx) = (Buffer::dirty(targets.len()), Buffer::dirty(x.len()));
        let (dhead, head) = (&mut grads[head.range.clone()], &w[head.range.clone()]);
        cross_entropy::forward_backward(&mut nll, &mut dx, dhead, x, head, targets, weights);
        Ok((nll, dx))
    }

    fn accumulate(&self, sum: &mut Buffer, gradient: &mut Buffer) -> Result<()> {
        // Runs on this thread only: the others work on other lanes.
        math::add_assign(sum, gradient);
        gradient.fill(0.0);
        Ok(())
    }

    fn grad_scale(
        &self,
        grads: &Buffer,
        parts: &[(Range<usize>, f64)],
        clipping: &Clipping,
    ) -> Result<GradScale> {
        let squares = |(range, multiplier): &(Range<usize>, f64)| {
            let pieces = grads[range.clone()].par_chunks(PIECE).map(math::sum_of_squares);
            multiplier.powi(2) * pieces.collect::<Vec<f64>>().iter().sum::<f64>()
        };
        Ok(clipping.scale(parts.iter().map(squares)))
    }

    fn grad_norm(&self, scale: GradScale) -> Result<f64> {
        Ok(scale.norm)
    }

    fn adamw(
        &self,
        w: &mut Weights,
        moments: &mut [Buffer; 2],
        grads: &Buffer,
        scale: &GradScale,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        let Some(factor) = scale.factor else { return Ok(()) };
        let [m, v] = moments;
        let pieces = w[range.clone()]
            .par_chunks_mut(PIECE)
            .zip(m[range.clone()].par_chunks_mut(PIECE))
            .zip(v[range.clone()].par_chunks_mut(PIECE))
            .zip(grads[range].par_chunks(PIECE));
        pieces.for_each(|(((w, m), v), g)| adamw::update(step, w, m, v, g, factor));
        Ok(())
    }

    fn muon(
        &self,
        w: &mut Weights,
        moments: &mut [Buffer; 2],
        grads: &Buffer,
        scale: &GradScale,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        if let Some(factor) = scale.factor {
            muon::update(w, &mut moments[0], grads, factor, matrices, step);
        }
        Ok(())
    }

    fn adapt(
        &self,
        w: &mut Weights,
        base: &Buffer,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        adapter::merge(w, base, adapters, adapter, scale as f32);
        Ok(())
    }

    fn adapt_backward(
        &self,
        grads: &mut Buffer,
        dw: &Buffer,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        adapter::pull_back(grads, dw, adapters, adapter, scale as f32);
        Ok(())
    }
}

/// `y = x wᵀ` or `y += x wᵀ` with one matrix of the weights.
fn linear(y: &mut [f32], x: &[f32], w: &Weights, m: &Matrix, accumulate: bool) {
    let n = x.len() / m.d_in;
    match w.packed(m) {
        Some(packed) => gemm::matmul_packed(y, m.d_out, gemm::Mat::new(x, n, m.d_in), packed, accumulate),
        None => gemm::linear(y, x, &w[m.range.clone()], n, m.d_in, accumulate),
    }
}

/// Applies a product, `(out, x, weight)`, to each expert's rows; `widths` returns those of `x` and of the result.
fn grouped(
    product: impl Fn(&mut [f32], &[f32], &Matrix),
    x: &[f32],
    experts: &[Matrix],
    routes: &router::Routes,
    widths: fn(&Matrix) -> [usize; 2],
) -> Buffer {
    let mut out = Buffer::dirty(experts.first().map_or(0, |m| routes.order.len() * widths(m)[1]));
    for (m, rows) in experts.iter().zip(routes.groups()) {
        let [from, to] = widths(m);
        let (x, out) = (&x[of(&rows, from)], &mut out[of(&rows, to)]);
        product(out, x, m);
    }
    out
}

/// The element range of rows of this width.
fn of(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Gathers rows into a new buffer: `(n, width)`.
fn gather(x: &[f32], rows: impl Iterator<Item = usize>, n: usize, width: usize) -> Buffer {
    let mut out = Buffer::dirty(n * width);
    for (out, row) in out.chunks_exact_mut(width).zip(rows) {
        out.copy_from_slice(&x[row * width..][..width]);
    }
    out
}
