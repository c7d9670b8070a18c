//! Causal grouped-query attention by tiles: no `seq x seq` matrix, no work across documents.
//!
//! Queries and keys come head by head, already rotated, the queries already scaled by `1 / sqrt(head_dim)`.
//! A tile is 64 positions of one key-value head's queries against all keys that they see; the log-sum-exp of each row
//! is kept and the backward pass computes the probabilities again (Dao et al. 2022, algorithm 4).

use super::gemm::{Mat, Part, Sight, matmul_part};
use super::math::{self, LANES};
use super::{Buffer, Cpu};
use crate::backend::{Attention, Dropout, Pieces, Qkv};
use crate::spec::Heads;
use crate::tokens::Ragged;
use multiversion::multiversion;
use std::ops::Range;

/// Positions of a query tile.
const TILE: usize = 64;

/// Keys and values of what a sequence has read.
pub struct Cache {
    /// Rotated keys, `(n_kv_heads, capacity, head_dim)`.
    pub k: Vec<f32>,
    /// Values, `(n_kv_heads, capacity, head_dim)`.
    pub v: Vec<f32>,
}

/// Copies a range of positions behind the first `at` ones, head by head. Both: `(n_kv_heads, positions, head_dim)`.
pub fn copy_positions(to: &mut [f32], at: usize, from: &[f32], range: Range<usize>, heads: Heads) {
    let (hd, room, there) = (heads.head_dim, to.len() / heads.n_kv_heads, from.len() / heads.n_kv_heads);
    for (to, from) in to.chunks_exact_mut(room).zip(from.chunks_exact(there)) {
        to[at * hd..(at + range.len()) * hd].copy_from_slice(&from[range.start * hd..range.end * hd]);
    }
}

/// A tile of queries of one key-value head. Positions are counted from the first of the keys among which its own lie.
struct Tile {
    /// Rows of the batch.
    rows: Range<usize>,
    /// Position of the first query.
    first: usize,
    /// Positions of the keys: from the first that a query sees to the last query, or to the last key before it.
    keys: Range<usize>,
    repeats: usize,
    window: usize,
}

impl Tile {
    /// The row of its document's first position, where the document lies in the batch from there on.
    fn start(&self) -> usize {
        self.rows.start - self.first
    }

    fn len(&self) -> usize {
        self.rows.len() * self.repeats
    }

    /// Keys of the tile that a row may see.
    fn visible(&self, row: usize) -> Range<usize> {
        let end = self.first + row / self.repeats + 1;
        let [start, end] = [end.saturating_sub(self.window), end]
            .map(|key| key.clamp(self.keys.start, self.keys.end) - self.keys.start);
        start..end
    }

    /// The same for products, but for the lower end of a window.
    fn sight(&self) -> Sight {
        Sight { lead: self.first - self.keys.start, repeats: self.repeats }
    }

    /// Element ranges of the tile's rows in a `(n, repeats, width)` array.
    fn rows_of(&self, width: usize) -> Range<usize> {
        self.rows.start * self.repeats * width..self.rows.end * self.repeats * width
    }

    /// Elements from one row of scores to the next: whole vectors, so that no row ends in a scalar loop.
    fn stride(&self) -> usize {
        self.keys.len().next_multiple_of(LANES)
    }
}

/// The tiles of some rows of the batch, the first of which stands at the position `first`; `keys`: how many there are.
fn tiles(rows: Range<usize>, first: usize, keys: usize, attention: &Attention) -> impl Iterator<Item = Tile> {
    let (repeats, window) = (attention.heads.repeats(), attention.window.unwrap_or(usize::MAX));
    let (begin, end) = (rows.start, rows.end);
    rows.step_by(TILE).map(move |row| {
        let (rows, first) = (row..(row + TILE).min(end), first + row - begin);
        let keys = (first + 1).saturating_sub(window).min(keys)..(first + rows.len()).min(keys);
        Tile { rows, first, keys, repeats, window }
    })
}

