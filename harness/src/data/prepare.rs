//! From rows to token stores: filtered, held out by hash, tokenized in parallel, written whole or not at all.
//!
//! A reading thread, the calling thread with its pool of tokenizing threads, and a writing thread work at the same
//! time on chunks that keep their order, so memory is constant and the stores do not depend on the threads.

mod writing;

use super::loss::marks;
use super::read::ReadLog;
use super::row::{Kind, Message, NO_LABEL, Row};
use super::store::{Document, StoreHead, StoreWriter};
use super::tokenizer::{SpecialText, Tokenizer};
use crate::config::{DataConfig, RowStyle};
use crate::fsutil::folder;
use crate::records::Notice;
use crate::stop::check;
use crate::track::{counted, number};
use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use writing::{About, Chunk, Tokenized, Writing};

/// Where trained-on documents lie in the folder of prepared data.
pub const TRAIN: &str = "train";
/// Where held-out documents lie in the folder of prepared data.
pub const VAL: &str = "val";

/// Rows of a chunk, and bytes of text after which a chunk is full earlier.
const CHUNK_ROWS: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks that wait between two threads.
const WAITING: usize = 2;

/// How rows become documents.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// What the rows are.
    pub kind: Kind,
    /// What tokenizes them.
    pub tokenizer: &'a Tokenizer,
    /// Share of the rows that is held out, by hash.
    pub val_share: f64,
    /// Whether conversations are marked by their turns, or MiniMind's.
    pub rows: RowStyle,
    /// What becomes of special tokens that a text spells.
    pub special: SpecialText,
    /// What was left out in reading, for the error that nothing is left.
    pub log: &'a ReadLog,
}

impl<'a> Preparation<'a> {
    /// As a configuration says.
    pub fn new(kind: Kind, tokenizer: &'a Tokenizer, data: &DataConfig, log: &'a ReadLog) -> Self {
        let as_control = data.special_tokens_in_text || data.rows == RowStyle::Minimind;
        let special = if as_control { SpecialText::Control } else { SpecialText::Characters };
        Self { kind, tokenizer, val_share: data.val_share, rows: data.rows, special, log }
    }
}

/// Rows of one source, and what becomes of them.
pub struct Part<'a> {
    /// The key that names its files, for messages: `data.pretrain.web`.
    pub key: String,
    /// The name of the source, or of the validation set.
    pub name: Option<String>,
    /// Whether all of its rows are held out, as those of validation files; otherwise a share of them.
    pub is_held_out: bool,
    /// The rows.
    pub rows: Box<dyn Iterator<Item = Result<Row>> + Send + 'a>,
}

impl<'a> Part<'a> {
    /// Rows of a source without a name, of which a share is held out.
    pub fn all(rows: impl Iterator<Item = Result<Row>> + Send + 'a) -> Vec<Self> {
        vec![Self { key: String::new(), name: None, is_held_out: false, rows: Box::new(rows) }]
    }
}

/// What was written, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Rows to train on.
    pub train_rows: u64,
    /// Rows held out.
    pub val_rows: u64,
    /// Tokens of both.
    pub tokens: u64,
    /// Bytes of the texts of both, special tokens left out.
    pub bytes: u64,
    /// Pairs left out as their answers are equal.
    pub equal: u64,
    /// Rows whose texts spell special tokens.
    pub special: u64,
    /// The validation files' rows that are trained on as well, of all, by the names of their sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlaps: Vec<Overlap>,
    /// The documents to train on of each file, in the order of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDocuments>,
}

/// Documents of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDocuments {
    /// The file.
    pub path: String,
    /// How many; of a preference pair two.
    pub documents: u64,
}

/// Rows of validation files that are among the training rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The name of the set; empty where it has none.
    pub set: String,
    /// Rows that a training row is equal to: in its text, of a pair in its prompt.
    pub rows: u64,
    /// All rows of the set.
    pub of: u64,
}

/// A validation set of fewer rows is told of.
const FEW: u64 = 20;

