//! Update rules of the optimizers and their coefficients; the backends implement the updates.

use crate::layout::Matrix;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2): the coefficients of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, counted from 1.
    pub step: u64,
    /// Factor applied to gradients before the update (clipping, inverse loss scale).
    pub grad_scale: f64,
}

impl AdamW {
    /// Returns the divisors that correct the bias of both moments, which start at zero.
    pub fn corrections(&self) -> (f64, f64) {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        (1.0 - self.beta1.powi(step), 1.0 - self.beta2.powi(step))
    }

    /// Returns the coefficients in the form that backends use.
    pub(crate) fn coefficients(&self) -> Coefficients {
        let (c1, c2) = self.corrections();
        Coefficients {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            step_size: (self.lr / c1) as f32,
            inverse_root: (1.0 / c2).sqrt() as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            grad_scale: self.grad_scale as f32,
        }
    }
}

/// Coefficients of an [`AdamW`] update as backends use them: for a gradient `g`, which already includes `grad_scale`,
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, `w = keep w - step_size m / (inverse_root sqrt(v) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coefficients {
    pub beta1: f32,
    pub beta2: f32,
    pub step_size: f32,
    pub inverse_root: f32,
    pub eps: f32,
    pub keep: f32,
    pub grad_scale: f32,
}

/// Muon (Jordan et al. 2024): Nesterov momentum whose singular values an odd polynomial (Newton-Schulz) moves close to
/// one. The coefficients of one update of matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Learning rate.
    pub lr: f64,
    /// Decay rate of the momentum.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor applied to gradients before the update (clipping, inverse loss scale).
    pub grad_scale: f64,
}

impl Muon {
    /// Coefficients `[a, b, c]` of the polynomial `a X + b (X Xᵀ) X + c (X Xᵀ)² X`.
    pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
    /// Number of times that the polynomial is applied.
    pub const ITERATIONS: usize = 5;
    /// Added to the norm by which a matrix is divided before the first iteration.
    pub const EPS: f32 = 1e-7;

    /// Returns the step size of a matrix. It gives updates the root mean square of AdamW's, 0.2, so that both rules use the
    /// same learning rate and weight decay (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
    pub fn rate(&self, m: &Matrix) -> f64 {
        self.lr * 0.2 * (m.d_out.max(m.d_in) as f64).sqrt()
    }
}
