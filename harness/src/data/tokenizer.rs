//! Byte-level BPE as MiniMind trains it, and the chat template beside it.

use super::row::Message;
use crate::run::files::{hex, write_atomic};
use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};
use tokenizers::{TokenizerBuilder, models::TrainerWrapper};

/// MiniMind's chat template.
pub const MINIMIND_TEMPLATE: &str = concat!(
    "{% if messages[0]['role'] == 'system' %}{% set system_message = messages[0]['content'] %}{% endif %}",
    "{% if system_message is defined %}{{ system_message }}{% endif %}",
    "{% for message in messages %}{% set content = message['content'] %}",
    "{% if message['role'] == 'user' %}{{ '<s>user\\n' + content + '</s>\\n<s>assistant\\n' }}",
    "{% elif message['role'] == 'assistant' %}{{ content + '</s>' + '\\n' }}{% endif %}{% endfor %}"
);

/// `<unk>`, `<s>`, `</s>`: ids 0, 1, 2.
pub const SPECIALS: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// A tokenizer with its chat template.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    template: String,
    json: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json`, or the folder that holds it, and the template of `tokenizer_config.json` beside it.
    pub fn load(path: &Path) -> Result<Self> {
        let file: PathBuf = if path.is_dir() { path.join("tokenizer.json") } else { path.into() };
        let json = std::fs::read_to_string(&file)
            .with_context(|| format!("{}: expected a tokenizer.json", file.display()))?;
        let inner: tokenizers::Tokenizer =
            json.parse().map_err(|e| anyhow!("{}: not a tokenizer.json: {e}", file.display()))?;
        let config_file = file.with_file_name("tokenizer_config.json");
        let template = match std::fs::read_to_string(&config_file) {
            Ok(text) => {
                let config: serde_json::Value = serde_json::from_str(&text)
                    .with_context(|| format!("{}: not JSON", config_file.display()))?;
                config["chat_template"].as_str().unwrap_or(MINIMIND_TEMPLATE).to_string()
            }
            Err(_) => MINIMIND_TEMPLATE.to_string(),
        };
        Self::new(inner, template, json)
    }

    /// Trains byte-level BPE on `texts`: the special tokens, the 256 bytes, then merges up to `vocab_size` entries.
    pub fn train(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Self> {
        let least = SPECIALS.len() + 256;
        if vocab_size < least {
            bail!(
                "model.vocab_size is {vocab_size}, expected at least {least}: the bytes and the special tokens"
            );
        }
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(SPECIALS.iter().map(|s| AddedToken::from(*s, true)).collect())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        let byte_level = ByteLevel::new(false, true, true);
        let mut builder = TokenizerBuilder::<
            tokenizers::ModelWrapper,
            NormalizerWrapper,
            PreTokenizerWrapper,
            PostProcessorWrapper,
            DecoderWrapper,
        >::new()
        .with_model(BPE::default().into())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level.into()))
        .with_post_processor(None)
        .with_decoder(Some(ByteLevelDecoder::new(false, true, true).into()))
        .build()
        .map_err(|e| anyhow!("a tokenizer cannot be set up: {e}"))?;
        builder.train(&mut trainer, texts).map_err(|e| anyhow!("training the tokenizer: {e}"))?;
        let json = builder.to_string(true).map_err(|e| anyhow!("writing the tokenizer: {e}"))?;
        let inner: tokenizers::Tokenizer = json.parse().map_err(|e| anyhow!("the trained tokenizer: {e}"))?;
        Self::new(inner, MINIMIND_TEMPLATE.into(), json)
    }

    fn new(inner: tokenizers::Tokenizer, template: String, json: String) -> Result<Self> {
        let tokenizer = Self { inner, template, json };
        for (id, special) in SPECIALS.iter().enumerate() {
            let found = tokenizer.inner.token_to_id(special);
            if found != Some(id as u32) {
                bail!("the tokenizer gives {special} the id {found:?}, expected {id}");
            }
        }
        Ok(tokenizer)
    }

    /// Ids of a text; nothing is added in front or behind.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| anyhow!("tokenizing: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of many texts, on all cores.
    pub fn encode_batch(&self, texts: Vec<String>) -> Result<Vec<Vec<u32>>> {
        let encodings = self.inner.encode_batch_fast(texts, false).map_err(|e| anyhow!("tokenizing: {e}"))?;
        Ok(encodings.iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Text of ids, with or without special tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| anyhow!("decoding: {e}"))
    }

    /// A conversation as text by the chat template.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let mut environment = minijinja::Environment::new();
        environment.set_keep_trailing_newline(true);
        let template = environment.template_from_str(&self.template).context("the chat template")?;
        let context = minijinja::context! { messages => messages, bos_token => "<s>", eos_token => "</s>" };
        template.render(context).context("the chat template")
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_atomic(&dir.join("tokenizer.json"), self.json.as_bytes())?;
        let config = serde_json::json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "add_bos_token": false, "add_eos_token": false,
            "chat_template": self.template,
        });
        write_atomic(&dir.join("tokenizer_config.json"), &serde_json::to_vec_pretty(&config)?)
    }

    /// Entries, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Ids of the answers A, B, C, D.
    pub fn letters(&self) -> Result<[u32; 4]> {
        let mut ids = [0; 4];
        for (id, letter) in ids.iter_mut().zip(["A", "B", "C", "D"]) {
            *id = match self.encode(letter)?.as_slice() {
                [only] => *only,
                other => bail!(
                    "the tokenizer splits the letter {letter} into {} tokens, expected one",
                    other.len()
                ),
            };
        }
        Ok(ids)
    }

    /// Ids of `<s>assistant`, where an answer begins.
    pub fn answer_marker(&self) -> Result<Vec<u32>> {
        self.encode("<s>assistant")
    }

    /// SHA-256 of tokenizer and template.
    pub fn digest(&self) -> String {
        hex(&Sha256::new().chain_update(&self.json).chain_update([0]).chain_update(&self.template).finalize())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;
    use serde_json::Value;

    fn golden(file: &str) -> Option<Value> {
        let path = shared(&format!("golden/tokenizer/{file}"))?;
        Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    #[test]
    fn minimind_ids_and_renderings_are_reproduced() {
        let Some(strings) = golden("strings.json") else { return };
        let tokenizer = Tokenizer::load(&shared("data/minimind_tokenizer").unwrap()).unwrap();
        for case in strings.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let want = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text).unwrap(), want, "{text:?}");
            assert_eq!(tokenizer.decode(&want, false).unwrap(), case["decoded"].as_str().unwrap());
            assert_eq!(
                tokenizer.decode(&want, true).unwrap(),
                case["decoded_skip_special"].as_str().unwrap()
            );
        }
        for case in golden("chat_template.json").unwrap().as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let rendered = tokenizer.render(&messages).unwrap();
            assert_eq!(rendered, case["rendered"].as_str().unwrap());
            assert_eq!(tokenizer.encode(&rendered).unwrap(), ids(&case["ids"]));
        }
        assert_eq!(tokenizer.answer_marker().unwrap(), [1, 1078, 538, 501]);
        assert_eq!(tokenizer.letters().unwrap(), [35, 36, 37, 38]);
    }

    #[test]
    fn training_keeps_specials_and_bytes_and_survives_saving() {
        let texts = || (0..200).map(|i| format!("第{i}号 人住在 青石 城。"));
        let trained = Tokenizer::train(texts(), 300).unwrap();
        assert_eq!(trained.vocab_size(), 300);
        let text = "住在 青石 é\u{0}";
        assert_eq!(trained.decode(&trained.encode(text).unwrap(), false).unwrap(), text);
        assert_eq!(trained.encode("<s>x</s>").unwrap()[0], 1);
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let loaded = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(loaded.encode(text).unwrap(), trained.encode(text).unwrap());
        assert_eq!(loaded.digest(), trained.digest());
        assert_eq!(Tokenizer::train(texts(), 300).unwrap().digest(), trained.digest());
        let error = Tokenizer::train(texts(), 100).unwrap_err().to_string();
        assert!(error.contains("at least 259"), "{error}");
    }

    #[test]
    fn broken_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).unwrap_err());
        assert!(error.contains("tokenizer.json: expected a tokenizer.json"), "{error}");
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).unwrap_err());
        assert!(error.contains("not a tokenizer.json"), "{error}");
    }
}
