//! The attention half of a block: `x + wo attention(rope(wqkv norm(x)))`.

use super::context::Context;
use crate::ops::attention::{self as op, Heads, Qkv, QkvGrad};
use crate::ops::dropout::Dropout;
use crate::ops::gemm::{linear, linear_input_grad, linear_weight_grad};
use crate::ops::scratch::Buffer;
use crate::ops::{math, rms_norm, rope};
use candle_core::{Result, Tensor};

pub(super) fn heads(context: &Context) -> Heads {
    let config = &context.config;
    Heads { n_heads: config.n_heads, n_kv_heads: config.n_kv_heads, head_dim: config.head_dim() }
}

/// Dropout of the probabilities and of the residual branch.
fn dropouts(context: &Context, layer: usize) -> (Option<Dropout>, Option<Dropout>) {
    let place = 1 + 3 * layer as u64;
    (context.dropout(place), context.dropout(place + 1))
}

/// The plain form. `x`: `(n, d_model)`; returns the same shape.
pub fn plain(context: &Context, layer: usize, x: &Tensor) -> Result<Tensor> {
    let block = &context.layout().blocks[layer];
    let heads = heads(context);
    let (n, head_dim) = (x.dim(0)?, heads.head_dim);
    let documents = &context.batch.documents;
    let (count, seq) = (documents.len() - 1, context.batch.longest());
    let (drop_probabilities, drop_residual) = dropouts(context, layer);

    // Documents become the rows of a padded batch; causal attention never looks at the padding behind them.
    let mut pad = vec![0u32; count * seq];
    let mut unpad = vec![0u32; n];
    for (i, bounds) in documents.windows(2).enumerate() {
        for (place, position) in (i * seq..).zip(bounds[0]..bounds[1]) {
            pad[place] = position as u32;
            unpad[position] = place as u32;
        }
    }
    let (pad, unpad) = (Tensor::new(pad, x.device())?, Tensor::new(unpad, x.device())?);

    let normed = rms_norm::plain(x, &context.plain(&block.attention_norm)?, context.config.norm_eps)?;
    let qkv = normed.matmul(&context.plain(&block.wqkv.range)?.t()?)?; // (n, qkv_width)
    let (cos, sin) = context.rotations.tensors(0..seq, x.device())?;
    let split = |start: usize, count_heads: usize| {
        qkv.narrow(1, start * head_dim, count_heads * head_dim)?
            .contiguous()?
            .index_select(&pad, 0)?
            .reshape((count, seq, count_heads, head_dim))?
            .transpose(1, 2) // (documents, heads, seq, head_dim)
    };
    let q = rope::plain(&split(0, heads.n_heads)?, &cos, &sin)?;
    let k = rope::plain(&split(heads.n_heads, heads.n_kv_heads)?, &cos, &sin)?;
    let v = split(heads.n_heads + heads.n_kv_heads, heads.n_kv_heads)?;
    let mask =
        drop_probabilities.map(|d| op::dropout_mask(d, documents, heads, seq, x.device())).transpose()?;
    let out = op::plain(&q, &k, &v, mask.as_ref())?
        .transpose(1, 2)?
        .reshape((count * seq, heads.width()))?
        .index_select(&unpad, 0)?; // (n, width)
    let out = out.matmul(&context.plain(&block.wo.range)?.t()?)?;
    match drop_residual {
        Some(dropout) => x + (&out * dropout.mask(out.shape(), out.device())?)?,
        None => x + out,
    }
}

/// What the backward pass needs of the forward pass.
pub struct Saved {
    /// `1 / rms` of each position, `(n,)`.
    inverse: Buffer,
    /// Rotated and scaled queries, `(n_kv_heads, n, repeats, head_dim)`.
    q: Buffer,
    /// Rotated keys, `(n_kv_heads, n, head_dim)`.
    k: Buffer,
    /// Values, `(n_kv_heads, n, head_dim)`.
    v: Buffer,
    /// Log-sum-exp of each row of scores, `(n_kv_heads, n, repeats)`.
    lse: Buffer,
    /// Attention's result, `(n, n_heads head_dim)`.
    out: Buffer,
}

impl Saved {
    fn qkv(&self) -> Qkv<'_> {
        Qkv { q: &self.q, k: &self.k, v: &self.v }
    }
}

/// Writes `x + wo attention(..)` to `y`; both `(n, d_model)`.
pub fn forward(context: &Context, layer: usize, y: &mut [f32], x: &[f32], weights: &[f32]) -> Saved {
    let (n, width) = (context.batch.len(), heads(context).width());
    let saved = attend(context, layer, x, weights);
    let wo = &weights[context.layout().blocks[layer].wo.range.clone()];
    y.copy_from_slice(x);
    if let Some(dropout) = dropouts(context, layer).1 {
        let mut branch = Buffer::dirty(y.len());
        linear(&mut branch, &saved.out, wo, n, width, false);
        dropout.apply(&mut branch);
        math::add_assign(y, &branch);
    } else {
        linear(y, &saved.out, wo, n, width, true);
    }
    saved
}

