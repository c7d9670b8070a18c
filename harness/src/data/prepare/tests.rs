//! Tests of prepared data: what becomes a row, what is left out, and what is counted.
#![allow(clippy::unwrap_used)]

mod golden;
mod held_out;
mod loss;
mod pairs;

use super::*;
use crate::config::{AnswerLoss, DataConfig, Packing};
use crate::data::RowLoss;
use crate::data::batches::{BatchOptions, Batches, PreferenceBatches, sequential};
use crate::data::read::{Pairs, ReadOptions, history, rows};
use crate::data::store::Store;
use crate::stop::Stopped;
use crate::testing::shared;
use model::Sequence;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn minimind() -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared("data/minimind_tokenizer")?).unwrap())
}

fn small() -> Tokenizer {
    Tokenizer::train(std::iter::once("从前有座山".to_owned()), 270).unwrap()
}

/// Prepares rows in the folder `data`.
fn made(
    rows: Vec<Row>,
    kind: Kind,
    config: &DataConfig,
    tokenizer: &Tokenizer,
    dir: &Path,
) -> Result<Prepared> {
    let (log, stop) = (ReadLog::default(), AtomicBool::new(false));
    let preparation = Preparation::new(kind, tokenizer, config, &log);
    prepare(Part::all(rows.into_iter().map(Ok)), &preparation, &dir.join("data"), &stop, &|_| ())
}

fn held_out(val_share: f64) -> DataConfig {
    DataConfig { val_share, ..DataConfig::default() }
}

fn from_rows(rows: Vec<Row>, kind: Kind, val_share: f64, tokenizer: &Tokenizer, dir: &Path) -> Prepared {
    made(rows, kind, &held_out(val_share), tokenizer, dir).unwrap()
}

fn store(dir: &Path, side: &str) -> Arc<Store> {
    Arc::new(Store::open(&dir.join("data").join(side)).unwrap())
}

/// Returns the rows of a store in its order, one document each.
fn single_rows(store: &Arc<Store>, seq_len: usize) -> Vec<Sequence> {
    let loss = RowLoss::of(store, AnswerLoss::Last);
    let options = BatchOptions { seq_len, packing: Packing::Single, loss, seed: 1, shares: None };
    sequential(store, 0..store.len(), &options, u64::MAX).0.into_iter().map(|(row, _)| row).collect()
}

#[test]
fn real_files_become_stores_whatever_the_threads() {
    let (Some(data), Some(tokenizer)) = (shared("data"), minimind()) else {
        return;
    };
    for (kind, file, count) in [
        (Kind::Pretrain, "pretrain/pretrain-00.jsonl", 4000),
        (Kind::Conversations, "sft/sft_conversations.jsonl", 990),
        (Kind::Preferences, "dpo/train_data.json", 798),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = [data.join(file)];
        let max_rows = if kind == Kind::Pretrain { 4000 } else { 0 };
        let config = DataConfig { max_rows, ..held_out(0.1) };
        let mut prepared = Vec::new();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (out, done) = (dir.path().join("data"), std::sync::Mutex::new(0));
            let options = ReadOptions::new(&config);
            let rows = rows(&files, kind, &options);
            let progress = |rows: u64| *done.lock().unwrap() = rows;
            let preparation = Preparation::new(kind, &tokenizer, &config, &options.log);
            let stop = AtomicBool::new(false);
            pool.install(|| prepare(Part::all(rows), &preparation, &out, &stop, &progress)).unwrap();
            assert_eq!(*done.lock().unwrap(), count);
            let sides = [TRAIN, VAL].map(|side| {
                let store = store(dir.path(), side);
                store.verify().unwrap();
                store.info().clone()
            });
            prepared.push(sides);
        }
        assert_eq!(prepared[0], prepared[1], "{file}");
        let per_row = if kind == Kind::Preferences { 2 } else { 1 };
        let [train, val] = prepared[0].each_ref().map(|info| info.documents / per_row);
        assert_eq!(train + val, count, "{file}");
        let share = val as f64 / count as f64;
        assert!((0.05..0.15).contains(&share), "{share} held out of {file}");
    }
}

