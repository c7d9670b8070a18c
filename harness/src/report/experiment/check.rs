//! Checks, before any training, that the trials can provide what an experiment requests.

use super::condition::Condition;
use crate::config::{ConfigError, ConfigErrors, Entry, Node, TrainStage, TrialConfig, config_of};
use crate::records::TrialRecord;
use crate::report::columns::Column;
use crate::report::columns::unavailable;
use crate::report::results::observation::{Cell, Observation, Results, distinct};
use crate::track::{counted, listed};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The keys of figures, tables, claims and fits that name columns.
const NAMING: [&str; 14] = [
    "x",
    "y",
    "group",
    "value",
    "budget",
    "rows",
    "columns",
    "across",
    "metric",
    "paired_by",
    "n",
    "d",
    "flops",
    "loss",
];

/// Maximum number of values that a message lists.
const LISTED: usize = 6;

/// What a `[[figure]]`, `[[table]]`, `[[compare]]` or `[[fit]]` requires of the trials.
#[derive(Debug, Clone, PartialEq)]
pub struct Requirements {
    section: &'static str,
    /// Columns, each with its name as spelled in the file.
    columns: Vec<Part<(Column, String)>>,
    conditions: Vec<Part<Condition>>,
    curves: Option<Part<(TrainStage, String)>>,
}

/// A requirement, with its key and its position in the file.
#[derive(Debug, Clone, PartialEq)]
struct Part<T> {
    key: String,
    place: String,
    value: T,
}

impl Requirements {
    /// Collects the requirements of a table's keys. Invalid values are skipped: their own parsers report them.
    pub fn read(section: &'static str, place: &str, entries: &[Entry]) -> Self {
        let mut asked = Self { section, columns: vec![], conditions: vec![], curves: None };
        for Entry { key, place, node, .. } in entries {
            let texts: Vec<&str> = match node.array() {
                Some(items) => items.iter().filter_map(Node::str).collect(),
                None => node.str().into_iter().collect(),
            };
            if NAMING.contains(&key.as_str()) {
                let columns =
                    texts.iter().filter_map(|text| Some((Column::find(text).ok()?, text.to_string())));
                asked.columns.extend(columns.map(|column| Part::new(key, place, column)));
            } else if ["where", "a", "b"].contains(&key.as_str()) {
                let conditions = texts.iter().filter_map(|text| Condition::parse(text).ok());
                asked.conditions.extend(conditions.map(|condition| Part::new(key, place, condition)));
            }
        }
        let entry = |key: &str| entries.iter().find(|entry| entry.key == key);
        let word = |key: &str| entry(key).and_then(|entry| entry.node.str());
        if matches!(word("kind"), Some("loss" | "experts")) {
            let stage = word("stage").map_or(Some(TrainStage::Pretrain), TrainStage::named);
            let place = entry("stage").map_or(place, |entry| &entry.place);
            let split = word("split").unwrap_or_default().to_string();
            asked.curves = stage.map(|stage| Part::new("stage", place, (stage, split)));
        }
        asked
    }

    /// Reports everything that the trials cannot provide.
    pub fn check(&self, plan: &PlannedTrials, errors: &mut ConfigErrors) {
        let before = errors.errors.len();
        for condition in &self.conditions {
            self.check_condition(condition, plan, errors);
        }
        // Any further error would only follow from a condition without trials.
        if errors.errors.len() > before {
            return;
        }
        let scopes: Vec<(String, Vec<&Observation>)> = match self.section {
            "compare" => {
                let side = |of: &Part<Condition>| (format!(" of {}", of.key), plan.matching(&of.value));
                self.conditions.iter().map(side).collect()
            }
            _ => vec![(
                String::new(),
                match self.conditions.first() {
                    Some(condition) => plan.matching(&condition.value),
                    None => plan.planned.iter().collect(),
                },
            )],
        };
        for part in &self.columns {
            let (column, name) = &part.value;
            let why = |config: &TrialConfig| unavailable::of_column(column, config);
            let problem = scopes.iter().find_map(|(whose, trials)| match plan.lack(trials, why) {
                Some(why) => Some(format!("names {name}, which no trial{whose} will have: {why}")),
                None if plan.unset(trials, column) => {
                    Some(format!("names {name}, which is unset in every trial{whose}"))
                }
                None => None,
            });
            if let Some(problem) = problem {
                self.fail(part, problem, errors);
            }
        }
        if let (Some(curves), Some((_, trials))) = (&self.curves, scopes.first()) {
            let (stage, split) = &curves.value;
            if let Some(why) = plan.lack(trials, |config| unavailable::of_curves(*stage, split, config)) {
                let problem = format!("requests curves of {}, which no trial will have: {why}", stage.name());
                self.fail(curves, problem, errors);
            }
        }
        if self.section == "compare" && errors.errors.len() == before {
            self.check_sides(plan, errors);
        }
    }

