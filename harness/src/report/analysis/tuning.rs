//! Results of tuning: the values tried, their losses, the chosen ones, and the cost.

use crate::records::{Status, TuningRecord};
use crate::report::columns::Names;
use crate::report::columns::key_label::{unit_apart, with_value};
use crate::report::figure::{Axis, Content, Figure, Mark, Point, Series};
use crate::report::number::{Digits, NOTHING};
use crate::report::tables::csv_files::cell;
use crate::report::tables::grid::{Grid, GridCell};
use crate::track::{counted, csv_number, time};
use anyhow::Result;
use serde_json::Value;
use stats::spread;

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

/// The settings that a value was chosen for, with the labels of their keys: `layers 4, heads 8`.
fn setting(tuning: &TuningRecord, names: &Names) -> String {
    let part = |part: &str| match part.split_once(" = ") {
        Some((key, value)) => with_value(&names.label(key), value),
        None => part.into(),
    };
    tuning.of.split(", ").map(part).collect::<Vec<_>>().join(", ")
}

/// Builds the table of tunings, one row for each; `names` are the labels of keys.
pub fn table(tunings: &[TuningRecord], names: &Names) -> Grid {
    let heads = ["sweep", "setting", "key", "tried", "seeds", "chosen", "validation loss", "lost", "FLOPs"];
    let loss_of_chosen = |tuning: &TuningRecord| {
        let means = tuning.means(last_rung(tuning));
        means.iter().find(|(value, ..)| Some(value) == tuning.chosen.as_ref()).map(|(_, mean, _)| *mean)
    };
    let digits = Digits::of(4, tunings.iter().filter_map(loss_of_chosen));
    let row = |tuning: &TuningRecord| {
        let mut values: Vec<String> = Vec::new();
        let mut seeds: Vec<u64> = Vec::new();
        for tried in &tuning.tried {
            let value = cell(&tried.value);
            values.extend((!values.contains(&value)).then_some(value));
            seeds.extend((!seeds.contains(&tried.seed)).then_some(tried.seed));
        }
        let lost = tuning.tried.iter().filter(|tried| tried.status == Status::Failed).count();
        let cells = [
            tuning.sweep.clone(),
            if tuning.of.is_empty() { "all".into() } else { setting(tuning, names) },
            tuning.key.clone(),
            values.join(", "),
            seeds.len().to_string(),
            tuning.chosen.as_ref().map_or(NOTHING.into(), cell),
            loss_of_chosen(tuning).map_or(NOTHING.into(), |loss| digits.text(loss)),
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

/// Builds a figure of the loss against the tuned value for each key of a sweep; `names` are the labels of keys.
pub fn figures(tunings: &[TuningRecord], names: &Names) -> Vec<Figure> {
    let mut figures: Vec<(&str, &str, Vec<&TuningRecord>)> = Vec::new();
    for tuning in tunings {
        match figures.iter_mut().find(|(sweep, key, _)| *sweep == tuning.sweep && *key == tuning.key) {
            Some((.., of)) => of.push(tuning),
            None => figures.push((&tuning.sweep, &tuning.key, vec![tuning])),
        }
    }
    figures.into_iter().map(|(sweep, key, of)| figure(sweep, key, &of, names)).collect()
}

fn figure(sweep: &str, key: &str, tunings: &[&TuningRecord], names: &Names) -> Figure {
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
            let label = match (setting(tuning, names), tuning.rungs.len()) {
                (of, 1) => of,
                (of, _) if of.is_empty() => format!("rung {rung}"),
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
    let name: String = format!("{FIGURES}{sweep}_{key}")
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '_' })
        .collect();
    Figure {
        name,
        title: format!("Tuning of {} in {sweep}", unit_apart(&names.label(key)).0),
        x: Axis {
            label: names.label(key),
            log: is_numeric.then_some(true),
            categories: places,
            ..Axis::default()
        },
        y: Axis { label: names.label(metric), log: Some(false), ..Axis::default() },
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
    use crate::records::CandidateRecord;

    fn tuning(of: &str, metric: &str, loss: f64) -> TuningRecord {
        let tried = CandidateRecord {
            trial: uuid::Uuid::nil(),
            rung: 1,
            value: Value::from(0.5),
            seed: 1,
            status: Status::Done,
            loss: Some(loss),
            reason: None,
            tokens: 1,
            flops: 1.0,
            wall_seconds: 1.0,
            run: String::new(),
        };
        TuningRecord {
            sweep: "s".into(),
            of: of.into(),
            key: "dpo.lr".into(),
            metric: metric.into(),
            chosen: Some(Value::from(0.5)),
            warning: None,
            rungs: vec![1],
            tried: vec![tried],
        }
    }

    #[test]
    fn keys_have_their_labels_and_losses_their_units() {
        let names = Names::default();
        for (metric, label) in [
            ("dpo.val_loss", "DPO validation loss (nats per pair)"),
            ("pretrain.val_loss", "validation loss (nats per token)"),
        ] {
            let tuning = tuning("model.n_layers = 4, data.pretrain = [1, 2]", metric, 1.0);
            let figure = figure("s", "dpo.lr", &[&tuning], &names);
            assert_eq!((figure.y.label.as_str(), figure.x.label.as_str()), (label, "DPO learning rate"));
            assert_eq!(figure.title, "Tuning of DPO learning rate in s");
            let Content::Series(series) = figure.content else { panic!("no series") };
            assert_eq!(series[0].label, "layers 4, data.pretrain [1, 2]");
        }
    }

    #[test]
    fn small_losses_have_their_digits() {
        let tunings = [tuning("", "pretrain.val_loss", 0.000_021_4), tuning("", "pretrain.val_loss", 0.5)];
        let grid = table(&tunings, &Names::default());
        let losses: Vec<&str> = grid.rows.iter().map(|row| row[6].text.as_str()).collect();
        assert_eq!(losses, ["2.14e-5", "0.5000"]);
    }
}