/// The tiles of a batch, document by document.
fn tiles_of_batch<'a>(batch: &'a Ragged, attention: &'a Attention) -> impl Iterator<Item = Tile> + 'a {
    let documents = batch.documents.windows(2);
    documents.flat_map(|rows| tiles(rows[0]..rows[1], 0, rows[1] - rows[0], attention))
}

/// Rows of the batch that see the same positions of one cache.
struct Run<'a> {
    cache: &'a Cache,
    /// Keys of the cache.
    keys: usize,
    /// Rows of the batch.
    rows: Range<usize>,
    /// Position of the first row, counted from the cache's first.
    first: usize,
    /// Whether the rows have seen other keys before.
    merges: bool,
}

/// All that the rows of a batch see, those that see the same together; earlier pieces of a document stand before later
/// ones. Where a window hides keys, each document sees other ones.
fn runs<'a>(seen: &[Pieces<'a, Cache>], batch: &Ragged, attention: &Attention) -> Vec<Run<'a>> {
    let mut runs: Vec<Run> = vec![];
    let most = seen.iter().map(Vec::len).max().unwrap_or(0);
    for depth in 0..most {
        for ((pieces, rows), start) in seen.iter().zip(batch.documents.windows(2)).zip(&batch.starts) {
            let Some(&(cache, keys)) = pieces.get(depth) else { continue };
            let before: usize = pieces[..depth].iter().map(|(_, keys)| keys).sum();
            match runs.last_mut() {
                Some(last)
                    if attention.window.is_none()
                        && std::ptr::eq(last.cache, cache)
                        && last.rows.end == rows[0] =>
                {
                    last.rows.end = rows[1];
                }
                _ => {
                    let (rows, first) = (rows[0]..rows[1], start - before);
                    runs.push(Run { cache, keys, rows, first, merges: depth > 0 });
                }
            }
        }
    }
    runs
}

/// Keys and values of a tile: `(keys, head_dim)` each.
type Keys<'a> = (&'a [f32], &'a [f32]);

/// Those of a batch, `(n_kv_heads, n, head_dim)`.
fn of_batch<'a>(qkv: &'a Qkv<Cpu>, heads: Heads, head: usize, tile: &Tile) -> Keys<'a> {
    let (n, hd, start) = (qkv.k.len() / heads.kv_width(), heads.head_dim, tile.start());
    let range = (head * n + start + tile.keys.start) * hd..(head * n + start + tile.keys.end) * hd;
    (&qkv.k[range.clone()], &qkv.v[range])
}

/// Those of a cache.
fn of_cache<'a>(cache: &'a Cache, heads: Heads, head: usize, tile: &Tile) -> Keys<'a> {
    let capacity = cache.k.len() / heads.kv_width();
    let of = |position: usize| (head * capacity + position) * heads.head_dim;
    let range = of(tile.keys.start)..of(tile.keys.end);
    (&cache.k[range.clone()], &cache.v[range])
}

/// `out`: `(n, n_heads head_dim)`; returns the log-sum-exp of each row, `(n_kv_heads, n, repeats)`.
pub fn forward(out: &mut [f32], qkv: &Qkv<Cpu>, batch: &Ragged, attention: &Attention) -> Buffer {
    debug_assert!(batch.starts.iter().all(|&start| start == 0));
    let (heads, n) = (attention.heads, batch.len());
    let mut lse = Buffer::dirty(n * heads.n_heads);
    for head in 0..heads.n_kv_heads {
        let mut queries = Queries::of(&qkv.q, out, &mut lse, head, n, attention);
        for tile in tiles_of_batch(batch, attention) {
            queries.attend(of_batch(qkv, heads, head, &tile), &tile, false);
        }
    }
    lse
}

