//! Bars side by side from 0; where 0 means nothing, as of a loss, dots.

use super::dots::rows;
use super::key::{Holds, Key, LIMITS_Y};
use super::over::{ERROR, GROUP, Over};
use super::{Found, Kind, Plot};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Content, Figure, Mark};
use std::sync::Arc;

/// The kind.
pub const KIND: Kind = Kind {
    name: "bar",
    shows: "bars side by side from 0; of losses and bits per byte, of which 0 means nothing, dots with a scale of their own",
    keys: &[Key::needed("x", Holds::Column), Key::needed("y", Holds::Number), GROUP, ERROR, LIMITS_Y],
    read,
};

#[derive(Debug)]
struct Bar(Over);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.need_column("x", "\"model.n_layers\"");
    let y = fields.need_number("y", "\"exam.accuracy\"");
    Some(Arc::new(Bar(Over::read(fields, x, y)?)))
}

/// Whether bars from 0 would say nothing: of nats and bits, whose differences count.
fn has_no_zero(column: &Column) -> bool {
    let name = column.name();
    ["loss", "bpb", "log_prob", "perplexity"].iter().any(|part| name.contains(part))
}

impl Plot for Bar {
    fn columns(&self) -> Vec<Column> {
        self.0.columns()
    }

    fn names(&self) -> (String, String) {
        self.0.names(KIND.name)
    }

    fn figure(&self, found: &Found) -> Figure {
        let over = &self.0;
        let counted = over.counted(found);
        if has_no_zero(&over.metric) {
            let mut figure = rows(over, &counted);
            figure.notes.push("dots in the place of bars: 0 is no point of reference here".into());
            return figure;
        }
        let mut figure = over.bare(&counted);
        let (places, mut series) = over.at_places(&counted);
        series.iter_mut().for_each(|s| s.mark = Mark::Bars);
        figure.x.places = places;
        figure.y.include = Some(0.0);
        figure.y.log = Some(false);
        figure.notes = over.notes("intervals", &series);
        figure.content = Content::Series(series);
        figure
    }
}
