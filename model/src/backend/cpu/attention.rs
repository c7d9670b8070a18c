//! Causal grouped-query attention by tiles: no `seq x seq` matrix, no work across documents.
//!
//! Queries and keys are arranged by head and already rotated, the queries also scaled by `1 / sqrt(head_dim)`. A tile
//! is 64 positions of one key-value head's queries against all keys that they see; the log-sum-exp of each row is kept,
//! and the backward pass recomputes the probabilities (Dao et al. 2022, algorithm 4).

mod cache;
mod one;

pub use cache::Cache;

use super::gemm::{CausalMask, Mat, Part, matmul_part};
use super::math::{self, LANES};
use super::{Buffer, Cpu};
use crate::backend::{Attention, Dropout, Pieces, Qkv};
use crate::spec::Heads;
use crate::tokens::Ragged;
use multiversion::multiversion;
use std::ops::Range;

/// Number of positions per query tile.
const TILE: usize = 64;

/// A tile of queries of one key-value head. Positions count from the first of the keys that the tile attends to: of its
/// document, or of a cache.
struct Tile {
    /// The tile's rows of the batch.
    rows: Range<usize>,
    /// Position of the first query.
    first: usize,
    /// Positions of the keys: from the first one visible to the first query, to that of the last query or the last key.
    keys: Range<usize>,
    repeats: usize,
    window: usize,
}

impl Tile {
    /// Batch row of the document's first position; valid if the whole document is in the batch.
    fn start(&self) -> usize {
        self.rows.start - self.first
    }

    fn len(&self) -> usize {
        self.rows.len() * self.repeats
    }

    /// The keys that a row sees, relative to the tile's first key.
    fn visible(&self, row: usize) -> Range<usize> {
        let end = self.first + row / self.repeats + 1;
        let [start, end] = [end.saturating_sub(self.window), end]
            .map(|key| key.clamp(self.keys.start, self.keys.end) - self.keys.start);
        start..end
    }

    /// The same for matrix products, without the lower limit of a window.
    fn mask(&self) -> CausalMask {
        CausalMask { prefix_keys: self.first - self.keys.start, repeats: self.repeats }
    }

    /// Element range of the tile's rows in a `(n, repeats, width)` array.
    fn rows_of(&self, width: usize) -> Range<usize> {
        self.rows.start * self.repeats * width..self.rows.end * self.repeats * width
    }

    /// Elements between the starts of adjacent score rows: a whole number of vectors, so that no row ends in a scalar loop.
    fn stride(&self) -> usize {
        self.keys.len().next_multiple_of(LANES)
    }
}

/// Tiles of some rows of the batch; `first` is the position of the first row, `keys` the number of keys.
fn tiles(rows: Range<usize>, first: usize, keys: usize, attention: &Attention) -> impl Iterator<Item = Tile> {
    let (repeats, window) = (attention.heads.repeats(), attention.window.unwrap_or(usize::MAX));
    let (begin, end) = (rows.start, rows.end);
    rows.step_by(TILE).map(move |row| {
        let (rows, first) = (row..(row + TILE).min(end), first + row - begin);
        let keys = (first + 1).saturating_sub(window).min(keys)..(first + rows.len()).min(keys);
        Tile { rows, first, keys, repeats, window }
    })
}

/// Tiles of a batch, document by document.
fn tiles_of_batch<'a>(batch: &'a Ragged, attention: &'a Attention) -> impl Iterator<Item = Tile> + 'a {
    let documents = batch.documents.windows(2);
    documents.flat_map(|rows| tiles(rows[0]..rows[1], 0, rows[1] - rows[0], attention))
}

/// Consecutive rows of the batch that see the same positions of one cache.
struct Run<'a> {
    cache: &'a Cache,
    /// Number of keys in the cache that the rows may see.
    keys: usize,
    /// Rows of the batch.
    rows: Range<usize>,
    /// Position of the first row, counted from the first position of the cache.
    first: usize,
    /// Whether the rows have already attended to other keys.
    merges: bool,
}

/// Everything that the rows of a batch see, combining consecutive documents that see the same keys; earlier pieces of a
/// document precede later ones. If a window hides keys, each document gets its own run.
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
                        && last.keys == keys
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

