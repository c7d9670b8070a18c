//! A backend of candle tensors in f32, on any device that candle supports: the same operations without custom kernels.
//!
//! Every operation is composed of a few candle operations, with its backward pass written out, so that nothing is
//! recorded and a pass needs only the memory of the tape. Buffers are replaced rather than written in place, except for
//! gradients and weights. Only the router reads values on the host.

mod attention;
mod experts;
mod memory;
mod update;

pub use memory::Batch;

use super::{
    Adapter, Attention, Backend, Balancing, Columns, Dropout, Memory, Pieces, Qkv, RouterStats,
    sealed::Sealed,
};
use crate::Result;
use crate::layout::{ExpertsLayout, Matrix};
use crate::optimizer::{AdamW, Clipping, GradScale, Muon};
use crate::spec::Heads;
use candle_core::{D, DType, Device, Tensor};
use std::ops::Range;

/// Number of positions whose logits are materialized at a time.
const HEAD_ROWS: usize = 1024;

/// A candle device.
#[derive(Debug, Clone)]
pub struct Portable(pub Device);

/// The matrix `m` within a flat tensor: `(d_out, d_in)`.
fn matrix(flat: &Tensor, m: &Matrix) -> candle_core::Result<Tensor> {
    flat.narrow(0, m.range.start, m.range.len())?.reshape((m.d_out, m.d_in))
}

/// A range of a flat tensor.
fn part(flat: &Tensor, range: &Range<usize>) -> candle_core::Result<Tensor> {
    flat.narrow(0, range.start, range.len())
}

/// Adds `more` to a range of a flat tensor.
fn add_to(flat: &Tensor, range: &Range<usize>, more: &Tensor) -> candle_core::Result<()> {
    let sum = (part(flat, range)? + more.flatten_all()?)?;
    flat.slice_set(&sum, 0, range.start)
}

impl Sealed for Portable {}

impl Backend for Portable {
    const LANES: bool = false;
    const GROUP_POSITIONS: usize = 8192;

    fn add(&self, y: &mut Tensor, x: &Tensor) -> Result<()> {
        *y = (&*y + x)?;
        Ok(())
    }

    fn dropout(&self, x: &mut Tensor, dropout: Dropout) -> Result<()> {
        let factors: Vec<f32> = (0..x.elem_count() as u64).map(|i| dropout.factor(i)).collect();
        *x = (&*x * Tensor::from_vec(factors, x.shape(), &self.0)?)?;
        Ok(())
    }

    fn select(&self, x: &Tensor, rows: &[u32], _: usize) -> Result<Tensor> {
        Ok(x.index_select(&Tensor::new(rows, &self.0)?, 0)?)
    }

    fn scatter(&self, dy: &Tensor, rows: &[u32], n: usize, width: usize) -> Result<Tensor> {
        let dx = Tensor::zeros((n, width), DType::F32, &self.0)?;
        Ok(dx.index_add(&Tensor::new(rows, &self.0)?, dy, 0)?)
    }

    fn embed(&self, w: &Tensor, table: &Matrix, batch: &Batch) -> Result<Tensor> {
        Ok(matrix(w, table)?.index_select(&batch.ids, 0)?)
    }

    fn embed_backward(&self, grads: &mut Tensor, table: &Matrix, dx: &Tensor, batch: &Batch) -> Result<()> {
        let dtable = matrix(grads, table)?.index_add(&batch.ids, dx, 0)?;
        Ok(grads.slice_set(&dtable.flatten_all()?, 0, table.range.start)?)
    }

    fn rms_norm(&self, x: &Tensor, w: &Tensor, scale: &Range<usize>, eps: f64) -> Result<(Tensor, Tensor)> {
        let inverse = inverse_rms(x, eps)?;
        Ok((self.rms_norm_recompute(x, &inverse, w, scale)?, inverse))
    }

    fn rms_norm_recompute(
        &self,
        x: &Tensor,
        inverse: &Tensor,
        w: &Tensor,
        scale: &Range<usize>,
    ) -> Result<Tensor> {
        Ok(x.broadcast_mul(inverse)?.broadcast_mul(&part(w, scale)?)?)
    }

