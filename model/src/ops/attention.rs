//! Causal grouped-query attention by tiles: no `seq x seq` matrix, no work across documents.
//!
//! Queries and keys come head by head, already rotated, the queries already scaled by `1 / sqrt(head_dim)`.
//! A tile is 64 positions of one key-value head's queries against all keys up to the diagonal; the
//! log-sum-exp of each row is kept and the backward pass computes the probabilities again
//! (Dao et al. 2022, algorithm 4).

use super::dropout::Dropout;
use super::gemm::{Mat, matmul};
use super::math;
use super::scratch::Buffer;
use candle_core::{D, Device, Result, Tensor};
use multiversion::multiversion;
use std::ops::Range;

/// Positions of a query tile.
const TILE: usize = 64;

/// Sizes of one attention call.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Query heads of one key-value head.
    pub fn repeats(self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Width of all query heads together.
    pub fn width(self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of queries, keys and values together.
    pub fn qkv_width(self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }
}

/// The plain form over padded documents.
///
/// `q`: `(documents, n_heads, seq, head_dim)`; `k`, `v`: `(documents, n_kv_heads, keys, head_dim)`, where the
/// queries are the last `seq` of the `keys` positions; returns the shape of `q`. `mask` multiplies the
/// probabilities (dropout): `(documents, n_heads, seq, keys)`.
pub fn plain(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let (documents, n_heads, seq, head_dim) = q.dims4()?;
    let (_, n_kv_heads, keys, _) = k.dims4()?;
    let repeat = |x: &Tensor| {
        x.unsqueeze(2)?
            .broadcast_as((documents, n_kv_heads, n_heads / n_kv_heads, keys, head_dim))?
            .reshape((documents, n_heads, keys, head_dim))
    };
    let (k, v) = (repeat(k)?, repeat(v)?);
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? / (head_dim as f64).sqrt())?;
    let scores = scores.broadcast_add(&causal_mask(seq, keys, q.device())?)?;
    let probabilities = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let probabilities = match mask {
        Some(mask) => (probabilities * mask)?,
        None => probabilities,
    };
    probabilities.matmul(&v.contiguous()?)
}

