//! Update rules of the optimizers and their coefficients; the backends implement the updates.

use crate::layout::Matrix;

/// Clipping of gradients by their global norm (Pascanu et al. 2013, algorithm 1), and removal of the loss scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipping {
    /// Norm above which gradients are scaled down to it; 0 disables clipping.
    pub max_norm: f64,
    /// Loss scale, which gradients still contain.
    pub loss_scale: f64,
}

impl Clipping {
    /// Added to the norm by which [`Self::max_norm`] is divided, as by `torch.nn.utils.clip_grad_norm_`.
    pub const EPS: f64 = 1e-6;

    /// Returns the scale of a gradient from the sums of squares of its parts.
    pub fn scale(&self, squares: impl Iterator<Item = f64>) -> GradScale {
        let norm = squares.fold(0.0, |sum, squares| sum + squares).sqrt() / self.loss_scale;
        let clip = if self.max_norm > 0.0 { (self.max_norm / (norm + Self::EPS)).min(1.0) } else { 1.0 };
        GradScale { norm, factor: norm.is_finite().then_some(clip / self.loss_scale) }
    }
}

/// The global norm of a gradient, and the factor that follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradScale {
    /// Norm before clipping, without the loss scale.
    pub norm: f64,
    /// Factor of the gradient in the update; `None` if the norm is not finite: then the update changes nothing.
    pub factor: Option<f64>,
}

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
        }
    }
}

/// Coefficients of an [`AdamW`] update as backends use them: for a gradient `g`, already multiplied by [`GradScale::factor`],
/// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`, `w = keep w - step_size m / (inverse_root sqrt(v) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Coefficients {
    pub beta1: f32,
    pub beta2: f32,
    pub step_size: f32,
    pub inverse_root: f32,
    pub eps: f32,
    pub keep: f32,
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
