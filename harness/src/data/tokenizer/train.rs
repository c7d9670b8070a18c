//! Training of a byte-level BPE tokenizer in MiniMind's form.

use super::load::default_config;
use super::{SPECIAL, Tokenizer};
use crate::config::{TokenizerConfig, largest};
use crate::data::bpe::{self, Learned};
use crate::stop::check;
use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

/// Space, line feed, carriage return and tab in the byte-level alphabet.
const BLANKS: [char; 4] = ['\u{120}', '\u{10a}', '\u{10d}', '\u{109}'];

const SMALLEST_VOCAB: usize = TokenizerConfig::SMALLEST_VOCAB;
const _: () = assert!(SMALLEST_VOCAB == SPECIAL.len() + 256);

/// Returns the largest vocabulary size that a model may have.
pub fn largest_vocab() -> usize {
    largest("model.vocab_size").map_or(usize::MAX, |most| most as usize)
}

impl Tokenizer {
    /// Trains byte-level BPE as MiniMind does: special tokens 0, 1, 2, the 256 bytes, then merges.
    ///
    /// If the text is too small for `vocab_size` entries, there are fewer; see [`Tokenizer::vocab_size`].
    ///
    /// # Errors
    /// If `vocab_size` is too small or too large, or there is no text apart from blanks.
    pub fn train(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Self> {
        Self::train_until(texts, vocab_size, &AtomicBool::new(false))
    }

    /// Trains as [`Tokenizer::train`] does, but can be stopped.
    ///
    /// # Errors
    /// As [`Tokenizer::train`]; [`crate::stop::Stopped`] soon after `stop` is set.
    pub fn train_until(
        texts: impl Iterator<Item = String> + Send,
        vocab_size: usize,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let most = largest_vocab();
        ensure!(
            (SMALLEST_VOCAB..=most).contains(&vocab_size),
            "a vocabulary of {vocab_size} entries, expected {SMALLEST_VOCAB} (3 special tokens and 256 bytes) to {most}"
        );
        let split = ByteLevel::new(false, true, true);
        let words = count_words(&split, texts, stop)?;
        ensure!(
            words.keys().any(|word| word.chars().any(|c| !BLANKS.contains(&c))),
            "there is no text to train a tokenizer from"
        );
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let begin = SPECIAL.iter().map(ToString::to_string).chain(alphabet.iter().map(char::to_string));
        let Learned { tokens, merges } = bpe::learn(&words, begin.collect(), vocab_size, stop)?;
        let text = |id: u32| tokens[id as usize].clone();
        let merges = merges.into_iter().map(|(a, b)| (text(a), text(b))).collect();
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        let model =
            BPE::builder().vocab_and_merges(vocab, merges).build().map_err(|error| anyhow!("{error}"))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(split));
        inner.with_decoder(Some(ByteLevel::default()));
        let special = SPECIAL.map(|token| AddedToken::from(token, true));
        inner.add_special_tokens(special).map_err(|error| anyhow!("{error}"))?;
        Self::new(inner, default_config(), "the trained tokenizer".into())
    }
}

