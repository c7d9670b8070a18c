//! Names down, points with intervals across, on a scale of their own.

use super::key::{Holds, Key, LIMITS_X, LOG_X};
use super::over::{ERROR, GROUP, Over};
use super::{Found, Kind, Plot};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Axis, Content, Figure};
use crate::report::observation::Observation;
use std::sync::Arc;

/// The kind.
pub const KIND: Kind = Kind {
    name: "dots",
    shows: "a row for each value of `y`, with the mean of `x` and its interval as a dot, on a scale that need not begin at 0",
    keys: &[Key::needed("x", Holds::Number), Key::needed("y", Holds::Column), GROUP, ERROR, LOG_X, LIMITS_X],
    read,
};

#[derive(Debug)]
struct Dots(Over);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.need_number("x", "\"exam.accuracy\"");
    let y = fields.need_column("y", "\"exam.subject\"");
    Some(Arc::new(Dots(Over::read(fields, y, x)?)))
}

impl Plot for Dots {
    fn columns(&self) -> Vec<Column> {
        self.0.columns()
    }

    fn names(&self) -> (String, String) {
        self.0.names(KIND.name)
    }

    fn figure(&self, found: &Found) -> Figure {
        rows(&self.0, &self.0.counted(found))
    }
}

/// A row for each value of `by`.
pub fn rows(over: &Over, counted: &[&Observation]) -> Figure {
    let (places, series) = over.at_places(counted);
    let figure = over.bare(counted);
    Figure {
        x: figure.y,
        y: Axis { places, ..figure.x },
        is_sideways: true,
        notes: over.notes("intervals", &series),
        content: Content::Series(series.into_iter().map(|s| s.turned()).collect()),
        ..figure
    }
}
