//! Fused operations on slices, forward and backward, each beside its plain candle form.
//!
//! The plain form is what a GPU runs and what the fused form is tested against. Fused operations are
//! single-threaded and keep a fixed order of summation: parallel work is over sequences, above them.
//! *Invariant:* `unsafe` occurs in this folder only.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod gemm;
pub mod math;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod scratch;
pub mod swiglu;
