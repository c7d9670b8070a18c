//! From rows to token stores: rows are split into training and held-out ones by hash, tokenized in parallel, and written
//! completely or not at all.
//!
//! A reading thread, the calling thread with its pool of tokenizing threads, and a writing thread work concurrently
//! on chunks that keep their order, so memory is constant and the stores do not depend on the threads.

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
use writing::{Chunk, PartInfo, Tokenized, Writing, Written};

/// Subfolder of the prepared data with the training documents.
pub const TRAIN: &str = "train";
/// Subfolder of the prepared data with the held-out documents.
pub const VAL: &str = "val";

/// Most rows of a chunk, and bytes of text at which a chunk is full with fewer rows.
const CHUNK_ROWS: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

/// Capacity, in chunks, of the channel between two threads.
const WAITING: usize = 2;

/// Options for turning rows into documents.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// Kind of the rows.
    pub kind: Kind,
    /// Tokenizer of the rows.
    pub tokenizer: &'a Tokenizer,
    /// Share of the rows that is held out, by hash; at least 0 and below 1.
    pub val_share: f64,
    /// How answers in conversations are found: by their turns, or by MiniMind's marker.
    pub rows: RowStyle,
    /// How special tokens that occur in a text are encoded.
    pub special: SpecialText,
    /// What was skipped while reading, for the error that nothing is left.
    pub log: &'a ReadLog,
}

impl<'a> Preparation<'a> {
    /// Takes the options from a configuration.
    pub fn new(kind: Kind, tokenizer: &'a Tokenizer, data: &DataConfig, log: &'a ReadLog) -> Self {
        let as_control = data.special_tokens_in_text || data.rows == RowStyle::Minimind;
        let special = if as_control { SpecialText::Control } else { SpecialText::Characters };
        Self { kind, tokenizer, val_share: data.val_share, rows: data.rows, special, log }
    }
}

/// Rows of one source or validation set.
pub struct Part<'a> {
    /// Configuration key that names its files, such as `data.pretrain.web`, for error messages.
    pub key: String,
    /// Name of the source or of the validation set, if it has one.
    pub name: Option<String>,
    /// Whether all of its rows are held out, as for validation files; otherwise a share of them is.
    pub is_held_out: bool,
    /// The rows.
    pub rows: Box<dyn Iterator<Item = Result<Row>> + Send + 'a>,
}

impl<'a> Part<'a> {
    /// Makes a single part of rows without a name, of which a share is held out.
    pub fn all(rows: impl Iterator<Item = Result<Row>> + Send + 'a) -> Vec<Self> {
        vec![Self { key: String::new(), name: None, is_held_out: false, rows: Box::new(rows) }]
    }
}

/// Counts of what was prepared and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Number of training rows.
    pub train_rows: u64,
    /// Number of held-out rows.
    pub val_rows: u64,
    /// Number of tokens of both.
    pub tokens: u64,
    /// Bytes of the texts of both, without special tokens.
    pub bytes: u64,
    /// Number of pairs that are left out because their answers are equal.
    pub equal: u64,
    /// Number of rows whose texts contain special tokens.
    pub special: u64,
    /// For each validation set, how many of its rows are also trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlaps: Vec<Overlap>,
    /// Number of training documents of each file, in the order of the store; files without any are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileDocuments>,
}

/// Number of documents of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDocuments {
    /// Path of the file.
    pub path: String,
    /// Number of documents; a preference pair is two.
    pub documents: u64,
}

/// Overlap of one validation set with the training rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Name of the set; empty if it has none.
    pub set: String,
    /// Number of rows that equal a training row in their text, or for a pair in its prompt.
    pub rows: u64,
    /// Number of rows of the set.
    pub of: u64,
    /// Number of its pairs that are left out, in addition, because their answers are equal.
    #[serde(default)]
    pub equal: u64,
}

/// Reason why pairs are left out.
const EQUAL: &str = "pairs left out: chosen and rejected are equal";

/// Fewer held-out rows than this cause a notice.
const MIN_VAL_ROWS: u64 = 20;

