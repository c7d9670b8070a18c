//! The attention half of a block: `x + wo attention(rope(wqkv norm(x)))`.

use super::pass::Pass;
use crate::Result;
use crate::backend::{Attention, Backend, Columns, Dropout, Pieces, Qkv};
use std::ops::Range;

/// Activations of the forward pass that the backward pass needs.
pub struct Saved<B: Backend> {
    /// `1 / rms` of each position, `(n,)`.
    inverse: B::Floats,
    /// Activations of the head norms; `None` without `qk_norm`.
    heads: Option<HeadNorms<B>>,
    qkv: Qkv<B>,
    /// Log-sum-exp of each row of scores, `(n_kv_heads, n, repeats)`, where `repeats` is `n_heads / n_kv_heads`.
    lse: B::Floats,
    /// Output of attention before `wo`, `(n, n_heads head_dim)`.
    out: B::Buffer,
}

struct HeadNorms<B: Backend> {
    /// Queries, keys and values before the norms, `(n, qkv_width)`.
    qkv: B::Buffer,
    /// `1 / rms` of every query head and of every key head.
    inverse: [B::Floats; 2],
}

/// KV cache of a document of the batch in one layer.
pub struct KeyValues<'a, B: Backend> {
    /// Caches of the prefix that the document extends, possibly shared with other documents.
    pub prefix: Pieces<'a, B::Cache>,
    /// Index of an earlier document of the batch that this one continues.
    pub continues: Option<usize>,
    /// The document's own cache.
    pub cache: &'a mut B::Cache,
    /// Number of positions that the document's own cache already holds.
    pub read: usize,
    /// Rows of the document in the batch.
    pub rows: Range<usize>,
}

/// Returns the dropout of the probabilities and of the residual branch.
fn dropouts<B: Backend>(pass: &Pass<B>, layer: usize) -> (Option<Dropout>, Option<Dropout>) {
    let place = 1 + 3 * layer as u64;
    (pass.dropout(place), pass.dropout(place + 1))
}

fn spec<B: Backend>(pass: &Pass<B>, layer: usize) -> Attention {
    Attention { dropout: dropouts(pass, layer).0, ..Attention::of(&pass.model.config) }
}

/// Returns the columns of queries and of keys in the output of `wqkv`.
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

/// Computes `x + wo attention(..)`, `(n, d_model)` like `x`.
pub fn forward<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer) -> Result<(B::Buffer, Saved<B>)> {
    let saved = attend(pass, layer, x)?;
    Ok((residual(pass, layer, x, &saved.out)?, saved))
}

/// Computes [`forward`] with attention over caches, to which the keys and values of the batch are appended.
pub fn forward_cached<B: Backend>(
    pass: &Pass<B>,
    layer: usize,
    x: &B::Buffer,
    documents: Vec<KeyValues<'_, B>>,
) -> Result<B::Buffer> {
    let (backend, attention) = (pass.backend(), spec(pass, layer));
    let (_, _, qkv) = project(pass, layer, x)?;
    let mut seen: Vec<Pieces<B::Cache>> = vec![];
    for KeyValues { prefix, continues, cache, read, rows } in documents {
        backend.cache_append(cache, &qkv, rows.clone(), read, attention.heads)?;
        let mut pieces = continues.map_or(prefix, |earlier| seen[earlier].clone());
        pieces.push((cache, read + rows.len()));
        seen.push(pieces);
    }
    let out = backend.attention_cached(&qkv, &seen, &pass.batch, &attention)?;
    residual(pass, layer, x, &out)
}

/// Computes `x + wo out`.
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

/// Computes queries, keys and values of `x`, rotated, and the activations that the backward pass needs.
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

/// Computes the half up to the output of attention.
fn attend<B: Backend>(pass: &Pass<B>, layer: usize, x: &B::Buffer) -> Result<Saved<B>> {
    let (inverse, heads, qkv) = project(pass, layer, x)?;
    let (out, lse) = pass.backend().attention(&qkv, &pass.batch, &spec(pass, layer))?;
    Ok(Saved { inverse, heads, qkv, lse, out })
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
    let normed = backend.rms_norm_recompute(x, &inverse, w, &block.attention_norm)?;
    backend.linear_weight_grad(grads, &dqkv, &normed, &block.wqkv)?;
    drop(normed);
    let dnormed = backend.linear_input_grad(&dqkv, w, &block.wqkv)?;
    backend.rms_norm_backward(grad, grads, &dnormed, x, &inverse, w, &block.attention_norm)
}