/// [`forward`] where keys and values are in caches. A row that sees several pieces has the mean of what it finds in
/// each, weighted by the sums of their exponentials (Dao et al. 2022, section 3.1); what rows of several documents see
/// of one cache is looked at together.
pub fn forward_cached(
    out: &mut [f32],
    q: &[f32],
    seen: &[Pieces<Cache>],
    batch: &Ragged,
    attention: &Attention,
) {
    let (heads, n) = (attention.heads, batch.len());
    let mut lse = Buffer::dirty(n * heads.n_heads);
    let runs = runs(seen, batch, attention);
    for head in 0..heads.n_kv_heads {
        let mut queries = Queries::of(q, out, &mut lse, head, n, attention);
        for run in &runs {
            for tile in tiles(run.rows.clone(), run.first, run.keys, attention) {
                queries.attend(of_cache(run.cache, heads, head, &tile), &tile, run.merges);
            }
        }
    }
}

/// The queries of one key-value head, and what they find.
struct Queries<'a> {
    /// `(n, repeats, head_dim)`.
    q: &'a [f32],
    /// What all heads find, `(n, n_heads head_dim)`.
    out: &'a mut [f32],
    /// The log-sum-exp of each row, `(n, repeats)`.
    lse: &'a mut [f32],
    head: usize,
    attention: &'a Attention,
}

impl<'a> Queries<'a> {
    fn of(
        q: &'a [f32],
        out: &'a mut [f32],
        lse: &'a mut [f32],
        head: usize,
        n: usize,
        attention: &'a Attention,
    ) -> Self {
        let rows = n * attention.heads.repeats();
        let hd = attention.heads.head_dim;
        let (q, lse) = (&q[head * rows * hd..][..rows * hd], &mut lse[head * rows..][..rows]);
        Self { q, out, lse, head, attention }
    }

    /// Attends to the keys of a tile; `merge`: what is found joins what was found in keys before.
    fn attend(&mut self, (k, v): Keys, tile: &Tile, merge: bool) {
        let heads = self.attention.heads;
        let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
        let (rows, keys, stride) = (tile.len(), tile.keys.len(), tile.stride());
        let first = self.head * repeats * hd;
        if keys == 0 {
            // A window hides all of them.
            if !merge {
                for t in tile.rows.clone() {
                    self.out[t * width + first..][..repeats * hd].fill(0.0);
                }
                self.lse[tile.rows_of(1)].fill(f32::NEG_INFINITY);
            }
            return;
        }
        let q = Mat::new(&self.q[tile.rows_of(hd)], rows, hd);
        let mut scores = Buffer::dirty(rows * stride);
        let k = Mat::new(k, keys, hd);
        matmul_part(&mut scores, stride, q, k.t(), false, Part::Visible(tile.sight()));
        let lse = &mut self.lse[tile.rows_of(1)];
        let before = merge.then(|| Buffer::copy_of(lse));
        softmax_rows(&mut scores, lse, tile);
        if let Some(dropout) = self.attention.dropout {
            drop_probabilities(&mut scores, tile, self.head, self.lse.len() / repeats, dropout);
        }
        let mut found = Buffer::dirty(rows * hd);
        let p = Mat::strided(&scores, rows, keys, stride);
        matmul_part(&mut found, hd, p, Mat::new(v, keys, hd), false, Part::OfVisible(tile.sight()));
        let places = tile.rows.clone().zip(found.chunks_exact(repeats * hd));
        match before {
            None => {
                for (t, found) in places {
                    self.out[t * width + first..][..repeats * hd].copy_from_slice(found);
                }
            }
            Some(before) => {
                let mut sums = self.lse[tile.rows_of(1)].iter_mut().zip(before.iter());
                for (t, found) in places {
                    let out = &mut self.out[t * width + first..][..repeats * hd];
                    for (out, found) in out.chunks_exact_mut(hd).zip(found.chunks_exact(hd)) {
                        let Some((lse, before)) = sums.next() else { break };
                        merge_rows(out, lse, found, *before);
                    }
                }
            }
        }
    }
}

/// Joins what a query has found in keys before, `out` with the log-sum-exp `before`, with what it finds in others.
fn merge_rows(out: &mut [f32], lse: &mut f32, found: &[f32], before: f32) {
    let most = lse.max(before);
    if most == f32::NEG_INFINITY {
        return; // nothing is visible yet
    }
    let [old, new] = [before, *lse].map(|sum| (sum - most).exp());
    let all = old + new;
    for (out, found) in out.iter_mut().zip(found) {
        *out = (old * *out + new * found) / all;
    }
    *lse = most + all.ln();
}

