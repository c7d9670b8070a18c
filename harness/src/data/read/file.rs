//! The rows of one file.

use super::csv::{CsvRows, column_name};
use super::input::{self, Compression};
use super::json::{JsonArray, JsonLines};
use super::literal::Pairs;
use super::shape::{Shape, Shaped, object};
use super::text::Paragraphs;
use crate::data::row::{Kind, Row};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Reason why a row could not be read.
#[derive(Debug)]
pub(super) enum Problem {
    /// The row is malformed; reading can continue with the next one.
    Row {
        /// Line on which the row starts, from 1.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The rest of the file cannot be read.
    File(anyhow::Error),
}

/// Makes an object of a row of a CSV file.
fn object_of(columns: &[String], cells: Vec<String>) -> Value {
    let named = cells.into_iter().enumerate();
    Value::Object(named.map(|(index, cell)| (column_name(columns, index), cell.into())).collect())
}

fn plain(text: String) -> Shaped {
    Shaped { row: Row::Text(text), unanswered: false, unused: Vec::new() }
}

fn located(line: u64, shaped: Result<Shaped, String>) -> Result<Found, Problem> {
    shaped.map(|shaped| Found { line, shaped }).map_err(|reason| Problem::Row { line, reason })
}

/// A row with its place in the file, and its value or what is wrong with it.
pub(crate) struct Located<T> {
    /// Line on which the row starts, from 1.
    pub(crate) line: u64,
    pub(crate) value: Result<T, String>,
}

/// Framing of the rows of a file.
enum Frames {
    Lines(JsonLines),
    Array(JsonArray),
    Csv(CsvRows),
    Text(Paragraphs),
}

/// A row that was read.
pub(super) struct Found {
    /// Line on which it starts, from 1.
    pub(super) line: u64,
    pub(super) shaped: Shaped,
}

/// Iterator over the rows of one file.
pub(super) struct FileReader {
    path: PathBuf,
    kind: Kind,
    pairs: Pairs,
    compression: Compression,
    frames: Frames,
    shape: Option<Shape>,
    failed: bool,
}

impl FileReader {
    /// Opens a file and determines its layout.
    pub(super) fn open(path: &Path, kind: Kind, pairs: Pairs) -> Result<Self> {
        let shown = path.display();
        let (mut input, compression, extension) = input::open(path)?;
        let first = {
            let start = input.fill_buf().with_context(|| format!("{shown}: cannot be read"))?;
            start.iter().copied().find(|byte| !byte.is_ascii_whitespace())
        };
        let mut shape = None;
        let frames = match (extension.as_str(), first) {
            ("csv", _) => {
                let rows = CsvRows::new(input, path)?;
                let found = Shape::of(kind, rows.columns(), true);
                shape = Some(found.map_err(|why| anyhow::anyhow!("{shown}: {why}"))?);
                Frames::Csv(rows)
            }
            ("txt", _) if kind == Kind::Pretrain => Frames::Text(Paragraphs::new(input)),
            ("txt", _) => bail!("{shown}: is plain text, expected {kind} as JSON or CSV"),
            ("json" | "jsonl" | "ndjson", Some(b'[')) => Frames::Array(JsonArray::new(input)),
            ("json" | "jsonl" | "ndjson", _) => Frames::Lines(JsonLines::new(input)),
            _ => bail!(
                "{shown}: unknown file extension; expected .jsonl, .json, .csv or .txt, optionally followed by .gz or .zst"
            ),
        };
        Ok(Self { path: path.to_path_buf(), kind, pairs, compression, frames, shape, failed: false })
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the layout, such as `JSON lines of {text}, gzip`.
    pub(super) fn layout(&self) -> String {
        let frames = match self.frames {
            Frames::Lines(_) => "JSON lines",
            Frames::Array(_) => "JSON array",
            Frames::Csv(_) => "CSV",
            Frames::Text(_) => "plain text, documents separated by blank lines",
        };
        let shape = self.shape.as_ref().map_or(String::new(), |shape| format!(" of {shape}"));
        format!("{frames}{shape}{}", self.compression.suffix())
    }

    fn advance(&mut self) -> Result<Option<Found>, Problem> {
        let next = match &mut self.frames {
            Frames::Text(paragraphs) => {
                let next = paragraphs.next().map_err(|error| self.broken(error))?;
                return next.map(|found| located(found.line, found.value.map(plain))).transpose();
            }
            Frames::Csv(rows) => {
                let next = rows.next();
                next.map(|row| {
                    row.map(|row| Located {
                        line: row.line,
                        value: row.value.map(|cells| object_of(rows.columns(), cells)),
                    })
                })
            }
            Frames::Lines(lines) => lines.next(),
            Frames::Array(array) => array.next(),
        };
        let Some(found) = next.map_err(|error| self.broken(error))? else {
            return Ok(None);
        };
        located(found.line, found.value.and_then(|value| self.shaped(&value))).map(Some)
    }

    fn shaped(&mut self, value: &Value) -> Result<Shaped, String> {
        let object = object(value).map_err(|problem| match self.frames {
            Frames::Array(_) => format!("a row of the array {problem}"),
            _ => problem,
        })?;
        let shape = match self.shape {
            Some(shape) => shape,
            None => Shape::of(self.kind, &object.keys().cloned().collect::<Vec<_>>(), false)?,
        };
        let shaped = shape.row(object, self.pairs)?;
        // Set only now, as a bad row must not determine the layout.
        self.shape = Some(shape);
        Ok(shaped)
    }

    fn broken(&self, error: std::io::Error) -> Problem {
        Problem::File(
            anyhow::Error::new(error).context(format!("{}: cannot be read further", self.path.display())),
        )
    }
}

impl Iterator for FileReader {
    type Item = Result<Found, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.advance().transpose();
        self.failed = matches!(row, Some(Err(Problem::File(_))));
        row
    }
}
