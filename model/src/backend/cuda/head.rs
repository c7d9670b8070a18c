//! The head: logits in f32, for a block of rows at a time.

use super::Cuda;
use super::arguments::CrossEntropy;
use super::driver::Dtype;
use super::memory::{Buffer, Floats, Weights};
use super::queue::{plain, transposed};
use crate::Result;
use crate::layout::Matrix;

/// Number of rows whose logits are materialized at a time.
const ROWS: usize = 4096;

/// Inputs of the gradient: the array to which that of the head is added, and the weights of the rows' losses.
pub struct GradientRequest<'a> {
    pub grads: &'a Floats,
    pub weights: &'a [f32],
}

impl Cuda {
    /// Returns `-log softmax(x headᵀ)[target]` of each row, and if `wanted` the gradient of their weighted sum with respect to `x`.
    pub(super) fn losses(
        &self,
        x: &Buffer,
        w: &Weights,
        head: &Matrix,
        targets: &[u32],
        wanted: Option<GradientRequest<'_>>,
    ) -> Result<(Floats, Buffer)> {
        let (n, vocab, d, dtype) = (targets.len(), head.d_out, head.d_in, self.dtype());
        let losses = self.dirty_floats(n)?;
        let dx = self.dirty(if wanted.is_some() { x.len } else { 0 })?;
        let targets = self.queue.upload(targets)?;
        let weights = wanted.as_ref().map(|wanted| self.queue.upload(wanted.weights)).transpose()?;
        let rows = ROWS.min(n);
        let logits = self.dirty_floats(rows * vocab)?;
        let dlogits = self.dirty(if wanted.is_some() { rows * vocab } else { 0 })?;
        let of_head = w.at(&head.range);
        for first in (0..n).step_by(ROWS) {
            let rows = ROWS.min(n - first);
            let row = |buffer: &Buffer| buffer.room.at + (first * d * dtype.size()) as u64;
            let result = (logits.room.at, Dtype::F32);
            self.product(result, plain(row(x)), transposed(of_head), [rows, vocab, d], 0.0)?;
            let arguments = CrossEntropy {
                nll: losses.at(first),
                dlogits: if wanted.is_some() { dlogits.room.at } else { 0 },
                logits: logits.room.at,
                targets: targets.at + 4 * first as u64,
                weights: weights.as_ref().map_or(0, |weights| weights.at + 4 * first as u64),
                vocab: vocab as i32,
            };
            self.run("cross_entropy", rows, 4 * 32, &arguments)?;
            if let Some(wanted) = &wanted {
                self.weight_grad(wanted.grads, dlogits.room.at, row(x), head, rows)?;
                self.backward_product(row(&dx), dlogits.room.at, w, head, rows, 0.0)?;
            }
        }
        Ok((losses, dx))
    }
}