    fn fail<T>(&self, part: &Part<T>, problem: String, errors: &mut ConfigErrors) {
        errors.push(ConfigError::new(&part.place, format!("{}.{}", self.section, part.key), problem));
    }

    /// Reports a condition that no trial can meet.
    fn check_condition(&self, condition: &Part<Condition>, plan: &PlannedTrials, errors: &mut ConfigErrors) {
        let all: Vec<&Observation> = plan.planned.iter().collect();
        let text = &condition.value.text;
        let unknown = condition.value.columns().filter(|column| !column.is_known());
        let lacking: Vec<String> = unknown
            .filter_map(|column| {
                let why = plan.lack(&all, |config| unavailable::of_column(&column, config))?;
                let name = condition.value.written(&column);
                Some(format!("{text:?} names {name}, which no trial will have: {why}"))
            })
            .collect();
        if let Some(problem) = lacking.into_iter().next() {
            self.fail(condition, problem, errors);
        } else if plan.matching(&condition.value).is_empty() {
            self.fail(condition, holds_for_none(&condition.value, &plan.planned, plan.trials), errors);
        }
    }

    /// Checks that the sides of a claim share no result, and that they form pairs if `paired_by` is set.
    fn check_sides(&self, plan: &PlannedTrials, errors: &mut ConfigErrors) {
        let side = |key: &str| self.conditions.iter().find(|condition| condition.key == key);
        let (Some(a), Some(b)) = (side("a"), side("b")) else { return };
        if ![a, b].iter().all(|side| side.value.columns().all(|column| column.is_known())) {
            return;
        }
        let (left, right) = (distinct(&plan.matching(&a.value)), distinct(&plan.matching(&b.value)));
        let of_a: BTreeSet<_> = left.iter().map(|o| o.identity()).collect();
        let both: Vec<&&Observation> = right.iter().filter(|o| of_a.contains(&o.identity())).collect();
        if let Some(first) = both.first() {
            let trials = counted(both.iter().map(|o| o.trial.trial).collect::<BTreeSet<_>>().len(), "trial");
            let text = &b.value.text;
            let problem = if (both.len(), both.len()) == (left.len(), right.len()) {
                format!("{text:?} selects the same {trials} as a; expected different ones")
            } else {
                let such = format!("{}, seed {}", first.label, first.trial.seed);
                format!("{text:?} also selects {trials} of a, such as {such}; expected disjoint sides")
            };
            return self.fail(b, problem, errors);
        }
        self.check_pairs(&left, &right, errors);
    }

    fn check_pairs(&self, a: &[&Observation], b: &[&Observation], errors: &mut ConfigErrors) {
        let named: Vec<&Part<(Column, String)>> =
            self.columns.iter().filter(|part| part.key == "paired_by").collect();
        let Some(first) = named.first() else { return };
        let is_matched = |(column, _): &(Column, String)| column.is_known() && column.name() != "seed";
        let matched: Vec<&Part<(Column, String)>> =
            named.iter().copied().filter(|part| is_matched(&part.value)).collect();
        let values = |o: &Observation| -> String {
            let cells: Vec<Option<Cell>> = matched.iter().map(|part| part.value.0.read(o)).collect();
            format!("{} {cells:?}", o.trial.seed)
        };
        let of_b: BTreeSet<String> = b.iter().map(|o| values(o)).collect();
        if a.iter().any(|o| of_b.contains(&values(o))) {
            return;
        }
        for part in &matched {
            let (column, name) = &part.value;
            let [left, right] = [a, b].map(|side| cells(side, |o| column.read(o).as_ref().map(shown)));
            if left.is_disjoint(&right) {
                let problem = format!(
                    "names {name}, which forms no pairs: it is {} in a and {} in b; remove it",
                    values_listed(&left),
                    values_listed(&right)
                );
                return self.fail(part, problem, errors);
            }
        }
        let [left, right] = [a, b].map(|side| cells(side, |o| Some(o.trial.seed.to_string())));
        let problem = match left.is_disjoint(&right) {
            true => format!(
                "pairs results of one seed, and no seed is on both sides: a has {}, b has {}",
                values_listed(&left),
                values_listed(&right)
            ),
            false => {
                "pairs nothing: no result of a has a partner of the same seed and equal values in b".into()
            }
        };
        self.fail(first, problem, errors);
    }
}

