//! The length of a stage: fixed before its first step by data and keys alone, and the same after every resume.

use crate::config::Training;
use crate::data::RowSize;
use crate::records::Notice;
use crate::track::{counted, number};
use model::Cost;

/// The length of a stage.
///
/// Batches run across the ends of passes. A length in `epochs` trains exactly the rows of its passes, so the last batch may
/// be smaller; one in `steps`, `flops` or `tokens` takes full batches and cuts the last pass short.
#[derive(Debug, Clone, PartialEq)]
pub struct Length {
    /// Optimizer steps; the learning rate schedule spans them.
    pub steps: u64,
    /// Rows, or pairs, of all steps.
    pub rows: u64,
    /// Rows of a full batch: `batch_size * accumulation`.
    pub batch: u64,
    /// Passes over the data; a cut pass counts by the share of its rows.
    pub passes: f64,
    /// Number of steps whose batch has more rows than a pass, so that it repeats some.
    pub repeating: u64,
    /// Rows of the first pass.
    pub rows_per_pass: u64,
    /// Target tokens of all steps.
    pub tokens: u64,
    /// Floating-point operations of all steps.
    pub flops: f64,
}

impl Length {
    /// The length that `training` configures; `row_sizes` returns the size of every row of a pass.
    ///
    /// Packed rows differ from pass to pass, so it is called for every pass.
    pub fn new(training: &Training, cost: Cost, row_sizes: impl Fn(u64) -> Vec<RowSize>) -> Self {
        let batch = training.rows_of_step() as u64;
        let rows = match (training.steps, training.flops, training.tokens) {
            (Some(steps), ..) => steps.max(1) * batch,
            (None, Some(flops), _) => rows_nearest(flops, cost, batch, &row_sizes),
            (None, None, Some(tokens)) => rows_until(tokens, &row_sizes).next_multiple_of(batch),
            (None, None, None) => rows_of_passes(training.epochs, &row_sizes),
        };
        let steps = rows.div_ceil(batch);
        let (tokens, flops) = (0, 0.0);
        let mut length =
            Self { steps, rows, batch, passes: 0.0, repeating: 0, rows_per_pass: 0, tokens, flops };
        let (mut begin, mut step, mut all) = (0, 0, RowSize::default());
        for epoch in 0.. {
            let sizes = row_sizes(epoch);
            let of_pass = sizes.len() as u64;
            if of_pass == 0 {
                break;
            }
            if epoch == 0 {
                length.rows_per_pass = of_pass;
            }
            let end = begin + of_pass;
            while step < steps && step * batch < end {
                step += 1;
                length.repeating += u64::from(length.rows_of(step) > of_pass);
            }
            let trained = rows.min(end) - begin;
            length.passes += trained as f64 / of_pass as f64;
            all += sizes.into_iter().take(trained as usize).sum();
            if end >= rows {
                break;
            }
            begin = end;
        }
        (length.tokens, length.flops) = (all.tokens, cost.of(all.positions, all.squares));
        length
    }

    /// Number of rows of a step; steps count from 1.
    pub fn rows_of(&self, step: u64) -> u64 {
        self.batch.min(self.rows - (step - 1) * self.batch)
    }

    /// The notice about batches that repeat rows; `None` if none do.
    pub fn notice(&self, stage: &str) -> Option<Notice> {
        let (rows, batch) = (counted(self.rows_per_pass as usize, "row"), number(self.batch));
        (self.repeating > 0).then(|| Notice {
            place: stage.into(),
            reason: format!("batches repeat a row: a pass has {rows}, and a batch takes {batch}"),
            count: self.repeating,
            of: self.steps,
        })
    }
}

/// Formats a length: `3 steps, 1 pass over the data` or `3 steps, 1.20 passes over the data, the last one cut`.
pub fn describe(steps: u64, passes: f64) -> String {
    let (s, steps) = (if steps == 1 { "" } else { "s" }, number(steps));
    let passes = match (passes.fract() == 0.0, passes as u64) {
        (true, 1) => "1 pass over the data".into(),
        (true, whole) => format!("{} passes over the data", number(whole)),
        (false, _) => format!("{passes:.2} passes over the data, the last one cut"),
    };
    format!("{steps} step{s}, {passes}")
}

/// Number of rows of the number of full batches whose floating-point operations are nearest to `flops`.
fn rows_nearest(flops: f64, cost: Cost, batch: u64, row_sizes: impl Fn(u64) -> Vec<RowSize>) -> u64 {
    let (mut rows, mut all, mut before) = (0, RowSize::default(), 0.0);
    for epoch in 0.. {
        let sizes = row_sizes(epoch);
        // Data without rows never reaches a length.
        if sizes.is_empty() {
            break;
        }
        for size in sizes {
            rows += 1;
            all += size;
            if rows % batch > 0 {
                continue;
            }
            let so_far = cost.of(all.positions, all.squares);
            if so_far >= flops {
                let one_less = rows > batch && flops - before < so_far - flops;
                return if one_less { rows - batch } else { rows };
            }
            before = so_far;
        }
    }
    rows
}

