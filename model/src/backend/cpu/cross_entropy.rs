//! Softmax and cross-entropy over blocks of positions: the full logits are never materialized.

use super::Buffer;
use super::gemm::{linear, linear_input_grad, linear_weight_grad};
use super::math;
use multiversion::multiversion;

/// Number of positions whose logits are materialized at a time.
pub const BLOCK: usize = 256;

/// Writes `-log p(target)` of each position to `nll`. `x`: `(n, d)`; `embedding`: `(vocab, d)`.
pub fn forward(nll: &mut [f32], x: &[f32], embedding: &[f32], targets: &[u32], d: usize) {
    let vocab = embedding.len() / d;
    for (block, nll) in nll.chunks_mut(BLOCK).enumerate() {
        let (n, first) = (nll.len(), block * BLOCK);
        let mut logits = Buffer::dirty(n * vocab);
        linear(&mut logits, &x[first * d..(first + n) * d], embedding, n, d, false);
        for ((row, &target), nll) in logits.chunks_exact_mut(vocab).zip(&targets[first..]).zip(nll) {
            let target = row[target as usize];
            *nll = math::log_sum_exp_in_place(row) - target;
        }
    }
}

/// [`forward`], and the gradients of `sum of weights * nll`: writes that of `x` to `dx`, adds that of the embedding to
/// `dembedding`.
pub fn forward_backward(
    nll: &mut [f32],
    dx: &mut [f32],
    dembedding: &mut [f32],
    x: &[f32],
    embedding: &[f32],
    targets: &[u32],
    weights: &[f32],
) {
    let d = x.len() / nll.len().max(1);
    for (block, nll) in nll.chunks_mut(BLOCK).enumerate() {
        let (n, first) = (nll.len(), block * BLOCK);
        let vocab = embedding.len() / d;
        let mut logits = Buffer::dirty(n * vocab);
        let mut x = Buffer::copy_of(&x[first * d..(first + n) * d]);
        let dx = &mut dx[first * d..(first + n) * d];
        linear(&mut logits, &x, embedding, n, d, false);
        let mut factors = Buffer::dirty(n);
        let rows = logits.chunks_exact_mut(vocab).zip(&targets[first..]).zip(&weights[first..]);
        for (((row, &target), &weight), (nll, factor)) in rows.zip(nll.iter_mut().zip(factors.iter_mut())) {
            let sum;
            (*nll, sum) = row_gradient(row, target as usize);
            *factor = weight / sum;
        }
        linear_input_grad(dx, &logits, embedding, n, d, false);
        // The factors are applied to rows of `d` elements instead of the much longer rows of logits.
        for ((x, dx), &factor) in x.chunks_exact_mut(d).zip(dx.chunks_exact_mut(d)).zip(factors.iter()) {
            math::scale(x, factor);
            math::scale(dx, factor);
        }
        linear_weight_grad(dembedding, &logits, &x, n, d);
    }
}

/// Replaces a row of logits by `sum (softmax - onehot(target))`, where `sum` is the sum of `e^(logit - max)`; returns
/// `-log p(target)` and `sum`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn row_gradient(row: &mut [f32], target: usize) -> (f32, f32) {
    let target_logit = row[target];
    let max = math::max(row);
    let sum = math::exp_shifted_sum(row, max);
    row[target] -= sum;
    (max + sum.ln() - target_logit, sum)
}
