//! A metric as the colour of the cells of a grid.

use super::key::{Key, ValueType};
use super::{Kind, Plot, PlotData, plain_label, sentence};
use crate::report::columns::{Column, tell_apart};
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure};
use crate::report::number::{Digits, cell, number_with};
use crate::report::results::observation::{Cell, Observation, grouped, over_seeds};
use stats::Spread;
use std::sync::Arc;

/// The kind `heatmap`.
pub const KIND: Kind = Kind {
    name: "heatmap",
    shows: "the mean of `value` as a colour",
    keys: &[
        Key::needed("x", ValueType::Column),
        Key::needed("y", ValueType::Column),
        Key::needed("value", ValueType::Number),
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
    let x = fields.required_column("x", "\"model.n_layers\"");
    let y = fields.required_column("y", "\"model.d_model\"");
    let value = fields.required_number("value", "\"val.bpb\"");
    let (mut x, mut y, mut value) = (x?, y?, value?);
    tell_apart(&mut [&mut x, &mut y, &mut value]);
    Some(Arc::new(Heatmap { x, y, value }))
}

impl Plot for Heatmap {
    fn columns(&self) -> Vec<Column> {
        vec![self.x, self.y, self.value]
    }

    fn default_names(&self) -> (String, String) {
        let Self { x, y, value } = self;
        (
            format!("{}_{}_by_{}_{}", KIND.name, value.name(), x.name(), y.name()),
            sentence(&format!("{} by {} and {}", plain_label(value), plain_label(x), plain_label(y))),
        )
    }

    fn distinguishes(&self) -> Option<Vec<Column>> {
        Some(vec![self.x, self.y])
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let Self { x, y, value } = *self;
        let has_values =
            |o: &&Observation| x.read(o).is_some() && y.read(o).is_some() && value.number(o).is_some();
        let counted: Vec<&Observation> = data.observations.iter().copied().filter(has_values).collect();
        let places = |column: Column| -> Vec<Option<Cell>> {
            grouped(&counted, &[column]).into_iter().map(|(mut key, _)| key.swap_remove(0)).collect()
        };
        let (xs, ys) = (places(x), places(y));
        let mut cells = vec![vec![None; xs.len()]; ys.len()];
        let groups = grouped(&counted, &[x, y]).into_iter();
        let found: Vec<_> =
            groups.filter_map(|(key, group)| Some((key, over_seeds(&group, &value)?))).collect();
        let digits = Digits::of_column(&value, found.iter().map(|(_, spread)| spread.mean));
        for (key, Spread { mean, .. }) in &found {
            let at = |places: &[Option<Cell>], cell: &Option<Cell>| places.iter().position(|p| p == cell);
            let (Some(column), Some(row)) = (at(&xs, &key[0]), at(&ys, &key[1])) else { continue };
            cells[row][column] = Some((value.scale() * mean, number_with(*mean, &value, digits)));
        }
        let seeds = || found.iter().map(|(_, spread)| spread.n);
        let names =
            |places: &[Option<Cell>], column: Column| places.iter().map(|p| cell(p, &column)).collect();
        let axis = |column: Column, places: &[Option<Cell>]| Axis {
            label: column.label().to_string(),
            categories: names(places, column),
            ..Axis::default()
        };
        let count = match (seeds().min(), seeds().max()) {
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
