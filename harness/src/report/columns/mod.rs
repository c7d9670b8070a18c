//! Columns: everything that an experiment file may name in a figure, table, claim or condition.
//!
//! These are the columns of trials.csv (`quantity.rs`, and for every training stage `stage_column.rs`) and any
//! configuration key of a trial (labelled in `key_label.rs`). `unavailable.rs` says which of them a trial cannot have.

pub mod docs;
pub mod key_label;
pub mod quantity;
pub mod stage_column;
pub mod unavailable;

use crate::config::{
    ConfigError, ConfigErrors, Entry, KeySpec, Kind, did_you_mean, find, is_source_name, keys, unknown_key,
};
use crate::records::SetLoss;
use crate::report::results::observation::{Cell, Observation};
use key_label::{kept, word};
pub use quantity::{Better, Format};
use quantity::{QUANTITIES, Quantity, dotted};
use stage_column::StageColumn;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The column of a loss on one named validation set: `val_bpb.wiki`.
#[derive(Debug)]
pub struct ValidationSetColumn {
    name: String,
    label: String,
    set: String,
    read: fn(&SetLoss) -> Option<f64>,
}

/// A column that every named validation set has: prefix of its name, the dotted spelling of that prefix, label, and
/// reader.
type OfEverySet = (&'static str, &'static str, &'static str, fn(&SetLoss) -> Option<f64>);

const OF_EVERY_SET: [OfEverySet; 2] = [
    ("val_loss", "val.loss", "validation loss (nats per token)", |set| Some(set.loss)),
    ("val_bpb", "val.bpb", "validation bits per byte", |set| set.bpb),
];

impl ValidationSetColumn {
    /// Names of the columns of a set, as in trials.csv.
    pub fn names(set: &str) -> impl Iterator<Item = String> {
        OF_EVERY_SET.iter().map(move |(name, ..)| format!("{name}.{set}"))
    }

    /// Values of those columns, in the same order.
    pub fn values(set: Option<&SetLoss>) -> impl Iterator<Item = Option<f64>> {
        OF_EVERY_SET.iter().map(move |(.., read)| set.and_then(*read))
    }

    /// Returns the column of this name, which is created once and kept for the life of the program.
    fn find(name: &str) -> Option<&'static Self> {
        static MADE: Mutex<BTreeMap<String, &'static ValidationSetColumn>> = Mutex::new(BTreeMap::new());
        let (start, set) = name.rsplit_once('.')?;
        let (plain, _, label, read) = OF_EVERY_SET.iter().find(|of| of.0 == start || of.1 == start)?;
        if !is_source_name(set) {
            return None;
        }
        let name = format!("{plain}.{set}");
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let of_set = || {
            let (name, label) = (name.clone(), format!("{label} on {set}"));
            &*Box::leak(Box::new(ValidationSetColumn { name, label, set: set.into(), read: *read }))
        };
        Some(made.entry(name.clone()).or_insert_with(of_set))
    }
}

/// A column of the results that is known to exist, with its label.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    source: Source,
    label: &'static str,
}

