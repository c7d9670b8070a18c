//! The claims of an experiment: each effect with its interval and its verdict.

use super::key::{Key, LIMITS_X, ValueType, words_of};
use super::{Kind, Plot, PlotData, plain_label};
use crate::report::analysis::compare::{Comparison, Verdict};
use crate::report::columns::{Better, Column};
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure, Mark, Point, Series};
use std::sync::Arc;

/// The scale of effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Differences in the unit of the metric.
    Difference,
    /// Standard deviations (Hedges' g).
    G,
}

const EFFECTS: [(&str, Effect); 2] = [("difference", Effect::Difference), ("g", Effect::G)];

/// The kind `forest`.
pub const KIND: Kind = Kind {
    name: "forest",
    shows: "the claims of every `[[compare]]`: the effect with its 95 % interval, to the right as claimed, the margin of equivalence shaded, and the verdict by colour and shape",
    keys: &[
        Key::optional("metric", ValueType::Number),
        Key::optional("effect", ValueType::Words(|| words_of(&EFFECTS))),
        LIMITS_X,
    ],
    read,
};

#[derive(Debug)]
struct Forest {
    metric: Option<Column>,
    effect: Option<Effect>,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    if !fields.has_claims {
        fields.problem("kind", "is \"forest\", which shows claims, expected a [[compare]] in this file");
    }
    let metric = fields.number("metric", "\"val.bpb\"");
    let effect = fields.choice("effect", &EFFECTS);
    Some(Arc::new(Forest { metric, effect }))
}

impl Plot for Forest {
    fn columns(&self) -> Vec<Column> {
        vec![]
    }

    fn default_names(&self) -> (String, String) {
        let of = self.metric.map_or(String::new(), |metric| format!("_{}", metric.name()));
        let title = match &self.metric {
            Some(metric) => format!("Claims of {}", plain_label(metric)),
            None => "Claims".into(),
        };
        (format!("{}{of}", KIND.name), title)
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let is_wanted = |c: &&Comparison| self.metric.is_none_or(|metric| c.spec.metric == metric);
        let claims: Vec<&Comparison> = data.compared.iter().filter(is_wanted).collect();
        let Some(first) = claims.first() else { return Figure::default() };
        // Effects on different metrics have no common unit.
        let is_one = claims.iter().all(|claim| claim.spec.metric == first.spec.metric);
        let effect = self.effect.unwrap_or(if is_one { Effect::Difference } else { Effect::G });
        let verdicts = ["supported", "contradicted", "equivalent", "not decided"];
        let mut series: Vec<Series> = [0, 1, 2, 3]
            .map(|i| Series { label: verdicts[i].into(), colour: [2, 1, 0, 6][i], ..Series::default() })
            .into();
        let mut margins = Series { label: "margin".into(), mark: Mark::IntervalArea, ..Series::default() };
        let mut without = 0;
        for (place, claim) in claims.iter().enumerate() {
            let y = place as f64;
            let scale = if effect == Effect::Difference { claim.spec.metric.scale() } else { 1.0 };
            let turn = if claim.spec.better == Better::Lower { -scale } else { scale };
            let margin = claim.spec.margin.filter(|_| effect == Effect::Difference).map(|m| scale * m);
            margins.points.extend(margin.map(|m| Point {
                x: 0.0,
                y,
                interval: Some((-m, m)),
                ..Point::default()
            }));
            let Some((x, interval)) = measured(claim, effect) else {
                without += 1;
                continue;
            };
            let point = Point {
                x: turn * x,
                y,
                interval: interval.map(|(a, b)| (turn * a, turn * b)).map(|(a, b)| (a.min(b), a.max(b))),
                seeds: claim.n.0.min(claim.n.1),
                ..Point::default()
            };
            series[place_of(&claim.verdict)].points.push(point);
        }
        series.retain(|s| !s.points.is_empty());
        series.extend((!margins.points.is_empty()).then_some(margins));
        let label = match effect {
            Effect::Difference if is_one => {
                format!("effect (right: as claimed), {}", first.spec.metric.label())
            }
            Effect::Difference => "effect (right: as claimed)".into(),
            Effect::G => "effect (right: as claimed), Hedges' g (standard deviations)".into(),
        };
        let mut notes = vec![
            "effect: a − b where the claim says that a is higher, else b − a".to_string(),
            "intervals: 95 %, uncorrected; verdicts: by p after Holm's correction".into(),
        ];
        if without > 0 {
            notes.push(format!(
                "not shown: no effect is known for {}",
                crate::track::counted(without, "claim")
            ));
        }
        Figure {
            x: Axis { label, must_include: Some(0.0), log: Some(false), ..Axis::default() },
            y: Axis {
                categories: claims.iter().map(|claim| claim.spec.claim.clone()).collect(),
                ..Axis::default()
            },
            is_sideways: true,
            level: Some((0.0, "no difference")),
            content: Content::Series(series),
            notes,
            ..Figure::default()
        }
    }
}

/// The effect of a claim and its interval; `None` if unknown.
fn measured(claim: &Comparison, effect: Effect) -> Option<(f64, Option<(f64, f64)>)> {
    match effect {
        Effect::Difference => Some((claim.effect()?, claim.tested.map(|tested| tested.interval))),
        Effect::G => claim.tested?.g.map(|g| (g.value, Some((g.low, g.high)))),
    }
}

fn place_of(verdict: &Verdict) -> usize {
    match verdict {
        Verdict::Supported => 0,
        Verdict::Contradicted => 1,
        Verdict::Equivalent => 2,
        Verdict::NotDecided(_) => 3,
    }
}
