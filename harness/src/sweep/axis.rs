//! What varies in a sweep: axes, keys that vary together, and combinations that are left out.

use crate::config::{ConfigError, ConfigErrors, Entry, Setting, find, get, leaves, not_a_key, settings};
use serde_json::Value;
use std::collections::HashSet;

/// An axis: the values that one key, or several keys together, take in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// The keys, each with the place in the file where it was written.
    pub keys: Vec<(String, String)>,
    /// The settings of each point of the axis, one for each key.
    pub points: Vec<Vec<Setting>>,
}

/// A combination that is left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Exclude {
    /// Trials for which all of these hold are left out.
    pub settings: Vec<Setting>,
}

impl Exclude {
    /// Parses one `[[exclude]]`.
    pub fn read(place: &str, entries: &[Entry], errors: &mut ConfigErrors) -> Self {
        if entries.is_empty() {
            errors.push(ConfigError::new(
                place,
                "exclude",
                "is empty, expected keys and the values to leave out",
            ));
        }
        Self { settings: settings(entries, errors) }
    }

    /// Whether the trial with this configuration is left out.
    pub fn matches(&self, tree: &Value) -> bool {
        !self.settings.is_empty()
            && self.settings.iter().all(|setting| get(tree, &setting.key) == Some(&setting.value))
    }
}

/// Parses `[axes]`: each key is an axis.
pub fn axes(entries: &[Entry], errors: &mut ConfigErrors) -> Vec<Axis> {
    let one_key = |(key, place, points): (String, String, Vec<Setting>)| Axis {
        keys: vec![(key, place)],
        points: points.into_iter().map(|point| vec![point]).collect(),
    };
    let columns = columns(entries, errors);
    for (key, _, points) in &columns {
        let mut seen = HashSet::new();
        for point in points {
            if !seen.insert(&point.value) {
                let problem = format!("has {} twice, expected each value once", point.value);
                errors.push(ConfigError::new(&point.place, key, problem));
            }
        }
    }
    columns.into_iter().map(one_key).collect()
}

/// Parses one `[[zip]]`: keys that vary together.
pub fn zip(place: &str, entries: &[Entry], errors: &mut ConfigErrors) -> Option<Axis> {
    let before = errors.errors.len();
    let columns = columns(entries, errors);
    let Some((first, _, points)) = columns.first() else {
        if errors.errors.len() == before {
            errors.push(ConfigError::new(place, "zip", "is empty, expected keys with lists of equal length"));
        }
        return None;
    };
    let turns = points.len();
    let mut fits = true;
    for (key, place, points) in &columns[1..] {
        if points.len() != turns && errors.errors.len() == before {
            let problem = format!("has {} values, but {first} has {turns}; expected as many", points.len());
            errors.push(ConfigError::new(place, key, problem));
            fits = false;
        }
    }
    if !fits || errors.errors.len() > before {
        return None;
    }
    let turn = |index: usize| columns.iter().map(|column| column.2[index].clone()).collect();
    Some(Axis {
        points: (0..turns).map(turn).collect(),
        keys: columns.iter().map(|column| (column.0.clone(), column.1.clone())).collect(),
    })
}

/// Parses keys with lists of valid values: key, place, and one setting for each value.
pub(super) fn columns(entries: &[Entry], errors: &mut ConfigErrors) -> Vec<(String, String, Vec<Setting>)> {
    let mut columns = Vec::new();
    for (key, place, node) in leaves(entries, errors) {
        let mut fail = |place: &str, problem: String| errors.push(ConfigError::new(place, &key, problem));
        let Some(spec) = find(&key) else {
            fail(&place, not_a_key(&key));
            continue;
        };
        let items = match node.array() {
            Some([]) => {
                fail(&place, "is an empty list, expected the values to take in turn".into());
                continue;
            }
            Some(items) => items,
            None => {
                fail(&place, format!("is {}, expected a list of the values to take in turn", node.shown));
                continue;
            }
        };
        let mut points = Vec::new();
        for item in items {
            match spec.check(item) {
                Ok(value) => points.push(Setting { key: key.clone(), value, place: item.place.clone() }),
                Err(problem) => fail(&item.place, problem),
            }
        }
        if points.len() == items.len() {
            columns.push((key, place, points));
        }
    }
    columns
}
