//! The feed-forward half of a block: `x + ffn(norm(x))`, dense, a mixture of experts, or both.

use super::pass::Pass;
use crate::Result;
use crate::backend::{Backend, Dropout};

/// Activations of the forward pass that the backward pass needs, in addition to the routes.
pub struct Saved<B: Backend> {
    /// `1 / rms` of each position, `(n,)`.
    inverse: B::Floats,
    /// Output of `w13` of the dense feed-forward or the shared experts, `(n, 2 hidden)`.
    dense: Option<B::Buffer>,
    /// Output of `w13` of the routed experts, `(n top_k, 2 hidden)`.
    routed: Option<B::Buffer>,
}

fn dropout<B: Backend>(pass: &Pass<B>, layer: usize) -> Option<Dropout> {
    pass.dropout(3 + 3 * layer as u64)
}

/// Computes `x + ffn(norm(x))`, `(n, d_model)` like `x`; also returns the activations for the backward pass and the routes.
#[allow(clippy::type_complexity)] // three results
pub fn forward<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    x: &B::Buffer,
) -> Result<(B::Buffer, Saved<B>, Option<B::Routes>)> {
    let backend = pass.backend();
    let (normed, inverse) = norm(pass, layer, x)?;
    let mut y = backend.copy(x)?;
    let (dense, routed, routes) = match dropout(pass, layer) {
        Some(dropout) => {
            let mut branch = backend.zeros_like(x)?;
            let saved = add_branch(pass, layer, &mut branch, &normed)?;
            backend.dropout(&mut branch, dropout)?;
            backend.add(&mut y, &branch)?;
            saved
        }
        None => add_branch(pass, layer, &mut y, &normed)?,
    };
    Ok((y, Saved { inverse, dense, routed }, routes))
}

fn norm<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer) -> Result<(B::Buffer, B::Floats)> {
    let (w, eps) = (&pass.model.weights, pass.model.config.norm_eps);
    pass.backend().rms_norm(x, w, &pass.block(layer).ffn_norm, eps)
}

/// Computes `y += ffn(normed)`; returns two fields of [`Saved`] and the routes.
#[allow(clippy::type_complexity)] // three results
fn add_branch<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    y: &mut B::Buffer,
    normed: &B::Buffer,
) -> Result<(Option<B::Buffer>, Option<B::Buffer>, Option<B::Routes>)> {
    let (backend, w, block) = (pass.backend(), &pass.model.weights, pass.block(layer));
    let mut saved = (None, None, None);
    if let Some(dense) = &block.dense {
        let inner = backend.linear(normed, w, &dense.w13)?;
        let active = backend.swiglu(&inner, dense.hidden)?;
        backend.linear_add(y, &active, w, &dense.w2)?;
        saved.0 = Some(inner);
    }
    if let Some(experts) = &block.experts {
        let logits = backend.linear(normed, w, &experts.router)?;
        let routes = backend.route(&logits, experts)?;
        let rows = backend.permute(normed, &routes, experts.router.d_in)?;
        let inner = backend.grouped_linear(&rows, w, &experts.w13, &routes)?;
        drop(rows);
        let active = backend.swiglu(&inner, experts.hidden)?;
        let out = backend.grouped_linear(&active, w, &experts.w2, &routes)?;
        backend.unpermute_add(y, &out, &routes, true, experts.router.d_in)?;
        (saved.1, saved.2) = (Some(inner), Some(routes));
    }
    Ok(saved)
}

/// Recomputes the saved activations.
fn recompute<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    x: &B::Buffer,
    routes: Option<&B::Routes>,
) -> Result<Saved<B>> {
    let (backend, w, block) = (pass.backend(), &pass.model.weights, pass.block(layer));
    let (normed, inverse) = norm(pass, layer, x)?;
    let dense = block.dense.as_ref().map(|dense| backend.linear(&normed, w, &dense.w13)).transpose()?;
    let routed = match (&block.experts, routes) {
        (Some(experts), Some(routes)) => {
            let rows = backend.permute(&normed, routes, experts.router.d_in)?;
            Some(backend.grouped_linear(&rows, w, &experts.w13, routes)?)
        }
        _ => None,
    };
    Ok(Saved { inverse, dense, routed })
}

/// Converts `grad`, the gradient of the output of the half, into that of its input `x`, and adds those of its weights.
///
/// Without `saved`, the forward pass is recomputed.
pub fn backward<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    grad: &mut B::Buffer,
    x: &B::Buffer,
    saved: Option<Saved<B>>,
    routes: Option<&B::Routes>,
    grads: &mut B::Floats,
) -> Result<()> {
    let (backend, w, block) = (pass.backend(), &pass.model.weights, pass.block(layer));
    let Saved { inverse, dense: inner, routed } = match saved {
        Some(saved) => saved,
        None => recompute(pass, layer, x, routes)?,
    };

    let dropped = pass.dropped(grad, dropout(pass, layer))?;
    let dy = dropped.as_ref().unwrap_or(grad);
    let normed = backend.rms_norm_recompute(x, &inverse, w, &block.ffn_norm)?;
    let mut dnormed = match (&block.dense, inner) {
        (Some(dense), Some(mut inner)) => {
            let mut active = backend.linear_input_grad(dy, w, &dense.w2)?;
            backend.swiglu_backward(&mut active, &mut inner, None, dense.hidden)?;
            backend.linear_weight_grad(grads, dy, &active, &dense.w2)?;
            drop(active);
            backend.linear_weight_grad(grads, &inner, &normed, &dense.w13)?;
            backend.linear_input_grad(&inner, w, &dense.w13)?
        }
        _ => backend.zeros_like(x)?,
    };
    if let (Some(experts), Some(mut inner), Some(routes)) = (&block.experts, routed, routes) {
        let d = experts.router.d_in;
        let (rows, dy) = (backend.permute(&normed, routes, d)?, backend.permute(dy, routes, d)?);
        let weights = backend.route_weights(routes)?;
        let mut active = backend.grouped_input_grad(&dy, w, &experts.w2, routes)?;
        let dweights = backend.swiglu_backward(&mut active, &mut inner, Some(&weights), experts.hidden)?;
        backend.grouped_weight_grad(grads, &dy, &active, &experts.w2, routes)?;
        backend.grouped_weight_grad(grads, &inner, &rows, &experts.w13, routes)?;
        let drows = backend.grouped_input_grad(&inner, w, &experts.w13, routes)?;
        backend.unpermute_add(&mut dnormed, &drows, routes, false, d)?;
        let mut balancing = pass.balancing(layer);
        balancing.weight *= pass.loss_scale();
        let dlogits = backend.route_backward(&dweights, routes, &balancing)?;
        backend.linear_weight_grad(grads, &dlogits, &normed, &experts.router)?;
        backend.linear_input_grad_add(&mut dnormed, &dlogits, w, &experts.router)?;
    }
    backend.rms_norm_backward(grad, grads, &dnormed, x, &inverse, w, &block.ffn_norm)
}