#[test]
fn equal_texts_are_on_one_side_and_bytes_are_those_of_the_text() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let row = |n: usize| Row::Text(format!("第{}座山", n % 100));
    let prepared = from_rows((0..300).map(row).collect(), Kind::Pretrain, 0.3, &tokenizer, dir.path());
    // Of 100 texts with three rows each, 30 texts are expected, with a standard deviation of 4.6.
    assert!((60..120).contains(&prepared.val_rows), "{} held out", prepared.val_rows);
    assert_eq!(prepared.train_rows + prepared.val_rows, 300);
    let documents = |side: &str| {
        let store = store(dir.path(), side);
        (0..store.len()).map(|index| store.document(index)).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(documents(TRAIN).is_disjoint(&documents(VAL)));
    let store = store(dir.path(), VAL);
    for (index, row) in single_rows(&store, 512).iter().enumerate() {
        let text = tokenizer.decode(&store.document(index), true).unwrap();
        assert_eq!(u64::from(store.bytes(index)), text.len() as u64);
        assert_eq!(store.target_bytes(row), text.len() as u64);
    }
}

#[test]
fn a_failed_preparation_leaves_the_earlier_one_and_nothing_else() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    from_rows(vec![Row::Text("山".into())], Kind::Pretrain, 0.0, &tokenizer, dir.path());
    let good = || (0..3000).map(|n| Ok(Row::Text(format!("第{n}座山"))));
    let (config, log, stop) = (held_out(0.0), ReadLog::default(), AtomicBool::new(false));
    let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
    let broken = good().chain([Err(anyhow!("a.jsonl:3001: is not valid JSON"))]);
    let error = prepare(Part::all(broken), &preparation, &out, &stop, &|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "a.jsonl:3001: is not valid JSON");
    assert_eq!(store(dir.path(), TRAIN).len(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // The same holds for a preparation that is asked to stop.
    let on_progress = |_| stop.store(true, Ordering::SeqCst);
    let error = prepare(Part::all(good()), &preparation, &out, &stop, &on_progress).unwrap_err();
    assert!(error.is::<Stopped>(), "{error}");
    assert_eq!(store(dir.path(), TRAIN).len(), 1);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    stop.store(false, Ordering::SeqCst);
    prepare(Part::all(good()), &preparation, &out, &stop, &|_| ()).unwrap();
    assert_eq!(store(dir.path(), TRAIN).len(), 3000);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_prepared_is_refused() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("data");
    let error = |rows: &[&str], val_share: f64, out: &Path| {
        let rows: Vec<Row> = rows.iter().map(|text| Row::Text(text.to_string())).collect();
        let (config, log, stop) = (held_out(val_share), ReadLog::default(), AtomicBool::new(false));
        let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &log);
        let prepared = prepare(Part::all(rows.into_iter().map(Ok)), &preparation, out, &stop, &|_| ());
        format!("{:#}", prepared.unwrap_err())
    };
    assert!(error(&["x"], 1.0, &out).contains("data.val_share is 1"));
    assert!(error(&[], 0.0, &out).contains("no pretraining text to train on"));
    assert!(error(&["x"], 0.0, Path::new("/proc/no/data")).contains("/proc/no"));
    assert!(!out.exists());
    fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    assert!(error(&["x"], 0.0, dir.path()).contains("exists already; choose another folder"));
    let stuck: [PathBuf; 1] = [dir.path().join("thesis.txt")];
    assert!(error(&["x"], 0.0, &stuck[0].join("data")).contains("thesis.txt"));
}

#[test]
fn reading_ends_when_asked_to_stop_even_where_every_row_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{\"text\": \"山\"}\n".repeat(10)).unwrap();
    let (stop, config) = (AtomicBool::new(true), DataConfig { min_chars: 5, ..held_out(0.0) });
    let options = ReadOptions::new(&config);
    let mut found = rows(&[file], Kind::Pretrain, &options).until(&stop);
    assert!(found.next().unwrap().unwrap_err().is::<Stopped>());
    assert_eq!(options.log.report().filtered, 0);
}

#[test]
fn nothing_left_names_what_was_read_and_held_out() {
    let tokenizer = small();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.jsonl");
    fs::write(&file, "{\"text\": \"\"}\n{\"text\": \"山\"}\n").unwrap();
    let (config, stop) = (held_out(0.999_999), AtomicBool::new(false));
    let options = ReadOptions::new(&config);
    let preparation = Preparation::new(Kind::Pretrain, &tokenizer, &config, &options.log);
    let found = rows(&[file], Kind::Pretrain, &options);
    let error = prepare(Part::all(found), &preparation, &dir.path().join("out"), &stop, &|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no pretraining text to train on: 1 row after filtering, 1 held out by data.val_share, 1 of 2 rows left out, \
         1 have no text, no question or an empty answer"
    );
}
