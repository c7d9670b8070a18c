//! Word-level tokenizers, as probes use them.

use super::load::default_config;
use super::{SPECIAL, Tokenizer};
use anyhow::{Context, Result, anyhow};
use tokenizers::AddedToken;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

impl Tokenizer {
    /// Creates a tokenizer of whitespace-separated words: MiniMind's special tokens, then the words, in order.
    ///
    /// # Errors
    /// If the library refuses the words.
    pub fn of_words(words: &[String]) -> Result<Self> {
        let entries = SPECIAL.iter().map(ToString::to_string).chain(words.iter().cloned());
        let model = WordLevel::builder().vocab(entries.zip(0..).collect()).unk_token(SPECIAL[0].into());
        let model = model.build().map_err(|error| anyhow!("{error}"))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(WhitespaceSplit));
        let special = SPECIAL.map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(special).map_err(|error| anyhow!("{error}"))?;
        Self::new(inner, default_config(), "the probe's tokenizer".into())
    }

    /// Returns the id of each word of a text, as [`Self::encode`] does, in a fraction of the time.
    ///
    /// # Errors
    /// If a word is not in the vocabulary.
    pub fn words(&self, text: &str) -> Result<Vec<u32>> {
        let id = |word| self.id(word).with_context(|| format!("the word {word:?} is not in the vocabulary"));
        text.split_ascii_whitespace().map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_word_is_one_token() {
        let tokenizer = Tokenizer::of_words(&["A", "10", "v7"].map(String::from)).unwrap();
        assert_eq!(tokenizer.vocab_size(), 6);
        let text = "<s> v7 A 10 </s>";
        let ids = tokenizer.words(text).unwrap();
        assert_eq!((ids.as_slice(), tokenizer.encode(text).unwrap()), (&[1, 5, 3, 4, 2][..], ids.clone()));
        let error = tokenizer.words("A v8").unwrap_err().to_string();
        assert_eq!(error, "the word \"v8\" is not in the vocabulary");
        assert_eq!(tokenizer.decode(&[5, 3, 4], true).unwrap(), "v7 A 10");
        assert_eq!(tokenizer.token_bytes(), [0, 0, 0, 1, 2, 2]);
        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let loaded = Tokenizer::load(dir.path()).unwrap();
        assert_eq!((loaded.digest(), loaded.words(text).unwrap()), (tokenizer.digest(), ids));
    }
}
