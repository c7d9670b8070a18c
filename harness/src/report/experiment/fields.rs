//! Reads and validates the keys of one `[[figure]]`, `[[table]]`, `[[compare]]` or `[[fit]]`; errors carry the key's position.

use super::condition::Condition;
use crate::config::{ConfigError, ConfigErrors, Entry, Node, did_you_mean};
use crate::fsutil::file_name_problem;
use crate::report::columns::{Column, Names};
use std::ops::RangeInclusive;

/// The keys of a table, and the errors found in them.
pub struct Fields<'a> {
    /// Name of the table: `figure`, `table`, `compare` or `fit`.
    pub section: &'static str,
    /// Position at which it begins.
    pub place: &'a str,
    /// Labels of columns.
    pub names: &'a Names,
    /// Its keys and values.
    pub entries: &'a [Entry],
    /// Whether the file has claims, under `[[compare]]`.
    pub has_claims: bool,
    /// The errors found so far.
    pub errors: &'a mut ConfigErrors,
}

impl Fields<'_> {
    /// Records an error of a key, at the key's position, or at the table's if the key is absent.
    pub fn problem(&mut self, key: &str, problem: impl Into<String>) {
        let place = self.entry(key).map_or(self.place, |entry| &entry.place).to_string();
        self.errors.push(ConfigError::new(place, format!("{}.{key}", self.section), problem));
    }

    /// Records an error for every key that is not among `known`. A key among `all` is reported as without meaning for
    /// `whose`, such as `kind = "bar"`, any other as unknown.
    pub fn only(&mut self, known: &[&str], all: &[&str], whose: &str) {
        for Entry { key, .. } in self.entries {
            if known.contains(&key.as_str()) {
                continue;
            }
            if all.contains(&key.as_str()) {
                self.problem(key, format!("has no meaning for {whose}, expected {}", known.join(", ")));
            } else {
                let hint = did_you_mean(key, known.iter().copied());
                let expected =
                    if hint.is_empty() { format!(", expected {}", known.join(", ")) } else { hint };
                self.problem(key, format!("unknown key{expected}"));
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn node(&self, key: &str) -> Option<Node> {
        self.entry(key).map(|entry| entry.node.clone())
    }

    /// Reads non-empty text, if the key is present.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let node = self.node(key)?;
        let text = node.str().filter(|text| !text.trim().is_empty()).map(Into::into);
        if text.is_none() {
            self.problem(key, format!("is {}, expected text in quotes", node.shown));
        }
        text
    }

    /// Reads required text.
    pub fn required_text(&mut self, key: &str, example: &str) -> Option<String> {
        if self.entry(key).is_none() {
            self.missing(key, example);
        }
        self.text(key)
    }

    fn missing(&mut self, key: &str, example: &str) {
        self.problem(key, format!("is missing, expected {key} = {example}"));
    }

    /// Reads a boolean, if the key is present.
    pub fn truth(&mut self, key: &str) -> Option<bool> {
        let node = self.node(key)?;
        let truth = node.json().as_bool();
        if truth.is_none() {
            self.problem(key, format!("is {}, expected true or false", node.shown));
        }
        truth
    }

    /// Whether the key is present and true.
    pub fn is_true(&self, key: &str) -> bool {
        self.node(key).is_some_and(|node| node.json().as_bool() == Some(true))
    }

    /// Reads a number within a range, if the key is present; `unit` is for the error message.
    pub fn within(&mut self, key: &str, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        let node = self.node(key)?;
        let number = node.json().as_f64().filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.problem(key, format!("is {}, expected {low} to {high} {unit}", node.shown));
        }
        number
    }

    /// Reads two numbers, the smaller first, if the key is present.
    pub fn limits(&mut self, key: &str) -> Option<(f64, f64)> {
        let node = self.node(key)?;
        let numbers: Option<Vec<f64>> =
            node.json().as_array().and_then(|items| items.iter().map(|item| item.as_f64()).collect());
        match numbers.as_deref() {
            Some(&[low, high]) if low < high && (high - low).is_finite() => Some((low, high)),
            _ => {
                self.problem(
                    key,
                    format!("is {}, expected two numbers such as [0, 1], the smaller first", node.shown),
                );
                None
            }
        }
    }

    /// Reads a finite number above 0, if the key is present.
    pub fn positive(&mut self, key: &str) -> Option<f64> {
        let node = self.node(key)?;
        let number = node.json().as_f64().filter(|number| *number > 0.0 && number.is_finite());
        if number.is_none() {
            self.problem(key, format!("is {}, expected a number above 0", node.shown));
        }
        number
    }

    /// Reads a share of 0 or more and below 1, if the key is present.
    pub fn share(&mut self, key: &str) -> Option<f64> {
        let node = self.node(key)?;
        let number = node.json().as_f64().filter(|number| (0.0..1.0).contains(number));
        if number.is_none() {
            self.problem(key, format!("is {}, expected a share of 0 or more and below 1", node.shown));
        }
        number
    }

    /// Reads one of some words and returns its value, if the key is present.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let hint = did_you_mean(&text, names.iter().copied());
            self.problem(key, format!("is {text:?}, expected {}{hint}", names.join(", ")));
        }
        found
    }

    /// Reads a name that becomes a file name, if the key is present.
    pub fn file_name(&mut self, key: &str) -> Option<String> {
        let name = self.text(key)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.chars().all(fits) {
            self.problem(key, format!("is {name:?}, expected letters, digits, _ and - for a file's name"));
            return None;
        }
        // Figures and tables write files of this name, with extensions of at most three letters.
        if let Some(problem) = file_name_problem(&name, ".svg") {
            self.problem(key, problem);
            return None;
        }
        Some(name)
    }

    /// Reads a column, if the key is present.
    pub fn column(&mut self, key: &str) -> Option<Column> {
        let text = self.text(key)?;
        self.names.column(&text).map_err(|problem| self.problem(key, problem)).ok()
    }

    /// Reads a required column.
    pub fn required_column(&mut self, key: &str, example: &str) -> Option<Column> {
        if self.entry(key).is_none() {
            self.missing(key, example);
        }
        self.column(key)
    }

    /// Reads a required column of numbers.
    pub fn required_number(&mut self, key: &str, example: &str) -> Option<Column> {
        if self.entry(key).is_none() {
            self.missing(key, example);
        }
        self.number(key, example)
    }

    /// Reads a column of numbers; if the key is absent, returns the column `name`.
    pub fn number_or(&mut self, key: &str, name: &str) -> Option<Column> {
        match self.entry(key) {
            Some(_) => self.number(key, &format!("{name:?}")),
            None => self.names.column(name).ok(),
        }
    }

    /// Reads a column of numbers, if the key is present.
    pub fn number(&mut self, key: &str, example: &str) -> Option<Column> {
        let column = self.column(key)?;
        if !column.is_number() {
            let problem =
                format!("is {:?}, which holds text, expected numbers as in {example}", column.name());
            self.problem(key, problem);
            return None;
        }
        Some(column)
    }

    /// Reads a list of columns; empty if the key is absent.
    pub fn columns(&mut self, key: &str) -> Vec<Column> {
        let Some(node) = self.node(key) else { return vec![] };
        let names: Option<Vec<&str>> =
            node.array().and_then(|items| items.iter().map(Node::str).collect::<Option<_>>());
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            self.problem(key, format!("is {}, expected a list such as [\"seed\"]", node.shown));
            return vec![];
        };
        let found: Vec<Result<Column, String>> =
            names.into_iter().map(|name| self.names.column(name)).collect();
        found.into_iter().filter_map(|c| c.map_err(|problem| self.problem(key, problem)).ok()).collect()
    }

    /// Reads a required list of columns.
    pub fn required_columns(&mut self, key: &str, example: &str) -> Vec<Column> {
        if self.entry(key).is_none() {
            self.missing(key, example);
        }
        self.columns(key)
    }

    /// Reads a condition, if the key is present.
    pub fn condition(&mut self, key: &str) -> Option<Condition> {
        let text = self.text(key)?;
        Condition::parse(&text).map_err(|problem| self.problem(key, problem)).ok()
    }

    /// Reads a required condition.
    pub fn required_condition(&mut self, key: &str, example: &str) -> Option<Condition> {
        if self.entry(key).is_none() {
            self.missing(key, example);
        }
        self.condition(key)
    }
}
