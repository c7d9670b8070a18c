//! The `history` cell of MiniMind's CSV: a list of `[question, answer]` pairs as JSON or as a Python literal.
//!
//! MiniMind passes the cell to Python's `eval`; here it is parsed and never executed.

use crate::data::row::Message;
use serde_json::Value;
use std::iter::Peekable;
use std::str::Chars;

/// Maximum nesting depth of brackets.
const MAX_DEPTH: usize = 16;

/// A value of a literal; numbers and Python's `True` and `False` are kept as text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Literal {
    Nothing,
    Text(String),
    List(Vec<Literal>),
    Other(&'static str),
}

/// What is accepted as an entry of a `history`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Only pairs of texts or numbers.
    Exact,
    /// As in MiniMind: entries of fewer than two elements are left out, longer ones count with their first two, and `None`
    /// becomes the text "None".
    Minimind,
}

/// Returns the turns of a `history` cell; none if it is empty or missing (`nan`, `None`).
///
/// # Errors
/// If the cell is not a list of pairs; says where.
pub fn history(cell: &str, pairs: Pairs) -> Result<Vec<Message>, String> {
    if matches!(cell.trim(), "" | "nan" | "NaN" | "None" | "null") {
        return Ok(Vec::new());
    }
    let literal = match serde_json::from_str::<Value>(cell) {
        Ok(value) => from_json(&value),
        Err(_) => python(cell).map_err(|reason| format!("history: {reason}; {EXPECTED}"))?,
    };
    turns(literal, pairs)
}

/// Returns the turns of a `history` in JSON, which is a list or a text that contains one.
pub(super) fn history_of(value: &Value, pairs: Pairs) -> Result<Vec<Message>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(cell) => history(cell, pairs),
        list => turns(from_json(list), pairs),
    }
}

const EXPECTED: &str = "expected a list of [question, answer] pairs, as JSON or as a Python list";

fn turns(literal: Literal, pairs: Pairs) -> Result<Vec<Message>, String> {
    let Literal::List(entries) = literal else {
        return Err(format!("history is not a list, {EXPECTED}"));
    };
    let mut messages = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let Literal::List(turns) = entry else {
            return Err(format!("history[{index}] is not a pair, {EXPECTED}"));
        };
        let length = turns.len();
        if pairs == Pairs::Exact && length != 2 {
            return Err(format!("history[{index}] has {length} elements, {EXPECTED}"));
        }
        let mut turns = turns.into_iter();
        let (Some(question), Some(answer)) = (turns.next(), turns.next()) else {
            continue;
        };
        for (role, turn) in [("user", question), ("assistant", answer)] {
            let text = match turn {
                Literal::Text(text) => text,
                Literal::Nothing if pairs == Pairs::Minimind => "None".into(),
                Literal::Nothing => {
                    return Err(format!("history[{index}] holds a None, {EXPECTED} of texts"));
                }
                Literal::List(_) => return Err(format!("history[{index}] is a pair of lists, {EXPECTED}")),
                Literal::Other(what) => return Err(format!("history[{index}] holds {what}, {EXPECTED}")),
            };
            messages.push(Message::new(role, text));
        }
    }
    Ok(messages)
}

fn from_json(value: &Value) -> Literal {
    match value {
        Value::Null => Literal::Nothing,
        Value::Array(items) => Literal::List(items.iter().map(from_json).collect()),
        Value::String(text) => Literal::Text(text.clone()),
        Value::Number(number) => Literal::Text(number.to_string()),
        Value::Bool(_) => Literal::Other("a boolean"),
        Value::Object(_) => Literal::Other("an object"),
    }
}

