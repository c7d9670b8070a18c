//! A metric over a swept number, such as the learning rate, with the best point of each curve and whether it lies at an edge.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType};
use super::line::each_seed;
use super::metric_plot::{ERROR, GROUP, MetricPlot};
use super::{Kind, Plot, PlotData, plain_label, sentence};
use crate::report::columns::{Better, Column};
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::number::plain;
use std::sync::Arc;

/// The kind `sensitivity`.
pub const KIND: Kind = Kind {
    name: "sensitivity",
    shows: "a metric over a swept number such as `pretrain.lr`, on a logarithmic axis; a ring marks the best point of each curve, a square one at the edge of the tried range",
    keys: &[
        Key::needed("x", ValueType::Number),
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
struct Sensitivity {
    over: MetricPlot,
    better: Better,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_number("x", "\"pretrain.lr\"");
    let y = fields.required_number("y", "\"val.loss\"");
    let over = MetricPlot::read(fields, x, y)?;
    let Some(better) = over.metric.better() else {
        let problem = format!(
            "is {:?}, for which neither higher nor lower is better, expected a metric",
            over.metric.name()
        );
        fields.problem("y", problem);
        return None;
    };
    Some(Arc::new(Sensitivity { over, better }))
}

impl Plot for Sensitivity {
    fn columns(&self) -> Vec<Column> {
        self.over.columns()
    }

    fn default_names(&self) -> (String, String) {
        let (name, _) = self.over.default_names(KIND.name);
        let MetricPlot { by, metric, .. } = &self.over;
        (name, sentence(&format!("Sensitivity of {} to {}", plain_label(metric), plain_label(by))))
    }

    fn distinguishes(&self) -> Option<Vec<Column>> {
        Some(self.over.distinguishes())
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let over = &self.over;
        let counted = over.observations(data);
        let mut figure = over.empty_figure(&counted);
        let mut curves = over.at_numbers(&counted);
        curves.iter_mut().for_each(|s| s.mark = Mark::Joined);
        let mut xs = curves.iter().flat_map(|s| &s.points).map(|p| p.x).peekable();
        figure.x.log = (xs.peek().is_some() && xs.all(|x| x > 0.0)).then_some(true);
        figure.notes = over.notes("band", &curves);
        let mut best = vec![];
        for curve in curves.iter().filter(|curve| curve.points.len() > 1) {
            let Some((at, is_edge)) = best_of(&curve.points, self.better) else { continue };
            let of = if curve.label.is_empty() { String::new() } else { format!("{}: ", curve.label) };
            let edge = if is_edge { ", at the edge of the tried range" } else { "" };
            figure.notes.push(format!("{of}best at {}{edge}", plain(at.x)));
            best.push(Series {
                mark: if is_edge { Mark::Edge } else { Mark::Best },
                colour: curve.colour,
                points: vec![Point { interval: None, ..at }],
                ..Series::default()
            });
        }
        let groups = over.groups(&counted).into_iter().enumerate();
        let seeds: Vec<Series> =
            groups.flat_map(|(colour, (_, group))| each_seed(over, colour, &group)).collect();
        figure.content = Content::Series(seeds.into_iter().chain(curves).chain(best).collect());
        figure
    }
}

/// Returns the best point of a curve, and whether it is the first or the last.
fn best_of(points: &[Point], better: Better) -> Option<(Point, bool)> {
    let sign = if better == Better::Lower { 1.0 } else { -1.0 };
    let (at, point) =
        points.iter().enumerate().min_by(|(_, a), (_, b)| (sign * a.y).total_cmp(&(sign * b.y)))?;
    Some((*point, at == 0 || at + 1 == points.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_found_and_an_edge_is_reported() {
        let curve = |ys: &[f64]| -> Vec<Point> {
            ys.iter().enumerate().map(|(x, y)| Point { x: x as f64, y: *y, ..Point::default() }).collect()
        };
        let found = |ys: &[f64], better| best_of(&curve(ys), better).map(|(p, is_edge)| (p.x, is_edge));
        assert_eq!(found(&[3.0, 2.0, 4.0], Better::Lower), Some((1.0, false)));
        assert_eq!(found(&[3.0, 2.0, 4.0], Better::Higher), Some((2.0, true)));
        assert_eq!(found(&[1.0, 2.0, 4.0], Better::Lower), Some((0.0, true)));
        assert_eq!(found(&[], Better::Lower), None);
    }
}
