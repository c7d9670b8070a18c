//! Which figures a set of trials gets.

use super::TrialQuestion;
use super::figures::{Figure, Point, Series};
use super::summary::{GUESSING, Setting, subjects};
use crate::records::TrialRecord;
use crate::stats::wilson95;
use std::path::Path;

/// Most points of a loss curve.
const CURVE_POINTS: usize = 200;

/// Loss curves, the exam against whatever varies, subjects.
pub fn charts(trials: &[TrialRecord], settings: &[Setting], questions: &[TrialQuestion]) -> Vec<Figure> {
    let mut figures = vec![];
    let examined = settings.iter().any(|s| s.accuracy.is_some());
    if examined {
        figures.extend(subject_figure(settings, questions));
        let params = |t: &TrialRecord| Some(t.params as f64);
        figures.push(accuracy_figure("accuracy_params", "parameters", settings, params));
        figures.push(accuracy_figure("accuracy_flops", "training FLOPs", settings, |t| Some(t.train_flops)));
        for key in numeric_keys(trials) {
            let name = format!("accuracy_{}", key.replace('.', "_"));
            let value = |t: &TrialRecord| t.keys.iter().find(|(k, _)| *k == key)?.1.as_f64();
            figures.push(accuracy_figure(&name, &key, settings, value));
        }
    }
    for stage in ["pretrain", "sft", "lora", "dpo"] {
        figures.extend(curves(stage, settings));
    }
    figures
}

/// Swept keys with at least two different numbers.
fn numeric_keys(trials: &[TrialRecord]) -> Vec<String> {
    let mut keys: Vec<String> = vec![];
    for (key, _) in trials.iter().flat_map(|t| &t.keys).filter(|(k, _)| k != "seed") {
        if keys.contains(key) {
            continue;
        }
        let values = trials.iter().filter_map(|t| t.keys.iter().find(|(k, _)| k == key)?.1.as_f64());
        let mut values: Vec<f64> = values.collect();
        values.dedup();
        if values.len() > 1 {
            keys.push(key.clone());
        }
    }
    keys
}

/// `dense`, or the number of experts.
fn family(trial: &TrialRecord) -> String {
    match trial.keys.iter().find(|(k, _)| k == "model.n_experts").and_then(|(_, v)| v.as_u64()) {
        Some(0) | None if trial.params == trial.active_params => "dense".into(),
        Some(experts) => format!("{experts} experts"),
        None => "mixture of experts".into(),
    }
}

fn accuracy_figure(
    name: &str,
    x_label: &str,
    settings: &[Setting],
    x: impl Fn(&TrialRecord) -> Option<f64>,
) -> Figure {
    let mut series: Vec<Series> = vec![];
    for setting in settings {
        let (Some(x), Some((y, low, high))) = (x(setting.trials[0]), setting.accuracy_interval()) else {
            continue;
        };
        let label = family(setting.trials[0]);
        let point = Point { x, y: 100.0 * y, interval: Some((100.0 * low, 100.0 * high)) };
        match series.iter_mut().find(|s| s.label == label) {
            Some(found) => found.points.push(point),
            None => series.push(Series { label, points: vec![point] }),
        }
    }
    Figure {
        name: name.into(),
        title: format!("Exam accuracy by {x_label}"),
        x_label: x_label.into(),
        y_label: "exam accuracy (%)".into(),
        categories: vec![],
        lines: false,
        level: Some((100.0 * GUESSING, "guessing")),
        series,
    }
}

/// Accuracy in each subject; left out where there are too many subjects to tell apart.
fn subject_figure(settings: &[Setting], questions: &[TrialQuestion]) -> Option<Figure> {
    let all: Vec<Vec<(String, u64, u64)>> = settings.iter().map(|s| subjects(s, questions)).collect();
    let names: Vec<String> = all.iter().max_by_key(|s| s.len())?.iter().map(|s| s.0.clone()).collect();
    if !(2..=8).contains(&names.len()) {
        return None;
    }
    let spread = 0.7 / settings.len() as f64;
    let series = settings.iter().zip(&all).enumerate().map(|(i, (setting, subjects))| {
        let points = subjects.iter().filter_map(|(subject, correct, asked)| {
            let place = names.iter().position(|n| n == subject)? as f64;
            let (low, high) = wilson95(*correct, *asked);
            Some(Point {
                x: place + (i as f64 - (settings.len() - 1) as f64 / 2.0) * spread,
                y: 100.0 * *correct as f64 / *asked as f64,
                interval: Some((100.0 * low, 100.0 * high)),
            })
        });
        Series { label: setting.label.clone(), points: points.collect() }
    });
    Some(Figure {
        name: "subjects".into(),
        title: "Exam accuracy by subject".into(),
        x_label: "subject".into(),
        y_label: "accuracy (%), Wilson 95 %".into(),
        series: series.collect(),
        categories: names,
        lines: false,
        level: Some((100.0 * GUESSING, "guessing")),
    })
}

/// The training loss of each setting's first seed over tokens.
fn curves(stage: &str, settings: &[Setting]) -> Option<Figure> {
    let curve = |setting: &Setting| {
        let record = setting.trials[0].stages.iter().find(|s| s.stage == stage)?;
        let points = read_curve(&record.dir.join("metrics.csv"))?;
        Some(Series { label: setting.label.clone(), points })
    };
    let series: Vec<Series> = settings.iter().filter_map(curve).collect();
    if series.is_empty() {
        return None;
    }
    Some(Figure {
        name: format!("loss_{stage}"),
        title: format!("Training loss, {stage}"),
        x_label: "target tokens".into(),
        y_label: if stage == "dpo" { "loss per pair".into() } else { "loss (nats per token)".to_string() },
        categories: vec![],
        lines: true,
        level: None,
        series,
    })
}

/// Tokens and smoothed training loss of a metrics.csv; `None` where there is none.
fn read_curve(path: &Path) -> Option<Vec<Point>> {
    let mut csv = csv::Reader::from_path(path).ok()?;
    let headers = csv.headers().ok()?.clone();
    let column = |name: &str| headers.iter().position(|h| h == name);
    let (tokens, split, loss) = (column("tokens")?, column("split")?, column("loss")?);
    let rows: Vec<(f64, f64)> = csv
        .records()
        .filter_map(|r| {
            let r = r.ok()?;
            let number = |i: usize| r.get(i)?.parse::<f64>().ok();
            (r.get(split)? == "train").then_some((number(tokens)?, number(loss)?))
        })
        .collect();
    // Neighbouring rows are averaged, so that every row counts.
    let width = rows.len().div_ceil(CURVE_POINTS).max(1);
    let mean =
        |part: &[(f64, f64)], f: fn(&(f64, f64)) -> f64| part.iter().map(f).sum::<f64>() / part.len() as f64;
    let points = rows.chunks(width).map(|part| Point {
        x: mean(part, |p| p.0),
        y: mean(part, |p| p.1),
        interval: None,
    });
    Some(points.collect())
}
