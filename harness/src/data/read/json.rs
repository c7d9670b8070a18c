//! Framing of JSON rows: one object per line, or the elements of one array, each parsed separately.

use super::MAX_ROW_BYTES;
use super::file::Located;
use super::input::{self, Input, read_line, too_long};
use super::text::not_utf8;
use anyhow::Result;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::path::Path;
use std::{fmt, io};

/// JSON with one object per line.
pub(crate) struct JsonLines {
    input: Input,
    line: u64,
    buffer: Vec<u8>,
}

impl JsonLines {
    /// Opens a file, which may be compressed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(input::open(path)?.0))
    }

    pub(super) fn new(input: Input) -> Self {
        Self { input, line: 0, buffer: Vec::new() }
    }

    /// Returns the next value, skipping blank lines; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> io::Result<Option<Located<Value>>> {
        while read_line(&mut self.input, &mut self.buffer)? {
            self.line += 1;
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(Located { line: self.line, value: parse(&self.buffer) }));
            }
        }
        Ok(None)
    }
}

/// The elements of one JSON array, with one at a time in memory.
pub(super) struct JsonArray {
    input: Input,
    line: u64,
    state: State,
}

/// Position of the reader in the array.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the opening bracket.
    Before,
    /// After the opening bracket or a comma.
    Inside,
    /// After an element.
    AfterElement,
    /// After the closing bracket, or after an error that makes the ends of elements unknown.
    End,
}

impl JsonArray {
    pub(super) fn new(input: Input) -> Self {
        Self { input, line: 1, state: State::Before }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Located<Value>>> {
        loop {
            let Some(byte) = self.peek()? else {
                return Ok(self.ended());
            };
            if byte.is_ascii_whitespace() {
                self.take(byte);
                continue;
            }
            match (self.state, byte) {
                (State::End, _) => return Ok(self.fail("has text after the array's closing bracket")),
                (State::Before, b'[') | (State::AfterElement, b',') => {
                    self.take(byte);
                    self.state = State::Inside;
                }
                (State::Inside | State::AfterElement, b']') => {
                    self.take(byte);
                    self.state = State::End;
                }
                (State::Inside, _) => return self.element().map(Some),
                _ => return Ok(self.fail("expected a comma or the closing bracket of the array")),
            }
        }
    }

    /// Reads one element: up to its closing bracket, or if it has none, up to the comma or bracket after it.
    fn element(&mut self) -> io::Result<Located<Value>> {
        let line = self.line;
        let mut element = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
        while let Some(byte) = self.peek()? {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'[' | b'{' => depth += 1,
                b',' | b']' if depth == 0 => {
                    self.state = State::AfterElement;
                    return Ok(Located { line, value: parse(&element) });
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.take(byte);
            element.push(byte);
            if depth == 0 && !in_string && matches!(byte, b']' | b'}') {
                self.state = State::AfterElement;
                return Ok(Located { line, value: parse(&element) });
            }
            if element.len() > MAX_ROW_BYTES {
                return Err(too_long());
            }
        }
        self.state = State::End;
        Ok(Located { line, value: Err("the file ends within this row".into()) })
    }

    fn ended(&mut self) -> Option<Located<Value>> {
        if self.state == State::End {
            return None;
        }
        self.fail("the file ends before the array's closing bracket")
    }

    /// Returns a problem after which nothing more can be read.
    fn fail(&mut self, reason: &str) -> Option<Located<Value>> {
        let line = self.line;
        self.state = State::End;
        self.input = Box::new(io::empty());
        Some(Located { line, value: Err(reason.into()) })
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, byte: u8) {
        self.line += u64::from(byte == b'\n');
        self.input.consume(1);
    }
}

fn parse(bytes: &[u8]) -> Result<Value, String> {
    std::str::from_utf8(bytes).map_err(not_utf8)?;
    serde_json::from_slice(bytes).map(|Once(value)| value).map_err(|error| {
        // serde_json counts lines from the start of the row, while the reader knows the line in the file.
        let error = error.to_string();
        let what = error.split(" at line ").next().unwrap_or_default();
        format!("is not valid JSON ({what}), expected an object")
    })
}

/// A value whose objects have no duplicate keys; serde_json would silently keep the last of them.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor).map(Once)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let Once(value) = entries.next_value()?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}
