//! Incremental decoding of ids: no incomplete characters, and nothing of a stop string.

use super::Tokenizer;
use anyhow::Result;
use model::Token;
use std::collections::VecDeque;

/// What a byte sequence that is not a valid character decodes to.
const BROKEN: char = '\u{fffd}';

/// Most characters at the end of a text that may still be incomplete: some decoders turn each byte of one into `BROKEN`.
const MAX_HELD: usize = 3;

/// Number of ids that cover the text held back: a broken character has at most three bytes, and each may be a token.
const ENOUGH_IDS: usize = 3 * MAX_HELD;

/// Decodes ids piece by piece; a character that spans several tokens is emitted once it is complete.
///
/// The concatenated pieces equal the decoding of all ids. Each is cut from a decoding that begins one piece earlier, as
/// some decoders treat the first token of a text differently; while characters stay broken, from one that begins
/// `ENOUGH_IDS` earlier, which decodes its end alike.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids of the last complete piece and all ids after it.
    ids: Vec<u32>,
    /// How many of `ids` belong to the last complete piece.
    complete: usize,
    /// The emitted part of the text of `ids`.
    emitted: String,
}

impl<'a> TextStream<'a> {
    /// Creates an empty stream; special tokens are left out of its text.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: vec![], complete: 0, emitted: String::new() }
    }

    /// Returns the text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if !self.tokenizer.is_text(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        let all = self.text()?;
        let (certain, held) = all.split_at(all.len() - held(&all));
        let piece = certain.get(self.emitted.len()..).unwrap_or_default().to_owned();
        self.emitted += &piece;
        if held.is_empty() && !piece.is_empty() {
            self.ids.drain(..self.complete);
            self.complete = self.ids.len();
            self.emitted = self.tokenizer.decode(&self.ids, true)?;
        } else if self.ids.len() > 2 * ENOUGH_IDS {
            self.ids.drain(..self.ids.len() - ENOUGH_IDS);
            self.complete = 0;
            let end = self.tokenizer.decode(&self.ids, true)?;
            self.emitted = end.strip_suffix(held).unwrap_or(&end).to_owned();
        }
        Ok(piece)
    }

    /// Returns the text that is left at the end, including an incomplete character.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn finish(&mut self) -> Result<String> {
        let all = self.text()?;
        Ok(all.get(self.emitted.len()..).unwrap_or_default().to_owned())
    }

    /// Returns the text of `ids`, which begins with `emitted`.
    fn text(&mut self) -> Result<String> {
        let all = self.tokenizer.decode(&self.ids, true)?;
        if all.starts_with(&self.emitted) {
            return Ok(all);
        }
        // Tokens such as <0xE9> that follow each other decode to characters only if all of them are whole, so that a
        // byte can break those already emitted; then the new ids are decoded alone.
        self.ids.drain(..self.complete);
        self.complete = 0;
        self.emitted.clear();
        self.tokenizer.decode(&self.ids, true)
    }
}

