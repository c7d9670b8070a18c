//! The gated activation of the feed-forward: `silu(a) b` (Shazeer 2020, eq. 6).

use super::math::{LANES, sigmoid};
use candle_core::{D, Result, Tensor};
use multiversion::multiversion;

/// The plain form. `x`: `(.., 2 hidden)`, the gate first; returns `(.., hidden)`.
pub fn plain(x: &Tensor) -> Result<Tensor> {
    let hidden = x.dim(D::Minus1)? / 2;
    let gate = x.narrow(D::Minus1, 0, hidden)?.silu()?;
    gate * x.narrow(D::Minus1, hidden, hidden)?
}

/// `x`: `(n, 2 hidden)`, the gate first; `y`: `(n, hidden)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn forward(y: &mut [f32], x: &[f32], hidden: usize) {
    for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(2 * hidden)) {
        let (gate, up) = x.split_at(hidden);
        for i in 0..hidden {
            y[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    }
}

/// The backward pass of `weight * swiglu(x)` row by row, in place.
///
/// On entry `y_grad`, `(n, hidden)`, is the gradient of the weighted result. On return it holds the weighted
/// result itself (the next weight gradient needs it), `x`, `(n, 2 hidden)`, holds its own gradient and
/// `dweights`, `(n,)`, that of the row weights.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn backward_in_place(
    y_grad: &mut [f32],
    x: &mut [f32],
    weights: &[f32],
    dweights: &mut [f32],
    hidden: usize,
) {
    let rows = y_grad.chunks_exact_mut(hidden).zip(x.chunks_exact_mut(2 * hidden));
    for (((dy, x), &weight), dweight) in rows.zip(weights).zip(dweights) {
        let (gate, up) = x.split_at_mut(hidden);
        let mut lanes = [0.0f32; LANES];
        // Whole chunks of a fixed length vectorise; the same code serves the shorter last one.
        let chunks = dy.chunks_mut(LANES).zip(gate.chunks_mut(LANES)).zip(up.chunks_mut(LANES));
        for ((dy, gate), up) in chunks {
            match (<&mut [f32; LANES]>::try_from(&mut *dy), gate.first_chunk_mut(), up.first_chunk_mut()) {
                (Ok(dy), Some(gate), Some(up)) => backward_chunk::<LANES>(dy, gate, up, weight, &mut lanes),
                _ => {
                    for (((d, g), u), lane) in dy.iter_mut().zip(gate).zip(up).zip(&mut lanes) {
                        let (mut d1, mut g1, mut u1, mut l1) = ([*d], [*g], [*u], [*lane]);
                        backward_chunk::<1>(&mut d1, &mut g1, &mut u1, weight, &mut l1);
                        (*d, *g, *u, *lane) = (d1[0], g1[0], u1[0], l1[0]);
                    }
                }
            }
        }
        *dweight = lanes.iter().sum();
    }
}

/// [`backward_in_place`] of `N` neighbouring elements; `sums` gathers the gradient of the row weight.
#[inline(always)]
fn backward_chunk<const N: usize>(
    dy: &mut [f32; N],
    gate: &mut [f32; N],
    up: &mut [f32; N],
    weight: f32,
    sums: &mut [f32; N],
) {
    for i in 0..N {
        let (g, u, d) = (gate[i], up[i], dy[i]);
        let s = sigmoid(g);
        let silu = g * s;
        sums[i] += d * silu * u;
        gate[i] = weight * d * u * (s + silu * (1.0 - s));
        up[i] = weight * d * silu;
        dy[i] = weight * silu * u;
    }
}
