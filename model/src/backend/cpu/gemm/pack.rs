//! Operands laid out as the innermost loops read them.

use super::{INNER, Mat, ROWS, simd::Path};

/// Elements from one row of a copied block to the next; not a power of two, whose rows would share their place in
/// the cache.
pub(super) const STRIDE: usize = INNER + 16;

/// The same for a block that is copied as its transpose.
const STRIDE_T: usize = ROWS + 30;

/// Room for a copied block of `m` rows and `k` columns, whichever way it lies.
pub(super) fn room(m: usize, k: usize) -> usize {
    (m * STRIDE).max(k * STRIDE_T)
}

/// Copies a block of `a` so that its rows, or those of its transpose, lie side by side; one that is there already need
/// not be copied again.
pub(super) fn copy<'a>(to: &'a mut [f32], a: Mat, again: bool) -> Mat<'a> {
    let Mat { data, rows, cols, row_stride, col_stride } = a;
    let (lines, len, from, stride) =
        if col_stride == 1 { (rows, cols, row_stride, STRIDE) } else { (cols, rows, col_stride, STRIDE_T) };
    for line in 0..if again { lines } else { 0 } {
        to[line * stride..][..len].copy_from_slice(&data[line * from..][..len]);
    }
    let (row_stride, col_stride) = if col_stride == 1 { (stride, 1) } else { (1, stride) };
    Mat { data: to, rows, cols, row_stride, col_stride }
}

/// Writes the panels of `b`, `(k, n)`: `width` columns side by side, row after row; the last panel is filled up with
/// zeros.
pub(super) fn panels(path: Path, to: &mut [f32], b: Mat, width: usize) {
    let Mat { data, rows: k, cols: n, row_stride, col_stride } = b;
    for (first, panel) in (0..n).step_by(width).zip(to.chunks_exact_mut((width * k).max(1))) {
        let columns = width.min(n - first);
        if col_stride == 1 {
            for (row, to) in panel.chunks_exact_mut(width).enumerate() {
                to[..columns].copy_from_slice(&data[row * row_stride + first..][..columns]);
                to[columns..].fill(0.0);
            }
            continue;
        }
        for column in (0..width).step_by(8) {
            let lines = 8.min(columns.saturating_sub(column));
            let from = &data[((first + column) * col_stride).min(data.len())..];
            match path {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the path was chosen because the processor has AVX2.
                Path::Avx2 | Path::Avx512 => unsafe {
                    transpose_avx2(&mut panel[column..], width, from, col_stride, lines, k);
                },
                _ => transpose(&mut panel[column..], width, from, col_stride, lines, 0, k),
            }
        }
    }
}

/// `to[j * width + i] = from[i * stride + j]` for 8 lines `i`, zeros from line `lines` on, and `j` from `first` to `k`.
fn transpose(
    to: &mut [f32],
    width: usize,
    from: &[f32],
    stride: usize,
    lines: usize,
    first: usize,
    k: usize,
) {
    for j in first..k {
        for (i, to) in to[j * width..][..8].iter_mut().enumerate() {
            *to = if i < lines { from[i * stride + j] } else { 0.0 };
        }
    }
}

/// [`transpose`] from the first column on, by squares of 8 in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn transpose_avx2(to: &mut [f32], width: usize, from: &[f32], stride: usize, lines: usize, k: usize) {
    use std::arch::x86_64::*;
    let whole = if lines == 8 { k / 8 * 8 } else { 0 };
    for j in (0..whole).step_by(8) {
        assert!(from.len() >= 7 * stride + j + 8 && to.len() >= (j + 7) * width + 8);
        // SAFETY: eight numbers of eight lines are read and eight of eight rows are written; both were checked.
        unsafe {
            let line = |i: usize| _mm256_loadu_ps(from.as_ptr().add(i * stride + j));
            let pairs = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let ((a0, a1), (a2, a3)) = (pairs(line(0), line(1)), pairs(line(2), line(3)));
            let ((a4, a5), (a6, a7)) = (pairs(line(4), line(5)), pairs(line(6), line(7)));
            let fours = |a, b| (_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
            let ((b0, b1), (b2, b3)) = (fours(a0, a2), fours(a1, a3));
            let ((b4, b5), (b6, b7)) = (fours(a4, a6), fours(a5, a7));
            for (row, (low, high)) in [(b0, b4), (b1, b5), (b2, b6), (b3, b7)].into_iter().enumerate() {
                let place = |row: usize| to.as_ptr().cast_mut().add((j + row) * width);
                _mm256_storeu_ps(place(row), _mm256_permute2f128_ps::<0x20>(low, high));
                _mm256_storeu_ps(place(row + 4), _mm256_permute2f128_ps::<0x31>(low, high));
            }
        }
    }
    transpose(to, width, from, stride, lines, whole, k);
}
