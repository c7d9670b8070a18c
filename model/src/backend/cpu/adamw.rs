//! Adam with decoupled weight decay in one pass over weights, moments and gradients.

use crate::optimizer::{AdamW, Coefficients};
use multiversion::multiversion;

/// Updates weights and moments in place; gradients are multiplied by `factor`.
pub fn update(step: &AdamW, w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], factor: f64) {
    update_with(w, m, v, grad, factor as f32, step.coefficients());
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn update_with(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], factor: f32, c: Coefficients) {
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(grad) {
        let g = g * factor;
        *m = c.beta1 * *m + (1.0 - c.beta1) * g;
        *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
        *w = *w * c.keep - c.step_size * *m / (v.sqrt() * c.inverse_root + c.eps);
    }
}
