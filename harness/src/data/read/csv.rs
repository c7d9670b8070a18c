//! Rows of a CSV file with a header.

use super::MAX_ROW_BYTES;
use super::file::Located;
use super::input::{self, Input, too_long};
use anyhow::{Context, Result, bail, ensure};
use csv::ByteRecord;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows of a CSV file, as texts in the order of its columns.
pub(crate) struct CsvRows {
    reader: csv::Reader<Watched>,
    watch: Arc<Mutex<Watch>>,
    columns: Vec<String>,
    record: ByteRecord,
}

impl CsvRows {
    /// Opens a file, which may be compressed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (input, ..) = input::open(path)?;
        Self::new(input, path)
    }

    pub(super) fn new(input: Input, path: &Path) -> Result<Self> {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let watched = Watched { input, watch: Arc::clone(&watch), cell: Cell::RowStart, line: 1 };
        // Rows with a wrong number of cells are reported one by one instead of ending the file.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(watched);
        let header = reader
            .byte_headers()
            .with_context(|| format!("{}: the header cannot be read", path.display()))?;
        let columns: Vec<String> =
            header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        let seen = lock(&watch).rows.pop_front().unwrap_or_default();
        if let Some(fault) = seen.fault {
            bail!("{}:{}: the header: {fault}", path.display(), seen.line);
        }
        for (i, name) in columns.iter().enumerate() {
            ensure!(
                name.is_empty() || !columns[..i].contains(name),
                "{}:{}: two columns are named {name:?}, expected each name once",
                path.display(),
                seen.line
            );
        }
        Ok(Self { reader, watch, columns, record: ByteRecord::new() })
    }

    /// Returns the names of the columns.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns the next row, with one cell per column; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Located<Vec<String>>>> {
        lock(&self.watch).since_row = 0;
        if !self.reader.read_byte_record(&mut self.record).map_err(io::Error::from)? {
            return Ok(None);
        }
        let seen = lock(&self.watch).rows.pop_front().unwrap_or_default();
        let value = match seen.fault {
            Some(fault) => Err(fault.to_owned()),
            None => self.cells(),
        };
        Ok(Some(Located { line: seen.line, value }))
    }

    fn cells(&self) -> Result<Vec<String>, String> {
        if self.record.len() != self.columns.len() {
            return Err(format!(
                "has {} cells, expected {} ({})",
                self.record.len(),
                self.columns.len(),
                self.columns.join(",")
            ));
        }
        let text = |(index, cell): (usize, &[u8])| {
            std::str::from_utf8(cell).map(str::to_owned).map_err(|error| {
                let (name, byte) = (column_name(&self.columns, index), error.valid_up_to() + 1);
                format!("the cell {name:?} is not UTF-8 from its byte {byte} on, expected UTF-8 text")
            })
        };
        self.record.iter().enumerate().map(text).collect()
    }
}

/// Returns the name of a column; one without a name is named by its number.
pub(super) fn column_name(columns: &[String], index: usize) -> String {
    match columns[index].as_str() {
        "" => format!("(column {})", index + 1),
        name => name.to_owned(),
    }
}

/// Observations of the bytes on their way to the parser, which continues past faults and counts lines by `\n` only.
#[derive(Default)]
struct Watch {
    since_row: u64,
    /// Rows that have started and are not returned yet, including the header.
    rows: VecDeque<RowSeen>,
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct RowSeen {
    /// Line on which the row starts, from 1.
    line: u64,
    fault: Option<&'static str>,
}

/// Position of a byte in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// Before a row; blank lines are not rows.
    RowStart,
    Start,
    Plain,
    Quoted,
    QuoteInQuoted,
}

struct Watched {
    input: Input,
    watch: Arc<Mutex<Watch>>,
    cell: Cell,
    line: u64,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let mut watch = lock(&self.watch);
        let fault = |watch: &mut Watch, fault: &'static str| {
            if let Some(row) = watch.rows.back_mut() {
                row.fault.get_or_insert(fault);
            }
        };
        if read == 0 && self.cell == Cell::Quoted {
            fault(&mut watch, "a quoted cell is never closed");
        }
        for byte in &buffer[..read] {
            if self.cell == Cell::RowStart && !matches!(byte, b'\n' | b'\r') {
                watch.rows.push_back(RowSeen { line: self.line, fault: None });
                self.cell = Cell::Start;
            }
            self.line += u64::from(*byte == b'\n');
            self.cell = match (self.cell, byte) {
                (Cell::Start | Cell::QuoteInQuoted, b'"') => Cell::Quoted,
                (Cell::Quoted, b'"') => Cell::QuoteInQuoted,
                (Cell::Quoted, _) => Cell::Quoted,
                (_, b',') => Cell::Start,
                (_, b'\n' | b'\r') => Cell::RowStart,
                (Cell::QuoteInQuoted, _) => {
                    // This is how a cell ends whose own closing quote is missing and which has swallowed whole rows.
                    fault(&mut watch, "text after a closing quote; a quote inside a cell must be doubled");
                    Cell::Plain
                }
                _ => Cell::Plain,
            };
        }
        watch.since_row += read as u64;
        if watch.since_row > MAX_ROW_BYTES as u64 {
            return Err(too_long());
        }
        Ok(read)
    }
}
