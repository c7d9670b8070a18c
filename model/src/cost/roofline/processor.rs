//! The CPU of this machine, measured.

use super::{Seconds, Step};
use crate::backend::cpu::{gemm, math, rms_norm, swiglu};
use crate::backend::{Backend, Cpu};
use crate::config::ModelConfig;
use crate::cost::step::{self, Operation, Trained};
use std::time::Instant;

/// Measured costs of a CPU: seconds on one thread while all threads are busy.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Processor {
    /// Number of threads.
    pub threads: usize,
    /// Seconds per floating-point operation of a large product.
    pub flop: f64,
    /// Pairs of a working set in bytes and the seconds per element read or written for it, in ascending order.
    pub moves: Vec<(f64, f64)>,
    /// Seconds per exponential.
    pub exponential: f64,
    /// Seconds per row reduction, in addition to the cost of its elements.
    pub row: f64,
}

/// Array lengths for which memory is measured: within the L2 cache, around its size, and beyond it.
const SIZES: [usize; 4] = [1 << 14, 1 << 17, 1 << 20, 1 << 23];

/// Inner positions after which a product's result is read and written again, and columns that are computed together.
const INNER: f64 = 256.0;
const COLUMNS: f64 = 16.0;

/// Positions per query tile of attention.
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

    /// Seconds per element of a pass over this many bytes, interpolated between measured sizes in the logarithm of the size.
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

    /// Memory traffic and arithmetic hardly overlap on a core: their times are added. `set`: bytes that are accessed
    /// before the same data is needed again, which determines the cache level that it comes from.
    fn operation(&self, operation: &Operation, set: f64) -> f64 {
        match *operation {
            Operation::Product { batch, m, k, n } => {
                let columns = (n / COLUMNS).ceil() * COLUMNS;
                // Both factors are packed; the result is read and written once per block of inner positions.
                let numbers = m * k + k * n + 2.0 * m * n * (k / INNER).ceil();
                let bytes = 4.0 * (m * k + k * n + m * n);
                batch * (2.0 * m * k * columns * self.flop + numbers * self.number(bytes.max(set)))
            }
            Operation::Attention { positions, pairs, heads, backward } => {
                let (count, head_dim) = (heads.n_heads as f64, heads.head_dim as f64);
                let wide = (head_dim / COLUMNS).ceil() * COLUMNS;
                // Columns that are computed together are half masked on the diagonal.
                let seen = count * (pairs + COLUMNS * positions);
                let rows = count * positions;
                // Scores of a tile: written by each product, processed by the softmax or its gradient.
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

    /// Estimates the seconds of a step on this many threads.
    pub fn step(&self, model: &ModelConfig, step: &Step, threads: usize) -> Seconds {
        let lanes = step.lanes.max(1);
        let weights = model.params() as f64;
        let learns = step.trained != Trained::Nothing;
        // What a group accesses before it returns to the same data: its kept activations, the weights and the gradients.
        let kept = group_positions(step) as f64 * step::kept(model, step.recompute);
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
        // Threads take lanes in order; the thread that finishes last determines the time.
        let mut busy = vec![Seconds::default(); threads.clamp(1, lanes)];
        let by_time = |a: &Seconds, b: &Seconds| a.total().total_cmp(&b.total());
        for number in 0..lanes {
            if let Some(next) = busy.iter_mut().min_by(|a, b| by_time(a, b)) {
                *next = next.plus(1.0, lane(number));
            }
        }
        let mut longest = busy.into_iter().max_by(by_time).unwrap_or_default();
        if learns {
            // A thread takes a matrix, or a part of the remaining weights.
            let update = self.operations(&step::update(model, step.rule), 0.0).total();
            longest.weights += update / threads.max(1) as f64;
        }
        longest
    }
}

/// Maximum number of positions of a lane's groups; a single item may exceed [`Backend::GROUP_POSITIONS`].
fn group_positions(step: &Step) -> usize {
    let item = step.rows() * step.len;
    Cpu::GROUP_POSITIONS.max(item).min(step.items.div_ceil(step.lanes.max(1)) * item)
}

/// Seconds of CPU time that each rate is measured for, and the limit in wall-clock time.
const MEASURED: (f64, f64) = (0.15, 1.0);

/// Mean seconds per call of `work`, after one warm-up call: CPU time if the system reports it, so that other processes
/// affect the result only through caches and clock frequency.
fn mean(mut work: impl FnMut()) -> f64 {
    work();
    let (began, before) = (Instant::now(), processor_seconds());
    let (mut rounds, mut looked) = (0.0, 0.0);
    loop {
        work();
        rounds += 1.0;
        let clock = began.elapsed().as_secs_f64();
        // The system updates its count every few milliseconds, at scheduler ticks.
        if clock - looked < 2e-3 {
            continue;
        }
        looked = clock;
        let measured = before.and_then(|before| Some(processor_seconds()? - before));
        let seconds = measured.unwrap_or(clock);
        if seconds >= MEASURED.0 || clock >= MEASURED.1 {
            return if seconds > 0.0 { seconds } else { clock } / rounds;
        }
    }
}

/// CPU time of the current thread in seconds; `None` except on Linux.
fn processor_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<f64>().ok()? * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{near, tiny};
    use super::*;

    /// A CPU that takes one second per floating-point operation of a product, and no time for anything else.
    fn multiplier() -> Processor {
        Processor { threads: 4, flop: 1.0, moves: vec![(1.0, 0.0)], exponential: 0.0, row: 0.0 }
    }

    #[test]
    fn the_thread_that_ends_last_counts() {
        let (model, step) = tiny();
        let seconds = |items, threads| multiplier().step(&model, &Step { items, ..step }, threads).total();
        let one = seconds(1, 1);
        // Lanes of 2, 2, 1 and 1 rows: three rows per thread on two threads, at most two on three or four threads.
        assert_eq!([1, 2, 3, 4, 9].map(|threads| seconds(6, threads) / one), [6.0, 3.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_group_holds_at_least_one_item() {
        let (_, step) = tiny();
        let positions = |items, len| group_positions(&Step { items, len, ..step });
        // Four lanes: of one row of 300, of two, and of two rows that are longer than the limit of 512.
        assert_eq!(
            [(4, 300), (6, 300), (6, 1000)].map(|(items, len)| positions(items, len)),
            [300, 512, 1000]
        );
        let pairs = Step { items: 6, len: 400, trained: Trained::Preferences, ..step };
        assert_eq!(group_positions(&pairs), 800);
    }

    #[test]
    fn moves_are_reported_between_measured_sizes() {
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
