//! From rows to token stores: filtered, held out by hash, tokenized in parallel, written whole or not at all.
//!
//! A reading thread, the calling thread with its pool of tokenizing threads, and a writing thread work at the same
//! time on chunks that keep their order, so memory is constant and the stores do not depend on the threads.

use super::loss::marks;
use super::read::ReadLog;
use super::row::{Kind, Message, Row};
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
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

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

/// What was written, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
}

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
            (self.val_rows, "rows held out for validation (data.val_share)".to_string()),
            (self.special, format!("texts hold special tokens, encoded {encoded}")),
        ];
        let told = counts.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, reason)| Notice { place: place.into(), reason, count, of: rows }).collect()
    }
}

impl Prepared {
    /// Where rows went that are not trained on.
    fn reasons(&self, log: &ReadLog) -> String {
        let mut reasons = vec![format!("{} came", counted((self.val_rows + self.equal) as usize, "row"))];
        if self.val_rows > 0 {
            reasons.push(format!("{} held out by data.val_share", number(self.val_rows)));
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
/// complete; an earlier preparation in it is replaced. Memory does not grow with the number of rows.
///
/// `progress` is told the number of rows done.
///
/// # Errors
/// Where nothing is left to train on; [`crate::stop::Stopped`] once `stop` is set, which is looked at with every row.
pub fn prepare(
    rows: impl Iterator<Item = Result<Row>> + Send,
    preparation: &Preparation,
    out: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let Preparation { kind, val_share, .. } = *preparation;
    ensure!((0.0..1.0).contains(&val_share), "data.val_share is {val_share}, expected 0 or more and below 1");
    folder::whole(out, is_ours, |dir| {
        let prepared = stores(rows, preparation, dir, stop, progress)?;
        ensure!(prepared.train_rows > 0, "no {kind} to train on: {}", prepared.reasons(preparation.log));
        Ok(prepared)
    })
}

/// Whether a folder holds prepared data and nothing else, so that it may be replaced.
fn is_ours(dir: &Path) -> bool {
    let ours = |name: &std::ffi::OsStr| [TRAIN, VAL, "summary.json"].iter().any(|known| name == *known);
    let whole = |entries: fs::ReadDir| entries.flatten().all(|entry| ours(&entry.file_name()));
    fs::read_dir(dir).is_ok_and(whole)
}

/// A row as documents.
#[derive(Default)]
struct Tokenized {
    held_out: bool,
    /// A pair with equal answers has none.
    documents: Vec<Document>,
    /// Special tokens that its texts spell.
    spelled: u64,
}

/// Writes the stores `train` and `val` into `dir`.
fn stores(
    rows: impl Iterator<Item = Result<Row>> + Send,
    preparation: &Preparation,
    dir: &Path,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
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
    let (to_tokenize, chunks) = sync_channel::<Result<Vec<Row>>>(WAITING);
    let (to_write, prepared) = sync_channel::<Vec<Tokenized>>(WAITING);
    thread::scope(|scope| {
        scope.spawn(move || read(rows, &to_tokenize));
        let writer = scope.spawn(move || write(train, val, &prepared));
        // Takes the channels with it when it returns, which ends the threads on both sides.
        let tokenize = move || -> Result<()> {
            let mut done = 0;
            for chunk in chunks {
                let chunk = chunk?.into_par_iter();
                let chunk: Result<Vec<Tokenized>> =
                    chunk.map(|row| check(stop).and_then(|()| preparation.documents(row))).collect();
                let chunk = chunk?;
                done += chunk.len() as u64;
                if to_write.send(chunk).is_err() {
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

/// Sends rows in chunks.
fn read(rows: impl Iterator<Item = Result<Row>>, chunks: &SyncSender<Result<Vec<Row>>>) {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for row in rows {
        match row {
            Ok(row) => {
                bytes += row.texts().map(str::len).sum::<usize>();
                chunk.push(row);
            }
            Err(error) => {
                // Nobody listens after an error on the other side, and then this one does not matter.
                let _ = chunks.send(Err(error));
                return;
            }
        }
        if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
            bytes = 0;
            if chunks.send(Ok(std::mem::take(&mut chunk))).is_err() {
                return;
            }
        }
    }
    let _ = chunks.send(Ok(chunk));
}

fn write(
    mut train: StoreWriter,
    mut val: StoreWriter,
    chunks: &Receiver<Vec<Tokenized>>,
) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    for row in chunks.iter().flatten() {
        prepared.special += u64::from(row.spelled > 0);
        let (store, rows) = match (row.documents.is_empty(), row.held_out) {
            (true, _) => (&mut train, &mut prepared.equal),
            (false, true) => (&mut val, &mut prepared.val_rows),
            (false, false) => (&mut train, &mut prepared.train_rows),
        };
        *rows += 1;
        for document in &row.documents {
            store.push(document)?;
        }
    }
    for info in [train.finish()?, val.finish()?] {
        prepared.tokens += info.tokens;
        prepared.bytes += info.bytes;
    }
    Ok(prepared)
}

impl Preparation<'_> {
    fn documents(&self, row: Row) -> Result<Tokenized> {
        let (key, documents, spelled) = match row {
            Row::Text(text) => {
                let (ids, spelled) = self.tokenizer.document(&text, self.special)?;
                (hash(&text), vec![Document { ids, marks: vec![], bytes: text.len() }], spelled)
            }
            Row::Chat(messages) => self.chat(&messages).with_context(|| about(&messages))?,
            Row::Preference { prompt, chosen, rejected } => {
                // Pairs of one prompt stay on one side, whatever their answers.
                let key = hash(&self.tokenizer.render(&prompt)?);
                let answered = |answer: String| -> Result<(Document, u64)> {
                    let messages = [&prompt[..], &[Message::new("assistant", answer)]].concat();
                    self.conversation(&messages).with_context(|| about(&messages))
                };
                let ((chosen, one), (rejected, other)) = (answered(chosen)?, answered(rejected)?);
                let documents = if chosen.ids == rejected.ids { vec![] } else { vec![chosen, rejected] };
                (key, documents, one + other)
            }
        };
        Ok(Tokenized { held_out: key < self.val_share, documents, spelled })
    }

    fn chat(&self, messages: &[Message]) -> Result<(f64, Vec<Document>, u64)> {
        let rendered = self.tokenizer.render(messages)?;
        let bytes = said(messages);
        let (document, spelled) = match (self.kind, self.rows) {
            (Kind::Pretrain, _) => {
                let (ids, spelled) = self.tokenizer.conversation_document(messages, self.special)?;
                (Document { ids, marks: vec![], bytes }, spelled)
            }
            (_, RowStyle::Minimind) => {
                let spelled = messages.iter().map(|message| self.tokenizer.spelled(&message.content)).sum();
                (Document { ids: self.tokenizer.encode(&rendered)?, marks: vec![], bytes }, spelled)
            }
            (_, RowStyle::Turns) => self.conversation(messages)?,
        };
        Ok((hash(&rendered), vec![document], spelled))
    }

    /// A conversation with its marks, and how many special tokens its texts spell.
    fn conversation(&self, messages: &[Message]) -> Result<(Document, u64)> {
        let found = self.tokenizer.conversation(messages, self.special)?;
        let marks = marks(&found, messages);
        Ok((Document { ids: found.ids, marks, bytes: said(messages) }, found.spelled))
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

/// A number from 0 to 1 that depends on the content alone.
fn hash(content: &str) -> f64 {
    let digest = Sha256::new().chain_update("mindscale held-out 1\0").chain_update(content).finalize();
    let first = digest.iter().take(8).fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    (first >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
