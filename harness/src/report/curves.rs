//! Curves of training: one for each trial, read from the metrics of its stage run.

use super::figure::{Axis, Content, Figure, Mark, Point, Series};
use super::observation::{Observation, mean};
use super::plots::group_label;
use super::wanted::{Loss, SETS, SOURCES};
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
    let named = if let SETS | SOURCES = loss.splits { Some(loss.splits[0]) } else { None };
    for observation in trials {
        let group = match &loss.group {
            Some(column) => group_label(column, &column.read(observation)),
            None => observation.label.to_string(),
        };
        let measured = measured(observation.trial, loss);
        let is_drawn = |split: &str| match named {
            Some(start) => split.starts_with(start),
            None => loss.splits.contains(&split),
        };
        for (split, rows) in measured.iter().filter(|(split, _)| is_drawn(split)) {
            let Some(points) = curve(loss, split, rows) else { continue };
            // Every set, and every source, has a colour of its own.
            let group = match named.and_then(|start| split.strip_prefix(start)) {
                Some(name) => format!("{group}{}{name}", if group.is_empty() { "" } else { ", " }),
                None => group.clone(),
            };
            let colour = groups.iter().position(|g| *g == group).unwrap_or(groups.len());
            let is_new = colour == groups.len();
            let mark = match points.len() {
                1 => Mark::Points,
                _ if named.is_none() && loss.splits.first() != Some(&split.as_str()) => Mark::Dashed,
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
        SOURCES => vec!["training loss by source, smoothed".into()],
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

/// Points of a split; `None` where none was recorded.
fn curve(loss: &Loss, split: &str, rows: &[(f64, f64)]) -> Option<Vec<Point>> {
    let rows: Vec<(f64, f64)> = rows.iter().copied().filter(|row| !loss.log[0] || row.0 > 0.0).collect();
    // Neighbouring rows of training are averaged, so that every row counts.
    let width = if split.starts_with("train") { rows.len().div_ceil(CURVE_POINTS).max(1) } else { 1 };
    let point = |part: &[(f64, f64)]| {
        let (x, y): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
        Point { x: mean(&x), y: mean(&y), ..Point::default() }
    };
    let points: Vec<Point> = rows.chunks(width).map(point).collect();
    (!points.is_empty()).then_some(points)
}

/// What was measured on each split, as pairs of a column and the loss.
type Measured = Vec<(String, Vec<(f64, f64)>)>;

/// A column and the loss of the metrics.csv of a trial's stage, split by split, as each first comes; none where the stage
/// did not run.
fn measured(trial: &TrialRecord, loss: &Loss) -> Measured {
    let record = trial.stages.iter().find(|s| s.stage == loss.stage.name());
    record.and_then(|record| read(&record.record.join("metrics.csv"), loss.x)).unwrap_or_default()
}

fn read(path: &Path, x: &str) -> Option<Measured> {
    let mut csv = csv::Reader::from_path(path).ok()?;
    let headers = csv.headers().ok()?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let (x, split, loss) = (column(x)?, column("split")?, column("loss")?);
    let mut found = Measured::new();
    for row in csv.records().filter_map(Result::ok) {
        let number = |i: usize| row.get(i)?.parse::<f64>().ok().filter(|n| n.is_finite());
        let (Some(split), Some(x), Some(loss)) = (row.get(split), number(x), number(loss)) else { continue };
        match found.iter_mut().find(|(known, _)| known == split) {
            Some((_, rows)) => rows.push((x, loss)),
            None => found.push((split.into(), vec![(x, loss)])),
        }
    }
    Some(found)
}