/// Everything up to the attention's result.
fn attend(context: &Context, layer: usize, x: &[f32], weights: &[f32]) -> Saved {
    let (block, heads) = (&context.layout().blocks[layer], heads(context));
    let (d, n, kv) = (context.config.d_model, context.batch.len(), heads.n_kv_heads * heads.head_dim);
    let mut inverse = Buffer::dirty(n);
    let mut normed = Buffer::dirty(n * d);
    let norm = &weights[block.attention_norm.clone()];
    rms_norm::forward(&mut normed, &mut inverse, x, norm, context.config.norm_eps as f32);
    let mut qkv = Buffer::dirty(n * heads.qkv_width());
    linear(&mut qkv, &normed, &weights[block.wqkv.range.clone()], n, d, false);
    let mut saved = Saved {
        inverse,
        q: Buffer::dirty(n * heads.width()),
        k: Buffer::dirty(n * kv),
        v: Buffer::dirty(n * kv),
        lse: Buffer::dirty(n * heads.n_heads),
        out: normed, // its room is free now: width and d_model are equal
    };
    split(context, &mut saved, &qkv);
    drop(qkv);
    let qkv = Qkv { q: &saved.q, k: &saved.k, v: &saved.v };
    let dropout = dropouts(context, layer).0;
    op::forward(&mut saved.out, &mut saved.lse, qkv, &context.batch.documents, heads, dropout);
    saved
}

/// Rotates queries and keys and lays everything out head by head.
fn split(context: &Context, saved: &mut Saved, qkv: &[f32]) {
    let heads = heads(context);
    let (hd, repeats, n) = (heads.head_dim, heads.repeats(), context.batch.len());
    let scale = 1.0 / (hd as f32).sqrt();
    each_position(context, |t, angles| {
        let row = &qkv[t * heads.qkv_width()..][..heads.qkv_width()];
        for (h, x) in row[..heads.width()].chunks_exact(hd).enumerate() {
            let place = ((h / repeats * n + t) * repeats + h % repeats) * hd;
            rope::rotate(&mut saved.q[place..place + hd], x, angles, scale);
        }
        let (k, v) = row[heads.width()..].split_at(heads.n_kv_heads * hd);
        for (h, (k, v)) in k.chunks_exact(hd).zip(v.chunks_exact(hd)).enumerate() {
            let place = (h * n + t) * hd;
            rope::rotate(&mut saved.k[place..place + hd], k, angles, 1.0);
            saved.v[place..place + hd].copy_from_slice(v);
        }
    });
}

/// The gradient of [`split`].
fn join(context: &Context, qkv: &mut [f32], dq: &[f32], dk: &[f32], dv: &[f32]) {
    let heads = heads(context);
    let (hd, repeats, n) = (heads.head_dim, heads.repeats(), context.batch.len());
    let scale = 1.0 / (hd as f32).sqrt();
    each_position(context, |t, angles| {
        let row = &mut qkv[t * heads.qkv_width()..][..heads.qkv_width()];
        let (q, kv) = row.split_at_mut(heads.width());
        for (h, x) in q.chunks_exact_mut(hd).enumerate() {
            let place = ((h / repeats * n + t) * repeats + h % repeats) * hd;
            rope::rotate_back(x, &dq[place..place + hd], angles, scale);
        }
        let (k, v) = kv.split_at_mut(heads.n_kv_heads * hd);
        for (h, (k, v)) in k.chunks_exact_mut(hd).zip(v.chunks_exact_mut(hd)).enumerate() {
            let place = (h * n + t) * hd;
            rope::rotate_back(k, &dk[place..place + hd], angles, 1.0);
            v.copy_from_slice(&dv[place..place + hd]);
        }
    });
}

/// Calls `f` with every position of the batch and the rotation of its place in its document.
fn each_position(context: &Context, mut f: impl FnMut(usize, (&[f32], &[f32]))) {
    for bounds in context.batch.documents.windows(2) {
        for t in bounds[0]..bounds[1] {
            f(t, context.rotations.at(t - bounds[0]));
        }
    }
}

/// Turns `grad`, the gradient of the half's result, into that of its input `x`, and adds those of its weights.
///
/// Without `saved` the forward pass is run again.
pub fn backward(
    context: &Context,
    layer: usize,
    grad: &mut [f32],
    x: &[f32],
    saved: Option<Saved>,
    weights: &[f32],
    grads: &mut [f32],
) {
    let (block, heads) = (&context.layout().blocks[layer], heads(context));
    let (d, n, width) = (context.config.d_model, context.batch.len(), heads.width());
    let saved = saved.unwrap_or_else(|| attend(context, layer, x, weights));
    let (drop_probabilities, drop_residual) = dropouts(context, layer);

    let mut dropped = None;
    if let Some(dropout) = drop_residual {
        dropout.apply(dropped.insert(Buffer::copy_of(grad)));
    }
    let dy = dropped.as_deref().unwrap_or(grad);
    linear_weight_grad(&mut grads[block.wo.range.clone()], dy, &saved.out, n, width);
    let mut dout = Buffer::dirty(n * width);
    linear_input_grad(&mut dout, dy, &weights[block.wo.range.clone()], n, width, false);

    let mut dq = Buffer::dirty(saved.q.len());
    let (mut dk, mut dv) = (Buffer::zeros(saved.k.len()), Buffer::zeros(saved.v.len()));
    let qkv_grad = QkvGrad { q: &mut dq, k: &mut dk, v: &mut dv };
    let documents = &context.batch.documents;
    op::backward(qkv_grad, &dout, &saved.out, &saved.lse, saved.qkv(), documents, heads, drop_probabilities);
    let mut dqkv = Buffer::dirty(n * heads.qkv_width());
    join(context, &mut dqkv, &dq, &dk, &dv);

    let norm = &weights[block.attention_norm.clone()];
    let mut normed = saved.out; // no longer needed: its room serves the norm
    rms_norm::again(&mut normed, &saved.inverse, x, norm);
    linear_weight_grad(&mut grads[block.wqkv.range.clone()], &dqkv, &normed, n, d);
    let mut dnormed = dout;
    linear_input_grad(&mut dnormed, &dqkv, &weights[block.wqkv.range.clone()], n, d, false);
    let dnorm = &mut grads[block.attention_norm.clone()];
    rms_norm::backward(grad, dnorm, &dnormed, x, norm, &saved.inverse);
}
