//! This machine's processor, measured.

use super::{Seconds, Step};
use crate::backend::cpu::{gemm, math, rms_norm, swiglu};
use crate::backend::{Backend, Cpu};
use crate::config::ModelConfig;
use crate::cost::step::{self, Change, Operation};
use std::time::Instant;

/// A processor as it was measured: seconds of one thread while all are at work.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Processor {
    /// Threads.
    pub threads: usize,
    /// Of an operation of a large product.
    pub flop: f64,
    /// Of a number that is read or written, by the bytes that are gone over.
    pub moves: Vec<(f64, f64)>,
    /// Of an exponential.
    pub exponential: f64,
    /// Of a row's sums, beside what each of its numbers takes.
    pub row: f64,
}

/// Numbers that memory is measured with: in the second cache, about it, and beyond it.
const SIZES: [usize; 4] = [1 << 14, 1 << 17, 1 << 20, 1 << 23];

/// Inner positions after which a product's result is gone over once more, and columns that are worked on together.
const INNER: f64 = 256.0;
const COLUMNS: f64 = 16.0;

/// Queries of a position tile of attention.
const QUERIES: f64 = 64.0;

impl Processor {
    /// Measures this machine on all threads of the current rayon pool, in one or two seconds.
    pub fn measure() -> Self {
        let each = rayon::broadcast(|_| Self::measure_one());
        let threads = each.len() as f64;
        let all = |of: &dyn Fn(&Self) -> f64| each.iter().map(of).sum::<f64>() / threads;
        let at = |i: usize| (SIZES[i] as f64 * 8.0, all(&|one: &Self| one.moves[i].1));
        Self {
            threads: each.len(),
            flop: all(&|one| one.flop),
            moves: (0..SIZES.len()).map(at).collect(),
            exponential: all(&|one| one.exponential),
            row: all(&|one| one.row),
        }
    }

    fn measure_one() -> Self {
        let moves = SIZES.map(|size| {
            let (x, mut y) = (vec![1e-9f32; size], vec![0.0f32; size]);
            (8.0 * size as f64, mean(|| math::add_assign(&mut y, &x)) / (3 * size) as f64)
        });
        let mut this = Self { threads: 1, flop: 0.0, moves: moves.to_vec(), exponential: 0.0, row: 0.0 };
        let (rows, side) = (512, 256);
        let (a, b, mut c) = (vec![0.5f32; rows * side], vec![0.25f32; side * side], vec![0.0; rows * side]);
        let seconds = mean(|| gemm::linear(&mut c, &a, &b, rows, side, false));
        let [m, k, n] = [rows, side, side].map(|size| size as f64);
        this.flop =
            (seconds - this.operation(&Operation::Product { batch: 1.0, m, k, n }, 0.0)) / (2.0 * m * k * n);
        let (rows, hidden) = (64, 512);
        let (x, mut y) = (vec![0.3f32; 2 * rows * hidden], vec![0.0f32; rows * hidden]);
        let seconds = mean(|| swiglu::forward(&mut y, &x, hidden));
        let numbers = (rows * hidden) as f64;
        this.exponential = (seconds / numbers - 3.0 * this.number(12.0 * numbers)).max(0.0) / 2.0;
        let (rows, d) = (512, 32);
        let (x, mut dx) = (vec![0.3f32; rows * d], vec![0.0f32; rows * d]);
        let (w, inverse, mut dw) = (vec![1.0f32; d], vec![1.0f32; rows], vec![0.0f32; d]);
        let seconds = mean(|| rms_norm::backward(&mut dx, &mut dw, &x, &x, &w, &inverse));
        let numbers = 4.0 * (rows * d) as f64;
        this.row = (seconds - numbers * this.number(4.0 * numbers)).max(0.0) / rows as f64;
        this
    }

    /// Seconds of a number of a pass over so many bytes: between measured sizes by their logarithms.
    fn number(&self, bytes: f64) -> f64 {
        let after = self.moves.iter().position(|(size, _)| *size >= bytes);
        let (first, last) = (self.moves[0], self.moves[self.moves.len() - 1]);
        match after {
            Some(0) => first.1,
            None => last.1,
            Some(i) => {
                let ((low, at_low), (high, at_high)) = (self.moves[i - 1], self.moves[i]);
                let share = (bytes / low).ln() / (high / low).ln();
                at_low + share * (at_high - at_low)
            }
        }
    }

    /// Moves and arithmetic do not overlap much on a core: their times are added. `set`: bytes that are gone over before
    /// the same are needed again, so that they come from as far away.
    fn operation(&self, operation: &Operation, set: f64) -> f64 {
        match *operation {
            Operation::Product { batch, m, k, n } => {
                let columns = (n / COLUMNS).ceil() * COLUMNS;
                // Both factors are laid out, the result is read and written with every block of inner positions.
                let numbers = m * k + k * n + 2.0 * m * n * (k / INNER).ceil();
                let bytes = 4.0 * (m * k + k * n + m * n);
                batch * (2.0 * m * k * columns * self.flop + numbers * self.number(bytes.max(set)))
            }
            Operation::Attention { positions, pairs, heads, backward } => {
                let (count, head_dim) = (heads.n_heads as f64, heads.head_dim as f64);
                let wide = (head_dim / COLUMNS).ceil() * COLUMNS;
                // Columns that are worked on together are half hidden on the diagonal.
                let seen = count * (pairs + COLUMNS * positions);
                let rows = count * positions;
                // Scores of a tile: written by each product, gone over by the softmax or its gradient.
                let (flops, moved, rows) = match backward {
                    false => (2.0 * seen * (head_dim + wide), 6.0 * seen, rows),
                    true => (2.0 * seen * (2.0 * head_dim + 3.0 * wide), 10.0 * seen, rows),
                };
                let len = 2.0 * pairs / positions;
                let tile = 4.0 * QUERIES * heads.repeats() as f64 * len;
                let qkv = positions * heads.qkv_width() as f64;
                let numbers = moved * self.number(tile) + 2.0 * qkv * self.number(set);
                flops * self.flop + numbers + seen * self.exponential + rows * self.row
            }
            Operation::Pass { rows, numbers, exponentials } => {
                numbers * self.number((4.0 * numbers).max(set))
                    + exponentials * self.exponential
                    + rows * self.row
            }
            Operation::Weights { numbers } => numbers * self.number(16.0 * numbers),
        }
    }

