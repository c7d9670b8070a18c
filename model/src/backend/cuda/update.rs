//! Between gradients and weights: norms, AdamW, Muon, adapters.

use super::Cuda;
use super::arguments as args;
use super::driver::{Address, Dtype, Factor, Product};
use super::memory::{Floats, Weights};
use super::queue::{self, Room, THREADS, plain, transposed};
use crate::Result;
use crate::backend::Adapter;
use crate::layout::Matrix;
use crate::optimizer::{AdamW, Coefficients, Muon};
use std::ops::Range;

/// Blocks that a sum of squares is shared out over; always the same, so that its bits are.
const PARTS: usize = 512;

impl Cuda {
    /// The parts of a sum of squares, in f64.
    fn parts_of_squares(&self, x: Address, len: usize) -> Result<(Room, usize)> {
        let parts = len.div_ceil(THREADS as usize).clamp(1, PARTS);
        let room = self.queue.room(8 * parts)?;
        let arguments = args::SumOfSquares { parts: room.at, x, len: len as i64 };
        self.queue.run("sum_of_squares", parts, 8 * THREADS as usize, &arguments)?;
        Ok((room, parts))
    }

    pub(super) fn squares(&self, floats: &Floats, range: &Range<usize>) -> Result<f64> {
        if range.is_empty() {
            return Ok(0.0);
        }
        let (room, parts) = self.parts_of_squares(floats.at(range.start), range.len())?;
        Ok(self.queue.download::<f64>(room.at, parts)?.iter().sum())
    }

    pub(super) fn adamw_range(
        &self,
        w: &Weights,
        [m, v]: &[Floats; 2],
        grads: &Floats,
        range: &Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        let Coefficients { beta1, beta2, step_size, inverse_root, eps, keep, grad_scale } =
            step.coefficients();
        let arguments = args::AdamW {
            w: w.master.at(range.start),
            working: w.working_at(range),
            m: m.at(range.start),
            v: v.at(range.start),
            grad: grads.at(range.start),
            len: range.len() as i64,
            beta1,
            beta2,
            step_size,
            inverse_root,
            eps,
            keep,
            grad_scale,
            unused: 0,
        };
        self.run("adamw", queue::blocks(range.len()), 0, &arguments)
    }

    pub(super) fn muon_matrix(
        &self,
        w: &Weights,
        momentum: &Floats,
        grads: &Floats,
        matrix: &Matrix,
        step: &Muon,
    ) -> Result<()> {
        let (len, start) = (matrix.range.len(), matrix.range.start);
        let blocks = queue::blocks(len);
        let update = self.dirty_floats(len)?;
        let arguments = args::MuonMomentum {
            update: update.room.at,
            momentum: momentum.at(start),
            grad: grads.at(start),
            len: len as i64,
            beta: step.momentum as f32,
            grad_scale: step.grad_scale as f32,
        };
        self.queue.run("muon_momentum", blocks, 0, &arguments)?;
        let update = self.orthogonalise(update, matrix)?;
        let arguments = args::MuonStep {
            w: w.master.at(start),
            working: w.working_at(&matrix.range),
            update: update.room.at,
            len: len as i64,
            keep: (1.0 - step.lr * step.weight_decay) as f32,
            rate: step.rate(matrix) as f32,
        };
        self.run("muon_step", blocks, 0, &arguments)
    }

    /// Nearly `U Vᵀ` of the singular value decomposition of `x`, `(d_out, d_in)`: see [`Muon`].
    fn orthogonalise(&self, mut x: Floats, matrix: &Matrix) -> Result<Floats> {
        let (rows, columns, len) = (matrix.d_out, matrix.d_in, x.len);
        let (parts, n_parts) = self.parts_of_squares(x.room.at, len)?;
        let normalise = args::Normalise {
            x: x.room.at,
            parts: parts.at,
            len: len as i64,
            n_parts: n_parts as i32,
            eps: Muon::EPS,
        };
        self.queue.run("normalise", queue::blocks(len), 0, &normalise)?;
        let small = rows.min(columns);
        let (gram, polynomial) = (self.dirty_floats(small * small)?, self.dirty_floats(small * small)?);
        let mut next = self.dirty_floats(len)?;
        let [a, b, c] = Muon::COEFFICIENTS;
        let driver = self.queue.driver();
        for _ in 0..Muon::ITERATIONS {
            let (at, of_gram) = (x.room.at, plain(gram.room.at));
            // The smaller of X Xᵀ and Xᵀ X.
            match rows <= columns {
                true => {
                    self.exact(gram.room.at, plain(at), transposed(at), [small, small, columns], [1.0, 0.0])?
                }
                false => {
                    self.exact(gram.room.at, transposed(at), plain(at), [small, small, rows], [1.0, 0.0])?
                }
            }
            driver.copy(polynomial.room.at, gram.room.at, 4 * small * small)?;
            self.exact(polynomial.room.at, of_gram, of_gram, [small; 3], [c, b])?;
            driver.copy(next.room.at, at, 4 * len)?;
            let (of_polynomial, sizes) = (plain(polynomial.room.at), [rows, columns, small]);
            match rows <= columns {
                true => self.exact(next.room.at, of_polynomial, plain(at), sizes, [1.0, a])?,
                false => self.exact(next.room.at, plain(at), of_polynomial, sizes, [1.0, a])?,
            }
            std::mem::swap(&mut x, &mut next);
        }
        Ok(x)
    }

    /// `c = alpha a b + beta c` of f32, `[m, n, k]`, `[alpha, beta]`.
    fn exact(
        &self,
        c: Address,
        a: Factor,
        b: Factor,
        [m, n, k]: [usize; 3],
        [alpha, beta]: [f32; 2],
    ) -> Result<()> {
        let (factors, result) = (Dtype::F32, Dtype::F32);
        self.queue.product(&Product { a, b, c, m, n, k, factors, result, tf32: false, alpha, beta })
    }

    pub(super) fn merge_adapter(
        &self,
        w: &Weights,
        base: &Floats,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        let Adapter { weight, base: from, a, b } = adapter;
        let to = w.master.at(weight.range.start);
        self.queue.driver().copy(to, base.at(from.start), 4 * from.len())?;
        let (of_a, of_b) = (adapters.master.at(a.range.start), adapters.master.at(b.range.start));
        let sizes = [weight.d_out, weight.d_in, a.d_out];
        self.exact(to, plain(of_b), plain(of_a), sizes, [scale as f32, 1.0])?;
        self.refresh(w, &weight.range)
    }

    pub(super) fn pull_back_adapter(
        &self,
        grads: &Floats,
        dw: &Floats,
        adapters: &Weights,
        adapter: &Adapter,
        scale: f64,
    ) -> Result<()> {
        let Adapter { weight, a, b, .. } = adapter;
        let (d_out, d_in, rank, scale) = (weight.d_out, weight.d_in, a.d_out, [scale as f32, 0.0]);
        let dw = plain(dw.at(weight.range.start));
        let (of_a, of_b) = (adapters.master.at(a.range.start), adapters.master.at(b.range.start));
        self.exact(grads.at(a.range.start), transposed(of_b), dw, [rank, d_in, d_out], scale)?;
        self.exact(grads.at(b.range.start), dw, transposed(of_a), [d_out, rank, d_in], scale)
    }
}
