//! The default figures of an experiment that requests none.

use super::{FigureSpec, Loss, draw};
use crate::config::TrainStage;
use crate::records::TrialRecord;
use crate::report::columns::Names;
use crate::report::figure::{Axis, Content, Figure, Point, Series};
use crate::report::results::labels::value;
use crate::report::results::observation::{Pooled, Results};
use crate::report::results::summary::Setting;
use serde_json::Value;
use stats::Spread;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The metric plotted against the swept keys: exam accuracy if any exam was taken, else a loss on held-out text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    Accuracy,
    Bpb,
    Loss,
}

impl Measure {
    fn of(settings: &[Setting]) -> Option<Self> {
        let has = |of: fn(&Setting) -> Option<Spread>| settings.iter().any(|s| of(s).is_some());
        if has(|s| s.accuracy) {
            Some(Self::Accuracy)
        } else if has(|s| s.bpb) {
            Some(Self::Bpb)
        } else {
            has(|s| s.val_loss).then_some(Self::Loss)
        }
    }

    /// Prefix of file names, title, and axis.
    fn names(self) -> (&'static str, &'static str, Axis) {
        let axis = |label: &str| Axis { label: label.into(), log: Some(false), ..Axis::default() };
        match self {
            Self::Accuracy => ("accuracy", "Exam accuracy", accuracy_axis()),
            Self::Bpb => ("bpb", "Bits per byte", axis("validation bits per byte")),
            Self::Loss => ("val_loss", "Validation loss", axis("validation loss (nats per token)")),
        }
    }

    /// Mean and 95 % interval in the unit of the axis: percent for accuracy.
    fn point(self, setting: &Setting) -> Option<(f64, Option<(f64, f64)>)> {
        let over_seeds = |spread: Option<Spread>| {
            let Spread { mean, t95, .. } = spread?;
            Some((mean, t95.map(|half| (mean - half, mean + half))))
        };
        match self {
            Self::Accuracy => {
                let (mean, (low, high)) = setting.accuracy_interval()?;
                Some((100.0 * mean, Some((100.0 * low, 100.0 * high))))
            }
            Self::Bpb => over_seeds(setting.bpb),
            Self::Loss => over_seeds(setting.val_loss),
        }
    }

    /// The note that explains the intervals.
    fn note(self) -> &'static str {
        match self {
            Self::Accuracy => {
                "intervals: 95 %, Student's t over seeds, or Wilson's for a single seed; those without a cap extend beyond the axis"
            }
            _ => "intervals: 95 %, Student's t over seeds; a single seed has none",
        }
    }
}

/// Builds the default figures: accuracy by subject, and the metric against parameters, FLOPs and each numeric swept key.
pub fn figures(settings: &[Setting], results: &Results, names: &Names) -> Vec<Figure> {
    let mut figures = vec![];
    if let Some(measure) = Measure::of(settings) {
        if measure == Measure::Accuracy {
            figures.extend(subject_figure(settings));
        }
        let configs: BTreeMap<Uuid, &Value> = results.trials().map(|(t, config)| (t.trial, config)).collect();
        let key = |trial: &TrialRecord, key: &str| value(trial, configs.get(&trial.trial)?, key).cloned();
        let mut draw = |name: &str, x_label: &str, x: &dyn Fn(&TrialRecord) -> Option<f64>| {
            figures.push(measured(measure, name, x_label, settings, x, &|trial| {
                family(trial, key(trial, "model.n_experts"))
            }));
        };
        draw("params", &names.label("params"), &|t| Some(t.params as f64));
        draw("flops", &names.label("train_flops"), &|t| Some(t.train_flops));
        for path in results.keys() {
            let number = |t: &TrialRecord| key(t, path)?.as_f64();
            let mut values = results.trials().filter_map(|(trial, _)| number(trial));
            let first = values.next();
            if values.any(|value| Some(value) != first) {
                draw(&path.replace('.', "_"), &names.label(path), &number);
            }
        }
    }
    figures
}

/// Builds the loss curves of every stage that recorded any.
pub fn curves(results: &Results) -> Vec<Figure> {
    let is_trained =
        |stage: &TrainStage| results.trials().flat_map(|(t, _)| &t.stages).any(|s| s.stage == stage.name());
    let curves_of = |stage: TrainStage| {
        let (name, title) = (curve_name(stage), format!("Loss of {}", stage.name()));
        draw(&FigureSpec::of(&name, &title, Arc::new(Loss::of(stage))), results, &[])
    };
    let has_curves = |figure: &Figure| figure.content != Content::default();
    TrainStage::all().filter(is_trained).map(curves_of).filter(has_curves).collect()
}

