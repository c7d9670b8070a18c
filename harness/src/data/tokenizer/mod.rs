//! Converts text to token ids and back, with an existing `tokenizer.json` or byte-level BPE trained here.

mod conversation;
mod load;
mod spellings;
mod train;
mod words;

pub use conversation::{Answer, Conversation, SpecialText};
pub use train::largest_vocab;

use super::chat::{ChatTemplate, MINIMIND};
use super::control::Control;
use crate::fsutil::hex;
use anyhow::{Context, Result, anyhow, ensure};
use load::{CONFIG, chat_template};
use rayon::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// MiniMind's special tokens, in the order of their ids.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A tokenizer with its chat template.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    control: Control,
    config: Value,
    template: ChatTemplate,
    /// Why the template must not be used; `None` if it can be.
    no_template: Option<String>,
    bos: String,
    eos: String,
    digest: String,
    vocab_size: usize,
    /// Origin of the tokenizer, for error messages.
    from: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Checks that a model with `vocab_size` entries covers all ids of the tokenizer.
    ///
    /// # Errors
    /// If the tokenizer has more entries.
    pub fn ensure_fits(&self, vocab_size: usize) -> Result<()> {
        let entries = self.vocab_size();
        ensure!(
            entries <= vocab_size,
            "the tokenizer has {entries} entries and the model {vocab_size}; expected the model's own tokenizer"
        );
        Ok(())
    }

    fn new(mut inner: tokenizers::Tokenizer, config: Value, from: String) -> Result<Self> {
        // Truncation and padding are done elsewhere, whatever the file specifies.
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?;
        inner.with_padding(None);
        // Tables are allocated up to the largest id, here and in the library.
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let most = largest_vocab();
        ensure!(vocab_size <= most, "its largest id is {}, expected less than {most}", vocab_size - 1);
        let named = |key: &str| -> Option<String> {
            let value = config.get(key)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        let has = |token: &str| inner.token_to_id(token).is_some();
        // A model may lack a begin-of-text token (GPT-2's family), but needs an end-of-text token.
        let bos = named("bos_token").unwrap_or_default();
        let eos = named("eos_token").unwrap_or_else(|| SPECIAL[2].to_owned());
        ensure!(has(&eos), "the end of text {eos:?} is not in the vocabulary; set eos_token in {CONFIG}");
        ensure!(bos.is_empty() || has(&bos), "bos_token {bos:?} is not in the vocabulary");
        let lacking =
            SPECIAL[1..].iter().copied().filter(|token| !has(token)).collect::<Vec<_>>().join(" and ");
        let (template, no_template) = match chat_template(&config)? {
            Some(template) => (template, None),
            None if lacking.is_empty() => (MINIMIND, None),
            None => {
                let why = format!(
                    "the tokenizer has no chat template, and MiniMind's needs {lacking}, not in its vocabulary; put a \
                     chat_template into {CONFIG}"
                );
                // Text can still be tokenized; rendering a conversation returns this reason.
                (MINIMIND, Some(why))
            }
        };
        let template = ChatTemplate::new(template, &bos, &eos)?;
        let text = inner.to_string(false).map_err(|error| anyhow!("{error}"))?;
        let mut hasher = Sha256::new();
        for part in [text.as_str(), template.source(), &bos, &eos] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest = hex(&hasher.finalize());
        let unknown = named("unk_token").or_else(|| Some(SPECIAL[0].to_owned()));
        let unknown = unknown.and_then(|token| inner.token_to_id(&token));
        let control = Control::new(&inner, &template, unknown)?;
        Ok(Self { inner, control, config, template, no_template, bos, eos, digest, vocab_size, from })
    }

    /// Returns the ids of a text; special tokens in it become their ids, and none are added.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding
            .map_err(|error| anyhow!("a text cannot be tokenized: {error}"))
            .with_context(|| self.from.clone())?
            .get_ids()
            .to_vec())
    }

    /// Returns the ids of many texts, in parallel.
    ///
    /// # Errors
    /// If the tokenizer fails on a text.
    pub fn encode_batch(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// Whether an id is in the vocabulary.
    pub fn knows(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// Whether the text of an id is part of decoded text, as that of special tokens and of unknown ids is not.
    pub fn is_text(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.inner.id_to_token(id).is_some_and(|token| !token.is_empty() && !added.is_special_token(&token))
    }

    /// Returns the text of ids. Special tokens are left out if `skip_special` is set, unknown ids always.
    ///
    /// # Errors
    /// If the tokenizer fails on the ids.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| anyhow!("ids cannot be decoded: {error}"))
            .with_context(|| self.from.clone())
    }

    /// Returns the size of the vocabulary, including special tokens: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the id of a token, if it is in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the id of the begin-of-text token, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.id(&self.bos)
    }

    /// Returns the id of the end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.id(&self.eos)
    }

    /// Returns the SHA-256 of everything that determines ids: tokenizer, template, and begin-of-text and end-of-text tokens.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn special_tokens(&self) -> Vec<String> {
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<(u32, String)> = added
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();
        special.sort_unstable();
        special.into_iter().map(|(_, token)| token).collect()
    }
}

