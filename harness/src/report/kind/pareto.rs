//! A scatter with its Pareto front: the settings that no other dominates.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType};
use super::metric_plot::{ERROR, GROUP, MetricPlot};
use super::scatter::settings;
use super::{Kind, Plot, PlotData, plain_label, sentence};
use crate::report::columns::{Better, Column};
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use std::sync::Arc;

/// The kind `pareto`.
pub const KIND: Kind = Kind {
    name: "pareto",
    shows: "a point for each setting, and the Pareto front: the settings that no other setting dominates",
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
struct Pareto(MetricPlot);

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.required_number("x", "\"params\"");
    let y = fields.required_number("y", "\"exam.accuracy\"");
    let over = MetricPlot::read(fields, x, y)?;
    for (key, column) in [("x", over.by), ("y", over.metric)] {
        if column.better().is_none() {
            let problem = format!(
                "is {:?}, for which neither higher nor lower is better, expected a cost such as params or a metric",
                column.name()
            );
            fields.problem(key, problem);
        }
    }
    Some(Arc::new(Pareto(over)))
}

impl Plot for Pareto {
    fn columns(&self) -> Vec<Column> {
        self.0.columns()
    }

    fn default_names(&self) -> (String, String) {
        let (name, _) = self.0.default_names(KIND.name);
        (name, sentence(&format!("{} against {}", plain_label(&self.0.metric), plain_label(&self.0.by))))
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let over = &self.0;
        let counted = over.observations(data);
        let mut figure = over.empty_figure(&counted);
        let (mut series, names): (Vec<Series>, Vec<Vec<String>>) =
            settings(over, &counted).into_iter().unzip();
        figure.notes = over.notes("intervals", &series);
        figure.notes.push("front: settings that no other setting dominates".into());
        add_front(over, &names, &mut series);
        figure.content = Content::Series(series);
        figure
    }
}

/// Adds the Pareto front as a dashed line with numbered settings.
fn add_front(over: &MetricPlot, names: &[Vec<String>], series: &mut Vec<Series>) {
    let sign = |column: &Column| if column.better() == Some(Better::Lower) { 1.0 } else { -1.0 };
    let (sx, sy) = (sign(&over.by), sign(&over.metric));
    let all: Vec<(Point, &String, usize)> = series
        .iter()
        .zip(names)
        .flat_map(|(s, names)| s.points.iter().zip(names).map(|(p, n)| (*p, n, s.colour)))
        .collect();
    let costs: Vec<(f64, f64)> = all.iter().map(|(p, _, _)| (sx * p.x, sy * p.y)).collect();
    let mut front: Vec<usize> = pareto_front(&costs);
    front.sort_by(|&a, &b| all[a].0.x.total_cmp(&all[b].0.x));
    let bare = |p: Point| Point { interval: None, ..p };
    let line = front.iter().map(|&i| bare(all[i].0)).collect();
    let numbered: Vec<Series> = front
        .iter()
        .map(|&i| Series {
            label: all[i].1.clone(),
            mark: Mark::Numbered,
            colour: all[i].2,
            points: vec![bare(all[i].0)],
            ..Series::default()
        })
        .collect();
    series.push(Series {
        label: "front".into(),
        mark: Mark::Dashed,
        colour: 6,
        points: line,
        ..Series::default()
    });
    series.extend(numbered);
}

/// Indices of the points that no other dominates, where lower is better in both coordinates.
fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let dominates = |q: &(f64, f64), p: &(f64, f64)| q.0 <= p.0 && q.1 <= p.1 && q != p;
    (0..points.len()).filter(|&i| !points.iter().any(|q| dominates(q, &points[i]))).collect()
}

#[cfg(test)]
mod tests {
    use super::pareto_front;

    #[test]
    fn the_front_holds_what_nothing_dominates() {
        let points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0), (4.0, 1.0)];
        assert_eq!(pareto_front(&points), [0, 1, 4, 5]);
    }
}