/// File name of the default loss curves of a stage.
fn curve_name(stage: TrainStage) -> String {
    format!("loss_{}", stage.name())
}

/// Whether [`curves`] may draw a figure of this file name.
pub fn is_curve(name: &str) -> bool {
    TrainStage::all().any(|stage| curve_name(stage) == name)
}

/// Whether [`figures`] may draw a figure of this file name.
pub fn is_chart(name: &str) -> bool {
    let is_measure =
        |measure: Measure| name.strip_prefix(measure.names().0).is_some_and(|rest| rest.starts_with('_'));
    name == SUBJECTS || [Measure::Accuracy, Measure::Bpb, Measure::Loss].into_iter().any(is_measure)
}

/// Series label: `dense`, or the number of experts.
fn family(trial: &TrialRecord, experts: Option<Value>) -> String {
    match experts.and_then(|experts| experts.as_u64()) {
        Some(0) | None if trial.params == trial.active_params => "dense".into(),
        Some(experts) => format!("{experts} experts"),
        None => "mixture of experts".into(),
    }
}

fn accuracy_axis() -> Axis {
    Axis {
        label: "exam accuracy (%)".into(),
        log: Some(false),
        bounds: Some((0.0, 100.0)),
        ..Axis::default()
    }
}

fn measured(
    measure: Measure,
    name: &str,
    x_label: &str,
    settings: &[Setting],
    x: &dyn Fn(&TrialRecord) -> Option<f64>,
    family: &dyn Fn(&TrialRecord) -> String,
) -> Figure {
    let mut series: Vec<Series> = vec![];
    for setting in settings {
        let (Some(x), Some((y, interval))) = (x(setting.trials[0]), measure.point(setting)) else {
            continue;
        };
        let label = family(setting.trials[0]);
        let point = Point { x, y, interval, seeds: setting.trials.len(), n: None };
        let colour = series.len();
        match series.iter_mut().find(|s| s.label == label) {
            Some(found) => found.points.push(point),
            None => series.push(Series { label, colour, points: vec![point], ..Series::default() }),
        }
    }
    if let [only] = series.as_mut_slice() {
        only.label.clear(); // a single series needs no label
    }
    let (start, title, y) = measure.names();
    Figure {
        name: format!("{start}_{name}"),
        title: format!("{title} by {x_label}"),
        x: Axis { label: x_label.into(), ..Axis::default() },
        y,
        content: Content::Series(series),
        level: guessing(settings.iter().filter_map(|s| s.answers)).filter(|_| measure == Measure::Accuracy),
        notes: vec![measure.note().into()],
        ..Figure::default()
    }
}

/// Reference line at the accuracy of guessing, in percent; `None` if it differs between exams.
pub fn guessing(answers: impl Iterator<Item = Pooled>) -> Option<(f64, &'static str)> {
    let chances: Vec<Option<f64>> = answers.map(|answers| answers.guessing).collect();
    let chance = chances.first().copied().flatten()?;
    chances.iter().all(|other| *other == Some(chance)).then_some((100.0 * chance, "guessing"))
}

/// File name of the figure of accuracy by subject.
const SUBJECTS: &str = "subjects";

/// Maximum number of settings whose dots can be told apart in one row.
const MANY: usize = 8;

/// Figure of accuracy with one row per subject; `None` with fewer than two subjects or more than [`MANY`] settings.
fn subject_figure(settings: &[Setting]) -> Option<Figure> {
    let all: Vec<Vec<(String, Pooled)>> = settings.iter().map(Setting::subjects).collect();
    let names: Vec<String> = all.iter().max_by_key(|s| s.len())?.iter().map(|s| s.0.clone()).collect();
    if names.len() < 2 || settings.len() > MANY {
        return None;
    }
    let series = settings.iter().zip(&all).enumerate().map(|(colour, (setting, subjects))| {
        let points = subjects.iter().filter_map(|(subject, answers)| {
            let (low, high) = answers.wilson();
            Some(Point {
                x: 100.0 * answers.share(),
                y: names.iter().position(|n| n == subject)? as f64,
                interval: Some((100.0 * low, 100.0 * high)),
                seeds: setting.trials.len(),
                ..Point::default()
            })
        });
        Series { label: setting.label.into(), colour, points: points.collect(), ..Series::default() }
    });
    let content = Content::Series(series.collect());
    Some(Figure {
        name: SUBJECTS.into(),
        title: "Exam accuracy by subject".into(),
        x: accuracy_axis(),
        y: Axis { categories: names, ..Axis::default() },
        is_sideways: true,
        content,
        level: guessing(all.iter().flatten().map(|(_, answers)| *answers)),
        notes: vec!["intervals: Wilson 95 % over the questions".into()],
        ..Figure::default()
    })
}
