//! Optimizer updates.

use super::{matrix, part};
use crate::layout::Matrix;
use crate::optimizer::{AdamW, Muon};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// See [`crate::Backend::adamw`]; `factor` is that of the gradient.
pub fn adamw(
    w: &Tensor,
    moments: &[Tensor; 2],
    grads: &Tensor,
    factor: f64,
    range: &Range<usize>,
    step: &AdamW,
) -> Result<()> {
    let (c1, c2) = step.corrections();
    let (beta1, beta2) = (step.beta1, step.beta2);
    let grad = (part(grads, range)? * factor)?;
    let m = ((part(&moments[0], range)? * beta1)? + (&grad * (1.0 - beta1))?)?;
    let v = ((part(&moments[1], range)? * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
    let denominator = (((&v / c2)?.sqrt())? + step.eps)?;
    let keep = 1.0 - step.lr * step.weight_decay;
    let new = ((part(w, range)? * keep)? - ((&m * (step.lr / c1))? / denominator)?)?;
    w.slice_set(&new, 0, range.start)?;
    moments[0].slice_set(&m, 0, range.start)?;
    moments[1].slice_set(&v, 0, range.start)
}

/// See [`crate::Backend::muon`]; updates one matrix. `factor` is that of the gradient.
pub fn muon(
    w: &Tensor,
    momentum: &Tensor,
    grads: &Tensor,
    factor: f64,
    m: &Matrix,
    step: &Muon,
) -> Result<()> {
    let grad = (matrix(grads, m)? * factor)?;
    let (beta, rest) = (step.momentum, 1.0 - step.momentum);
    let velocity = ((matrix(momentum, m)? * beta)? + (&grad * rest)?)?;
    momentum.slice_set(&velocity.flatten_all()?, 0, m.range.start)?;
    let mut x = ((grad * rest)? + (velocity * beta)?)?;
    let norm = (x.sqr()?.sum_all()?.sqrt()? + f64::from(Muon::EPS))?;
    x = x.broadcast_div(&norm)?;
    let wide = m.d_out <= m.d_in;
    let [a, b, c] = Muon::COEFFICIENTS.map(f64::from);
    for _ in 0..Muon::ITERATIONS {
        let gram = if wide { x.matmul(&x.t()?)? } else { x.t()?.matmul(&x)? };
        let polynomial = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        let odd = if wide { polynomial.matmul(&x)? } else { x.matmul(&polynomial)? };
        x = ((x * a)? + odd)?;
    }
    let keep = 1.0 - step.lr * step.weight_decay;
    let new = ((matrix(w, m)? * keep)? - (x * step.rate(m))?)?;
    w.slice_set(&new.flatten_all()?, 0, m.range.start)
}
