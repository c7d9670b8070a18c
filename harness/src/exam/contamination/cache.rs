//! Cache of search results next to the prepared data: all exams of all trials trained on that data have the same result.
//!
//! *Invariant:* a file is complete or absent, and a failure to read or write it costs only time.

use super::{Found, Index, MIN_WORDS, NGRAM_WORDS, Place};
use crate::exam::Sheet;
use crate::fsutil::{create_dir, hex, write_atomic};
use crate::runs::files::CONTAMINATION;
use crate::stop::{Stopped, check};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Version of the search; incremented if the same questions and texts give another result.
const VERSION: usize = 1;

/// Interval at which a held lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Cache entry: a question found in texts of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct CacheEntry {
    question: u32,
    source: String,
    file: String,
    texts: u64,
}

/// Returns what the index finds in the text of `stage`: from the cache in the folder of prepared data, `data`, or else from
/// `search`, whose result is then cached. Of several concurrent callers one searches and the others wait, if the file
/// system has locks; otherwise each searches.
///
/// # Errors
/// Any error of `search`; [`crate::stop::Stopped`] once `stop` is set.
pub fn of_stage(
    data: &Path,
    stage: &str,
    index: &Index,
    stop: &AtomicBool,
    search: impl FnOnce() -> Result<Found>,
) -> Result<Found> {
    let folder = data.join(CONTAMINATION);
    let path = folder.join(format!("{stage}-{}.json", digest(index.sheets)));
    if let Some(found) = read(&path, stage, index) {
        return Ok(found);
    }
    // The folder of the data may be read-only.
    let lock = create_dir(&folder).and_then(|()| wait(&folder.join(".lock"), stop));
    let _lock = match lock {
        Err(error) if error.is::<Stopped>() => return Err(error),
        Err(error) => {
            tracing::debug!("{error:#}");
            None
        }
        Ok(lock) => {
            if let Some(found) = read(&path, stage, index) {
                return Ok(found);
            }
            Some(lock)
        }
    };
    let found = search()?;
    let entries = found.iter().map(|((question, place), texts)| CacheEntry {
        question: *question,
        source: place.source.clone(),
        file: place.file.clone(),
        texts: *texts,
    });
    if let Err(error) = write_atomic(&path, &serde_json::to_vec(&entries.collect::<Vec<_>>())?) {
        tracing::warn!("{error:#}; the next exam searches the text of {stage} again");
    }
    Ok(found)
}

/// Reads a cache file; `None` if it is missing, damaged, or refers to a question that does not exist.
fn read(path: &Path, stage: &str, index: &Index) -> Option<Found> {
    let entries: Vec<CacheEntry> = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let place = |source, file| Arc::new(Place { stage: stage.into(), source, file });
    let found = entries.into_iter().map(|CacheEntry { question, source, file, texts }| {
        ((question as usize) < index.questions).then(|| ((question, place(source, file)), texts))
    });
    found.collect()
}

/// Waits for a lock and takes it.
fn wait(path: &Path, stop: &AtomicBool) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    loop {
        check(stop)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_POLL),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Ok(()) => return Ok(file),
        }
    }
}

/// Returns the digest of everything that determines the search: its parameters and the texts of the questions.
fn digest(sheets: &[Sheet]) -> String {
    let mut digest = Sha256::new();
    for number in [VERSION, NGRAM_WORDS, MIN_WORDS] {
        digest.update((number as u64).to_le_bytes());
    }
    for question in sheets.iter().flat_map(|sheet| &sheet.questions) {
        digest.update((question.options.len() as u64).to_le_bytes());
        for text in std::iter::once(&question.question).chain(&question.options) {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
    }
    hex(&digest.finalize()[..16])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::exam::SheetQuestion;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn sheet(text: &str) -> Vec<Sheet> {
        let options = ["a", "b", "c", "d"].map(String::from).into();
        let question = SheetQuestion { id: "7".into(), question: text.into(), options, answer: 'A' };
        vec![Sheet { subject: "law".into(), questions: vec![question] }]
    }

    fn found(texts: u64) -> Found {
        let place = Place { stage: "sft".into(), source: "web".into(), file: "a.jsonl".into() };
        Found::from([((0, Arc::new(place)), texts)])
    }

    #[test]
    fn the_same_questions_are_looked_for_once_however_many_ask_at_once() {
        let data = tempfile::tempdir().unwrap();
        let (searches, together) = (AtomicUsize::new(0), Barrier::new(4));
        let ask = |sheets: &[Sheet], stage: &str| {
            let search = || Ok(found(1 + searches.fetch_add(1, Ordering::SeqCst) as u64));
            let index = Index::new(sheets);
            of_stage(data.path(), stage, &index, &AtomicBool::new(false), search).unwrap()
        };
        let one = sheet("one two three four five");
        std::thread::scope(|scope| {
            let asked = [(); 4].map(|()| {
                scope.spawn(|| {
                    together.wait();
                    ask(&one, "sft")
                })
            });
            for asked in asked {
                assert_eq!(asked.join().unwrap(), found(1));
            }
        });
        // Subjects, ids and answer keys do not affect the search; texts and the stage do.
        let mut renamed = sheet("one two three four five");
        (renamed[0].subject, renamed[0].questions[0].answer) = ("art".into(), 'B');
        assert_eq!(ask(&renamed, "sft"), found(1));
        assert_eq!(ask(&sheet("one two three four six"), "sft"), found(2));
        ask(&one, "dpo");
        assert_eq!(searches.load(Ordering::SeqCst), 3);
        // A file that is damaged or refers to a missing question is replaced by a new search.
        let path = data.path().join(CONTAMINATION).join(format!("sft-{}.json", digest(&one)));
        for broken in ["", "[{\"question\":9,\"source\":\"\",\"file\":\"\",\"texts\":1}]"] {
            std::fs::write(&path, broken).unwrap();
            let texts = searches.load(Ordering::SeqCst) as u64 + 1;
            assert_eq!((ask(&one, "sft"), ask(&one, "sft")), (found(texts), found(texts)));
        }
    }

    #[test]
    fn where_nothing_can_be_kept_everybody_searches() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let (sheets, stop) = (sheet("one two three four five"), AtomicBool::new(false));
        let index = Index::new(&sheets);
        let nowhere = dir.path().join("file");
        assert_eq!(of_stage(&nowhere, "sft", &index, &stop, || Ok(found(3))).unwrap(), found(3));
        stop.store(true, Ordering::SeqCst);
        let asked = of_stage(dir.path(), "sft", &index, &stop, || Ok(found(3)));
        assert!(asked.unwrap_err().is::<Stopped>());
    }
}
