//! The feed-forward half of a block: `x + ffn(norm(x))`, dense or a mixture of experts.

use super::context::Context;
use crate::layout::FeedForwardLayout;
use crate::ops::gemm::{linear, linear_input_grad, linear_weight_grad};
use crate::ops::router::{self, Routes};
use crate::ops::scratch::Buffer;
use crate::ops::{dropout::Dropout, math, rms_norm, swiglu};
use candle_core::{Result, Tensor};

fn dropout(context: &Context, layer: usize) -> Option<Dropout> {
    context.dropout(3 + 3 * layer as u64)
}

/// The plain form. `x`: `(n, d_model)`; returns the same shape.
pub fn plain(context: &Context, layer: usize, x: &Tensor) -> Result<Tensor> {
    let block = &context.layout().blocks[layer];
    let normed = rms_norm::plain(x, &context.plain(&block.ffn_norm)?, context.config.norm_eps)?;
    let apply = |range: &FeedForwardLayout, x: &Tensor| {
        let hidden = swiglu::plain(&x.matmul(&context.plain(&range.w13.range)?.t()?)?)?;
        hidden.matmul(&context.plain(&range.w2.range)?.t()?)
    };
    let y = match &block.experts {
        None => block.dense.as_ref().map_or_else(|| normed.zeros_like(), |range| apply(range, &normed))?,
        Some(layout) => {
            let experts: Vec<_> = layout.each().collect();
            let shared = &block.dense;
            let logits = normed.matmul(&context.plain(&layout.router.range)?.t()?)?; // (n, n_experts)
            let host = logits.flatten_all()?.to_vec1::<f32>()?;
            let routes = Routes::new(host, context.config.n_experts, context.config.top_k);
            let (weights, scores) = router::plain_weights(&logits, &routes)?;
            if context.records_routes() {
                let balancing = context.balancing(layer);
                context.record_routes(layer, &routes, routes.aux_loss(&balancing));
                context.add_aux_term(router::plain_aux_loss(&scores, &routes, &balancing)?);
            }
            let mut y = normed.zeros_like()?;
            for (e, group) in routes.by_expert().iter().enumerate().filter(|(_, g)| !g.is_empty()) {
                let tokens: Vec<u32> = group.iter().map(|&(token, _)| token as u32).collect();
                let tokens = Tensor::new(tokens, x.device())?;
                let weight = weights.narrow(1, e, 1)?.contiguous()?.index_select(&tokens, 0)?; // (group, 1)
                let out = apply(&experts[e], &normed.index_select(&tokens, 0)?)?.broadcast_mul(&weight)?;
                y = y.index_add(&tokens, &out, 0)?;
            }
            match shared {
                Some(range) => (y + apply(range, &normed)?)?,
                None => y,
            }
        }
    };
    match dropout(context, layer) {
        Some(dropout) => x + (&y * dropout.mask(y.shape(), y.device())?)?,
        None => x + y,
    }
}

/// `y += w2 swiglu(w13 x)`; returns the values before the activation, `(n, 2 hidden)`.
fn feed(y: &mut [f32], x: &[f32], weights: &[f32], range: &FeedForwardLayout, n: usize, d: usize) -> Buffer {
    let mut inner = Buffer::dirty(n * 2 * range.hidden);
    linear(&mut inner, x, &weights[range.w13.range.clone()], n, d, false);
    let mut active = Buffer::dirty(n * range.hidden);
    swiglu::forward(&mut active, &inner, range.hidden);
    linear(y, &active, &weights[range.w2.range.clone()], n, range.hidden, true);
    inner
}

/// The rows of one [`feed`] with their weights, for the backward pass.
struct Rows<'a> {
    /// Inputs, `(n, d)`.
    x: &'a [f32],
    /// Values before the activation, replaced by their gradient.
    inner: &'a mut [f32],
    /// Weight of each row's result, `(n,)`.
    weights: &'a [f32],
    /// Gradient of the sum of weighted results, `(n, d)`.
    dy: &'a [f32],
}

/// Adds to the gradients of `w13` and `w2` and to `dx`; returns the gradients of the row weights.
fn feed_backward(
    dx: &mut [f32],
    rows: Rows,
    weights: &[f32],
    grads: &mut [f32],
    range: &FeedForwardLayout,
) -> Buffer {
    let n = rows.weights.len();
    let d = range.w2.d_out;
    let mut active = Buffer::dirty(n * range.hidden);
    linear_input_grad(&mut active, rows.dy, &weights[range.w2.range.clone()], n, range.hidden, false);
    let mut dweights = Buffer::dirty(n);
    swiglu::backward_in_place(&mut active, rows.inner, rows.weights, &mut dweights, range.hidden);
    linear_weight_grad(&mut grads[range.w2.range.clone()], rows.dy, &active, n, range.hidden);
    linear_weight_grad(&mut grads[range.w13.range.clone()], rows.inner, rows.x, n, d);
    linear_input_grad(dx, rows.inner, &weights[range.w13.range.clone()], n, d, true);
    dweights
}

/// Copies the rows of a group of `(token, slot)` side by side.
fn gather(x: &[f32], group: &[(usize, usize)], d: usize) -> Buffer {
    let mut rows = Buffer::dirty(group.len() * d);
    for (row, &(token, _)) in rows.chunks_exact_mut(d).zip(group) {
        row.copy_from_slice(&x[token * d..][..d]);
    }
    rows
}

