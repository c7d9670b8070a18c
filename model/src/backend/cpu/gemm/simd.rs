//! SIMD vectors of the processor, and the choice of those that products use.

use crate::{Error, Result};
use std::sync::OnceLock;

/// The instruction set that products use. It does not change a bit of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// 16 f32 elements per vector.
    Avx512,
    /// 8 f32 elements per vector, with fused multiply-add.
    Avx2,
    /// Whatever the compiler generates for arrays; runs on any processor.
    Portable,
}

/// Environment variable that selects a path: `avx512`, `avx2` or `portable`.
const VARIABLE: &str = "MINDSCALE_SIMD";

impl Path {
    /// Every path, the widest first.
    pub const ALL: [Path; 3] = [Path::Avx512, Path::Avx2, Path::Portable];

    /// The name used in `MINDSCALE_SIMD`.
    pub fn name(self) -> &'static str {
        match self {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Portable => "portable",
        }
    }

    /// Whether this machine supports it.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let (avx2, avx512) = (
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            is_x86_feature_detected!("avx512f"),
        );
        #[cfg(not(target_arch = "x86_64"))]
        let (avx2, avx512) = (false, false);
        match self {
            Path::Avx512 => avx2 && avx512,
            Path::Avx2 => avx2,
            Path::Portable => true,
        }
    }

    /// Returns the path that `MINDSCALE_SIMD` selects, or `None` if it is not set.
    ///
    /// # Errors
    /// Returns an error if there is no such path, or if this machine does not support it.
    pub fn from_env() -> Result<Option<Path>> {
        let Ok(name) = std::env::var(VARIABLE) else { return Ok(None) };
        let here: Vec<Path> = Path::ALL.into_iter().filter(|path| path.is_supported()).collect();
        match here.iter().find(|path| path.name() == name) {
            Some(path) => Ok(Some(*path)),
            None => {
                let names: Vec<&str> = here.iter().map(|path| path.name()).collect();
                let names = names.join(" or ");
                Err(Error::Input(format!("{VARIABLE} is {name:?}, expected {names} on this machine")))
            }
        }
    }

    /// Returns the path in use: the selected one, or the widest that this machine supports.
    pub fn current() -> Path {
        static CURRENT: OnceLock<Path> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let widest = || Path::ALL.into_iter().find(|path| path.is_supported()).unwrap_or(Path::Portable);
            Path::from_env().ok().flatten().unwrap_or_else(widest)
        })
    }
}

/// Operations on a SIMD vector of f32.
///
/// # Safety
/// Functions may only be called if the processor supports the instructions, and with pointers that are valid for as
/// many elements as they access.
pub(super) trait Simd {
    /// The vector type.
    type V: Copy;
    /// Elements per vector.
    const LANES: usize;
    /// Rows of a tile two vectors wide that fit into the registers.
    const HEIGHT: usize;
    /// Whether the innermost loop is left to the compiler.
    const PLAIN: bool = false;
    /// Prefetches the cache line at an address that will be read soon; any address is allowed.
    fn prefetch(_place: *const f32) {}
    unsafe fn zero() -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Loads the element at `from` into all lanes.
    unsafe fn splat(from: *const f32) -> Self::V;
    /// `a b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Loads the first `count` elements, at least one; the remaining lanes are zero.
    unsafe fn load_some(from: *const f32, count: usize) -> Self::V;
    /// Stores the first `count` elements, at least one.
    unsafe fn store_some(to: *mut f32, v: Self::V, count: usize);
    /// Transposes `to[j * stride + i] = from[i * line + j]` for 8 lines `i` and whole vectors of 8 `j` below `k`.
    unsafe fn transpose8(to: *mut f32, stride: usize, from: *const f32, line: usize, k: usize);
}