    fn operations(&self, operations: &step::Operations, set: f64) -> Seconds {
        let mut seconds = Seconds::default();
        for (count, operation) in operations {
            seconds.add(*count, operation, self.operation(operation, set));
        }
        seconds
    }

    /// Seconds of a step on so many threads.
    pub fn step(&self, model: &ModelConfig, step: &Step, threads: usize) -> Seconds {
        let lanes = step.lanes.max(1);
        let weights = model.params() as f64;
        let learns = step.change != Change::Nothing;
        // What a group goes over before it comes to the same place again: what is kept of it, weights and gradients.
        let positions = Cpu::GROUP_POSITIONS.min(step.items.div_ceil(lanes) * step.rows() * step.len);
        let kept = positions as f64 * step::kept(model, step.recompute);
        let set = 4.0 * if learns { kept + 2.0 * weights } else { weights };
        let lane = |lane: usize| {
            let items = step.items / lanes + usize::from(lane < step.items % lanes);
            let mut seconds = Seconds::default();
            for (often, operations) in step.groups(model, items, Cpu::GROUP_POSITIONS) {
                seconds = seconds.plus(often, self.operations(&operations, set));
            }
            if learns && lane > 0 {
                seconds = seconds.plus(1.0, self.operations(&vec![(1.0, step::lane_sum(weights))], set));
            }
            seconds
        };
        // Threads take lanes in their order; the one that ends last counts.
        let mut busy = vec![Seconds::default(); threads.clamp(1, lanes)];
        let by_time = |a: &Seconds, b: &Seconds| a.total().total_cmp(&b.total());
        for number in 0..lanes {
            if let Some(next) = busy.iter_mut().min_by(|a, b| by_time(a, b)) {
                *next = next.plus(1.0, lane(number));
            }
        }
        let mut longest = busy.into_iter().max_by(by_time).unwrap_or_default();
        if learns {
            // A thread takes a matrix, or a part of the rest.
            let update = self.operations(&step::update(model, step.rule), 0.0).total();
            longest.weights += update / threads.max(1) as f64;
        }
        longest
    }
}

/// Seconds of processor time that a rate is measured for, and of the clock at most.
const MEASURED: (f64, f64) = (0.15, 1.0);

/// The mean seconds of repeated work, after one that warms up: of processor time where the system tells it, so that what
/// else runs on the machine counts only by the caches and the clock that it takes.
fn mean(mut work: impl FnMut()) -> f64 {
    work();
    let (began, before) = (Instant::now(), processor_seconds());
    let (mut rounds, mut looked) = (0.0, 0.0);
    loop {
        work();
        rounds += 1.0;
        let clock = began.elapsed().as_secs_f64();
        // The system's own count moves on with its ticks, every few milliseconds.
        if clock - looked < 2e-3 {
            continue;
        }
        looked = clock;
        let told = before.and_then(|before| Some(processor_seconds()? - before));
        let seconds = told.unwrap_or(clock);
        if seconds >= MEASURED.0 || clock >= MEASURED.1 {
            return if seconds > 0.0 { seconds } else { clock } / rounds;
        }
    }
}

/// Seconds that the current thread has run on a processor; Linux tells them.
fn processor_seconds() -> Option<f64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(told.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{near, tiny};
    use super::*;

    /// A processor that takes a second for each operation of a product, and nothing for the rest.
    fn multiplier() -> Processor {
        Processor { threads: 4, flop: 1.0, moves: vec![(1.0, 0.0)], exponential: 0.0, row: 0.0 }
    }

    #[test]
    fn the_thread_that_ends_last_counts() {
        let (model, step) = tiny();
        let seconds = |items, threads| multiplier().step(&model, &Step { items, ..step }, threads).total();
        let one = seconds(1, 1);
        // Lanes of 2, 2, 1 and 1 rows: on two threads three rows each, on three or four two.
        assert_eq!([1, 2, 3, 4, 9].map(|threads| seconds(6, threads) / one), [6.0, 3.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn moves_are_told_between_measured_sizes() {
        let processor = Processor { moves: vec![(100.0, 1.0), (10_000.0, 3.0)], ..multiplier() };
        let found = [1.0, 100.0, 1000.0, 10_000.0, 1e9].map(|bytes| processor.number(bytes));
        for (found, want) in found.into_iter().zip([1.0, 1.0, 2.0, 3.0, 3.0]) {
            assert!(near(found, want));
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let found = Processor::measure();
        assert!(
            found.threads > 0 && found.flop > 0.0 && found.moves.iter().all(|(_, seconds)| *seconds > 0.0)
        );
        let (model, step) = tiny();
        let total = found.step(&model, &step, 1).total();
        assert!(total.is_finite() && total > 0.0);
    }
}