/// What the backward pass needs of the forward pass.
pub struct Saved {
    /// `1 / rms` of each position, `(n,)`.
    inverse: Buffer,
    /// Values before the activation of the dense feed-forward, or of the shared experts.
    whole: Option<Buffer>,
    /// Routes and, expert by expert, the values before the activation.
    routed: Option<(Routes, Vec<Buffer>)>,
}

/// Writes `x + ffn(norm(x))` to `y`; both `(n, d_model)`.
pub fn forward(context: &Context, layer: usize, y: &mut [f32], x: &[f32], weights: &[f32]) -> Saved {
    y.copy_from_slice(x);
    let saved = match dropout(context, layer) {
        Some(dropout) => {
            let mut branch = Buffer::zeros(y.len());
            let saved = add_branch(context, layer, &mut branch, x, weights);
            dropout.apply(&mut branch);
            math::add_assign(y, &branch);
            saved
        }
        None => add_branch(context, layer, y, x, weights),
    };
    if let (true, Some((routes, _))) = (context.records_routes(), &saved.routed) {
        context.record_routes(layer, routes, routes.aux_loss(&context.balancing(layer)));
    }
    saved
}

/// `y += ffn(norm(x))`.
fn add_branch(context: &Context, layer: usize, y: &mut [f32], x: &[f32], weights: &[f32]) -> Saved {
    let block = &context.layout().blocks[layer];
    let (d, n) = (context.config.d_model, context.batch.len());
    let mut inverse = Buffer::dirty(n);
    let mut normed = Buffer::dirty(n * d);
    let norm = &weights[block.ffn_norm.clone()];
    rms_norm::forward(&mut normed, &mut inverse, x, norm, context.config.norm_eps as f32);
    let whole = block.dense.as_ref().map(|range| feed(y, &normed, weights, range, n, d));
    match &block.experts {
        None => Saved { inverse, whole, routed: None },
        Some(layout) => {
            let (gate, experts) = (&layout.router.range, layout.each().collect::<Vec<_>>());
            let mut logits = vec![0.0; n * experts.len()];
            linear(&mut logits, &normed, &weights[gate.clone()], n, d, false);
            let routes = Routes::new(logits, experts.len(), context.config.top_k);
            let inner = experts.iter().zip(routes.by_expert()).map(|(range, group)| {
                let rows = gather(&normed, &group, d);
                let mut out = Buffer::zeros(rows.len());
                let inner = feed(&mut out, &rows, weights, range, group.len(), d);
                for (out, &(token, slot)) in out.chunks_exact(d).zip(&group) {
                    let weight = routes.weights[token * routes.top_k + slot];
                    math::add_scaled(&mut y[token * d..][..d], weight, out);
                }
                inner
            });
            let inner = inner.collect();
            Saved { inverse, whole, routed: Some((routes, inner)) }
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
    let block = &context.layout().blocks[layer];
    let (d, n) = (context.config.d_model, context.batch.len());
    let saved = saved.unwrap_or_else(|| add_branch(context, layer, &mut Buffer::zeros(n * d), x, weights));

    let mut dropped = None;
    if let Some(dropout) = dropout(context, layer) {
        dropout.apply(dropped.insert(Buffer::copy_of(grad)));
    }
    let dy = dropped.as_deref().unwrap_or(grad);
    let norm = &weights[block.ffn_norm.clone()];
    let mut normed = Buffer::dirty(n * d);
    rms_norm::again(&mut normed, &saved.inverse, x, norm);
    let mut dnormed = Buffer::zeros(n * d);
    if let (Some(mut inner), Some(range)) = (saved.whole, &block.dense) {
        let mut ones = Buffer::dirty(n);
        ones.fill(1.0);
        let rows = Rows { x: &normed, inner: &mut inner, weights: &ones, dy };
        feed_backward(&mut dnormed, rows, weights, grads, range);
    }
    if let (Some((routes, mut inner)), Some(layout)) = (saved.routed, &block.experts) {
        let (gate, experts) = (&layout.router.range, layout.each().collect::<Vec<_>>());
        let mut dweights = vec![0.0; routes.weights.len()];
        for ((range, group), inner) in experts.iter().zip(routes.by_expert()).zip(&mut inner) {
            let (rows, dy) = (gather(&normed, &group, d), gather(dy, &group, d));
            let mut group_weights = Buffer::dirty(group.len());
            for (weight, &(token, slot)) in group_weights.iter_mut().zip(&group) {
                *weight = routes.weights[token * routes.top_k + slot];
            }
            let mut dgroup = Buffer::zeros(rows.len());
            let rows = Rows { x: &rows, inner, weights: &group_weights, dy: &dy };
            let dgroup_weights = feed_backward(&mut dgroup, rows, weights, grads, range);
            for ((dx, &(token, slot)), dw) in dgroup.chunks_exact(d).zip(&group).zip(dgroup_weights.iter()) {
                math::add_assign(&mut dnormed[token * d..][..d], dx);
                dweights[token * routes.top_k + slot] = *dw;
            }
        }
        let dlogits = routes.backward(&dweights, &context.balancing(layer));
        linear_weight_grad(&mut grads[gate.clone()], &dlogits, &normed, n, d);
        linear_input_grad(&mut dnormed, &dlogits, &weights[gate.clone()], n, d, true);
    }
    let dnorm = &mut grads[block.ffn_norm.clone()];
    rms_norm::backward(grad, dnorm, &dnormed, x, norm, &saved.inverse);
}
