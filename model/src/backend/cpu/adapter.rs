//! Low-rank adapters (Hu et al. 2021): the merged weight, and the gradients of `A` and `B` derived from its gradient.

use super::Buffer;
use super::gemm::{Mat, matmul};
use crate::backend::Adapter;

/// Writes `base + scale B A`.
pub fn merge(w: &mut [f32], base: &[f32], adapters: &[f32], adapter: &Adapter, scale: f32) {
    let (a, b) = matrices(adapters, adapter);
    let mut product = Buffer::dirty(adapter.weight.range.len());
    matmul(&mut product, adapter.weight.d_in, b, a, false);
    let merged = w[adapter.weight.range.clone()].iter_mut().zip(&base[adapter.base.clone()]);
    for ((w, base), product) in merged.zip(product.iter()) {
        *w = base + product * scale;
    }
}

/// Writes `dA = Bᵀ (scale dW)` and `dB = (scale dW) Aᵀ`: the chain rule applied to [`merge`].
pub fn pull_back(grads: &mut [f32], dw: &[f32], adapters: &[f32], adapter: &Adapter, scale: f32) {
    let (a, b) = matrices(adapters, adapter);
    let mut scaled = Buffer::copy_of(&dw[adapter.weight.range.clone()]);
    super::math::scale(&mut scaled, scale);
    let dw = Mat::new(&scaled, adapter.weight.d_out, adapter.weight.d_in);
    matmul(&mut grads[adapter.a.range.clone()], adapter.a.d_in, b.t(), dw, false);
    matmul(&mut grads[adapter.b.range.clone()], adapter.b.d_in, dw, a.t(), false);
}

fn matrices<'a>(adapters: &'a [f32], adapter: &Adapter) -> (Mat<'a>, Mat<'a>) {
    let of = |m: &crate::layout::Matrix| Mat::new(&adapters[m.range.clone()], m.d_out, m.d_in);
    (of(&adapter.a), of(&adapter.b))
}