/// Zero for a query's own key and those before it, negative infinity for those after: `(seq, keys)`.
fn causal_mask(seq: usize, keys: usize, device: &Device) -> Result<Tensor> {
    let hidden = |i: usize| i % keys > i / keys + keys - seq;
    let mask: Vec<f32> = (0..seq * keys).map(|i| if hidden(i) { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_vec(mask, (seq, keys), device)
}

/// Where the queries, keys and values of `n` positions lie: key-value head by key-value head.
pub struct Qkv<'a> {
    /// `(n_kv_heads, n, repeats, head_dim)`.
    pub q: &'a [f32],
    /// `(n_kv_heads, n, head_dim)`.
    pub k: &'a [f32],
    /// `(n_kv_heads, n, head_dim)`.
    pub v: &'a [f32],
}

impl<'a> Qkv<'a> {
    fn head(&self, head: usize, n: usize, heads: Heads) -> Self {
        let (q, kv) = (n * heads.repeats() * heads.head_dim, n * heads.head_dim);
        Self {
            q: &self.q[head * q..(head + 1) * q],
            k: &self.k[head * kv..(head + 1) * kv],
            v: &self.v[head * kv..(head + 1) * kv],
        }
    }
}

/// A tile of queries of one document and one key-value head.
struct Tile {
    /// Positions of the queries.
    queries: Range<usize>,
    /// Positions of the keys: from the document's start to the last query.
    keys: Range<usize>,
    repeats: usize,
}

impl Tile {
    fn rows(&self) -> usize {
        self.queries.len() * self.repeats
    }

    /// Keys that a row may see.
    fn visible(&self, row: usize) -> usize {
        self.queries.start + row / self.repeats - self.keys.start + 1
    }

    /// Element ranges of the tile's rows in a `(n, repeats, width)` array.
    fn rows_of(&self, width: usize) -> Range<usize> {
        self.queries.start * self.repeats * width..self.queries.end * self.repeats * width
    }

    fn keys_of(&self, width: usize) -> Range<usize> {
        self.keys.start * width..self.keys.end * width
    }

    /// Elements from one row of scores to the next: whole vectors, so that no row ends in a scalar loop.
    fn stride(&self) -> usize {
        self.keys.len().next_multiple_of(math::LANES)
    }
}

fn tiles(documents: &[usize], repeats: usize) -> impl Iterator<Item = Tile> {
    documents.windows(2).flat_map(move |d| {
        let (start, end) = (d[0], d[1]);
        (start..end).step_by(TILE).map(move |first| {
            let last = (first + TILE).min(end);
            Tile { queries: first..last, keys: start..last, repeats }
        })
    })
}

/// The element number of a probability, for dropout: the place in `(n_heads, n, n)`.
#[inline(always)]
fn place(head: usize, position: usize, key: usize, n: usize) -> u64 {
    ((head * n + position) * n + key) as u64
}

/// `out`: `(n, n_heads * head_dim)`; `lse`: `(n_kv_heads, n, repeats)`; `documents`: offsets, `(documents + 1,)`.
pub fn forward(
    out: &mut [f32],
    lse: &mut [f32],
    qkv: Qkv,
    documents: &[usize],
    heads: Heads,
    dropout: Option<Dropout>,
) {
    let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
    let n = out.len() / width;
    for head in 0..heads.n_kv_heads {
        let qkv = qkv.head(head, n, heads);
        let lse = &mut lse[head * n * repeats..(head + 1) * n * repeats];
        for tile in tiles(documents, repeats) {
            let (rows, keys, stride) = (tile.rows(), tile.keys.len(), tile.stride());
            let q = Mat::new(&qkv.q[tile.rows_of(hd)], rows, hd);
            let k = Mat::new(&qkv.k[tile.keys_of(hd)], keys, hd);
            let v = Mat::new(&qkv.v[tile.keys_of(hd)], keys, hd);
            let mut scores = Buffer::dirty(rows * stride);
            matmul(&mut scores, stride, q, k.t(), false);
            softmax_rows(&mut scores, &mut lse[tile.rows_of(1)], &tile);
            if let Some(dropout) = dropout {
                drop_probabilities(&mut scores, &tile, head, n, dropout);
            }
            let mut tile_out = Buffer::dirty(rows * hd);
            matmul(&mut tile_out, hd, Mat::strided(&scores, rows, keys, stride), v, false);
            let first = head * repeats * hd;
            for (t, values) in tile.queries.clone().zip(tile_out.chunks_exact(repeats * hd)) {
                out[t * width + first..][..repeats * hd].copy_from_slice(values);
            }
        }
    }
}

/// Attention of new positions over a cache that already holds their keys and values.
///
/// `out`: `(n, n_heads * head_dim)`; `qkv.q`: `(n_kv_heads, n, repeats, head_dim)`, the positions from `start` on;
/// `qkv.k`, `qkv.v`: `(n_kv_heads, capacity, head_dim)`, filled up to position `start + n`.
pub fn forward_cached(out: &mut [f32], qkv: Qkv, start: usize, heads: Heads) {
    let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
    let n = out.len() / width;
    let capacity = qkv.k.len() / (heads.n_kv_heads * hd);
    for head in 0..heads.n_kv_heads {
        for first in (0..n).step_by(TILE) {
            let last = (first + TILE).min(n);
            let tile = Tile { queries: start + first..start + last, keys: 0..start + last, repeats };
            let (rows, keys, stride) = (tile.rows(), tile.keys.len(), tile.stride());
            let q = &qkv.q[(head * n + first) * repeats * hd..(head * n + last) * repeats * hd];
            let cache = head * capacity * hd..(head * capacity + keys) * hd;
            let mut scores = Buffer::dirty(rows * stride);
            let k = Mat::new(&qkv.k[cache.clone()], keys, hd);
            matmul(&mut scores, stride, Mat::new(q, rows, hd), k.t(), false);
            let mut lse = Buffer::dirty(rows);
            softmax_rows(&mut scores, &mut lse, &tile);
            let mut tile_out = Buffer::dirty(rows * hd);
            let v = Mat::new(&qkv.v[cache], keys, hd);
            matmul(&mut tile_out, hd, Mat::strided(&scores, rows, keys, stride), v, false);
            for (t, values) in (first..last).zip(tile_out.chunks_exact(repeats * hd)) {
                out[t * width + head * repeats * hd..][..repeats * hd].copy_from_slice(values);
            }
        }
    }
}

/// What the backward pass writes: gradients in the layout of [`Qkv`], zeros on entry.
pub struct QkvGrad<'a> {
    /// `(n_kv_heads, n, repeats, head_dim)`.
    pub q: &'a mut [f32],
    /// `(n_kv_heads, n, head_dim)`.
    pub k: &'a mut [f32],
    /// `(n_kv_heads, n, head_dim)`.
    pub v: &'a mut [f32],
}

