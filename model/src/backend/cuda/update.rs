//! From gradients to weights: clipping, AdamW, Muon, adapters.

use super::Cuda;
use super::arguments as args;
use super::driver::{Address, Dtype, Factor, Grid, Product};
use super::memory::{Floats, GradScale, Weights};
use super::queue::{self, MAX_GRID_Y, THREADS, plain, transposed};
use crate::Result;
use crate::backend::Adapter;
use crate::layout::Matrix;
use crate::optimizer::{AdamW, Clipping, Coefficients, Muon};
use std::collections::BTreeMap;
use std::mem::offset_of;
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

    /// Queues the computation of the norm and the factor, and the copy of the norm to the host.
    pub(super) fn scale_gradient(
        &self,
        grads: &Floats,
        parts: &[(Range<usize>, f64)],
        clipping: &Clipping,
    ) -> Result<GradScale> {
        let n_sums: usize = parts.iter().map(|(range, _)| parts_of(range.len())).sum();
        let sums = self.queue.room(8 * n_sums)?;
        let mut in_norm = vec![];
        let mut first = 0;
        for (range, multiplier) in parts {
            let end = first + parts_of(range.len());
            if first < end {
                let to = sums.at + 8 * first as Address;
                self.parts_of_squares(to, grads.at(range.start), range.len(), 1)?;
            }
            in_norm.push(args::NormPart { weight: multiplier.powi(2), first: first as i32, end: end as i32 });
            first = end;
        }
        let room = self.queue.room(size_of::<args::GradScale>())?;
        let parts = self.queue.upload(&in_norm)?;
        let arguments = args::ScaleGradient {
            scale: room.at,
            sums: sums.at,
            parts: parts.at,
            max_norm: clipping.max_norm,
            eps: Clipping::EPS,
            loss_scale: clipping.loss_scale,
            n_parts: in_norm.len() as i32,
            unused: 0,
        };
        self.queue.run("scale_gradient", 1, 8 * THREADS as usize / 32, &arguments)?;
        let norm = self.queue.fetch(room.at + offset_of!(args::GradScale, norm) as Address, 1)?;
        Ok(GradScale { room, norm })
    }

    /// Waits for the norm.
    pub(super) fn norm_of(&self, scale: GradScale) -> Result<f64> {
        Ok(self.queue.fetched(scale.norm)?[0])
    }

    pub(super) fn adamw_range(
        &self,
        w: &Weights,
        [m, v]: &[Floats; 2],
        grads: &Floats,
        scale: &GradScale,
        range: &Range<usize>,
        step: &AdamW,
    ) -> Result<()> {
        let Coefficients { beta1, beta2, step_size, inverse_root, eps, keep } = step.coefficients();
        let arguments = args::AdamW {
            w: w.master.at(range.start),
            working: w.working_at(range),
            m: m.at(range.start),
            v: v.at(range.start),
            grad: grads.at(range.start),
            scale: scale.room.at,
            len: range.len() as i64,
            beta1,
            beta2,
            step_size,
            inverse_root,
            eps,
            keep,
        };
        self.run("adamw", queue::blocks(range.len()), 0, &arguments)
    }

    /// Muon's update; matrices of one shape are updated together, because on small models a launch takes longer than its work.
    pub(super) fn muon_matrices(
        &self,
        w: &Weights,
        momentum: &Floats,
        grads: &Floats,
        scale: &GradScale,
        matrices: &[Matrix],
        step: &Muon,
    ) -> Result<()> {
        let mut shapes: BTreeMap<(usize, usize), Vec<&Matrix>> = BTreeMap::new();
        for matrix in matrices {
            shapes.entry((matrix.d_out, matrix.d_in)).or_default().push(matrix);
        }
        for ((d_out, d_in), alike) in shapes {
            for together in alike.chunks((MUON_NUMBERS / (d_out * d_in).max(1)).clamp(1, MAX_GRID_Y)) {
                self.muon_same_shape(w, momentum, grads, scale, together, step)?;
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
        scale: &GradScale,
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
            scale: scale.room.at,
            starts: starts.at,
            len: len as i64,
            beta: step.momentum as f32,
            unused: 0,
        };
        self.queue.run_in("muon_momentum", each(count, queue::blocks(len)), &arguments)?;
        let update = self.orthogonalise(update, matrix, count)?;
        let arguments = args::MuonStep {
            w: w.master.room.at,
            working: w.working_at(&(0..0)),
            update: update.room.at,
            scale: scale.room.at,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backend::{Backend, Cpu, Memory, Precision};

    #[test]
    fn a_gradient_is_scaled_as_on_the_processor() {
        let Some(cuda) = Cuda::for_tests(Precision::F32).unwrap() else { return };
        // Multiples of 1/8, whose squares are summed without rounding: both norms must be equal to the last bit.
        let len = 70_000;
        let some: Vec<f32> = (0..len).map(|i| (i * 7919 % 41) as f32 / 8.0 - 2.5).collect();
        let with = |x: f32| some.iter().enumerate().map(|(i, &g)| if i == 69_000 { x } else { g }).collect();
        let grads: [Vec<f32>; 6] = [
            some.clone(),
            vec![0.0; len],
            with(1e30),
            with(f32::INFINITY),
            with(f32::NEG_INFINITY),
            with(f32::NAN),
        ];
        // Parts of one block and of many, with an empty one, and more of them than one pass of the kernel adds.
        let few = vec![(0..3, 1.0), (3..3, 1.0), (3..256, 3.0), (256..len, 0.5)];
        let many = (0..len / 1000).map(|i| (1000 * i..1000 * (i + 1), f64::from(i as u32 % 3))).collect();
        let all = vec![(0..len, 1.0)];
        let is_same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        for parts in [few, many, all] {
            for grad in &grads {
                for (max_norm, loss_scale) in [(0.0, 1.0), (1.0, 1.0), (1.0, 1024.0), (1e38, 1.0)] {
                    let clipping = Clipping { max_norm, loss_scale };
                    let want = Cpu.grad_scale(&Cpu.floats(grad.clone()).unwrap(), &parts, &clipping).unwrap();
                    let scale =
                        cuda.grad_scale(&cuda.floats(grad.clone()).unwrap(), &parts, &clipping).unwrap();
                    let found = cuda.queue.download::<args::GradScale>(scale.room.at, 1).unwrap()[0];
                    let factor = want.factor.map_or(f32::NAN, |factor| factor as f32);
                    let what = format!("{clipping:?} {parts:?}: {found:?}, expected {want:?}");
                    assert!(is_same(found.factor.into(), factor.into()), "{what}");
                    assert!(is_same(cuda.grad_norm(scale).unwrap(), want.norm), "{what}");
                }
            }
        }
    }
}
