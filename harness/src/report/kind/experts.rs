//! How a mixture's tokens spread over its experts, over training.

use super::key::{LIMITS_X, LIMITS_Y, LOG_X, LOG_Y};
use super::metrics::{Curve, STAGE, Training, X, each_trial, points};
use super::over::{GROUP, group_label};
use super::{Found, Kind, Plot};
use crate::report::columns::Column;
use crate::report::fields::Fields;
use crate::report::figure::{Axis, Content, Figure, Mark, Series};
use crate::report::observation::Observation;
use std::sync::Arc;

/// The columns of metrics.csv.
const LOAD: &str = "expert_load_";

/// The kind.
pub const KIND: Kind = Kind {
    name: "experts",
    shows: "the load of each expert over training, over all layers, in even shares: a colour an expert where one trial counts, else a colour a group",
    keys: &[STAGE, X, GROUP, LOG_X, LOG_Y, LIMITS_X, LIMITS_Y],
    read,
};

#[derive(Debug)]
struct Experts {
    training: Training,
    group: Option<Column>,
}

fn read(fields: &mut Fields) -> Option<Arc<dyn Plot>> {
    let training = Training::read(fields);
    Some(Arc::new(Experts { training, group: fields.column("group") }))
}

impl Plot for Experts {
    fn columns(&self) -> Vec<Column> {
        self.group.into_iter().collect()
    }

    fn names(&self) -> (String, String) {
        let stage = self.training.stage.name();
        let per = self.group.map_or(String::new(), |group| format!("_per_{}", group.name()));
        (format!("{}_{stage}{per}", KIND.name), format!("Load of experts in {stage}"))
    }

    fn figure(&self, found: &Found) -> Figure {
        let mut trials: Vec<(&Observation, Vec<Curve>)> = vec![];
        for observation in each_trial(found.observations) {
            let curves = self.training.curves(observation.trial, |column| column.starts_with(LOAD));
            let own: Vec<Curve> = curves.into_iter().filter(|curve| curve.split == "train").collect();
            trials.extend((!own.is_empty()).then_some((observation, own)));
        }
        let (mut series, mut groups): (Vec<Series>, Vec<String>) = (vec![], vec![]);
        for (observation, curves) in &trials {
            let group = match &self.group {
                Some(column) => group_label(column, &column.read(observation)),
                None => observation.label.to_string(),
            };
            for curve in curves {
                let expert = curve.column.trim_start_matches(LOAD);
                let name = if trials.len() == 1 { format!("expert {expert}") } else { group.clone() };
                let colour = groups.iter().position(|g| *g == name).unwrap_or(groups.len());
                let is_new = colour == groups.len();
                groups.extend(is_new.then(|| name.clone()));
                let even = curves.len() as f64;
                let rows: Vec<(f64, f64)> =
                    curve.smoothed().into_iter().map(|(x, load)| (x, even * load)).collect();
                series.push(Series {
                    label: if is_new { name } else { String::new() },
                    mark: if rows.len() > 1 { Mark::Line } else { Mark::Points },
                    colour,
                    seed: Some(observation.trial.seed),
                    points: points(&rows),
                });
            }
        }
        let mut notes = vec![
            "1: as many tokens as each expert would have in an even spread".to_string(),
            "over all layers, in which a number names different experts".into(),
        ];
        if trials.len() > 1 {
            notes.push("a curve for each expert of each trial".into());
        }
        Figure {
            x: Axis { label: self.training.x_label.into(), log: Some(false), ..Axis::default() },
            y: Axis { label: "load (even shares)".into(), log: Some(false), ..Axis::default() },
            level: Some((1.0, "even")),
            content: Content::Series(series),
            notes,
            ..Figure::default()
        }
    }
}