impl Prepared {
    /// What was left out at `place`, such as `sft`, beside what was not read; and which texts are special.
    pub fn notices(&self, place: &str, preparation: &Preparation) -> Vec<Notice> {
        let encoded = match preparation.special {
            SpecialText::Characters => "as characters",
            SpecialText::Control => "as control tokens",
        };
        let rows = self.train_rows + self.val_rows + self.equal;
        let counts = [
            (self.equal, "pairs left out: chosen and rejected are equal".to_string()),
            (self.by_share(), "rows held out for validation (data.val_share)".to_string()),
            (self.special, format!("texts hold special tokens, encoded {encoded}")),
        ];
        let mut told: Vec<(u64, String)> = counts.into_iter().filter(|(count, _)| *count > 0).collect();
        if preparation.val_share > 0.0 && self.val_rows == 0 {
            let share = preparation.val_share;
            told.push((0, format!("rows held out (data.val_share = {share}): there is no validation loss")));
        }
        if (1..FEW).contains(&self.val_rows) {
            let reason = "rows are held out, too few to tell models apart by their losses; data.val_share or files to validate on give more";
            told.push((self.val_rows, reason.into()));
        }
        let told =
            told.into_iter().map(|(count, reason)| Notice { place: place.into(), reason, count, of: rows });
        let overlap = |Overlap { set, rows, of }: &Overlap| Notice {
            place: match set.as_str() {
                "" => format!("{place}, held out"),
                name => format!("{place}, held out ({name})"),
            },
            reason: "validation rows are equal to rows that are trained on".into(),
            count: *rows,
            of: *of,
        };
        told.chain(self.overlaps.iter().filter(|overlap| overlap.rows > 0).map(overlap)).collect()
    }
}

impl Prepared {
    /// Rows held out of those to train on.
    fn by_share(&self) -> u64 {
        self.val_rows - self.overlaps.iter().map(|set| set.of).sum::<u64>()
    }

    /// Where rows went that are not trained on.
    fn reasons(&self, log: &ReadLog) -> String {
        let mut reasons = vec![format!("{} came", counted((self.by_share() + self.equal) as usize, "row"))];
        if self.by_share() > 0 {
            reasons.push(format!("{} held out by data.val_share", number(self.by_share())));
        }
        if self.equal > 0 {
            reasons.push(format!("{} with chosen equal to rejected", counted(self.equal as usize, "pair")));
        }
        let read = log.report();
        if read.left_out() > 0 {
            reasons.push(read.reasons());
        }
        reasons.join(", ")
    }
}

/// Tokenizes rows on all cores into the stores `train` and `val` of the folder `out`, which appears when both are
/// complete; an earlier preparation in it is replaced. Memory does not grow with the number of rows to train on.
///
/// `parts`: those that are held out come first, so that training rows equal to theirs are found. `progress` is told
/// the number of rows done.
///
/// # Errors
/// Where nothing is left to train on, or nothing of a part that has a name or is held out; [`crate::stop::Stopped`] once `stop` is set, which is looked at with every row.
pub fn prepare(
    parts: Vec<Part>,
    preparation: &Preparation,
    out: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let Preparation { kind, val_share, .. } = *preparation;
    ensure!((0.0..1.0).contains(&val_share), "data.val_share is {val_share}, expected 0 or more and below 1");
    folder::whole(out, is_ours, |dir| {
        let about: Vec<About> = parts.iter().map(About::of).collect();
        let (mut prepared, written) = stores(parts, &about, preparation, dir, stop, progress)?;
        let files = preparation.log.report().files;
        for (file, of_file) in files.into_iter().zip(&mut prepared.files) {
            of_file.path = file.path.display().to_string();
        }
        prepared.files.retain(|file| file.documents > 0 && !file.path.is_empty());
        ensure!(prepared.train_rows > 0, "no {kind} to train on: {}", prepared.reasons(preparation.log));
        for (part, _) in about.iter().zip(written).filter(|(_, rows)| *rows == 0) {
            let purpose = if part.is_held_out { "validate" } else { "train" };
            let read = preparation.log.report();
            let left_out = if read.left_out() > 0 { format!(": {}", read.reasons()) } else { String::new() };
            ensure!(
                part.name.is_none() && !part.is_held_out,
                "{}: no {kind} to {purpose} on{left_out}",
                part.key
            );
        }
        Ok(prepared)
    })
}

