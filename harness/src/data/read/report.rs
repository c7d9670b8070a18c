//! Report of what was read and what was left out, and why.

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

/// Maximum number of bad rows and of unused keys that a report lists; further ones are only counted.
pub(super) const LISTED: usize = 20;

/// Report on one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Path of the file.
    pub path: PathBuf,
    /// Layout, such as `JSON lines of {text}, gzip`.
    pub layout: String,
    /// Number of readable rows.
    pub rows: u64,
    /// Number of rows with content under an unused key, by key.
    pub unused: BTreeMap<String, u64>,
}

/// Report on all files. Each row is either returned or counted exactly once as empty, filtered or bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// Files in reading order; with a limit on rows the last ones may be missing.
    pub files: Vec<FileReport>,
    /// Rows left out because they have no text, no question or an empty answer.
    pub empty: u64,
    /// Rows left out by `data.min_chars`, `max_chars` or `min_chinese_share`.
    pub filtered: u64,
    /// Rows left out because they cannot be read (`data.on_bad_row = "skip"`).
    pub bad: u64,
    /// Conversations cut after their last answer, because the turns that follow have no answer.
    pub unanswered: u64,
    /// Rows that are used with an empty question, in their turns or in `history`, beside others that are not.
    pub empty_questions: u64,
    /// First bad rows, each with file, line and reason.
    pub problems: Vec<String>,
    /// Files that are not read to their end, because of `data.max_rows`.
    pub unread: Vec<PathBuf>,
    /// `data.max_rows`, if it left a file unread; otherwise 0.
    pub max_rows: u64,
}

impl ReadReport {
    /// Returns the number of rows of the files, good and bad.
    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum::<u64>() + self.bad
    }

    /// Returns the number of rows that were left out, for any reason.
    pub fn left_out(&self) -> u64 {
        self.empty + self.filtered + self.bad
    }

    /// Returns a notice, labelled `place` (such as `sft`), for each kind of dropped content with its count.
    pub fn notices(&self, place: &str) -> Vec<Notice> {
        let first = self.problems.first().map_or(String::new(), |first| format!(" (the first: {first})"));
        let mut counts = vec![
            (self.empty, "rows left out: no text, no question or an empty answer".to_string()),
            (self.filtered, "rows left out: by data.min_chars, max_chars or min_chinese_share".to_string()),
            (self.bad, format!("rows left out: cannot be read{first}")),
            (
                self.unanswered,
                "rows cut after their last answer: the turns that follow have no answer".to_string(),
            ),
            (self.empty_questions, "rows used with an empty question beside others".to_string()),
        ];
        let mut unused: BTreeMap<&str, u64> = BTreeMap::new();
        for (key, rows) in self.files.iter().flat_map(|file| &file.unused) {
            *unused.entry(key).or_default() += rows;
        }
        let unused = unused.into_iter();
        counts
            .extend(unused.map(|(key, rows)| (rows, format!("rows have a key \"{key}\" that is not used"))));
        let of = self.rows();
        let present = counts.into_iter().filter(|(count, _)| *count > 0);
        let of_rows = present.map(|(count, reason)| Notice { place: place.into(), reason, count, of });
        of_rows.chain(self.rest(place)).collect()
    }

    /// Returns the notice about files that are not read to their end; `None` if there are none.
    fn rest(&self, place: &str) -> Option<Notice> {
        let first = self.unread.first()?.display();
        let is_begun = |path: &&PathBuf| self.files.iter().any(|file| file.path == **path);
        let begun = self.unread.iter().filter(is_begun).count();
        Some(Notice {
            place: place.into(),
            reason: format!(
                "files not read to their end: data.max_rows = {}, {} read (the first: {first})",
                self.max_rows,
                counted(self.rows() as usize, "row")
            ),
            count: self.unread.len() as u64,
            of: (self.files.len() + self.unread.len() - begun) as u64,
        })
    }

    /// Leaves only what was read after an earlier report.
    pub(super) fn subtract(&mut self, before: Option<&Self>) {
        let Some(before) = before else { return };
        self.files.drain(..before.files.len());
        self.problems.drain(..before.problems.len());
        self.unread.drain(..before.unread.len());
        self.empty -= before.empty;
        self.filtered -= before.filtered;
        self.bad -= before.bad;
        self.unanswered -= before.unanswered;
        self.empty_questions -= before.empty_questions;
    }

    /// Names the files, for a message.
    pub(super) fn names(&self) -> String {
        let first = self.files.first().map_or(String::new(), |file| file.path.display().to_string());
        match self.files.len() {
            0 | 1 => first,
            count => format!("{first} and {} more", count - 1),
        }
    }

    /// Describes how many rows were left out and why, for a message.
    pub fn reasons(&self) -> String {
        let mut parts = vec![format!("{} of {} rows left out", number(self.left_out()), number(self.rows()))];
        for (count, reason) in [
            (self.empty, "have no text, no question or an empty answer"),
            (self.filtered, "by data.min_chars, max_chars or min_chinese_share"),
            (self.bad, "cannot be read"),
        ] {
            if count > 0 {
                parts.push(format!("{} {reason}", number(count)));
            }
        }
        let first =
            self.problems.first().map_or(String::new(), |first| format!("; the first bad row: {first}"));
        parts.join(", ") + &first
    }

    /// Adds files with rows that are not read because of `data.max_rows`.
    pub(super) fn leave(&mut self, files: impl Iterator<Item = PathBuf>, max_rows: u64) {
        let before = self.unread.len();
        self.unread.extend(files);
        if self.unread.len() > before {
            self.max_rows = max_rows;
        }
    }

    pub(super) fn begin(&mut self, path: PathBuf) {
        self.files.push(FileReport { path, ..FileReport::default() });
    }

    /// Counts a readable row.
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

    /// Counts an unreadable row.
    pub(super) fn bad(&mut self, problem: String) {
        self.bad += 1;
        if self.problems.len() < LISTED {
            self.problems.push(problem);
        }
    }

    /// Ends a file; an error if it has no readable row.
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
    /// Describes what is wrong with such a key and what to do.
    pub(super) fn problem(&self, advice: Advice) -> String {
        let Self { key, known } = self;
        let last = key.rsplit('.').next().unwrap_or(key);
        let nearest = did_you_mean(last, known.iter().copied());
        let why = match last {
            "tools" | "functions" | "tool_calls" | "function_call" => "tool calls are not supported",
            _ => "is not used",
        };
        format!(
            "the key \"{key}\" has content and {why}; expected {}{nearest}; rename or remove it{}",
            known.join(", "),
            advice.unknown_key
        )
    }
}

/// A shared report that is updated while rows are read elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ReadLog(Arc<Mutex<ReadReport>>);

impl ReadLog {
    /// Returns a copy of the report so far.
    pub fn report(&self) -> ReadReport {
        self.lock().clone()
    }

    /// Returns the number of files opened so far.
    pub fn files_begun(&self) -> usize {
        self.lock().files.len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ReadReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
