//! Training and held-out loss of a stage.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType, words_of};
use super::metric_plot::{GROUP, group_label};
use super::metrics::{Row, STAGE, Training, X, each_trial, mean_curve, points};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure, Mark, Series};
use std::sync::Arc;
use uuid::Uuid;

/// Values of `split`, and the splits or prefix of splits that each stands for.
const SPLITS: [(&str, &[&str]); 5] = [
    ("train", &["train"]),
    ("val", &["val"]),
    ("both", &["train", "val"]),
    ("sets", SETS),
    ("sources", SOURCES),
];

/// Prefix of the splits of named validation sets.
const SETS: &[&str] = &["val:"];

/// Prefix of the splits of named sources.
const SOURCES: &[&str] = &["train:"];

/// Share of the horizontal range, from its start, that is ignored for the vertical range.
const EARLY: f64 = 0.1;

/// The kind `loss`.
pub const KIND: Kind = Kind {
    name: "loss",
    shows: "training and held-out loss of a stage: the mean over seeds with its band, single seeds as pale lines",
    keys: &[
        STAGE,
        Key::optional("split", ValueType::Words(|| words_of(&SPLITS))),
        X,
        GROUP,
        LOG_X,
        LOG_Y,
        LIMITS_X,
        LIMITS_Y,
    ],
    read,
};

/// Loss curves of a stage.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The stage and the horizontal axis.
    training: Training,
    /// `train`, `val` or both; or the prefix of the splits to draw, [`SETS`] or [`SOURCES`].
    splits: &'static [&'static str],
    /// The column that distinguishes colours; the setting if `None`.
    group: Option<Column>,
    is_log_x: bool,
}

impl Loss {
    /// Training and held-out loss of every setting over target tokens.
    pub fn of(stage: crate::config::TrainStage) -> Self {
        Self { training: Training::of(stage), splits: &["train", "val"], group: None, is_log_x: false }
    }
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let training = Training::read(fields);
    let splits = fields.choice("split", &SPLITS).unwrap_or(&["train", "val"]);
    let group = fields.column("group");
    if group.is_some_and(|column| matches!(column.name(), "subject" | "stage")) {
        fields.problem("group", "belongs to an exam, expected a key or a column of a trial");
    }
    Some(Arc::new(Loss { training, splits, group, is_log_x: fields.is_true("log_x") }))
}

/// The curves of one colour and one split.
struct Bundle {
    label: String,
    split: String,
    colour: usize,
    /// For each setting, the curve of each seed.
    settings: Vec<(Uuid, Vec<(u64, Rows)>)>,
}

type Rows = Vec<Row>;

impl Plot for Loss {
    fn is_curve(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        self.group.into_iter().collect()
    }

    fn default_names(&self) -> (String, String) {
        let (stage, group) = (self.training.stage.name(), &self.group);
        let per = group.map_or(String::new(), |group| format!("_per_{}", group.name()));
        (format!("{}_{stage}{per}", KIND.name), format!("Loss of {stage}"))
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let bundles = self.bundles(data);
        let mut labelled: Vec<usize> = vec![];
        let (mut seeds, mut means) = (vec![], vec![]);
        for bundle in &bundles {
            let is_dashed =
                self.split_prefix().is_none() && self.splits.first() != Some(&bundle.split.as_str());
            for (_, curves) in &bundle.settings {
                let is_new = !labelled.contains(&bundle.colour);
                labelled.extend(is_new.then_some(bundle.colour));
                let mean = match curves.as_slice() {
                    [(_, only)] => points(only),
                    several => mean_curve(&several.iter().map(|(_, rows)| rows.clone()).collect::<Vec<_>>()),
                };
                means.push(Series {
                    label: if is_new { bundle.label.clone() } else { String::new() },
                    mark: match mean.len() {
                        1 => Mark::Points,
                        _ if is_dashed => Mark::Dashed,
                        _ => Mark::Line,
                    },
                    colour: bundle.colour,
                    points: mean,
                    ..Series::default()
                });
                if curves.len() > 1 {
                    seeds.extend(curves.iter().filter(|(_, rows)| rows.len() > 1).map(|(seed, rows)| {
                        Series {
                            mark: Mark::SeedLine,
                            colour: bundle.colour,
                            seed: Some(*seed),
                            points: points(rows),
                            ..Series::default()
                        }
                    }));
                }
            }
        }
        let per = if self.training.stage.compares_answers() { "pair" } else { "token" };
        let mut y = Axis { label: format!("loss (nats per {per})"), log: Some(false), ..Axis::default() };
        let mut notes = vec![self.note().to_string()];
        if !seeds.is_empty() {
            notes.push("mean over seeds with its 95 % band, single seeds as pale lines".into());
        }
        if !self.is_log_x {
            y.explicit_range = range_after_start(&means);
        }
        if y.explicit_range.is_some() {
            notes.push("the first steps may exceed the axis".into());
        }
        Figure {
            x: Axis { label: self.training.x_label.into(), log: Some(false), ..Axis::default() },
            y,
            content: Content::Series(seeds.into_iter().chain(means).collect()),
            notes,
            ..Figure::default()
        }
    }
}

