//! The attention half of a block: `x + wo attention(rope(wqkv norm(x)))`.

use super::pass::Pass;
use crate::Result;
use crate::backend::{Attention, Backend, Columns, Dropout, Pieces, Qkv};
use std::ops::Range;

/// What the backward pass needs of the forward pass.
pub struct Saved<B: Backend> {
    /// `1 / rms` of each position, `(n,)`.
    inverse: B::Floats,
    /// What head norms had before and found, where queries and keys are normalised.
    heads: Option<HeadNorms<B>>,
    qkv: Qkv<B>,
    /// Log-sum-exp of each row of scores, `(n_kv_heads, n, repeats)`.
    lse: B::Floats,
    /// Attention's result, `(n, n_heads head_dim)`.
    out: B::Buffer,
}

struct HeadNorms<B: Backend> {
    /// Queries, keys and values before, `(n, qkv_width)`.
    qkv: B::Buffer,
    /// `1 / rms` of every query and of every key.
    inverse: [B::Floats; 2],
}

/// The keys and values of a document of the batch in one layer.
pub struct KeyValues<'a, B: Backend> {
    /// What it goes on from, which others may share.
    pub before: Pieces<'a, B::Cache>,
    /// An earlier document of the batch that it goes on from.
    pub after: Option<usize>,
    /// Where its own are.
    pub cache: &'a mut B::Cache,
    /// Positions of its own that were read before.
    pub read: usize,
    /// Rows of the batch.
    pub rows: Range<usize>,
}

/// Dropout of the probabilities and of the residual branch.
fn dropouts<B: Backend>(pass: &Pass<B>, layer: usize) -> (Option<Dropout>, Option<Dropout>) {
    let place = 1 + 3 * layer as u64;
    (pass.dropout(place), pass.dropout(place + 1))
}

fn spec<B: Backend>(pass: &Pass<B>, layer: usize) -> Attention {
    Attention { dropout: dropouts(pass, layer).0, ..Attention::of(&pass.model.config) }
}

/// Where queries and keys stand in the rows of the `wqkv` product.
fn columns<B: Backend>(pass: &Pass<B>) -> [Columns; 2] {
    let heads = pass.model.config.heads();
    let (width, head_dim) = (heads.qkv_width(), heads.head_dim);
    [(0, heads.n_heads), (heads.width(), heads.n_kv_heads)].map(|(first, heads)| Columns {
        width,
        first,
        heads,
        head_dim,
    })
}

/// `x + wo attention(..)`; both `(n, d_model)`.
pub fn forward<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer) -> Result<(B::Buffer, Saved<B>)> {
    let saved = attend(pass, layer, x)?;
    Ok((residual(pass, layer, x, &saved.out)?, saved))
}

/// [`forward`] over caches, to which the batch's keys and values are added.
pub fn forward_cached<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    x: &B::Buffer,
    documents: Vec<KeyValues<'_, B>>,
) -> Result<B::Buffer> {
    let (backend, attention) = (pass.backend(), spec(pass, layer));
    let (_, _, qkv) = project(pass, layer, x)?;
    let mut seen: Vec<Pieces<B::Cache>> = vec![];
    for KeyValues { before, after, cache, read, rows } in documents {
        backend.cache_append(cache, &qkv, rows.clone(), read, attention.heads)?;
        let mut pieces = after.map_or(before, |after| seen[after].clone());
        pieces.push((cache, read + rows.len()));
        seen.push(pieces);
    }
    let out = backend.attention_cached(&qkv, &seen, &pass.batch, &attention)?;
    residual(pass, layer, x, &out)
}

/// `x + wo out`.
fn residual<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer, out: &B::Buffer) -> Result<B::Buffer> {
    let (backend, w, wo) = (pass.backend(), &pass.model.weights, &pass.block(layer).wo);
    let mut y = backend.copy(x)?;
    match dropouts(pass, layer).1 {
        Some(dropout) => {
            let mut branch = backend.linear(out, w, wo)?;
            backend.dropout(&mut branch, dropout)?;
            backend.add(&mut y, &branch)?;
        }
        None => backend.linear_add(&mut y, out, w, wo)?,
    }
    Ok(y)
}

/// Queries, keys and values of `x`, rotated, with what the backward pass needs of their making.
#[allow(clippy::type_complexity)] // three parts of `Saved`
fn project<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    x: &B::Buffer,
) -> Result<(B::Floats, Option<HeadNorms<B>>, Qkv<B>)> {
    let (backend, model, block) = (pass.backend(), pass.model, pass.block(layer));
    let (w, eps, heads) = (&model.weights, model.config.norm_eps, model.config.heads());
    let (normed, inverse) = backend.rms_norm(x, w, &block.attention_norm, eps)?;
    let mut qkv = backend.linear(&normed, w, &block.wqkv)?;
    drop(normed);
    let norms = match &block.qk_norms {
        Some([q, k]) => {
            let before = backend.copy(&qkv)?;
            let [queries, keys] = columns(pass);
            let q = backend.head_norm(&mut qkv, queries, w, q, eps)?;
            let k = backend.head_norm(&mut qkv, keys, w, k, eps)?;
            Some(HeadNorms { qkv: before, inverse: [q, k] })
        }
        None => None,
    };
    Ok((inverse, norms, backend.split_heads(&qkv, &pass.batch, heads)?))
}

/// Everything up to the attention's result.
fn attend<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer) -> Result<Saved<B>> {
    let (inverse, heads, qkv) = project(pass, layer, x)?;
    let (out, lse) = pass.backend().attention(&qkv, &pass.batch, &spec(pass, layer))?;
    Ok(Saved { inverse, heads, qkv, lse, out })
}

/// Turns `grad`, the gradient of the half's result, into that of its input `x`, and adds those of its weights.
///
/// Without `saved` the forward pass is run again.
pub fn backward<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    grad: &mut B::Buffer,
    x: &B::Buffer,
    saved: Option<Saved<B>>,
    grads: &mut B::Floats,
) -> Result<()> {
    let (backend, w, block) = (pass.backend(), &pass.model.weights, pass.block(layer));
    let Saved { inverse, heads, qkv, lse, out } = match saved {
        Some(saved) => saved,
        None => attend(pass, layer, x)?,
    };

    let dropped = pass.dropped(grad, dropouts(pass, layer).1)?;
    let dy = dropped.as_ref().unwrap_or(grad);
    backend.linear_weight_grad(grads, dy, &out, &block.wo)?;
    let dout = backend.linear_input_grad(dy, w, &block.wo)?;
    let dqkv = backend.attention_backward(&dout, &out, &lse, &qkv, &pass.batch, &spec(pass, layer))?;
    drop((dout, out, qkv, lse));

    let mut dqkv = backend.join_heads(&dqkv, &pass.batch, pass.model.config.heads())?;
    if let (Some([q, k]), Some(heads)) = (&block.qk_norms, heads) {
        let [queries, keys] = columns(pass);
        let [of_queries, of_keys] = &heads.inverse;
        backend.head_norm_backward(&mut dqkv, grads, &heads.qkv, of_queries, queries, w, q)?;
        backend.head_norm_backward(&mut dqkv, grads, &heads.qkv, of_keys, keys, w, k)?;
    }
    let normed = backend.rms_norm_again(x, &inverse, w, &block.attention_norm)?;
    backend.linear_weight_grad(grads, &dqkv, &normed, &block.wqkv)?;
    drop(normed);
    let dnormed = backend.linear_input_grad(&dqkv, w, &block.wqkv)?;
    backend.rms_norm_backward(grad, grads, &dnormed, x, &inverse, w, &block.attention_norm)
}
