//! Single-threaded matrix products on slices. One core, one product: lanes are what runs in parallel.
//!
//! *Invariant:* every element of a product is one chain of fused multiply-adds over the inner dimension, in order,
//! begun at zero or at what the element was. So a product has the same bits whatever the width of the vectors, the
//! sizes of caches and blocks, and the number of rows that are worked on together.

mod kernel;
mod pack;
mod simd;

pub use simd::Path;

use crate::backend::cpu::Buffer;
use kernel::Kernel;

/// Inner positions that are worked on together, so that a panel of `b` stays in the first cache.
const INNER: usize = 256;

/// Rows of `a` that are worked on together, so that they stay in the second cache while the panels pass; a multiple of
/// the rows of a tile on every path, and more than most groups of positions have.
const ROWS: usize = 546;

/// Columns of `b` from which on copying `a` side by side pays, as each element is used so often: of a transpose, whose
/// rows lie apart, and of any other.
const COPY_FROM: [usize; 2] = [96, 384];

/// Panels that are cut from rows of `b` at a time.
const CUT: usize = 8;

/// A row-major matrix inside a slice: `rows x cols`, rows `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A dense matrix that fills `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows start `stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= (rows - 1) * stride + cols);
        assert!(cols <= stride || rows <= 1, "rows of a matrix overlap");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The part of `rows x cols` that begins at a row and a column.
    fn block(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        debug_assert!(row + rows <= self.rows && col + cols <= self.cols);
        let start = row * self.row_stride + col * self.col_stride;
        Self { data: self.data.get(start..).unwrap_or_default(), rows, cols, ..self }
    }
}

/// `out = a b`, or `out += a b` where `accumulate`; `out` is row-major with rows `stride` apart.
///
/// `a`: `(m, k)`; `b`: `(k, n)`; `out`: `(m, n)`.
pub fn matmul(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    matmul_on(Path::this(), out, stride, a, b, accumulate);
}

/// [`matmul`] by the vectors of `path`, which this machine must have.
pub fn matmul_on(path: Path, out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner dimensions of a matrix product");
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride || m == 1, "rows of a product overlap");
    assert!(out.len() >= (m - 1) * stride + n);
    if k == 0 && !accumulate {
        out.chunks_mut(stride).for_each(|row| row[..n.min(stride)].fill(0.0));
        return;
    }
    let kernel = Kernel::of(path);
    let width = kernel.panel_width();
    // Panels that serve one block of rows only need not outlive it; where rows of `b` are copied, several are cut from
    // each at a time.
    let together = if b.col_stride == 1 { CUT * width } else { width };
    let columns = if m > ROWS { n } else { together.min(n) };
    let mut panels = Buffer::dirty(k.min(INNER) * columns.next_multiple_of(width));
    let copies = m > 1 && n >= COPY_FROM[usize::from(a.col_stride == 1)];
    let mut copied = Buffer::dirty(if copies { pack::room(m.min(ROWS), k.min(INNER)) } else { 0 });
    for first in (0..k).step_by(INNER) {
        let inner = INNER.min(k - first);
        let accumulate = accumulate || first > 0;
        for left in (0..n).step_by(columns) {
            let columns = columns.min(n - left);
            pack::panels(path, &mut panels, b.block(first, inner, left, columns), width);
            for top in (0..m).step_by(ROWS) {
                let mut block = a.block(top, ROWS.min(m - top), first, inner);
                if copies {
                    block = pack::copy(&mut copied, block, left == 0 || m > ROWS);
                }
                let out = &mut out[top * stride + left..];
                kernel.product(out, stride, block, &panels, columns, accumulate);
            }
        }
    }
}

/// `y = x wᵀ`: a linear layer forward. `x`: `(n, in)`; `w`: `(out, in)`; `y`: `(n, out)`.
pub fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(y, d_out, Mat::new(x, n, d_in), Mat::new(w, d_out, d_in).t(), accumulate);
}

/// `dx = dy w`: the gradient of a linear layer's input. `dy`: `(n, out)`; `dx`: `(n, in)`.
pub fn linear_input_grad(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(dx, d_in, Mat::new(dy, n, d_out), Mat::new(w, d_out, d_in), accumulate);
}

/// `dw += dyᵀ x`: the gradient of a linear layer's weight. `dw`: `(out, in)`.
pub fn linear_weight_grad(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, d_in: usize) {
    let d_out = dw.len() / d_in;
    matmul(dw, d_in, Mat::new(dy, n, d_out).t(), Mat::new(x, n, d_in), true);
}

#[cfg(test)]
mod tests;