impl Loss {
    /// The prefix of the drawn splits if each of them has its own colour.
    fn split_prefix(&self) -> Option<&'static str> {
        if let SETS | SOURCES = self.splits { Some(self.splits[0]) } else { None }
    }

    fn is_drawn(&self, split: &str) -> bool {
        match self.split_prefix() {
            Some(start) => split.starts_with(start),
            None => self.splits.contains(&split),
        }
    }

    fn note(&self) -> &'static str {
        match self.splits {
            [_, _] => "solid: training, smoothed; dashed or a marker: held out",
            ["val"] | SETS => "held-out loss",
            SOURCES => "training loss by source, smoothed",
            _ => "training loss, smoothed",
        }
    }

    fn bundles(&self, data: &PlotData) -> Vec<Bundle> {
        let (mut bundles, mut groups): (Vec<Bundle>, Vec<String>) = (vec![], vec![]);
        for observation in each_trial(data.observations) {
            let group = match &self.group {
                Some(column) => group_label(column, &column.read(observation)),
                None => observation.label.to_string(),
            };
            let curves = self.training.curves(observation.trial, |column| column == "loss");
            for curve in curves.iter().filter(|curve| self.is_drawn(&curve.split)) {
                let mut rows = curve.smoothed();
                rows.retain(|row| !self.is_log_x || row.x > 0.0);
                if rows.is_empty() {
                    continue;
                }
                // Every set and every source has its own colour.
                let label = match self.split_prefix().and_then(|start| curve.split.strip_prefix(start)) {
                    Some(name) => format!("{group}{}{name}", if group.is_empty() { "" } else { ", " }),
                    None => group.clone(),
                };
                let colour = groups.iter().position(|g| *g == label).unwrap_or(groups.len());
                if colour == groups.len() {
                    groups.push(label.clone());
                }
                let setting = observation.trial.setting;
                let is_same = |b: &Bundle| b.colour == colour && b.split == curve.split;
                let bundle = match bundles.iter().position(is_same) {
                    Some(at) => &mut bundles[at],
                    None => {
                        let split = curve.split.clone();
                        bundles.push(Bundle { label, split, colour, settings: vec![] });
                        let last = bundles.len() - 1;
                        &mut bundles[last]
                    }
                };
                let curve = (observation.trial.seed, rows);
                match bundle.settings.iter_mut().find(|(known, _)| *known == setting) {
                    Some((_, curves)) => curves.push(curve),
                    None => bundle.settings.push((setting, vec![curve])),
                }
            }
        }
        bundles
    }
}

/// Returns the vertical range of curves without their first steps; `None` unless these would take a third of the height
/// or more and so flatten the rest.
fn range_after_start(series: &[Series]) -> Option<(f64, f64)> {
    let points = || series.iter().flat_map(|s| &s.points);
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
    };
    let (from, to) = range(&mut points().map(|p| p.x));
    let later = from + EARLY * (to - from);
    let (low, high) = range(&mut points().filter(|p| p.x >= later).map(|p| p.y));
    let (_, highest) = range(&mut points().map(|p| p.y));
    let margin = 0.07 * (high - low);
    (high > low && highest - low > 1.5 * (high - low)).then_some((low - margin, high + margin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_steps_do_not_flatten_the_rest() {
        let row = |&(x, y): &(f64, f64)| Row { step: x, x, y };
        let rows = |points: &[(f64, f64)]| points.iter().map(row).collect::<Vec<_>>();
        let curve =
            |points: &[(f64, f64)]| Series { points: super::points(&rows(points)), ..Series::default() };
        let steep = curve(&[(0.0, 9.0), (5.0, 6.0), (10.0, 3.0), (50.0, 2.5), (100.0, 2.0)]);
        let (low, high) = range_after_start(std::slice::from_ref(&steep)).unwrap_or_default();
        assert!((low - 1.93).abs() < 1e-9 && (high - 3.07).abs() < 1e-9, "{low} {high}");
        // A curve that falls as much later as at first is shown in full.
        assert_eq!(range_after_start(&[curve(&[(0.0, 3.0), (10.0, 2.9), (100.0, 2.0)])]), None);
        assert_eq!(range_after_start(&[]), None);
    }
}
