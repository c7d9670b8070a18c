//! User input: edited lines at a terminal, plain lines from a pipe; several lines can form one text.

use crate::cli::note;
use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::{
    Cmd, ConditionalEventHandler, DefaultEditor, Event, EventContext, EventHandler, KeyEvent, Movement,
    RepeatCount,
};
use std::io::{BufRead, ErrorKind, IsTerminal};

/// Delimits a text of several lines.
const BLOCK: &str = "\"\"\"";

/// One input of the user.
#[derive(Debug, PartialEq, Eq)]
pub enum ChatInput {
    /// A non-empty text, trimmed.
    Text(String),
    /// An empty line, or one that was aborted with Ctrl-C.
    Nothing,
    /// End of the input.
    End,
}

/// One line of input.
enum Line {
    Text(String),
    GivenUp,
    End,
}

/// Ctrl-C clears a non-empty line and aborts an empty one.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext) -> Option<Cmd> {
        Some(match context.line().is_empty() {
            true => Cmd::Interrupt,
            false => Cmd::Kill(Movement::WholeBuffer),
        })
    }
}

/// Source of the lines.
pub struct Input {
    /// `None` if standard input or output is not a terminal.
    editor: Option<DefaultEditor>,
}

impl Input {
    /// Opens standard input.
    ///
    /// # Errors
    /// If the terminal cannot be used.
    pub fn new() -> Result<Self> {
        if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
            return Ok(Self { editor: None });
        }
        let mut editor = DefaultEditor::new()?;
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(CtrlC)));
        Ok(Self { editor: Some(editor) })
    }

    /// Returns whether the user is at a terminal.
    pub fn is_terminal(&self) -> bool {
        self.editor.is_some()
    }

    /// Reads the next text.
    ///
    /// # Errors
    /// If standard input cannot be read.
    pub fn next(&mut self) -> Result<ChatInput> {
        let said = text(|prompt| self.line(prompt))?;
        if let (Some(editor), ChatInput::Text(text)) = (&mut self.editor, &said) {
            editor.add_history_entry(text)?;
        }
        Ok(said)
    }

    /// Reads a line; one that is not UTF-8 is left out, with a note.
    fn line(&mut self, prompt: &str) -> Result<Line> {
        loop {
            let line = match &mut self.editor {
                Some(editor) => edited(editor.readline(prompt))?,
                None => plain(&mut std::io::stdin().lock())?,
            };
            match line {
                Some(line) => return Ok(line),
                None => note("a line that is not UTF-8 text is left out"),
            }
        }
    }
}

/// Turns the result of the editor into a line; `None` if it is not UTF-8.
fn edited(line: Result<String, ReadlineError>) -> Result<Option<Line>> {
    match line {
        Ok(line) => Ok(Some(Line::Text(line))),
        Err(ReadlineError::Interrupted) => Ok(Some(Line::GivenUp)),
        Err(ReadlineError::Eof) => Ok(Some(Line::End)),
        Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a line from a pipe; `None` if it is not UTF-8.
fn plain(input: &mut impl BufRead) -> Result<Option<Line>> {
    let mut line = vec![];
    if input.read_until(b'\n', &mut line)? == 0 {
        return Ok(Some(Line::End));
    }
    let text = String::from_utf8(line).ok();
    Ok(text.map(|text| Line::Text(text.trim_end_matches(['\n', '\r']).to_owned())))
}

/// Joins lines into a text; `line` is given the prompt to show before it.
fn text(mut line: impl FnMut(&str) -> Result<Line>) -> Result<ChatInput> {
    let mut lines: Vec<String> = vec![];
    let mut is_block = false;
    loop {
        let more = match line(if lines.is_empty() && !is_block { "> " } else { ". " })? {
            Line::Text(more) => more,
            Line::GivenUp if lines.is_empty() && !is_block => return Ok(ChatInput::End),
            Line::GivenUp => return Ok(ChatInput::Nothing),
            Line::End if lines.is_empty() => return Ok(ChatInput::End),
            Line::End => break,
        };
        let mut rest = more.as_str();
        if !is_block
            && lines.is_empty()
            && let Some(begun) = rest.trim_start().strip_prefix(BLOCK)
        {
            (is_block, rest) = (true, begun);
        }
        if is_block {
            match rest.trim_end().strip_suffix(BLOCK) {
                Some(last) => {
                    lines.push(last.to_owned());
                    break;
                }
                None => lines.push(rest.to_owned()),
            }
            continue;
        }
        match rest.strip_suffix('\\') {
            Some(begun) => lines.push(begun.to_owned()),
            None => {
                lines.push(rest.to_owned());
                break;
            }
        }
    }
    let text = lines.join("\n").trim().to_owned();
    Ok(if text.is_empty() { ChatInput::Nothing } else { ChatInput::Text(text) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn inputs(lines: &[&str]) -> (ChatInput, usize) {
        let mut left = lines.iter();
        let mut taken = 0;
        let said = text(|_| {
            taken += 1;
            Ok(left.next().map_or(Line::End, |line| match *line {
                "^C" => Line::GivenUp,
                line => Line::Text(line.to_owned()),
            }))
        });
        (said.unwrap(), taken)
    }

    #[test]
    fn lines_make_a_text() {
        let text = |text: &str| ChatInput::Text(text.to_owned());
        assert_eq!(inputs(&[" 你好 ", "b"]), (text("你好"), 1));
        assert_eq!(inputs(&["a\\", "b \\", "c", "d"]), (text("a\nb \nc"), 3));
        assert_eq!(inputs(&["\"\"\"a", "", "  b\\", "c\"\"\" ", "d"]), (text("a\n\n  b\\\nc"), 4));
        assert_eq!(inputs(&["\"\"\"a\"\"\""]), (text("a"), 1));
        assert_eq!(inputs(&["\"\"\"", "\"\"\""]), (ChatInput::Nothing, 2));
        assert_eq!(inputs(&["  "]), (ChatInput::Nothing, 1));
        // A text that the end of the input cuts off counts as far as it goes.
        assert_eq!(inputs(&["a\\"]), (text("a"), 2));
        assert_eq!(inputs(&[]), (ChatInput::End, 1));
    }

    #[test]
    fn a_line_that_is_not_utf_8_leaves_the_next_one_as_it_is() {
        let mut input = &b"a\r\n\xff\n\xe4\xbd\xa0"[..];
        let lines = std::iter::from_fn(|| match plain(&mut input).unwrap() {
            Some(Line::Text(text)) => Some(Some(text)),
            Some(_) => None,
            None => Some(None),
        });
        assert_eq!(lines.collect::<Vec<_>>(), [Some("a".to_owned()), None, Some("你".to_owned())]);
    }

    #[test]
    fn giving_up_ends_a_begun_text_or_all() {
        assert_eq!(inputs(&["^C"]), (ChatInput::End, 1));
        assert_eq!(inputs(&["a\\", "^C", "b"]), (ChatInput::Nothing, 2));
        assert_eq!(inputs(&["\"\"\"", "^C"]), (ChatInput::Nothing, 2));
    }
}
