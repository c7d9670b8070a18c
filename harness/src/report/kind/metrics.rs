//! Training curves, read from the metrics of stage runs.

use super::key::{Key, ValueType, words_of};
use crate::config::TrainStage;
use crate::records::TrialRecord;
use crate::report::experiment::fields::Fields;
use crate::report::figure::Point;
use crate::report::results::observation::Observation;
use crate::track::{METRICS, MetricsTable};
use stats::mean;
use stats::spread;

/// Maximum number of points of a smoothed training curve.
const CURVE_POINTS: usize = 200;

/// Choices for the horizontal axis: the word in a file, the column of metrics.csv, and the label.
const OVER: [(&str, (&str, &str)); 3] = [
    ("tokens", ("tokens", "target tokens")),
    ("step", ("step", "optimizer steps")),
    ("elapsed_seconds", ("elapsed_seconds", "training time (s)")),
];

/// The stage whose curves are drawn.
pub const STAGE: Key =
    Key::optional("stage", ValueType::Words(|| TrainStage::all().map(TrainStage::name).collect()));

/// The quantity on the horizontal axis.
pub const X: Key = Key::optional("x", ValueType::Words(|| words_of(&OVER)));

/// A stage and the horizontal axis of its curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// The stage.
    pub stage: TrainStage,
    /// The column of metrics.csv on the horizontal axis.
    pub x: &'static str,
    /// Its label.
    pub x_label: &'static str,
}

impl Training {
    /// The curves of a stage over target tokens.
    pub fn of(stage: TrainStage) -> Self {
        let (x, x_label) = OVER[0].1;
        Self { stage, x, x_label }
    }

    /// Parses `stage` and `x`.
    pub fn read(fields: &mut Fields) -> Self {
        let stages: Vec<_> = TrainStage::all().map(|stage| (stage.name(), stage)).collect();
        let stage = fields.choice("stage", &stages).unwrap_or(TrainStage::Pretrain);
        let (x, x_label) = fields.choice("x", &OVER).unwrap_or(OVER[0].1);
        Self { stage, x, x_label }
    }

    /// Returns the curves of a trial's stage for the wanted columns, one per split and column, in the order of the
    /// file; none if the stage did not run.
    pub fn curves(self, trial: &TrialRecord, is_wanted: impl Fn(&str) -> bool) -> Vec<Curve> {
        let record = trial.stages.iter().find(|s| s.stage == self.stage.name());
        record.and_then(|record| self.read_file(&record.record, is_wanted)).unwrap_or_default()
    }

    fn read_file(self, dir: &std::path::Path, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<Curve>> {
        let text = std::fs::read_to_string(dir.join(METRICS)).ok()?;
        let course = MetricsTable::of(&text)?;
        let (step, x) = (course.column("step")?, course.column(self.x)?);
        let wanted: Vec<usize> =
            (0..course.columns.len()).filter(|i| is_wanted(course.columns[*i])).collect();
        let mut found: Vec<Curve> = vec![];
        for row in course.rows() {
            let number = |i: usize| row.number(i).filter(|n| n.is_finite());
            let (split, Some(step), Some(x)) = (row.split, number(step), number(x)) else { continue };
            for (i, y) in wanted.iter().filter_map(|i| Some((*i, number(*i)?))) {
                let (column, row) = (course.columns[i], Row { step, x, y });
                match found.iter_mut().find(|curve| curve.split == split && curve.column == column) {
                    Some(curve) => curve.rows.push(row),
                    None => found.push(Curve { split: split.into(), column: column.into(), rows: vec![row] }),
                }
            }
        }
        Some(found)
    }
}

/// One column of metrics.csv over another, for one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The split, such as `train`, `val` or `val:<set>`.
    pub split: String,
    /// The column on the vertical axis.
    pub column: String,
    /// Its points in the order of the file.
    pub rows: Vec<Row>,
}

/// A point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The optimizer step.
    pub step: f64,
    /// Horizontal position.
    pub x: f64,
    /// Vertical position.
    pub y: f64,
}

impl Curve {
    /// Returns the curve as drawn: a training curve with more than 200 rows is averaged over blocks of neighbouring
    /// rows, so that every row counts; other curves are unchanged.
    pub fn smoothed(&self) -> Vec<Row> {
        let is_long = self.split.starts_with("train");
        let width = if is_long { self.rows.len().div_ceil(CURVE_POINTS).max(1) } else { 1 };
        let mean_of =
            |part: &[Row], number: fn(&Row) -> f64| mean(&part.iter().map(number).collect::<Vec<_>>());
        let blocks = self.rows.chunks(width);
        blocks
            .map(|part| Row {
                step: mean_of(part, |row| row.step),
                x: mean_of(part, |row| row.x),
                y: mean_of(part, |row| row.y),
            })
            .collect()
    }
}

