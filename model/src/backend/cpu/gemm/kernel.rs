//! The innermost loops of a product: tiles of the result that live in registers.

use super::Mat;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Path, Portable, Simd};

/// Vectors that a panel of `b` is wide.
const VECTORS: usize = 2;

/// Most rows of a tile, on any path.
const MOST_ROWS: usize = 14;

/// Most columns of a panel, on any path.
const MOST_WIDTH: usize = 32;

/// Places of a block of `a`, `(m, k)`: element `(i, j)` is `i * row + j * col` behind `start`.
#[derive(Clone, Copy)]
struct Left {
    start: *const f32,
    row: usize,
    col: usize,
    m: usize,
    k: usize,
}

/// A panel of the result: rows `stride` apart, of which `width` columns count.
#[derive(Clone, Copy)]
struct Out {
    start: *mut f32,
    stride: usize,
    width: usize,
    accumulate: bool,
}

/// Multiplies a block of `a` with one packed panel of `b`.
type PanelProduct = unsafe fn(Out, Left, *const f32);

/// The loops of one path.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    product: PanelProduct,
    lanes: usize,
}

impl Kernel {
    /// Those of `path`.
    pub fn of(path: Path) -> Self {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => Self { product: avx512, lanes: Avx512::LANES },
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => Self { product: avx2, lanes: Avx2::LANES },
            _ => Self { product: portable, lanes: Portable::LANES },
        }
    }

    /// Columns of a panel of `b`.
    pub fn panel_width(self) -> usize {
        VECTORS * self.lanes
    }

    /// `out = a b` or `out += a b`, where `panels` holds the packed panels of `b`, `n` columns in all.
    pub fn product(self, out: &mut [f32], stride: usize, a: Mat, panels: &[f32], n: usize, accumulate: bool) {
        let (width, left) = (self.panel_width(), Left::of(a));
        assert!(a.rows == 0 || out.len() >= (a.rows - 1) * stride + n);
        assert!(panels.len() >= n.next_multiple_of(width) * a.cols);
        for (first, panel) in (0..n).step_by(width).zip(panels.chunks(width * a.cols.max(1))) {
            // SAFETY: both were checked above to reach as far as the panel does, `Left::of` checked `a`; whoever
            // makes a kernel has checked that the processor has its instructions.
            unsafe {
                let start = out.as_mut_ptr().add(first);
                let out = Out { start, stride, width: width.min(n - first), accumulate };
                (self.product)(out, left, panel.as_ptr());
            }
        }
    }
}

impl Left {
    fn of(a: Mat) -> Self {
        let Mat { data, rows, cols, row_stride, col_stride } = a;
        let last = (rows.max(1) - 1) * row_stride + (cols.max(1) - 1) * col_stride;
        assert!(rows == 0 || cols == 0 || last < data.len());
        Self { start: data.as_ptr(), row: row_stride, col: col_stride, m: rows, k: cols }
    }

    /// What is below the first `rows` rows.
    unsafe fn below(self, rows: usize) -> Self {
        // SAFETY: the caller has more rows than that, or as many; one past the end is a pointer all the same.
        Self { start: self.start.wrapping_add(rows * self.row), m: self.m - rows, ..self }
    }
}

/// A tile of `ROWS` rows and one panel's columns: `(ROWS, VECTORS * LANES)`.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize>(
    out: *mut f32,
    stride: usize,
    a: Left,
    b: *const f32,
    accumulate: bool,
) {
    // SAFETY: the caller's places reach as far as the tile does.
    unsafe {
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        if accumulate {
            // The tile below is next.
            for i in ROWS..2 * ROWS {
                for j in 0..VECTORS {
                    S::prefetch(out.wrapping_add(i * stride + j * S::LANES));
                }
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = S::load(out.add(i * stride + j * S::LANES));
                }
            }
        }
        let (mut left, mut right) = (a.start, b);
        for _ in 0..a.k {
            let mut columns = [S::zero(); VECTORS];
            for (j, columns) in columns.iter_mut().enumerate() {
                *columns = S::load(right.add(j * S::LANES));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = S::splat(*left.add(i * a.row));
                for (sum, &columns) in sums.iter_mut().zip(&columns) {
                    *sum = S::fma(factor, columns, *sum);
                }
            }
            left = left.wrapping_add(a.col);
            right = right.wrapping_add(VECTORS * S::LANES);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                S::store(out.add(i * stride + j * S::LANES), sum);
            }
        }
    }
}

/// A tile of whole or of cut columns; what is cut goes through a tile of its own.
#[inline(always)]
unsafe fn fit<S: Simd, const ROWS: usize>(out: Out, a: Left, b: *const f32) {
    let Out { start, stride, width, accumulate } = out;
    // SAFETY: the caller's places reach as far as the tile does; the temporary one is large enough for any tile.
    unsafe {
        if width == VECTORS * S::LANES {
            return match (a.row, a.col) {
                // Strides that the compiler knows become part of the instructions.
                (1, _) => tile::<S, ROWS>(start, stride, Left { row: 1, ..a }, b, accumulate),
                (super::pack::STRIDE, 1) => tile::<S, ROWS>(
                    start,
                    stride,
                    Left { row: super::pack::STRIDE, col: 1, ..a },
                    b,
                    accumulate,
                ),
                _ => tile::<S, ROWS>(start, stride, a, b, accumulate),
            };
        }
        let mut whole = [0.0f32; MOST_ROWS * MOST_WIDTH];
        let place = whole.as_mut_ptr();
        for i in 0..if accumulate { ROWS } else { 0 } {
            place.add(i * MOST_WIDTH).copy_from_nonoverlapping(start.add(i * stride), width);
        }
        tile::<S, ROWS>(place, MOST_WIDTH, a, b, accumulate);
        for i in 0..ROWS {
            start.add(i * stride).copy_from_nonoverlapping(place.add(i * MOST_WIDTH), width);
        }
    }
}

/// All rows of a block, in tiles of `ROWS` and then of fewer.
#[inline(always)]
unsafe fn panel<S: Simd, const ROWS: usize>(mut out: Out, mut a: Left, b: *const f32) {
    macro_rules! tiles {
        ($rows:expr) => {
            while a.m >= $rows {
                // SAFETY: so many rows are left, and the caller's places reach as far as they do.
                unsafe {
                    fit::<S, { $rows }>(out, a, b);
                    a = a.below($rows);
                }
                out.start = out.start.wrapping_add($rows * out.stride);
            }
        };
    }
    tiles!(ROWS);
    if ROWS > 8 {
        tiles!(8);
    }
    tiles!(4);
    tiles!(2);
    tiles!(1);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn avx512(out: Out, a: Left, b: *const f32) {
    // SAFETY: passed on from the caller.
    unsafe { panel::<Avx512, 14>(out, a, b) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(out: Out, a: Left, b: *const f32) {
    // SAFETY: passed on from the caller.
    unsafe { panel::<Avx2, 6>(out, a, b) }
}

unsafe fn portable(out: Out, a: Left, b: *const f32) {
    // SAFETY: passed on from the caller.
    unsafe { panel::<Portable, 4>(out, a, b) }
}