/// Whether a folder holds prepared data and nothing else, so that it may be replaced.
fn is_ours(dir: &Path) -> bool {
    let ours = |name: &std::ffi::OsStr| [TRAIN, VAL, "summary.json"].iter().any(|known| name == *known);
    let whole = |entries: fs::ReadDir| entries.flatten().all(|entry| ours(&entry.file_name()));
    fs::read_dir(dir).is_ok_and(whole)
}

/// Writes the stores `train` and `val` into `dir`; with how many rows were written of each part.
fn stores(
    parts: Vec<Part>,
    about: &[About],
    preparation: &Preparation,
    dir: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Prepared, Vec<u64>)> {
    let Preparation { kind, tokenizer, rows: style, .. } = *preparation;
    let head = StoreHead {
        kind,
        token_bytes: tokenizer.token_bytes(),
        marker: match (kind, style) {
            (Kind::Conversations, RowStyle::Minimind) => tokenizer.answer_marker()?,
            _ => Vec::new(),
        },
        tokenizer: tokenizer.digest().to_owned(),
    };
    let train = StoreWriter::create(&dir.join(TRAIN), head.clone())?;
    let val = StoreWriter::create(&dir.join(VAL), head)?;
    let (to_tokenize, chunks) = sync_channel::<Result<Chunk<Row>>>(WAITING);
    let (to_write, prepared) = sync_channel::<Chunk<Tokenized>>(WAITING);
    let writing = Writing::new(train, val, about, preparation.val_share);
    thread::scope(|scope| {
        scope.spawn(move || read(parts, preparation.log, &to_tokenize));
        let writer = scope.spawn(move || writing.all(&prepared));
        // Takes the channels with it when it returns, which ends the threads on both sides.
        let tokenize = move || -> Result<()> {
            let mut done = 0;
            for chunk in chunks {
                let Chunk { part, file, rows } = chunk?;
                let rows = rows.into_par_iter();
                let rows: Result<Vec<Tokenized>> =
                    rows.map(|row| check(stop).and_then(|()| preparation.documents(row))).collect();
                let rows = rows?;
                done += rows.len() as u64;
                if to_write.send(Chunk { part, file, rows }).is_err() {
                    break;
                }
                progress(done);
            }
            Ok(())
        };
        let tokenized = tokenize();
        let written = writer.join().map_err(|_| anyhow!("the thread that writes data died"))?;
        tokenized?;
        written
    })
}

/// Sends rows in chunks, each of one file of one part; `log` is that of the reading.
fn read(parts: Vec<Part>, log: &ReadLog, chunks: &SyncSender<Result<Chunk<Row>>>) {
    for (part, Part { rows: from, .. }) in parts.into_iter().enumerate() {
        let (mut rows, mut bytes, mut file) = (Vec::new(), 0, 0);
        for row in from {
            match row {
                Ok(row) => {
                    let now = log.files_begun();
                    if now != file && !rows.is_empty() {
                        bytes = 0;
                        if chunks.send(Ok(Chunk { part, file, rows: std::mem::take(&mut rows) })).is_err() {
                            return;
                        }
                    }
                    file = now;
                    bytes += row.texts().map(str::len).sum::<usize>();
                    rows.push(row);
                }
                Err(error) => {
                    // Nobody listens after an error on the other side, and then this one does not matter.
                    let _ = chunks.send(Err(error));
                    return;
                }
            }
            if rows.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                bytes = 0;
                if chunks.send(Ok(Chunk { part, file, rows: std::mem::take(&mut rows) })).is_err() {
                    return;
                }
            }
        }
        // Also of a part without rows, which is a source without documents.
        if chunks.send(Ok(Chunk { part, file, rows })).is_err() {
            return;
        }
    }
}

