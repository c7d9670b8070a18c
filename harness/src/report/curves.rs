//! Curves of training: one for each trial, read from the metrics of its stage run.

use super::figure::{Axis, Content, Figure, Mark, Point, Series};
use super::observation::{Observation, mean};
use super::plots::group_label;
use super::wanted::{Loss, SETS};
use crate::records::TrialRecord;
use std::path::Path;

/// Most points of a curve of training loss.
const CURVE_POINTS: usize = 200;

/// The curves of some trials; those of one group share a colour.
pub fn figure(loss: &Loss, observations: &[&Observation]) -> Figure {
    let mut trials: Vec<&Observation> = vec![];
    for observation in observations {
        if !trials.iter().any(|o| o.trial.trial == observation.trial.trial) {
            trials.push(observation);
        }
    }
    let mut groups: Vec<String> = vec![];
    let mut series: Vec<Series> = vec![];
    for observation in trials {
        let group = match &loss.group {
            Some(column) => group_label(column, &column.read(observation)),
            None => observation.label.to_string(),
        };
        let splits: Vec<String> = match loss.splits {
            SETS => sets(observation.trial, loss),
            splits => splits.iter().map(ToString::to_string).collect(),
        };
        for (place, split) in splits.iter().enumerate() {
            let Some(points) = curve(observation.trial, loss, split) else { continue };
            // Every set has a colour of its own.
            let group = match split.strip_prefix(SETS[0]) {
                Some(set) => format!("{group}{}{set}", if group.is_empty() { "" } else { ", " }),
                None => group.clone(),
            };
            let colour = groups.iter().position(|g| *g == group).unwrap_or(groups.len());
            let is_new = colour == groups.len();
            let mark = match points.len() {
                1 => Mark::Points,
                _ if place > 0 && loss.splits != SETS => Mark::Dashed,
                _ => Mark::Line,
            };
            let label = if is_new { group.clone() } else { String::new() };
            series.push(Series { label, mark, colour, points });
            if is_new {
                groups.push(group);
            }
        }
    }
    let x_label = match loss.x {
        "step" => "optimizer steps",
        "elapsed_seconds" => "training time (s)",
        _ => "target tokens",
    };
    let per = if loss.stage.compares_answers() { "loss (nats per pair)" } else { "loss (nats per token)" };
    let mut notes = match loss.splits {
        [_, _] => vec!["solid: training, smoothed; dashed or a marker: held out".to_string()],
        ["val"] | SETS => vec!["held-out loss".into()],
        _ => vec!["training loss, smoothed".into()],
    };
    if series.len() > groups.len() * loss.splits.len() {
        notes.push("a curve for each trial".into());
    }
    Figure {
        x: Axis { label: x_label.into(), log: Some(loss.log[0]), ..Axis::default() },
        y: Axis { label: per.into(), log: Some(loss.log[1]), ..Axis::default() },
        content: Content::Series(series),
        notes,
        ..Figure::default()
    }
}

/// The splits of the named validation sets of a trial's stage.
fn sets(trial: &TrialRecord, loss: &Loss) -> Vec<String> {
    let record = trial.stages.iter().find(|s| s.stage == loss.stage.name());
    let csv = record.and_then(|record| csv::Reader::from_path(record.dir.join("metrics.csv")).ok());
    let Some(mut csv) = csv else { return vec![] };
    let column = csv.headers().ok().and_then(|headers| headers.iter().position(|name| name == "split"));
    let mut found = vec![];
    for row in csv.records().map_while(Result::ok) {
        let split = column.and_then(|column| row.get(column)).unwrap_or_default();
        if split.starts_with(SETS[0]) && !found.iter().any(|known| known == split) {
            found.push(split.to_string());
        }
    }
    found
}

/// Points of a split; `None` where the stage did not run, or recorded none.
fn curve(trial: &TrialRecord, loss: &Loss, split: &str) -> Option<Vec<Point>> {
    let record = trial.stages.iter().find(|s| s.stage == loss.stage.name())?;
    let rows = read(&record.dir.join("metrics.csv"), loss.x, split)?;
    let rows: Vec<(f64, f64)> = rows.into_iter().filter(|row| !loss.log[0] || row.0 > 0.0).collect();
    // Neighbouring rows of training are averaged, so that every row counts.
    let width = if split == "train" { rows.len().div_ceil(CURVE_POINTS).max(1) } else { 1 };
    let point = |part: &[(f64, f64)]| {
        let (x, y): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
        Point { x: mean(&x), y: mean(&y), ..Point::default() }
    };
    let points: Vec<Point> = rows.chunks(width).map(point).collect();
    (!points.is_empty()).then_some(points)
}

/// A column and the loss of a metrics.csv, for the rows of a split.
fn read(path: &Path, x: &str, split: &str) -> Option<Vec<(f64, f64)>> {
    let mut csv = csv::Reader::from_path(path).ok()?;
    let headers = csv.headers().ok()?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let (x, splits, loss) = (column(x)?, column("split")?, column("loss")?);
    let row = |row: csv::StringRecord| {
        let number = |i: usize| row.get(i)?.parse::<f64>().ok().filter(|n| n.is_finite());
        (row.get(splits)? == split).then_some((number(x)?, number(loss)?))
    };
    Some(csv.records().filter_map(|r| row(r.ok()?)).collect())
}
