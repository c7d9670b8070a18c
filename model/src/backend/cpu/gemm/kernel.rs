//! The innermost loops of a product: tiles of the result that are held in registers.

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Path, Portable, Simd};
use super::{Mat, Part, pack};
use std::ops::Range;

/// A block of `a`, `(m, k)`, tile by tile: element `(i, j)` of a tile is at offset `i * row + j * col` from its start.
#[derive(Clone, Copy)]
pub(super) struct LhsBlock<'a> {
    data: &'a [f32],
    /// Elements from the start of one tile to that of the next.
    tile: usize,
    row: usize,
    col: usize,
    m: usize,
    k: usize,
    /// Rows per tile; the last one may have fewer.
    height: usize,
}

/// A block of `b`, `(k, n)`, panel by panel.
#[derive(Clone, Copy)]
pub(super) struct RhsBlock<'a> {
    data: &'a [f32],
    /// Elements between its rows if it is in its original layout; `None` for packed panels.
    stride: Option<usize>,
}

/// The part of a panel of `b` that a tile reads.
#[derive(Clone, Copy)]
struct Rhs {
    start: *const f32,
    /// Elements between its rows.
    row: usize,
}

/// Destination of a panel's results.
#[derive(Clone, Copy)]
struct Out {
    start: *mut f32,
    stride: usize,
    /// Number of valid columns.
    width: usize,
    accumulate: bool,
    place: Place,
}

/// Position of a block within its product.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub part: Part,
    /// First row of the result.
    pub row: usize,
    /// First inner position.
    pub inner: usize,
    /// First column of the result.
    pub column: usize,
}

impl Place {
    /// Range of the block's `k` inner positions that contribute to the given rows of a tile; if it is empty, the tile
    /// is left unchanged.
    #[inline(always)]
    fn inner(self, rows: Range<usize>, k: usize) -> Range<usize> {
        match self.part {
            Part::Whole => 0..k,
            Part::Visible(mask) if self.column < mask.keys(self.row + rows.end - 1) => 0..k,
            Part::Visible(_) => 0..0,
            Part::OfVisible(mask) => 0..mask.keys(self.row + rows.end - 1).saturating_sub(self.inner).min(k),
            Part::OfVisibleTransposed(mask) => {
                mask.first_query(self.row + rows.start).saturating_sub(self.inner).min(k)..k
            }
        }
    }
}

/// Multiplies a block of `a` by one panel of `b`.
type Panel = unsafe fn(Out, LhsBlock, Rhs);

/// The compiled loops of one path.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// [`multiply`] for panels of one, two and three vectors, each for rows at any stride, at stride 1 and at
    /// [`pack::STRIDE`].
    multiply: [[Panel; 3]; 3],
    /// The same for panels that are not packed, for rows at any stride.
    multiply_unpacked: [Panel; 3],
    /// [`pack::rows`].
    rows: unsafe fn(&mut [f32], Mat, usize),
    /// [`pack::panels`].
    panels: unsafe fn(&mut [f32], Mat),
    /// Elements per vector.
    lanes: usize,
    /// Maximum rows per tile.
    height: usize,
}