fn python(cell: &str) -> Result<Literal, String> {
    let mut parser = Parser { chars: cell.chars().peekable() };
    let literal = parser.value(0)?;
    parser.blanks();
    match parser.chars.next() {
        None => Ok(literal),
        Some(rest) => Err(format!("'{rest}' after the list")),
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn blanks(&mut self) {
        while self.chars.next_if(|c| c.is_whitespace()).is_some() {}
    }

    fn value(&mut self, depth: usize) -> Result<Literal, String> {
        self.blanks();
        match self.chars.next() {
            None => Err("ends too early".into()),
            Some(_) if depth > MAX_DEPTH => Err("is nested too deeply".into()),
            Some('[') => self.list(']', depth),
            Some('(') => self.list(')', depth),
            Some(quote @ ('\'' | '"')) => Ok(Literal::Text(self.quoted(quote)?)),
            Some(first) => self.word(first),
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Literal, String> {
        let mut items = Vec::new();
        loop {
            self.blanks();
            if self.chars.next_if_eq(&close).is_some() {
                return Ok(Literal::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.blanks();
            match self.chars.next() {
                Some(',') => {}
                Some(found) if found == close => return Ok(Literal::List(items)),
                Some(found) => return Err(format!("'{found}' instead of ',' or '{close}'")),
                None => return Err(format!("ends without ',' or '{close}'")),
            }
        }
    }

    /// Parses a number, `None`, `True` or `False`.
    fn word(&mut self, first: char) -> Result<Literal, String> {
        let mut text = String::from(first);
        while let Some(next) =
            self.chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_'))
        {
            text.push(next);
        }
        let number =
            text.parse::<f64>().is_ok() && text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        if text == "None" {
            Ok(Literal::Nothing)
        } else if number || matches!(text.as_str(), "True" | "False") {
            Ok(Literal::Text(text))
        } else {
            Err(format!("`{text}` is not a literal"))
        }
    }

    /// Parses a string up to its closing quote, with Python's escapes.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.chars.next() {
                None => return Err("a string is never closed".into()),
                Some(next) if next == quote => return Ok(text),
                Some('\\') => self.escape(&mut text)?,
                Some(next) => text.push(next),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), String> {
        let Some(kind) = self.chars.next() else {
            return Err("a string is never closed".into());
        };
        let simple = match kind {
            '\n' => return Ok(()),
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            '\\' | '\'' | '"' => kind,
            'x' => self.code(2, 16)?,
            'u' => self.code(4, 16)?,
            'U' => self.code(8, 16)?,
            '0'..='7' => {
                let mut value = kind.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.chars.next_if(|c| c.is_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit.to_digit(8).unwrap_or(0);
                }
                char::from_u32(value).unwrap_or('\u{fffd}')
            }
            // Python keeps the backslash of an unknown escape.
            other => {
                text.push('\\');
                other
            }
        };
        text.push(simple);
        Ok(())
    }

    fn code(&mut self, digits: usize, radix: u32) -> Result<char, String> {
        let read = |parser: &mut Self| -> Option<u32> {
            let mut value = 0u32;
            for _ in 0..digits {
                value = value.checked_mul(radix)?.checked_add(parser.chars.next()?.to_digit(radix)?)?;
            }
            Some(value)
        };
        let mut value = read(self);
        // A surrogate pair is one character, as in JSON.
        if let Some(high @ 0xd800..=0xdbff) = value
            && self.chars.next_if_eq(&'\\').is_some()
            && self.chars.next_if_eq(&'u').is_some()
        {
            let pair = |low: u32| {
                (0xdc00..=0xdfff).contains(&low).then(|| 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
            };
            value = read(self).and_then(pair);
        }
        value.and_then(char::from_u32).ok_or_else(|| "an escape that is not a character".to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(cell: &str, pairs: Pairs) -> Vec<String> {
        history(cell, pairs).unwrap().into_iter().map(|message| message.content).collect()
    }

    fn turns(cell: &str) -> Vec<String> {
        texts(cell, Pairs::Exact)
    }

    #[test]
    fn json_and_python_lists_are_the_same_history() {
        for cell in [
            r#"[["问", "答"], ["q2", "a2"]]"#,
            "[['问', '答'], ['q2', 'a2']]",
            "[('问','答',),(\"q2\",'a2')]",
            " [ [ '\\u95ee' , \"答\" ] , ['q\\x32', 'a\\62'] , ] ",
        ] {
            assert_eq!(turns(cell), ["问", "答", "q2", "a2"], "{cell}");
        }
    }

    #[test]
    fn missing_histories_have_no_turns() {
        for cell in ["", "  ", "[]", "nan", "None", "()"] {
            assert_eq!(turns(cell), [""; 0], "{cell}");
        }
    }

    #[test]
    fn numbers_become_their_text() {
        assert_eq!(turns("[[1, 2.5], (3, True)]"), ["1", "2.5", "3", "True"]);
        assert_eq!(turns("[[-1e3, 0]]"), ["-1000.0", "0"]);
    }

    #[test]
    fn entries_that_are_no_pairs_are_refused_and_read_as_minimind_does_where_that_is_wanted() {
        // MINIMIND_V1, quirk 23, and the rows of its data set.
        for (cell, minimind) in [
            ("[['only one']]", &[][..]),
            ("[[]]", &[]),
            ("[['a','b','c']]", &["a", "b"]),
            ("[[1, 2.5], [None, True]]", &["1", "2.5", "None", "True"]),
            (r#"[["a", null]]"#, &["a", "None"]),
        ] {
            assert_eq!(texts(cell, Pairs::Minimind), minimind, "{cell}");
            let refused = history(cell, Pairs::Exact).unwrap_err();
            assert!(refused.starts_with("history") && refused.contains("expected a list"), "{refused}");
        }
    }

    #[test]
    fn escapes_are_pythons() {
        assert_eq!(
            turns(r"[['a\nb\t\'\\', 'keep \d, \ud83d\ude00 \U0001F600']]"),
            ["a\nb\t'\\", "keep \\d, 😀 😀"]
        );
    }

    #[test]
    fn what_is_no_history_is_refused_and_never_executed() {
        for cell in [
            "not a python literal [",
            "[['a','b']",
            "['ab','cd']",
            "__import__('os').system('true')",
            "[[['a'],'b']]",
            "[['a' 'b']]",
            "[['a','\\ud800']]",
            "12",
            "{'a': 1}",
            "[['a','b']] + []",
            &"[".repeat(100_000),
        ] {
            assert!(history(cell, Pairs::Minimind).unwrap_err().contains("expected a list"), "{cell}");
        }
    }
}
