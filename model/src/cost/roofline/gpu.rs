//! GPUs, described by their data sheets.

use super::{Seconds, Step};
use crate::backend::Precision;
use crate::config::ModelConfig;
use crate::cost::step::{self, Operation, Trained};

/// Bytes per activation element.
pub fn bytes(precision: Precision) -> f64 {
    match precision {
        Precision::F32 | Precision::Tf32 => 4.0,
        Precision::Bf16 | Precision::F16 => 2.0,
    }
}

/// A GPU, described by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Name, as in `--device`.
    pub name: &'static str,
    /// Peak rates of dense products, in 10^12 operations per second: f32 outside tensor cores, TF32, bf16 with f32 sums.
    pub tflops: [f64; 3],
    /// Memory bandwidth in 10^9 bytes per second.
    pub bandwidth: f64,
    /// Number of multiprocessors.
    pub multiprocessors: f64,
    /// Memory in GiB.
    pub memory: f64,
}

/// The known GPUs, from NVIDIA's data sheets: "H100 Tensor Core GPU" and "H200 Tensor Core GPU" (SXM), "A100 80GB
/// Tensor Core GPU" (SXM), and the appendices of "Ada GPU Architecture" and "GA102 GPU Architecture".
pub const GPUS: [Gpu; 5] = [
    gpu("h100", [66.9, 494.7, 989.4], 3350.0, 132.0, 80.0),
    gpu("h200", [66.9, 494.7, 989.4], 4800.0, 132.0, 141.0),
    gpu("a100", [19.5, 155.9, 311.9], 2039.0, 108.0, 80.0),
    gpu("4090", [82.6, 82.6, 165.2], 1008.0, 128.0, 24.0),
    gpu("3090", [35.6, 35.6, 71.0], 936.0, 82.0, 24.0),
];

const fn gpu(name: &'static str, tflops: [f64; 3], bandwidth: f64, multiprocessors: f64, memory: f64) -> Gpu {
    Gpu { name, tflops, bandwidth, multiprocessors, memory }
}

/// Rows and columns of a result tile, which one multiprocessor computes at a time.
const TILE: f64 = 128.0;

/// Fraction of the peak rate that a large product reaches.
const LARGE: f64 = 0.82;

/// Inner dimension at which half of that is lost to starting and finishing a sum.
const SHORT: f64 = 128.0;

/// Fraction of the peak rate that attention's products reach for large heads: tiles are small and wait for exponentials.
const ATTENTION: f64 = 0.35;

/// Fraction of the peak bandwidth that a pass reaches.
const STREAM: f64 = 0.85;

/// Seconds per launch that do not overlap with other work.
const LAUNCH: f64 = 3e-6;

/// Maximum number of positions that a GPU processes together, as in the CUDA backend.
pub const GPU_POSITIONS: usize = 16_384;

/// Bytes of GPU memory that the CUDA backend may keep idle in addition to the peak use `most`: batches of other lengths
/// need other sizes, and requesting memory from the driver takes longer than the kernels of a small model.
pub fn gpu_idle(most: usize) -> usize {
    (most / 8).max(256 << 20)
}

impl Gpu {
    /// Returns the GPU with this name.
    pub fn named(name: &str) -> Option<Self> {
        GPUS.into_iter().find(|gpu| gpu.name == name)
    }

    /// Peak rate of products, in operations per second.
    fn rate(&self, precision: Precision) -> f64 {
        let [f32, tf32, half] = self.tflops;
        1e12 * match precision {
            Precision::F32 => f32,
            Precision::Tf32 => tf32,
            Precision::Bf16 | Precision::F16 => half,
        }
    }

    /// The fraction of the peak rate that `batch` products reach, given partly filled tiles, a partly filled last wave of
    /// tiles, and short sums. If there are fewer tiles than multiprocessors, sums are split among them, as cuBLAS does.
    pub fn efficiency(&self, batch: f64, m: f64, k: f64, n: f64) -> f64 {
        let tiles = batch * (m / TILE).ceil() * (n / TILE).ceil();
        let whole = batch * m * n / (tiles * TILE * TILE);
        let splits = (self.multiprocessors / tiles).floor().clamp(1.0, (k / (2.0 * SHORT)).floor().max(1.0));
        let (parts, terms) = (tiles * splits, k / splits);
        let waves = (parts / self.multiprocessors).ceil();
        LARGE * whole * parts / (waves * self.multiprocessors) * terms / (terms + SHORT)
    }

