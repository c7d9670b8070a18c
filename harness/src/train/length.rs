//! How long a stage trains: settled before its first step from data and keys alone, wherever it is resumed.

use crate::config::Training;
use crate::records::Notice;
use crate::track::number;

/// The length of a stage.
///
/// Batches run across the ends of passes. A length in `epochs` trains exactly the rows of its passes, in a last
/// batch that may be smaller; one in `steps` or `tokens` takes full batches and cuts its last pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Length {
    /// Optimizer steps, over which the learning rate runs its course.
    pub steps: u64,
    /// Rows, or pairs, of all steps.
    pub rows: u64,
    /// Rows of a full batch: `batch_size * accumulation`.
    pub batch: u64,
    /// Passes over the data; a pass that is cut counts by the share of its rows.
    pub passes: f64,
    /// Steps whose batch has more rows than the data, so that it repeats some.
    pub repeating: u64,
    /// Rows of the first pass.
    pub rows_per_pass: u64,
}

impl Length {
    /// The length that `training` asks for, where `row_tokens` tells the target tokens of every row of a pass.
    ///
    /// Packed rows differ from pass to pass, so every pass is asked for.
    pub fn new(training: &Training, row_tokens: impl Fn(u64) -> Vec<u64>) -> Self {
        let batch = (training.batch_size * training.accumulation.max(1)) as u64;
        let rows = match (training.steps, training.tokens) {
            (Some(steps), _) => steps.max(1) * batch,
            (None, Some(tokens)) => rows_until(tokens, &row_tokens).next_multiple_of(batch),
            (None, None) => rows_of_passes(training.epochs, &row_tokens),
        };
        let steps = rows.div_ceil(batch);
        let mut length = Self { steps, rows, batch, passes: 0.0, repeating: 0, rows_per_pass: 0 };
        let (mut begin, mut step) = (0, 0);
        for epoch in 0.. {
            let of_pass = row_tokens(epoch).len() as u64;
            if epoch == 0 {
                length.rows_per_pass = of_pass;
            }
            let end = begin + of_pass;
            while step < steps && step * batch < end {
                step += 1;
                length.repeating += u64::from(length.rows_of(step) > of_pass);
            }
            length.passes += (rows.min(end) - begin) as f64 / of_pass as f64;
            if end >= rows {
                break;
            }
            begin = end;
        }
        length
    }

    /// Rows of a step, counted from 1.
    pub fn rows_of(&self, step: u64) -> u64 {
        self.batch.min(self.rows - (step - 1) * self.batch)
    }

    /// What is to be told of batches that repeat rows.
    pub fn notice(&self, stage: &str) -> Option<Notice> {
        let (rows, batch) = (number(self.rows_per_pass), number(self.batch));
        (self.repeating > 0).then(|| Notice {
            place: stage.into(),
            reason: format!("batches repeat a row: there are {rows} rows, and a batch takes {batch}"),
            count: self.repeating,
            of: self.steps,
        })
    }
}

/// Such as `3 steps, 1 pass over the data` or `3 steps, 1.20 passes over the data, the last one cut`.
pub fn describe(steps: u64, passes: f64) -> String {
    let (s, steps) = (if steps == 1 { "" } else { "s" }, number(steps));
    let passes = match (passes.fract() == 0.0, passes as u64) {
        (true, 1) => "1 pass over the data".into(),
        (true, whole) => format!("{} passes over the data", number(whole)),
        (false, _) => format!("{passes:.2} passes over the data, the last one cut"),
    };
    format!("{steps} step{s}, {passes}")
}

/// The first rows that together have so many target tokens.
fn rows_until(tokens: u64, row_tokens: impl Fn(u64) -> Vec<u64>) -> u64 {
    let (mut rows, mut left) = (0, tokens.max(1));
    for epoch in 0.. {
        for of_row in row_tokens(epoch) {
            rows += 1;
            left = left.saturating_sub(of_row);
            if left == 0 {
                return rows;
            }
        }
    }
    rows
}

/// The rows of so many passes; of a part of a pass, that part of its rows, rounded up.
fn rows_of_passes(passes: f64, row_tokens: impl Fn(u64) -> Vec<u64>) -> u64 {
    let rows = |epoch: u64| row_tokens(epoch).len() as u64;
    let whole = passes.floor() as u64;
    // 0.1 + 0.2 passes over ten rows are three rows.
    let part = |rows: u64| (passes.fract() * rows as f64 - 1e-9).ceil() as u64;
    let rest = if passes.fract() > 0.0 { part(rows(whole)) } else { 0 };
    ((0..whole).map(rows).sum::<u64>() + rest).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of ten tokens: so many in even passes, one more in odd ones, as packing has it.
    fn length(rows: usize, training: &Training) -> Length {
        Length::new(training, |epoch| vec![10; rows + epoch as usize % 2])
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
        // 801 tokens are those of 81 rows.
        let tokens = length(40, &Training { tokens: Some(801), ..training() });
        assert_eq!((tokens.steps, tokens.rows, tokens.rows_of(6)), (6, 96, 16));
        assert_eq!(length(40, &Training { tokens: Some(800), ..training() }).steps, 5);
    }

    #[test]
    fn a_batch_that_repeats_a_row_is_told() {
        let few = length(5, &Training { steps: Some(3), ..training() });
        assert_eq!(
            few.notice("sft").map(|n| n.to_string()),
            Some("sft: 3 of 3 batches repeat a row: there are 5 rows, and a batch takes 16".into())
        );
        // One pass over five rows takes each of them once.
        assert_eq!(length(5, &training()).notice("sft"), None);
        assert_eq!(length(16, &Training { steps: Some(9), ..training() }).notice("sft"), None);
    }
}
