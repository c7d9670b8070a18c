//! A metric as the colour of cells.

use super::key::{Holds, Key};
use super::{Found, Kind, Plot, plain_label, sentence};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Axis, Content, Figure};
use crate::report::number::{cell, number};
use crate::report::observation::{Cell, Observation, grouped, over_seeds};
use std::sync::Arc;

/// The kind.
pub const KIND: Kind = Kind {
    name: "heatmap",
    shows: "the mean of `value` as a colour",
    keys: &[
        Key::needed("x", Holds::Column),
        Key::needed("y", Holds::Column),
        Key::needed("value", Holds::Number),
    ],
    read,
};

#[derive(Debug)]
struct Heatmap {
    x: Column,
    y: Column,
    value: Column,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.need_column("x", "\"model.n_layers\"");
    let y = fields.need_column("y", "\"model.d_model\"");
    let value = fields.need_number("value", "\"val.bpb\"");
    Some(Arc::new(Heatmap { x: x?, y: y?, value: value? }))
}

impl Plot for Heatmap {
    fn columns(&self) -> Vec<Column> {
        vec![self.x, self.y, self.value]
    }

    fn names(&self) -> (String, String) {
        let Self { x, y, value } = self;
        (
            format!("{}_{}_by_{}_{}", KIND.name, value.name(), x.name(), y.name()),
            sentence(&format!("{} by {} and {}", plain_label(value), plain_label(x), plain_label(y))),
        )
    }

    fn figure(&self, found: &Found) -> Figure {
        let Self { x, y, value } = *self;
        let has_values =
            |o: &&Observation| x.read(o).is_some() && y.read(o).is_some() && value.number(o).is_some();
        let counted: Vec<&Observation> = found.observations.iter().copied().filter(has_values).collect();
        let places = |column: Column| -> Vec<Option<Cell>> {
            grouped(&counted, &[column]).into_iter().map(|(mut key, _)| key.swap_remove(0)).collect()
        };
        let (xs, ys) = (places(x), places(y));
        let mut cells = vec![vec![None; xs.len()]; ys.len()];
        let mut seeds: Vec<usize> = vec![];
        for (key, group) in grouped(&counted, &[x, y]) {
            let at = |places: &[Option<Cell>], cell: &Option<Cell>| places.iter().position(|p| p == cell);
            let (Some(column), Some(row)) = (at(&xs, &key[0]), at(&ys, &key[1])) else { continue };
            if let Some(spread) = over_seeds(&group, &value) {
                seeds.push(spread.n);
                cells[row][column] = Some((value.scale() * spread.mean, number(spread.mean, &value)));
            }
        }
        let names =
            |places: &[Option<Cell>], column: Column| places.iter().map(|p| cell(p, &column)).collect();
        let axis = |column: Column, places: &[Option<Cell>]| Axis {
            label: column.label().to_string(),
            places: names(places, column),
            ..Axis::default()
        };
        let count = match (seeds.iter().min(), seeds.iter().max()) {
            (Some(1), Some(1)) => vec!["1 seed".into()],
            (Some(a), Some(b)) if a == b => vec![format!("means of {a} seeds")],
            (Some(a), Some(b)) => vec![format!("means of {a} to {b} seeds")],
            _ => vec![],
        };
        Figure {
            x: axis(x, &xs),
            y: axis(y, &ys),
            content: Content::Cells { label: value.label().to_string(), cells },
            notes: count,
            ..Figure::default()
        }
    }
}
