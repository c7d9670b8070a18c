//! Grouped bars from 0; dots for metrics without a meaningful 0, such as a loss.

use super::dots::rows;
use super::key::{Key, LIMITS_Y, ValueType};
use super::metric_plot::{ERROR, GROUP, MetricPlot};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark};
use std::sync::Arc;

/// The kind `bar`.
pub const KIND: Kind = Kind {
    name: "bar",
    shows: "bars from 0, side by side; losses and bits per byte, for which 0 has no meaning, as dots on a scale of their own",
    keys: &[Key::needed("x", ValueType::Column), Key::needed("y", ValueType::Number), GROUP, ERROR, LIMITS_Y],
    read,
};

#[derive(Debug)]
struct Bar(MetricPlot);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_column("x", "\"model.n_layers\"");
    let y = fields.required_number("y", "\"exam.accuracy\"");
    Some(Arc::new(Bar(MetricPlot::read(fields, x, y)?)))
}

/// Whether 0 is no reference for a metric: of losses and bits per byte, only differences are meaningful.
fn has_no_zero(column: &Column) -> bool {
    let name = column.name();
    ["loss", "bpb", "log_prob", "perplexity"].iter().any(|part| name.contains(part))
}

impl Plot for Bar {
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
        if has_no_zero(&over.metric) {
            let mut figure = rows(over, &counted);
            figure.notes.push("dots instead of bars: 0 is not a meaningful baseline here".into());
            return figure;
        }
        let mut figure = over.empty_figure(&counted);
        let (places, mut series) = over.at_categories(&counted);
        series.iter_mut().for_each(|s| s.mark = Mark::Bars);
        figure.x.categories = places;
        figure.y.must_include = Some(0.0);
        figure.y.log = Some(false);
        figure.notes = over.notes("intervals", &series);
        figure.content = Content::Series(series);
        figure
    }
}
