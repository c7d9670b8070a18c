//! How weights are updated: the rules and their coefficients. The backends carry them out.

use crate::layout::Matrix;

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2): the coefficients of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f64,
}

impl AdamW {
    /// What the moments are divided by, as they start at zero.
    pub fn corrections(&self) -> (f64, f64) {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        (1.0 - self.beta1.powi(step), 1.0 - self.beta2.powi(step))
    }
}

/// Muon (Jordan et al. 2024): Nesterov momentum whose singular values are brought near one by a polynomial of odd
/// degree (Newton-Schulz). The coefficients of one update of matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the momentum.
    pub momentum: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f64,
}

impl Muon {
    /// Of `a X + b (X Xᵀ) X + c (X Xᵀ)² X`.
    pub const COEFFICIENTS: [f32; 3] = [3.4445, -4.775, 2.0315];
    /// How often the polynomial is applied.
    pub const ITERATIONS: usize = 5;
    /// Added to the norm that a matrix is divided by before.
    pub const EPS: f32 = 1e-7;

    /// The step of a matrix, whose updates then have the root mean square of AdamW's, 0.2, so that both take the same
    /// learning rate and weight decay (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
    pub fn rate(&self, m: &Matrix) -> f64 {
        self.lr * 0.2 * (m.d_out.max(m.d_in) as f64).sqrt()
    }
}