/// Compiles the loops for one path. Each loop is a separate function: a single one would take minutes to compile.
macro_rules! path {
    ($name:ident, $simd:ty $(, $features:literal)?) => {
        mod $name {
            use super::*;
            $(#[target_feature(enable = $features)])?
            unsafe fn panel<const VECTORS: usize, const ROW: usize>(out: Out, a: LhsBlock, b: Rhs) {
                let b = Rhs { row: VECTORS * <$simd>::LANES, ..b };
                // SAFETY: the caller upholds the contract, here and below.
                unsafe { multiply::<$simd, VECTORS, ROW>(out, a, b) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn unpacked<const VECTORS: usize>(out: Out, a: LhsBlock, b: Rhs) {
                // SAFETY: see above.
                unsafe { multiply::<$simd, VECTORS, 0>(out, a, b) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn rows(to: &mut [f32], a: Mat, height: usize) {
                // SAFETY: see above.
                unsafe { pack::rows::<$simd>(to, a, height) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn panels(to: &mut [f32], b: Mat) {
                // SAFETY: see above.
                unsafe { pack::panels::<$simd>(to, b) }
            }
            pub const KERNEL: Kernel = Kernel {
                multiply: [
                    [panel::<1, 0>, panel::<1, 1>, panel::<1, 0>],
                    [panel::<2, 0>, panel::<2, 1>, panel::<2, { pack::STRIDE }>],
                    [panel::<3, 0>, panel::<3, 1>, panel::<3, 0>],
                ],
                multiply_unpacked: [unpacked::<1>, unpacked::<2>, unpacked::<3>],
                rows,
                panels,
                lanes: <$simd>::LANES,
                height: <$simd>::HEIGHT,
            };
        }
    };
}
#[cfg(target_arch = "x86_64")]
path!(avx512, Avx512, "avx512f,avx2,fma");
#[cfg(target_arch = "x86_64")]
path!(avx2, Avx2, "avx2,fma");
path!(portable, Portable);

impl<'a> LhsBlock<'a> {
    /// Returns a block in its original layout.
    pub fn of(a: Mat<'a>, height: usize) -> Self {
        let Mat { data, rows, cols, row_stride, col_stride } = a;
        Self { data, tile: height * row_stride, row: row_stride, col: col_stride, m: rows, k: cols, height }
    }

    /// Returns a block that [`Kernel::pack_rows`] has packed.
    pub fn packed(data: &'a [f32], a: Mat, height: usize) -> Self {
        let (row, col) = if a.row_stride == 1 { (1, height) } else { (pack::STRIDE, 1) };
        let tile = height * if row == 1 { a.cols } else { row };
        Self { data, tile, row, col, m: a.rows, k: a.cols, height }
    }
}

impl<'a> RhsBlock<'a> {
    /// Returns a block that [`Kernel::pack_panels`] has packed.
    pub fn packed(panels: &'a [f32]) -> Self {
        Self { data: panels, stride: None }
    }

    /// Returns a block in its original layout, or `None` if its vectors are not contiguous, or if the last one would
    /// end beyond its data.
    pub fn of(b: Mat<'a>, kernel: Kernel) -> Option<Self> {
        let stride = (b.col_stride == 1 && b.rows > 0).then_some(b.row_stride)?;
        let end = (b.rows - 1) * stride + kernel.room(b.cols);
        (end <= b.data.len()).then_some(Self { data: b.data, stride: Some(stride) })
    }
}

impl Kernel {
    /// Returns the loops of `path`.
    pub fn of(path: Path) -> Self {
        match path {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => avx512::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => avx2::KERNEL,
            _ => portable::KERNEL,
        }
    }

    /// Columns of every panel of `b` but the last.
    pub fn width(self) -> usize {
        2 * self.lanes
    }

    /// The next columns to process together if `n` are left: `most`, a multiple of [`Self::width`], or all, so that they end
    /// where a panel of all columns does ([`panel_width`]).
    pub fn together(self, most: usize, n: usize) -> usize {
        if n > most + self.lanes { most } else { n }
    }

    /// Columns that panels of `n` columns take up, including padding.
    pub fn room(self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }

    /// Rows per tile for a block of `m` rows: as many as fit, or fewer, so that the last tile is not left with only a few.
    pub fn height(self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.height).max(1)).next_multiple_of(2).min(self.height)
    }

    /// Packs a block of `a` for tiles of `height` rows.
    pub fn pack_rows(self, to: &mut [f32], a: Mat, height: usize) {
        assert!(height <= self.height);
        // SAFETY: whoever obtains a kernel has checked that the processor supports its instructions, here and below.
        unsafe { (self.rows)(to, a, height) }
    }

    /// Packs a block of `b` into panels.
    pub fn pack_panels(self, to: &mut [f32], b: Mat) {
        // SAFETY: see above.
        unsafe { (self.panels)(to, b) }
    }

    /// Computes `out = a b` or `out += a b`; `b` has `n` columns.
    #[allow(clippy::too_many_arguments)] // the two operands, the result, and its part
    pub fn product(
        self,
        out: &mut [f32],
        stride: usize,
        a: LhsBlock,
        b: RhsBlock,
        n: usize,
        accumulate: bool,
        place: Place,
    ) {
        let (tiles, rest) = (a.m / a.height, a.m % a.height);
        let reach = |rows: usize| (rows - 1) * a.row + (a.k - 1) * a.col;
        let last =
            if rest > 0 { tiles * a.tile + reach(rest) } else { (tiles - 1) * a.tile + reach(a.height) };
        assert!(a.col == 1 || a.row == 1 && b.stride.is_none());
        assert!(a.height <= self.height && last < a.data.len());
        assert!(out.len() >= (a.m - 1) * stride + n);
        assert!(b.data.len() >= b.stride.map_or(self.room(n) * a.k, |row| (a.k - 1) * row + self.room(n)));
        let mut first = 0;
        while first < n {
            let width = panel_width(self.lanes, n - first);
            let vectors = width.div_ceil(self.lanes);
            let packed = self.multiply[vectors - 1][match a.row {
                1 => 1,
                pack::STRIDE => 2,
                _ => 0,
            }];
            let place = Place { column: place.column + first, ..place };
            let out = Out { start: out[first..].as_mut_ptr(), stride, width, accumulate, place };
            let (multiply, start, row) = match b.stride {
                Some(row) => (self.multiply_unpacked[vectors - 1], first, row),
                // All panels before this one consist of whole vectors.
                None => (packed, first * a.k, vectors * self.lanes),
            };
            let b = Rhs { start: b.data[start..].as_ptr(), row };
            // SAFETY: all three were checked above to cover the tiles.
            unsafe { multiply(out, a, b) };
            first += width;
        }
    }
}

/// Columns of the next panel if `n` are left: two vectors, or everything that is left if it fits into three.
pub(super) fn panel_width(lanes: usize, n: usize) -> usize {
    if n > 3 * lanes { 2 * lanes } else { n }
}

/// Computes all tiles of a panel of `VECTORS` vectors; three vectors leave registers for only half a tile. `ROW` is the
/// stride of the rows of a tile: a stride known to the compiler becomes part of the instructions; 0 means any.
#[inline(always)]
unsafe fn multiply<S: Simd, const VECTORS: usize, const ROW: usize>(out: Out, a: LhsBlock, b: Rhs) {
    let a = match ROW {
        0 if VECTORS == 1 => LhsBlock { col: 1, ..a },
        0 => a,
        1 => LhsBlock { row: 1, ..a },
        _ => LhsBlock { row: ROW, col: 1, ..a },
    };
    for (i, first) in (0..a.m).step_by(a.height).enumerate() {
        let (mut rows, mut below) = (a.height.min(a.m - first), 0);
        while rows > 0 {
            let part = match rows {
                _ if VECTORS == 3 => rows.min(a.height.div_ceil(2)),
                1 => 1,
                _ => rows & !1,
            };
            let row = first + below;
            let inner = out.place.inner(row..row + part, a.k);
            if !inner.is_empty() {
                let out = Out { start: out.start.wrapping_add(row * out.stride), ..out };
                let start = a.data.as_ptr().wrapping_add(i * a.tile + below * a.row + inner.start * a.col);
                let a = LhsBlock { k: inner.len(), ..a };
                let b = Rhs { start: b.start.wrapping_add(inner.start * b.row), ..b };
                // SAFETY: the caller upholds the contract.
                unsafe { tile_of::<S, VECTORS>(part, out, start, a, b) };
            }
            (rows, below) = (rows - part, below + part);
        }
    }
}

/// Computes a tile of `rows` rows: 1 or an even number; with three vectors, any number up to half a tile.
#[inline(always)]
unsafe fn tile_of<S: Simd, const VECTORS: usize>(
    rows: usize,
    out: Out,
    start: *const f32,
    a: LhsBlock,
    b: Rhs,
) {
    macro_rules! tiles {
        ($($rows:literal)*) => {
            match rows {
                $($rows if const { has_tile::<S>($rows, VECTORS) } => {
                    // SAFETY: the caller upholds the contract.
                    unsafe { tile::<S, $rows, VECTORS>(out, start, a, b) }
                })*
                _ => {}
            }
        };
    }
    tiles!(1 2 3 4 5 6 7 8 10 12 14);
}

/// Whether panels of so many vectors are cut into tiles of so many rows.
const fn has_tile<S: Simd>(rows: usize, vectors: usize) -> bool {
    let most = if vectors < 3 { S::HEIGHT } else { S::HEIGHT.div_ceil(2) };
    rows <= most && (vectors == 3 || rows == 1 || rows.is_multiple_of(2))
}

/// Computes a tile of `ROWS` rows by the columns of one panel: `(ROWS, VECTORS * LANES)`.
///
/// Here and below, arithmetic is wrapping and pointers are read as unaligned, although nothing overflows and all
/// pointers are aligned: the checks of an unoptimized build in each of the many unrolled steps would make that build
/// ten times as slow.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    out: Out,
    mut left: *const f32,
    a: LhsBlock,
    Rhs { start: mut right, row }: Rhs,
) {
    let Out { start, stride, width, accumulate, .. } = out;
    let last = width.wrapping_sub((VECTORS - 1) * S::LANES);
    let place = |i: usize, j: usize| start.wrapping_add(i.wrapping_mul(stride).wrapping_add(j * S::LANES));
    // SAFETY: the caller's pointers cover the tile.
    unsafe {
        let mut sums = [[S::zero(); VECTORS]; ROWS];
        if accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    S::prefetch(place(ROWS + i, j)); // the tile below comes next
                    *sum =
                        if j + 1 < VECTORS { S::load(place(i, j)) } else { S::load_some(place(i, j), last) };
                }
            }
        }
        let pairs = if S::PLAIN { 0 } else { a.k / 2 };
        for _ in 0..pairs {
            step::<S, ROWS, VECTORS>(&mut sums, left, a.row, right);
            left = left.wrapping_add(a.col);
            right = right.wrapping_add(row);
            step::<S, ROWS, VECTORS>(&mut sums, left, a.row, right);
            left = left.wrapping_add(a.col);
            right = right.wrapping_add(row);
        }
        for _ in 2 * pairs..a.k {
            step::<S, ROWS, VECTORS>(&mut sums, left, a.row, right);
            left = left.wrapping_add(a.col);
            right = right.wrapping_add(row);
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, &sum) in sums.iter().enumerate() {
                if j + 1 < VECTORS {
                    S::store(place(i, j), sum);
                } else {
                    S::store_some(place(i, j), sum, last);
                }
            }
        }
    }
}

/// Adds the products of one column of a tile, with rows `stride` apart, and one row of a panel.
#[inline(always)]
unsafe fn step<S: Simd, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S::V; VECTORS]; ROWS],
    left: *const f32,
    stride: usize,
    right: *const f32,
) {
    // SAFETY: the caller's pointers cover the tile.
    unsafe {
        let mut columns = [S::zero(); VECTORS];
        for (j, column) in columns.iter_mut().enumerate() {
            *column = S::load(right.wrapping_add(j * S::LANES));
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            let factor = S::splat(left.wrapping_add(i.wrapping_mul(stride)));
            for (sum, &column) in sums.iter_mut().zip(&columns) {
                *sum = S::fma(factor, column, *sum);
            }
        }
    }
}
