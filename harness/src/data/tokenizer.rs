//! From text to token ids and back: an existing `tokenizer.json` or byte-level BPE trained here.

mod words;

use super::bpe::{self, Learned};
use super::chat::{ChatTemplate, MINIMIND};
use super::control::{Control, Encoded};
use super::row::Message;
use super::turns::{Rendered, common};
use crate::config::{TokenizerConfig, largest};
use crate::fsutil::{create_dir, hex, read_text, write_atomic};
use crate::stop::check;
use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// MiniMind's special tokens, in the order of their ids.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Space, line feed, carriage return and tab, as the byte-level alphabet writes them.
const BLANKS: [char; 4] = ['\u{120}', '\u{10a}', '\u{10d}', '\u{109}'];

const SMALLEST_VOCAB: usize = TokenizerConfig::SMALLEST_VOCAB;
const _: () = assert!(SMALLEST_VOCAB == SPECIAL.len() + 256);

/// The largest vocabulary that a model may have.
pub fn largest_vocab() -> usize {
    largest("model.vocab_size").map_or(usize::MAX, |most| most as usize)
}

/// What becomes of a special token, such as `</s>`, that a text spells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// Text stays text: the ids of its characters.
    Characters,
    /// The control token itself, as MiniMind has it.
    Control,
}

/// A conversation as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its text, in the chat template's form.
    pub text: String,
    /// The ids of the whole text.
    pub ids: Vec<u32>,
    /// The assistant's turns that say something, in order.
    pub answers: Vec<Answer>,
    /// Special tokens that its words spell.
    pub spelled: u64,
}

impl Conversation {
    fn new(rendered: Rendered, encoded: Encoded) -> Self {
        let (Rendered { text, answers, .. }, Encoded { ids, offsets, spelled }) = (rendered, encoded);
        let answers = answers.into_iter().map(|answer| {
            let words = &text[answer.words.clone()];
            let trimmed = answer.words.start + words.len() - words.trim_start().len();
            let trimmed = trimmed..trimmed + words.trim().len();
            let within = |range: &Range<usize>| {
                let is_in = |&(start, end): &(usize, usize)| {
                    range.contains(&start) || start < trimmed.end && trimmed.start < end
                };
                let first = offsets.iter().position(is_in).unwrap_or(offsets.len());
                let last = offsets.iter().rposition(is_in);
                first..last.map_or(first, |last| last + 1)
            };
            Answer { turn: answer.turn, whole: within(&answer.whole), words: within(&answer.words) }
        });
        Self { answers: answers.collect(), text, ids, spelled }
    }
}

/// An answer inside a conversation, as ranges of ids.
///
/// An id belongs to the range that its text begins in; one that begins before an answer's words and holds some of
/// them, blanks at their ends aside, belongs to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The turn's number.
    pub turn: usize,
    /// From behind what opens the turn, as in `<s>assistant`, to the end of what closes it, as in `</s>\n`.
    pub whole: Range<usize>,
    /// The words.
    pub words: Range<usize>,
}

