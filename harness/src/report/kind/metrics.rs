//! Curves of training, read from the metrics of stage runs.

use super::key::{Holds, Key, words_of};
use crate::config::TrainStage;
use crate::records::TrialRecord;
use crate::report::fields::Fields;
use crate::report::figure::Point;
use crate::report::observation::{Observation, mean};
use crate::stats::spread;
use crate::track::{Course, METRICS};

/// Most points of a curve of training.
const CURVE_POINTS: usize = 200;

/// What curves are drawn over: columns of metrics.csv.
const OVER: [(&str, (&str, &str)); 3] = [
    ("tokens", ("tokens", "target tokens")),
    ("step", ("step", "optimizer steps")),
    ("elapsed_seconds", ("elapsed_seconds", "training time (s)")),
];

/// The stage.
pub const STAGE: Key =
    Key::optional("stage", Holds::Words(|| TrainStage::all().map(TrainStage::name).collect()));

/// What curves are drawn over.
pub const X: Key = Key::optional("x", Holds::Words(|| words_of(&OVER)));

/// A stage, and what its curves are drawn over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Training {
    /// The stage.
    pub stage: TrainStage,
    /// The column of metrics.csv across.
    pub x: &'static str,
    /// What an axis calls it.
    pub x_label: &'static str,
}

impl Training {
    /// The curves of a stage over its tokens.
    pub fn of(stage: TrainStage) -> Self {
        let (x, x_label) = OVER[0].1;
        Self { stage, x, x_label }
    }

    /// Reads `stage` and `x`.
    pub fn read(fields: &mut Fields) -> Self {
        let stages: Vec<_> = TrainStage::all().map(|stage| (stage.name(), stage)).collect();
        let stage = fields.choice("stage", &stages).unwrap_or(TrainStage::Pretrain);
        let (x, x_label) = fields.choice("x", &OVER).unwrap_or(OVER[0].1);
        Self { stage, x, x_label }
    }

    /// The curves of a trial's stage whose column is wanted, each with its split and column, as they come; none where
    /// the stage did not run.
    pub fn curves(self, trial: &TrialRecord, is_wanted: impl Fn(&str) -> bool) -> Vec<Curve> {
        let record = trial.stages.iter().find(|s| s.stage == self.stage.name());
        record.and_then(|record| self.read_file(&record.record, is_wanted)).unwrap_or_default()
    }

    fn read_file(self, dir: &std::path::Path, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<Curve>> {
        let text = std::fs::read_to_string(dir.join(METRICS)).ok()?;
        let course = Course::of(&text)?;
        let x = course.column(self.x)?;
        let wanted: Vec<usize> =
            (0..course.columns.len()).filter(|i| is_wanted(course.columns[*i])).collect();
        let mut found: Vec<Curve> = vec![];
        for row in course.rows() {
            let number = |i: usize| row.number(i).filter(|n| n.is_finite());
            let (split, Some(x)) = (row.split, number(x)) else { continue };
            for (i, y) in wanted.iter().filter_map(|i| Some((*i, number(*i)?))) {
                let column = course.columns[i];
                match found.iter_mut().find(|curve| curve.split == split && curve.column == column) {
                    Some(curve) => curve.rows.push((x, y)),
                    None => {
                        found.push(Curve { split: split.into(), column: column.into(), rows: vec![(x, y)] })
                    }
                }
            }
        }
        Some(found)
    }
}

/// A column of metrics.csv over another, of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The split.
    pub split: String,
    /// The column.
    pub column: String,
    /// Its rows: across, up.
    pub rows: Vec<(f64, f64)>,
}

impl Curve {
    /// The curve as it is drawn: neighbouring rows of training are averaged, so that every row counts.
    pub fn smoothed(&self) -> Vec<(f64, f64)> {
        let is_long = self.split.starts_with("train");
        let width = if is_long { self.rows.len().div_ceil(CURVE_POINTS).max(1) } else { 1 };
        let point = |part: &[(f64, f64)]| {
            let (x, y): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
            (mean(&x), mean(&y))
        };
        self.rows.chunks(width).map(point).collect()
    }
}

