//! The ceiling: bare matrix products, one on each thread at the same time.

use crate::threads::on_threads;
use anyhow::Result;
use model::ops::gemm::{Mat, matmul};
use std::time::Instant;

/// Rows and columns of the matrices.
const SIDE: usize = 1024;

/// Products of which the fastest counts.
const ROUNDS: usize = 12;

/// 10^9 floating-point operations a second of single-threaded products on `threads` threads; 0 takes all cores.
pub fn matrix_peak(threads: usize) -> Result<f64> {
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let measure = |_: rayon::BroadcastContext| {
        let mut out = vec![0.0f32; SIDE * SIDE];
        let mut product = || {
            let began = Instant::now();
            matmul(&mut out, SIDE, Mat::new(&a, SIDE, SIDE), Mat::new(&b, SIDE, SIDE), false);
            began.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(|_| product()).fold(f64::INFINITY, f64::min)
    };
    let seconds = on_threads(threads, || Ok(rayon::broadcast(measure)))?;
    let flops = 2.0 * (SIDE as f64).powi(3);
    Ok(seconds.into_iter().map(|s| flops / s.max(1e-9) / 1e9).sum())
}
