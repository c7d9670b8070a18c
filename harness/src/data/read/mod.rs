//! Readers of training data: rows from files of all supported layouts, in constant memory.
//!
//! | kind | layouts |
//! |---|---|
//! | pretraining | JSON `{"text"}`, CSV with a column `text`, plain text with documents separated by blank lines; JSON conversations, in the chat template's form with loss on the whole text |
//! | conversations | CSV `history,q,a`; JSON `{"conversations"}` or `{"messages"}` of `role`/`content` or `from`/`value`; alpaca `{"instruction","input","output"}` |
//! | preferences | JSON or CSV `prompt`, `chosen`, `rejected`; JSON `{"chosen","rejected"}` of messages |
//!
//! JSON is one object per line or one array of objects; every layout may be compressed with gzip or zstd. Conversations
//! and preferences may have `system`, a text, and `history`, a list of `[question, answer]` pairs, in addition to their own
//! keys. *Invariants:* a file's layout follows from its name and first bytes, is reported, and holds for the whole file. All
//! content of a row is used, or refused with file, line and key, or counted in the [`ReadReport`].

mod csv;
mod file;
mod input;
mod json;
mod literal;
mod report;
mod shape;
mod text;
mod turns;
mod zstd;

pub(crate) use csv::CsvRows;
use file::{FileReader, Found, Problem};
pub use input::extension;
pub(crate) use json::JsonLines;
pub use literal::{Pairs, history};
pub use report::{FileReport, ReadLog, ReadReport};

use super::row::{Kind, Row};
use crate::config::{BadRow, DataConfig, RowStyle, UnknownKeys};
use crate::stop::check;
use anyhow::{Result, anyhow, bail};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Maximum length of a row, so that a missing quote or bracket cannot exhaust the memory.
pub const MAX_ROW_BYTES: usize = 64 << 20;

/// Advice in messages about unreadable rows and unused keys, in addition to mending the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    bad_row: &'static str,
    unknown_key: &'static str,
}

impl Advice {
    /// Names configuration keys.
    pub const KEYS: Self = Self {
        bad_row: " or set data.on_bad_row = \"skip\"",
        unknown_key: ", or ignore it with data.unknown_keys = \"ignore\"",
    };
    /// Names command-line options, for commands that have them.
    pub const OPTIONS: Self = Self {
        bad_row: " or skip such rows with --skip-bad-rows",
        unknown_key: ", or ignore it with --ignore-unknown-keys",
    };
    /// No additional advice.
    pub const NONE: Self = Self { bad_row: "", unknown_key: "" };
}

/// Options for reading and filtering rows.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    on_bad_row: BadRow,
    unknown_keys: UnknownKeys,
    min_chars: usize,
    max_chars: usize,
    min_chinese_share: f64,
    max_rows: u64,
    history_chars: usize,
    pairs: Pairs,
    advice: Advice,
    /// Log of what is read and what is left out, shared with clones.
    pub log: ReadLog,
}

impl ReadOptions {
    /// Takes the options from a configuration, with an empty log.
    pub fn new(config: &DataConfig) -> Self {
        Self {
            on_bad_row: config.on_bad_row,
            unknown_keys: config.unknown_keys,
            min_chars: config.min_chars,
            max_chars: config.max_chars,
            min_chinese_share: config.min_chinese_share,
            max_rows: config.max_rows,
            history_chars: config.history_chars,
            pairs: match config.rows {
                RowStyle::Turns => Pairs::Exact,
                RowStyle::Minimind => Pairs::Minimind,
            },
            advice: Advice::KEYS,
            log: ReadLog::default(),
        }
    }

    /// Replaces the advice in messages.
    pub fn advising(self, advice: Advice) -> Self {
        Self { advice, ..self }
    }

    /// Applies the filters of MiniMind's `data_process` to all texts of a row together.
    fn keeps(&self, row: &Row) -> bool {
        let (mut chars, mut chinese) = (0, 0);
        for c in row.chars() {
            chars += 1;
            chinese += usize::from(('\u{4e00}'..='\u{9fff}').contains(&c));
        }
        chars >= self.min_chars
            && (self.max_chars == 0 || chars <= self.max_chars)
            && chinese as f64 >= self.min_chinese_share * chars as f64
    }
}

/// Whether a row has nothing to learn: no text, no question, or an empty answer.
fn is_empty(row: &Row) -> bool {
    let blank = |text: &str| text.trim().is_empty();
    let asks_nothing = |row: &Row| questions(row).all(blank);
    match row {
        Row::Text(text) | Row::Labelled { text, .. } => blank(text),
        Row::Chat(turns) => {
            asks_nothing(row) || turns.iter().any(|turn| turn.role == "assistant" && blank(&turn.content))
        }
        Row::Preference { chosen, rejected, .. } => asks_nothing(row) || blank(chosen) || blank(rejected),
    }
}

