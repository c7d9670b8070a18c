//! Operands laid out as the innermost loops read them.

use super::kernel::panel_width;
use super::simd::Simd;
use super::{INNER, Mat};

/// Tiles of a transposed block that are filled together, so that lines are read in long pieces.
const TOGETHER: usize = 8;

/// Numbers from one copied row to the next; not a power of two, whose rows would share their place in the cache.
pub(super) const STRIDE: usize = INNER + 16;

/// Room for a block of `m` rows.
pub(super) fn room(m: usize, height: usize) -> usize {
    m.next_multiple_of(height) * STRIDE
}

/// Writes a block of `a`, `(m, k)`, whose rows lie side by side, as it is but closer; one whose columns do, as tiles:
/// column after column of `height` rows.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd>(to: &mut [f32], a: Mat, height: usize) {
    let Mat { data, rows: m, cols: k, row_stride, col_stride } = a;
    assert!(to.len() >= room(m, height) && k <= INNER && height <= S::LANES);
    if row_stride == 1 {
        assert!(k == 0 || m == 0 || data.len() >= (k - 1) * col_stride + m);
        let spill = (S::LANES - 1) / height; // columns that a whole vector reaches beyond its own
        for group in (0..m).step_by(TOGETHER * height) {
            let end = m.min(group + TOGETHER * height);
            for j in 0..k {
                let (line, place) = (j * col_stride, j * height);
                let whole =
                    j + spill < k && line + end.next_multiple_of(height) - height + S::LANES <= data.len();
                for first in (group..end).step_by(height) {
                    // SAFETY: `whole` says that the longest load of the line ends within `data`, and that what a store
                    // writes too much is written over with the next columns of the same tile; other loads and stores
                    // take the rows that are there.
                    unsafe {
                        let (from, to) =
                            (data.as_ptr().add(line + first), to.as_mut_ptr().add(first * k + place));
                        if whole {
                            S::store(to, S::load(from));
                        } else {
                            to.copy_from_nonoverlapping(from, height.min(m - first));
                        }
                    }
                }
            }
        }
        return;
    }
    for (row, to) in to.chunks_exact_mut(STRIDE).take(m).enumerate() {
        let from = &data[row * row_stride..][..k];
        for (to, from) in to.chunks_exact_mut(S::LANES).zip(from.chunks_exact(S::LANES)) {
            // SAFETY: whole vectors of both.
            unsafe { S::store(to.as_mut_ptr(), S::load(from.as_ptr())) };
        }
        let whole = k / S::LANES * S::LANES;
        to[whole..k].copy_from_slice(&from[whole..]);
    }
}

/// Writes the panels of `b`, `(k, n)`: columns side by side, row after row; the last panel is filled up to a whole
/// vector.
#[inline(always)]
pub(super) unsafe fn panels<S: Simd>(to: &mut [f32], b: Mat) {
    let Mat { data, rows: k, cols: n, row_stride, col_stride } = b;
    let (mut first, mut to) = (0, to);
    while first < n {
        let columns = panel_width(S::LANES, n - first);
        let width = columns.next_multiple_of(S::LANES);
        let (panel, rest) = to.split_at_mut(width * k);
        if col_stride == 1 {
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                let from = &data[row * row_stride + first..];
                let whole = columns / S::LANES * S::LANES;
                assert!(from.len() >= whole);
                for i in (0..whole).step_by(S::LANES) {
                    // SAFETY: whole vectors of both.
                    unsafe { S::store(to.as_mut_ptr().add(i), S::load(from.as_ptr().add(i))) };
                }
                if whole < width {
                    to[whole..columns].copy_from_slice(&from[whole..columns]);
                    to[columns..].fill(0.0);
                }
            }
        } else {
            for column in (0..width).step_by(8) {
                let lines = 8.min(columns.saturating_sub(column));
                let from = data.get((first + column) * col_stride..).unwrap_or_default();
                // SAFETY: passed on from the caller.
                unsafe { turn::<S>(&mut panel[column..], width, from, col_stride, lines, k) };
            }
        }
        (first, to) = (first + columns, rest);
    }
}

/// `to[j * stride + i] = from[i * line + j]` for 8 lines `i`, zeros from line `lines` on, and all `j` below `k`.
#[inline(always)]
unsafe fn turn<S: Simd>(to: &mut [f32], stride: usize, from: &[f32], line: usize, lines: usize, k: usize) {
    let whole = if lines == 8 { k / 8 * 8 } else { 0 };
    assert!(lines == 0 || from.len() >= (lines - 1) * line + k);
    assert!(k == 0 || to.len() >= (k - 1) * stride + 8);
    // SAFETY: as many numbers of 8 lines are read and of 8 columns are written; both were checked.
    unsafe { S::turn(to.as_mut_ptr(), stride, from.as_ptr(), line, whole) };
    for j in whole..k {
        for (i, to) in to[j * stride..][..8].iter_mut().enumerate() {
            *to = if i < lines { from[i * line + j] } else { 0.0 };
        }
    }
}
