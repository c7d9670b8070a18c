//! What was read, what was left out, and why.

use super::Advice;
use super::shape::{Shaped, Unused};
use crate::config::did_you_mean;
use crate::data::row::Kind;
use crate::records::Notice;
use crate::track::{counted, number};
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bad rows and unused keys that a report lists; others of them are only counted.
pub(super) const LISTED: usize = 20;

/// What was read of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Where it was read.
    pub path: PathBuf,
    /// Its layout, such as `JSON lines of {"text"}, gzip`.
    pub layout: String,
    /// Rows that could be read.
    pub rows: u64,
    /// Rows with content under a key that is not used, by key.
    pub unused: BTreeMap<String, u64>,
}

/// What was read of all files. Each row is counted once as empty, filtered or bad, or it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// The files, in the order of reading; with a limit on rows the last ones may be missing.
    pub files: Vec<FileReport>,
    /// Rows left out as they have no text, no question or an answer without text.
    pub empty: u64,
    /// Rows left out by `data.min_chars`, `max_chars` or `min_chinese_share`.
    pub filtered: u64,
    /// Rows left out as they cannot be read (`data.on_bad_row = "skip"`).
    pub bad: u64,
    /// Conversations that were cut after their last answer, as nothing answers what is said then.
    pub unanswered: u64,
    /// The first bad rows: file, line and reason.
    pub problems: Vec<String>,
}

impl ReadReport {
    /// All rows of the files, good and bad.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum::<u64>() + self.bad
    }

    /// Rows that were left out, whatever the reason.
    pub fn left_out(&self) -> u64 {
        self.empty + self.filtered + self.bad
    }

    /// What was dropped at `place`, such as `sft`, each reason with its count.
    pub fn notices(&self, place: &str) -> Vec<Notice> {
        let first = self.problems.first().map_or(String::new(), |first| format!(" (the first: {first})"));
        let mut counts = vec![
            (self.empty, "rows left out: no text, no question or an empty answer".to_string()),
            (self.filtered, "rows left out: by data.min_chars, max_chars or min_chinese_share".to_string()),
            (self.bad, format!("rows left out: cannot be read{first}")),
            (
                self.unanswered,
                "rows cut after their last answer, as nothing answers what follows".to_string(),
            ),
        ];
        let mut unused: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, rows) in self.files.iter().flat_map(|file| &file.unused) {
            *unused.entry(key).or_default() += rows;
        }
        let unused = unused.into_iter();
        counts
            .extend(unused.map(|(key, rows)| (rows, format!("rows have a key \"{key}\" that is not used"))));
        let of = self.rows();
        let told = counts.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, reason)| Notice { place: place.into(), reason, count, of }).collect()
    }

    /// The files, for a message.
    pub(super) fn names(&self) -> String {
        let first = self.files.first().map_or(String::new(), |file| file.path.display().to_string());
        match self.files.len() {
            0 | 1 => first,
            count => format!("{first} and {} more", count - 1),
        }
    }

    /// How many rows were left out and why, for a message.
    pub fn reasons(&self) -> String {
        let mut told = vec![format!("{} of {} rows left out", number(self.left_out()), number(self.rows()))];
        for (count, reason) in [
            (self.empty, "have no text, no question or an empty answer"),
            (self.filtered, "by data.min_chars, max_chars or min_chinese_share"),
            (self.bad, "cannot be read"),
        ] {
            if count > 0 {
                told.push(format!("{} {reason}", number(count)));
            }
        }
        let first =
            self.problems.first().map_or(String::new(), |first| format!("; the first bad row: {first}"));
        told.join(", ") + &first
    }

    pub(super) fn begin(&mut self, path: PathBuf) {
        self.files.push(FileReport { path, ..FileReport::default() });
    }

    /// Counts a row that could be read.
    pub(super) fn good(&mut self, layout: &str, shaped: &Shaped) {
        self.unanswered += u64::from(shaped.unanswered);
        let Some(file) = self.files.last_mut() else {
            return;
        };
        if file.rows == 0 {
            tracing::info!("{}: {layout}", file.path.display());
            file.layout = layout.to_owned();
        }
        file.rows += 1;
        for Unused { key, .. } in &shaped.unused {
            let is_room = file.unused.len() < LISTED;
            let key = if is_room || file.unused.contains_key(key) { key } else { "others" };
            *file.unused.entry(key.to_owned()).or_default() += 1;
        }
    }

    /// Counts a row that could not be read.
    pub(super) fn bad(&mut self, problem: String) {
        self.bad += 1;
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }

    /// The end of a file, which has to have a row that can be read.
    pub(super) fn end(&mut self, kind: Kind) -> Result<()> {
        let Some(file) = self.files.last() else {
            return Ok(());
        };
        let path = file.path.display();
        if file.rows == 0 {
            let first = self.problems.first();
            let first = first.map_or(String::new(), |first| format!("; the first bad row was {first}"));
            bail!("{path}: has no row of {kind}{first}");
        }
        if !file.unused.is_empty() {
            let unused: Vec<String> = file
                .unused
                .iter()
                .map(|(key, rows)| format!("\"{key}\" ({})", counted(*rows as usize, "row")))
                .collect();
            tracing::warn!("{path}: keys that are not used: {}", unused.join(", "));
        }
        Ok(())
    }
}

impl Unused {
    /// What is wrong with such a key and what to do.
    pub(super) fn problem(&self, advice: Advice) -> String {
        let Self { key, known } = self;
        let last = key.rsplit('.').next().unwrap_or(key);
        let nearest = did_you_mean(last, known.iter().copied());
        let why = match last {
            "tools" | "functions" | "tool_calls" | "function_call" => "calls of tools are not trained here",
            _ => "is not used",
        };
        format!(
            "the key \"{key}\" has content and {why}; expected {}{nearest}; rename or remove it{}",
            known.join(", "),
            advice.unknown_key
        )
    }
}

/// A report that fills while rows are read elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ReadLog(Arc<Mutex<ReadReport>>);

impl ReadLog {
    /// What was read so far.
    pub fn report(&self) -> ReadReport {
        self.lock().clone()
    }

    /// How many files reading has begun with.
    pub fn files_begun(&self) -> usize {
        self.lock().files.len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReadReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
