//! Reliability diagram: accuracy by the confidence of the model.

use super::key::{LIMITS_X, LIMITS_Y};
use super::metric_plot::{GROUP, group_label};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure, Mark, Point, Series};
use crate::report::results::observation::{Observation, Pooled, grouped};
use stats::{Reliability, wilson_of_share};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The kind `reliability`.
pub const KIND: Kind = Kind {
    name: "reliability",
    shows: "accuracy by the probability of the chosen option, in ten bins, with the number of answers; the diagonal is perfect calibration",
    keys: &[GROUP, LIMITS_X, LIMITS_Y],
    read,
};

#[derive(Debug)]
struct ReliabilityDiagram {
    group: Option<Column>,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    Some(Arc::new(ReliabilityDiagram { group: fields.column("group") }))
}

impl Plot for ReliabilityDiagram {
    fn columns(&self) -> Vec<Column> {
        self.group.into_iter().collect()
    }

    fn default_names(&self) -> (String, String) {
        let per = self.group.map_or(String::new(), |group| format!("_per_{}", group.name()));
        (format!("{}{per}", KIND.name), "Reliability of answers".into())
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let counted: Vec<&Observation> =
            data.observations.iter().copied().filter(|o| bins(o).is_some()).collect();
        let groups = match &self.group {
            None => vec![(String::new(), counted)],
            Some(column) => grouped(&counted, &[*column])
                .into_iter()
                .map(|(key, group)| (group_label(column, &key[0]), group))
                .collect(),
        };
        let diagonal = Series {
            label: "perfect calibration".into(),
            mark: Mark::Dashed,
            colour: 6,
            points: [0.0, 100.0].map(|at| Point { x: at, y: at, ..Point::default() }).into(),
            ..Series::default()
        };
        let mut notes = vec!["intervals: Wilson 95 %, each question counted once".to_string()];
        let mut series = vec![];
        for (colour, (label, group)) in groups.into_iter().enumerate() {
            let seeds = group.iter().map(|o| o.trial.seed).collect::<BTreeSet<_>>().len().max(1);
            let Some(answers) = Pooled::of(&group) else { continue };
            let points = pooled(&group, &answers, seeds);
            if points.is_empty() {
                continue;
            }
            let n: u64 = points.iter().filter_map(|p| p.n).sum();
            let gap = points.iter().map(|p| p.n.unwrap_or(0) as f64 * (p.y - p.x).abs() / 100.0).sum::<f64>();
            let of = if label.is_empty() { String::new() } else { format!("{label}: ") };
            notes.push(format!("{of}{n} answers, calibration error {:.3}", gap / n as f64));
            series.push(Series { label, mark: Mark::Joined, colour, points, ..Series::default() });
        }
        if !series.is_empty() {
            notes.push("markers grow with the number of answers".into());
            series.insert(0, diagonal);
        }
        let axis = |label: &str| Axis { label: label.into(), bounds: Some((0.0, 100.0)), ..Axis::default() };
        Figure {
            x: axis("probability of the chosen option (%)"),
            y: axis("accuracy (%)"),
            has_error_bars: true,
            content: Content::Series(series),
            notes,
            ..Figure::default()
        }
    }
}

fn bins<'o>(observation: &'o Observation) -> Option<&'o [Reliability]> {
    Some(&observation.score.as_ref()?.analysis()?.calibration.as_ref()?.bins)
}

/// Pools the bins of several exams with these answers in total. Seeds, settings and stages that answer the same questions
/// do not narrow the intervals.
fn pooled(observations: &[&Observation], answers: &Pooled, seeds: usize) -> Vec<Point> {
    let mut pooled: Vec<(f64, u64, f64, f64)> = vec![];
    for bin in observations.iter().filter_map(|o| bins(o)).flatten() {
        let n = bin.n as f64;
        let (sure, right) = (n * bin.confidence, n * bin.accuracy);
        match pooled.iter_mut().find(|found| (found.0 - bin.low).abs() < 1e-9) {
            Some(found) => {
                (found.1, found.2, found.3) = (found.1 + bin.n as u64, found.2 + sure, found.3 + right)
            }
            None => pooled.push((bin.low, bin.n as u64, sure, right)),
        }
    }
    pooled.sort_by(|a, b| a.0.total_cmp(&b.0));
    let point = |(_, n, sure, right): (f64, u64, f64, f64)| {
        let share = right / n as f64;
        let questions = (n * answers.questions / answers.asked).max(1);
        let (low, high) = wilson_of_share(share, questions, 0.95);
        Point {
            x: 100.0 * sure / n as f64,
            y: 100.0 * share,
            interval: Some((100.0 * low, 100.0 * high)),
            seeds,
            n: Some(n),
        }
    };
    pooled.into_iter().map(point).collect()
}