/// Adds the gradients of queries, keys and values, given the output `out` and its gradient `dout`, `(n, width)`.
#[allow(clippy::too_many_arguments)] // the saved state of the forward pass, each named
pub fn backward(
    grad: QkvGrad,
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: Qkv,
    documents: &[usize],
    heads: Heads,
    dropout: Option<Dropout>,
) {
    let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
    let n = out.len() / width;
    for head in 0..heads.n_kv_heads {
        let qkv = qkv.head(head, n, heads);
        let lse = &lse[head * n * repeats..(head + 1) * n * repeats];
        let dq = &mut grad.q[head * n * repeats * hd..(head + 1) * n * repeats * hd];
        let dk = &mut grad.k[head * n * hd..(head + 1) * n * hd];
        let dv = &mut grad.v[head * n * hd..(head + 1) * n * hd];
        for tile in tiles(documents, repeats) {
            let (rows, keys, stride) = (tile.rows(), tile.keys.len(), tile.stride());
            let q = Mat::new(&qkv.q[tile.rows_of(hd)], rows, hd);
            let k = Mat::new(&qkv.k[tile.keys_of(hd)], keys, hd);
            let v = Mat::new(&qkv.v[tile.keys_of(hd)], keys, hd);

            let mut do_tile = Buffer::dirty(rows * hd);
            let mut inner = Buffer::dirty(rows); // sum over the head of dout * out
            let first = head * repeats * hd;
            for (i, t) in tile.queries.clone().enumerate() {
                let place = t * width + first..t * width + first + repeats * hd;
                do_tile[i * repeats * hd..(i + 1) * repeats * hd].copy_from_slice(&dout[place.clone()]);
                row_dots(&mut inner[i * repeats..(i + 1) * repeats], &dout[place.clone()], &out[place], hd);
            }

            let mut p = Buffer::dirty(rows * stride);
            matmul(&mut p, stride, q, k.t(), false);
            probability_rows(&mut p, &lse[tile.rows_of(1)], &tile);
            let mut dp = Buffer::dirty(rows * stride);
            let do_mat = Mat::new(&do_tile, rows, hd);
            matmul(&mut dp, stride, do_mat, v.t(), false);
            if let Some(dropout) = dropout {
                drop_probabilities(&mut dp, &tile, head, n, dropout);
                let mut dropped = Buffer::copy_of(&p);
                drop_probabilities(&mut dropped, &tile, head, n, dropout);
                let dropped = Mat::strided(&dropped, rows, keys, stride);
                matmul(&mut dv[tile.keys_of(hd)], hd, dropped.t(), do_mat, true);
            } else {
                let p = Mat::strided(&p, rows, keys, stride);
                matmul(&mut dv[tile.keys_of(hd)], hd, p.t(), do_mat, true);
            }
            score_grads(&mut dp, &p, &inner, &tile);
            let ds = Mat::strided(&dp, rows, keys, stride);
            matmul(&mut dq[tile.rows_of(hd)], hd, ds, k, false);
            matmul(&mut dk[tile.keys_of(hd)], hd, ds.t(), q, true);
        }
    }
}

