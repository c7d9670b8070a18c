//! Ids to text while they come: no half characters.

use super::Tokenizer;
use anyhow::Result;

/// What a byte sequence that is no character decodes to.
const BROKEN: char = '\u{fffd}';

/// Turns ids into text piece by piece; a character that spans several tokens comes when it is whole.
///
/// The pieces together are the text of all ids together: each is cut from a decoding that begins a piece earlier,
/// as some decoders treat the first token of a text differently.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Where the last piece that was given out begins, and where it ends.
    given: (usize, usize),
}

impl<'a> TextStream<'a> {
    /// A stream without text; special tokens are left out of it.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: vec![], given: (0, 0) }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let rest = self.rest()?;
        if rest.is_empty() || rest.ends_with(BROKEN) {
            return Ok(String::new());
        }
        self.given = (self.given.1, self.ids.len());
        Ok(rest)
    }

    /// What is left at the end, whole or not.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn finish(self) -> Result<String> {
        self.rest()
    }

    fn rest(&self) -> Result<String> {
        let (from, to) = self.given;
        let before = self.tokenizer.decode(&self.ids[from..to], true)?;
        let all = self.tokenizer.decode(&self.ids[from..], true)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn characters_come_whole_and_nothing_is_lost() {
        // So small a vocabulary spells every character in bytes.
        let tokenizer = Tokenizer::train(std::iter::once("ab".to_owned()), 259).unwrap();
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
        let tokenizer = Tokenizer::train(std::iter::once("ab".to_owned()), 259).unwrap();
        let ids = tokenizer.encode("a龘").unwrap();
        let mut stream = TextStream::new(&tokenizer);
        let pieces: String = ids[..3].iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(pieces + &stream.finish().unwrap(), "a\u{fffd}");
    }
}
