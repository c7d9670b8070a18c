//! Incremental decoding of ids: no incomplete characters, and nothing of a stop string.

use super::Tokenizer;
use anyhow::Result;
use model::Token;
use std::collections::VecDeque;

/// What a byte sequence that is not a valid character decodes to.
const BROKEN: char = '\u{fffd}';

/// Most bytes of a character that may still be incomplete; a token holds at least one byte.
const MAX_INCOMPLETE_BYTES: usize = 3;

/// Decodes ids piece by piece; a character that spans several tokens is emitted once it is complete.
///
/// The concatenated pieces equal the decoding of all ids: each piece is cut from a decoding that begins one piece
/// earlier, as some decoders treat the first token of a text differently.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids of the last emitted piece and all ids after it.
    ids: Vec<u32>,
    /// How many of `ids` belong to the last emitted piece.
    emitted: usize,
}

impl<'a> TextStream<'a> {
    /// Creates an empty stream; special tokens are left out of its text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: vec![], emitted: 0 }
    }

    /// Returns the text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let mut end = self.ids.len();
        let mut rest = self.rest(end)?;
        if rest.ends_with(BROKEN) {
            // Only the last tokens can hold an incomplete character; invalid bytes before them stay invalid.
            end = end.saturating_sub(MAX_INCOMPLETE_BYTES);
            rest = if end > self.emitted { self.rest(end)? } else { String::new() };
        }
        if !rest.is_empty() {
            self.ids.drain(..self.emitted);
            self.emitted = end - self.emitted;
        }
        Ok(rest)
    }

    /// Returns the text that is left at the end, including an incomplete character.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn finish(&self) -> Result<String> {
        self.rest(self.ids.len())
    }

    /// Returns the text of the first `end` ids without the last emitted piece.
    fn rest(&self, end: usize) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.emitted], true)?;
        let all = self.tokenizer.decode(&self.ids[..end], true)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// A piece of an answer.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// Complete characters, none of them part of a stop string.
    pub text: String,
    /// Tokens whose text begins in this piece.
    pub tokens: Vec<Token>,
    /// Whether a stop string has occurred.
    pub is_stopped: bool,
}

/// Decodes the tokens of an answer that ends where a stop string begins. Text that may be the beginning of a stop string
/// is held back until this is decided.
pub struct AnswerStream<'a> {
    stream: TextStream<'a>,
    stops: Vec<String>,
    /// Text that is held back.
    held: String,
    /// Bytes of text so far, including `held`.
    len: usize,
    /// Tokens that are not emitted yet, each with the number of bytes of text before it.
    tokens: VecDeque<(usize, Token)>,
}

impl<'a> AnswerStream<'a> {
    /// Creates an empty answer that any of `stops` ends; empty strings are ignored.
    pub fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        let stream = TextStream::new(tokenizer);
        Self { stream, stops, held: String::new(), len: 0, tokens: VecDeque::new() }
    }

    /// Returns the piece that `token` makes certain, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn push(&mut self, token: Token) -> Result<Piece> {
        let id = token.id;
        self.tokens.push_back((self.len, token));
        let more = self.stream.push(id)?;
        Ok(self.emit(&more, false))
    }

    /// Returns the piece that is left at the end.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn finish(&mut self) -> Result<Piece> {
        let more = self.stream.finish()?;
        Ok(self.emit(&more, true))
    }

    fn emit(&mut self, more: &str, is_end: bool) -> Piece {
        self.held += more;
        self.len += more.len();
        let stop = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        let certain = stop.unwrap_or_else(|| match is_end {
            true => self.held.len(),
            false => {
                self.held.len()
                    - self.stops.iter().map(|stop| partial_match(&self.held, stop)).max().unwrap_or(0)
            }
        });
        let emitted = self.len - self.held.len() + certain;
        let is_emitted = |begin: usize| begin < emitted || is_end && stop.is_none();
        let count = self.tokens.iter().take_while(|(begin, _)| is_emitted(*begin)).count();
        let tokens = self.tokens.drain(..count).map(|(_, token)| token).collect();
        let rest = self.held.split_off(certain);
        Piece { text: std::mem::replace(&mut self.held, rest), tokens, is_stopped: stop.is_some() }
    }
}

