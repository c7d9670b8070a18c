//! Matrix products on slices. Each product runs on one core, because parallelism is across lanes; the exceptions are
//! products with a single row of `a`, as in generating a single text, which are bound by memory bandwidth.
//!
//! *Invariant:* every element of a product is one chain of fused multiply-adds over the inner dimension, in order, that
//! starts at zero or at the element's previous value. So a product has the same bits for any vector width, for any
//! cache and block sizes, and for any number of rows that are computed together.

mod kernel;
mod pack;
mod simd;

pub use simd::Path;

use kernel::{Kernel, LhsBlock, Place, RhsBlock};
use rayon::prelude::*;
use std::cell::RefCell;

/// Inner positions per block, so that a panel of `b` stays in the L1 cache.
const INNER: usize = 256;

/// Rows of `a` per block, so that they stay in the L2 cache while the panels are processed; a multiple of the rows of a
/// tile with AVX-512 (14) and AVX2 (6), and more than most groups of positions have.
const ROWS: usize = 546;

/// Number of columns of `b` from which packing `a` pays off, because each packed element is used that often: for a
/// transpose with column stride up to [`FAR_STRIDE`], for one with a larger column stride, and for an untransposed `a`.
const PACK_FROM: [usize; 3] = [200, 96, 384];

/// Column stride above which columns count as far apart: a tile would touch too many memory pages.
const FAR_STRIDE: usize = 1024;

/// Panels packed at a time if they are cut from rows of `b`.
const PANELS_CUT: usize = 8;

/// Panels packed at a time if they are reused by several blocks of rows.
const PANELS_KEPT: usize = 32;

/// Elements of `b` per additional core if `a` is a single row: fetching fewer is faster than waking up a thread.
const ELEMENTS_PER_CORE: usize = 1 << 17;

/// A matrix view of a slice: `rows x cols`, with element strides.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Returns a dense row-major matrix that fills `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Returns a row-major matrix whose rows start `stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(rows == 0 || cols == 0 || data.len() >= (rows - 1) * stride + cols);
        assert!(cols <= stride || rows <= 1, "rows of a matrix overlap");
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Returns the transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// Returns the submatrix `rows x cols` that starts at the given row and column.
    fn block(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        debug_assert!(row + rows <= self.rows && col + cols <= self.cols);
        let start = row * self.row_stride + col * self.col_stride;
        Self { data: self.data.get(start..).unwrap_or_default(), rows, cols, ..self }
    }
}

/// Causal visibility: query row `i` sees the first `prefix_keys + i / repeats + 1` keys.
#[derive(Debug, Clone, Copy)]
pub struct CausalMask {
    /// Number of keys before the first query's own.
    pub prefix_keys: usize,
    /// Query rows per position.
    pub repeats: usize,
}

impl CausalMask {
    /// Number of keys visible to a query row; earlier rows see no more.
    fn keys(self, query: usize) -> usize {
        self.prefix_keys + query / self.repeats + 1
    }

    /// The first query row that sees a key.
    fn first_query(self, key: usize) -> usize {
        key.saturating_sub(self.prefix_keys) * self.repeats
    }
}

/// The part of a product that is computed if one of its matrices is `(queries, keys)`.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Everything.
    Whole,
    /// The result is `(queries, keys)`: tiles without a visible element are left unchanged.
    Visible(CausalMask),
    /// `a` is `(queries, keys)` and zero where a key is not visible: those zeros are skipped.
    OfVisible(CausalMask),
    /// `a` is the transpose of such a matrix. Requires `accumulate`.
    OfVisibleTransposed(CausalMask),
}

/// Computes `out = a b`, or `out += a b` if `accumulate`; `out` is row-major with rows `stride` elements apart.
///
/// `a`: `(m, k)`; `b`: `(k, n)`; `out`: `(m, n)`.
pub fn matmul(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool) {
    matmul_part(out, stride, a, b, accumulate, Part::Whole);
}

/// Like [`matmul`], but computes only a part of the product.
pub fn matmul_part(out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, part: Part) {
    matmul_on(Path::current(), out, stride, a, b, accumulate, part);
}