impl Prepared {
    /// Returns notices, labelled `place` (such as `sft`), about left-out and held-out rows, special tokens in texts and
    /// overlaps of validation sets; what was skipped while reading is not included.
    pub fn notices(&self, place: &str, preparation: &Preparation) -> Vec<Notice> {
        let encoded = match preparation.special {
            SpecialText::Characters => "as characters",
            SpecialText::Control => "as control tokens",
        };
        let rows = self.train_rows + self.val_rows + self.equal;
        let of_files: u64 = self.overlaps.iter().map(|set| set.of + set.equal).sum();
        let notice = |place: &str, count: u64, of: u64, reason: &str| Notice {
            place: place.into(),
            reason: reason.into(),
            count,
            of,
        };
        let mut found = vec![
            notice(place, self.equal_in_training(), rows - of_files, EQUAL),
            notice(place, self.by_share(), rows, "rows held out for validation (data.val_share)"),
            notice(place, self.special, rows, &format!("texts hold special tokens, encoded {encoded}")),
        ];
        found.retain(|notice| notice.count > 0);
        if preparation.val_share > 0.0 && self.val_rows == 0 {
            let share = preparation.val_share;
            let reason = format!("rows held out (data.val_share = {share}): there is no validation loss");
            found.push(notice(place, 0, rows, &reason));
        }
        if (1..MIN_VAL_ROWS).contains(&self.val_rows) {
            let (are, advice) = match self.overlaps.is_empty() {
                true => ("held out", "raise data.val_share or give validation files"),
                false => ("for validation", "give more of them"),
            };
            let reason = format!("rows are {are}, too few to compare models by their losses; {advice}");
            found.push(notice(place, self.val_rows, rows, &reason));
        }
        for Overlap { set, rows, of, equal } in &self.overlaps {
            let place = match set.as_str() {
                "" => format!("{place}, held out"),
                name => format!("{place}, held out ({name})"),
            };
            let of_set = [
                notice(&place, *equal, of + equal, EQUAL),
                notice(&place, *rows, *of, "validation rows also occur in the training rows"),
            ];
            found.extend(of_set.into_iter().filter(|notice| notice.count > 0));
        }
        found
    }
}

impl Prepared {
    /// Number of rows that are held out by `data.val_share`.
    fn by_share(&self) -> u64 {
        self.val_rows - self.overlaps.iter().map(|set| set.of).sum::<u64>()
    }

    /// Number of pairs outside of validation files that are left out because their answers are equal.
    fn equal_in_training(&self) -> u64 {
        self.equal - self.overlaps.iter().map(|set| set.equal).sum::<u64>()
    }

    /// Describes why rows are not trained on.
    fn reasons(&self, log: &ReadLog) -> String {
        let equal = self.equal_in_training();
        let mut reasons =
            vec![format!("{} after filtering", counted((self.by_share() + equal) as usize, "row"))];
        if self.by_share() > 0 {
            reasons.push(format!("{} held out by data.val_share", number(self.by_share())));
        }
        if equal > 0 {
            reasons.push(format!("{} with chosen equal to rejected", counted(equal as usize, "pair")));
        }
        let read = log.report();
        if read.left_out() > 0 {
            reasons.push(read.reasons());
        }
        reasons.join(", ")
    }
}

