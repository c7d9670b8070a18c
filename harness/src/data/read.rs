//! Readers of every layout: JSONL, CSV, JSON arrays and plain text, each also as gzip and zstd.
//!
//! The layout follows from the file's extension and its keys or columns; what does not fit is an error with file,
//! line and reason.

mod json_array;
mod literal;

pub use literal::history;

use super::row::{Kind, Message, Row};
use crate::config::{BadRow, DataConfig};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A row longer than this is not a row.
const LONGEST_ROW: u64 = 64 << 20;

/// Rows that were left out because they could not be read.
#[derive(Debug, Clone, Default)]
pub struct SkipLog(Arc<Mutex<(u64, Vec<String>)>>);

impl SkipLog {
    const LISTED: usize = 20;

    fn note(&self, problem: String) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.0 += 1;
        if log.1.len() < Self::LISTED {
            log.1.push(problem);
        }
    }

    /// How many rows were left out, and why the first of them were.
    pub fn summary(&self) -> (u64, Vec<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What is read, and what is left out.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    on_bad_row: BadRow,
    min_chars: usize,
    max_chars: usize,
    min_chinese_share: f64,
    max_rows: u64,
    /// Where rows that cannot be read are noted.
    pub skipped: SkipLog,
}

impl ReadOptions {
    /// The options of a configuration.
    pub fn new(config: &DataConfig) -> Self {
        Self {
            on_bad_row: config.on_bad_row,
            min_chars: config.min_chars,
            max_chars: config.max_chars,
            min_chinese_share: config.min_chinese_share,
            max_rows: config.max_rows,
            skipped: SkipLog::default(),
        }
    }

    /// MiniMind's data_process filters.
    fn keeps(&self, row: &Row) -> bool {
        let chars = row.chars().count();
        if chars < self.min_chars || (self.max_chars > 0 && chars > self.max_chars) {
            return false;
        }
        let chinese = || row.chars().filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c)).count();
        self.min_chinese_share <= 0.0 || chinese() as f64 >= self.min_chinese_share * chars as f64
    }
}

/// Rows of all files in turn; after an error nothing more comes.
pub fn rows<'a>(
    files: &'a [PathBuf],
    kind: Kind,
    options: &'a ReadOptions,
) -> impl Iterator<Item = Result<Row>> + Send + 'a {
    let limit = if options.max_rows == 0 { usize::MAX } else { options.max_rows as usize };
    let rows = files.iter().flat_map(move |path| match file_rows(path, kind, options) {
        Ok(rows) => rows,
        Err(e) => Box::new(std::iter::once(Err(e))),
    });
    let mut failed = false;
    let rows = rows.take_while(move |row| {
        let go_on = !failed;
        failed |= row.is_err();
        go_on
    });
    rows.filter(|row| row.as_ref().map_or(true, |row| options.keeps(row))).take(limit)
}

type Rows<'a> = Box<dyn Iterator<Item = Result<Row>> + Send + 'a>;

/// The rows of one file.
fn file_rows<'a>(path: &'a Path, kind: Kind, options: &'a ReadOptions) -> Result<Rows<'a>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = name.trim_end_matches(".gz").trim_end_matches(".zst");
    let mut reader = open(path, &name)?;
    if reader.fill_buf().with_context(|| format!("{}: cannot be read", path.display()))?.is_empty() {
        bail!("{}: is empty, expected rows of {}", path.display(), layout(kind));
    }
    // A byte-order mark is no part of the first row.
    if reader.fill_buf().is_ok_and(|b| b.starts_with(b"\xef\xbb\xbf")) {
        reader.consume(3);
    }
    let extension = plain.rsplit('.').next().unwrap_or_default();
    let found: Box<dyn Iterator<Item = (u64, Result<Row>)> + Send + 'a> = match (extension, kind) {
        ("jsonl", _) => {
            Box::new(lines(reader).map(move |(line, text)| (line, text.and_then(|t| json_line(&t, kind)))))
        }
        ("json", _) => {
            let elements = json_array::elements(reader, LONGEST_ROW);
            Box::new(elements.map(move |(line, text)| (line, text.and_then(|t| json_line(&t, kind)))))
        }
        ("csv", Kind::Pretrain | Kind::Conversations) => csv_rows(path, reader, kind)?,
        ("txt", Kind::Pretrain) => Box::new(paragraphs(reader)),
        _ => bail!("{}: expected {}", path.display(), layout(kind)),
    };
    Ok(Box::new(found.filter_map(move |(line, row)| match row {
        Ok(row) => Some(Ok(row)),
        Err(e) => {
            let problem = format!("{}:{line}: {e:#}", path.display());
            match options.on_bad_row {
                BadRow::Skip => {
                    options.skipped.note(problem);
                    None
                }
                BadRow::Error => {
                    Some(Err(anyhow!("{problem}; mend the row or set data.on_bad_row = \"skip\"")))
                }
            }
        }
    })))
}

