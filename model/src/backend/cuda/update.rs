//! From gradients to weights: norms, AdamW, Muon, adapters.

use super::Cuda;
use super::arguments as args;
use super::driver::{Address, Dtype, Factor, Grid, Product};
use super::memory::{Floats, Weights};
use super::queue::{self, MAX_GRID_Y, THREADS, plain, transposed};
use crate::Result;
use crate::backend::Adapter;
use crate::layout::Matrix;
use crate::optimizer::{AdamW, Coefficients, Muon};
use std::collections::BTreeMap;
use std::ops::Range;

/// Maximum number of blocks for a sum of squares; independent of the GPU, so that the bits of the sum are too.
const PARTS: usize = 512;
/// Maximum number of elements of the matrices that Muon updates together, so that its memory does not grow with the model.
const MUON_NUMBERS: usize = 16 << 20;

/// A grid with `blocks` blocks for each of `count` arrays, indexed by `blockIdx.y`.
fn each(count: usize, blocks: usize) -> Grid {
    Grid { blocks: [blocks as u32, count as u32, 1], threads: THREADS, shared: 0 }
}

/// The number of partial sums of squares of an array.
fn parts_of(len: usize) -> usize {
    len.div_ceil(THREADS as usize).min(PARTS)
}

impl Cuda {
    /// Computes partial sums of squares of each of `arrays` consecutive arrays that are not empty: `(arrays, parts_of(len))`
    /// in f64, written to `parts`.
    fn parts_of_squares(&self, parts: Address, x: Address, len: usize, arrays: usize) -> Result<()> {
        let arguments = args::SumOfSquares { parts, x, len: len as i64 };
        let grid = Grid { shared: 8 * THREADS as usize, ..each(arrays, parts_of(len)) };
        self.queue.run_in("sum_of_squares", grid, &arguments)
    }

