//! What an experiment file may name: columns of trials.csv, and any key of a trial.

use super::observation::{Cell, Observation};
use crate::config::{KeySpec, Kind, did_you_mean, find, is_source_name, keys, unknown_key};
use crate::records::{Analysis, SetLoss, group_of};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher, as of an accuracy.
    Higher,
    /// The lower, as of a loss or a cost.
    Lower,
}

/// A column of trials.csv, or of questions.csv where it is a subject.
#[derive(Debug)]
pub struct Quantity {
    /// The name, as in trials.csv.
    pub name: &'static str,
    /// What axes and tables call it, with its unit.
    pub label: &'static str,
    /// Which values are better, where that can be said.
    pub better: Option<Better>,
    /// How its numbers are written.
    pub format: Format,
    /// Whether it is known before anything runs.
    pub known: bool,
    read: fn(&Observation) -> Option<Cell>,
}

/// How the numbers of a quantity are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// With this many digits after the point.
    Fixed(usize),
    /// A p-value, which is never written as zero.
    PValue,
    /// A share, shown times 100 with one digit after the point.
    Percent,
    /// A count, its thousands apart.
    Count,
    /// As short as it can be: a setting, or a number of unknown size.
    Plain,
    /// No number but text.
    Text,
}

static QUANTITIES: [Quantity; 32] = {
    use Better::{Higher, Lower};
    use Format::{Count, Fixed, PValue, Percent, Plain, Text};
    const fn quantity(
        name: &'static str,
        label: &'static str,
        better: Option<Better>,
        format: Format,
        known: bool,
        read: fn(&Observation) -> Option<Cell>,
    ) -> Quantity {
        Quantity { name, label, better, format, known, read }
    }
    [
        quantity("trial", "trial", None, Text, true, |o| Some(Cell::Text(o.trial.trial.to_string()))),
        quantity("sweep", "sweep", None, Text, true, |o| Some(Cell::Text(o.sweep.into()))),
        quantity("params", "parameters", Some(Lower), Count, true, |o| count(o.trial.params)),
        quantity("active_params", "active parameters", Some(Lower), Count, true, |o| {
            count(o.trial.active_params)
        }),
        quantity("train_tokens", "training tokens", Some(Lower), Count, false, |o| {
            count(o.trial.train_tokens)
        }),
        quantity("train_flops", "training FLOPs", Some(Lower), Plain, false, |o| {
            Some(Cell::Number(o.trial.train_flops))
        }),
        quantity("val_loss", "validation loss (nats per token)", Some(Lower), Fixed(3), false, |o| {
            o.trial.val_loss.map(Cell::Number)
        }),
        quantity("val_bpb", "validation bits per byte", Some(Lower), Fixed(3), false, |o| {
            o.trial.val_bpb.map(Cell::Number)
        }),
        quantity("capacity_bits", "learned knowledge (bits)", Some(Higher), Count, false, |o| {
            o.trial.capacity_bits.map(Cell::Number)
        }),
        quantity(
            "capacity_ratio",
            "learned knowledge (bits per parameter)",
            Some(Higher),
            Fixed(3),
            false,
            |o| o.trial.capacity_ratio().map(Cell::Number),
        ),
        quantity("stage", "exam after", None, Text, false, |o| {
            o.score.as_ref().map(|s| Cell::Text(s.stage.clone()))
        }),
        quantity("at", "share of the stage's steps", None, Plain, false, |o| {
            o.score.as_ref().map(|s| Cell::Number(s.taken.at))
        }),
        quantity("averaged", "weights averaged", None, Count, false, |o| {
            o.score.as_ref().and_then(|s| count(s.taken.averaged as u64))
        }),
        quantity("exam_tokens", "training tokens before the exam", None, Count, false, |o| {
            o.score.as_ref().and_then(|s| count(s.tokens))
        }),
        quantity("subject", "subject", None, Text, false, |o| {
            o.score.as_ref().and_then(|s| s.subject.clone()).map(Cell::Text)
        }),
        quantity("group", "group of subjects", None, Text, false, |o| {
            let group = o.score.as_ref().and_then(|s| group_of(s.subject.as_deref()?));
            group.map(|group| Cell::Text(group.into()))
        }),
        quantity("exam_correct", "correct answers", Some(Higher), Count, false, |o| {
            o.score.as_ref().and_then(|s| count(s.tally.correct))
        }),
        quantity("exam_questions", "questions", None, Count, false, |o| {
            o.score.as_ref().and_then(|s| count(s.tally.questions))
        }),
        quantity("exam_accuracy", "exam accuracy (%)", Some(Higher), Percent, false, |o| {
            o.score.as_ref().and_then(|s| s.accuracy()).map(Cell::Number)
        }),
        quantity("exam_low", "exam accuracy, Wilson's lower bound (%)", Some(Higher), Percent, false, |o| {
            o.score.as_ref().map(|s| Cell::Number(s.tally.interval().0))
        }),
        quantity("exam_high", "exam accuracy, Wilson's upper bound (%)", Some(Higher), Percent, false, |o| {
            o.score.as_ref().map(|s| Cell::Number(s.tally.interval().1))
        }),
        quantity("exam_p_guess", "p of guessing", None, PValue, false, |o| {
            o.score.as_ref().map(|s| Cell::Number(s.tally.p_guess()))
        }),
        quantity(
            "exam_macro_accuracy",
            "exam accuracy, mean over subjects (%)",
            Some(Higher),
            Percent,
            false,
            |o| analysis(o, |a| Some(a.macro_accuracy)),
        ),
        quantity(
            "exam_log_prob",
            "log-probability of the right option (nats)",
            Some(Higher),
            Fixed(3),
            false,
            |o| analysis(o, |a| Some(a.log_prob)),
        ),
        quantity(
            "exam_accuracy_without_prior",
            "exam accuracy without the prior of letters (%)",
            Some(Higher),
            Percent,
            false,
            |o| analysis(o, |a| Some(a.accuracy_without_prior)),
        ),
        quantity("exam_ece", "expected calibration error", Some(Lower), Fixed(3), false, |o| {
            analysis(o, |a| Some(a.calibration.as_ref()?.ece))
        }),
        quantity("exam_contaminated", "questions in training text", None, Count, false, |o| {
            count(o.score.as_ref()?.contaminated?.questions)
        }),
        quantity(
            "exam_correct_clean",
            "correct answers, of clean questions",
            Some(Higher),
            Count,
            false,
            |o| count(o.score.as_ref()?.clean()?.1),
        ),
        quantity("exam_questions_clean", "clean questions", None, Count, false, |o| {
            count(o.score.as_ref()?.clean()?.0)
        }),
        quantity(
            "exam_accuracy_clean",
            "exam accuracy, clean questions (%)",
            Some(Higher),
            Percent,
            false,
            |o| o.score.as_ref()?.clean_accuracy().map(Cell::Number),
        ),
        quantity("wall_seconds", "wall time (s)", Some(Lower), Fixed(1), false, |o| {
            Some(Cell::Number(o.trial.wall_seconds))
        }),
        quantity("peak_rss_mb", "peak memory (MiB)", Some(Lower), Fixed(0), false, |o| {
            Some(Cell::Number(o.trial.peak_rss_mb))
        }),
    ]
};