    fn operation(&self, operation: &Operation, precision: Precision) -> f64 {
        let (rate, stream) = (self.rate(precision), STREAM * self.bandwidth * 1e9);
        let bytes = bytes(precision);
        match *operation {
            Operation::Product { batch, m, k, n } => {
                let arithmetic = 2.0 * batch * m * k * n / (rate * self.efficiency(batch, m, k, n));
                arithmetic.max(bytes * batch * (m * k + k * n + m * n) / stream)
            }
            Operation::Attention { positions, pairs, heads, backward } => {
                let (head_dim, count) = (heads.head_dim as f64, heads.n_heads as f64);
                // Tiles of 64 by 64 on the diagonal are half masked.
                let seen = count * (pairs + 32.0 * positions);
                let products = if backward { 5.0 } else { 2.0 };
                let arithmetic =
                    products * 2.0 * seen * head_dim / (rate * ATTENTION * head_dim / (head_dim + 32.0));
                let numbers =
                    positions * (heads.qkv_width() + heads.width()) as f64 * if backward { 2.0 } else { 1.0 };
                arithmetic.max(bytes * numbers / stream)
            }
            Operation::Pass { numbers, .. } => bytes * numbers / stream,
            Operation::Weights { numbers } => 4.0 * numbers / stream,
        }
    }

    /// Estimates the seconds of a step on this GPU.
    pub fn step(&self, model: &ModelConfig, step: &Step, precision: Precision) -> Seconds {
        let mut seconds = Seconds::default();
        let mut launches = 0.0;
        for (often, operations) in step.groups(model, step.items, GPU_POSITIONS) {
            for (count, operation) in &operations {
                seconds.add(often * count, operation, self.operation(operation, precision));
                launches += often * count;
            }
        }
        if step.trained != Trained::Nothing {
            for (count, operation) in step::update(model, step.rule) {
                seconds.weights += count * self.operation(&operation, Precision::F32);
                launches += count;
            }
        }
        Seconds { launches: launches * LAUNCH, ..seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::near;
    use super::*;

    const GPU: Gpu = gpu("test", [1.0, 2.0, 4.0], 100.0, 10.0, 1.0);

    #[test]
    fn a_product_loses_what_its_tiles_waves_and_short_sums_cost() {
        // 20 full tiles are two full waves on 10 multiprocessors; a sum of 128 terms takes as long as one of 256.
        assert!(near(GPU.efficiency(1.0, 1280.0, 128.0, 256.0), 0.82 * 0.5));
        // One more row adds one tile per column: 22 tiles in three waves, in which 20 tiles and one row of 2 tiles are useful.
        assert!(near(
            GPU.efficiency(1.0, 1281.0, 128.0, 256.0),
            0.82 * 0.5 * (1281.0 * 256.0) / (30.0 * 128.0 * 128.0)
        ));
        // Two tiles, each sum split among 5 multiprocessors.
        assert!(near(GPU.efficiency(1.0, 128.0, 5120.0, 256.0), 0.82 * 1024.0 / (1024.0 + 128.0)));
        // Two products of 20 tiles take four waves; three of two tiles each are six tiles on ten multiprocessors.
        assert!(near(GPU.efficiency(2.0, 1280.0, 128.0, 256.0), 0.82 * 0.5));
        assert!(near(GPU.efficiency(3.0, 128.0, 128.0, 256.0), 0.82 * 0.6 * 0.5));
        // A sum of 256 terms is not split.
        assert!(near(GPU.efficiency(1.0, 128.0, 256.0, 256.0), 0.82 * 0.2 * 256.0 / 384.0));
    }

    #[test]
    fn an_operation_takes_the_longer_of_arithmetic_and_memory() {
        let of = |operation, precision| GPU.operation(&operation, precision);
        let (large, thin) = (
            Operation::Product { batch: 1.0, m: 1280.0, k: 1280.0, n: 256.0 },
            Operation::Product { batch: 1.0, m: 1280.0, k: 1.0, n: 1280.0 },
        );
        let flops = 2.0 * 1280.0 * 1280.0 * 256.0;
        let efficiency = 0.82 * 1280.0 / (1280.0 + 128.0);
        assert!(near(of(large, Precision::F32), flops / (1e12 * efficiency)));
        assert!(near(of(large, Precision::Bf16), flops / (4e12 * efficiency)));
        // 1280 + 1280 + 1280^2 elements of two bytes at 85 GB/s.
        let bytes = 2.0 * (2.0 * 1280.0 + 1280.0 * 1280.0);
        assert!(of(thin, Precision::Bf16) >= bytes / 85e9);
        let pass = Operation::Pass { rows: 9.0, numbers: 85e9, exponentials: 9.0 };
        assert_eq!([Precision::F32, Precision::Tf32, Precision::F16].map(|p| of(pass, p)), [4.0, 4.0, 2.0]);
        assert_eq!(of(Operation::Weights { numbers: 85e9 }, Precision::Bf16), 4.0);
    }
}