    pub(super) fn squares(&self, floats: &Floats, ranges: &[Range<usize>]) -> Result<Vec<f64>> {
        let counts: Vec<usize> = ranges.iter().map(|range| parts_of(range.len())).collect();
        let all = counts.iter().sum();
        let room = self.queue.room(8 * all)?;
        let mut next = room.at;
        for (range, count) in ranges.iter().zip(&counts).filter(|(range, _)| !range.is_empty()) {
            self.parts_of_squares(next, floats.at(range.start), range.len(), 1)?;
            next += 8 * *count as Address;
        }
        let mut parts = self.queue.download::<f64>(room.at, all)?.into_iter();
        Ok(counts.into_iter().map(|count| parts.by_ref().take(count).sum()).collect())
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

    /// Muon's update; matrices of one shape are updated together, because on small models a launch takes longer than its work.
    pub(super) fn muon_matrices(
        &self,
        w: &Weights,
        momentum: &Floats,
        grads: &Floats,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        let mut shapes: BTreeMap<(usize, usize), Vec<&Matrix>> = BTreeMap::new();
        for matrix in matrices {
            shapes.entry((matrix.d_out, matrix.d_in)).or_default().push(matrix);
        }
        for ((d_out, d_in), alike) in shapes {
            for together in alike.chunks((MUON_NUMBERS / (d_out * d_in).max(1)).clamp(1, MAX_GRID_Y)) {
                self.muon_same_shape(w, momentum, grads, together, step)?;
            }
        }
        Ok(())
    }

    /// Updates matrices of one shape, of which there is at least one.
    fn muon_same_shape(
        &self,
        w: &Weights,
        momentum: &Floats,
        grads: &Floats,
        matrices: &[&Matrix],
        step: &Muon,
    ) -> Result<()> {
        let (matrix, count) = (matrices[0], matrices.len());
        let len = matrix.range.len();
        let starts: Vec<i64> = matrices.iter().map(|matrix| matrix.range.start as i64).collect();
        let starts = self.queue.upload(&starts)?;
        let update = self.dirty_floats(count * len)?;
        let arguments = args::MuonMomentum {
            update: update.room.at,
            momentum: momentum.room.at,
            grad: grads.room.at,
            starts: starts.at,
            len: len as i64,
            beta: step.momentum as f32,
            grad_scale: step.grad_scale as f32,
        };
        self.queue.run_in("muon_momentum", each(count, queue::blocks(len)), &arguments)?;
        let update = self.orthogonalise(update, matrix, count)?;
        let arguments = args::MuonStep {
            w: w.master.room.at,
            working: w.working_at(&(0..0)),
            update: update.room.at,
            starts: starts.at,
            len: len as i64,
            keep: (1.0 - step.lr * step.weight_decay) as f32,
            rate: step.rate(matrix) as f32,
        };
        self.queue.run_in(
            &queue::kernel_name("muon_step", self.dtype()),
            each(count, queue::blocks(len)),
            &arguments,
        )
    }

    /// Computes approximately `U Vᵀ` of the singular value decomposition of each of `count` matrices `x`,
    /// `(count, d_out, d_in)`: see [`Muon`].
    fn orthogonalise(&self, mut x: Floats, matrix: &Matrix, count: usize) -> Result<Floats> {
        let (rows, columns, len) = (matrix.d_out, matrix.d_in, matrix.range.len());
        let n_parts = parts_of(len);
        let parts = self.queue.room(8 * n_parts * count)?;
        self.parts_of_squares(parts.at, x.room.at, len, count)?;
        let normalise = args::Normalise {
            x: x.room.at,
            parts: parts.at,
            len: len as i64,
            n_parts: n_parts as i32,
            eps: Muon::EPS,
        };
        self.queue.run_in("normalise", each(count, queue::blocks(len)), &normalise)?;
        let small = rows.min(columns);
        let (gram, polynomial) =
            (self.dirty_floats(count * small * small)?, self.dirty_floats(count * small * small)?);
        let mut next = self.dirty_floats(count * len)?;
        let [a, b, c] = Muon::COEFFICIENTS;
        let product =
            |to: &Floats, a, b, sizes, factors| self.product_f32(to.room.at, a, b, sizes, count, factors);
        for _ in 0..Muon::ITERATIONS {
            let (of_x, turned, of_gram) = (plain(x.room.at), transposed(x.room.at), plain(gram.room.at));
            // Uses the smaller of X Xᵀ and Xᵀ X.
            let (left, right, large) =
                if rows <= columns { (of_x, turned, columns) } else { (turned, of_x, rows) };
            product(&gram, left, right, [small, small, large], [1.0, 0.0])?;
            self.queue.copy(polynomial.room.at, gram.room.at, 4 * gram.len)?;
            product(&polynomial, of_gram, of_gram, [small; 3], [c, b])?;
            self.queue.copy(next.room.at, x.room.at, 4 * x.len)?;
            let of_polynomial = plain(polynomial.room.at);
            let (left, right) = if rows <= columns { (of_polynomial, of_x) } else { (of_x, of_polynomial) };
            product(&next, left, right, [rows, columns, small], [1.0, a])?;
            std::mem::swap(&mut x, &mut next);
        }
        Ok(x)
    }

    /// `batch` products `c = alpha a b + beta c` in f32; `[m, n, k]` is the shape of each.
    fn product_f32(
        &self,
        c: Address,
        a: Factor,
        b: Factor,
        [m, n, k]: [usize; 3],
        batch: usize,
        [alpha, beta]: [f32; 2],
    ) -> Result<()> {
        let (factors, result) = (Dtype::F32, Dtype::F32);
        self.queue.product(&Product { a, b, c, m, n, k, batch, factors, result, tf32: false, alpha, beta })
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
        self.queue.copy(to, base.at(from.start), 4 * from.len())?;
        let (of_a, of_b) = (adapters.master.at(a.range.start), adapters.master.at(b.range.start));
        let sizes = [weight.d_out, weight.d_in, a.d_out];
        self.product_f32(to, plain(of_b), plain(of_a), sizes, 1, [scale as f32, 1.0])?;
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
        self.product_f32(grads.at(a.range.start), transposed(of_b), dw, [rank, d_in, d_out], 1, scale)?;
        self.product_f32(grads.at(b.range.start), dw, transposed(of_a), [d_out, rank, d_in], 1, scale)
    }
}