fn layout(kind: Kind) -> &'static str {
    match kind {
        Kind::Pretrain => "JSONL {\"text\"}, CSV with a column text, or .txt (each also .gz, .zst)",
        Kind::Conversations => {
            "CSV history,q,a, JSONL {\"conversations\"}, or JSON with instruction and output"
        }
        Kind::Preferences => "JSON prompt/chosen/rejected or JSONL with message lists chosen and rejected",
    }
}

fn open(path: &Path, name: &str) -> Result<Box<dyn BufRead + Send>> {
    let file = File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    let context = || format!("{}: cannot be unpacked", path.display());
    Ok(if name.ends_with(".gz") {
        Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
    } else if name.ends_with(".zst") {
        Box::new(BufReader::new(zstd::Decoder::new(file).with_context(context)?))
    } else {
        Box::new(BufReader::with_capacity(1 << 18, file))
    })
}

/// Lines with their numbers; blank ones are passed over.
fn lines(mut reader: Box<dyn BufRead + Send>) -> impl Iterator<Item = (u64, Result<String>)> {
    let (mut number, mut done) = (0, false);
    std::iter::from_fn(move || {
        loop {
            if done {
                return None;
            }
            number += 1;
            let mut bytes = vec![];
            match (&mut reader).take(LONGEST_ROW).read_until(b'\n', &mut bytes) {
                Ok(0) => return None,
                Err(e) => {
                    done = true;
                    return Some((number, Err(anyhow!("cannot be read: {e}"))));
                }
                Ok(_) if bytes.len() as u64 == LONGEST_ROW => {
                    done = true;
                    return Some((number, Err(anyhow!("a line of more than {} MiB", LONGEST_ROW >> 20))));
                }
                Ok(_) if bytes.trim_ascii().is_empty() => {}
                Ok(_) => return Some((number, String::from_utf8(bytes).map_err(|_| anyhow!("not UTF-8")))),
            }
        }
    })
}

/// Paragraphs of plain text, separated by blank lines.
fn paragraphs(reader: Box<dyn BufRead + Send>) -> impl Iterator<Item = (u64, Result<Row>)> {
    let mut lines = lines_with_blanks(reader).peekable();
    std::iter::from_fn(move || {
        while lines.next_if(|(_, l)| l.as_ref().is_ok_and(|l| l.trim().is_empty())).is_some() {}
        let (number, first) = lines.next()?;
        let mut text = match first {
            Ok(text) => text,
            Err(e) => return Some((number, Err(e))),
        };
        while let Some((_, Ok(line))) = lines.next_if(|(_, l)| l.as_ref().is_ok_and(|l| !l.trim().is_empty()))
        {
            text.push_str(&line);
        }
        Some((number, Ok(Row::Text(text.trim_end().into()))))
    })
}

fn lines_with_blanks(mut reader: Box<dyn BufRead + Send>) -> impl Iterator<Item = (u64, Result<String>)> {
    let mut number = 0;
    std::iter::from_fn(move || {
        number += 1;
        let mut bytes = vec![];
        match (&mut reader).take(LONGEST_ROW).read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(_) => Some((number, String::from_utf8(bytes).map_err(|_| anyhow!("not UTF-8")))),
            Err(_) => None,
        }
    })
}

