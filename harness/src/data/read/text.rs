//! Plain text: documents separated by blank lines.

use super::MAX_ROW_BYTES;
use super::file::Located;
use super::input::{Input, read_line, too_long};
use std::io;

/// Documents of a plain text file.
pub(super) struct Paragraphs {
    input: Input,
    line: u64,
    buffer: Vec<u8>,
}

impl Paragraphs {
    pub(super) fn new(input: Input) -> Self {
        Self { input, line: 0, buffer: Vec::new() }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Located<String>>> {
        let mut document: Vec<u8> = Vec::new();
        let mut start = None;
        while read_line(&mut self.input, &mut self.buffer)? {
            self.line += 1;
            if self.buffer.trim_ascii().is_empty() {
                if start.is_some() {
                    break;
                }
                continue;
            }
            if start.is_some() {
                document.push(b'\n');
            }
            start.get_or_insert(self.line);
            document.extend_from_slice(&self.buffer);
            if document.len() > MAX_ROW_BYTES {
                return Err(too_long());
            }
        }
        Ok(start.map(|line| Located { line, value: utf8(document) }))
    }
}

/// Converts bytes to text, or reports where they stop being UTF-8.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| not_utf8(error.utf8_error()))
}

/// Describes what is wrong with bytes that are not UTF-8.
pub(super) fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("is not UTF-8 from byte {} of the row on, expected UTF-8 text", error.valid_up_to() + 1)
}