/// Returns the number of bytes at the end of `text` that may still become a character.
fn held(text: &str) -> usize {
    text.chars().rev().take(MAX_HELD).take_while(|&c| c == BROKEN).count() * BROKEN.len_utf8()
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
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

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
    fn half_a_character_at_the_end_is_reported() {
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
        assert_eq!(streamed(&tokenizer, &ids), format!("{}龘b", "\u{fffd}".repeat(40)));
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), streamed(&tokenizer, &ids));
    }

    /// Returns all text of a stream, and checks that it keeps few ids.
    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let mut stream = TextStream::new(tokenizer);
        let mut text = String::new();
        for &id in ids {
            text += &stream.push(id).unwrap();
            assert!(stream.ids.len() <= 2 * ENOUGH_IDS, "{} ids are kept", stream.ids.len());
        }
        text + &stream.finish().unwrap()
    }

    /// Returns a tokenizer with a token that ends one character and begins another: 0x80 and 0xc3.
    fn crossing() -> Tokenizer {
        let ends_in_80 = ['Ā', 'ŀ', 'ƀ', 'ǀ', 'Ȁ', 'ɀ', 'ʀ'];
        let texts = ends_in_80.into_iter().flat_map(|a| ('À'..='ÿ').map(move |b| format!("{a}{b}")));
        Tokenizer::train(texts.collect::<Vec<_>>().into_iter(), 280).unwrap()
    }

    #[test]
    fn a_token_across_two_characters_loses_neither() {
        let tokenizer = crossing();
        let spelled = tokenizer.spellings();
        let id = |bytes: &[u8]| spelled.iter().position(|spelling| spelling == bytes).unwrap() as u32;
        let ids = [id(b"\xc4"), id(b"\x80\xc3"), id(b"\x80\xc3"), id(b"\x80"), id(b"\xff"), id(b"x")];
        assert_eq!(streamed(&tokenizer, &ids), "ĀÀÀ\u{fffd}x");
        let mut stream = TextStream::new(&tokenizer);
        assert_eq!([0, 1, 2].map(|i| stream.push(ids[i]).unwrap()), ["", "Ā", "À"]);
    }

    static TOKENIZERS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| [bytes(), crossing()]);

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn a_stream_is_the_decoding_of_all_ids(
            ids in prop::collection::vec(prop_oneof![0..280u32, 190..259u32], 0..120),
            stop in prop_oneof![Just("\0"), Just("a"), Just("À"), Just("\u{1}\u{fffd}"), Just("")],
        ) {
            for tokenizer in TOKENIZERS.iter() {
                let all = tokenizer.decode(&ids, true).unwrap();
                prop_assert_eq!(&streamed(tokenizer, &ids), &all);
                let mut stream = AnswerStream::new(tokenizer, &[stop.to_owned()]);
                let (mut text, mut is_stopped) = (String::new(), false);
                for &id in &ids {
                    if !is_stopped {
                        let piece = stream.push(Token { id, log_probs: None }).unwrap();
                        (text, is_stopped) = (text + &piece.text, piece.is_stopped);
                    }
                }
                if !is_stopped {
                    let piece = stream.finish().unwrap();
                    (text, is_stopped) = (text + &piece.text, piece.is_stopped);
                }
                let end = Some(stop).filter(|stop| !stop.is_empty()).and_then(|stop| all.find(stop));
                prop_assert_eq!(is_stopped, end.is_some());
                prop_assert_eq!(&text, &all[..end.unwrap_or(all.len())]);
            }
        }
    }

    #[test]
    fn bytes_as_words_of_the_vocabulary_become_characters() {
        // The decoder of Llama: ▁ is a space, left out at the beginning, and <0x61> is a byte.
        let words = ["</s>", "\u{2581}", "\u{2581}b", "c"].map(str::to_owned).into_iter();
        let vocab = words.chain((0..=255).map(|byte| format!("<0x{byte:02X}>"))).zip(0..);
        let vocab: serde_json::Map<String, Value> = vocab.map(|(word, id)| (word, json!(id))).collect();
        let decoders = json!([
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]);
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": { "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true },
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), file.to_string()).unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let ids = |text: &str| -> Vec<u32> { text.bytes().map(|byte| 4 + u32::from(byte)).collect() };
        for of in
            [vec![2, 1, 2, 3], [vec![2], ids("龘😀é"), vec![3, 1]].concat(), [ids("😀😀"), vec![2]].concat()]
        {
            assert_eq!(streamed(&tokenizer, &of), tokenizer.decode(&of, true).unwrap());
        }
        assert_eq!(streamed(&tokenizer, &[vec![2], ids("龘😀"), vec![2]].concat()), "b龘😀 b");
        // The decoding of all ids breaks every byte before a broken one; what was emitted stays whole.
        let broken = [ids("龘"), vec![4 + 0xff; 30], vec![2]].concat();
        assert_eq!(streamed(&tokenizer, &broken), format!("龘{} b", "\u{fffd}".repeat(30)));
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
