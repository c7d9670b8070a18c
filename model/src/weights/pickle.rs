//! Pickles of `torch.save`, judged before they are built: what they describe must fit in bounded memory.
//!
//! A pickle is a program. A few bytes of it can describe an object nested so deep that freeing it overflows the stack,
//! or one copied so often that no memory holds it. The scan runs the program on sizes alone.

use std::collections::HashMap;

/// Most objects that a pickle may build, copies counted; a state dict has about fifty for each tensor.
const MOST_NODES: u64 = 4_000_000;

/// Deepest nesting of objects.
const DEEPEST: u32 = 64;

/// Bytes of text that count as one object.
const TEXT_NODE: u64 = 64;

/// How large an object is.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: u64,
    depth: u32,
}

const LEAF: Size = Size { nodes: 1, depth: 1 };

/// Whether a pickle can be built; else why not.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    Scan { rest: bytes, stack: Vec::new(), memo: HashMap::new(), built: 0 }.run()
}

/// The pickle machine with sizes in place of objects; `None` on the stack is a mark.
struct Scan<'a> {
    rest: &'a [u8],
    stack: Vec<Option<Size>>,
    memo: HashMap<u32, Size>,
    built: u64,
}

impl Scan<'_> {
    /// Opcodes as in CPython's `pickletools.py`.
    fn run(mut self) -> Result<(), String> {
        loop {
            match self.byte()? {
                b'.' => return Ok(()),
                0x80 => drop(self.byte()?),
                b'(' => self.stack.push(None),
                b')' | b']' | b'}' | b'N' | 0x88 | 0x89 => self.push(LEAF)?,
                b'K' => self.leaf(1)?,
                b'M' => self.leaf(2)?,
                b'J' => self.leaf(4)?,
                b'G' => self.leaf(8)?,
                0x8a => {
                    let length = usize::from(self.byte()?);
                    if length > 8 {
                        return Err(format!("holds an integer of {length} bytes, expected at most 8"));
                    }
                    self.leaf(length)?;
                }
                b'X' => {
                    let length = self.number(4)?;
                    self.take(length as usize)?;
                    self.push(Size { nodes: 1 + u64::from(length) / TEXT_NODE, depth: 1 })?;
                }
                b'c' => {
                    let length = self.line()? + self.line()?;
                    self.push(Size { nodes: 1 + length as u64 / TEXT_NODE, depth: 1 })?;
                }
                b't' | b'd' => {
                    let parts = self.pop_to_mark()?;
                    self.push(around(&parts))?;
                }
                0x85 | b'Q' => self.wrap(1)?,
                0x86 | b'R' | 0x81 | b'b' => self.wrap(2)?,
                0x87 => self.wrap(3)?,
                b'a' => self.add(1)?,
                b's' => self.add(2)?,
                b'e' | b'u' => {
                    let parts = self.pop_to_mark()?;
                    self.grow(&parts)?;
                }
                b'q' => {
                    let slot = self.number(1)?;
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.number(4)?;
                    self.remember(slot)?;
                }
                b'h' => {
                    let slot = self.number(1)?;
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.number(4)?;
                    self.recall(slot)?;
                }
                other => {
                    return Err(format!(
                        "uses the pickle operation 0x{other:02x}, which no state dict needs"
                    ));
                }
            }
        }
    }

    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("is cut off in its pickle")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, length: usize) -> Result<u32, String> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    /// Skips a line and returns its length.
    fn line(&mut self) -> Result<usize, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("is cut off in its pickle")?;
        self.take(end + 1)?;
        Ok(end)
    }

    fn push(&mut self, size: Size) -> Result<(), String> {
        self.built = self.built.saturating_add(size.nodes);
        if size.depth > DEEPEST {
            return Err(format!("nests objects deeper than {DEEPEST}"));
        }
        if self.built > MOST_NODES {
            return Err(format!("describes more than {MOST_NODES} objects"));
        }
        self.stack.push(Some(size));
        Ok(())
    }

    fn leaf(&mut self, length: usize) -> Result<(), String> {
        self.take(length)?;
        self.push(LEAF)
    }

    fn pop(&mut self) -> Result<Size, String> {
        self.stack.pop().flatten().ok_or_else(|| "takes an object where none is".to_string())
    }

    /// Puts an object around the last so many.
    fn wrap(&mut self, count: usize) -> Result<(), String> {
        let parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        self.push(around(&parts))
    }

    /// Adds the last so many objects to the one before them.
    fn add(&mut self, count: usize) -> Result<(), String> {
        let parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        self.grow(&parts)
    }

    fn grow(&mut self, parts: &[Size]) -> Result<(), String> {
        let container = self.pop()?;
        let more = around(parts);
        let depth = container.depth.max(more.depth);
        self.push(Size { nodes: container.nodes.saturating_add(more.nodes), depth })?;
        // Growing in place builds nothing but what was added, and that was counted when it was made.
        self.built -= container.nodes.saturating_add(more.nodes);
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Size>, String> {
        let mark = self.stack.iter().rposition(Option::is_none).ok_or("closes what it did not open")?;
        let parts = self.stack.split_off(mark);
        Ok(parts.into_iter().flatten().collect())
    }

    fn remember(&mut self, slot: u32) -> Result<(), String> {
        let size = self.pop()?;
        self.push(size)?;
        self.memo.insert(slot, size);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), String> {
        let size = *self.memo.get(&slot).ok_or("takes an object from an empty place")?;
        self.push(size)
    }
}

/// The size of an object that holds others.
fn around(parts: &[Size]) -> Size {
    Size {
        nodes: parts.iter().fold(1, |sum, part| sum.saturating_add(part.nodes)),
        depth: 1 + parts.iter().map(|part| part.depth).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_are_refused() {
        let refused = |bytes: &[u8], reason: &str| {
            let found = check(bytes);
            assert!(found.as_ref().is_err_and(|found| found.contains(reason)), "{found:?}");
        };
        // ((((...)))) and a tuple of two copies of a tuple of two copies of ...
        refused(&[b")".as_slice(), &[0x85; 100], b"."].concat(), "deeper than 64");
        let doubling: Vec<u8> = [b'q', 0, b'h', 0, 0x86].repeat(40);
        refused(&[b")".as_slice(), &doubling, b"."].concat(), "more than 4000000 objects");
        refused(b"X\xff\xff\xff\xffabc.", "cut off");
        refused(b"\x8a\x09123456789.", "integer of 9 bytes");
        refused(b"h\x00.", "empty place");
        refused(b"t.", "closes");
        refused(b"R.", "none is");
        refused(b"", "cut off");
        refused(b"i.", "0x69");
    }

    #[test]
    fn a_dict_of_names_and_numbers_passes() {
        assert_eq!(check(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bM\x00\x01u."), Ok(()));
    }
}
