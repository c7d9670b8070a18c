//! A figure that is asked for: its kind, and the keys of every figure.

use super::{Found, KINDS, Kind, Plot};
use crate::report::columns::Column;
use crate::report::compare::Compared;
use crate::report::condition::Condition;
use crate::report::fields::Fields;
use crate::report::figure::{Content, Figure, Frame, Legend, Size};
use crate::report::observation::{Observation, Results};
use std::sync::Arc;

/// Widths of a figure.
pub(super) const SIZES: [(&str, Size); 2] = [("column", Size::Column), ("page", Size::Page)];

/// Where series are named.
pub(super) const LEGENDS: [(&str, Legend); 3] =
    [("auto", Legend::Auto), ("none", Legend::None), ("right", Legend::Right)];

/// A figure that is asked for.
#[derive(Debug, Clone)]
pub struct FigureSpec {
    /// File name without extension.
    pub name: String,
    /// Title above; made from what is plotted where the file names none.
    pub title: String,
    /// What is drawn.
    plot: Arc<dyn Plot>,
    /// Which observations count.
    filter: Option<Condition>,
    /// Its size, and where series are named.
    frame: Frame,
    /// What differs of `x` and `y` from what the kind makes of them.
    axes: [AxisSpec; 2],
}

/// What a file says of an axis.
#[derive(Debug, Clone, Default, PartialEq)]
struct AxisSpec {
    label: Option<String>,
    limits: Option<(f64, f64)>,
    log: Option<bool>,
}

impl FigureSpec {
    /// Whether it shows losses on the way of a training.
    pub fn is_curve(&self) -> bool {
        self.plot.is_curve()
    }

    /// A figure of some plot, as no file asks for it.
    pub fn of(name: &str, title: &str, plot: Arc<dyn Plot>) -> Self {
        let (name, title) = (name.into(), title.into());
        Self { name, title, plot, filter: None, frame: Frame::default(), axes: Default::default() }
    }

    /// Reads a `[[figure]]`; `None` where something is wrong with it.
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
        let made = plot.names();
        Some(Self {
            name: name.unwrap_or_else(|| made.0.replace('.', "_")),
            title: title.unwrap_or(made.1),
            plot,
            filter,
            frame,
            axes,
        })
    }

    /// The columns that it speaks of.
    fn columns(&self) -> Vec<Column> {
        let mut columns = self.plot.columns();
        columns.extend(self.filter.iter().flat_map(Condition::columns));
        columns
    }
}

/// The figure that is asked for.
pub fn draw(spec: &FigureSpec, results: &Results, compared: &[Compared]) -> Figure {
    let observations = results.observations(&spec.columns());
    let counted: Vec<&Observation> =
        observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))).collect();
    let mut figure = spec.plot.figure(&Found { observations: &counted, compared });
    (figure.name, figure.title) = (spec.name.clone(), spec.title.clone());
    figure.frame = spec.frame;
    for (axis, AxisSpec { label, limits, log }) in [&mut figure.x, &mut figure.y].into_iter().zip(&spec.axes)
    {
        axis.label = label.clone().unwrap_or(std::mem::take(&mut axis.label));
        axis.view = limits.or(axis.view);
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
