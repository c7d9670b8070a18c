//! Rotary positions on interleaved pairs (Su et al. 2021, eq. 34; MiniMind's `apply_rotary_emb`).

use candle_core::{D, Device, Result, Tensor};
use std::ops::Range;

/// Cosines and sines of every position: `(positions, head_dim / 2)` each.
#[derive(Debug, Clone)]
pub struct Rotations {
    /// Cosines, position after position.
    pub cos: Vec<f32>,
    /// Sines, position after position.
    pub sin: Vec<f32>,
    half: usize,
}

impl Rotations {
    /// The table for positions below `positions`.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| (1.0 / theta.powf((2 * i) as f64 / head_dim as f64)) as f32).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
        let (sin, cos) = angles.map(|a| f64::from(a).sin_cos()).map(|(s, c)| (s as f32, c as f32)).unzip();
        Self { cos, sin, half }
    }

    /// Cosines and sines of one position, `(head_dim / 2,)` each.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// A range of positions as tensors `(positions, head_dim / 2)`.
    pub fn tensors(&self, positions: Range<usize>, device: &Device) -> Result<(Tensor, Tensor)> {
        let shape = (positions.len(), self.half);
        let range = positions.start * self.half..positions.end * self.half;
        let cos = Tensor::from_slice(&self.cos[range.clone()], shape, device)?;
        let sin = Tensor::from_slice(&self.sin[range], shape, device)?;
        Ok((cos, sin))
    }
}

/// The plain form. `x`: `(.., seq, head_dim)`; `cos`, `sin`: `(seq, head_dim / 2)`.
pub fn plain(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let shape = x.shape().clone();
    let half = x.dim(D::Minus1)? / 2;
    let mut pairs = shape.dims().to_vec();
    pairs.pop();
    pairs.extend([half, 2]);
    let x = x.contiguous()?.reshape(pairs)?; // (.., seq, head_dim / 2, 2)
    let even = x.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?;
    let odd = x.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?;
    let first = (even.broadcast_mul(cos)? - odd.broadcast_mul(sin)?)?;
    let second = (even.broadcast_mul(sin)? + odd.broadcast_mul(cos)?)?;
    Tensor::stack(&[first, second], D::Minus1)?.reshape(shape)
}

/// Rotates one head's vector from `x` into `y`, times `scale`.
#[inline(always)]
pub fn rotate(y: &mut [f32], x: &[f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    for (((y, x), c), s) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(cos).zip(sin) {
        y[0] = (x[0] * c - x[1] * s) * scale;
        y[1] = (x[0] * s + x[1] * c) * scale;
    }
}

/// Rotates back, times `scale`: the gradient of [`rotate`].
#[inline(always)]
pub fn rotate_back(dx: &mut [f32], dy: &[f32], (cos, sin): (&[f32], &[f32]), scale: f32) {
    for (((dx, dy), c), s) in dx.chunks_exact_mut(2).zip(dy.chunks_exact(2)).zip(cos).zip(sin) {
        dx[0] = (dy[0] * c + dy[1] * s) * scale;
        dx[1] = (dy[1] * c - dy[0] * s) * scale;
    }
}
