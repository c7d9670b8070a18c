//! Attention of a single position to the keys of a cache, as in generating a token: without packing, and with the bits of
//! the products in [`super::super::gemm`].

use super::{Vector, softmax_row};
use crate::backend::cpu::math::LANES;
use multiversion::multiversion;
use std::ops::Range;

/// Number of blocks of keys whose scores are computed together: a single chain of additions would wait for itself.
const BLOCKS: usize = 2;

/// Writes the result of the queries of one key-value head at one position, `(repeats, head_dim)`, and the log-sum-exp of
/// their scores, `(repeats,)`.
///
/// `q`: `(repeats, head_dim)`; `k`: `(blocks, head_dim, LANES)`; `v`: `(positions, head_dim)` and [`LANES`] elements more;
/// `visible`: the keys that are seen, at least one. `scores` is scratch space.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn attend(
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[Vector],
    v: &[f32],
    visible: Range<usize>,
    scores: &mut Vec<Vector>,
) {
    let hd = q.len() / lse.len();
    let blocks = visible.start / LANES..visible.end.div_ceil(LANES);
    let k = &k[blocks.start * hd..blocks.end * hd];
    let v = &v[visible.start * hd..visible.end * hd + LANES];
    let first = visible.start - blocks.start * LANES;
    let visible = first..first + visible.len();
    scores.resize(2 * blocks.len(), [0.0; LANES]);
    let rows = out.chunks_mut(2 * hd).zip(lse.chunks_mut(2)).zip(q.chunks(2 * hd));
    for ((out, lse), q) in rows {
        match lse.len() {
            2 => attend_rows::<2>(out, lse, q, k, v, &visible, scores),
            _ => attend_rows::<1>(out, lse, q, k, v, &visible, scores),
        }
    }
}

/// [`attend`] for a few queries, whose `visible` keys count from the first block.
#[inline(always)]
fn attend_rows<const ROWS: usize>(
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[Vector],
    v: &[f32],
    visible: &Range<usize>,
    scores: &mut [Vector],
) {
    let hd = q.len() / ROWS;
    let blocks = k.len() / hd;
    let scores = &mut scores[..ROWS * blocks];
    let mut block = 0;
    while block + BLOCKS <= blocks {
        score::<ROWS, BLOCKS>(scores, q, k, block);
        block += BLOCKS;
    }
    for block in block..blocks {
        score::<ROWS, 1>(scores, q, k, block);
    }
    for (scores, lse) in scores.chunks_exact_mut(blocks).zip(lse) {
        *lse = softmax_row(scores, visible);
    }
    let p: [&[f32]; ROWS] =
        std::array::from_fn(|row| &scores[row * blocks..][..blocks].as_flattened()[visible.clone()]);
    for column in (0..hd).step_by(LANES) {
        // The elements behind a row only change sums that are not used.
        let width = LANES.min(hd - column);
        let mut sums = [[0.0f32; LANES]; ROWS];
        for key in 0..visible.len() {
            let Some(v) = v[key * hd + column..].first_chunk::<LANES>() else { break };
            for (sums, p) in sums.iter_mut().zip(p) {
                add_product(sums, p[key], v);
            }
        }
        for (out, sums) in out.chunks_exact_mut(hd).zip(sums) {
            out[column..][..width].copy_from_slice(&sums[..width]);
        }
    }
}

/// Computes the scores of `BLOCKS` blocks of keys from the given one on: `scores`: `(ROWS, blocks)`.
#[inline(always)]
fn score<const ROWS: usize, const BLOCKS: usize>(
    scores: &mut [Vector],
    q: &[f32],
    k: &[Vector],
    first: usize,
) {
    let hd = q.len() / ROWS;
    let blocks = scores.len() / ROWS;
    let mut sums = [[[0.0f32; LANES]; BLOCKS]; ROWS];
    let k: [&[Vector]; BLOCKS] = std::array::from_fn(|block| &k[(first + block) * hd..][..hd]);
    for d in 0..hd {
        for (row, sums) in sums.iter_mut().enumerate() {
            for (sums, k) in sums.iter_mut().zip(k) {
                add_product(sums, q[row * hd + d], &k[d]);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        scores[row * blocks + first..][..BLOCKS].copy_from_slice(&sums);
    }
}

/// Adds `a b` to `sums`, rounded once.
#[inline(always)]
fn add_product(sums: &mut Vector, a: f32, b: &Vector) {
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}