/// [`matmul_part`] on a given path, which this machine must support.
pub fn matmul_on(path: Path, out: &mut [f32], stride: usize, a: Mat, b: Mat, accumulate: bool, part: Part) {
    multiply(path, out, stride, a, Right::Plain(b), accumulate, part);
}

/// [`matmul`] with a matrix that was packed before.
pub fn matmul_packed(out: &mut [f32], stride: usize, a: Mat, b: &Packed, accumulate: bool) {
    let all = Right::Packed { of: b, first: 0, cols: b.cols };
    multiply(b.path, out, stride, a, all, accumulate, Part::Whole);
}

fn multiply(path: Path, out: &mut [f32], stride: usize, a: Mat, b: Right, accumulate: bool, part: Part) {
    let (m, k, [rows, n]) = (a.rows, a.cols, b.shape());
    assert_eq!(rows, k, "inner dimensions of a matrix product");
    assert!(accumulate || !matches!(part, Part::OfVisibleTransposed(_)));
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride || m == 1, "rows of a product overlap");
    assert!(out.len() >= (m - 1) * stride + n);
    if k == 0 && !accumulate {
        (0..m).for_each(|row| out[row * stride..][..n].fill(0.0));
        return;
    }
    let kernel = Kernel::of(path);
    let cores = if m == 1 && matches!(part, Part::Whole) { n * k / ELEMENTS_PER_CORE } else { 1 };
    let cores = cores.min(rayon::current_num_threads());
    if cores < 2 {
        return on_one_core(kernel, out, stride, a, b, accumulate, part);
    }
    let columns = n.div_ceil(cores).next_multiple_of(kernel.width());
    let (mut shares, mut rest) = (vec![], &mut out[..n]);
    while !rest.is_empty() {
        let (share, after) = rest.split_at_mut(kernel.together(columns, rest.len()));
        shares.push((n - after.len() - share.len(), share));
        rest = after;
    }
    shares.into_par_iter().for_each(|(first, out)| {
        let b = b.columns(first, out.len());
        on_one_core(kernel, out, stride, a, b, accumulate, part);
    });
}

/// [`multiply`] on the current thread, for a product that is not empty.
fn on_one_core(
    kernel: Kernel,
    out: &mut [f32],
    stride: usize,
    a: Mat,
    b: Right,
    accumulate: bool,
    part: Part,
) {
    let (m, k, n) = (a.rows, a.cols, b.shape()[1]);
    // Panels used by a single block of rows are consumed at once; panels cut from rows of `b` are packed several at a time.
    let together = kernel.width()
        * match b {
            _ if m > ROWS => PANELS_KEPT,
            Right::Packed { .. } => n,
            Right::Plain(b) if b.col_stride == 1 => PANELS_CUT,
            Right::Plain(_) => 1,
        };
    // A single tile of rows reads each panel once: packing it would cost more than the product.
    let is_read_once = m <= kernel.height(m) && a.col_stride == 1;
    let pack = n >= PACK_FROM[if a.col_stride == 1 { 2 } else { usize::from(a.col_stride > FAR_STRIDE) }];
    SCRATCH.with_borrow_mut(|Scratch { rows, panels }| {
        for first in (0..k).step_by(INNER) {
            let inner = INNER.min(k - first);
            let accumulate = accumulate || first > 0;
            let mut left = 0;
            while left < n {
                let columns = kernel.together(together, n - left);
                let right = match b {
                    Right::Packed { of, first: before, .. } => of.block(kernel, first, inner, before + left),
                    Right::Plain(b) => {
                        let right = b.block(first, inner, left, columns);
                        RhsBlock::of(right, kernel).filter(|_| is_read_once).unwrap_or_else(|| {
                            let panels = at_least(panels, kernel.room(columns) * inner);
                            kernel.pack_panels(panels, right);
                            RhsBlock::packed(panels)
                        })
                    }
                };
                for top in (0..m).step_by(ROWS) {
                    let block = a.block(top, ROWS.min(m - top), first, inner);
                    let height = kernel.height(block.rows);
                    let block = if pack {
                        let rows = at_least(rows, pack::room(block.rows, height));
                        if left == 0 || m > ROWS {
                            kernel.pack_rows(rows, block, height);
                        }
                        LhsBlock::packed(rows, block, height)
                    } else {
                        LhsBlock::of(block, height)
                    };
                    let out = &mut out[top * stride + left..];
                    let place = Place { part, row: top, inner: first, column: left };
                    kernel.product(out, stride, block, right, columns, accumulate, place);
                }
                left += columns;
            }
        }
    });
}