/// The gradients of queries, keys and values, given the result `out` and its gradient `dout`, `(n, width)`.
pub fn backward(
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    qkv: &Qkv<Cpu>,
    batch: &Ragged,
    attention: &Attention,
) -> Qkv<Cpu> {
    let (heads, n) = (attention.heads, batch.len());
    let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
    let mut grad = Qkv::<Cpu> {
        q: Buffer::dirty(qkv.q.len()),
        k: Buffer::zeros(qkv.k.len()),
        v: Buffer::zeros(qkv.v.len()),
    };
    for head in 0..heads.n_kv_heads {
        let (queries, keys) =
            (head * n * repeats * hd..(head + 1) * n * repeats * hd, head * n * hd..(head + 1) * n * hd);
        let q = &qkv.q[queries.clone()];
        let lse = &lse[head * n * repeats..(head + 1) * n * repeats];
        let dq = &mut grad.q[queries];
        let (dk, dv) = (&mut grad.k[keys.clone()], &mut grad.v[keys]);
        for tile in tiles_of_batch(batch, attention) {
            let (rows, keys, stride) = (tile.len(), tile.keys.len(), tile.stride());
            let start = tile.start();
            let keys_of = (start + tile.keys.start) * hd..(start + tile.keys.end) * hd;
            let q = Mat::new(&q[tile.rows_of(hd)], rows, hd);
            let (k, v) = of_batch(qkv, heads, head, &tile);
            let (k, v) = (Mat::new(k, keys, hd), Mat::new(v, keys, hd));

            let mut do_tile = Buffer::dirty(rows * hd);
            let mut inner = Buffer::dirty(rows); // sum over the head of dout * out
            let first = head * repeats * hd;
            let columns = |t: usize| t * width + first..t * width + first + repeats * hd;
            for (t, gradient) in tile.rows.clone().zip(do_tile.chunks_exact_mut(repeats * hd)) {
                gradient.copy_from_slice(&dout[columns(t)]);
            }
            row_dots(&mut inner, &do_tile, &out[columns(tile.rows.start).start..], width, &tile);

            let (visible, transposed) =
                (Part::Visible(tile.sight()), Part::OfVisibleTransposed(tile.sight()));
            let mut p = Buffer::dirty(rows * stride);
            matmul_part(&mut p, stride, q, k.t(), false, visible);
            probability_rows(&mut p, &lse[tile.rows_of(1)], &tile);
            let mut dp = Buffer::dirty(rows * stride);
            let do_mat = Mat::new(&do_tile, rows, hd);
            matmul_part(&mut dp, stride, do_mat, v.t(), false, visible);
            if let Some(dropout) = attention.dropout {
                drop_probabilities(&mut dp, &tile, head, n, dropout);
                let mut dropped = Buffer::copy_of(&p);
                drop_probabilities(&mut dropped, &tile, head, n, dropout);
                let dropped = Mat::strided(&dropped, rows, keys, stride);
                matmul_part(&mut dv[keys_of.clone()], hd, dropped.t(), do_mat, true, transposed);
            } else {
                let p = Mat::strided(&p, rows, keys, stride);
                matmul_part(&mut dv[keys_of.clone()], hd, p.t(), do_mat, true, transposed);
            }
            score_grads(&mut dp, &p, &inner, &tile);
            let ds = Mat::strided(&dp, rows, keys, stride);
            matmul_part(&mut dq[tile.rows_of(hd)], hd, ds, k, false, Part::OfVisible(tile.sight()));
            matmul_part(&mut dk[keys_of], hd, ds.t(), q, true, transposed);
        }
    }
    grad
}

/// Numbers that are worked on together.
type Vector = [f32; LANES];