/// Softmax of each row over its visible keys; the others get probability 0.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn softmax_rows(scores: &mut [f32], lse: &mut [f32], tile: &Tile) {
    for (row, (scores, lse)) in scores.chunks_exact_mut(tile.stride()).zip(lse).enumerate() {
        let (seen, unseen) = hide(scores, tile.visible(row));
        let max = math::max(seen);
        let sum = math::exp_shifted_sum(seen, max);
        let inverse = 1.0 / sum;
        for p in seen {
            *p *= inverse;
        }
        unseen.fill(0.0);
        *lse = max + sum.ln();
    }
}

/// `p = e^(score - lse)` over each row's visible keys, 0 elsewhere.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn probability_rows(scores: &mut [f32], lse: &[f32], tile: &Tile) {
    for (row, (scores, &lse)) in scores.chunks_exact_mut(tile.stride()).zip(lse).enumerate() {
        let (seen, unseen) = hide(scores, tile.visible(row));
        for p in seen {
            *p = math::exp(*p - lse);
        }
        unseen.fill(0.0);
    }
}

/// Cuts a row of scores after the vector in which its visible keys end; what is hidden in that vector gets
/// a score of negative infinity.
#[inline(always)]
fn hide(scores: &mut [f32], visible: usize) -> (&mut [f32], &mut [f32]) {
    let (seen, unseen) = scores.split_at_mut(visible.next_multiple_of(math::LANES));
    seen[visible..].fill(f32::NEG_INFINITY);
    (seen, unseen)
}

/// Replaces `dp` by `p (dp - inner)`, the gradient of the scores.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn score_grads(dp: &mut [f32], p: &[f32], inner: &[f32], tile: &Tile) {
    let stride = tile.stride();
    let rows = dp.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).zip(inner);
    for (row, ((dp, p), inner)) in rows.enumerate() {
        let (seen, unseen) = dp.split_at_mut(tile.visible(row).next_multiple_of(math::LANES));
        for (dp, p) in seen.iter_mut().zip(p) {
            *dp = p * (*dp - inner);
        }
        unseen.fill(0.0);
    }
}

/// Inner products of consecutive vectors of `width` elements.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn row_dots(out: &mut [f32], a: &[f32], b: &[f32], width: usize) {
    for ((out, a), b) in out.iter_mut().zip(a.chunks_exact(width)).zip(b.chunks_exact(width)) {
        *out = math::dot(a, b);
    }
}

fn drop_probabilities(p: &mut [f32], tile: &Tile, kv_head: usize, n: usize, dropout: Dropout) {
    for (row, p) in p.chunks_exact_mut(tile.stride()).enumerate() {
        let head = kv_head * tile.repeats + row % tile.repeats;
        let position = tile.queries.start + row / tile.repeats;
        for (p, key) in p.iter_mut().zip(tile.keys.clone()) {
            *p *= dropout.factor(place(head, position, key, n));
        }
    }
}

/// The factors of dropout on the padded documents of the plain form: `(documents, n_heads, seq, seq)`.
pub fn dropout_mask(
    dropout: Dropout,
    documents: &[usize],
    heads: Heads,
    seq: usize,
    device: &Device,
) -> Result<Tensor> {
    let n = documents.last().copied().unwrap_or(0);
    let count = documents.len().saturating_sub(1);
    let mut mask = vec![1.0f32; count * heads.n_heads * seq * seq];
    for (document, bounds) in documents.windows(2).enumerate() {
        let len = bounds[1] - bounds[0];
        for head in 0..heads.n_heads {
            for (i, j) in (0..len).flat_map(|i| (0..=i).map(move |j| (i, j))) {
                mask[((document * heads.n_heads + head) * seq + i) * seq + j] =
                    dropout.factor(place(head, bounds[0] + i, bounds[0] + j, n));
            }
        }
    }
    Tensor::from_vec(mask, (count, heads.n_heads, seq, seq), device)
}