/// Number of rows that together first reach this number of target tokens.
fn rows_until(tokens: u64, row_sizes: impl Fn(u64) -> Vec<RowSize>) -> u64 {
    let (mut rows, mut left) = (0, tokens.max(1));
    for epoch in 0.. {
        let sizes = row_sizes(epoch);
        // Data without target tokens never reaches a length.
        if sizes.iter().all(|size| size.tokens == 0) {
            break;
        }
        for size in sizes {
            rows += 1;
            left = left.saturating_sub(size.tokens);
            if left == 0 {
                return rows;
            }
        }
    }
    rows
}

/// Number of rows of these passes; of a partial pass its share of the rows, rounded up.
fn rows_of_passes(passes: f64, row_sizes: impl Fn(u64) -> Vec<RowSize>) -> u64 {
    let rows = |epoch: u64| row_sizes(epoch).len() as u64;
    let whole = passes.floor() as u64;
    // The tolerance makes 0.1 + 0.2 passes over ten rows three rows.
    let part = |rows: u64| (passes.fract() * rows as f64 - 1e-9).ceil() as u64;
    let rest = if passes.fract() > 0.0 { part(rows(whole)) } else { 0 };
    ((0..whole).map(rows).sum::<u64>() + rest).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length with rows of ten target tokens in twelve positions of one document: `rows` of them in even passes and one more in
    /// odd ones, as packing may give. A row costs 12 + 144 operations.
    fn length(rows: usize, training: &Training) -> Length {
        let row = RowSize { tokens: 10, positions: 12, squares: 144 };
        let cost = Cost { linear: 1.0, quadratic: 1.0, window: None };
        Length::new(training, cost, |epoch| vec![row; rows + epoch as usize % 2])
    }

    fn training() -> Training {
        Training { batch_size: 16, ..Training::default() }
    }

    #[test]
    fn epochs_train_exactly_their_rows() {
        let one = length(40, &training());
        assert_eq!((one.steps, one.rows, one.passes), (3, 40, 1.0));
        assert_eq!([1, 2, 3].map(|step| one.rows_of(step)), [16, 16, 8]);
        assert_eq!(describe(one.steps, one.passes), "3 steps, 1 pass over the data");
        let more = length(40, &Training { epochs: 3.5, ..training() });
        assert_eq!((more.rows, more.steps), (40 + 41 + 40 + 21, 9));
        assert_eq!(describe(9, more.passes), "9 steps, 3.51 passes over the data, the last one cut");
        let many = length(40, &Training { epochs: 2.0, accumulation: 2, ..training() });
        assert_eq!((many.batch, many.steps, many.rows_of(3)), (32, 3, 17));
        assert_eq!(length(40, &Training { epochs: 1e-9, ..training() }).rows, 1);
    }

    #[test]
    fn steps_and_tokens_take_full_batches() {
        let steps = length(40, &Training { steps: Some(5), epochs: 9.0, ..training() });
        assert_eq!((steps.rows, steps.passes), (80, 1.0 + 40.0 / 41.0));
        // 81 rows are needed for 801 tokens.
        let tokens = length(40, &Training { tokens: Some(801), ..training() });
        assert_eq!((tokens.steps, tokens.rows, tokens.rows_of(6)), (6, 96, 16));
        assert_eq!(length(40, &Training { tokens: Some(800), ..training() }).steps, 5);
    }

    #[test]
    fn operations_take_the_nearest_number_of_full_batches() {
        let step = 16.0 * 156.0;
        let of = |flops: f64| length(40, &Training { flops: Some(flops), tokens: Some(3), ..training() });
        let cases = [(1.0, 1), (0.9 * step, 1), (1.4 * step, 1), (1.6 * step, 2), (50.0 * step, 50)];
        for (flops, steps) in cases {
            let found = of(flops);
            assert_eq!((found.steps, found.rows, found.tokens), (steps, 16 * steps, 160 * steps), "{flops}");
            assert_eq!(found.flops, steps as f64 * step);
        }
        assert_eq!(length(40, &Training { steps: Some(3), flops: Some(1.0), ..training() }).steps, 3);
        // A smaller last batch, of 8 rows, is counted by its rows.
        let one = length(40, &training());
        assert_eq!((one.tokens, one.flops), (400, 40.0 * 156.0));
    }

    #[test]
    fn data_without_rows_has_a_length_too() {
        let cost = Cost { linear: 1.0, quadratic: 1.0, window: None };
        let none = |training: Training| Length::new(&training, cost, |_| vec![]);
        for (training, steps) in [
            (Training { steps: Some(5), ..training() }, 5),
            (Training { flops: Some(1e3), ..training() }, 0),
            (Training { tokens: Some(80), ..training() }, 0),
            (training(), 1),
        ] {
            let length = none(training);
            assert_eq!((length.steps, length.tokens, length.passes), (steps, 0, 0.0));
        }
    }

    #[test]
    fn a_batch_that_repeats_a_row_is_reported() {
        let few = length(5, &Training { steps: Some(3), ..training() });
        assert_eq!(
            few.notice("sft").map(|n| n.to_string()),
            Some("sft: 3 of 3 batches repeat a row: a pass has 5 rows, and a batch takes 16".into())
        );
        // One pass over five rows takes each of them once.
        assert_eq!(length(5, &training()).notice("sft"), None);
        assert_eq!(length(16, &Training { steps: Some(9), ..training() }).notice("sft"), None);
    }
}