    fn rms_norm_backward(
        &self,
        dx: &mut Tensor,
        grads: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        inverse: &Tensor,
        w: &Tensor,
        scale: &Range<usize>,
    ) -> Result<()> {
        let (more, dscale) = norm_backward(dy, x, inverse, &part(w, scale)?)?;
        add_to(grads, scale, &dscale.sum(0)?)?;
        self.add(dx, &more)
    }

    fn head_norm(
        &self,
        x: &mut Tensor,
        columns: Columns,
        w: &Tensor,
        scale: &Range<usize>,
        eps: f64,
    ) -> Result<Tensor> {
        let heads = heads(x, columns)?;
        let inverse = inverse_rms(&heads, eps)?;
        let normed = heads.broadcast_mul(&inverse)?.broadcast_mul(&part(w, scale)?)?;
        *x = with_heads(x, columns, &normed)?;
        Ok(inverse)
    }

    fn head_norm_backward(
        &self,
        dx: &mut Tensor,
        grads: &mut Tensor,
        x: &Tensor,
        inverse: &Tensor,
        columns: Columns,
        w: &Tensor,
        scale: &Range<usize>,
    ) -> Result<()> {
        let (dy, x) = (heads(dx, columns)?, heads(x, columns)?);
        let (dheads, dscale) = norm_backward(&dy, &x, inverse, &part(w, scale)?)?;
        add_to(grads, scale, &dscale.sum((0, 1))?)?;
        *dx = with_heads(dx, columns, &dheads)?;
        Ok(())
    }

    fn linear(&self, x: &Tensor, w: &Tensor, m: &Matrix) -> Result<Tensor> {
        Ok(x.matmul(&matrix(w, m)?.t()?)?)
    }

    fn linear_add(&self, y: &mut Tensor, x: &Tensor, w: &Tensor, m: &Matrix) -> Result<()> {
        self.add(y, &self.linear(x, w, m)?)
    }

    fn linear_input_grad(&self, dy: &Tensor, w: &Tensor, m: &Matrix) -> Result<Tensor> {
        Ok(dy.matmul(&matrix(w, m)?)?)
    }

    fn linear_input_grad_add(&self, dx: &mut Tensor, dy: &Tensor, w: &Tensor, m: &Matrix) -> Result<()> {
        self.add(dx, &self.linear_input_grad(dy, w, m)?)
    }

    fn linear_weight_grad(&self, grads: &mut Tensor, dy: &Tensor, x: &Tensor, m: &Matrix) -> Result<()> {
        Ok(add_to(grads, &m.range, &dy.t()?.matmul(x)?)?)
    }

    fn split_heads(&self, qkv: &Tensor, batch: &Batch, heads: Heads) -> Result<Qkv<Self>> {
        Ok(attention::split(qkv, &batch.angles, heads)?)
    }

    fn join_heads(&self, grad: &Qkv<Self>, batch: &Batch, heads: Heads) -> Result<Tensor> {
        Ok(attention::join(grad, &batch.angles, heads)?)
    }

    fn attention(&self, qkv: &Qkv<Self>, batch: &Batch, attention: &Attention) -> Result<(Tensor, Tensor)> {
        Ok(attention::forward(qkv, &batch.padding, batch, attention)?)
    }