/// A number of the answers behind a score.
fn analysis(observation: &Observation, read: impl Fn(&Analysis) -> Option<f64>) -> Option<Cell> {
    read(observation.score.as_ref()?.analysis()?).map(Cell::Number)
}

fn count(count: u64) -> Option<Cell> {
    Some(Cell::Number(count as f64))
}

/// A loss on one named validation set: `val_bpb.wiki`.
#[derive(Debug)]
pub struct OfSet {
    name: String,
    label: String,
    set: String,
    read: fn(&SetLoss) -> Option<f64>,
}

/// What a named validation set has a column of: the start of its name, another way to write that, what it is called,
/// and how it is read.
type OfEverySet = (&'static str, &'static str, &'static str, fn(&SetLoss) -> Option<f64>);

const OF_EVERY_SET: [OfEverySet; 2] = [
    ("val_loss", "val.loss", "validation loss (nats per token)", |set| Some(set.loss)),
    ("val_bpb", "val.bpb", "validation bits per byte", |set| set.bpb),
];

impl OfSet {
    /// The columns of a set, as in trials.csv.
    pub fn names(set: &str) -> impl Iterator<Item = String> {
        OF_EVERY_SET.iter().map(move |(name, ..)| format!("{name}.{set}"))
    }

    /// The values of those columns.
    pub fn values(set: Option<&SetLoss>) -> impl Iterator<Item = Option<f64>> {
        OF_EVERY_SET.iter().map(move |(.., read)| set.and_then(*read))
    }

    /// The column of this name, which is made once and kept.
    fn find(name: &str) -> Option<&'static Self> {
        static MADE: Mutex<BTreeMap<String, &'static OfSet>> = Mutex::new(BTreeMap::new());
        let (start, set) = name.rsplit_once('.')?;
        let (plain, _, label, read) = OF_EVERY_SET.iter().find(|of| of.0 == start || of.1 == start)?;
        if !is_source_name(set) {
            return None;
        }
        let name = format!("{plain}.{set}");
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let of_set = || {
            let (name, label) = (name.clone(), format!("{label} on {set}"));
            &*Box::leak(Box::new(OfSet { name, label, set: set.into(), read: *read }))
        };
        Some(made.entry(name.clone()).or_insert_with(of_set))
    }
}

