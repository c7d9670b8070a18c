//! Lengths of training stages in `[solve]`: by operations, or by time at the speeds that an earlier run measured.

use crate::config::{Entry, Node, TrainStage, TrialConfig, did_you_mean, get, plain, set};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

/// Most tokens of a solved stage.
const MAX_TOKENS: f64 = 1e15;

const EXPECTED: &str =
    "{ flops = OPERATIONS } or { seconds = SECONDS, measured = \"results/NAME/trials.csv\" }";

/// Advice in messages about a missing speed.
const MEASURE: &str = "measure first, with a short run of all shapes of this sweep: docs/sweeps.md";

/// The column of a report with the number of parameters; shapes are distinguished by it as by a key.
const PARAMS: &str = "params";

/// Most values of a column that a message lists.
const SHOWN: usize = 5;

/// The constraint on the length of a stage.
#[derive(Debug, Clone, PartialEq)]
pub enum Length {
    /// A number of floating-point operations.
    Flops(TrainStage, f64),
    /// A number of seconds at measured speeds.
    Seconds(f64, Speeds),
}

impl Length {
    /// Parses the value of `<stage>.tokens`, and reads the file of speeds that it names, if any.
    pub fn read(stage: TrainStage, node: &Node) -> Result<Self, String> {
        let entries = node.table().ok_or_else(|| format!("is {}, expected {EXPECTED}", node.shown))?;
        let (mut flops, mut seconds, mut measured) = (None, None, None);
        for Entry { key: name, node, .. } in entries {
            let wrong = |expected: &str| format!("{name} is {}, expected {expected}", node.shown);
            let number = node.number().filter(|number| number.is_finite() && *number > 0.0);
            match name.as_str() {
                "flops" => {
                    let number = number.filter(|number| *number >= 1.0);
                    flops = Some(number.ok_or_else(|| wrong("a number of 1 or more"))?);
                }
                "seconds" => seconds = Some(number.ok_or_else(|| wrong("a number above 0"))?),
                "measured" => {
                    measured =
                        Some(node.str().ok_or_else(|| wrong("the trials.csv of a report, in quotes"))?);
                }
                _ => {
                    let hint = did_you_mean(name, ["flops", "seconds", "measured"]);
                    return Err(format!("{name} does not belong here, expected {EXPECTED}{hint}"));
                }
            }
        }
        match (flops, seconds, measured) {
            (Some(flops), None, None) => Ok(Self::Flops(stage, flops)),
            (None, Some(seconds), Some(file)) => Ok(Self::Seconds(seconds, Speeds::read(stage, file)?)),
            (None, None, None) => Err(format!("has 0 constraints, expected {EXPECTED}")),
            (Some(_), ..) => Err(format!("has flops and a time, expected {EXPECTED}")),
            (None, Some(_), None) => Err(format!("has seconds without measured, expected {EXPECTED}")),
            (None, None, Some(_)) => Err(format!("has measured without seconds, expected {EXPECTED}")),
        }
    }

