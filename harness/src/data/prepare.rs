//! From rows to token stores: filtered, held out by hash, tokenized in parallel, written whole or not at all.
//!
//! A reading thread, the calling thread with its pool of tokenizing threads, and a writing thread work at the same
//! time on chunks that keep their order, so memory is constant and the stores do not depend on the threads.

use super::row::{Kind, Message, Row};
use super::store::{StoreHead, StoreInfo, StoreWriter};
use super::tokenizer::{SpecialText, Tokenizer};
use crate::run::files::create_dir;
use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;
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

/// What was written.
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
}

/// Tokenizes rows on all cores into the stores `train` and `val` of the folder `out`, which appears when both are
/// complete; an earlier preparation in it is replaced. Memory does not grow with the number of rows.
///
/// `progress` is told the number of rows done.
pub fn prepare(
    rows: impl Iterator<Item = Result<Row>> + Send,
    kind: Kind,
    tokenizer: &Tokenizer,
    val_share: f64,
    out: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    ensure!((0.0..1.0).contains(&val_share), "data.val_share is {val_share}, expected 0 or more and below 1");
    whole(out, |dir| {
        let (train, val) = stores(rows, kind, tokenizer, val_share, dir, progress)?;
        let per_row = if kind == Kind::Preferences { 3 } else { 1 };
        let prepared = Prepared {
            train_rows: train.documents / per_row,
            val_rows: val.documents / per_row,
            tokens: train.tokens + val.tokens,
            bytes: train.bytes + val.bytes,
        };
        ensure!(
            prepared.train_rows > 0,
            "there are no {kind} to train on: {} rows came and were held out by data.val_share",
            prepared.val_rows
        );
        Ok(prepared)
    })
}

/// Fills a folder beside `out` and gives it that name when it is complete.
fn whole<T>(out: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let shown = out.display();
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(
        !out.exists() || is_ours(out),
        "{shown}: exists and holds more than prepared data; choose another folder or remove it"
    );
    create_dir(parent)?;
    let beside = |prefix: &str| {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        made.with_context(|| format!("{}: cannot be written", parent.display()))
    };
    let dir = beside(".preparing-")?;
    let summary = fill(dir.path())?;
    let rename = || -> Result<()> {
        #[cfg(unix)]
        {
            // Temporary folders are private; this one becomes an ordinary one, like the stores in it.
            let ordinary = fs::metadata(dir.path().join(TRAIN))?.permissions();
            fs::set_permissions(dir.path(), ordinary)?;
        }
        if out.exists() {
            let aside = beside(".replaced-")?;
            fs::rename(out, aside.path().join("old"))?;
        }
        fs::rename(dir.path(), out)?;
        Ok(fs::File::open(parent)?.sync_all()?)
    };
    rename().with_context(|| format!("{shown}: cannot be written"))?;
    // The folder has its name now; there is nothing left to remove.
    let _ = dir.keep();
    Ok(summary)
}

/// Whether a folder is empty or holds prepared data and nothing else, so that it may be replaced.
fn is_ours(dir: &Path) -> bool {
    let ours = |name: &std::ffi::OsStr| [TRAIN, VAL, "summary.json"].iter().any(|known| name == *known);
    let whole = |entries: fs::ReadDir| entries.flatten().all(|entry| ours(&entry.file_name()));
    fs::read_dir(dir).is_ok_and(whole)
}

/// A row as documents of ids with the bytes of their texts.
struct Tokenized {
    held_out: bool,
    documents: Vec<(Vec<u32>, usize)>,
}

/// Writes the stores `train` and `val` into `dir`.
fn stores(
    rows: impl Iterator<Item = Result<Row>> + Send,
    kind: Kind,
    tokenizer: &Tokenizer,
    val_share: f64,
    dir: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(StoreInfo, StoreInfo)> {
    let mut head = StoreHead {
        kind,
        token_bytes: tokenizer.token_bytes(),
        marker: Vec::new(),
        turn_end: Vec::new(),
        tokenizer: tokenizer.digest().to_owned(),
    };
    let mut end = String::new();
    if kind != Kind::Pretrain {
        let marks = tokenizer.turn_marks()?;
        head.marker = tokenizer.encode(&marks.marker)?;
        head.turn_end = tokenizer.encode(&marks.end)?;
        end = marks.end;
    }
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
                    chunk.map(|row| documents(row, val_share, tokenizer, &end)).collect();
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
) -> Result<(StoreInfo, StoreInfo)> {
    for row in chunks.iter().flatten() {
        let store = if row.held_out { &mut val } else { &mut train };
        for (ids, bytes) in &row.documents {
            store.push(ids, *bytes)?;
        }
    }
    Ok((train.finish()?, val.finish()?))
}

fn documents(row: Row, val_share: f64, tokenizer: &Tokenizer, end: &str) -> Result<Tokenized> {
    let said = |messages: &[Message]| messages.iter().map(|message| message.content.len()).sum::<usize>();
    let (key, documents) = match row {
        Row::Text(text) => {
            (hash(&text), vec![(tokenizer.document(&text, SpecialText::Control)?.0, text.len())])
        }
        Row::Chat(messages) => {
            let rendered = tokenizer.render(&messages)?;
            (hash(&rendered), vec![(tokenizer.encode(&rendered)?, said(&messages))])
        }
        Row::Preference { prompt, chosen, rejected } => {
            let rendered = tokenizer.render(&prompt)?;
            let answer = |text: String| -> Result<(Vec<u32>, usize)> {
                Ok((tokenizer.encode(&format!("{text}{end}"))?, text.len()))
            };
            let documents =
                vec![(tokenizer.encode(&rendered)?, said(&prompt)), answer(chosen)?, answer(rejected)?];
            // Pairs of one prompt stay on one side, whatever their answers.
            (hash(&rendered), documents)
        }
    };
    let held_out = key < val_share;
    Ok(Tokenized { held_out, documents })
}

/// A number from 0 to 1 that depends on the content alone.
fn hash(content: &str) -> f64 {
    let digest = Sha256::new().chain_update("mindscale held-out 1\0").chain_update(content).finalize();
    let first = digest.iter().take(8).fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    (first >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
