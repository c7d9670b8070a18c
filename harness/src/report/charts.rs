//! The figures of a report that asks for none.

use super::TrialQuestion;
use super::figure::{Axis, Content, Figure, Point, Series};
use super::observation::Results;
use super::plots;
use super::summary::{Setting, subjects};
use super::wanted::{FigureSpec, Loss, Plot};
use crate::config::TrainStage;
use crate::records::{GUESSING, TrialRecord};
use crate::stats::wilson95;

/// What the intervals are.
const INTERVALS: &str = "intervals: 95 %, Student's t over seeds, or Wilson's of a single seed; without a cap they go on beyond the axis";

/// Loss curves, the exam against whatever varies, subjects.
pub fn charts(
    trials: &[TrialRecord],
    settings: &[Setting],
    questions: &[TrialQuestion],
    results: &Results,
) -> Vec<Figure> {
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
    for stage in [TrainStage::Pretrain, TrainStage::Sft, TrainStage::Lora, TrainStage::Dpo] {
        if trials.iter().flat_map(|t| &t.stages).any(|s| s.stage == stage.name()) {
            figures.push(plots::figure(&curves(stage), results));
        }
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

fn accuracy_axis() -> Axis {
    Axis {
        label: "exam accuracy (%)".into(),
        log: Some(false),
        limits: Some((0.0, 100.0)),
        ..Axis::default()
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
        let interval = Some((100.0 * low, 100.0 * high));
        let point = Point { x, y: 100.0 * y, interval, seeds: setting.trials.len() };
        let colour = series.len();
        match series.iter_mut().find(|s| s.label == label) {
            Some(found) => found.points.push(point),
            None => series.push(Series { label, colour, points: vec![point], ..Series::default() }),
        }
    }
    Figure {
        name: name.into(),
        title: format!("Exam accuracy by {x_label}"),
        x: Axis { label: x_label.into(), ..Axis::default() },
        y: accuracy_axis(),
        content: Content::Series(series),
        level: Some((100.0 * GUESSING, "guessing")),
        notes: vec![INTERVALS.into()],
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
                seeds: setting.trials.len(),
            })
        });
        Series { label: setting.label.clone(), colour: i, points: points.collect(), ..Series::default() }
    });
    Some(Figure {
        name: "subjects".into(),
        title: "Exam accuracy by subject".into(),
        y: accuracy_axis(),
        content: Content::Series(series.collect()),
        x: Axis { label: "subject".into(), places: names, ..Axis::default() },
        level: Some((100.0 * GUESSING, "guessing")),
        notes: vec!["intervals: Wilson 95 % of all answers".into()],
    })
}

/// Training and held-out loss of every setting over tokens.
fn curves(stage: TrainStage) -> FigureSpec {
    FigureSpec {
        name: format!("loss_{}", stage.name()),
        title: format!("Loss of {}", stage.name()),
        plot: Plot::Loss(Loss {
            stage,
            splits: &["train", "val"],
            x: "tokens",
            group: None,
            log: [false, false],
        }),
        filter: None,
    }
}