/// Arrays of 8 elements; a chain of fused multiply-adds has the same bits on every processor.
pub(super) struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    const HEIGHT: usize = 4;
    const PLAIN: bool = true;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for 8 elements; unaligned is fine.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self::V {
        // SAFETY: the caller's pointer is valid for one element.
        [unsafe { from.read_unaligned() }; 8]
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self::V {
        let number = |i: usize| {
            // SAFETY: the caller's pointer is valid for `count` elements.
            if i < count { unsafe { from.wrapping_add(i).read_unaligned() } } else { 0.0 }
        };
        std::array::from_fn(number)
    }

    #[inline(always)]
    unsafe fn store_some(to: *mut f32, v: Self::V, count: usize) {
        // SAFETY: the caller's pointer is valid for `count` elements.
        unsafe { to.copy_from_nonoverlapping(v.as_ptr(), count) }
    }

    unsafe fn transpose8(to: *mut f32, stride: usize, from: *const f32, line: usize, k: usize) {
        for j in 0..k / 8 * 8 {
            for i in 0..8 {
                // SAFETY: the caller's lines and columns are valid for these elements.
                unsafe { *to.add(j * stride + i) = *from.add(i * line + j) };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// [`Simd::transpose8`] by 8 x 8 blocks in registers; with wider vectors the compiler generates slower shuffles.
    #[inline(never)]
    #[target_feature(enable = "avx2")]
    unsafe fn transpose8(to: *mut f32, stride: usize, from: *const f32, line: usize, k: usize) {
        for j in (0..k / 8 * 8).step_by(8) {
            // SAFETY: the caller's lines and columns are valid for these elements.
            unsafe {
                let line = |i: usize| _mm256_loadu_ps(from.add(i * line + j));
                let pairs = |a, b| (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let ((a0, a1), (a2, a3)) = (pairs(line(0), line(1)), pairs(line(2), line(3)));
                let ((a4, a5), (a6, a7)) = (pairs(line(4), line(5)), pairs(line(6), line(7)));
                let fours = |a, b| (_mm256_shuffle_ps::<0x44>(a, b), _mm256_shuffle_ps::<0xee>(a, b));
                let ((b0, b1), (b2, b3)) = (fours(a0, a2), fours(a1, a3));
                let ((b4, b5), (b6, b7)) = (fours(a4, a6), fours(a5, a7));
                for (row, (low, high)) in [(b0, b4), (b1, b5), (b2, b6), (b3, b7)].into_iter().enumerate() {
                    _mm256_storeu_ps(to.add((j + row) * stride), _mm256_permute2f128_ps::<0x20>(low, high));
                    _mm256_storeu_ps(
                        to.add((j + row + 4) * stride),
                        _mm256_permute2f128_ps::<0x31>(low, high),
                    );
                }
            }
        }
    }

    /// Returns a mask whose sign bit is set in the first `count` of 8 lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn first(count: usize) -> __m256i {
        static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: reads 8 of the 16 elements, from `8 - count` on, with `count` at most 8.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count.min(8)).cast()) }
    }

    /// AVX-512 vectors.
    pub struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const HEIGHT: usize = 14;

        #[inline(always)]
        fn prefetch(place: *const f32) {
            // SAFETY: a prefetch has no effect visible to the program, and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
        }

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: the trait's contract, here and below.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_set1_ps(from.read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn load_some(from: *const f32, count: usize) -> __m512 {
            // SAFETY: see above.
            unsafe { _mm512_maskz_loadu_ps(u16::MAX >> (16 - count), from) }
        }

        #[inline(always)]
        unsafe fn store_some(to: *mut f32, v: __m512, count: usize) {
            // SAFETY: see above.
            unsafe { _mm512_mask_storeu_ps(to, u16::MAX >> (16 - count), v) }
        }

        #[inline(always)]
        unsafe fn transpose8(to: *mut f32, stride: usize, from: *const f32, line: usize, k: usize) {
            // SAFETY: see above.
            unsafe { transpose8(to, stride, from, line, k) }
        }
    }

    /// AVX2 vectors with FMA.
    pub struct Avx2;

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const HEIGHT: usize = 6;

        #[inline(always)]
        fn prefetch(place: *const f32) {
            // SAFETY: a prefetch has no effect visible to the program, and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) }
        }

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            // SAFETY: the trait's contract, here and below.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_set1_ps(from.read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn load_some(from: *const f32, count: usize) -> __m256 {
            // SAFETY: see above.
            unsafe { _mm256_maskload_ps(from, first(count)) }
        }

        #[inline(always)]
        unsafe fn store_some(to: *mut f32, v: __m256, count: usize) {
            // SAFETY: see above.
            unsafe { _mm256_maskstore_ps(to, first(count), v) }
        }

        #[inline(always)]
        unsafe fn transpose8(to: *mut f32, stride: usize, from: *const f32, line: usize, k: usize) {
            // SAFETY: see above.
            unsafe { transpose8(to, stride, from, line, k) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};
