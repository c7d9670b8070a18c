//! Matrix products with weights, and measurements of peak throughput.

use super::memory::{Floats, Weights};
use super::queue::{plain, transposed};
use super::{Address, Cuda, Dtype, Factor, Product};
use crate::Result;
use crate::backend::{Memory, mix};
use crate::layout::Matrix;
use std::time::Instant;

impl Cuda {
    /// `c = a b + beta c` for activations or weights in this backend's precision; shape `[m, n, k]`, `c` of type `result`.
    pub(super) fn product(
        &self,
        (c, result): (Address, Dtype),
        a: Factor,
        b: Factor,
        [m, n, k]: [usize; 3],
        beta: f32,
    ) -> Result<()> {
        let (factors, tf32) = (self.dtype(), self.tf32());
        let (batch, alpha) = (1, 1.0);
        self.queue.product(&Product { a, b, c, m, n, k, batch, factors, result, tf32, alpha, beta })
    }

    /// `y = x wᵀ + beta y` for `n` rows.
    pub(super) fn forward_product(
        &self,
        y: Address,
        x: Address,
        w: &Weights,
        m: &Matrix,
        n: usize,
        beta: f32,
    ) -> Result<()> {
        let weight = transposed(w.at(&m.range));
        self.product((y, self.dtype()), plain(x), weight, [n, m.d_out, m.d_in], beta)
    }

    /// `dx = dy w + beta dx` for `n` rows.
    pub(super) fn backward_product(
        &self,
        dx: Address,
        dy: Address,
        w: &Weights,
        m: &Matrix,
        n: usize,
        beta: f32,
    ) -> Result<()> {
        let weight = plain(w.at(&m.range));
        self.product((dx, self.dtype()), plain(dy), weight, [n, m.d_in, m.d_out], beta)
    }

    /// Adds `dyᵀ x` of `n` rows to the gradient of a weight, in f32.
    pub(super) fn weight_grad(
        &self,
        grads: &Floats,
        dy: Address,
        x: Address,
        m: &Matrix,
        n: usize,
    ) -> Result<()> {
        let grad = (grads.at(m.range.start), Dtype::F32);
        self.product(grad, transposed(dy), plain(x), [m.d_out, m.d_in, n], 1.0)
    }

    /// Measures the throughput of large products, in 10^9 floating-point operations per second.
    pub(super) fn rate_of_products(&self) -> Result<f64> {
        let (size, rounds) = if cfg!(feature = "cuda") { (8192, 20) } else { (32, 1) };
        // Pseudo-random values: on regular ones a GPU draws less power and runs faster.
        let number = |i: u64| (mix(i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
        let numbers = |seed: u64| (0..(size * size) as u64).map(move |i| number(i ^ (seed << 40)));
        let factors = [1, 2].map(|seed| self.buffer(&numbers(seed).collect::<Vec<_>>(), size));
        let [a, b] = factors;
        let (a, b, c) = (a?, b?, self.dirty(size * size)?);
        let result = (c.room.at, self.dtype());
        let product = || self.product(result, plain(a.room.at), plain(b.room.at), [size; 3], 0.0);
        let wait = || self.queue.download::<f32>(c.room.at, 1);
        for _ in 0..3 {
            product()?;
        }
        wait()?;
        let began = Instant::now();
        for _ in 0..rounds {
            product()?;
        }
        wait()?;
        Ok(f64::from(rounds) * 2.0 * (size as f64).powi(3) / began.elapsed().as_secs_f64() / 1e9)
    }

    /// Measures the throughput of large copies, reads plus writes, in 10^9 bytes per second.
    pub(super) fn rate_of_copies(&self) -> Result<f64> {
        let (bytes, rounds) = if cfg!(feature = "cuda") { (1 << 30, 10) } else { (1 << 22, 1) };
        let (from, to) = (self.queue.room(bytes)?, self.queue.room(bytes)?);
        self.queue.zero(from.at, bytes)?;
        self.queue.copy(to.at, from.at, bytes)?;
        let wait = || self.queue.download::<f32>(to.at, 1);
        wait()?;
        let began = Instant::now();
        for _ in 0..rounds {
            self.queue.copy(to.at, from.at, bytes)?;
        }
        wait()?;
        Ok(f64::from(rounds) * 2.0 * bytes as f64 / began.elapsed().as_secs_f64() / 1e9)
    }
}
