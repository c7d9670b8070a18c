//! The rows of one file.

use super::csv::CsvRows;
use super::input::{self, Compression};
use super::json::{JsonArray, JsonLines};
use super::shape::Shape;
use super::text::Paragraphs;
use crate::data::row::{Kind, Row};
use anyhow::{Context, Result, bail};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// Why a row did not come.
#[derive(Debug)]
pub enum Problem {
    /// The row is malformed; the next one can be read.
    Row {
        /// The line on which the row starts, from 1.
        line: u64,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// The file cannot be read any further.
    File(anyhow::Error),
}

impl Problem {
    pub(super) fn row(line: u64, reason: impl Into<String>) -> Self {
        Self::Row { line, reason: reason.into() }
    }
}

/// A row in its file: where it starts, and its value or what is wrong with it.
pub(crate) struct Located<T> {
    /// From 1.
    pub(crate) line: u64,
    pub(crate) value: Result<T, String>,
}

/// How the rows of a file are framed.
enum Frames {
    Lines(JsonLines),
    Array(JsonArray),
    Csv(CsvRows),
    Text(Paragraphs),
}

/// The rows of one file.
pub struct FileReader {
    path: PathBuf,
    kind: Kind,
    compression: Compression,
    frames: Frames,
    shape: Option<Shape>,
    failed: bool,
}

impl FileReader {
    /// Opens a file and finds its layout.
    pub fn open(path: &Path, kind: Kind) -> Result<Self> {
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
                shape = Some(
                    Shape::of_columns(kind, rows.columns())
                        .map_err(|why| anyhow::anyhow!("{shown}: {why}"))?,
                );
                Frames::Csv(rows)
            }
            ("txt", _) if kind == Kind::Pretrain => Frames::Text(Paragraphs::new(input)),
            ("txt", _) => bail!("{shown}: is plain text, expected {kind} as JSON or CSV"),
            (_, Some(b'[')) => Frames::Array(JsonArray::new(input)),
            ("json" | "jsonl" | "ndjson", _) | (_, Some(b'{')) => Frames::Lines(JsonLines::new(input)),
            _ => bail!(
                "{shown}: its layout is unknown; expected .jsonl, .json, .csv or .txt, perhaps with .gz or .zst behind"
            ),
        };
        Ok(Self { path: path.to_path_buf(), kind, compression, frames, shape, failed: false })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layout, such as `JSON lines of {"text"}, gzip`.
    pub fn layout(&self) -> String {
        let frames = match self.frames {
            Frames::Lines(_) => "JSON lines",
            Frames::Array(_) => "JSON array",
            Frames::Csv(_) => "CSV",
            Frames::Text(_) => "plain text, documents separated by blank lines",
        };
        let shape = self.shape.as_ref().map_or(String::new(), |shape| format!(" of {shape}"));
        format!("{frames}{shape}{}", self.compression.suffix())
    }

    fn advance(&mut self) -> Result<Option<Row>, Problem> {
        let (line, row) = match &mut self.frames {
            Frames::Text(paragraphs) => {
                let Some(found) = paragraphs.next().map_err(|error| self.broken(error))? else {
                    return Ok(None);
                };
                (found.line, found.value.map(Row::Text))
            }
            Frames::Csv(rows) => {
                let Some(found) = rows.next().map_err(|error| self.broken(error))? else {
                    return Ok(None);
                };
                let Some(shape) = &self.shape else {
                    return Ok(None);
                };
                (found.line, found.value.and_then(|cells| shape.row_of_cells(&cells)))
            }
            Frames::Lines(_) | Frames::Array(_) => {
                let found = match &mut self.frames {
                    Frames::Lines(lines) => lines.next(),
                    Frames::Array(array) => array.next(),
                    _ => Ok(None),
                };
                let Some(found) = found.map_err(|error| self.broken(error))? else {
                    return Ok(None);
                };
                let (kind, known) = (self.kind, self.shape.clone());
                let row = found.value.and_then(|value| {
                    let shape = known.map_or_else(|| Shape::of_object(kind, &value), Ok)?;
                    let row = shape.row_of_object(&value)?;
                    self.shape = Some(shape);
                    Ok(row)
                });
                (found.line, row)
            }
        };
        row.map(Some).map_err(|reason| Problem::row(line, reason))
    }

    fn broken(&self, error: std::io::Error) -> Problem {
        Problem::File(
            anyhow::Error::new(error).context(format!("{}: cannot be read on", self.path.display())),
        )
    }
}

impl Iterator for FileReader {
    type Item = Result<Row, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let row = self.advance().transpose();
        self.failed = matches!(row, Some(Err(Problem::File(_))));
        row
    }
}