/// Returns one observation for each trial among some observations.
pub fn each_trial<'o, 'a>(observations: &[&'o Observation<'a>]) -> Vec<&'o Observation<'a>> {
    let mut trials: Vec<&Observation> = vec![];
    for observation in observations {
        if !trials.iter().any(|o| o.trial.trial == observation.trial.trial) {
            trials.push(observation);
        }
    }
    trials
}

/// Converts rows to points without an interval.
pub fn points(rows: &[Row]) -> Vec<Point> {
    rows.iter().map(|row| Point { x: row.x, y: row.y, seeds: 1, ..Point::default() }).collect()
}

/// Returns the mean of the curves of several seeds with its 95 % interval. Curves with the same steps are averaged row by
/// row; others at the positions of the first curve where all have values, with linear interpolation.
pub fn mean_curve(seeds: &[Vec<Row>]) -> Vec<Point> {
    let Some(first) = seeds.first() else { return vec![] };
    let steps = || first.iter().map(|row| row.step);
    let are_alike = seeds.iter().all(|curve| curve.iter().map(|row| row.step).eq(steps()));
    let at = |(i, &Row { x, .. }): (usize, &Row)| {
        let (x, values): (f64, Vec<f64>) = if are_alike {
            let rows: Vec<Row> = seeds.iter().map(|curve| curve[i]).collect();
            (mean(&rows.iter().map(|row| row.x).collect::<Vec<_>>()), rows.iter().map(|row| row.y).collect())
        } else {
            (x, seeds.iter().map(|curve| value_at(curve, x)).collect::<Option<_>>()?)
        };
        let spread = spread(&values)?;
        let interval = spread.t95.map(|half| (spread.mean - half, spread.mean + half));
        Some(Point { x, y: spread.mean, interval, seeds: spread.n, ..Point::default() })
    };
    first.iter().enumerate().filter_map(at).collect()
}

fn value_at(curve: &[Row], x: f64) -> Option<f64> {
    let after = curve.partition_point(|row| row.x < x);
    let (high, low) = (curve.get(after), after.checked_sub(1).map(|i| curve[i]));
    match (low, high) {
        (_, Some(high)) if high.x <= x => Some(high.y),
        (Some(low), Some(high)) => Some(low.y + (x - low.x) / (high.x - low.x) * (high.y - low.y)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows at these steps, tokens and losses.
    fn rows(numbers: &[(f64, f64, f64)]) -> Vec<Row> {
        numbers.iter().map(|&(step, x, y)| Row { step, x, y }).collect()
    }

    #[test]
    fn seeds_are_averaged_where_all_have_values() {
        let long = rows(&[(1.0, 1.0, 4.0), (2.0, 2.0, 2.0), (4.0, 4.0, 1.0)]);
        let found = mean_curve(&[long.clone(), rows(&[(1.0, 1.0, 6.0), (3.0, 3.0, 2.0)])]);
        // At 2 the second curve is half way from 6 to 2; at 4 it has ended.
        assert_eq!(
            found.iter().map(|p| (p.x, p.y, p.seeds)).collect::<Vec<_>>(),
            [(1.0, 5.0, 2), (2.0, 3.0, 2)]
        );
        // Rows of the same steps at different token counts.
        let alike = mean_curve(&[rows(&[(1.0, 10.0, 4.0)]), rows(&[(1.0, 12.0, 6.0)])]);
        assert_eq!((alike[0].x, alike[0].y, alike.len()), (11.0, 5.0, 1));
        // As many rows, but of other steps: at 2 the second curve is half way from 6 to 2.
        let others = mean_curve(&[long, rows(&[(1.0, 1.0, 6.0), (3.0, 3.0, 2.0), (5.0, 5.0, 1.0)])]);
        assert_eq!(
            others.iter().map(|p| (p.x, p.y)).collect::<Vec<_>>(),
            [(1.0, 5.0), (2.0, 3.0), (4.0, 1.25)]
        );
        // Half-width for two values 2 apart: 12.706 times their standard deviation, divided by the square root of 2.
        let (low, high) = found[0].interval.unwrap_or_default();
        assert!((high - low - 2.0 * 12.706_204_7).abs() < 1e-5, "{low} {high}");
    }

    #[test]
    fn long_curves_of_training_are_averaged_and_others_are_not() {
        let row = |i: i32| Row { step: f64::from(i), x: f64::from(10 * i), y: f64::from(i % 2) };
        let rows: Vec<Row> = (0..400).map(row).collect();
        let curve = |split: &str| Curve { split: split.into(), column: "loss".into(), rows: rows.clone() };
        let smoothed = curve("train").smoothed();
        assert_eq!(smoothed.len(), 200);
        assert_eq!(smoothed[..2], [Row { step: 0.5, x: 5.0, y: 0.5 }, Row { step: 2.5, x: 25.0, y: 0.5 }]);
        assert_eq!(curve("val").smoothed(), rows);
    }
}