    /// Sets the length of the stage; returns its tokens. They are null if they follow from operations: the data decides them.
    pub fn solve(&self, config: &mut TrialConfig) -> Result<Value, String> {
        let stage = match self {
            Self::Flops(stage, _) => *stage,
            Self::Seconds(_, speeds) => speeds.stage,
        };
        let (name, training) = (stage.name(), stage.training(config));
        if !training.enabled {
            return Err(format!("the stage is disabled; set {name}.enabled = true"));
        }
        if let Some(steps) = training.steps {
            return Err(format!(
                "{name}.steps = {steps} would take precedence; set {name}.steps = \"unset\""
            ));
        }
        if let Some(other) = training.flops {
            return Err(format!("{name}.flops = {other:e} is set as well; set {name}.flops = \"unset\""));
        }
        let (flops, tokens) = match self {
            Self::Flops(_, flops) => {
                let cost = config.cost(stage);
                let (per_token, most) = (cost.per_token(training.seq_len), flops / cost.linear);
                if !(1.0..=MAX_TOKENS).contains(&most) {
                    return Err(format!(
                        "flops = {flops:e} gives {most:e} tokens of about {per_token:e} operations each, expected 1 to {MAX_TOKENS:e}"
                    ));
                }
                (Some(*flops), None)
            }
            Self::Seconds(seconds, speeds) => {
                let speed = speeds.of(config)?;
                let tokens = seconds * speed;
                if !(1.0..=MAX_TOKENS).contains(&tokens) {
                    return Err(format!(
                        "seconds = {seconds} at {speed} tokens/s gives {tokens:.2e} tokens, expected 1 to {MAX_TOKENS:e}"
                    ));
                }
                (None, Some(tokens as u64))
            }
        };
        let training = (stage.spec().training_mut)(config);
        (training.flops, training.tokens) = (flops, tokens);
        Ok(json!(tokens))
    }

    /// Why the measured speeds do not distinguish the shapes of a sweep that varies these keys; `None` if they do.
    pub fn problem<'a>(&self, varied: impl Iterator<Item = &'a str>) -> Option<String> {
        let Self::Seconds(_, speeds) = self else { return None };
        let is_missing = |key: &&str| {
            measures_speed(key, speeds.stage) && !speeds.columns.iter().any(|column| column == key)
        };
        let missing: Vec<&str> = varied.filter(is_missing).collect();
        (!missing.is_empty()).then(|| {
            let (file, keys) = (&speeds.file, missing.join(", "));
            format!(
                "{file} has no column {keys}, which this sweep varies, so that shapes would share a speed; {MEASURE}"
            )
        })
    }
}

/// Whether the speed of a stage may depend on a key.
fn measures_speed(key: &str, stage: TrainStage) -> bool {
    let of_stage = key.strip_prefix(stage.name()).and_then(|key| key.strip_prefix('.'));
    match of_stage {
        Some(key) => matches!(
            key,
            "seq_len"
                | "batch_size"
                | "accumulation"
                | "packing"
                | "optimizer"
                | "lanes"
                | "recompute"
                | "answer_loss"
                | "rank"
                | "targets"
        ),
        None => key.starts_with("model.") || matches!(key, "device" | "precision" | "threads"),
    }
}

/// Speeds of a training stage, from the `trials.csv` of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Speeds {
    stage: TrainStage,
    file: String,
    /// Names of the columns in which a row must agree with a trial.
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// A row of the file.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    /// Its cells in these columns.
    cells: Vec<String>,
    /// Name of the measured stage run: a report repeats it for each exam, and for trials that share it.
    run: String,
    /// Target tokens per second; `None` if the stage run has not finished.
    speed: Option<f64>,
}

