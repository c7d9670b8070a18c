//! Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019, eq. 4).

use super::math::{dot, dot3};
use candle_core::{D, Result, Tensor};
use multiversion::multiversion;

/// The plain form. `x`: `(.., d_model)`; `weight`: `(d_model,)`; returns the shape of `x`.
pub fn plain(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// Writes the normalised rows to `y` and `1 / rms` of each row to `inverse`.
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

/// Repeats the forward pass from the saved `1 / rms`.
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
