//! Results of tuning: the values tried, their losses, the chosen ones, and the cost.

use crate::config::TrainStage;
use crate::records::{Status, TuningRecord};
use crate::report::figure::{Axis, Content, Figure, Mark, Point, Series};
use crate::report::number::NOTHING;
use crate::report::tables::csv_files::cell;
use crate::report::tables::grid::{Grid, GridCell};
use crate::stats::spread;
use crate::track::{counted, csv_number, time};
use anyhow::Result;
use serde_json::Value;

/// Prefix of the file names of its figures.
pub const FIGURES: &str = "tuning_";

/// Returns tuning.csv: one row for each value, seed and rung.
pub fn csv(tunings: &[TuningRecord]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record([
        "sweep",
        "setting",
        "key",
        "value",
        "seed",
        "rung",
        "metric",
        "loss",
        "chosen",
        "status",
        "reason",
        "tokens",
        "flops",
        "wall_seconds",
        "trial",
        "run",
    ])?;
    for tuning in tunings {
        for tried in &tuning.tried {
            let is_chosen = tuning.chosen.as_ref() == Some(&tried.value);
            csv.write_record([
                tuning.sweep.clone(),
                tuning.of.clone(),
                tuning.key.clone(),
                cell(&tried.value),
                tried.seed.to_string(),
                tried.rung.to_string(),
                tuning.metric.clone(),
                tried.loss.map_or(String::new(), csv_number),
                is_chosen.to_string(),
                format!("{:?}", tried.status).to_lowercase(),
                tried.reason.clone().unwrap_or_default(),
                tried.tokens.to_string(),
                csv_number(tried.flops),
                csv_number(tried.wall_seconds),
                tried.trial.to_string(),
                tried.run.clone(),
            ])?;
        }
    }
    Ok(csv.into_inner()?)
}

/// Builds the table of tunings, one row for each.
pub fn table(tunings: &[TuningRecord]) -> Grid {
    let heads = ["sweep", "setting", "key", "tried", "seeds", "chosen", "validation loss", "lost", "FLOPs"];
    let row = |tuning: &TuningRecord| {
        let mut values: Vec<String> = Vec::new();
        let mut seeds: Vec<u64> = Vec::new();
        for tried in &tuning.tried {
            let value = cell(&tried.value);
            values.extend((!values.contains(&value)).then_some(value));
            seeds.extend((!seeds.contains(&tried.seed)).then_some(tried.seed));
        }
        let means = tuning.means(last_rung(tuning));
        let of_chosen = means.iter().find(|(value, ..)| Some(value) == tuning.chosen.as_ref());
        let lost = tuning.tried.iter().filter(|tried| tried.status == Status::Failed).count();
        let cells = [
            tuning.sweep.clone(),
            if tuning.of.is_empty() { "all".into() } else { tuning.of.clone() },
            tuning.key.clone(),
            values.join(", "),
            seeds.len().to_string(),
            tuning.chosen.as_ref().map_or(NOTHING.into(), cell),
            of_chosen.map_or(NOTHING.into(), |(_, mean, _)| format!("{mean:.4}")),
            lost.to_string(),
            format!("{:.2e}", tuning.flops()),
        ];
        cells.map(GridCell::from).into()
    };
    Grid {
        title: "Values chosen before the study by validation loss, on separate seeds".into(),
        note: tunings
            .iter()
            .filter_map(|t| t.warning.clone())
            .map(|text| text + ".")
            .collect::<Vec<_>>()
            .join(" "),
        heads: heads.map(String::from).into(),
        text_columns: 4,
        rows: tunings.iter().map(row).collect(),
        ..Grid::default()
    }
}

/// Sentence on the total cost of all tunings.
pub fn cost(tunings: &[TuningRecord]) -> String {
    let (flops, seconds) = tunings.iter().fold((0.0, 0.0), |(f, s), t| (f + t.flops(), s + t.wall_seconds()));
    let done: usize =
        tunings.iter().map(|t| t.tried.iter().filter(|tried| tried.status != Status::Pending).count()).sum();
    format!(
        "Tuning took {}, {flops:.2e} FLOPs and {} of compute time, in addition to the trials of the study.",
        counted(done, "training run"),
        time(seconds)
    )
}

