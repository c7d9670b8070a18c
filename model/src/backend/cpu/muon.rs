//! Muon: momentum, orthogonalized matrix by matrix.

use super::Buffer;
use super::gemm::{Mat, matmul};
use super::math;
use crate::layout::Matrix;
use crate::optimizer::Muon;
use rayon::prelude::*;

/// Updates every matrix and its momentum; gradients are multiplied by `factor`. The matrices are distributed over the threads
/// of the current rayon pool.
pub fn update(
    w: &mut [f32],
    momentum: &mut [f32],
    grads: &[f32],
    factor: f64,
    matrices: &[Matrix],
    step: &Muon,
) {
    let parts = split(w, matrices).into_par_iter().zip(split(momentum, matrices)).zip(matrices);
    parts.for_each(|((w, momentum), m)| {
        let mut update = Buffer::copy_of(&grads[m.range.clone()]);
        math::scale(&mut update, factor as f32);
        let (beta, keep) = (step.momentum as f32, (1.0 - step.lr * step.weight_decay) as f32);
        for (u, v) in update.iter_mut().zip(momentum) {
            *v = beta * *v + (1.0 - beta) * *u;
            *u = (1.0 - beta) * *u + beta * *v; // Nesterov look-ahead
        }
        orthogonalise(&mut update, m.d_out, m.d_in);
        let rate = step.rate(m) as f32;
        for (w, u) in w.iter_mut().zip(update.iter()) {
            *w = *w * keep - rate * u;
        }
    });
}

/// Splits a flat buffer into the parts of the matrices, which are in order of their ranges.
fn split<'a>(mut flat: &'a mut [f32], matrices: &[Matrix]) -> Vec<&'a mut [f32]> {
    let (mut parts, mut begin) = (vec![], 0);
    for m in matrices {
        let (part, rest) = std::mem::take(&mut flat)[m.range.start - begin..].split_at_mut(m.range.len());
        parts.push(part);
        (flat, begin) = (rest, m.range.end);
    }
    parts
}

/// Replaces `g`, `(rows, cols)`, by approximately `U Vᵀ` of its singular value decomposition: see [`Muon`].
fn orthogonalise(g: &mut [f32], rows: usize, cols: usize) {
    let norm = math::sum_of_squares(g).sqrt() as f32;
    math::scale(g, 1.0 / (norm + Muon::EPS));
    let small = rows.min(cols);
    let (mut gram, mut square) = (Buffer::dirty(small * small), Buffer::dirty(small * small));
    let mut next = Buffer::dirty(g.len());
    let [a, b, c] = Muon::COEFFICIENTS;
    for _ in 0..Muon::ITERATIONS {
        let x = Mat::new(g, rows, cols);
        // Uses the smaller of X Xᵀ and Xᵀ X.
        match rows <= cols {
            true => matmul(&mut gram, small, x, x.t(), false),
            false => matmul(&mut gram, small, x.t(), x, false),
        }
        let s = Mat::new(&gram, small, small);
        matmul(&mut square, small, s, s, false);
        for (square, gram) in square.iter_mut().zip(gram.iter()) {
            *square = b * gram + c * *square;
        }
        let polynomial = Mat::new(&square, small, small);
        match rows <= cols {
            true => matmul(&mut next, cols, polynomial, x, false),
            false => matmul(&mut next, cols, x, polynomial, false),
        }
        for (g, next) in g.iter_mut().zip(next.iter()) {
            *g = a * *g + next;
        }
    }
}