/// A column of the results, checked to exist.
#[derive(Debug, Clone, Copy)]
pub enum Column {
    /// A column of trials.csv.
    Quantity(&'static Quantity),
    /// A column of trials.csv that belongs to a named validation set.
    OfSet(&'static OfSet),
    /// A key of the configuration, whether it varies or not.
    Key(&'static KeySpec),
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Column {
    /// The column of this name; `val.bpb` and `val_bpb`, `exam.subject` and `subject` are the same.
    pub fn find(name: &str) -> Result<Self, String> {
        if let Some(quantity) = QUANTITIES.iter().find(|q| q.name == name || dotted(q) == name) {
            return Ok(Self::Quantity(quantity));
        }
        if let Some(column) = OfSet::find(name) {
            return Ok(Self::OfSet(column));
        }
        if let Some(key) = find(name) {
            return Ok(Self::Key(key));
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

    /// Every name that [`Self::find`] knows.
    pub fn names() -> Vec<String> {
        let columns = QUANTITIES.iter().flat_map(|q| [dotted(q), q.name.to_string()]);
        let mut names: Vec<String> = columns.chain(keys().map(|k| k.path.clone())).collect();
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    /// The name as in trials.csv.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Quantity(quantity) => quantity.name,
            Self::OfSet(column) => &column.name,
            Self::Key(key) => &key.path,
        }
    }

    /// What axes and tables call it, with its unit.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Quantity(quantity) => quantity.label,
            Self::OfSet(column) => &column.label,
            Self::Key(key) => &key.path,
        }
    }

    /// The last part of its name, or its label: what a legend has room for.
    pub fn short(&self) -> &'static str {
        match self {
            Self::Quantity(quantity) => quantity.label,
            Self::OfSet(column) => &column.label,
            Self::Key(key) => key.path.rsplit('.').next().unwrap_or(&key.path),
        }
    }

    /// Which values are better, where that can be said.
    pub fn better(&self) -> Option<Better> {
        match self {
            Self::Quantity(quantity) => quantity.better,
            Self::OfSet(_) => Some(Better::Lower),
            Self::Key(_) => None,
        }
    }

    /// How its numbers are written.
    pub fn format(&self) -> Format {
        match self {
            Self::Quantity(quantity) => quantity.format,
            Self::OfSet(_) => Format::Fixed(3),
            Self::Key(key) if matches!(key.kind, Kind::Whole | Kind::Number) => Format::Plain,
            Self::Key(_) => Format::Text,
        }
    }

    /// Whether it holds numbers.
    pub fn is_number(&self) -> bool {
        self.format() != Format::Text
    }

    /// Whether it is known before anything runs.
    pub fn is_known(&self) -> bool {
        match self {
            Self::Quantity(quantity) => quantity.known,
            Self::OfSet(_) => false,
            Self::Key(_) => true,
        }
    }

    /// Whether it is the p of guessing, of which several seeds have one together and no mean.
    pub fn is_p_of_guessing(&self) -> bool {
        self.name() == "exam_p_guess"
    }

    /// Whether it is known only where an exam was sat.
    pub fn is_of_exam(&self) -> bool {
        self.name().starts_with("exam_")
    }

    /// What its numbers are multiplied by to be shown: 100 for shares.
    pub fn scale(&self) -> f64 {
        if self.format() == Format::Percent { 100.0 } else { 1.0 }
    }

    /// Its value in an observation.
    pub fn read(&self, observation: &Observation) -> Option<Cell> {
        match self {
            Self::Quantity(quantity) => (quantity.read)(observation),
            Self::OfSet(column) => {
                let set = observation.trial.val_sets.iter().find(|set| set.name == column.set)?;
                (column.read)(set).map(Cell::Number)
            }
            Self::Key(key) => observation.key(&key.path),
        }
    }

    /// Its number in an observation.
    pub fn number(&self, observation: &Observation) -> Option<f64> {
        match self.read(observation)? {
            Cell::Number(number) => Some(number),
            Cell::Text(_) => None,
        }
    }
}

/// `val.bpb` of `val_bpb`; `exam.stage` of `stage`.
fn dotted(quantity: &Quantity) -> String {
    match quantity.name {
        "stage" | "subject" | "group" => format!("exam.{}", quantity.name),
        name => match name.split_once('_') {
            Some((group @ ("val" | "exam" | "train"), rest)) => format!("{group}.{rest}"),
            _ => name.into(),
        },
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
        assert_eq!(Column::find("model.n_layers").unwrap().short(), "n_layers");
        assert!(
            Column::find("seed").unwrap().is_number() && !Column::find("exam.answer").unwrap().is_number()
        );
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