#[cfg(test)]
mod testing {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;

    pub fn golden(name: &str) -> Option<Value> {
        let text = std::fs::read(shared("golden/tokenizer")?.join(name)).unwrap();
        Some(serde_json::from_slice(&text).unwrap())
    }

    pub fn minimind() -> Option<Tokenizer> {
        Some(Tokenizer::load(&shared("data/minimind_tokenizer")?).unwrap())
    }

    pub fn ids(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::testing::{golden, ids, minimind};
    use super::*;

    #[test]
    fn golden_strings_have_minimind_ids_and_texts() {
        let (Some(golden), Some(tokenizer)) = (golden("strings.json"), minimind()) else {
            return;
        };
        let rows = golden.as_array().unwrap();
        assert_eq!(rows.len(), 200);
        let texts: Vec<String> = rows.iter().map(|row| row["text"].as_str().unwrap().into()).collect();
        let batch = tokenizer.encode_batch(&texts).unwrap();
        for ((row, text), found) in rows.iter().zip(&texts).zip(batch) {
            let expected = ids(&row["ids"]);
            assert_eq!(found, expected, "{text:?}");
            assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text:?}");
            assert_eq!(tokenizer.decode(&expected, false).unwrap(), row["decoded"].as_str().unwrap());
            assert_eq!(
                tokenizer.decode(&expected, true).unwrap(),
                row["decoded_skip_special"].as_str().unwrap()
            );
            // Bytes per token sum to those of the text without special tokens.
            let bytes = tokenizer.token_bytes();
            let plain = SPECIAL.iter().fold(text.clone(), |text, token| text.replace(token, ""));
            assert_eq!(
                expected.iter().map(|&id| usize::from(bytes[id as usize])).sum::<usize>(),
                plain.len(),
                "{text:?}"
            );
            let spelled = tokenizer.spellings();
            let spelled: Vec<u8> = expected.iter().flat_map(|&id| spelled[id as usize].clone()).collect();
            assert_eq!(String::from_utf8(spelled).unwrap(), *text);
        }
    }

    #[test]
    fn golden_special_tokens_letters_and_marker() {
        let (Some(golden), Some(tokenizer)) = (golden("special.json"), minimind()) else {
            return;
        };
        assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
        for (token, key) in [("<unk>", "unk"), ("<s>", "bos"), ("</s>", "eos")] {
            assert_eq!(tokenizer.id(token).map(u64::from), golden[key].as_u64());
        }
        for letter in ["A", "B", "C", "D"] {
            assert_eq!(tokenizer.encode(letter).unwrap(), ids(&golden["ABCD"][letter]));
        }
        assert_eq!(tokenizer.answer_marker().unwrap(), ids(&golden["assistant_marker_ids"]));
        assert_eq!(golden["chat_template"].as_str().unwrap(), MINIMIND);
    }
}
