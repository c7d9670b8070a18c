//! Safety check of pickles of `torch.save` before they are built: the objects that they describe must fit in bounded memory.
//!
//! A pickle is a program. A few bytes can describe an object that is nested so deeply that freeing it overflows the stack,
//! or copied so often that it exceeds any memory. The scan runs the program on the sizes of objects only.

use std::collections::HashMap;

/// Maximum number of objects that a pickle may build, including copies; a state dict has about fifty per tensor.
const MAX_NODES: u64 = 4_000_000;

/// Maximum nesting depth of objects.
const MAX_DEPTH: u32 = 64;

/// Number of bytes of text that count as one object.
const TEXT_NODE: u64 = 64;

/// Size of an object: the number of objects in it, itself included, and the nesting depth.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: u64,
    depth: u32,
}

const LEAF: Size = Size { nodes: 1, depth: 1 };

/// Checks whether a pickle can be built; the error states why not.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    Scan { rest: bytes, stack: Vec::new(), memo: HashMap::new(), built: 0 }.run()
}

/// The pickle machine, with sizes instead of objects; `None` on the stack is a mark.
struct Scan<'a> {
    rest: &'a [u8],
    stack: Vec<Option<Size>>,
    memo: HashMap<u32, Size>,
    built: u64,
}

impl Scan<'_> {
    /// Runs the pickle; opcodes as in CPython's `pickletools.py`.
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
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("its pickle is truncated")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// Reads a little-endian number of `length` bytes.
    fn number(&mut self, length: usize) -> Result<u32, String> {
        Ok(self.take(length)?.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    /// Skips a line and returns its length.
    fn line(&mut self) -> Result<usize, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is truncated")?;
        self.take(end + 1)?;
        Ok(end)
    }

    fn push(&mut self, size: Size) -> Result<(), String> {
        self.built = self.built.saturating_add(size.nodes);
        if size.depth > MAX_DEPTH {
            return Err(format!("nests objects deeper than {MAX_DEPTH}"));
        }
        if self.built > MAX_NODES {
            return Err(format!("describes more than {MAX_NODES} objects"));
        }
        self.stack.push(Some(size));
        Ok(())
    }

    fn leaf(&mut self, length: usize) -> Result<(), String> {
        self.take(length)?;
        self.push(LEAF)
    }

    fn pop(&mut self) -> Result<Size, String> {
        self.stack.pop().flatten().ok_or_else(|| "its pickle reads an object from an empty stack".to_string())
    }

    /// Replaces the last `count` objects by one that contains them.
    fn wrap(&mut self, count: usize) -> Result<(), String> {
        let parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        self.push(around(&parts))
    }

    /// Adds the last `count` objects to the container before them.
    fn add(&mut self, count: usize) -> Result<(), String> {
        let parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        self.grow(&parts)
    }

    fn grow(&mut self, parts: &[Size]) -> Result<(), String> {
        let container = self.pop()?;
        let more = around(parts);
        let depth = container.depth.max(more.depth);
        self.push(Size { nodes: container.nodes.saturating_add(more.nodes), depth })?;
        // Growing in place builds no new objects: the added ones were counted when they were created.
        self.built -= container.nodes.saturating_add(more.nodes);
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Size>, String> {
        let mark = self
            .stack
            .iter()
            .rposition(Option::is_none)
            .ok_or("its pickle ends a group that it did not begin")?;
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
        let size = *self.memo.get(&slot).ok_or("its pickle reads an object from an empty memo slot")?;
        self.push(size)
    }
}

/// Returns the size of an object that contains others.
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
        // First ((((...)))), then a tuple of two copies of a tuple of two copies of ...
        refused(&[b")".as_slice(), &[0x85; 100], b"."].concat(), "deeper than 64");
        let doubling: Vec<u8> = [b'q', 0, b'h', 0, 0x86].repeat(40);
        refused(&[b")".as_slice(), &doubling, b"."].concat(), "more than 4000000 objects");
        refused(b"X\xff\xff\xff\xffabc.", "truncated");
        refused(b"\x8a\x09123456789.", "integer of 9 bytes");
        refused(b"h\x00.", "empty memo slot");
        refused(b"t.", "ends a group");
        refused(b"R.", "empty stack");
        refused(b"", "truncated");
        refused(b"i.", "0x69");
    }

    #[test]
    fn a_dict_of_names_and_numbers_passes() {
        assert_eq!(check(b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bM\x00\x01u."), Ok(()));
    }
}
