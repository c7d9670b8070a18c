//! Root-mean-square normalization over the last dimension (Zhang & Sennrich 2019, eq. 4).

use super::math::{dot, dot3};
use crate::backend::Columns;
use multiversion::multiversion;

/// Writes the normalized rows to `y` and `1 / rms` of each row to `inverse`.
///
/// `x`, `y`: `(n, d)`; `weight`: `(d,)`; `inverse`: `(n,)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn forward(y: &mut [f32], inverse: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let d = weight.len();
    for ((y, x), inverse) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
        *inverse = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * *inverse * w;
        }
    }
}

/// Recomputes the forward pass from the saved `1 / rms`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn again(y: &mut [f32], inverse: &[f32], x: &[f32], weight: &[f32]) {
    let d = weight.len();
    for ((y, x), inverse) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(inverse) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * *inverse * w;
        }
    }
}

/// Adds the gradient of the input to `dx` and that of the weight to `dweight`.
///
/// With `r = 1 / rms`: `dx = r w dy - r^3 x mean(x w dy)`; `dweight = sum over rows of r x dy`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], inverse: &[f32]) {
    let d = weight.len();
    let rows = dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d)).zip(inverse);
    for (((dx, dy), x), &r) in rows {
        let pull = r * r * r * dot3(x, weight, dy) / d as f32;
        for i in 0..d {
            dx[i] += r * weight[i] * dy[i] - pull * x[i];
            dweight[i] += r * x[i] * dy[i];
        }
    }
}

/// Normalizes the heads of every row in place and writes `1 / rms` of each to `inverse`, `(n, heads)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn heads_in_place(x: &mut [f32], inverse: &mut [f32], columns: Columns, weight: &[f32], eps: f32) {
    let Columns { width, first, heads, head_dim } = columns;
    for (row, inverse) in x.chunks_exact_mut(width).zip(inverse.chunks_exact_mut(heads)) {
        let row = &mut row[first..first + heads * head_dim];
        for (x, inverse) in row.chunks_exact_mut(head_dim).zip(inverse) {
            *inverse = 1.0 / (dot(x, x) / head_dim as f32 + eps).sqrt();
            for (x, w) in x.iter_mut().zip(weight) {
                *x = *x * *inverse * w;
            }
        }
    }
}

/// Replaces `dx`, the gradient of the normalized heads, by that of the unnormalized heads `x`, in place; adds the
/// gradient of the weight to `dweight`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn heads_backward(
    dx: &mut [f32],
    dweight: &mut [f32],
    x: &[f32],
    columns: Columns,
    weight: &[f32],
    inverse: &[f32],
) {
    let Columns { width, first, heads, head_dim } = columns;
    let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(inverse.chunks_exact(heads));
    for ((dx, x), inverse) in rows {
        let part = first..first + heads * head_dim;
        let heads = dx[part.clone()].chunks_exact_mut(head_dim).zip(x[part].chunks_exact(head_dim));
        for ((dx, x), &r) in heads.zip(inverse) {
            let pull = r * r * r * dot3(x, weight, dx) / head_dim as f32;
            for i in 0..head_dim {
                dweight[i] += r * x[i] * dx[i];
                dx[i] = r * weight[i] * dx[i] - pull * x[i];
            }
        }
    }
}
