//! Loss over size for each budget of compute, with the best size of each.

use super::key::{Holds, Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y};
use super::over::{ErrorBar, Over};
use super::scatter::by_setting;
use super::{Found, Kind, Plot, plain_label, sentence};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::number::{digits3, plain};
use crate::report::observation::over_seeds;
use crate::stats::{Budget, Optimum, budgets, growth};
use std::sync::Arc;

/// Points of a parabola.
const CURVE_POINTS: usize = 40;

/// Training is counted in whole steps, so that runs of one budget differ by up to this share.
const SAME: f64 = 0.1;

/// The kind.
pub const KIND: Kind = Kind {
    name: "isoflop",
    shows: "a loss over the size, a colour for each budget of compute, each with its parabola and the best size; the best sizes joined",
    keys: &[
        Key::optional("x", Holds::Number),
        Key::optional("y", Holds::Number),
        Key::optional("budget", Holds::Number),
        LOG_X,
        LOG_Y,
        LIMITS_X,
        LIMITS_Y,
    ],
    read,
};

#[derive(Debug)]
struct IsoFlop {
    over: Over,
    budget: Column,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.number_or("x", "params");
    let y = fields.number_or("y", "val.loss");
    let budget = fields.number_or("budget", "train_flops")?;
    let over = Over { by: x?, metric: y?, group: None, error: ErrorBar::T95 };
    Some(Arc::new(IsoFlop { over, budget }))
}

/// A setting: its budget, and its point.
type Run = (f64, Point);

impl Plot for IsoFlop {
    fn columns(&self) -> Vec<Column> {
        self.over.columns().into_iter().chain([self.budget]).collect()
    }

    fn names(&self) -> (String, String) {
        let Over { by, metric, .. } = &self.over;
        let title = format!(
            "{} over {} at equal {}",
            plain_label(metric),
            plain_label(by),
            plain_label(&self.budget)
        );
        (format!("{}_{}_by_{}", KIND.name, metric.name(), by.name()), sentence(&title))
    }

    fn figure(&self, found: &Found) -> Figure {
        let over = &self.over;
        let counted = over.counted(found);
        let mut figure = over.bare(&counted);
        figure.x.log = Some(true);
        let runs: Vec<Run> = by_setting(&counted)
            .into_iter()
            .filter_map(|(_, group)| {
                let mean = |column: &Column| over_seeds(&group, column).map(|spread| spread.mean);
                let x = over.by.scale() * mean(&over.by)?;
                Some((mean(&self.budget)?, over.point(x, &group)?)).filter(|(c, _)| *c > 0.0 && x > 0.0)
            })
            .collect();
        let groups = by_budget(runs);
        let points: Vec<Series> = groups
            .iter()
            .enumerate()
            .map(|(colour, (budget, points))| Series {
                label: plain(*budget),
                colour,
                points: points.clone(),
                ..Series::default()
            })
            .collect();
        figure.notes = over.notes("intervals", &points);
        figure.legend_title = plain_label(&self.budget);
        let mut curves: Vec<Series> = vec![];
        let mut optima: Vec<Point> = vec![];
        let mut law = String::new();
        let mut left: Vec<(String, Vec<String>)> = vec![];
        match fitted(&groups) {
            Ok(budgets) => {
                for (colour, (budget, (flops, points))) in budgets.iter().zip(&groups).enumerate() {
                    match &budget.optimum {
                        Ok(optimum) => {
                            curves.extend(parabola(optimum, points, colour));
                            optima.push(Point { x: optimum.size, y: optimum.loss, ..Point::default() });
                        }
                        Err(error) => {
                            let (why, flops) = (error.to_string(), plain(*flops));
                            match left.iter_mut().find(|(known, _)| *known == why) {
                                Some((_, of)) => of.push(flops),
                                None => left.push((why, vec![flops])),
                            }
                        }
                    }
                }
                if let Ok(fit) = growth(&budgets, 0.95) {
                    let half = digits3(fit.b.high - fit.b.value);
                    law = format!("best size grows as C^{} ± {half} at 95 %", digits3(fit.b.value));
                }
            }
            Err(error) => figure.notes.push(error.to_string()),
        }
        figure.notes.extend(left.into_iter().map(|(why, of)| format!("{}: {why}", of.join(", "))));
        figure.notes.extend((!law.is_empty()).then_some(law));
        let joined = Series {
            label: "best size".into(),
            mark: Mark::Joined,
            colour: 6,
            points: optima,
            ..Series::default()
        };
        let best = (!joined.points.is_empty()).then_some(joined);
        figure.content = Content::Series(points.into_iter().chain(curves).chain(best).collect());
        figure
    }
}

/// Runs by budget, the smallest first; a budget is the geometric mean of what its runs took.
fn by_budget(mut runs: Vec<Run>) -> Vec<(f64, Vec<Point>)> {
    runs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.x.total_cmp(&b.1.x)));
    let groups = runs.chunk_by(|a, b| b.0 <= a.0 * (1.0 + SAME));
    let group = |group: &[Run]| {
        let log = group.iter().map(|(budget, _)| budget.ln()).sum::<f64>() / group.len() as f64;
        let mut points: Vec<Point> = group.iter().map(|(_, point)| *point).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        (log.exp(), points)
    };
    groups.map(group).collect()
}

fn fitted(groups: &[(f64, Vec<Point>)]) -> Result<Vec<Budget>, crate::stats::StatsError> {
    let all = || groups.iter().flat_map(|(budget, points)| points.iter().map(move |point| (*budget, point)));
    let flops: Vec<f64> = all().map(|(budget, _)| budget).collect();
    let size: Vec<f64> = all().map(|(_, point)| point.x).collect();
    let loss: Vec<f64> = all().map(|(_, point)| point.y).collect();
    budgets(&flops, &size, &loss, 0.95)
}

/// The parabola of a budget between its smallest and its largest run.
fn parabola(optimum: &Optimum, points: &[Point], colour: usize) -> Option<Series> {
    let (low, high) = (points.first()?.x, points.last()?.x);
    let at = |i: usize| {
        let x = low * (high / low).powf(i as f64 / (CURVE_POINTS - 1) as f64);
        Some(Point { x, y: optimum.loss_at(x)?, ..Point::default() })
    };
    let points = (0..CURVE_POINTS).map(at).collect::<Option<_>>()?;
    Some(Series { mark: Mark::Line, colour, points, ..Series::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_nearly_one_budget_are_one() {
        let run = |budget: f64, x: f64| (budget, Point { x, ..Point::default() });
        let found = by_budget(vec![run(1e15, 4.0), run(1.02e15, 2.0), run(3e15, 8.0), run(0.99e15, 1.0)]);
        let sizes: Vec<Vec<f64>> =
            found.iter().map(|(_, points)| points.iter().map(|p| p.x).collect()).collect();
        assert_eq!(sizes, [vec![1.0, 2.0, 4.0], vec![8.0]]);
        assert!((found[0].0 / 1.003e15 - 1.0).abs() < 1e-3, "{}", found[0].0);
    }
}