    fn attention_backward(
        &self,
        dout: &Tensor,
        out: &Tensor,
        _: &Tensor,
        qkv: &Qkv<Self>,
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Qkv<Self>> {
        Ok(attention::backward(dout, out, qkv, &batch.padding, batch, attention)?)
    }

    fn cache(&self, heads: Heads, capacity: usize) -> Result<attention::Cache> {
        let room = || Tensor::zeros((heads.n_kv_heads, capacity, heads.head_dim), DType::F32, &self.0);
        Ok(attention::Cache { k: room()?, v: room()? })
    }

    fn cache_append(
        &self,
        cache: &mut attention::Cache,
        qkv: &Qkv<Self>,
        rows: Range<usize>,
        read: usize,
        _: Heads,
    ) -> Result<()> {
        for (to, from) in [(&cache.k, &qkv.k), (&cache.v, &qkv.v)] {
            to.slice_set(&from.narrow(1, rows.start, rows.len())?.contiguous()?, 1, read)?;
        }
        Ok(())
    }

    fn cache_copy(
        &self,
        to: &mut attention::Cache,
        from: &attention::Cache,
        read: usize,
        _: Heads,
    ) -> Result<()> {
        if read == 0 {
            return Ok(());
        }
        for (to, from) in [(&to.k, &from.k), (&to.v, &from.v)] {
            to.slice_set(&from.narrow(1, 0, read)?.contiguous()?, 1, 0)?;
        }
        Ok(())
    }

    fn attention_cached(
        &self,
        qkv: &Qkv<Self>,
        seen: &[Pieces<attention::Cache>],
        batch: &Batch,
        attention: &Attention,
    ) -> Result<Tensor> {
        Ok(attention::forward_cached(qkv, seen, batch, attention)?)
    }

    fn swiglu(&self, x: &Tensor, hidden: usize) -> Result<Tensor> {
        let gate = x.narrow(D::Minus1, 0, hidden)?.silu()?;
        Ok((gate * x.narrow(D::Minus1, hidden, hidden)?)?)
    }

    fn swiglu_backward(
        &self,
        y: &mut Tensor,
        x: &mut Tensor,
        weights: Option<&Tensor>,
        hidden: usize,
    ) -> Result<Tensor> {
        let (gate, up) = (x.narrow(1, 0, hidden)?, x.narrow(1, hidden, hidden)?);
        let sigmoid = candle_nn::ops::sigmoid(&gate)?;
        let silu = (&gate * &sigmoid)?;
        let slope = (&sigmoid + (&silu * (1.0 - &sigmoid)?)?)?; // derivative of silu
        let result = (&silu * &up)?;
        let dweights = (&*y * &result)?.sum_keepdim(1)?; // (n, 1)
        let weighted = |t: Tensor| match weights {
            Some(weights) => t.broadcast_mul(&weights.reshape(((), 1))?),
            None => Ok(t),
        };
        let dgate = weighted(((&*y * &up)? * slope)?)?;
        let dup = weighted((&*y * &silu)?)?;
        *x = Tensor::cat(&[dgate, dup], 1)?;
        *y = weighted(result)?;
        Ok(dweights)
    }

    fn route(&self, logits: &Tensor, layout: &ExpertsLayout) -> Result<experts::Routes> {
        experts::Routes::new(logits, layout, &self.0)
    }

    fn route_backward(
        &self,
        dweights: &Tensor,
        routes: &experts::Routes,
        balancing: &Balancing,
    ) -> Result<Tensor> {
        routes.backward(dweights, balancing, &self.0)
    }

    fn route_stats(&self, routes: &experts::Routes, balancing: &Balancing) -> Result<RouterStats> {
        Ok(routes.host.stats(balancing))
    }

    fn route_weights(&self, routes: &experts::Routes) -> Result<Tensor> {
        Ok(routes.weights.clone())
    }

    fn permute(&self, x: &Tensor, routes: &experts::Routes, _: usize) -> Result<Tensor> {
        Ok(x.index_select(&routes.tokens, 0)?)
    }

    fn unpermute_add(
        &self,
        y: &mut Tensor,
        x: &Tensor,
        routes: &experts::Routes,
        weighted: bool,
        _: usize,
    ) -> Result<()> {
        *y = match weighted {
            true => y.index_add(&routes.tokens, &x.broadcast_mul(&routes.weights)?, 0)?,
            false => y.index_add(&routes.tokens, x, 0)?,
        };
        Ok(())
    }

    fn grouped_linear(
        &self,
        x: &Tensor,
        w: &Tensor,
        experts: &[Matrix],
        routes: &experts::Routes,
    ) -> Result<Tensor> {
        routes.each(experts, |m, rows| x.narrow(0, rows.start, rows.len())?.matmul(&matrix(w, m)?.t()?))
    }

    fn grouped_input_grad(
        &self,
        dy: &Tensor,
        w: &Tensor,
        experts: &[Matrix],
        routes: &experts::Routes,
    ) -> Result<Tensor> {
        routes.each(experts, |m, rows| dy.narrow(0, rows.start, rows.len())?.matmul(&matrix(w, m)?))
    }

    fn grouped_weight_grad(
        &self,
        grads: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        experts: &[Matrix],
        routes: &experts::Routes,
    ) -> Result<()> {
        for (m, rows) in experts.iter().zip(routes.host.groups()).filter(|(_, rows)| !rows.is_empty()) {
            let of = |t: &Tensor| t.narrow(0, rows.start, rows.len());
            add_to(grads, &m.range, &of(dy)?.t()?.matmul(&of(x)?)?)?;
        }
        Ok(())
    }

    fn cross_entropy(&self, x: &Tensor, w: &Tensor, head: &Matrix, targets: &[u32]) -> Result<Tensor> {
        let head = matrix(w, head)?;
        let mut parts = vec![];
        for (i, targets) in targets.chunks(HEAD_ROWS).enumerate() {
            let x = x.narrow(0, i * HEAD_ROWS, targets.len())?;
            let log_probs = candle_nn::ops::log_softmax(&x.matmul(&head.t()?)?, 1)?;
            let targets = Tensor::new(targets, &self.0)?.unsqueeze(1)?;
            parts.push(log_probs.gather(&targets, 1)?.squeeze(1)?.neg()?);
        }
        if parts.is_empty() { self.zeros(0) } else { Ok(Tensor::cat(&parts, 0)?) }
    }

    fn cross_entropy_backward(
        &self,
        grads: &mut Tensor,
        x: &Tensor,
        w: &Tensor,
        head: &Matrix,
        targets: &[u32],
        weights: &[f32],
    ) -> Result<(Tensor, Tensor)> {
        if targets.is_empty() {
            return Ok((self.zeros(0)?, x.zeros_like()?));
        }
        let embedding = matrix(w, head)?;
        let (mut losses, mut dx) = (vec![], vec![]);
        for (i, (targets, weights)) in targets.chunks(HEAD_ROWS).zip(weights.chunks(HEAD_ROWS)).enumerate() {
            let x = x.narrow(0, i * HEAD_ROWS, targets.len())?;
            let log_probs = candle_nn::ops::log_softmax(&x.matmul(&embedding.t()?)?, 1)?;
            let targets = Tensor::new(targets, &self.0)?.unsqueeze(1)?;
            losses.push(log_probs.gather(&targets, 1)?.squeeze(1)?.neg()?);
            let minus = targets.to_dtype(DType::F32)?.affine(0.0, -1.0)?;
            let dlogits = log_probs.exp()?.scatter_add(&targets, &minus, 1)?;
            let dlogits = dlogits.broadcast_mul(&Tensor::new(weights, &self.0)?.unsqueeze(1)?)?;
            add_to(grads, &head.range, &dlogits.t()?.matmul(&x)?)?;
            dx.push(dlogits.matmul(&embedding)?);
        }
        Ok((Tensor::cat(&losses, 0)?, Tensor::cat(&dx, 0)?))
    }

    fn accumulate(&self, sum: &mut Tensor, gradient: &mut Tensor) -> Result<()> {
        *sum = (&*sum + &*gradient)?;
        self.clear(gradient)
    }

    fn grad_scale(
        &self,
        grads: &Tensor,
        parts: &[(Range<usize>, f64)],
        clipping: &Clipping,
    ) -> Result<GradScale> {
        // On the host, because some devices have no f64.
        let grads = grads.to_vec1::<f32>()?;
        let squares = |(range, multiplier): &(Range<usize>, f64)| {
            multiplier.powi(2) * grads[range.clone()].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
        };
        Ok(clipping.scale(parts.iter().map(squares)))
    }

    fn grad_norm(&self, scale: GradScale) -> Result<f64> {
        Ok(scale.norm)
    }

    fn adamw(
        &self,
        w: &mut Tensor,
        moments: &mut [Tensor; 2],
        grads: &Tensor,
        scale: &GradScale,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        let Some(factor) = scale.factor else { return Ok(()) };
        Ok(update::adamw(w, moments, grads, factor, &range, step)?)
    }

    fn muon(
        &self,
        w: &mut Tensor,
        moments: &mut [Tensor; 2],
        grads: &Tensor,
        scale: &GradScale,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        let Some(factor) = scale.factor else { return Ok(()) };
        matrices.iter().try_for_each(|m| Ok(update::muon(w, &moments[0], grads, factor, m, step)?))
    }

    fn adapt(
        &self,
        w: &mut Tensor,
        base: &Tensor,
        adapters: &Tensor,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        let product = matrix(adapters, &adapter.b)?.matmul(&matrix(adapters, &adapter.a)?)?;
        let merged = (part(base, &adapter.base)? + (product.flatten_all()? * scale)?)?;
        Ok(w.slice_set(&merged, 0, adapter.weight.range.start)?)
    }

    fn adapt_backward(
        &self,
        grads: &mut Tensor,
        dw: &Tensor,
        adapters: &Tensor,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        let dw = (matrix(dw, &adapter.weight)? * scale)?;
        let (a, b) = (matrix(adapters, &adapter.a)?, matrix(adapters, &adapter.b)?);
        grads.slice_set(&b.t()?.matmul(&dw)?.flatten_all()?, 0, adapter.a.range.start)?;
        Ok(grads.slice_set(&dw.matmul(&a.t()?)?.flatten_all()?, 0, adapter.b.range.start)?)
    }
}

/// `1 / rms` over the last dimension, which is kept with size 1.
fn inverse_rms(x: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

/// Returns the gradient of a norm's input, and that of its scale before summation over rows.
///
/// With `r = 1 / rms`: `dx = r w dy - r^3 x mean(x w dy)`; `dw = r x dy`.
fn norm_backward(dy: &Tensor, x: &Tensor, r: &Tensor, w: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let wdy = dy.broadcast_mul(w)?;
    let pull = ((x * &wdy)?.mean_keepdim(D::Minus1)? * (r.sqr()? * r)?)?;
    let dx = (wdy.broadcast_mul(r)? - x.broadcast_mul(&pull)?)?;
    Ok((dx, (x.broadcast_mul(r)? * dy)?))
}

/// Extracts the heads in some columns: `(n, heads, head_dim)`.
fn heads(x: &Tensor, columns: Columns) -> candle_core::Result<Tensor> {
    let Columns { first, heads, head_dim, .. } = columns;
    x.narrow(1, first, heads * head_dim)?.contiguous()?.reshape(((), heads, head_dim))
}

/// Returns `x` with the heads in some columns replaced.
fn with_heads(x: &Tensor, columns: Columns, new: &Tensor) -> candle_core::Result<Tensor> {
    let Columns { width, first, heads, head_dim } = columns;
    let end = first + heads * head_dim;
    let new = new.reshape(((), heads * head_dim))?;
    let (before, behind) = (x.narrow(1, 0, first)?, x.narrow(1, end, width - end)?);
    let parts: Vec<Tensor> = [before, new, behind].into_iter().filter(|part| part.elem_count() > 0).collect();
    Tensor::cat(&parts, 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tokens::Ragged;

    fn host() -> Portable {
        Portable(Device::Cpu)
    }

    #[test]
    fn squares_are_summed_in_f64() {
        let grads = host().floats(vec![9.0, 4096.0, 0.5, 9.0]).unwrap();
        let clipping = Clipping { max_norm: 1.0, loss_scale: 1.0 };
        let scale = host().grad_scale(&grads, &[(1..3, 1.0), (1..1, 1.0), (0..1, 2.0)], &clipping).unwrap();
        // 2^24 + 1/4, which f32 rounds to 2^24, and four times 81.
        assert_eq!(scale.norm, (16_777_216.25f64 + 324.0).sqrt());
    }

    #[test]
    fn attention_over_caches_of_an_empty_batch_is_empty() {
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4 };
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let qkv = Qkv::<Portable> { q: zeros(&[1, 0, 2, 4]), k: zeros(&[1, 0, 4]), v: zeros(&[1, 0, 4]) };
        let attention = Attention { heads, window: None, dropout: None };
        let out = attention::forward_cached(&qkv, &[], &Ragged::new(&[]), &attention).unwrap();
        assert_eq!(out.dims(), [0, 8]);
    }

    #[test]
    fn experts_of_an_empty_batch_are_empty() {
        let matrix = |start: usize| Matrix { range: start..start + 6, d_out: 3, d_in: 2 };
        let experts = vec![matrix(0), matrix(6)];
        let router = Matrix { range: 12..16, d_out: 2, d_in: 2 };
        let layout = ExpertsLayout { router, w13: experts.clone(), w2: experts.clone(), hidden: 1, top_k: 1 };
        let empty = |width: usize| Tensor::zeros((0, width), DType::F32, &Device::Cpu).unwrap();
        let routes = host().route(&empty(2), &layout).unwrap();
        let w = host().zeros(16).unwrap();
        let y = host().grouped_linear(&empty(2), &w, &experts, &routes).unwrap();
        assert_eq!(y.dims(), [0, 3]);
        let dx = host().grouped_input_grad(&empty(3), &w, &experts, &routes).unwrap();
        assert_eq!(dx.dims(), [0, 2]);
    }
}