/// Softmax of each row over its visible keys; the others get probability 0.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn softmax_rows(scores: &mut [f32], lse: &mut [f32], tile: &Tile) {
    for (row, (scores, lse)) in scores.chunks_exact_mut(tile.stride()).zip(lse).enumerate() {
        let visible = tile.visible(row);
        if visible.is_empty() {
            scores.fill(0.0);
            *lse = f32::NEG_INFINITY;
            continue;
        }
        let (seen, unseen) = split(scores, &visible);
        hide(seen, &visible, f32::NEG_INFINITY);
        let max = math::max(seen.as_flattened());
        let sum = math::exp_shifted_sum(seen.as_flattened_mut(), max);
        let inverse = 1.0 / sum;
        for vector in seen {
            for p in vector {
                *p *= inverse;
            }
        }
        unseen.fill([0.0; LANES]);
        *lse = max + sum.ln();
    }
}

/// `p = e^(score - lse)` over each row's visible keys, 0 elsewhere.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn probability_rows(scores: &mut [f32], lse: &[f32], tile: &Tile) {
    for (row, (scores, &lse)) in scores.chunks_exact_mut(tile.stride()).zip(lse).enumerate() {
        let visible = tile.visible(row);
        let (seen, unseen) = split(scores, &visible);
        for vector in seen.iter_mut() {
            for p in vector {
                *p = math::exp(*p - lse);
            }
        }
        hide(seen, &visible, 0.0);
        unseen.fill([0.0; LANES]);
    }
}

/// Replaces `dp` by `p (dp - inner)`, the gradient of the scores: 0 where a key is hidden, as `p` is there.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn score_grads(dp: &mut [f32], p: &[f32], inner: &[f32], tile: &Tile) {
    let stride = tile.stride();
    let rows = dp.chunks_exact_mut(stride).zip(p.chunks_exact(stride)).zip(inner);
    for (row, ((dp, p), &inner)) in rows.enumerate() {
        let (seen, unseen) = split(dp, &tile.visible(row));
        for (dp, p) in seen.as_flattened_mut().iter_mut().zip(p) {
            *dp = p * (*dp - inner);
        }
        unseen.fill([0.0; LANES]);
    }
}

/// Cuts a row of scores after the vector in which its visible keys end.
#[inline(always)]
fn split<'a>(scores: &'a mut [f32], visible: &Range<usize>) -> (&'a mut [Vector], &'a mut [Vector]) {
    scores.as_chunks_mut().0.split_at_mut(visible.end.div_ceil(LANES))
}

/// Writes `value` over what is not visible: before the visible keys, and in the vector in which they end.
#[inline(always)]
fn hide(seen: &mut [Vector], visible: &Range<usize>, value: f32) {
    if visible.start > 0 {
        seen.as_flattened_mut()[..visible.start].fill(value);
    }
    let (whole, end) = (visible.end / LANES, visible.end % LANES);
    if let Some(last) = seen.get_mut(whole) {
        for (i, score) in last.iter_mut().enumerate() {
            *score = if i >= end { value } else { *score };
        }
    }
}

/// Inner products of the tile's rows `a`, `(rows, head_dim)`, with those that `b` holds in its first columns, position
/// after position `width` apart.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn row_dots(out: &mut [f32], a: &[f32], b: &[f32], width: usize, tile: &Tile) {
    let hd = a.len() / out.len();
    let positions =
        out.chunks_exact_mut(tile.repeats).zip(a.chunks_exact(tile.repeats * hd)).zip(b.chunks(width));
    for ((out, a), b) in positions {
        for ((out, a), b) in out.iter_mut().zip(a.chunks_exact(hd)).zip(b.chunks_exact(hd)) {
            *out = math::dot(a, b);
        }
    }
}

fn drop_probabilities(p: &mut [f32], tile: &Tile, kv_head: usize, n: usize, dropout: Dropout) {
    // Dropout belongs to training, where the first key of a document is its first row.
    let start = tile.start();
    for (row, p) in p.chunks_exact_mut(tile.stride()).enumerate() {
        let head = kv_head * tile.repeats + row % tile.repeats;
        let position = tile.rows.start + row / tile.repeats;
        for (p, key) in p.iter_mut().zip(tile.keys.clone()) {
            *p *= dropout.factor(Dropout::probability(head, position, start + key, n));
        }
    }
}