/// Builds a figure of the loss against the tuned value for each key of a sweep.
pub fn figures(tunings: &[TuningRecord]) -> Vec<Figure> {
    let mut figures: Vec<(&str, &str, Vec<&TuningRecord>)> = Vec::new();
    for tuning in tunings {
        match figures.iter_mut().find(|(sweep, key, _)| *sweep == tuning.sweep && *key == tuning.key) {
            Some((.., of)) => of.push(tuning),
            None => figures.push((&tuning.sweep, &tuning.key, vec![tuning])),
        }
    }
    figures.into_iter().map(|(sweep, key, of)| figure(sweep, key, &of)).collect()
}

fn figure(sweep: &str, key: &str, tunings: &[&TuningRecord]) -> Figure {
    let numbers = || tunings.iter().flat_map(|tuning| &tuning.tried).map(|tried| tried.value.as_f64());
    let is_numeric = numbers().all(|number| number.is_some());
    let mut places: Vec<String> = Vec::new();
    if !is_numeric {
        for tried in tunings.iter().flat_map(|tuning| &tuning.tried) {
            let value = cell(&tried.value);
            places.extend((!places.contains(&value)).then_some(value));
        }
    }
    let x = |value: &Value| {
        let place = || places.iter().position(|place| *place == cell(value)).map(|place| place as f64);
        if is_numeric { value.as_f64() } else { place() }
    };
    let (mut series, mut chosen) = (Vec::new(), Vec::new());
    for (colour, tuning) in tunings.iter().enumerate() {
        for rung in 1..=tuning.rungs.len() {
            let label = match (tuning.of.as_str(), tuning.rungs.len()) {
                (of, 1) => of.to_string(),
                ("", _) => format!("rung {rung}"),
                (of, _) => format!("{of}, rung {rung}"),
            };
            let points = tuning.means(rung).into_iter().filter_map(|(value, mean, seeds)| {
                let losses = tuning.tried.iter().filter(|tried| tried.rung == rung && tried.value == value);
                let losses: Vec<f64> = losses.filter_map(|tried| tried.loss).collect();
                let interval =
                    spread(&losses).and_then(|spread| spread.t95).map(|half| (mean - half, mean + half));
                let point = Point { x: x(&value)?, y: mean, interval, seeds, n: None };
                if rung == last_rung(tuning) && tuning.chosen.as_ref() == Some(&value) {
                    chosen.push(Point { interval: None, ..point });
                }
                Some(point)
            });
            let mut points: Vec<Point> = points.collect();
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
            // The last rung, which decides, stands out.
            let mark = if rung == tuning.rungs.len() { Mark::Joined } else { Mark::Dashed };
            series.push(Series { label, colour, points, mark, ..Series::default() });
        }
    }
    let mut notes = vec!["means over the tuning seeds, 95 % t interval if there are several".to_string()];
    if !chosen.is_empty() {
        notes.push("ring: chosen".into());
        series.push(Series { mark: Mark::Best, points: chosen, ..Series::default() });
    }
    let metric = tunings.first().map_or("", |tuning| &tuning.metric);
    let stage = metric.split_once('.').and_then(|(stage, _)| TrainStage::named(stage));
    let unit =
        if stage.is_some_and(TrainStage::compares_answers) { "nats per pair" } else { "nats per token" };
    let name: String = format!("{FIGURES}{sweep}_{key}")
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .collect();
    Figure {
        name,
        title: format!("Tuning of {key} in {sweep}"),
        x: Axis { label: key.into(), log: is_numeric.then_some(true), categories: places, ..Axis::default() },
        y: Axis { label: format!("{metric} ({unit})"), log: Some(false), ..Axis::default() },
        content: Content::Series(series),
        notes,
        ..Figure::default()
    }
}

/// The last rung on which any training has a loss; 1 if none has.
fn last_rung(tuning: &TuningRecord) -> usize {
    tuning.tried.iter().filter(|tried| tried.loss.is_some()).map(|tried| tried.rung).max().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_of_pairs_has_its_unit() {
        for (metric, label) in [
            ("dpo.val_loss", "dpo.val_loss (nats per pair)"),
            ("pretrain.val_loss", "pretrain.val_loss (nats per token)"),
        ] {
            let tuning = TuningRecord {
                sweep: "s".into(),
                of: String::new(),
                key: "dpo.lr".into(),
                metric: metric.into(),
                chosen: None,
                warning: None,
                rungs: vec![1],
                tried: vec![],
            };
            assert_eq!(figure("s", "dpo.lr", &[&tuning]).y.label, label);
        }
    }
}
