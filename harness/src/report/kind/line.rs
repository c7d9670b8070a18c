//! Means over everything except `x` and `group`, joined, with the curve of each seed as a pale line behind them.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType};
use super::metric_plot::{ERROR, ErrorBar, GROUP, MetricPlot};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::results::observation::{Cell, Observation, grouped, per_seed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kind `line`.
pub const KIND: Kind = Kind {
    name: "line",
    shows: "means over everything but `x` and `group`, joined by lines, with the band of their intervals; single seeds as pale lines",
    keys: &[
        Key::needed("x", ValueType::Column),
        Key::needed("y", ValueType::Number),
        GROUP,
        ERROR,
        LOG_X,
        LOG_Y,
        LIMITS_X,
        LIMITS_Y,
    ],
    read,
};

#[derive(Debug)]
struct Line(MetricPlot);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_column("x", "\"model.n_layers\"");
    let y = fields.required_number("y", "\"exam.accuracy\"");
    let over = MetricPlot::read(fields, x, y)?;
    if fields.is_true("log_x") && !over.by.is_number() {
        fields.problem("log_x", format!("is true, but {} holds text", over.by.name()));
    }
    Some(Arc::new(Line(over)))
}

impl Plot for Line {
    fn columns(&self) -> Vec<Column> {
        self.0.columns()
    }

    fn default_names(&self) -> (String, String) {
        self.0.default_names(KIND.name)
    }

    fn distinguishes(&self) -> Option<Vec<Column>> {
        Some(self.0.distinguishes())
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let over = &self.0;
        let counted = over.observations(data);
        let mut figure = over.empty_figure(&counted);
        let mut series = if over.by.is_number() {
            over.at_numbers(&counted)
        } else {
            let (places, series) = over.at_categories(&counted);
            figure.x.categories = places;
            series
        };
        series.iter_mut().for_each(|s| s.mark = Mark::Joined);
        let is_band = over.by.is_number();
        figure.notes = over.notes(if is_band { "band" } else { "intervals" }, &series);
        if is_band && over.error != ErrorBar::None {
            let seeds: Vec<Series> = over
                .groups(&counted)
                .into_iter()
                .enumerate()
                .flat_map(|(colour, (_, group))| each_seed(over, colour, &group))
                .collect();
            if !seeds.is_empty() {
                figure.notes.push("pale lines: single seeds".into());
            }
            series.splice(0..0, seeds);
        }
        figure.content = Content::Series(series);
        figure
    }
}

/// Returns the curve of each seed of a group; none if there is only one seed.
pub fn each_seed(over: &MetricPlot, colour: usize, group: &[&Observation]) -> Vec<Series> {
    let mut seeds: BTreeMap<u64, Vec<Point>> = BTreeMap::new();
    for (key, group) in grouped(group, &[over.by]) {
        let Some(Cell::Number(x)) = key[0] else { continue };
        for (seed, y) in per_seed(&group, &over.metric) {
            let point =
                Point { x: over.by.scale() * x, y: over.metric.scale() * y, seeds: 1, ..Point::default() };
            seeds.entry(seed).or_default().push(point);
        }
    }
    if seeds.len() < 2 {
        return vec![];
    }
    let seed_line = |(seed, points)| Series {
        mark: Mark::SeedLine,
        colour,
        seed: Some(seed),
        points,
        ..Series::default()
    };
    seeds.into_iter().filter(|(_, points)| points.len() > 1).map(seed_line).collect()
}
