//! candle's tensors in f32, on any device that candle knows: the same operations without kernels of our own.
//!
//! Every operation is a few of candle's with its backward pass written out, so that nothing is recorded and a pass needs
//! the memory of the tape alone. Buffers are replaced and never written to in place, but for the gradients and the
//! weights. Only the router looks at numbers on the host.

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
use crate::optimizer::{AdamW, Muon};
use crate::spec::Heads;
use candle_core::{D, DType, Device, Tensor};
use std::ops::Range;

/// Positions whose logits exist at one time.
const HEAD_ROWS: usize = 1024;

/// A device of candle's.
#[derive(Debug, Clone)]
pub struct Portable(pub Device);

/// The part of a flat tensor that is a matrix.
fn matrix(flat: &Tensor, m: &Matrix) -> candle_core::Result<Tensor> {
    flat.narrow(0, m.range.start, m.range.len())?.reshape((m.d_out, m.d_in))
}

/// The part of a flat tensor.
fn part(flat: &Tensor, range: &Range<usize>) -> candle_core::Result<Tensor> {
    flat.narrow(0, range.start, range.len())
}

/// Adds to a part of a flat tensor.
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
        Ok((self.rms_norm_again(x, &inverse, w, scale)?, inverse))
    }

    fn rms_norm_again(
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
        let slope = (&sigmoid + (&silu * (1.0 - &sigmoid)?)?)?; // of silu
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

    fn sum_of_squares(&self, floats: &Tensor, range: Range<usize>) -> Result<f64> {
        let floats = floats.narrow(0, range.start, range.len())?;
        Ok(f64::from(floats.sqr()?.sum_all()?.to_scalar::<f32>()?))
    }

    fn adamw(
        &self,
        w: &mut Tensor,
        moments: &mut [Tensor; 2],
        grads: &Tensor,
        range: Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        Ok(update::adamw(w, moments, grads, &range, step)?)
    }

    fn muon(
        &self,
        w: &mut Tensor,
        moments: &mut [Tensor; 2],
        grads: &Tensor,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        matrices.iter().try_for_each(|m| Ok(update::muon(w, &moments[0], grads, m, step)?))
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

/// `1 / rms` over the last dimension, which stays with size 1.
fn inverse_rms(x: &Tensor, eps: f64) -> candle_core::Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

/// The gradient of a norm's input, and that of its scale before it is summed over rows.
///
/// With `r = 1 / rms`: `dx = r w dy - r^3 x mean(x w dy)`; `dw = r x dy`.
fn norm_backward(dy: &Tensor, x: &Tensor, r: &Tensor, w: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
    let wdy = dy.broadcast_mul(w)?;
    let pull = ((x * &wdy)?.mean_keepdim(D::Minus1)? * (r.sqr()? * r)?)?;
    let dx = (wdy.broadcast_mul(r)? - x.broadcast_mul(&pull)?)?;
    Ok((dx, (x.broadcast_mul(r)? * dy)?))
}

/// The heads of some columns: `(n, heads, head_dim)`.
fn heads(x: &Tensor, columns: Columns) -> candle_core::Result<Tensor> {
    let Columns { first, heads, head_dim, .. } = columns;
    x.narrow(1, first, heads * head_dim)?.contiguous()?.reshape(((), heads, head_dim))
}

/// `x` with other heads in some columns.
fn with_heads(x: &Tensor, columns: Columns, new: &Tensor) -> candle_core::Result<Tensor> {
    let Columns { width, first, heads, head_dim } = columns;
    let end = first + heads * head_dim;
    let new = new.reshape(((), heads * head_dim))?;
    let (before, behind) = (x.narrow(1, 0, first)?, x.narrow(1, end, width - end)?);
    let parts: Vec<Tensor> = [before, new, behind].into_iter().filter(|part| part.elem_count() > 0).collect();
    Tensor::cat(&parts, 1)
}
