//! Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2), in one pass over all parameters.

use candle_core::{Result, Tensor};
use multiversion::multiversion;

/// The coefficients of one update.
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
    fn corrections(&self) -> (f64, f64) {
        let step = i32::try_from(self.step).unwrap_or(i32::MAX);
        (1.0 - self.beta1.powi(step), 1.0 - self.beta2.powi(step))
    }

    /// The plain form: the new weights and moments, all of the shape of `w`.
    pub fn plain(
        &self,
        w: &Tensor,
        m: &Tensor,
        v: &Tensor,
        grad: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (c1, c2) = self.corrections();
        let grad = (grad * self.grad_scale)?;
        let m = ((m * self.beta1)? + (&grad * (1.0 - self.beta1))?)?;
        let v = ((v * self.beta2)? + (grad.sqr()? * (1.0 - self.beta2))?)?;
        let denominator = (((&v / c2)?.sqrt())? + self.eps)?;
        let w = ((w * (1.0 - self.lr * self.weight_decay))? - ((&m * (self.lr / c1))? / denominator)?)?;
        Ok((w, m, v))
    }

    /// Updates weights and moments in place.
    pub fn update(&self, w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32]) {
        let (c1, c2) = self.corrections();
        let c = Coefficients {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            step_size: (self.lr / c1) as f32,
            inverse_root: (1.0 / c2).sqrt() as f32,
            eps: self.eps as f32,
            keep: (1.0 - self.lr * self.weight_decay) as f32,
            grad_scale: self.grad_scale as f32,
        };
        update(w, m, v, grad, c);
    }
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
fn update(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], c: Coefficients) {
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(grad) {
        let g = g * c.grad_scale;
        *m = c.beta1 * *m + (1.0 - c.beta1) * g;
        *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
        *w = *w * c.keep - c.step_size * *m / (v.sqrt() * c.inverse_root + c.eps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_pass_equals_the_plain_form_over_several_steps() -> Result<()> {
        let device = Device::Cpu;
        let n = 1000;
        let start: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let (mut w, mut m, mut v) = (start.clone(), vec![0.0; n], vec![0.0; n]);
        let mut tensors = (
            Tensor::new(start, &device)?,
            Tensor::new(vec![0f32; n], &device)?,
            Tensor::new(vec![0f32; n], &device)?,
        );
        for step in 1..=5 {
            let grad: Vec<f32> = (0..n).map(|i| ((i as f32 + step as f32) * 0.11).cos()).collect();
            let adam = AdamW {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                step,
                grad_scale: 0.5,
            };
            adam.update(&mut w, &mut m, &mut v, &grad);
            tensors = adam.plain(&tensors.0, &tensors.1, &tensors.2, &Tensor::new(grad, &device)?)?;
        }
        for (fused, plain) in [(w, tensors.0), (m, tensors.1), (v, tensors.2)] {
            for (a, b) in fused.iter().zip(plain.to_vec1::<f32>()?) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
        Ok(())
    }
}
