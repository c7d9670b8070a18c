//! One observation: what one trial scored, in all or in one subject; and how observations come together over seeds.
//!
//! The unit of replication is the seed: several observations of one seed are averaged before anything is tested.

use super::TrialQuestion;
use super::columns::Column;
use crate::config::get;
use crate::records::{GUESSING, Status, TrialRecord};
use crate::stats::{Spread, binomial_p, spread, wilson95};
use serde_json::Value;
use std::collections::BTreeMap;

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A number, as in trials.csv.
    Number(f64),
    /// Anything else.
    Text(String),
}

impl Cell {
    fn of_json(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::Number(number) => number.as_f64().map(Self::Number),
            Value::String(text) => Some(Self::Text(text.clone())),
            other => Some(Self::Text(other.to_string())),
        }
    }
}

/// An exam, or one subject of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// The stage whose model sat the exam.
    pub stage: String,
    /// The subject; `None` for the exam as a whole.
    pub subject: Option<String>,
    /// Questions answered correctly.
    pub correct: u64,
    /// Questions asked.
    pub questions: u64,
}

impl Score {
    /// Share of correct answers.
    pub fn accuracy(&self) -> Option<f64> {
        (self.questions > 0).then(|| self.correct as f64 / self.questions as f64)
    }

    /// Wilson's 95 % interval of the share.
    pub fn wilson(&self) -> (f64, f64) {
        wilson95(self.correct, self.questions)
    }

    /// Exact two-sided p of guessing.
    pub fn p_guess(&self) -> f64 {
        binomial_p(self.correct, self.questions, GUESSING)
    }
}

/// What one trial scored.
#[derive(Debug, Clone)]
pub struct Observation<'a> {
    /// The trial.
    pub trial: &'a TrialRecord,
    /// Its whole configuration.
    config: &'a Value,
    /// The exam; `None` where none was sat.
    pub score: Option<Score>,
}

impl Observation<'_> {
    /// The value of a key of the configuration.
    pub fn key(&self, path: &str) -> Option<Cell> {
        let varied = self.trial.keys.iter().find(|(key, _)| key == path).map(|(_, value)| value);
        varied.or_else(|| get(self.config, path)).and_then(Cell::of_json)
    }
}

/// All trials with their configurations, and what they answered.
#[derive(Debug)]
pub struct Results<'a> {
    trials: Vec<(&'a TrialRecord, Value)>,
    questions: &'a [TrialQuestion],
}

impl<'a> Results<'a> {
    /// Reads the configurations.
    pub fn new(trials: &'a [TrialRecord], questions: &'a [TrialQuestion]) -> Self {
        // A configuration that cannot be read leaves the swept keys, which are recorded beside it.
        let config = |trial: &TrialRecord| toml::from_str(&trial.config).unwrap_or(Value::Null);
        Self { trials: trials.iter().map(|t| (t, config(t))).collect(), questions }
    }

    /// One observation of each trial, finished or not, without its outcomes.
    pub fn planned(&self) -> Vec<Observation<'_>> {
        self.trials.iter().map(|(trial, config)| Observation { trial, config, score: None }).collect()
    }

    /// The observations that `columns` speak of: those of finished trials by their last exam; by every exam where a
    /// column is `exam.stage`; by every subject where a column is `exam.subject`.
    pub fn observations(&self, columns: &[Column]) -> Vec<Observation<'_>> {
        let names = |name: &str| columns.iter().any(|column| column.name() == name);
        let (by_stage, by_subject) = (names("stage"), names("subject"));
        let mut found = vec![];
        for (trial, config) in self.trials.iter().filter(|(t, _)| t.status == Status::Done) {
            let skip = if by_stage { 0 } else { trial.exams.len().saturating_sub(1) };
            let mut scores = vec![];
            for exam in trial.exams.iter().skip(skip) {
                if by_subject {
                    scores.extend(self.subjects(trial, &exam.stage));
                } else {
                    scores.push(Score {
                        stage: exam.stage.clone(),
                        subject: None,
                        correct: exam.correct,
                        questions: exam.questions,
                    });
                }
            }
            if scores.is_empty() {
                found.push(Observation { trial, config, score: None });
            }
            found.extend(scores.into_iter().map(|s| Observation { trial, config, score: Some(s) }));
        }
        found
    }

    fn subjects(&self, trial: &TrialRecord, stage: &str) -> Vec<Score> {
        let mut subjects: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for question in self.questions.iter().filter(|q| q.trial == trial.trial && q.stage == stage) {
            let (correct, asked) = subjects.entry(&question.record.subject).or_default();
            *correct += u64::from(question.record.prediction == question.record.answer);
            *asked += 1;
        }
        let score = |(subject, (correct, questions)): (&str, (u64, u64))| Score {
            stage: stage.into(),
            subject: Some(subject.into()),
            correct,
            questions,
        };
        subjects.into_iter().map(score).collect()
    }
}

/// Observations in groups by some columns; numbers in order, text as it first appears. `None`: no value.
pub fn grouped<'o, 'a>(
    observations: &[&'o Observation<'a>],
    columns: &[Column],
) -> Vec<(Vec<Option<Cell>>, Vec<&'o Observation<'a>>)> {
    let mut groups: Vec<(Vec<Option<Cell>>, Vec<&Observation>)> = vec![];
    for &observation in observations {
        let key: Vec<Option<Cell>> = columns.iter().map(|c| c.read(observation)).collect();
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, group)) => group.push(observation),
            None => groups.push((key, vec![observation])),
        }
    }
    let appeared = |column: usize, cell: &Option<Cell>| groups.iter().position(|(k, _)| k[column] == *cell);
    let rank = |column: usize, cell: &Option<Cell>| match cell {
        Some(Cell::Number(number)) => *number,
        other => appeared(column, other).unwrap_or(0) as f64,
    };
    let mut ranked: Vec<(Vec<f64>, usize)> = groups
        .iter()
        .enumerate()
        .map(|(i, (key, _))| (key.iter().enumerate().map(|(c, cell)| rank(c, cell)).collect(), i))
        .collect();
    ranked.sort_by(|(a, _), (b, _)| {
        let places = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
        places.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    ranked.into_iter().map(|(_, i)| std::mem::take(&mut groups[i])).collect()
}

/// The numbers of a column, one for each seed: the mean of that seed's observations.
pub fn per_seed(observations: &[&Observation], column: &Column) -> BTreeMap<u64, f64> {
    let mut seeds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for observation in observations {
        if let Some(number) = column.number(observation).filter(|n| n.is_finite()) {
            seeds.entry(observation.trial.seed).or_default().push(number);
        }
    }
    seeds.into_iter().map(|(seed, values)| (seed, mean(&values))).collect()
}

/// Mean and spread of a column over seeds; `None` without any value.
pub fn over_seeds(observations: &[&Observation], column: &Column) -> Option<Spread> {
    spread(&per_seed(observations, column).into_values().collect::<Vec<_>>())
}

/// Questions answered correctly and asked, over all observations.
pub fn pooled(observations: &[&Observation]) -> (u64, u64) {
    let scores = observations.iter().filter_map(|o| o.score.as_ref());
    scores.fold((0, 0), |(correct, asked), s| (correct + s.correct, asked + s.questions))
}

/// Arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
