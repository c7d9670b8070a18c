//! A requested figure: its kind, and the keys that all figures share.

use super::{KINDS, Kind, Plot, PlotData};
use crate::report::analysis::compare::Comparison;
use crate::report::columns::Column;
use crate::report::experiment::condition::Condition;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Frame, Legend, Size};
use crate::report::results::observation::{Observation, Results};
use std::sync::Arc;

/// Values of `size`.
pub(super) const SIZES: [(&str, Size); 2] = [("column", Size::Column), ("page", Size::Page)];

/// Values of `legend`.
pub(super) const LEGENDS: [(&str, Legend); 3] =
    [("auto", Legend::Auto), ("none", Legend::None), ("right", Legend::Right)];

/// A figure requested by an experiment file.
#[derive(Debug, Clone)]
pub struct FigureSpec {
    /// File name without extension.
    pub name: String,
    /// Title above the plot; derived from the plotted columns if the file sets none.
    pub title: String,
    /// The content.
    plot: Arc<dyn Plot>,
    /// Condition on observations; `None` for all.
    filter: Option<Condition>,
    /// Size of the figure and position of its legend.
    frame: Frame,
    /// Settings of `x` and `y` that override the defaults of the kind.
    axes: [AxisSpec; 2],
}

/// Settings of an axis from a file; `None` where the file has none.
#[derive(Debug, Clone, Default, PartialEq)]
struct AxisSpec {
    label: Option<String>,
    limits: Option<(f64, f64)>,
    log: Option<bool>,
}

impl FigureSpec {
    /// Whether it shows losses over training.
    pub fn is_curve(&self) -> bool {
        self.plot.is_curve()
    }

    /// Creates the figure of a plot that no file requests.
    pub fn of(name: &str, title: &str, plot: Arc<dyn Plot>) -> Self {
        let (name, title) = (name.into(), title.into());
        Self { name, title, plot, filter: None, frame: Frame::default(), axes: Default::default() }
    }

    /// Parses a `[[figure]]`; `None` if its kind or content is invalid.
    pub fn read(fields: &mut Fields) -> Option<Self> {
        let kinds: Vec<(&str, &Kind)> = KINDS.iter().map(|kind| (kind.name, kind)).collect();
        let (all, names) = (Kind::all_key_names(), KINDS.map(|kind| kind.name));
        if !fields.entries.iter().any(|e| e.key == "kind") {
            let problem = format!("is missing, expected kind = {:?}, or {}", names[0], names[1..].join(", "));
            fields.problem("kind", problem);
            fields.only(&all, &[], "");
            return None;
        }
        let kind = fields.choice("kind", &kinds)?;
        fields.only(&kind.key_names(), &all, &format!("kind = {:?}", kind.name));
        let (name, title) = (fields.file_name("name"), fields.text("title"));
        let filter = fields.condition("where");
        let frame = Frame {
            size: fields.choice("size", &SIZES).unwrap_or_default(),
            width: fields.within("width", 1.0..=20.0, "inches"),
            height: fields.within("height", 1.0..=40.0, "inches"),
            legend: fields.choice("legend", &LEGENDS).unwrap_or_default(),
        };
        let mut axis = |label: &str, limits: &str, log: &str| AxisSpec {
            label: fields.text(label),
            limits: fields.limits(limits),
            log: fields.truth(log),
        };
        let axes = [axis("x_label", "x_limits", "log_x"), axis("y_label", "y_limits", "log_y")];
        for (axis, (limits, log)) in axes.iter().zip([("x_limits", "log_x"), ("y_limits", "log_y")]) {
            if axis.log == Some(true) && axis.limits.is_some_and(|(low, _)| low <= 0.0) {
                fields.problem(
                    limits,
                    format!("begins at or below 0, expected numbers above 0 with {log} = true"),
                );
            }
        }
        let plot = (kind.read)(fields)?;
        let made = plot.default_names();
        Some(Self {
            name: name.unwrap_or_else(|| made.0.replace('.', "_")),
            title: title.unwrap_or(made.1),
            plot,
            filter,
            frame,
            axes,
        })
    }

    /// The columns that it uses.
    fn columns(&self) -> Vec<Column> {
        let mut columns = self.plot.columns();
        columns.extend(self.filter.iter().flat_map(Condition::columns));
        columns
    }
}

/// Builds a requested figure from results.
pub fn draw(spec: &FigureSpec, results: &Results, compared: &[Comparison]) -> Figure {
    let observations = results.observations(&spec.columns());
    let counted: Vec<&Observation> =
        observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))).collect();
    let mut figure = spec.plot.figure(&PlotData { observations: &counted, compared });
    if let Some(columns) = spec.plot.distinguishes() {
        figure.notes.extend(results.also_over(&counted, &columns));
    }
    (figure.name, figure.title) = (spec.name.clone(), spec.title.clone());
    figure.frame = spec.frame;
    for (axis, AxisSpec { label, limits, log }) in [&mut figure.x, &mut figure.y].into_iter().zip(&spec.axes)
    {
        axis.label = label.clone().unwrap_or(std::mem::take(&mut axis.label));
        axis.explicit_range = limits.or(axis.explicit_range);
        axis.log = log.or(axis.log);
    }
    if is_empty(&figure) {
        figure.notes = vec!["no finished trial has these values".into()];
    }
    figure
}

fn is_empty(figure: &Figure) -> bool {
    match &figure.content {
        Content::Series(series) => series.iter().all(|s| s.points.is_empty()),
        Content::Cells { cells, .. } => cells.iter().flatten().all(Option::is_none),
    }
}