impl Speeds {
    fn read(stage: TrainStage, file: &str) -> Result<Self, String> {
        let text = fs::read_to_string(file).map_err(|error| {
            format!("measured: {file}: {error}, expected the trials.csv of a report; {MEASURE}")
        })?;
        // The reader of CSV counts a line that ends in \r\n when it reads the next one.
        let text = text.replace("\r\n", "\n");
        let unreadable = |error: csv::Error| format!("measured: {file}: {error}");
        let mut csv = csv::Reader::from_reader(text.as_bytes());
        let heads: Vec<String> = csv.headers().map_err(unreadable)?.iter().map(String::from).collect();
        let place = |name: &str| heads.iter().position(|head| head == name);
        let name = format!("{}.tokens_per_second", stage.name());
        let Some(speed) = place(&name) else {
            let others: Vec<&str> = heads
                .iter()
                .map(String::as_str)
                .filter(|head| head.ends_with(".tokens_per_second"))
                .collect();
            let only =
                if others.is_empty() { String::new() } else { format!(", only {}", others.join(", ")) };
            return Err(format!(
                "measured: {file} has no column {name}{only}; expected the trials.csv of a report of trials with {}",
                stage.name()
            ));
        };
        let run = place(&format!("run.{}", stage.name()));
        let compared: Vec<usize> =
            (0..heads.len()).filter(|&at| heads[at] == PARAMS || measures_speed(&heads[at], stage)).collect();
        let mut rows = Vec::new();
        for record in csv.records() {
            let record = record.map_err(unreadable)?;
            let line = record.position().map_or(0, csv::Position::line);
            let cell = |at: usize| record.get(at).unwrap_or_default().to_string();
            let speed = Some(cell(speed)).filter(|cell| !cell.is_empty()).map(|cell| {
                let number = cell.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0);
                number.ok_or_else(|| {
                    format!(
                        "measured: {file}:{line}: {name} is {cell:?}, expected a number above 0, or nothing where there is none"
                    )
                })
            });
            rows.push(Row {
                cells: compared.iter().map(|&at| cell(at)).collect(),
                run: run.map_or_else(|| line.to_string(), cell),
                speed: speed.transpose()?,
            });
        }
        if rows.is_empty() {
            return Err(format!("measured: {file} has no rows; {MEASURE}"));
        }
        let columns = compared.into_iter().map(|at| heads[at].clone()).collect();
        Ok(Self { stage, file: file.into(), columns, rows })
    }

    /// The mean speed of the stage runs that agree with a trial, in target tokens per second.
    fn of(&self, config: &TrialConfig) -> Result<f64, String> {
        let mut tree = json!(config);
        set(&mut tree, PARAMS, config.model.params().into());
        let wanted: Vec<&Value> =
            self.columns.iter().map(|column| get(&tree, column).unwrap_or(&Value::Null)).collect();
        let agrees = |row: &&Row| row.cells.iter().zip(&wanted).all(|(cell, value)| is_same(cell, value));
        let found: Vec<&Row> = self.rows.iter().filter(agrees).collect();
        let speeds: BTreeMap<&str, f64> =
            found.iter().filter_map(|row| Some((row.run.as_str(), row.speed?))).collect();
        if !speeds.is_empty() {
            return Ok(speeds.values().sum::<f64>() / speeds.len() as f64);
        }
        let (file, stage) = (&self.file, self.stage.name());
        let described = |at: usize| format!("{} = {}", self.columns[at], plain(wanted[at]));
        let all = || (0..wanted.len()).map(described).collect::<Vec<_>>().join(", ");
        if !found.is_empty() {
            return Err(format!(
                "{file} has no {stage}.tokens_per_second for {}, as no such stage run has finished; finish that run",
                all()
            ));
        }
        let is_new = |at: &usize| !self.rows.iter().any(|row| is_same(&row.cells[*at], wanted[*at]));
        Err(match (0..wanted.len()).find(is_new) {
            Some(at) => format!("{file} has no {}, only {}; {MEASURE}", described(at), self.values(at)),
            None => format!("{file} has no row with {}; {MEASURE}", all()),
        })
    }

    /// The distinct values of a column, for messages.
    fn values(&self, column: usize) -> String {
        let mut values: Vec<&str> = Vec::new();
        for row in &self.rows {
            let cell = row.cells[column].as_str();
            let shown = if cell.is_empty() { crate::config::UNSET } else { cell };
            if !values.contains(&shown) {
                values.push(shown);
            }
        }
        let more = if values.len() > SHOWN { ", ..." } else { "" };
        values.truncate(SHOWN);
        values.join(", ") + more
    }
}

/// Whether a cell of a report equals a value.
fn is_same(cell: &str, value: &Value) -> bool {
    match value {
        Value::Null => cell.is_empty(),
        Value::String(text) => cell == text,
        Value::Number(number) => cell.parse().ok() == number.as_f64(),
        other => *other.to_string() == *cell,
    }
}