/// Keys and values of a tile: `(head_dim, keys)` and `(keys, head_dim)`.
type Keys<'a> = (Mat<'a>, Mat<'a>);

/// The keys and values of a tile from a batch, `(n_kv_heads, n, head_dim)`.
fn of_batch<'a>(qkv: &'a Qkv<Cpu>, heads: Heads, head: usize, tile: &Tile) -> Keys<'a> {
    let (n, hd, start) = (qkv.k.len() / heads.kv_width(), heads.head_dim, tile.start());
    let range = (head * n + start + tile.keys.start) * hd..(head * n + start + tile.keys.end) * hd;
    let keys = tile.keys.len();
    (Mat::new(&qkv.k[range.clone()], keys, hd).t(), Mat::new(&qkv.v[range], keys, hd))
}

/// Writes `out`, `(n, n_heads head_dim)`; returns the log-sum-exp of each row, `(n_kv_heads, n, repeats)`.
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

/// [`forward`] with keys and values in caches. If a row sees several pieces, its result is the mean of the results of
/// the pieces, weighted by their sums of exponentials (Dao et al. 2022, section 3.1); rows of several documents that
/// see the same keys of a cache are processed together.
pub fn forward_cached(
    out: &mut [f32],
    q: &[f32],
    seen: &[Pieces<Cache>],
    batch: &Ragged,
    attention: &Attention,
) {
    debug_assert!(seen.iter().all(|pieces| !pieces.is_empty()), "a document sees no cache");
    let attention = &Attention { dropout: None, ..*attention };
    let (heads, n) = (attention.heads, batch.len());
    let mut lse = Buffer::dirty(n * heads.n_heads);
    let runs = runs(seen, batch, attention);
    let (hd, mut scores) = (heads.head_dim, vec![]);
    for head in 0..heads.n_kv_heads {
        let mut queries = Queries::of(q, out, &mut lse, head, n, attention);
        for run in &runs {
            for tile in tiles(run.rows.clone(), run.first, run.keys, attention) {
                let (of, Range { start, end }) = (run.cache.head(head), tile.keys.clone());
                if tile.rows.len() == 1 && start < end && !run.merges {
                    queries.attend_one(of, &tile, &mut scores);
                    continue;
                }
                let columns = run.cache.columns(head, start..end);
                let k = Mat::strided(&columns[start % LANES..], hd, end - start, columns.len() / hd);
                let v = Mat::strided(&of.1[start * hd..], end - start, hd, hd);
                queries.attend((k, v), &tile, run.merges);
            }
        }
    }
}