/// A right operand.
#[derive(Clone, Copy)]
enum Right<'a> {
    Plain(Mat<'a>),
    /// `cols` columns from `first` on, which is a multiple of [`Kernel::width`].
    Packed {
        of: &'a Packed,
        first: usize,
        cols: usize,
    },
}

impl Right<'_> {
    /// Rows and columns.
    fn shape(self) -> [usize; 2] {
        match self {
            Self::Plain(b) => [b.rows, b.cols],
            Self::Packed { of, cols, .. } => [of.rows, cols],
        }
    }

    /// Returns `cols` columns from `first` on.
    fn columns(self, first: usize, cols: usize) -> Self {
        match self {
            Self::Plain(b) => Self::Plain(b.block(0, b.rows, first, cols)),
            Self::Packed { of, first: before, .. } => Self::Packed { of, first: before + first, cols },
        }
    }
}

/// A right operand in the order in which a product reads it: the panels of `INNER` rows, then those of the next.
#[derive(Debug)]
pub struct Packed {
    path: Path,
    panels: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Packed {
    /// Packs the transpose of `w`, `(out, d_in)`, for [`matmul_packed`].
    pub fn transposed(w: &[f32], d_in: usize) -> Self {
        Self::of(Path::current(), Mat::new(w, w.len() / d_in, d_in).t())
    }

    /// Packs a matrix for a path, which this machine must support.
    pub fn of(path: Path, b: Mat) -> Self {
        let (kernel, Mat { rows, cols, .. }) = (Kernel::of(path), b);
        let room = kernel.room(cols);
        let mut panels = vec![0.0; room * rows];
        for first in (0..rows).step_by(INNER) {
            let inner = INNER.min(rows - first);
            kernel.pack_panels(&mut panels[room * first..][..room * inner], b.block(first, inner, 0, cols));
        }
        Self { path, panels, rows, cols }
    }

    /// Returns `inner` rows from `first`, a multiple of [`INNER`], and the columns from `left`, a multiple of
    /// [`Kernel::width`].
    fn block(&self, kernel: Kernel, first: usize, inner: usize, left: usize) -> RhsBlock<'_> {
        let room = kernel.room(self.cols);
        RhsBlock::packed(&self.panels[room * first..][..room * inner][left * inner..])
    }
}

/// Per-thread buffers for packed operands.
struct Scratch {
    rows: Vec<f32>,
    panels: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { rows: vec![], panels: vec![] }) };
}

/// Returns the first `len` elements of a buffer, growing it if necessary.
fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// `y = x wᵀ`: forward pass of a linear layer. `x`: `(n, in)`; `w`: `(out, in)`; `y`: `(n, out)`.
pub fn linear(y: &mut [f32], x: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(y, d_out, Mat::new(x, n, d_in), Mat::new(w, d_out, d_in).t(), accumulate);
}

/// `dx = dy w`: gradient of a linear layer's input. `dy`: `(n, out)`; `dx`: `(n, in)`.
pub fn linear_input_grad(dx: &mut [f32], dy: &[f32], w: &[f32], n: usize, d_in: usize, accumulate: bool) {
    let d_out = w.len() / d_in;
    matmul(dx, d_in, Mat::new(dy, n, d_out), Mat::new(w, d_out, d_in), accumulate);
}

/// `dw += dyᵀ x`: gradient of a linear layer's weight. `dw`: `(out, in)`.
pub fn linear_weight_grad(dw: &mut [f32], dy: &[f32], x: &[f32], n: usize, d_in: usize) {
    let d_out = dw.len() / d_in;
    matmul(dw, d_in, Mat::new(dy, n, d_out).t(), Mat::new(x, n, d_in), true);
}

#[cfg(test)]
mod tests;