/// Splits texts into words with the pre-tokenizer and counts how often each occurs.
fn count_words(
    split: &ByteLevel,
    texts: impl Iterator<Item = String> + Send,
    stop: &AtomicBool,
) -> Result<HashMap<String, u64>> {
    let add = |words: &mut HashMap<String, u64>, word: &str, count: u64| match words.get_mut(word) {
        Some(known) => *known += count,
        None => drop(words.insert(word.to_owned(), count)),
    };
    let of_text = |mut words: HashMap<String, u64>, text: String| {
        check(stop)?;
        let mut cut = PreTokenizedString::from(text);
        split.pre_tokenize(&mut cut).map_err(|error| anyhow!("a text cannot be cut into words: {error}"))?;
        for (word, ..) in cut.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            add(&mut words, word, 1);
        }
        Ok(words)
    };
    let both = |mut words: HashMap<String, u64>, more: HashMap<String, u64>| {
        more.into_iter().for_each(|(word, count)| add(&mut words, &word, count));
        Ok(words)
    };
    texts.par_bridge().try_fold(HashMap::new, of_text).try_reduce(HashMap::new, both)
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::SpecialText;
    use crate::testing::shared;
    use serde_json::Value;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainer;

    pub fn texts(count: usize) -> impl Iterator<Item = String> + Send {
        (0..count).map(|n| {
            format!("第{n}号：从前有座山，山里有座庙，庙里有{}个和尚。 The {n}th line, again.", n * n)
        })
    }

    #[test]
    fn a_trained_tokenizer_is_minimind_shaped_and_the_same_every_time() {
        let tokenizer = Tokenizer::train(texts(300), 400).unwrap();
        assert_eq!(tokenizer.vocab_size(), 400);
        assert_eq!(SPECIAL.map(|token| tokenizer.id(token)), [Some(0), Some(1), Some(2)]);
        for text in ["从前有座山", "  空格 and tabs\t\n", "未见过的字：龘\u{10ffff}\0", ""] {
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        let document = tokenizer.document("山", SpecialText::Characters).unwrap().0;
        assert_eq!((document.first(), document.last()), (Some(&1), Some(&2)));
        for _ in 0..3 {
            assert_eq!(Tokenizer::train(texts(300), 400).unwrap().digest(), tokenizer.digest());
        }
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let single = one.install(|| Tokenizer::train(texts(300), 400).unwrap());
        assert_eq!(single.digest(), tokenizer.digest());
    }

    /// Trains Hugging Face's trainer on the same texts.
    fn of_hugging_face(texts: &[String], vocab_size: usize) -> Tokenizer {
        let mut inner = tokenizers::Tokenizer::new(BPE::default());
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevel::default()));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        inner.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).unwrap();
        Tokenizer::new(inner, default_config(), String::new()).unwrap()
    }

    fn assert_same_as_hugging_face(texts: &[String], vocab_size: usize) {
        let ours = Tokenizer::train(texts.iter().cloned(), vocab_size).unwrap();
        let theirs = of_hugging_face(texts, vocab_size);
        assert_eq!(ours.inner.to_string(false).unwrap(), theirs.inner.to_string(false).unwrap());
        assert_eq!(ours.digest(), theirs.digest());
    }

    #[test]
    fn the_merges_are_those_of_hugging_face() {
        assert_same_as_hugging_face(&texts(300).collect::<Vec<_>>(), 600);
        assert_same_as_hugging_face(&["aaaa aaaaa aaaaaaa aa abab ababab bab".to_owned()], 300);
        let Some(data) = shared("data/pretrain/pretrain-00.jsonl") else {
            return;
        };
        let lines = std::fs::read_to_string(data).unwrap();
        let text = |line: &str| -> String {
            serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().into()
        };
        let real: Vec<String> = lines.lines().step_by(15).map(text).collect();
        assert_same_as_hugging_face(&real, 3000);
    }

    #[test]
    fn one_unbroken_word_is_learned_from_in_a_moment() {
        // 300,000 letters would take minutes if each merge scanned the whole word.
        let mut state = 1u32;
        let letters = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (state >> 24) as u8 % 26)
        });
        let word: String = letters.take(300_000).collect();
        let tokenizer = Tokenizer::train(std::iter::once(word.clone()), 3000).unwrap();
        assert_eq!(tokenizer.vocab_size(), 3000);
        let ids = tokenizer.encode(&word[..1000]).unwrap();
        assert!(ids.len() < 600, "{} tokens", ids.len());
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), word[..1000]);
    }

    #[test]
    fn training_is_given_up_when_somebody_asks_to_stop() {
        let error = Tokenizer::train_until(texts(300), 400, &AtomicBool::new(true)).err().unwrap();
        assert!(error.is::<crate::stop::Stopped>());
        let words = HashMap::from([("abab".to_owned(), 1)]);
        let tokens = ["a", "b"].map(str::to_owned).to_vec();
        assert!(bpe::learn(&words, tokens, 4, &AtomicBool::new(true)).is_err());
    }

    #[test]
    fn too_small_a_text_yields_fewer_tokens_and_none_is_an_error() {
        let one = || std::iter::once("aab".to_owned());
        assert!(Tokenizer::train(one(), 1000).unwrap().vocab_size() < 270);
        assert!(Tokenizer::train(std::iter::empty(), 1000).is_err());
        for size in [200, 1_000_000_000_000] {
            let error = Tokenizer::train(one(), size).err().unwrap().to_string();
            assert!(error.contains("expected 259 (3 special tokens and 256 bytes) to 16777216"), "{error}");
        }
    }
}
