//! Rows of training data, read from files of every layout in constant memory.
//!
//! | kind | layouts |
//! |---|---|
//! | pretraining | JSON `{"text"}`, CSV with a column `text`, plain text whose documents are separated by blank lines |
//! | conversations | CSV `history,q,a`; JSON `{"conversations"}` or `{"messages"}` of `role`/`content` or `from`/`value`; alpaca `{"instruction","input","output"}` |
//! | preferences | JSON or CSV `prompt`, `chosen`, `rejected`; JSON `{"chosen","rejected"}` of messages |
//!
//! JSON is one object a line or one array of objects; every layout may be compressed by gzip or zstd.
//! *Invariant:* a file's layout follows from its name and first bytes, is reported, and holds for the whole file.

mod csv;
mod file;
mod input;
mod json;
mod literal;
mod shape;
mod text;

pub(crate) use csv::CsvRows;
use file::{FileReader, Problem};
pub use literal::history;

use super::row::{Kind, Row};
use crate::config::{BadRow, DataConfig};
use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows longer than this are refused, so that a missing quote or bracket cannot fill the memory.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// Bad rows that a report lists; the others are only counted.
const LISTED: usize = 20;

/// What was read of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Where it was read.
    pub path: PathBuf,
    /// Its layout, such as `JSON lines of {"text"}, gzip`.
    pub layout: String,
    /// Good rows.
    pub rows: u64,
}

/// What was read of all files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadReport {
    /// The files, in the order of reading; with a limit on rows the last ones may be missing.
    pub files: Vec<FileReport>,
    /// Good rows that the filters left out, rows without text among them.
    pub filtered: u64,
    /// Bad rows that were skipped.
    pub skipped: u64,
    /// The first bad rows: file, line and reason.
    pub problems: Vec<String>,
}

/// A report that fills while rows are read elsewhere.
#[derive(Debug, Clone, Default)]
pub struct ReadLog(Arc<Mutex<ReadReport>>);

impl ReadLog {
    /// How many bad rows were skipped, and why the first of them were.
    pub fn summary(&self) -> (u64, Vec<String>) {
        let report = self.report();
        (report.skipped, report.problems)
    }

    /// What was read so far.
    pub fn report(&self) -> ReadReport {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ReadReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is read and what is left out.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    on_bad_row: BadRow,
    min_chars: usize,
    max_chars: usize,
    min_chinese_share: f64,
    max_rows: u64,
    history_chars: usize,
    /// What was read, and the bad rows that were skipped.
    pub skipped: ReadLog,
}

impl ReadOptions {
    /// The options of a configuration, with an empty log.
    pub fn new(config: &DataConfig) -> Self {
        Self {
            on_bad_row: config.on_bad_row,
            min_chars: config.min_chars,
            max_chars: config.max_chars,
            min_chinese_share: config.min_chinese_share,
            max_rows: config.max_rows,
            history_chars: config.history_chars,
            skipped: ReadLog::default(),
        }
    }

    /// MiniMind's `data_process` filters over all texts of a row together; a row without text never passes.
    fn keeps(&self, row: &Row) -> bool {
        let (mut chars, mut chinese) = (0, 0);
        for c in row.chars() {
            chars += 1;
            chinese += usize::from(('\u{4e00}'..='\u{9fff}').contains(&c));
        }
        chars >= self.min_chars.max(1)
            && (self.max_chars == 0 || chars <= self.max_chars)
            && chinese as f64 >= self.min_chinese_share * chars as f64
    }
}

/// Cuts the turns before the last question to so many characters each, as MiniMind does; 0 leaves them whole.
fn cut_history(row: &mut Row, chars: usize) {
    let Row::Chat(turns) = row else {
        return;
    };
    let last = turns.len().saturating_sub(2);
    for turn in turns[..last].iter_mut().filter(|_| chars > 0) {
        if let Some((end, _)) = turn.content.char_indices().nth(chars) {
            turn.content.truncate(end);
        }
    }
}

/// The rows of files in their order; after an error nothing more comes.
pub fn rows(files: &[PathBuf], kind: Kind, options: &ReadOptions) -> Rows {
    let files = files.iter().cloned().collect();
    Rows { files, kind, options: options.clone(), reader: None, rows: 0, failed: false }
}

/// The rows of several files, one after the other.
pub struct Rows {
    files: VecDeque<PathBuf>,
    kind: Kind,
    options: ReadOptions,
    reader: Option<FileReader>,
    rows: u64,
    failed: bool,
}

impl Rows {
    fn advance(&mut self) -> Result<Option<Row>> {
        loop {
            if self.options.max_rows > 0 && self.rows >= self.options.max_rows {
                return Ok(None);
            }
            let Some(reader) = &mut self.reader else {
                let Some(path) = self.files.pop_front() else {
                    return Ok(None);
                };
                self.reader = Some(FileReader::open(&path, self.kind)?);
                self.options.skipped.lock().files.push(FileReport { path, layout: String::new(), rows: 0 });
                continue;
            };
            let next = reader.next();
            let (path, layout) = (reader.path().display().to_string(), reader.layout());
            let mut log = self.options.skipped.lock();
            let Some(file) = log.files.last_mut() else {
                return Ok(None);
            };
            match next {
                Some(Ok(mut row)) => {
                    if file.rows == 0 {
                        tracing::info!("{path}: {layout}");
                        file.layout = layout;
                    }
                    file.rows += 1;
                    if self.options.keeps(&row) {
                        self.rows += 1;
                        cut_history(&mut row, self.options.history_chars);
                        return Ok(Some(row));
                    }
                    log.filtered += 1;
                }
                Some(Err(Problem::Row { line, reason })) => {
                    let problem = format!("{path}:{line}: {reason}");
                    if self.options.on_bad_row == BadRow::Error {
                        return Err(anyhow!("{problem}; mend the row or set data.on_bad_row = \"skip\""));
                    }
                    log.skipped += 1;
                    if log.problems.len() < LISTED {
                        log.problems.push(problem);
                    }
                }
                Some(Err(Problem::File(error))) => return Err(error),
                None if file.rows == 0 => {
                    let first = log.problems.first();
                    let first =
                        first.map_or(String::new(), |first| format!("; the first bad row was {first}"));
                    return Err(anyhow!("{path}: has no row of {}{first}", self.kind));
                }
                None => {
                    drop(log);
                    self.reader = None;
                }
            }
        }
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.failed {
            return None;
        }
        let row = self.advance().transpose();
        self.failed = matches!(row, Some(Err(_)));
        row
    }
}

#[cfg(test)]
mod tests;
