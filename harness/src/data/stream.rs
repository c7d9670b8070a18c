//! Ids to text while they come: no half characters, and nothing of a string that ends the text.

use super::Tokenizer;
use anyhow::Result;
use model::Token;
use std::collections::VecDeque;

/// What a byte sequence that is no character decodes to.
const BROKEN: char = '\u{fffd}';

/// Bytes of a character that may still become whole.
const HALF: usize = 3;

/// Turns ids into text piece by piece; a character that spans several tokens comes when it is whole.
///
/// The pieces together are the text of all ids together: each is cut from a decoding that begins a piece earlier,
/// as some decoders treat the first token of a text differently.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Those of the last piece that was given out, and those behind it.
    ids: Vec<u32>,
    /// How many are of the last piece.
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream without text; special tokens are left out of it.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: vec![], given: 0 }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let mut end = self.ids.len();
        let mut rest = self.rest(end)?;
        if rest.ends_with(BROKEN) {
            // Half a character that may become whole lies in the last tokens; what is broken before them stays so.
            end = end.saturating_sub(HALF);
            rest = if end > self.given { self.rest(end)? } else { String::new() };
        }
        if !rest.is_empty() {
            self.ids.drain(..self.given);
            self.given = end - self.given;
        }
        Ok(rest)
    }

    /// What is left at the end, whole or not.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn finish(&self) -> Result<String> {
        self.rest(self.ids.len())
    }

    /// The text up to an id, but for what was given out.
    fn rest(&self, end: usize) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.given], true)?;
        let all = self.tokenizer.decode(&self.ids[..end], true)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// A piece of an answer.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    /// Whole characters, none of them of a string that ends the answer.
    pub text: String,
    /// The tokens that begin in it.
    pub tokens: Vec<Token>,
    /// Whether such a string has come.
    pub is_stopped: bool,
}

/// Turns tokens into an answer that ends where one of some strings begins. What may be the beginning of one is held
/// back until that is known.
pub struct AnswerStream<'a> {
    stream: TextStream<'a>,
    stops: Vec<String>,
    /// Text that was not told yet.
    held: String,
    /// Bytes of text so far, `held` included.
    len: usize,
    /// Tokens that were not told yet, each with the bytes of text before it.
    tokens: VecDeque<(usize, Token)>,
}

impl<'a> AnswerStream<'a> {
    /// An answer without text, which one of `stops` ends; empty ones are none.
    pub fn new(tokenizer: &'a Tokenizer, stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        let stream = TextStream::new(tokenizer);
        Self { stream, stops, held: String::new(), len: 0, tokens: VecDeque::new() }
    }

    /// What `token` makes certain, which may be nothing.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn push(&mut self, token: Token) -> Result<Piece> {
        let id = token.id;
        self.tokens.push_back((self.len, token));
        let more = self.stream.push(id)?;
        Ok(self.tell(&more, false))
    }

    /// What is left at the end.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn finish(&mut self) -> Result<Piece> {
        let more = self.stream.finish()?;
        Ok(self.tell(&more, true))
    }

    fn tell(&mut self, more: &str, is_end: bool) -> Piece {
        self.held += more;
        self.len += more.len();
        let stop = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        let certain = stop.unwrap_or_else(|| match is_end {
            true => self.held.len(),
            false => {
                self.held.len() - self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0)
            }
        });
        let told = self.len - self.held.len() + certain;
        let is_told = |begin: usize| begin < told || is_end && stop.is_none();
        let count = self.tokens.iter().take_while(|(begin, _)| is_told(*begin)).count();
        let tokens = self.tokens.drain(..count).map(|(_, token)| token).collect();
        let rest = self.held.split_off(certain);
        Piece { text: std::mem::replace(&mut self.held, rest), tokens, is_stopped: stop.is_some() }
    }
}

/// Bytes at the end of `text` with which `stop` may begin.
fn begun(text: &str, stop: &str) -> usize {
    let begins = stop.char_indices().map(|(at, _)| at).rev();
    begins.filter(|&at| text.ends_with(&stop[..at])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// So small a vocabulary spells every character in bytes.
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
        // The first byte of a character, again and again, and then a whole one.
        let first = tokenizer.encode("龘").unwrap()[0];
        let mut ids = vec![first; 40];
        ids.extend(tokenizer.encode("龘b").unwrap());
        let mut stream = TextStream::new(&tokenizer);
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
            assert!(stream.ids.len() <= 2 * HALF + 2, "{} ids are kept", stream.ids.len());
        }
        assert_eq!(text, tokenizer.decode(&ids, true).unwrap());
        assert_eq!(text, format!("{}龘b", "\u{fffd}".repeat(40)));
    }

    /// The pieces of an answer, each with the text of its tokens.
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
        // What may be a stop string is held back and told once it is none.
        assert_eq!(answer(&tokenizer, "axxya", &["xyz", "xxx"]), (same(&["a", "x", "xya"]), false));
        assert_eq!(answer(&tokenizer, "axxyz", &["xyz", "xxx"]), (same(&["a", "x"]), true));
        assert_eq!(answer(&tokenizer, "axy", &["xyz", ""]), (same(&["a", "xy"]), false));
        // Of two the one that begins first.
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