/// Returns the number of bytes at the end of `text` that are a proper prefix of `stop`.
fn partial_match(text: &str, stop: &str) -> usize {
    let begins = stop.char_indices().map(|(at, _)| at).rev();
    begins.filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Returns a tokenizer whose vocabulary is so small that every character is spelled in bytes.
    fn bytes() -> Tokenizer {
        Tokenizer::train(std::iter::once("ab".to_owned()), 259).unwrap()
    }

    #[test]
    fn characters_come_whole_and_nothing_is_lost() {
        let tokenizer = bytes();
        let text = "a龘 é😀b";
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids.len(), text.len());
        let mut stream = TextStream::new(&tokenizer);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).filter(|p| !p.is_empty()).collect();
        assert_eq!(pieces, ["a", "龘", " ", "é", "😀", "b"]);
        assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn half_a_character_at_the_end_is_told() {
        let tokenizer = bytes();
        let ids = tokenizer.encode("a龘").unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let pieces: String = ids[..3].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces + &stream.finish().unwrap(), "a\u{fffd}");
    }

    #[test]
    fn broken_bytes_hold_nothing_up() {
        let tokenizer = bytes();
        // The first byte of a character repeated, followed by a complete character.
        let first = tokenizer.encode("龘").unwrap()[0];
        let mut ids = vec![first; 40];
        ids.extend(tokenizer.encode("龘b").unwrap());
        let mut stream = TextStream::new(&tokenizer);
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
            assert!(stream.ids.len() <= 2 * MAX_INCOMPLETE_BYTES + 2, "{} ids are kept", stream.ids.len());
        }
        assert_eq!(text, tokenizer.decode(&ids, true).unwrap());
        assert_eq!(text, format!("{}龘b", "\u{fffd}".repeat(40)));
    }

    /// Returns the pieces of an answer, each with the text of its tokens, and whether a stop string ended it.
    fn answer(tokenizer: &Tokenizer, text: &str, stops: &[&str]) -> (Vec<(String, String)>, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stream = AnswerStream::new(tokenizer, &stops);
        let mut pieces = vec![];
        let mut keep = |piece: Piece| {
            let ids: Vec<u32> = piece.tokens.iter().map(|token| token.id).collect();
            if !(piece.text.is_empty() && ids.is_empty()) {
                pieces.push((piece.text, tokenizer.decode(&ids, true).unwrap()));
            }
            piece.is_stopped
        };
        for id in tokenizer.encode(text).unwrap() {
            if keep(stream.push(Token { id, log_probs: None }).unwrap()) {
                return (pieces, true);
            }
        }
        let is_stopped = keep(stream.finish().unwrap());
        (pieces, is_stopped)
    }

    #[test]
    fn an_answer_ends_where_a_stop_string_begins() {
        let tokenizer = bytes();
        let same = |texts: &[&str]| texts.iter().map(|t| (t.to_string(), t.to_string())).collect::<Vec<_>>();
        assert_eq!(answer(&tokenizer, "a龘b", &[]), (same(&["a", "龘", "b"]), false));
        assert_eq!(answer(&tokenizer, "a龘b", &["龘"]), (same(&["a"]), true));
        // Text that may begin a stop string is held back until it turns out not to.
        assert_eq!(answer(&tokenizer, "axxya", &["xyz", "xxx"]), (same(&["a", "x", "xya"]), false));
        assert_eq!(answer(&tokenizer, "axxyz", &["xyz", "xxx"]), (same(&["a", "x"]), true));
        assert_eq!(answer(&tokenizer, "axy", &["xyz", ""]), (same(&["a", "xy"]), false));
        // If two stop strings occur, the one that begins first counts.
        assert_eq!(answer(&tokenizer, "abc", &["bc", "abc"]).0, []);
    }

    #[test]
    fn a_token_that_holds_a_stop_string_gives_what_is_before_it() {
        let tokenizer = Tokenizer::train(std::iter::once("abcd ".repeat(50)), 270).unwrap();
        let ids = tokenizer.encode(" abcd").unwrap();
        assert!(ids.len() < 5, "{ids:?}");
        let mut stream = AnswerStream::new(&tokenizer, &["c".into()]);
        let mut text = String::new();
        for id in ids {
            let piece = stream.push(Token { id, log_probs: None }).unwrap();
            text += &piece.text;
            if piece.is_stopped {
                break;
            }
        }
        assert_eq!(text, " ab");
    }
}
