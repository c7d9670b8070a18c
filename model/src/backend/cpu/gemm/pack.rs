//! Packing: operands copied into the order in which the innermost loops read them.

use super::kernel::panel_width;
use super::simd::Simd;
use super::{INNER, Mat};

/// Tiles of a transposed block that are filled together, so that memory is read in long runs.
const TOGETHER: usize = 8;

/// Elements between the starts of copied rows; not a power of two, for which all rows would map to the same cache sets.
pub(super) const STRIDE: usize = INNER + 16;

/// Elements needed for a packed block of `m` rows.
pub(super) fn room(m: usize, height: usize) -> usize {
    m.next_multiple_of(height) * STRIDE
}

/// Packs a block of `a`, `(m, k)`. One whose rows are contiguous is copied as it is, at stride [`STRIDE`]; one whose
/// columns are contiguous is packed into tiles: column after column of `height` rows.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd>(to: &mut [f32], a: Mat, height: usize) {
    let Mat { data, rows: m, cols: k, row_stride, col_stride } = a;
    assert!(to.len() >= room(m, height) && k <= INNER && height <= S::LANES);
    if row_stride == 1 {
        assert!(k == 0 || m == 0 || data.len() >= (k - 1) * col_stride + m);
        let spill = (S::LANES - 1) / height; // columns that a whole vector overlaps beyond its own
        for group in (0..m).step_by(TOGETHER * height) {
            let end = m.min(group + TOGETHER * height);
            for j in 0..k {
                let (line, place) = (j * col_stride, j * height);
                let whole =
                    j + spill < k && line + end.next_multiple_of(height) - height + S::LANES <= data.len();
                for first in (group..end).step_by(height) {
                    // SAFETY: `whole` ensures that the longest load of the column ends within `data`, and that the
                    // excess of a store is overwritten by the next columns of the same tile; other loads and stores
                    // cover only existing rows.
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
            // SAFETY: both slices have the length of a whole vector.
            unsafe { S::store(to.as_mut_ptr(), S::load(from.as_ptr())) };
        }
        let whole = k / S::LANES * S::LANES;
        to[whole..k].copy_from_slice(&from[whole..]);
    }
}

/// Packs `b`, `(k, n)`, into panels: adjacent columns, row after row; the last panel is padded to a whole number of vectors.
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
                    // SAFETY: the bounds of both were checked for whole vectors.
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
                // SAFETY: the caller upholds the contract.
                unsafe { transpose_lines::<S>(&mut panel[column..], width, from, col_stride, lines, k) };
            }
        }
        (first, to) = (first + columns, rest);
    }
}

/// Transposes `to[j * stride + i] = from[i * line + j]` for 8 lines `i` and all `j` below `k`; lines from `lines` on are zero.
#[inline(always)]
unsafe fn transpose_lines<S: Simd>(
    to: &mut [f32],
    stride: usize,
    from: &[f32],
    line: usize,
    lines: usize,
    k: usize,
) {
    let whole = if lines == 8 { k / 8 * 8 } else { 0 };
    assert!(lines == 0 || from.len() >= (lines - 1) * line + k);
    assert!(k == 0 || to.len() >= (k - 1) * stride + 8);
    // SAFETY: the bounds of the 8 lines read and the 8 columns written were both checked.
    unsafe { S::transpose8(to.as_mut_ptr(), stride, from.as_ptr(), line, whole) };
    for j in whole..k {
        for (i, to) in to[j * stride..][..8].iter_mut().enumerate() {
            *to = if i < lines { from[i * line + j] } else { 0.0 };
        }
    }
}
