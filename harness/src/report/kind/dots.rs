//! One row per category, with points and intervals along a horizontal scale that need not start at 0.

use super::key::{Key, LIMITS_X, LOG_X, ValueType};
use super::metric_plot::{ERROR, GROUP, MetricPlot};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure};
use crate::report::results::observation::Observation;
use std::sync::Arc;

/// The kind `dots`.
pub const KIND: Kind = Kind {
    name: "dots",
    shows: "a row for each value of `y`, with the mean of `x` and its interval as a dot, on a scale that need not begin at 0",
    keys: &[
        Key::needed("x", ValueType::Number),
        Key::needed("y", ValueType::Column),
        GROUP,
        ERROR,
        LOG_X,
        LIMITS_X,
    ],
    read,
};

#[derive(Debug)]
struct Dots(MetricPlot);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_number("x", "\"exam.accuracy\"");
    let y = fields.required_column("y", "\"exam.subject\"");
    Some(Arc::new(Dots(MetricPlot::read(fields, y, x)?)))
}

impl Plot for Dots {
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
        rows(&self.0, &self.0.observations(data))
    }
}

/// Builds a figure with a row for each value of `by`.
pub fn rows(over: &MetricPlot, counted: &[&Observation]) -> Figure {
    let (places, series) = over.at_categories(counted);
    let figure = over.empty_figure(counted);
    Figure {
        x: figure.y,
        y: Axis { categories: places, ..figure.x },
        is_sideways: true,
        notes: over.notes("intervals", &series),
        content: Content::Series(series.into_iter().map(|s| s.transposed()).collect()),
        ..figure
    }
}
