//! The gated activation of the feed-forward layer: `silu(gate) up` (Shazeer 2020, eq. 6).

use super::math::{LANES, sigmoid};
use multiversion::multiversion;

/// `x`: `(n, 2 hidden)`, the gate first; `y`: `(n, hidden)`.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
pub fn forward(y: &mut [f32], x: &[f32], hidden: usize) {
    for (y, x) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(2 * hidden)) {
        let (gate, up) = x.split_at(hidden);
        let (whole, rest) = y.as_chunks_mut::<LANES>();
        let (gates, gate_rest) = gate.as_chunks::<LANES>();
        let (ups, up_rest) = up.as_chunks::<LANES>();
        for ((y, gate), up) in whole.iter_mut().zip(gates).zip(ups) {
            forward_chunk(y, gate, up);
        }
        // The partial vector at the end of a row is padded with zeros: one more vector costs less than a scalar loop.
        if !rest.is_empty() {
            let mut last = [0.0; LANES];
            forward_chunk(&mut last, &padded(gate_rest), &padded(up_rest));
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }
}

#[inline(always)]
fn forward_chunk(y: &mut [f32; LANES], gate: &[f32; LANES], up: &[f32; LANES]) {
    for i in 0..LANES {
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
    }
}

/// Pads at most `LANES` elements with zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; LANES] {
    let mut chunk = [0.0; LANES];
    chunk[..x.len()].copy_from_slice(x);
    chunk
}

/// The backward pass of `weight * swiglu(x)` row by row, in place.
///
/// On entry `y_grad`, `(n, hidden)`, is the gradient of the weighted result. On return it holds the weighted result
/// itself, which the next weight gradient needs, `x`, `(n, 2 hidden)`, holds its own gradient, and `dweights`, `(n,)`,
/// the gradient of the row weights.
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
        let (whole, rest) = dy.as_chunks_mut::<LANES>();
        let (gates, gate_rest) = gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = up.as_chunks_mut::<LANES>();
        for ((dy, gate), up) in whole.iter_mut().zip(gates).zip(ups) {
            backward_chunk(dy, gate, up, weight, &mut lanes);
        }
        if !rest.is_empty() {
            let (mut d, mut g, mut u) = (padded(rest), padded(gate_rest), padded(up_rest));
            backward_chunk(&mut d, &mut g, &mut u, weight, &mut lanes);
            rest.copy_from_slice(&d[..rest.len()]);
            gate_rest.copy_from_slice(&g[..gate_rest.len()]);
            up_rest.copy_from_slice(&u[..up_rest.len()]);
        }
        *dweight = lanes.iter().sum();
    }
}

/// [`backward_in_place`] for one vector of elements; `sums` accumulates the gradient of the row weight.
#[inline(always)]
fn backward_chunk(
    dy: &mut [f32; LANES],
    gate: &mut [f32; LANES],
    up: &mut [f32; LANES],
    weight: f32,
    sums: &mut [f32; LANES],
) {
    for i in 0..LANES {
        let (g, u, d) = (gate[i], up[i], dy[i]);
        let s = sigmoid(g);
        let silu = g * s;
        sums[i] += d * silu * u;
        gate[i] = weight * d * u * (s + silu * (1.0 - s));
        up[i] = weight * d * silu;
        dy[i] = weight * silu * u;
    }
}