/// The trials behind some observations, each once.
pub fn each_trial<'o, 'a>(observations: &[&'o Observation<'a>]) -> Vec<&'o Observation<'a>> {
    let mut trials: Vec<&Observation> = vec![];
    for observation in observations {
        if !trials.iter().any(|o| o.trial.trial == observation.trial.trial) {
            trials.push(observation);
        }
    }
    trials
}

/// Points of a curve, without an interval.
pub fn points(rows: &[(f64, f64)]) -> Vec<Point> {
    rows.iter().map(|(x, y)| Point { x: *x, y: *y, seeds: 1, ..Point::default() }).collect()
}

/// The mean of the curves of several seeds with its 95 % interval: row by row where all have as many, for these are the
/// same steps; else at the places of the first, as far as all have values there. Between two places a curve is straight.
pub fn mean_curve(seeds: &[Vec<(f64, f64)>]) -> Vec<Point> {
    let Some(first) = seeds.first() else { return vec![] };
    let are_alike = seeds.iter().all(|curve| curve.len() == first.len());
    let at = |(i, &(x, _)): (usize, &(f64, f64))| {
        let (x, values): (f64, Vec<f64>) = if are_alike {
            let rows: Vec<(f64, f64)> = seeds.iter().map(|curve| curve[i]).collect();
            (mean(&rows.iter().map(|row| row.0).collect::<Vec<_>>()), rows.iter().map(|row| row.1).collect())
        } else {
            (x, seeds.iter().map(|curve| value_at(curve, x)).collect::<Option<_>>()?)
        };
        let spread = spread(&values)?;
        let interval = spread.t95.map(|half| (spread.mean - half, spread.mean + half));
        Some(Point { x, y: spread.mean, interval, seeds: spread.n, ..Point::default() })
    };
    first.iter().enumerate().filter_map(at).collect()
}

fn value_at(curve: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = curve.partition_point(|row| row.0 < x);
    let (high, low) = (curve.get(after), after.checked_sub(1).map(|i| curve[i]));
    match (low, high) {
        (_, Some(high)) if high.0 <= x => Some(high.1),
        (Some(low), Some(high)) => Some(low.1 + (x - low.0) / (high.0 - low.0) * (high.1 - low.1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_averaged_where_all_have_values() {
        let seeds = [vec![(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)], vec![(1.0, 6.0), (3.0, 2.0)]];
        let found = mean_curve(&seeds);
        // At 2 the second is half way from 6 to 2; at 4 it has ended.
        assert_eq!(
            found.iter().map(|p| (p.x, p.y, p.seeds)).collect::<Vec<_>>(),
            [(1.0, 5.0, 2), (2.0, 3.0, 2)]
        );
        // Rows of the same steps that come to other tokens.
        let alike = mean_curve(&[vec![(10.0, 4.0)], vec![(12.0, 6.0)]]);
        assert_eq!((alike[0].x, alike[0].y, alike.len()), (11.0, 5.0, 1));
        // Half-width of two values 2 apart: 12.706 times their deviation over the root of 2.
        let (low, high) = found[0].interval.unwrap_or_default();
        assert!((high - low - 2.0 * 12.706_204_7).abs() < 1e-5, "{low} {high}");
    }

    #[test]
    fn long_curves_of_training_are_averaged_and_others_are_not() {
        let rows: Vec<(f64, f64)> = (0..400).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let curve = |split: &str| Curve { split: split.into(), column: "loss".into(), rows: rows.clone() };
        let smoothed = curve("train").smoothed();
        assert_eq!((smoothed.len(), smoothed[0], smoothed[1]), (200, (0.5, 0.5), (2.5, 0.5)));
        assert_eq!(curve("val").smoothed(), rows);
    }
}
