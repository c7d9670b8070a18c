//! Adam with decoupled weight decay in one pass over weights, moments and gradients.

use crate::optimizer::AdamW;
use multiversion::multiversion;

/// Updates weights and moments in place.
pub fn update(step: &AdamW, w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
    let (c1, c2) = step.corrections();
    let c = Coefficients {
        beta1: step.beta1 as f32,
        beta2: step.beta2 as f32,
        step_size: (step.lr / c1) as f32,
        inverse_root: (1.0 / c2).sqrt() as f32,
        eps: step.eps as f32,
        keep: (1.0 - step.lr * step.weight_decay) as f32,
        grad_scale: step.grad_scale as f32,
    };
    update_with(w, m, v, grad, c);
}

#[derive(Clone, Copy)]
struct Coefficients {
    beta1: f32,
    beta2: f32,
    step_size: f32,
    inverse_root: f32,
    eps: f32,
    keep: f32,
    grad_scale: f32,
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512bw+avx512dq+fma", "x86_64+avx2+fma"))]
fn update_with(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients) {
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(grad) {
        let g = g * c.grad_scale;
        *m = c.beta1 * *m + (1.0 - c.beta1) * g;
        *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
        *w = *w * c.keep - c.step_size * *m / (v.sqrt() * c.inverse_root + c.eps);
    }
}