/// Tokenizes rows on all cores into the stores `train` and `val` of the folder `out`, which appears when both are
/// complete; an earlier preparation in it is replaced. Memory does not grow with the number of training rows.
///
/// In `parts`, held-out parts must come first, so that training rows equal to theirs are found. `progress` receives the
/// number of rows processed so far.
///
/// # Errors
/// If nothing is left to train on, or a named or held-out part has no rows; [`crate::stop::Stopped`] once `stop` is set,
/// which is checked at every row.
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
        let infos: Vec<PartInfo> = parts.iter().map(PartInfo::of).collect();
        let (mut prepared, written) = stores(parts, &infos, preparation, dir, stop, progress)?;
        let files = preparation.log.report().files;
        for (file, of_file) in files.into_iter().zip(&mut prepared.files) {
            of_file.path = file.path.display().to_string();
        }
        prepared.files.retain(|file| file.documents > 0 && !file.path.is_empty());
        ensure!(prepared.train_rows > 0, "no {kind} to train on: {}", prepared.reasons(preparation.log));
        for (part, Written { equal, .. }) in infos.iter().zip(written).filter(|(_, of)| of.rows == 0) {
            let purpose = if part.is_held_out { "validate" } else { "train" };
            let why = match equal {
                0 => String::new(),
                count => format!(": {} with chosen equal to rejected", counted(count as usize, "pair")),
            };
            ensure!(part.name.is_none() && !part.is_held_out, "{}: no {kind} to {purpose} on{why}", part.key);
        }
        Ok(prepared)
    })
}

/// Whether a folder holds prepared data and nothing else, so it may be replaced.
fn is_ours(dir: &Path) -> bool {
    let ours = |name: &std::ffi::OsStr| [TRAIN, VAL, "summary.json"].iter().any(|known| name == *known);
    let whole = |entries: fs::ReadDir| entries.flatten().all(|entry| ours(&entry.file_name()));
    fs::read_dir(dir).is_ok_and(whole)
}

/// Writes the stores `train` and `val` into `dir`; also returns what was written of each part.
fn stores(
    parts: Vec<Part>,
    infos: &[PartInfo],
    preparation: &Preparation,
    dir: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(Prepared, Vec<Written>)> {
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
    let writing = Writing::new(train, val, infos, preparation.val_share);
    thread::scope(|scope| {
        scope.spawn(move || read(parts, preparation.log, &to_tokenize));
        let writer = scope.spawn(move || writing.write_all(&prepared));
        // Drops its channel ends when it returns, which ends the threads on both sides.
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

/// Sends rows in chunks, each from one file of one part; `log` is the read log of the rows.
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
                    // If the receiver is gone, it has failed already and this error does not matter.
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
        // Sent even for a part without rows, so that it becomes a source without documents.
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
            Row::Chat(messages) => self.chat(&messages).with_context(|| describe(&messages))?,
            Row::Labelled { text, labels } => {
                let document = self.labelled(&text, &labels)?;
                (hash(&format!("{text}\n{labels}")), vec![document], 0)
            }
            Row::Preference { prompt, chosen, rejected } => {
                // Pairs with the same prompt stay on the same side, whatever their answers.
                let content = hash(&self.tokenizer.render(&prompt)?);
                let answered = |answer: String| -> Result<(Document, u64)> {
                    let messages = [&prompt[..], &[Message::new("assistant", answer)]].concat();
                    self.conversation(&messages).with_context(|| describe(&messages))
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
        let bytes = content_bytes(messages);
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

    /// Makes a document of a sequence, its labels and the end-of-text token, which gives the label of the last word a place.
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

    /// Makes a document of a conversation with its marks; also returns the number of special tokens in its texts.
    fn conversation(&self, messages: &[Message]) -> Result<(Document, u64)> {
        let found = self.tokenizer.conversation(messages, self.special)?;
        let marks = marks(&found, messages);
        let document =
            Document { ids: found.ids, marks, bytes: content_bytes(messages), ..Document::default() };
        Ok((document, found.spelled))
    }
}

/// Returns the bytes of the contents of all messages.
fn content_bytes(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.content.len()).sum()
}

/// Describes a conversation for an error by the beginning of its first question.
fn describe(messages: &[Message]) -> String {
    let asked = messages.iter().find(|message| message.role == "user");
    let start: String = asked.map_or("", |message| message.content.as_str()).chars().take(40).collect();
    format!("the conversation with the question {start:?}")
}

/// Returns the first 128 bits of a SHA-256 that identifies a content and decides whether it is held out.
fn hash(content: &str) -> u128 {
    let digest = Sha256::new().chain_update("mindscale held-out 1\0").chain_update(content).finalize();
    digest.iter().take(16).fold(0, |value, &byte| value << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests;
