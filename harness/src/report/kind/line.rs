//! Means over everything but `x` and `group`, joined, each seed's curve faint behind them.

use super::key::{Holds, Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y};
use super::over::{ERROR, ErrorBar, GROUP, Over};
use super::{Found, Kind, Plot};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::observation::{Cell, Observation, grouped, per_seed};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The kind.
pub const KIND: Kind = Kind {
    name: "line",
    shows: "means over everything but `x` and `group`, joined, with the band of their intervals; each seed faint behind",
    keys: &[
        Key::needed("x", Holds::Column),
        Key::needed("y", Holds::Number),
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
struct Line(Over);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.need_column("x", "\"model.n_layers\"");
    let y = fields.need_number("y", "\"exam.accuracy\"");
    let over = Over::read(fields, x, y)?;
    if fields.is_true("log_x") && !over.by.is_number() {
        fields.problem("log_x", format!("is true, but {} holds text", over.by.name()));
    }
    Some(Arc::new(Line(over)))
}

impl Plot for Line {
    fn columns(&self) -> Vec<Column> {
        self.0.columns()
    }

    fn names(&self) -> (String, String) {
        self.0.names(KIND.name)
    }

    fn figure(&self, found: &Found) -> Figure {
        let over = &self.0;
        let counted = over.counted(found);
        let mut figure = over.bare(&counted);
        let mut series = if over.by.is_number() {
            over.at_numbers(&counted)
        } else {
            let (places, series) = over.at_places(&counted);
            figure.x.places = places;
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
                figure.notes.push("faint: each seed".into());
            }
            series.splice(0..0, seeds);
        }
        figure.content = Content::Series(series);
        figure
    }
}

/// The curve of each seed of a group; none of a single one.
pub fn each_seed(over: &Over, colour: usize, group: &[&Observation]) -> Vec<Series> {
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
    let faint =
        |(seed, points)| Series { mark: Mark::Faint, colour, seed: Some(seed), points, ..Series::default() };
    seeds.into_iter().filter(|(_, points)| points.len() > 1).map(faint).collect()
}
