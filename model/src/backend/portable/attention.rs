//! Attention over padded documents, forward and backward.

use super::Portable;
use crate::backend::{Attention, Dropout, Pieces, Qkv};
use crate::spec::Heads;
use crate::tokens::Ragged;
use candle_core::{D, Device, Result, Tensor};

/// Maps documents to the rows of a padded batch and back. Causal attention never reads the padding after a document.
pub struct Padding {
    /// Batch position of every padded slot, 0 for empty slots: `(documents seq,)`.
    pad: Tensor,
    /// 1 for slots that hold a position, 0 for empty ones: `(documents seq,)`.
    filled: Tensor,
    /// Padded slot of every batch position, `(n,)`.
    unpad: Tensor,
    documents: usize,
    seq: usize,
}

impl Padding {
    pub fn new(batch: &Ragged, device: &Device) -> Result<Self> {
        let (documents, seq) = (batch.documents.len() - 1, batch.longest());
        let (mut pad, mut filled) = (vec![0u32; documents * seq], vec![0f32; documents * seq]);
        let mut unpad = vec![0u32; batch.len()];
        for (i, bounds) in batch.documents.windows(2).enumerate() {
            for (place, position) in (i * seq..).zip(bounds[0]..bounds[1]) {
                (pad[place], filled[place]) = (position as u32, 1.0);
                unpad[position] = place as u32;
            }
        }
        let (pad, filled) = (Tensor::new(pad, device)?, Tensor::new(filled, device)?);
        Ok(Self { pad, filled, unpad: Tensor::new(unpad, device)?, documents, seq })
    }

    /// Pads `(n_kv_heads, n, repeats, head_dim)` to `(n_kv_heads documents, seq repeats, head_dim)`.
    fn rows(&self, x: &Tensor, repeats: usize) -> Result<Tensor> {
        let (kv, _, _, hd) = x.dims4()?;
        x.index_select(&self.pad, 1)?.reshape((kv * self.documents, self.seq * repeats, hd))
    }

    /// The inverse of [`Self::rows`].
    fn positions(&self, x: &Tensor, repeats: usize) -> Result<Tensor> {
        let hd = x.dim(D::Minus1)?;
        x.reshape(((), self.documents * self.seq, repeats, hd))?.index_select(&self.unpad, 1)
    }
}

/// Keys and values of the positions that a sequence has read.
pub struct Cache {
    /// Rotated keys, `(n_kv_heads, capacity, head_dim)`.
    pub k: Tensor,
    /// Values, `(n_kv_heads, capacity, head_dim)`.
    pub v: Tensor,
}

/// Rotates adjacent pairs. `x`: `(n, heads, head_dim)`; `cos`, `sin`: `(n, 1, head_dim / 2)`.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (n, heads, hd) = x.dims3()?;
    let pairs = x.reshape((n, heads, hd / 2, 2))?;
    let (a, b) = (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
    Tensor::stack(&[first, second], 3)?.reshape((n, heads, hd))
}

/// See [`crate::Backend::split_heads`].
pub fn split(qkv: &Tensor, [cos, sin]: &[Tensor; 2], heads: Heads) -> Result<Qkv<Portable>> {
    let Heads { n_heads, n_kv_heads, head_dim } = heads;
    let n = qkv.dim(0)?;
    let part = |first: usize, count: usize| {
        qkv.narrow(1, first, count * head_dim)?.contiguous()?.reshape((n, count, head_dim))
    };
    let scale = 1.0 / (head_dim as f64).sqrt();
    let q = (rotate(&part(0, n_heads)?, cos, sin)? * scale)?;
    let k = rotate(&part(heads.width(), n_kv_heads)?, cos, sin)?;
    let v = part(heads.width() + heads.kv_width(), n_kv_heads)?;
    Ok(Qkv {
        q: q.reshape((n, n_kv_heads, heads.repeats(), head_dim))?.transpose(0, 1)?.contiguous()?,
        k: k.transpose(0, 1)?.contiguous()?,
        v: v.transpose(0, 1)?.contiguous()?,
    })
}

