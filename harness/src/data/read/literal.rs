//! The `history` cell of MiniMind's SFT rows: JSON or a Python list literal, parsed and never executed.

use anyhow::{Result, bail};

/// Earlier turns, each `[question, answer]`; nothing for an empty cell.
///
/// A pair of plain strings where a list is expected is taken per character, as iterating over a Python string does.
pub fn history(cell: &str) -> Result<Vec<Vec<String>>> {
    let cell = cell.trim();
    if cell.is_empty() || ["nan", "None", "null"].contains(&cell) {
        return Ok(vec![]);
    }
    let mut parser = Parser { chars: cell.chars().collect(), at: 0 };
    let value = parser.value(0)?;
    parser.blank();
    if parser.at < parser.chars.len() {
        bail!("history: unexpected {:?} behind the list", parser.chars[parser.at]);
    }
    let Literal::List(turns) = value else { bail!("history: expected a list of [question, answer]") };
    let text = |literal: Literal| match literal {
        Literal::Text(text) | Literal::Bare(text) => Ok(text),
        Literal::List(_) => bail!("history: expected text inside a turn"),
    };
    let turn = |turn: Literal| match turn {
        Literal::List(parts) => parts.into_iter().map(text).collect(),
        Literal::Text(word) => Ok(word.chars().map(String::from).collect()),
        Literal::Bare(word) => bail!("history: expected a turn, found {word}"),
    };
    let turns: Vec<Vec<String>> = turns.into_iter().map(turn).collect::<Result<_>>()?;
    // v1 passes over a turn without an answer and takes the first two of a longer one.
    Ok(turns.into_iter().filter(|t| t.len() >= 2).map(|t| t.into_iter().take(2).collect()).collect())
}

enum Literal {
    List(Vec<Literal>),
    Text(String),
    /// A number, `None`, `null` or a truth value.
    Bare(String),
}

struct Parser {
    chars: Vec<char>,
    at: usize,
}

impl Parser {
    const DEEPEST: usize = 8;

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn blank(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Literal> {
        self.blank();
        match self.peek() {
            Some('[') => self.list(depth, ']'),
            Some('(') => self.list(depth, ')'),
            Some(quote @ ('"' | '\'')) => self.text(quote).map(Literal::Text),
            Some(c) if c.is_alphanumeric() || c == '-' => {
                let start = self.at;
                while self.peek().is_some_and(|c| c.is_alphanumeric() || "-+.".contains(c)) {
                    self.at += 1;
                }
                Ok(Literal::Bare(self.chars[start..self.at].iter().collect()))
            }
            Some(c) => bail!("history: unexpected {c:?} at character {}", self.at + 1),
            None => bail!("history: ends in the middle of the list"),
        }
    }

    fn list(&mut self, depth: usize, close: char) -> Result<Literal> {
        if depth >= Self::DEEPEST {
            bail!("history: lists nested deeper than {}", Self::DEEPEST);
        }
        self.at += 1;
        let mut items = vec![];
        loop {
            self.blank();
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok(Literal::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.blank();
            match self.peek() {
                Some(',') => self.at += 1,
                Some(c) if c == close => {}
                Some(c) => bail!("history: unexpected {c:?} at character {}", self.at + 1),
                None => bail!("history: ends in the middle of the list"),
            }
        }
    }

    fn text(&mut self, quote: char) -> Result<String> {
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            self.at += 1;
            match c {
                c if c == quote => return Ok(text),
                '\\' => match self.peek() {
                    Some(escape) => {
                        self.at += 1;
                        self.escape(escape, &mut text)?;
                    }
                    None => break,
                },
                c => text.push(c),
            }
        }
        bail!("history: a text without its closing {quote}")
    }

    fn escape(&mut self, escape: char, text: &mut String) -> Result<()> {
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '\n' => return Ok(()),
            c => {
                match c {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    '\\' | '\'' | '"' | '/' => text.push(c),
                    c => text.extend(['\\', c]),
                }
                return Ok(());
            }
        };
        let mut code = self.hex(digits)?;
        // JSON writes characters beyond the basic plane as two surrogates.
        if digits == 4 && (0xd800..0xdc00).contains(&code) && self.chars[self.at..].starts_with(&['\\', 'u'])
        {
            self.at += 2;
            code = 0x10000 + ((code - 0xd800) << 10) + self.hex(4)?.wrapping_sub(0xdc00) % 0x400;
        }
        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(())
    }

    fn hex(&mut self, digits: usize) -> Result<u32> {
        let end = (self.at + digits).min(self.chars.len());
        let text: String = self.chars[self.at..end].iter().collect();
        self.at = end;
        match u32::from_str_radix(&text, 16) {
            Ok(code) if text.len() == digits => Ok(code),
            _ => bail!("history: a broken escape \\{text}"),
        }
    }
}