/// The queries of one key-value head, and their results.
struct Queries<'a> {
    /// `(n, repeats, head_dim)`.
    q: &'a [f32],
    /// Results of all heads, `(n, n_heads head_dim)`.
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

    /// Attends to the keys of a tile with one position, of which it sees at least one; `scores` is scratch space.
    fn attend_one(&mut self, (k, v): (&[Vector], &[f32]), tile: &Tile, scores: &mut Vec<Vector>) {
        let Heads { head_dim, .. } = self.attention.heads;
        let (repeats, width) = (tile.repeats, self.attention.heads.width());
        let first = tile.rows.start * width + self.head * repeats * head_dim;
        let (q, out) = (&self.q[tile.rows_of(head_dim)], &mut self.out[first..][..repeats * head_dim]);
        one::attend(out, &mut self.lse[tile.rows_of(1)], q, k, v, tile.keys.clone(), scores);
    }

    /// Attends to the keys of a tile; `merge`: combines the result with that of earlier keys.
    fn attend(&mut self, (k, v): Keys, tile: &Tile, merge: bool) {
        let heads = self.attention.heads;
        let (hd, repeats, width) = (heads.head_dim, heads.repeats(), heads.width());
        let (rows, keys, stride) = (tile.len(), tile.keys.len(), tile.stride());
        let first = self.head * repeats * hd;
        if keys == 0 {
            // A window hides all keys.
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
        matmul_part(&mut scores, stride, q, k, false, Part::Visible(tile.mask()));
        let lse = &mut self.lse[tile.rows_of(1)];
        let before = merge.then(|| Buffer::copy_of(lse));
        softmax_rows(&mut scores, lse, tile);
        if let Some(dropout) = self.attention.dropout {
            drop_probabilities(&mut scores, tile, self.head, self.lse.len() / repeats, dropout);
        }
        let mut found = Buffer::dirty(rows * hd);
        let p = Mat::strided(&scores, rows, keys, stride);
        matmul_part(&mut found, hd, p, v, false, Part::OfVisible(tile.mask()));
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

/// Merges the result over earlier keys, `out` with the log-sum-exp `before`, with the result over further keys, `found` with `lse`.
fn merge_rows(out: &mut [f32], lse: &mut f32, found: &[f32], before: f32) {
    let most = lse.max(before);
    if most == f32::NEG_INFINITY {
        return; // no key is visible so far
    }
    let [old, new] = [before, *lse].map(|sum| (sum - most).exp());
    let all = old + new;
    for (out, found) in out.iter_mut().zip(found) {
        *out = (old * *out + new * found) / all;
    }
    *lse = most + all.ln();
}

/// Computes the gradients of queries, keys and values, given the result `out` and its gradient `dout`, both `(n, width)`.
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

            let mut do_tile = Buffer::dirty(rows * hd);
            let mut inner = Buffer::dirty(rows); // inner product of dout and out, per row
            let first = head * repeats * hd;
            let columns = |t: usize| t * width + first..t * width + first + repeats * hd;
            for (t, gradient) in tile.rows.clone().zip(do_tile.chunks_exact_mut(repeats * hd)) {
                gradient.copy_from_slice(&dout[columns(t)]);
            }
            row_dots(&mut inner, &do_tile, &out[columns(tile.rows.start).start..], width, &tile);

            let (visible, transposed) = (Part::Visible(tile.mask()), Part::OfVisibleTransposed(tile.mask()));
            let mut p = Buffer::dirty(rows * stride);
            matmul_part(&mut p, stride, q, k, false, visible);
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
            matmul_part(&mut dq[tile.rows_of(hd)], hd, ds, k.t(), false, Part::OfVisible(tile.mask()));
            matmul_part(&mut dk[keys_of], hd, ds.t(), q, true, transposed);
        }
    }
    grad
}

/// One SIMD vector of elements.
type Vector = [f32; LANES];

/// Takes the softmax of each row over its visible keys; hidden keys get probability 0.
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
        *lse = softmax_row(seen, &visible);
        unseen.fill([0.0; LANES]);
    }
}

/// Takes the softmax of a row, which ends with the vector of the last visible key, and returns its log-sum-exp. Hidden keys
/// get probability 0.
#[inline(always)]
fn softmax_row(seen: &mut [Vector], visible: &Range<usize>) -> f32 {
    hide(seen, visible, f32::NEG_INFINITY);
    let max = math::max(seen.as_flattened());
    let sum = math::exp_shifted_sum(seen.as_flattened_mut(), max);
    let inverse = 1.0 / sum;
    for vector in seen {
        for p in vector {
            *p *= inverse;
        }
    }
    max + sum.ln()
}

/// Computes `p = e^(score - lse)` over the visible keys of each row, 0 elsewhere.
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

/// Replaces `dp` by `p (dp - inner)`, the gradient of the scores; it is 0 for hidden keys, where `p` is 0.
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

/// Splits a row of scores after the vector in which its visible keys end.
#[inline(always)]
fn split<'a>(scores: &'a mut [f32], visible: &Range<usize>) -> (&'a mut [Vector], &'a mut [Vector]) {
    scores.as_chunks_mut().0.split_at_mut(visible.end.div_ceil(LANES))
}

/// Overwrites hidden scores with `value`: those before the visible keys, and those after them in the same vector.
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