/// A tokenizer with its chat template.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    control: Control,
    config: Value,
    template: ChatTemplate,
    /// Why the template is not to be used.
    no_template: Option<String>,
    bos: String,
    eos: String,
    digest: String,
    vocab_size: usize,
    /// Where it comes from, for messages.
    from: String,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json`, named itself or by its folder, with the `tokenizer_config.json` beside it.
    ///
    /// The chat template is that of `tokenizer_config.json` or `chat_template.jinja`; without one it is MiniMind's, if the
    /// vocabulary has its `<s>` and `</s>`.
    ///
    /// # Errors
    /// Where a file cannot be read or is none of a tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_path_buf() };
        let shown = file.display();
        let text = read_text(&file)?;
        // The library panics in the middle of a text that is not JSON.
        serde_json::from_str::<IgnoredAny>(&text)
            .with_context(|| format!("{shown}: is not a tokenizer.json"))?;
        let inner = tokenizers::Tokenizer::from_bytes(text)
            .map_err(|error| anyhow!("{shown}: is not a tokenizer.json: {error}"))?;
        let beside = file.with_file_name(CONFIG);
        let mut config: Value = if beside.is_file() {
            serde_json::from_str(&read_text(&beside)?)
                .with_context(|| format!("{}: is not JSON", beside.display()))?
        } else {
            default_config()
        };
        let template = file.with_file_name(TEMPLATE);
        if config.get("chat_template").is_none_or(Value::is_null)
            && template.is_file()
            && let Some(config) = config.as_object_mut()
        {
            config.insert("chat_template".into(), read_text(&template)?.into());
        }
        Self::new(inner, config, shown.to_string()).with_context(|| shown.to_string())
    }

    fn template(&self) -> Result<&ChatTemplate> {
        match &self.no_template {
            None => Ok(&self.template),
            Some(why) => Err(anyhow!("{}: {why}", self.from)),
        }
    }

    /// Why conversations cannot be rendered, where they cannot.
    pub fn no_template(&self) -> Option<&str> {
        self.no_template.as_deref()
    }

    /// Trains byte-level BPE as MiniMind does: special tokens 0, 1, 2, the 256 bytes, then merges.
    ///
    /// A text too small for `vocab_size` entries yields fewer; [`Tokenizer::vocab_size`] tells how many.
    ///
    /// # Errors
    /// Where the vocabulary is too small or too large, or the text cannot fill it.
    pub fn train(texts: impl Iterator<Item = String> + Send, vocab_size: usize) -> Result<Self> {
        Self::train_until(texts, vocab_size, &AtomicBool::new(false))
    }

    /// As [`Tokenizer::train`], given up as [`crate::stop::Stopped`] soon after `stop` is set.
    ///
    /// # Errors
    /// As [`Tokenizer::train`], and [`crate::stop::Stopped`].
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

    fn new(mut inner: tokenizers::Tokenizer, config: Value, from: String) -> Result<Self> {
        // Rows are cut and laid out here, whatever the file says.
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?;
        inner.with_padding(None);
        // Tables are made up to the largest id, here and in the library.
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let most = largest_vocab();
        ensure!(vocab_size <= most, "its largest id is {}, expected less than {most}", vocab_size - 1);
        let named = |key: &str| -> Option<String> {
            let value = config.get(key)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
        };
        let has = |token: &str| inner.token_to_id(token).is_some();
        // A model may know no beginning of text (GPT-2's family); an end it must know.
        let bos = named("bos_token").unwrap_or_default();
        let eos = named("eos_token").unwrap_or_else(|| SPECIAL[2].to_owned());
        ensure!(
            has(&eos),
            "the end of text {eos:?} is not in the vocabulary; name it as eos_token in {CONFIG}"
        );
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
                // Text can be tokenized all the same; whoever renders a conversation is told.
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

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder.
    ///
    /// # Errors
    /// Where a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        create_dir(dir)?;
        write_atomic(&dir.join(FILE), self.json()?.as_bytes())?;
        let mut config = self.config.clone();
        if let Some(config) = config.as_object_mut().filter(|_| self.no_template.is_none()) {
            config.insert("chat_template".into(), self.template.source().into());
        }
        write_atomic(&dir.join(CONFIG), &serde_json::to_vec_pretty(&config)?)
    }

    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|error| anyhow!("{error}"))
    }

    /// The chat template, where it is to be used.
    pub fn chat_template(&self) -> Option<&str> {
        self.no_template.is_none().then(|| self.template.source())
    }

    /// The ids of a text; special tokens in it become their ids, and none is added.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding
            .map_err(|error| anyhow!("{}: a text cannot be tokenized: {error}", self.from))?
            .get_ids()
            .to_vec())
    }

    /// The ids of many texts, in parallel.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn encode_batch(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The ids of a conversation, those of its whole text, and the answers among them; with the opening of the answer
    /// where the last turn is not the assistant's.
    ///
    /// # Errors
    /// Where the chat template refuses the conversation, drops a turn or changes what is said in it.
    pub fn conversation(&self, messages: &[Message], special: SpecialText) -> Result<Conversation> {
        let rendered = self.locate(messages)?;
        let encoded = self.encode_said(&rendered.text, &rendered.said, special)?;
        Ok(Conversation::new(rendered, encoded))
    }

    /// [`Self::conversation`] of some turns with each of several last ones. What they have in common is tokenized once, up
    /// to its last control token, where the tokenizer takes what follows that by itself.
    ///
    /// # Errors
    /// As [`Self::conversation`].
    pub fn conversations(
        &self,
        messages: &[Message],
        last: &[Message],
        special: SpecialText,
    ) -> Result<Vec<Conversation>> {
        let with = |last: &Message| self.locate(&[messages, std::slice::from_ref(last)].concat());
        let all: Vec<Rendered> = last.iter().map(with).collect::<Result<_>>()?;
        let Some(first) = all.first() else { return Ok(vec![]) };
        let whole = self.encode_said(&first.text, &first.said, special)?;
        let same = all.iter().map(|other| common(&first.text, &other.text)).min().unwrap_or(0);
        let cut = self.control.last_set(&first.text[..same], &first.said);
        let behind = |rendered: &Rendered| {
            let said = rendered.said.iter().filter(|words| words.start >= cut);
            let said: Vec<Range<usize>> = said.map(|words| words.start - cut..words.end - cut).collect();
            let mut tail = self.encode_said(&rendered.text[cut..], &said, special)?;
            tail.offsets.iter_mut().for_each(|(start, end)| (*start, *end) = (*start + cut, *end + cut));
            Ok::<_, anyhow::Error>(tail)
        };
        let kept = whole.offsets.partition_point(|(start, _)| *start < cut);
        let tail = behind(first)?;
        let is_apart = tail.ids == whole.ids[kept..] && tail.offsets == whole.offsets[kept..];
        let encode = |rendered: &Rendered| match is_apart {
            true => {
                let tail = behind(rendered)?;
                let ids = [&whole.ids[..kept], &tail.ids].concat();
                let offsets = [&whole.offsets[..kept], &tail.offsets].concat();
                Ok(Encoded { ids, offsets, spelled: self.control.spelled_in(&rendered.text, &rendered.said) })
            }
            false => self.encode_said(&rendered.text, &rendered.said, special),
        };
        let mut encoded = vec![];
        for rendered in &all[1..] {
            encoded.push(encode(rendered)?);
        }
        encoded.insert(0, whole);
        Ok(all
            .into_iter()
            .zip(encoded)
            .map(|(rendered, encoded)| Conversation::new(rendered, encoded))
            .collect())
    }

    /// The ids of `<s>text</s>`, a document to pretrain on, and the number of special tokens that the text spells.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn document(&self, text: &str, special: SpecialText) -> Result<(Vec<u32>, u64)> {
        let said = self.bos.len()..self.bos.len() + text.len();
        self.enclosed(text, &[said], special)
    }

    /// The same of a conversation: `<s>`, its text in the chat template's form, `</s>`.
    ///
    /// # Errors
    /// As [`Tokenizer::render`], or where the tokenizer fails on the text.
    pub fn conversation_document(
        &self,
        messages: &[Message],
        special: SpecialText,
    ) -> Result<(Vec<u32>, u64)> {
        let Rendered { text, said, .. } = self.locate(messages)?;
        let bos = self.bos.len();
        let said: Vec<_> = said.into_iter().map(|words| words.start + bos..words.end + bos).collect();
        self.enclosed(&text, &said, special)
    }

    fn enclosed(&self, text: &str, said: &[Range<usize>], special: SpecialText) -> Result<(Vec<u32>, u64)> {
        let encoded = self.encode_said(&[&self.bos, text, &self.eos].concat(), said, special)?;
        Ok((encoded.ids, encoded.spelled))
    }

    fn encode_said(&self, text: &str, said: &[Range<usize>], special: SpecialText) -> Result<Encoded> {
        let encoded = self.control.encode(&self.inner, text, said, special == SpecialText::Control);
        encoded.with_context(|| format!("{}: a text cannot be tokenized", self.from))
    }

    fn locate(&self, messages: &[Message]) -> Result<Rendered> {
        self.template()?.locate(messages).with_context(|| self.from.clone())
    }

    /// How many special tokens a text spells.
    pub fn spelled(&self, text: &str) -> u64 {
        self.control.spelled(text)
    }

    /// The ids of the beginning of a document, the begin-of-text token in front. With [`SpecialText::Control`] a text may
    /// bring it itself.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn encode_opening(&self, text: &str, special: SpecialText) -> Result<Vec<u32>> {
        if special == SpecialText::Control && text.starts_with(&self.bos) {
            return self.encode(text);
        }
        let said = self.bos.len()..self.bos.len() + text.len();
        Ok(self.encode_said(&[&self.bos, text].concat(), &[said], special)?.ids)
    }

    /// The text of ids; special tokens are left out where `skip_special` is set.
    ///
    /// # Errors
    /// Where an id is none of the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|error| anyhow!("{}: ids cannot be decoded: {error}", self.from))
    }

    /// A conversation as text, with the opening of the answer where the last turn is not the assistant's.
    ///
    /// # Errors
    /// Where there is no chat template, or it refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.template()?.render(messages).with_context(|| self.from.clone())
    }

    /// Ids of the marker after which an answer begins, `<s>assistant`.
    ///
    /// # Errors
    /// Where there is no chat template, or no marker is found in it.
    pub fn answer_marker(&self) -> Result<Vec<u32>> {
        let marker = self.template()?.marker(&self.special_tokens()).with_context(|| self.from.clone())?;
        self.encode(&marker)
    }

    /// Entries of the vocabulary, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The id of the beginning of a text, where there is one.
    pub fn bos(&self) -> Option<u32> {
        self.id(&self.bos)
    }

    /// The id of the end of a text.
    pub fn eos(&self) -> Option<u32> {
        self.id(&self.eos)
    }

    /// SHA-256 over everything that decides about ids: the tokenizer, the template and the ends of text.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Bytes of text that each id stands for; special tokens stand for none.
    ///
    /// Exact for byte-level tokenizers; for others the bytes of the entry's own text.
    pub fn token_bytes(&self) -> Vec<u16> {
        let special: Vec<u32> = self.special_tokens().iter().filter_map(|token| self.id(token)).collect();
        let mut bytes: Vec<u16> =
            self.spellings().iter().map(|bytes| u16::try_from(bytes.len()).unwrap_or(u16::MAX)).collect();
        special.into_iter().for_each(|id| bytes[id as usize] = 0);
        bytes
    }

    /// What each id spells, which may be a part of a character; special tokens spell their names.
    ///
    /// Exact for byte-level tokenizers; for others the entry's own text.
    pub fn spellings(&self) -> Vec<Vec<u8>> {
        let is_byte_level =
            self.inner.to_string(false).is_ok_and(|text| text.contains("\"type\":\"ByteLevel\""));
        let alphabet = if is_byte_level { byte_alphabet() } else { HashMap::new() };
        let added = self.inner.get_added_tokens_decoder();
        let mut spelled = vec![vec![]; self.vocab_size];
        for (token, id) in self.inner.get_vocab(true) {
            let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let byte = byte.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            spelled[id as usize] = if added.contains_key(&id) {
                token.into_bytes()
            } else if is_byte_level {
                token.chars().filter_map(|c| alphabet.get(&c).copied()).collect()
            } else if let Some(byte) = byte {
                vec![byte]
            } else {
                token.replace('\u{2581}', " ").into_bytes()
            };
        }
        spelled
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

/// The byte that each character of the byte-level alphabet stands for (GPT-2's `bytes_to_unicode`): printable ones of
/// Latin-1 for themselves, the others in order from U+0100 on.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    };
    let bytes: Vec<u8> = (0..=255).collect();
    bytes.iter().copied().map(character).zip(bytes.iter().copied()).collect()
}

/// The words of texts, as the pre-tokenizer cuts them, and how often each occurs.
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

/// The chat template in a `tokenizer_config.json`: a text, or the default one of several.
fn chat_template(config: &Value) -> Result<Option<&str>> {
    let text = match config.get("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(several)) => {
            several.iter().find(|one| one["name"] == "default").and_then(|one| one["template"].as_str())
        }
        Some(one) => one.as_str(),
    };
    text.map(Some)
        .with_context(|| format!("{CONFIG}: chat_template is no text and no list with a default one"))
}

/// What `tokenizer_config.json` of MiniMind says, as far as it matters.
fn default_config() -> Value {
    let [unk, bos, eos] = SPECIAL;
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_eos_token": false,
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "chat_template": MINIMIND,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::shared;
    use tokenizers::models::TrainerWrapper;
    use tokenizers::models::bpe::BpeTrainer;

    fn golden(name: &str) -> Option<Value> {
        let text = std::fs::read(shared("golden/tokenizer")?.join(name)).unwrap();
        Some(serde_json::from_slice(&text).unwrap())
    }

    fn minimind() -> Option<Tokenizer> {
        Some(Tokenizer::load(&shared("data/minimind_tokenizer")?).unwrap())
    }

    fn ids(value: &Value) -> Vec<u32> {
        serde_json::from_value(value.clone()).unwrap()
    }

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
            // Bytes per token add up to the text, special tokens left out.
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
    fn golden_conversations_render_as_minimind_renders_them() {
        let (Some(golden), Some(tokenizer)) = (golden("chat_template.json"), minimind()) else {
            return;
        };
        for row in golden.as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
            let rendered = tokenizer.render(&messages).unwrap();
            assert_eq!(rendered, row["rendered"].as_str().unwrap());
            assert_eq!(tokenizer.encode(&rendered).unwrap(), ids(&row["ids"]));
        }
    }

    #[test]
    fn conversations_with_several_ends_are_what_each_is_by_itself() {
        let mut all = vec![];
        all.extend(minimind());
        all.extend(shared("cases/15_letter_ids/pfx").map(|dir| Tokenizer::load(&dir).unwrap()));
        let turns = [("system", "s"), ("user", "天空 是 </s> 蓝"), ("assistant", "A"), ("user", "q")];
        let turns = turns.map(|(role, content)| Message::new(role, content));
        let ends =
            ["A", "B", " 蓝 色", "</s>", "<s>assistant\nA", "A B"].map(|end| Message::new("assistant", end));
        for tokenizer in all {
            for special in [SpecialText::Characters, SpecialText::Control] {
                for turns in [&turns[..], &turns[1..2], &[]] {
                    let found = tokenizer.conversations(turns, &ends, special).unwrap();
                    for (found, end) in found.iter().zip(&ends) {
                        let alone = [turns, std::slice::from_ref(end)].concat();
                        assert_eq!(*found, tokenizer.conversation(&alone, special).unwrap(), "{alone:?}");
                    }
                }
            }
            assert!(tokenizer.conversations(&turns, &[], SpecialText::Characters).unwrap().is_empty());
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

    fn texts(count: usize) -> impl Iterator<Item = String> + Send {
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

    /// What Hugging Face's trainer learns from the same texts.
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
        // 300,000 letters take minutes where a merge goes through the whole word.
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
    fn a_saved_tokenizer_is_the_same_when_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::train(texts(50), 300).unwrap();
        tokenizer.save(dir.path()).unwrap();
        for path in [dir.path().to_path_buf(), dir.path().join(FILE)] {
            let loaded = Tokenizer::load(&path).unwrap();
            assert_eq!(loaded.digest(), tokenizer.digest());
            assert_eq!(loaded.encode("山里有座庙").unwrap(), tokenizer.encode("山里有座庙").unwrap());
        }
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

    #[test]
    fn minimind_s_template_is_taken_only_where_its_tokens_are() {
        let dir = tempfile::tempdir().unwrap();
        let write =
            |name: &str, value: &Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        let load = || Tokenizer::load(dir.path()).unwrap();
        Tokenizer::train(texts(50), 300).unwrap().save(dir.path()).unwrap();
        let whole: Value = serde_json::from_str(&read_text(&dir.path().join(FILE)).unwrap()).unwrap();
        write(CONFIG, &json!({"bos_token": "<s>", "eos_token": "</s>"}));
        let turns = [Message::new("user", "q"), Message::new("assistant", "a")];
        assert_eq!(load().render(&turns).unwrap(), "<s>user\nq</s>\n<s>assistant\na</s>\n");
        // The same tokenizer with another name for the beginning.
        let renamed = whole.to_string().replace("\"<s>\"", "\"<begin>\"");
        write(FILE, &serde_json::from_str(&renamed).unwrap());
        write(CONFIG, &json!({"bos_token": "<begin>", "eos_token": "</s>"}));
        let tokenizer = load();
        let why = tokenizer.no_template().unwrap();
        assert!(
            why.contains("MiniMind's needs <s>, not in its vocabulary; put a chat_template into"),
            "{why}"
        );
        assert!(format!("{:#}", tokenizer.render(&turns).unwrap_err()).contains(why));
        assert!(!tokenizer.encode("山里有座庙").unwrap().is_empty());
        tokenizer.save(dir.path()).unwrap();
        assert_eq!(load().no_template(), Some(why));
        // A template beside it, alone or among several.
        std::fs::write(dir.path().join(TEMPLATE), "{{ messages[0].content }}!").unwrap();
        assert_eq!(load().render(&turns).unwrap(), "q!");
        let several = json!([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]);
        write(CONFIG, &json!({"bos_token": "<begin>", "eos_token": "</s>", "chat_template": several}));
        assert_eq!(load().render(&turns).unwrap(), "d");
        write(CONFIG, &json!({"eos_token": "</s>", "chat_template": []}));
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("chat_template is no text and no list with a default one"), "{error}");
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("tokenizer.json"), "{error}");
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        let error = format!("{:#}", Tokenizer::load(dir.path()).err().unwrap());
        assert!(error.contains("is not a tokenizer.json"), "{error}");
    }
}
