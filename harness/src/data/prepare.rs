//! Tokenizes rows into stores: one to train on, one held out.

use super::row::{Kind, Message, Row};
use super::store::StoreWriter;
use super::tokenizer::Tokenizer;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::mpsc::sync_channel;

/// Rows that are tokenized together.
const CHUNK: usize = 2048;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Rows to train on.
    pub train_rows: u64,
    /// Rows held out.
    pub val_rows: u64,
    /// Tokens of both.
    pub tokens: u64,
}

/// The texts of a row that are tokenized, each a document of the store.
///
/// Pretraining: `<s>text</s>`. Conversations: the chat template. Preferences: the prompt with its assistant
/// opening, then both answers with their ends.
fn documents(row: Row, tokenizer: &Tokenizer) -> Result<Vec<String>> {
    Ok(match row {
        Row::Text(text) => vec![format!("<s>{text}</s>")],
        Row::Chat(turns) => vec![tokenizer.render(&turns)?],
        Row::Preference { prompt, chosen, rejected } => {
            let opening = tokenizer.render(&prompt)?;
            let answer = |text: String| -> Result<String> {
                let turns: Vec<Message> =
                    prompt.iter().cloned().chain([Message::new("assistant", text.clone())]).collect();
                let whole = tokenizer.render(&turns)?;
                Ok(whole.strip_prefix(&opening).map_or_else(|| format!("{text}</s>\n"), str::to_string))
            };
            vec![opening.clone(), answer(chosen)?, answer(rejected)?]
        }
    })
}

/// Whether a row is held out: by the hash of its first text, so that equal texts fall on one side.
fn is_held_out(text: &str, share: f64) -> bool {
    let hash = Sha256::digest(text);
    let mut head = [0; 8];
    head.copy_from_slice(&hash[..8]);
    (u64::from_be_bytes(head) as f64) < share * u64::MAX as f64
}

/// Tokenizes rows on all cores into `out/train` and `out/val`; memory does not grow with their number.
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
    let mut train = StoreWriter::create(&out.join("train"))?;
    let mut val = StoreWriter::create(&out.join("val"))?;
    let mut prepared = Prepared::default();
    let per_row = if kind == Kind::Preferences { 3 } else { 1 };
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel::<Result<Vec<String>>>(2);
        scope.spawn(move || read_chunks(rows, tokenizer, &sender));
        for texts in chunks {
            let texts = texts?;
            let ids = tokenizer.encode_batch(texts.clone())?;
            for (texts, ids) in texts.chunks_exact(per_row).zip(ids.chunks_exact(per_row)) {
                let held_out = is_held_out(&texts[0], val_share);
                let (store, rows) = if held_out {
                    (&mut val, &mut prepared.val_rows)
                } else {
                    (&mut train, &mut prepared.train_rows)
                };
                *rows += 1;
                for (text, ids) in texts.iter().zip(ids) {
                    store.push(ids, text.len())?;
                    prepared.tokens += ids.len() as u64;
                }
            }
            progress(prepared.train_rows + prepared.val_rows);
        }
        Ok::<_, anyhow::Error>(())
    })?;
    train.finish()?;
    val.finish()?;
    Ok(prepared)
}

fn read_chunks(
    rows: impl Iterator<Item = Result<Row>>,
    tokenizer: &Tokenizer,
    sender: &std::sync::mpsc::SyncSender<Result<Vec<String>>>,
) {
    let mut texts = vec![];
    for row in rows {
        match row.and_then(|row| documents(row, tokenizer)) {
            Ok(row) => texts.extend(row),
            Err(e) => {
                // A receiver that is gone has failed itself.
                let _ = sender.send(Err(e));
                return;
            }
        }
        if texts.len() >= 3 * CHUNK && sender.send(Ok(std::mem::take(&mut texts))).is_err() {
            return;
        }
    }
    let _ = sender.send(Ok(texts));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::store::Store;

    #[test]
    fn rows_become_documents_and_some_are_held_out() {
        let texts = || (0..500).map(|i| format!("第{i}行 文字"));
        let tokenizer = Tokenizer::train(texts(), 300).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let rows = texts().map(|t| Ok(Row::Text(t)));
        let prepared = prepare(rows, Kind::Pretrain, &tokenizer, 0.1, dir.path(), &|_| ()).unwrap();
        assert_eq!(prepared.train_rows + prepared.val_rows, 500);
        assert!((30..70).contains(&prepared.val_rows), "{prepared:?}");
        let train = Store::open(&dir.path().join("train")).unwrap();
        let first = texts().find(|t| !is_held_out(&format!("<s>{t}</s>"), 0.1)).unwrap();
        assert_eq!(train.document(0, 100), tokenizer.encode(&format!("<s>{first}</s>")).unwrap());
        assert_eq!(train.bytes(0), first.len() as u64 + 7);
    }

    #[test]
    fn preferences_become_three_documents() {
        let tokenizer = Tokenizer::train(std::iter::once("问答".to_string()), 270).unwrap();
        let prompt = vec![Message::new("user", "问")];
        let row = Row::Preference { prompt, chosen: "好".into(), rejected: "坏".into() };
        let texts = documents(row, &tokenizer).unwrap();
        assert_eq!(texts, ["<s>user\n问</s>\n<s>assistant\n", "好</s>\n", "坏</s>\n"]);
    }

    #[test]
    fn a_bad_row_ends_the_preparation() {
        let tokenizer = Tokenizer::train(std::iter::once("a".to_string()), 260).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let rows = [Ok(Row::Text("a".into())), Err(anyhow::anyhow!("bad.jsonl:2: broken"))].into_iter();
        let error = prepare(rows, Kind::Pretrain, &tokenizer, 0.0, dir.path(), &|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "bad.jsonl:2: broken");
    }
}