/// The source of a column's values.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// A column of trials.csv.
    Quantity(&'static Quantity),
    /// A column of trials.csv that belongs to a named validation set.
    Set(&'static ValidationSetColumn),
    /// A column of trials.csv that belongs to a stage.
    Stage(&'static StageColumn),
    /// A key of the configuration, swept or not.
    Key(&'static KeySpec),
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Column {
    /// Finds the column of this name; `val.bpb` and `val_bpb`, `exam.subject` and `subject` are equivalent.
    pub fn find(name: &str) -> Result<Self, String> {
        if let Some(quantity) = QUANTITIES.iter().find(|q| q.name == name || dotted(q.name) == name) {
            return Ok(Self { source: Source::Quantity(quantity), label: quantity.label });
        }
        if let Some(column) = ValidationSetColumn::find(name) {
            return Ok(Self { source: Source::Set(column), label: &column.label });
        }
        if let Some(column) = StageColumn::all().iter().find(|column| column.name == name) {
            return Ok(Self { source: Source::Stage(column), label: &column.label });
        }
        if let Some(key) = find(name) {
            return Ok(Self { source: Source::Key(key), label: word(&key.path).unwrap_or(&key.path) });
        }
        let names = Self::names();
        let hint = match did_you_mean(name, names.iter().map(String::as_str)) {
            hint if !hint.is_empty() => hint,
            _ => match unknown_key(name).strip_prefix("unknown key; did you mean ") {
                Some(names) => format!("; did you mean {names}"),
                None => ", expected a column of trials.csv such as exam.accuracy, or a key of \
                         docs/configuration.md"
                    .into(),
            },
        };
        Err(format!("there is no {name:?}{hint}"))
    }

    /// Every name that [`Self::find`] accepts, except those of named validation sets and named sources.
    pub fn names() -> Vec<String> {
        let columns = QUANTITIES.iter().flat_map(|q| [dotted(q.name), q.name.to_string()]);
        let of_stages = StageColumn::all().iter().map(|column| column.name.clone());
        let mut names: Vec<String> =
            columns.chain(of_stages).chain(keys().map(|key| key.path.clone())).collect();
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// The name as in trials.csv.
    pub fn name(&self) -> &'static str {
        match self.source {
            Source::Quantity(quantity) => quantity.name,
            Source::Set(column) => &column.name,
            Source::Stage(column) => &column.name,
            Source::Key(key) => &key.path,
        }
    }

    /// Label in axes and tables, with its unit in parentheses.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// The same column under another label.
    pub fn labelled(self, label: &str) -> Self {
        Self { label: kept(label), ..self }
    }

    /// Whether it is a key of the configuration.
    pub fn is_key(&self) -> bool {
        matches!(self.source, Source::Key(_))
    }

    /// The values that a key of fixed choices may have; empty if any value is allowed.
    pub fn words(&self) -> Vec<&'static str> {
        match self.source {
            Source::Key(KeySpec { kind: Kind::Choice(words), .. }) => {
                words.iter().map(String::as_str).collect()
            }
            Source::Key(KeySpec { kind: Kind::Bool, .. }) => vec!["true", "false"],
            _ => vec![],
        }
    }

    /// Whether higher or lower values are better; `None` if neither is.
    pub fn better(&self) -> Option<Better> {
        match self.source {
            Source::Quantity(quantity) => quantity.better,
            Source::Set(_) => Some(Better::Lower),
            Source::Stage(column) => column.measure.better,
            Source::Key(_) => None,
        }
    }

    /// Display format of its values.
    pub fn format(&self) -> Format {
        match self.source {
            Source::Quantity(quantity) => quantity.format,
            Source::Set(_) => Format::Fixed(3),
            Source::Stage(column) => column.measure.format,
            Source::Key(key) if matches!(key.kind, Kind::Whole | Kind::Number) => Format::Plain,
            Source::Key(_) => Format::Text,
        }
    }

    /// Whether it holds numbers.
    pub fn is_number(&self) -> bool {
        self.format() != Format::Text
    }

    /// Whether its value is known before anything runs.
    pub fn is_known(&self) -> bool {
        match self.source {
            Source::Quantity(quantity) => quantity.known,
            Source::Set(_) | Source::Stage(_) => false,
            Source::Key(_) => true,
        }
    }

    /// Whether it is the p-value of guessing, which several seeds have jointly rather than as a mean.
    pub fn is_p_of_guessing(&self) -> bool {
        self.name() == "exam_p_guess"
    }

    /// Whether it measures the quality of a model rather than its shape or cost.
    pub fn is_score(&self) -> bool {
        match self.source {
            Source::Stage(column) => column.measure.is_score,
            Source::Quantity(_) | Source::Set(_) => {
                ["val_", "exam_"].iter().any(|start| self.name().starts_with(start))
            }
            Source::Key(_) => false,
        }
    }

    /// The column as a measure of one stage; `None` if it is not one.
    pub fn of_stage(&self) -> Option<&'static StageColumn> {
        match self.source {
            Source::Stage(column) => Some(column),
            _ => None,
        }
    }

    /// Whether it is a result of exams (`exam_...`).
    pub fn is_of_exam(&self) -> bool {
        self.name().starts_with("exam_")
    }

    /// Factor from stored to displayed numbers: 100 for shares, else 1.
    pub fn scale(&self) -> f64 {
        if self.format() == Format::Percent { 100.0 } else { 1.0 }
    }

    /// Value in an observation; `None` if it has none.
    pub fn read(&self, observation: &Observation) -> Option<Cell> {
        match self.source {
            Source::Quantity(quantity) => (quantity.read)(observation),
            Source::Set(column) => {
                let set = observation.trial.val_sets.iter().find(|set| set.name == column.set)?;
                (column.read)(set).map(Cell::Number)
            }
            Source::Stage(column) => column.of(observation.trial).map(Cell::Number),
            Source::Key(key) => observation.key(&key.path),
        }
    }

    /// Value in an observation as a number; `None` if it is missing or text.
    pub fn number(&self, observation: &Observation) -> Option<f64> {
        match self.read(observation)? {
            Cell::Number(number) => Some(number),
            Cell::Text(_) => None,
        }
    }
}

/// Gives the columns of one table or figure labels that differ: where two have the same, a measure of a stage names its
/// stage, and a key is written in full.
pub fn tell_apart(columns: &mut [&mut Column]) {
    let labels: Vec<(&str, &str)> = columns.iter().map(|column| (column.name(), column.label())).collect();
    for column in columns {
        let is_shared = labels.iter().any(|(name, label)| *label == column.label() && *name != column.name());
        match column.of_stage() {
            Some(measured) if is_shared => **column = column.labelled(&measured.label_with_stage()),
            None if is_shared && column.is_key() => **column = column.labelled(column.name()),
            _ => {}
        }
    }
}

/// The labels of an experiment file, which override the built-in ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    given: BTreeMap<&'static str, String>,
}

impl Names {
    /// Reads `[labels]`, a table from names of columns to labels.
    pub fn read(entries: &[Entry], errors: &mut ConfigErrors) -> Self {
        let mut names = Self::default();
        names.read_below("", entries, errors);
        names
    }

    fn read_below(&mut self, above: &str, entries: &[Entry], errors: &mut ConfigErrors) {
        for Entry { key, place, node, .. } in entries {
            let name = format!("{above}{key}");
            // Without quotes, model.n_layers is a nested table.
            if let Some(below) = node.table() {
                self.read_below(&format!("{name}."), below, errors);
                continue;
            }
            let column = match Column::find(&name) {
                Ok(column) => column,
                Err(problem) => {
                    errors.push(ConfigError::new(place, format!("labels.{name}"), problem));
                    continue;
                }
            };
            let mut wrong = |problem| errors.push(ConfigError::new(place, format!("labels.{name}"), problem));
            match node.str().map(str::trim).filter(|text| !text.is_empty()) {
                Some(text) if text.contains(['\n', '\r']) => {
                    wrong(format!("is {}, expected one line", node.shown));
                }
                Some(text) if self.given.insert(column.name(), text.into()).is_some() => {
                    wrong(format!("labels {} a second time", column.name()));
                }
                Some(_) => {}
                None => wrong(format!("is {}, expected text in quotes", node.shown)),
            }
        }
    }

    /// Finds the column of this name and gives it its label from the file, if there is one.
    pub fn column(&self, name: &str) -> Result<Column, String> {
        let column = Column::find(name)?;
        Ok(self.given.get(column.name()).map_or(column, |label| column.labelled(label)))
    }

    /// The label that the file gives a key or column; `None` if it gives none.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// Label of a key or column; the name itself if there is no such column.
    pub fn label(&self, name: &str) -> String {
        self.column(name).map_or(name.into(), |column| column.label().into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_ways_of_writing_a_column_are_one() {
        for (dotted, plain) in [
            ("val.bpb", "val_bpb"),
            ("exam.p_guess", "exam_p_guess"),
            ("exam.subject", "subject"),
            ("exam.group", "group"),
            ("exam.log_prob", "exam_log_prob"),
            ("exam.stage", "stage"),
            ("train.flops", "train_flops"),
            ("val.bpb.wiki", "val_bpb.wiki"),
        ] {
            assert_eq!(Column::find(dotted).unwrap(), Column::find(plain).unwrap());
        }
        assert_eq!(Column::find("model.n_layers").unwrap().label(), "layers");
        assert_eq!(Column::find("model.norm_eps").unwrap().label(), "model.norm_eps");
        assert!(
            Column::find("seed").unwrap().is_number() && !Column::find("exam.answer").unwrap().is_number()
        );
    }

    #[test]
    fn equal_labels_name_the_stage_or_the_key() {
        let labels = |names: &[&str]| -> Vec<&str> {
            let mut columns: Vec<Column> = names.iter().map(|name| Column::find(name).unwrap()).collect();
            tell_apart(&mut columns.iter_mut().collect::<Vec<_>>());
            columns.iter().map(Column::label).collect()
        };
        let (loss, of_stage) =
            ("validation loss (nats per token)", "pretraining validation loss (nats per token)");
        assert_eq!(labels(&["val.loss", "pretrain.val_loss", "sft.val_loss"])[..2], [loss, of_stage]);
        assert_eq!(labels(&["pretrain.val_loss", "val.bpb", "pretrain.val_loss"])[0], loss);
        assert_eq!(labels(&["hops.length", "recall.length"]), ["hops.length", "recall.length"]);
    }

    #[test]
    fn a_mistyped_column_has_the_nearest_name() {
        let problem = |name: &str| Column::find(name).unwrap_err();
        assert_eq!(problem("exam.acuracy"), "there is no \"exam.acuracy\"; did you mean exam.accuracy?");
        assert_eq!(problem("n_layers"), "there is no \"n_layers\"; did you mean model.n_layers?");
        assert_eq!(
            problem("val_bpd.wiki"),
            "there is no \"val_bpd.wiki\", expected a column of trials.csv such as exam.accuracy, or a key of docs/configuration.md"
        );
        assert!(problem("qqqqqqq").contains("expected a column of trials.csv such as exam.accuracy"));
    }
}
