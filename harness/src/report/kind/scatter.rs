//! One point per setting, with an optional fitted curve.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType, words_of};
use super::metric_plot::{ERROR, GROUP, MetricPlot};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::number::{digits3, equation};
use crate::report::results::observation::{Observation, distinct, over_seeds};
use stats::{FitKind, fit};
use std::sync::Arc;
use uuid::Uuid;

/// Number of points of a fitted curve.
const FIT_POINTS: usize = 60;

const FITS: [(&str, FitKind); 3] =
    [("power", FitKind::Power), ("linear", FitKind::Linear), ("log", FitKind::Log)];

/// The kind `scatter`.
pub const KIND: Kind = Kind {
    name: "scatter",
    shows: "a point for each setting, and optionally a least-squares `fit` with the 95 % band of its mean",
    keys: &[
        Key::needed("x", ValueType::Number),
        Key::needed("y", ValueType::Number),
        GROUP,
        ERROR,
        Key::optional("fit", ValueType::Words(|| words_of(&FITS))),
        LOG_X,
        LOG_Y,
        LIMITS_X,
        LIMITS_Y,
    ],
    read,
};

#[derive(Debug)]
struct Scatter {
    over: MetricPlot,
    fit: Option<FitKind>,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_number("x", "\"params\"");
    let y = fields.required_number("y", "\"exam.accuracy\"");
    let over = MetricPlot::read(fields, x, y);
    let fit = fields.choice("fit", &FITS);
    Some(Arc::new(Scatter { over: over?, fit }))
}

impl Plot for Scatter {
    fn columns(&self) -> Vec<Column> {
        self.over.columns()
    }

    fn default_names(&self) -> (String, String) {
        self.over.default_names(KIND.name)
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let counted = self.over.observations(data);
        let mut figure = self.over.empty_figure(&counted);
        let mut series: Vec<Series> = settings(&self.over, &counted).into_iter().map(|(s, _)| s).collect();
        figure.notes = self.over.notes("intervals", &series);
        if let Some(kind) = self.fit {
            add_fits(kind, &mut series, &mut figure.notes);
        }
        figure.content = Content::Series(series);
        figure
    }
}

/// One series per group with a point for each setting, and the labels of these settings.
pub fn settings(over: &MetricPlot, counted: &[&Observation]) -> Vec<(Series, Vec<String>)> {
    let mut found = vec![];
    for (colour, (label, group)) in over.groups(counted).into_iter().enumerate() {
        let (mut points, mut names) = (vec![], vec![]);
        for (name, setting) in by_setting(&group) {
            let x = over_seeds(&setting, &over.by).map(|x| over.by.scale() * x.mean);
            if let Some(point) = x.and_then(|x| over.point(x, &setting)) {
                points.push(point);
                names.push(name);
            }
        }
        found.push((Series { label, colour, points, ..Series::default() }, names));
    }
    found
}

/// Observations by setting, with the labels of settings.
pub fn by_setting<'o, 'a>(observations: &[&'o Observation<'a>]) -> Vec<(String, Vec<&'o Observation<'a>>)> {
    let mut settings: Vec<(Uuid, Vec<&Observation>)> = vec![];
    for observation in distinct(observations) {
        match settings.iter_mut().find(|(known, _)| *known == observation.trial.setting) {
            Some((_, group)) => group.push(observation),
            None => settings.push((observation.trial.setting, vec![observation])),
        }
    }
    settings.into_iter().map(|(_, group)| (group[0].label.to_string(), group)).collect()
}

fn add_fits(kind: FitKind, series: &mut Vec<Series>, notes: &mut Vec<String>) {
    let mut curves = vec![];
    for Series { label, colour, points, .. } in series.iter() {
        let numbers: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
        let fit = match fit(kind, &numbers, 0.95) {
            Ok(fit) => fit,
            Err(error) => {
                let of = if label.is_empty() { String::new() } else { format!(" for {label}") };
                notes.push(format!("no fit{of}: {error}"));
                continue;
            }
        };
        let (low, high) =
            numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.0), h.max(p.0)));
        let at = |i: usize| {
            let share = i as f64 / (FIT_POINTS - 1) as f64;
            let x = if low > 0.0 { low * (high / low).powf(share) } else { low + share * (high - low) };
            Point { x, y: fit.at(x), interval: Some(fit.band(x, 0.95)), ..Point::default() }
        };
        let name = match kind {
            FitKind::Power => "exponent",
            _ => "slope",
        };
        let half = digits3(fit.b.high - fit.b.value);
        let of = if label.is_empty() { String::new() } else { format!("{label}: ") };
        notes.push(format!(
            "{of}{} ({name} ± {half} at 95 %, R²={:.3}, n={})",
            equation(&fit),
            fit.r2,
            fit.n
        ));
        curves.push(Series {
            mark: Mark::Dashed,
            colour: *colour,
            points: (0..FIT_POINTS).map(at).collect(),
            ..Series::default()
        });
    }
    if !curves.is_empty() {
        notes.push("dashed: fit, with the 95 % band of its mean".into());
    }
    series.extend(curves);
}
