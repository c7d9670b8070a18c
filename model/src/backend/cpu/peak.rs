//! Peak throughput: bare matrix products, one per thread, all at the same time.

use super::gemm::{Mat, matmul};
use std::time::Instant;

/// Rows and columns of the matrices.
const SIDE: usize = 1024;

/// Number of timed products per implementation; the fastest counts.
const ROUNDS: usize = 12;

/// Throughput of single-threaded products, one on each thread of the current rayon pool, summed over the threads, in
/// 10^9 floating-point operations per second.
pub fn matrix_peak() -> f64 {
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let measure = |_: rayon::BroadcastContext| {
        let mut out = vec![0.0f32; SIDE * SIDE];
        let mut product = |multiply: fn(&mut [f32], &[f32], &[f32])| {
            let began = Instant::now();
            multiply(&mut out, &a, &b);
            began.elapsed().as_secs_f64()
        };
        // The faster of two implementations, so that a slow implementation here does not look like a low ceiling.
        (0..ROUNDS).map(|_| product(ours).min(product(theirs))).fold(f64::INFINITY, f64::min)
    };
    let seconds = rayon::broadcast(measure);
    let flops = 2.0 * (SIDE as f64).powi(3);
    seconds.into_iter().map(|s| flops / s.max(1e-9) / 1e9).sum()
}

fn ours(out: &mut [f32], a: &[f32], b: &[f32]) {
    matmul(out, SIDE, Mat::new(a, SIDE, SIDE), Mat::new(b, SIDE, SIDE), false);
}

/// The product by the crate `gemm`.
fn theirs(out: &mut [f32], a: &[f32], b: &[f32]) {
    let side = SIDE as isize;
    assert!([out.len(), a.len(), b.len()].iter().all(|&len| len == SIDE * SIDE));
    let (out, a, b) = (out.as_mut_ptr(), a.as_ptr(), b.as_ptr());
    // SAFETY: three dense matrices of `SIDE * SIDE` elements each, of which only the first is written.
    unsafe {
        let (none, alone) = (false, gemm::Parallelism::None);
        gemm::gemm(
            SIDE, SIDE, SIDE, out, 1, side, false, a, 1, side, b, 1, side, 1.0, 1.0, none, none, none, alone,
        );
    }
}
