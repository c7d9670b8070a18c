//! The load of the experts of a mixture over training.

use super::key::{LIMITS_X, LIMITS_Y, LOG_X, LOG_Y};
use super::metric_plot::{GROUP, group_label};
use super::metrics::{Curve, Row, STAGE, Training, X, each_trial, points};
use super::{Kind, Plot, PlotData};
use crate::report::columns::Column;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, COLOURS, Content, Figure, Mark, Series};
use crate::report::results::observation::Observation;
use std::sync::Arc;

/// Prefix of the columns of metrics.csv that hold the load of an expert.
const LOAD: &str = "expert_load_";

/// The kind `experts`.
pub const KIND: Kind = Kind {
    name: "experts",
    shows: "the load of each expert during training, over all layers, relative to an even share; coloured by expert for a single trial, else by group",
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

    fn default_names(&self) -> (String, String) {
        let stage = self.training.stage.name();
        let per = self.group.map_or(String::new(), |group| format!("_per_{}", group.name()));
        (format!("{}_{stage}{per}", KIND.name), format!("Load of experts in {stage}"))
    }

    fn figure(&self, data: &PlotData) -> Figure {
        let mut trials: Vec<(&Observation, Vec<Curve>)> = vec![];
        for observation in each_trial(data.observations) {
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
                let rows: Vec<Row> =
                    curve.smoothed().into_iter().map(|row| Row { y: even * row.y, ..row }).collect();
                series.push(Series {
                    label: if is_new { name } else { String::new() },
                    mark: match rows.len() {
                        ..=1 => Mark::Points,
                        // The palette repeats.
                        _ if colour >= COLOURS.len() => Mark::Dashed,
                        _ => Mark::Line,
                    },
                    colour,
                    seed: Some(observation.trial.seed),
                    points: points(&rows),
                });
            }
        }
        let mut notes = vec![
            "1: an even share of the tokens".to_string(),
            "over all layers; an expert's number means another expert in each layer".into(),
        ];
        if trials.len() > 1 {
            notes.push("a curve for each expert of each trial".into());
        }
        Figure {
            x: Axis { label: self.training.x_label.into(), log: Some(false), ..Axis::default() },
            y: Axis { label: "load (relative to an even share)".into(), log: Some(false), ..Axis::default() },
            level: Some((1.0, "even")),
            content: Content::Series(series),
            notes,
            ..Figure::default()
        }
    }
}