impl Preparation<'_> {
    fn documents(&self, row: Row) -> Result<Tokenized> {
        let (content, documents, spelled) = match row {
            Row::Text(text) => {
                let (ids, spelled) = self.tokenizer.document(&text, self.special)?;
                (hash(&text), vec![Document { ids, bytes: text.len(), ..Document::default() }], spelled)
            }
            Row::Chat(messages) => self.chat(&messages).with_context(|| about(&messages))?,
            Row::Labelled { text, labels } => {
                let document = self.labelled(&text, &labels)?;
                (hash(&format!("{text}\n{labels}")), vec![document], 0)
            }
            Row::Preference { prompt, chosen, rejected } => {
                // Pairs of one prompt stay on one side, whatever their answers.
                let content = hash(&self.tokenizer.render(&prompt)?);
                let answered = |answer: String| -> Result<(Document, u64)> {
                    let messages = [&prompt[..], &[Message::new("assistant", answer)]].concat();
                    self.conversation(&messages).with_context(|| about(&messages))
                };
                let ((chosen, one), (rejected, other)) = (answered(chosen)?, answered(rejected)?);
                let documents = if chosen.ids == rejected.ids { vec![] } else { vec![chosen, rejected] };
                (content, documents, one + other)
            }
        };
        Ok(Tokenized { content, documents, spelled })
    }

    fn chat(&self, messages: &[Message]) -> Result<(u128, Vec<Document>, u64)> {
        let rendered = self.tokenizer.render(messages)?;
        let bytes = said(messages);
        let (document, spelled) = match (self.kind, self.rows) {
            (Kind::Pretrain, _) => {
                let (ids, spelled) = self.tokenizer.conversation_document(messages, self.special)?;
                (Document { ids, bytes, ..Document::default() }, spelled)
            }
            (_, RowStyle::Minimind) => {
                let spelled = messages.iter().map(|message| self.tokenizer.spelled(&message.content)).sum();
                let ids = self.tokenizer.encode(&rendered)?;
                (Document { ids, bytes, ..Document::default() }, spelled)
            }
            (_, RowStyle::Turns) => self.conversation(messages)?,
        };
        Ok((hash(&rendered), vec![document], spelled))
    }

    /// A sequence with its labels, and behind it the end of text, so that what is said behind its last word has a place.
    fn labelled(&self, text: &str, labels: &str) -> Result<Document> {
        let mut ids = self.tokenizer.words(text)?;
        ids.extend(self.tokenizer.eos());
        let label = |label: &str| match label {
            NO_LABEL => Ok(0),
            label => Ok(self.tokenizer.words(label)?[0]),
        };
        let labels = std::iter::once(Ok(0)).chain(labels.split_ascii_whitespace().map(label));
        let labels = labels.collect::<Result<Vec<u32>>>()?;
        let (of_words, of_labels) = (ids.len() - 1, labels.len() - 1);
        ensure!(of_words == of_labels, "a sequence of {of_words} words has {of_labels} labels: {text}");
        Ok(Document { ids, labels, bytes: text.len(), ..Document::default() })
    }

    /// A conversation with its marks, and how many special tokens its texts spell.
    fn conversation(&self, messages: &[Message]) -> Result<(Document, u64)> {
        let found = self.tokenizer.conversation(messages, self.special)?;
        let marks = marks(&found, messages);
        let document = Document { ids: found.ids, marks, bytes: said(messages), ..Document::default() };
        Ok((document, found.spelled))
    }
}

/// Bytes of what is said.
fn said(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.len()).sum()
}

/// A conversation in an error: how it begins.
fn about(messages: &[Message]) -> String {
    let asked = messages.iter().find(|message| message.role == "user");
    let start: String = asked.map_or("", |message| message.content.as_str()).chars().take(40).collect();
    format!("a conversation that asks {start:?}")
}

/// What stands for a content.
fn hash(content: &str) -> u128 {
    let digest = Sha256::new().chain_update("mindscale held-out 1\0").chain_update(content).finalize();
    digest.iter().take(16).fold(0, |value, &byte| value << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests;
