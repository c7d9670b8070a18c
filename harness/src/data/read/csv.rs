//! Rows of a CSV file with a header.

use super::MAX_ROW_BYTES;
use super::file::Located;
use super::input::{Input, too_long};
use super::text::not_utf8;
use anyhow::{Context, Result};
use csv::ByteRecord;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The rows of a CSV file, as texts in the order of its columns.
pub(super) struct CsvRows {
    reader: csv::Reader<Watched>,
    watch: Arc<Watch>,
    columns: Vec<String>,
    record: ByteRecord,
}

impl CsvRows {
    pub(super) fn new(input: Input, path: &Path) -> Result<Self> {
        let watch = Arc::new(Watch::default());
        let watched = Watched { input, watch: Arc::clone(&watch), cell: Cell::Start };
        // Rows of the wrong width are reported one by one instead of ending the file.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(watched);
        let header = reader
            .byte_headers()
            .with_context(|| format!("{}: the header cannot be read", path.display()))?;
        let columns = header.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
        Ok(Self { reader, watch, columns, record: ByteRecord::new() })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Located<Vec<String>>>> {
        self.watch.since_row.store(0, Ordering::Relaxed);
        if !self.reader.read_byte_record(&mut self.record).map_err(io::Error::from)? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        Ok(Some(Located { line, value: self.cells() }))
    }

    fn cells(&self) -> Result<Vec<String>, String> {
        // The end of the file is seen while its last row is read, so an open quote is that row's.
        if self.watch.ended_in_quotes.load(Ordering::Relaxed) {
            return Err("a quoted cell is never closed".into());
        }
        if self.record.len() != self.columns.len() {
            return Err(format!(
                "has {} cells, expected {} ({})",
                self.record.len(),
                self.columns.len(),
                self.columns.join(",")
            ));
        }
        let text = |cell: &[u8]| std::str::from_utf8(cell).map(str::to_owned).map_err(not_utf8);
        self.record.iter().map(text).collect()
    }
}

/// What is seen of the bytes on their way to the parser.
#[derive(Default)]
struct Watch {
    since_row: AtomicU64,
    ended_in_quotes: AtomicBool,
}

/// Where in a cell a byte is: the CSV parser takes an open quote at the end of a file for a closed one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Start,
    Plain,
    Quoted,
    QuoteInQuoted,
}

struct Watched {
    input: Input,
    watch: Arc<Watch>,
    cell: Cell,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        if read == 0 {
            self.watch.ended_in_quotes.store(self.cell == Cell::Quoted, Ordering::Relaxed);
        }
        for byte in &buffer[..read] {
            self.cell = match (self.cell, byte) {
                (Cell::Start | Cell::QuoteInQuoted, b'"') => Cell::Quoted,
                (Cell::Quoted, b'"') => Cell::QuoteInQuoted,
                (Cell::Quoted, _) => Cell::Quoted,
                (_, b',' | b'\n' | b'\r') => Cell::Start,
                _ => Cell::Plain,
            };
        }
        let since = self.watch.since_row.fetch_add(read as u64, Ordering::Relaxed);
        if since > MAX_ROW_BYTES as u64 {
            return Err(too_long());
        }
        Ok(read)
    }
}
