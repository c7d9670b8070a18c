//! The elements of a JSON array one by one, however long the array is.

use anyhow::{Result, anyhow};
use std::io::BufRead;

/// The text of each element with the line it starts on. Anything but an array is one error.
pub fn elements(
    reader: Box<dyn BufRead + Send>,
    longest: u64,
) -> impl Iterator<Item = (u64, Result<String>)> {
    let mut scanner = Scanner { reader, line: 1, longest, state: State::Before };
    std::iter::from_fn(move || scanner.next())
}

enum State {
    Before,
    Inside,
    Done,
}

struct Scanner {
    reader: Box<dyn BufRead + Send>,
    line: u64,
    longest: u64,
    state: State,
}

impl Scanner {
    fn byte(&mut self) -> Result<Option<u8>> {
        let found = self.reader.fill_buf().map_err(|e| anyhow!("cannot be read: {e}"))?.first().copied();
        if let Some(byte) = found {
            self.reader.consume(1);
            self.line += u64::from(byte == b'\n');
        }
        Ok(found)
    }

    fn next(&mut self) -> Option<(u64, Result<String>)> {
        if matches!(self.state, State::Done) {
            return None;
        }
        match self.element() {
            Ok(Some((line, bytes))) => {
                Some((line, String::from_utf8(bytes).map_err(|_| anyhow!("not UTF-8"))))
            }
            Ok(None) => {
                self.state = State::Done;
                None
            }
            Err(e) => {
                self.state = State::Done;
                Some((self.line, Err(e)))
            }
        }
    }

    fn element(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let (mut bytes, mut depth, mut quoted, mut escaped, mut line) =
            (vec![], 0u32, false, false, self.line);
        loop {
            let Some(byte) = self.byte()? else {
                return Err(anyhow!("the file ends in the middle of its array; is it complete?"));
            };
            if let State::Before = self.state {
                match byte {
                    b'[' => self.state = State::Inside,
                    b if b.is_ascii_whitespace() => {}
                    _ => return Err(anyhow!("expected a JSON array, which starts with [")),
                }
                continue;
            }
            if depth == 0 && !quoted {
                match byte {
                    b',' | b']' if !bytes.trim_ascii().is_empty() => {
                        if byte == b']' {
                            self.state = State::Done;
                        }
                        return Ok(Some((line, bytes)));
                    }
                    b']' => return Ok(None),
                    b',' => return Err(anyhow!("an element is missing before the comma")),
                    b if b.is_ascii_whitespace() && bytes.is_empty() => {
                        line = self.line;
                        continue;
                    }
                    _ => {}
                }
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            bytes.push(byte);
            if bytes.len() as u64 > self.longest {
                return Err(anyhow!("an element of more than {} MiB", self.longest >> 20));
            }
        }
    }
}