/// Inner products of the tile's rows `a`, `(rows, head_dim)`, with the rows in the first columns of `b`, whose
/// positions are `width` elements apart.
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
    // Dropout is used in training only, where the tile's keys are those of a document in the batch.
    let start = tile.start();
    for (row, p) in p.chunks_exact_mut(tile.stride()).enumerate() {
        let head = kv_head * tile.repeats + row % tile.repeats;
        let position = tile.rows.start + row / tile.repeats;
        for (p, key) in p.iter_mut().zip(tile.keys.clone()) {
            *p *= dropout.factor(Dropout::probability(head, position, start + key, n));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    const HEADS: Heads = Heads { n_heads: 1, n_kv_heads: 1, head_dim: 1 };

    /// A cache whose keys are 0, so that attention returns the mean of the visible values.
    fn cache(values: &[f32]) -> Cache {
        let mut cache = Cache::new(HEADS, values.len());
        let of = |values: &[f32]| Buffer::copy_of(values);
        let qkv = Qkv::<Cpu> { q: of(values), k: Buffer::zeros(values.len()), v: of(values) };
        cache.append(0, &qkv, 0..values.len());
        cache
    }

    /// Attends with one query per document at the given positions.
    fn attend(seen: &[Pieces<Cache>], starts: Vec<usize>, dropout: Option<Dropout>) -> Vec<f32> {
        let documents = vec![[0u32]; starts.len()];
        let batch = Ragged { starts, ..Ragged::prompts(&documents) };
        let mut out = vec![f32::NAN; seen.len()];
        let attention = Attention { heads: HEADS, window: None, dropout };
        forward_cached(&mut out, &vec![0.0; seen.len()], seen, &batch, &attention);
        out
    }

    #[test]
    fn adjacent_documents_may_see_different_lengths_of_one_cache() {
        let (shared, own) = (cache(&[4.0, 8.0, 12.0]), [cache(&[2.0]), cache(&[0.0])]);
        let seen = [vec![(&shared, 1), (&own[0], 1)], vec![(&shared, 3), (&own[1], 1)]];
        // Means of 4 and 2, and of 4, 8, 12 and 0.
        for (found, want) in attend(&seen, vec![1, 3], None).into_iter().zip([3.0, 6.0]) {
            assert!((found - want).abs() < 1e-5, "{found} instead of {want}");
        }
    }

    #[test]
    fn a_single_position_has_the_bits_of_one_among_others() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let heads = Heads {
                n_kv_heads: random.random_range(1..3),
                n_heads: 0,
                head_dim: random.random_range(1..41),
            };
            let heads = Heads { n_heads: heads.n_kv_heads * random.random_range(1..6), ..heads };
            let (keys, window) = (random.random_range(2..200), random.random_range(1..250));
            let attention = Attention { heads, window: (window < 200).then_some(window), dropout: None };
            let mut buffer = |len| -> Buffer {
                std::iter::repeat_with(|| random.random_range(-3.0..3.0))
                    .take(len)
                    .collect::<Vec<f32>>()
                    .into()
            };
            let qkv = Qkv::<Cpu> {
                q: buffer(2 * heads.width()),
                k: buffer(keys * heads.kv_width()),
                v: buffer(keys * heads.kv_width()),
            };
            let mut cache = Cache::new(heads, keys);
            cache.append(0, &qkv, 0..keys);
            // Two positions, of which the second is asked for alone as well: `q` is `(n_kv_heads, n, repeats, head_dim)`.
            let own = heads.repeats() * heads.head_dim;
            let last: Vec<f32> = qkv.q.chunks_exact(own).skip(1).step_by(2).flatten().copied().collect();
            let attend = |q: &[f32], ids: &[u32]| {
                let batch = Ragged { starts: vec![keys - ids.len()], ..Ragged::prompts(&[ids]) };
                let mut out = vec![f32::NAN; ids.len() * heads.width()];
                forward_cached(&mut out, q, &[vec![(&cache, keys)]], &batch, &attention);
                out
            };
            let both = attend(&qkv.q, &[0, 0]);
            let alone = attend(&last, &[0]);
            for (alone, among) in alone.iter().zip(&both[heads.width()..]) {
                // The keys of two positions begin elsewhere if a window hides some; sums of probabilities then round differently.
                let close = if window < keys { 1e-5 } else { 0.0 };
                assert!(
                    (alone - among).abs() <= close,
                    "{heads:?}, {keys} keys, window {window}: {alone} and {among}"
                );
            }
        }
    }

    #[test]
    fn attention_over_caches_ignores_dropout() {
        let own = cache(&[1.0, 2.0, 6.0]);
        let seen = [vec![(&own, 3)]];
        let dropped = attend(&seen, vec![2], Some(Dropout { seed: 7, rate: 0.9 }));
        assert_eq!(dropped, attend(&seen, vec![2], None));
    }
}
