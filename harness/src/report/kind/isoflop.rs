//! IsoFLOP curves: loss over model size at each compute budget, with the best size of each.

use super::key::{Key, LIMITS_X, LIMITS_Y, LOG_X, LOG_Y, ValueType};
use super::metric_plot::{ErrorBar, MetricPlot};
use super::scatter::by_setting;
use super::{Kind, Plot, PlotData, plain_label, sentence};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Content, Figure, Mark, Point, Series};
use crate::report::number::{digits3, plain};
use crate::report::results::observation::over_seeds;
use stats::{Optimum, budgets, growth};
use std::sync::Arc;

/// Number of points of a drawn parabola.
const CURVE_POINTS: usize = 40;

/// The kind `isoflop`.
pub const KIND: Kind = Kind {
    name: "isoflop",
    shows: "a loss over model size, with a colour, a parabola and the best size for each compute budget; the best sizes are joined",
    keys: &[
        Key::optional("x", ValueType::Number),
        Key::optional("y", ValueType::Number),
        Key::optional("budget", ValueType::Number),
        LOG_X,
        LOG_Y,
        LIMITS_X,
        LIMITS_Y,
    ],
    read,
};

#[derive(Debug)]
struct IsoFlop {
    over: MetricPlot,
    budget: Column,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let x = fields.number_or("x", "params");
    let y = fields.number_or("y", "val.loss");
    let budget = fields.number_or("budget", "train_flops")?;
    let over = MetricPlot { by: x?, metric: y?, group: None, error: ErrorBar::T95 };
    Some(Arc::new(IsoFlop { over, budget }))
}

impl Plot for IsoFlop {
    fn columns(&self) -> Vec<Column> {
        self.over.columns().into_iter().chain([self.budget]).collect()
    }

    fn default_names(&self) -> (String, String) {
        let MetricPlot { by, metric, .. } = &self.over;
        let title = format!(
            "{} over {} at equal {}",
            plain_label(metric),
            plain_label(by),
            plain_label(&self.budget)
        );
        (format!("{}_{}_by_{}", KIND.name, metric.name(), by.name()), sentence(&title))
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let over = &self.over;
        let counted = over.observations(data);
        let mut figure = over.empty_figure(&counted);
        figure.x.log = Some(true);
        let (flops, runs): (Vec<f64>, Vec<Point>) = by_setting(&counted)
            .into_iter()
            .filter_map(|(_, group)| {
                let mean = |column: &Column| over_seeds(&group, column).map(|spread| spread.mean);
                let x = over.by.scale() * mean(&over.by)?;
                Some((mean(&self.budget)?, over.point(x, &group)?)).filter(|(c, _)| *c > 0.0 && x > 0.0)
            })
            .unzip();
        let column = |of: fn(&Point) -> f64| runs.iter().map(of).collect::<Vec<f64>>();
        let found = budgets(&flops, &column(|run| run.x), &column(|run| run.y), 0.95);
        let why_none = found.as_ref().err().map(ToString::to_string);
        let budgets = found.unwrap_or_default();
        let (mut points, mut curves, mut optima) = (vec![], vec![], vec![]);
        let mut left: Vec<(String, Vec<String>)> = vec![];
        for (colour, budget) in budgets.iter().enumerate() {
            let mut of: Vec<Point> = budget.runs.iter().map(|&run| runs[run]).collect();
            of.sort_by(|a, b| a.x.total_cmp(&b.x));
            let flops = plain(budget.flops);
            match &budget.optimum {
                Ok(optimum) => {
                    curves.extend(parabola(optimum, &of, colour));
                    optima.push(Point { x: optimum.size, y: optimum.loss, ..Point::default() });
                }
                Err(error) => {
                    let why = error.to_string();
                    match left.iter_mut().find(|(known, _)| *known == why) {
                        Some((_, of)) => of.push(flops.clone()),
                        None => left.push((why, vec![flops.clone()])),
                    }
                }
            }
            points.push(Series { label: flops, colour, points: of, ..Series::default() });
        }
        if why_none.is_some() {
            points.push(Series { points: runs, ..Series::default() });
        }
        figure.notes = over.notes("intervals", &points);
        figure.legend_title = plain_label(&self.budget);
        figure.notes.extend(why_none);
        figure.notes.extend(left.into_iter().map(|(why, of)| format!("{}: {why}", of.join(", "))));
        figure.notes.extend(growth(&budgets, 0.95).ok().map(|fit| {
            let half = digits3(fit.b.high - fit.b.value);
            format!("best size grows as C^{} ± {half} at 95 %", digits3(fit.b.value))
        }));
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

/// The fitted parabola of a budget from its smallest to its largest run; `None` if it has no runs or a loss on it is
/// undefined.
fn parabola(optimum: &Optimum, points: &[Point], colour: usize) -> Option<Series> {
    let (low, high) = (points.first()?.x, points.last()?.x);
    let at = |i: usize| {
        let x = low * (high / low).powf(i as f64 / (CURVE_POINTS - 1) as f64);
        Some(Point { x, y: optimum.loss_at(x)?, ..Point::default() })
    };
    let points = (0..CURVE_POINTS).map(at).collect::<Option<_>>()?;
    Some(Series { mark: Mark::Line, colour, points, ..Series::default() })
}