/// See [`crate::Backend::join_heads`].
pub fn join(grad: &Qkv<Portable>, [cos, sin]: &[Tensor; 2], heads: Heads) -> Result<Tensor> {
    let n = cos.dim(0)?;
    let back = sin.neg()?;
    let scale = 1.0 / (heads.head_dim as f64).sqrt();
    let q = grad.q.transpose(0, 1)?.reshape((n, heads.n_heads, heads.head_dim))?;
    let q = (rotate(&q, cos, &back)? * scale)?.reshape((n, heads.width()))?;
    let k = rotate(&grad.k.transpose(0, 1)?.contiguous()?, cos, &back)?.reshape((n, heads.kv_width()))?;
    let v = grad.v.transpose(0, 1)?.reshape((n, heads.kv_width()))?;
    Tensor::cat(&[q, k, v], 1)
}

/// Zero where a query sees a key, negative infinity elsewhere: `(queries repeats, keys)`. The queries belong to the
/// last positions of the keys.
fn mask(queries: usize, keys: usize, attention: &Attention, device: &Device) -> Result<Tensor> {
    let (repeats, window) = (attention.heads.repeats(), attention.window.unwrap_or(usize::MAX));
    let mut mask = vec![f32::NEG_INFINITY; queries * repeats * keys];
    for (row, mask) in mask.chunks_exact_mut(keys.max(1)).enumerate() {
        let end = keys - queries + row / repeats + 1;
        mask[end.saturating_sub(window)..end].fill(0.0);
    }
    Tensor::from_vec(mask, (queries * repeats, keys), device)
}

/// Dropout factors of padded documents: `(n_kv_heads documents, seq repeats, seq)`.
fn factors(
    dropout: Dropout,
    batch: &Ragged,
    padding: &Padding,
    heads: Heads,
    device: &Device,
) -> Result<Tensor> {
    let (seq, repeats, n) = (padding.seq, heads.repeats(), batch.len());
    let shape = (heads.n_kv_heads * padding.documents, seq * repeats, seq);
    let mut factors = vec![1.0f32; shape.0 * shape.1 * shape.2];
    for (i, factors) in factors.chunks_exact_mut(seq * repeats * seq).enumerate() {
        let (kv, document) = (i / padding.documents, i % padding.documents);
        let bounds = &batch.documents[document..];
        for (row, factors) in
            factors.chunks_exact_mut(seq).enumerate().take((bounds[1] - bounds[0]) * repeats)
        {
            let (head, position) = (kv * repeats + row % repeats, row / repeats);
            for (key, factor) in factors.iter_mut().enumerate().take(position + 1) {
                let place = Dropout::probability(head, bounds[0] + position, bounds[0] + key, n);
                *factor = dropout.factor(place);
            }
        }
    }
    Tensor::from_vec(factors, shape, device)
}

/// Attention probabilities of padded documents before dropout, and the log-sum-exp of each row.
fn probabilities(q: &Tensor, k: &Tensor, mask: &Tensor) -> Result<(Tensor, Tensor)> {
    let scores = q.matmul(&k.t()?)?.broadcast_add(mask)?;
    let max = scores.max_keepdim(D::Minus1)?;
    let exp = scores.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    Ok((exp.broadcast_div(&sum)?, (max + sum.log()?)?))
}

/// Pads `(n_kv_heads, n, head_dim)`.
fn padded(x: &Tensor, padding: &Padding) -> Result<Tensor> {
    padding.rows(&x.unsqueeze(2)?, 1)
}

/// Rearranges `(n, width)` to `(n_kv_heads, n, repeats, head_dim)`.
fn by_head(x: &Tensor, heads: Heads) -> Result<Tensor> {
    x.reshape(((), heads.n_kv_heads, heads.repeats(), heads.head_dim))?.transpose(0, 1)?.contiguous()
}

/// See [`crate::Backend::attention`].
pub fn forward(
    qkv: &Qkv<Portable>,
    padding: &Padding,
    batch: &Ragged,
    attention: &Attention,
) -> Result<(Tensor, Tensor)> {
    let (heads, device) = (attention.heads, qkv.q.device());
    let (q, k, v) =
        (padding.rows(&qkv.q, heads.repeats())?, padded(&qkv.k, padding)?, padded(&qkv.v, padding)?);
    let mask = mask(padding.seq, padding.seq, attention, device)?;
    let (mut p, lse) = probabilities(&q, &k, &mask)?;
    if let Some(dropout) = attention.dropout {
        p = (p * factors(dropout, batch, padding, heads, device)?)?;
    }
    let out = padding.positions(&p.matmul(&v)?, heads.repeats())?; // (n_kv_heads, n, repeats, head_dim)
    let out = out.transpose(0, 1)?.reshape(((), heads.width()))?;
    Ok((out, padding.positions(&lse, heads.repeats())?))
}

