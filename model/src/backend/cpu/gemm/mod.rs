//! Matrix products on slices. One core, one product, as lanes are what runs in parallel; but for those of a single row,
//! as a text that is written alone has them, which wait for memory.
//!
//! *Invariant:* every element of a product is one chain of fused multiply-adds over the inner dimension, in order,
//! begun at zero or at what the element was. So a product has the same bits whatever the width of the vectors, the
//! sizes of caches and blocks, and the number of rows that are worked on together.

mod kernel;
mod pack;
mod simd;

pub use simd::Path;

use kernel::{Kernel, Left, Place};
use rayon::prelude::*;
use std::cell::RefCell;

/// Inner positions that are worked on together, so that a panel of `b` stays in the first cache.
const INNER: usize = 256;

/// Rows of `a` that are worked on together, so that they stay in the second cache while the panels pass; a multiple of
/// the rows of a tile on every path, and more than most groups of positions have.
const ROWS: usize = 546;

/// Columns of `b` from which on laying out `a` anew pays, as each element is used so often: of a transpose, whose columns
/// lie side by side, of one whose columns lie far apart, and of any other.
const PACK_FROM: [usize; 3] = [200, 96, 384];

/// From here on columns lie far apart: a tile would touch too many pages.
const FAR: usize = 1024;

/// Panels that are cut from rows of `b` at a time.
const CUT: usize = 8;

/// Panels that are kept while several blocks of rows pass.
const KEPT: usize = 32;

/// Numbers of `b` that are worth a core of their own where `a` is one row: what takes longer to fetch than a thread to wake.
const ALONE: usize = 1 << 17;

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

/// Which keys are visible: to row `i` of the queries the first `lead + i / repeats + 1`.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Keys before the first query's own.
    pub lead: usize,
    /// Queries of a position.
    pub repeats: usize,
}

impl Sight {
    /// Keys that a query and those before it see.
    fn keys(self, query: usize) -> usize {
        self.lead + query / self.repeats + 1
    }

    /// The first query that sees a key.
    fn first_query(self, key: usize) -> usize {
        key.saturating_sub(self.lead) * self.repeats
    }
}

/// What of a product is computed, where one of its matrices is `(queries, keys)`.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Everything.
    Whole,
    /// The result is `(queries, keys)`: tiles of which nothing is visible are left as they were.
    Visible(Sight),
    /// `a` is `(queries, keys)`, zero where a key is not visible: those zeros are passed over.
    OfVisible(Sight),
    /// `a` is the transpose of such a matrix. Only with `accumulate`.
    OfVisibleTransposed(Sight),
}

/// `out = a b`, or `out += a b` where `accumulate`; `out` is row-major with rows `stride` apart.
///
/// `a`: `(m, k)`; `b`: `(k, n)`; `out`: `(m, n)`.
pub fn matmul(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    matmul_part(out, stride, a, b, accumulate, Part::Whole);
}

/// What [`matmul`] has to compute of a product.
pub fn matmul_part(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, part: Part) {
    matmul_on(Path::this(), out, stride, a, b, accumulate, part);
}

/// [`matmul_part`] by the vectors of `path`, which this machine must have.
pub fn matmul_on(path: Path, out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, part: Part) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(b.rows, k, "inner dimensions of a matrix product");
    assert!(accumulate || !matches!(part, Part::OfVisibleTransposed(_)));
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
    let cores = if m == 1 && matches!(part, Part::Whole) { n * k / ALONE } else { 1 };
    let cores = cores.min(rayon::current_num_threads());
    if cores < 2 {
        return on_one_core(kernel, out, stride, a, b, accumulate, part);
    }
    let columns = n.div_ceil(cores).next_multiple_of(kernel.width());
    out[..n].par_chunks_mut(columns).enumerate().for_each(|(i, out)| {
        let b = b.block(0, k, i * columns, out.len());
        on_one_core(kernel, out, stride, a, b, accumulate, part);
    });
}

/// [`matmul_on`], where there is something to compute.
fn on_one_core(kernel: Kernel, out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, part: Part) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    // Panels that serve one block of rows only are used at once; where rows of `b` are cut, several at a time.
    let together = kernel.width()
        * match b.col_stride {
            _ if m > ROWS => KEPT,
            1 => CUT,
            _ => 1,
        };
    let pack = n >= PACK_FROM[if a.col_stride == 1 { 2 } else { usize::from(a.col_stride > FAR) }];
    WORKPLACE.with_borrow_mut(|Workplace { rows, panels }| {
        for first in (0..k).step_by(INNER) {
            let inner = INNER.min(k - first);
            let accumulate = accumulate || first > 0;
            let mut left = 0;
            while left < n {
                let columns = if n - left > together + kernel.width() / 2 { together } else { n - left };
                let panels = at_least(panels, kernel.room(columns) * inner);
                kernel.pack_panels(panels, b.block(first, inner, left, columns));
                for top in (0..m).step_by(ROWS) {
                    let block = a.block(top, ROWS.min(m - top), first, inner);
                    let height = kernel.height(block.rows);
                    let block = if pack {
                        let rows = at_least(rows, pack::room(block.rows, height));
                        if left == 0 || m > ROWS {
                            kernel.pack_rows(rows, block, height);
                        }
                        Left::packed(rows, block, height)
                    } else {
                        Left::of(block, height)
                    };
                    let out = &mut out[top * stride + left..];
                    let place = Place { part, row: top, inner: first, column: left };
                    kernel.product(out, stride, block, panels, columns, accumulate, place);
                }
                left += columns;
            }
        }
    });
}

/// Where the operands of a thread's products are laid out.
struct Workplace {
    rows: Vec<f32>,
    panels: Vec<f32>,
}

thread_local! {
    static WORKPLACE: RefCell<Workplace> = const { RefCell::new(Workplace { rows: vec![], panels: vec![] }) };
}

/// The first `len` numbers of a buffer that grows where it has to.
fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
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