/// One JSON object of any layout.
fn json_line(text: &str, kind: Kind) -> Result<Row> {
    let value: Value = serde_json::from_str(text).map_err(|e| anyhow!("not JSON: {e}"))?;
    let text_of = |key: &str| value.get(key).and_then(Value::as_str);
    let row = match kind {
        Kind::Pretrain => text_of("text").map(|t| Row::Text(t.into())),
        Kind::Conversations => match value.get("conversations") {
            Some(turns) => Some(Row::Chat(messages(turns)?)),
            None => text_of("instruction").zip(text_of("output")).map(|(instruction, output)| {
                let input = text_of("input").unwrap_or_default();
                let question = if input.is_empty() {
                    instruction.to_string()
                } else {
                    format!("{instruction}\n{input}")
                };
                Row::Chat(vec![Message::new("user", question), Message::new("assistant", output)])
            }),
        },
        Kind::Preferences => match (text_of("prompt"), value.get("chosen"), value.get("rejected")) {
            (Some(prompt), Some(Value::String(chosen)), Some(Value::String(rejected))) => {
                Some(Row::Preference {
                    prompt: vec![Message::new("user", prompt)],
                    chosen: chosen.clone(),
                    rejected: rejected.clone(),
                })
            }
            (_, Some(chosen @ Value::Array(_)), Some(rejected @ Value::Array(_))) => {
                Some(preference(messages(chosen)?, messages(rejected)?)?)
            }
            _ => None,
        },
    };
    row.ok_or_else(|| {
        let keys: Vec<&String> = value.as_object().map(|o| o.keys().collect()).unwrap_or_default();
        anyhow!("has the keys {keys:?}, expected {}", layout(kind))
    })
}

fn messages(value: &Value) -> Result<Vec<Message>> {
    let turns = value.as_array().context("expected a list of turns")?;
    let turn = |turn: &Value| -> Result<Message> {
        let text = |keys: [&str; 2]| keys.iter().find_map(|k| turn.get(k)?.as_str());
        let (role, content) = text(["role", "from"])
            .zip(text(["content", "value"]))
            .with_context(|| format!("a turn without role and content: {turn}"))?;
        let role = match role {
            "human" | "user" => "user",
            "gpt" | "assistant" => "assistant",
            "system" => "system",
            other => bail!("role {other:?}, expected system, user or assistant"),
        };
        Ok(Message::new(role, content))
    };
    let turns: Vec<Message> = turns.iter().map(turn).collect::<Result<_>>()?;
    if turns.is_empty() {
        bail!("a conversation without turns");
    }
    Ok(turns)
}

fn preference(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Result<Row> {
    let (Some(better), Some(worse)) = (chosen.pop(), rejected.pop()) else {
        bail!("an answer without turns")
    };
    if better.role != "assistant" || worse.role != "assistant" || chosen != rejected || chosen.is_empty() {
        bail!("chosen and rejected must share their turns up to a last one by the assistant");
    }
    Ok(Row::Preference { prompt: chosen, chosen: better.content, rejected: worse.content })
}

fn csv_rows<'a>(
    path: &Path,
    reader: Box<dyn BufRead + Send>,
    kind: Kind,
) -> Result<Box<dyn Iterator<Item = (u64, Result<Row>)> + Send + 'a>> {
    let mut csv = csv::ReaderBuilder::new().from_reader(reader);
    let headers = csv.headers().with_context(|| format!("{}: the header row", path.display()))?.clone();
    let column = |name: &str| {
        let found = headers.iter().position(|h| h.trim() == name);
        found.with_context(|| {
            let columns: Vec<&str> = headers.iter().collect();
            format!("{}: has the columns {columns:?}, expected {}", path.display(), layout(kind))
        })
    };
    let columns = match kind {
        Kind::Pretrain => vec![column("text")?],
        _ => vec![column("history")?, column("q")?, column("a")?],
    };
    let mut line = 1;
    Ok(Box::new(csv.into_records().map(move |record| {
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                line = e.position().map_or(line + 1, csv::Position::line);
                return (line, Err(anyhow!("{}", csv_problem(&e))));
            }
        };
        line = record.position().map_or(line + 1, csv::Position::line);
        let cell = |i: usize| record.get(columns[i]).unwrap_or_default();
        let row = if columns.len() == 1 {
            Ok(Row::Text(cell(0).into()))
        } else {
            conversation(cell(0), cell(1), cell(2))
        };
        (line, row)
    })))
}

fn csv_problem(e: &csv::Error) -> String {
    match e.kind() {
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".into(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} cells, expected {expected_len}")
        }
        _ => e.to_string(),
    }
}

/// MiniMind's `history,q,a`: earlier turns as a list of pairs, then question and answer.
fn conversation(history: &str, question: &str, answer: &str) -> Result<Row> {
    let mut turns = vec![];
    for turn in self::history(history)? {
        turns.extend(["user", "assistant"].iter().zip(turn).map(|(role, text)| Message::new(role, text)));
    }
    turns.extend([Message::new("user", question), Message::new("assistant", answer)]);
    Ok(Row::Chat(turns))
}

#[cfg(test)]
mod tests;