/// Returns the questions of a row.
fn questions(row: &Row) -> impl Iterator<Item = &str> {
    let turns = match row {
        Row::Chat(turns) | Row::Preference { prompt: turns, .. } => turns.as_slice(),
        Row::Text(_) | Row::Labelled { .. } => &[],
    };
    turns.iter().filter(|turn| turn.role == "user").map(|turn| turn.content.as_str())
}

/// Truncates each turn before the last question, a system text too, to `chars` characters, as MiniMind does with its history;
/// 0 leaves them whole.
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

/// Returns the rows of files, in order; iteration ends after the first error.
pub fn rows(files: &[PathBuf], kind: Kind, options: &ReadOptions) -> Rows<'static> {
    let files = files.iter().cloned().collect();
    Rows {
        files,
        kind,
        options: options.clone(),
        reader: None,
        rows: 0,
        before: None,
        failed: false,
        stop: None,
    }
}

/// Iterator over the rows of several files.
pub struct Rows<'a> {
    files: VecDeque<PathBuf>,
    kind: Kind,
    options: ReadOptions,
    reader: Option<FileReader>,
    rows: u64,
    /// The log when reading began: it may be shared with other rows.
    before: Option<ReadReport>,
    failed: bool,
    stop: Option<&'a AtomicBool>,
}

impl Rows<'_> {
    /// Ends the rows with [`crate::stop::Stopped`] once `stop` is set, which is checked at every row, good or bad.
    pub fn until(self, stop: &AtomicBool) -> Rows<'_> {
        Rows { stop: Some(stop), ..self }
    }

    fn advance(&mut self) -> Result<Option<Row>> {
        self.before.get_or_insert_with(|| self.options.log.report());
        loop {
            self.stop.map_or(Ok(()), check)?;
            if self.options.max_rows > 0 && self.rows >= self.options.max_rows {
                self.leave_the_rest();
                return Ok(None);
            }
            let Some(reader) = &mut self.reader else {
                let Some(path) = self.files.pop_front() else {
                    return self.ended();
                };
                self.reader = Some(FileReader::open(&path, self.kind, self.options.pairs)?);
                self.options.log.lock().begin(path);
                continue;
            };
            let next = reader.next();
            let (path, layout) = (reader.path().display(), reader.layout());
            let mut log = self.options.log.lock();
            match next {
                Some(Ok(Found { line, shaped })) => {
                    if self.options.unknown_keys == UnknownKeys::Error
                        && let Some(unused) = shaped.unused.first()
                    {
                        return Err(anyhow!("{path}:{line}: {}", unused.problem(self.options.advice)));
                    }
                    log.good(&layout, &shaped);
                    let mut row = shaped.row;
                    if is_empty(&row) {
                        log.empty += 1;
                    } else if !self.options.keeps(&row) {
                        log.filtered += 1;
                    } else {
                        self.rows += 1;
                        let lacks_one = questions(&row).any(|question| question.trim().is_empty());
                        log.empty_questions += u64::from(lacks_one);
                        cut_history(&mut row, self.options.history_chars);
                        return Ok(Some(row));
                    }
                }
                Some(Err(Problem::Row { line, reason })) => {
                    let problem = format!("{path}:{line}: {reason}");
                    if self.options.on_bad_row == BadRow::Error {
                        return Err(anyhow!("{problem}; fix the row{}", self.options.advice.bad_row));
                    }
                    log.bad(problem);
                }
                Some(Err(Problem::File(error))) => return Err(error),
                None => {
                    log.end(self.kind)?;
                    drop(log);
                    self.reader = None;
                }
            }
        }
    }

    /// Logs the files with rows that `data.max_rows` leaves unread.
    fn leave_the_rest(&mut self) {
        let is_unread = |mut reader: FileReader| reader.next().is_some().then(|| reader.path().to_path_buf());
        let unread = self.reader.take().and_then(is_unread).into_iter().chain(self.files.drain(..));
        self.options.log.lock().leave(unread, self.options.max_rows);
    }

    /// Ends the iteration; an error if every row was left out.
    fn ended(&self) -> Result<Option<Row>> {
        let mut report = self.options.log.report();
        report.subtract(self.before.as_ref());
        if self.rows == 0 && report.left_out() > 0 {
            bail!("{}: no row of {} is left: {}", report.names(), self.kind, report.reasons());
        }
        Ok(None)
    }
}

impl Iterator for Rows<'_> {
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