/// See [`crate::Backend::attention_backward`].
pub fn backward(
    dout: &Tensor,
    out: &Tensor,
    qkv: &Qkv<Portable>,
    padding: &Padding,
    batch: &Ragged,
    attention: &Attention,
) -> Result<Qkv<Portable>> {
    let (heads, repeats, device) = (attention.heads, attention.heads.repeats(), qkv.q.device());
    let (q, k, v) = (padding.rows(&qkv.q, repeats)?, padded(&qkv.k, padding)?, padded(&qkv.v, padding)?);
    // An empty slot holds a copy of the first position and must contribute no gradient.
    let filled = padding.filled.reshape((padding.documents, padding.seq, 1))?;
    let filled = filled.broadcast_as((padding.documents, padding.seq, repeats))?.contiguous()?;
    let filled = filled.reshape((1, padding.documents, padding.seq * repeats, 1))?;
    let filled = filled.broadcast_as((heads.n_kv_heads, padding.documents, padding.seq * repeats, 1))?;
    let filled = filled.reshape((heads.n_kv_heads * padding.documents, padding.seq * repeats, 1))?;
    let dout = padding.rows(&by_head(dout, heads)?, repeats)?.broadcast_mul(&filled)?;
    let out = padding.rows(&by_head(out, heads)?, repeats)?;
    let (p, _) = probabilities(&q, &k, &mask(padding.seq, padding.seq, attention, device)?)?;
    let mut dp = dout.matmul(&v.t()?)?;
    let mut dropped = p.clone();
    if let Some(dropout) = attention.dropout {
        let factors = factors(dropout, batch, padding, heads, device)?;
        (dp, dropped) = ((dp * &factors)?, (dropped * factors)?);
    }
    let inner = (&dout * out)?.sum_keepdim(D::Minus1)?;
    let ds = (p * dp.broadcast_sub(&inner)?)?;
    let narrow = |x: Tensor| padding.positions(&x, 1)?.squeeze(2);
    Ok(Qkv {
        q: padding.positions(&ds.matmul(&k)?, repeats)?,
        k: narrow(ds.t()?.matmul(&q)?)?,
        v: narrow(dropped.t()?.matmul(&dout)?)?,
    })
}

/// See [`crate::Backend::attention_cached`]; processes one document at a time.
pub fn forward_cached(
    qkv: &Qkv<Portable>,
    seen: &[Pieces<Cache>],
    batch: &Ragged,
    attention: &Attention,
) -> Result<Tensor> {
    let Heads { n_kv_heads, head_dim, .. } = attention.heads;
    let mut parts = vec![];
    for (bounds, pieces) in batch.documents.windows(2).zip(seen) {
        let queries = bounds[1] - bounds[0];
        let keys = pieces.iter().map(|(_, keys)| keys).sum();
        let q = qkv.q.narrow(1, bounds[0], queries)?.contiguous()?;
        let q = q.reshape((n_kv_heads, queries * attention.heads.repeats(), head_dim))?;
        let of = |tensor: fn(&Cache) -> &Tensor| {
            let pieces = pieces.iter().filter(|(_, keys)| *keys > 0);
            let parts = pieces.map(|&(cache, keys)| tensor(cache).narrow(1, 0, keys));
            Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?.contiguous()
        };
        let mask = mask(queries, keys, attention, q.device())?;
        let out = probabilities(&q, &of(|cache| &cache.k)?, &mask)?.0.matmul(&of(|cache| &cache.v)?)?;
        let out = out.reshape((n_kv_heads, queries, attention.heads.repeats() * head_dim))?;
        parts.push(out.transpose(0, 1)?.reshape((queries, attention.heads.width()))?);
    }
    match parts.is_empty() {
        true => Tensor::zeros((0, attention.heads.width()), qkv.q.dtype(), qkv.q.device()),
        false => Tensor::cat(&parts, 0),
    }
}