fn cells(side: &[&Observation], read: impl Fn(&Observation) -> Option<String>) -> BTreeSet<String> {
    side.iter().filter_map(|o| read(o)).collect()
}

/// Error message for a condition that none of `trials` trials meets, with the values that occur.
pub fn holds_for_none(condition: &Condition, planned: &[Observation], trials: usize) -> String {
    let mut there: Vec<String> = vec![];
    for column in condition.columns().filter(Column::is_known) {
        let values = planned.iter().filter_map(|o| column.read(o).as_ref().map(shown)).collect();
        let values = format!("{} is {}", condition.written(&column), values_listed(&values));
        if !there.contains(&values) {
            there.push(values);
        }
    }
    let there = if there.is_empty() { String::new() } else { format!(": {}", there.join("; ")) };
    format!("{:?} holds for none of the {}{there}", condition.text, counted(trials, "trial"))
}

/// Formats a value as a condition spells it.
fn shown(cell: &Cell) -> String {
    match cell {
        Cell::Number(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
    }
}

/// Lists at most [`LISTED`] values, numbers in ascending order.
fn values_listed(values: &BTreeSet<String>) -> String {
    let mut sorted: Vec<&String> = values.iter().collect();
    let number = |text: &String| text.parse::<f64>().unwrap_or(f64::INFINITY);
    sorted.sort_by(|a, b| number(a).total_cmp(&number(b)));
    let text = listed(&sorted, LISTED);
    if text.is_empty() { "nothing".into() } else { text }
}

impl<T> Part<T> {
    fn new(key: &str, place: &str, value: T) -> Self {
        Self { key: key.into(), place: place.into(), value }
    }
}

/// What is known about trials before they are trained.
pub struct PlannedTrials<'a> {
    /// Number of trials.
    trials: usize,
    planned: Vec<Observation<'a>>,
    configs: BTreeMap<Uuid, TrialConfig>,
}

impl<'a> PlannedTrials<'a> {
    /// Reads the planned observations and the configurations of the trials in `results`.
    pub fn of(results: &'a Results<'a>) -> Self {
        let read =
            |(trial, config): (&TrialRecord, &Value)| Some((trial.trial, config_of(config.clone()).ok()?));
        Self {
            trials: results.trials().count(),
            planned: results.planned(),
            configs: results.trials().filter_map(read).collect(),
        }
    }

    /// Planned observations for which a condition may hold.
    fn matching(&self, condition: &Condition) -> Vec<&Observation<'a>> {
        self.planned.iter().filter(|observation| condition.may_hold(observation)).collect()
    }

    /// First reason why none of the observations will have a value; `None` if one of them may have it, or if a
    /// configuration cannot be read.
    fn lack(&self, results: &[&Observation], why: impl Fn(&TrialConfig) -> Option<String>) -> Option<String> {
        let mut reasons = vec![];
        for result in results {
            reasons.push(why(self.configs.get(&result.trial.trial)?)?);
        }
        reasons.into_iter().next()
    }

    /// Whether the column is a key that has no value in any of the observations and is neither swept nor solved.
    fn unset(&self, results: &[&Observation], column: &Column) -> bool {
        let follows = |o: &Observation| o.trial.keys.iter().any(|(name, _)| name == column.name());
        let has = |o: &&Observation| {
            column.read(o).is_some() || follows(o) || !self.configs.contains_key(&o.trial.trial)
        };
        column.is_key() && !results.is_empty() && !results.iter().any(has)
    }
}
