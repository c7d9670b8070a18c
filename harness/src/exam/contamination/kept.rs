//! What was found in prepared data, kept beside it: every exam of every trial that was trained on it finds the same.
//!
//! *Invariant:* a file is whole or absent, and one that cannot be read, or not be written, costs time and nothing else.

use super::{FEWEST, Found, Index, Place, WORDS};
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

/// Raised where the same questions and texts come to something else.
const VERSION: usize = 1;

/// How often is looked whether who searches has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A question in the texts of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    question: u32,
    source: String,
    file: String,
    texts: u64,
}

/// What is found in the text of `stage` by the index of `sheets`: as it is kept in the folder of prepared data, `data`, or
/// else by `search`, and then kept. Of several that want it at once one searches and the others wait, where the file
/// system has locks; where it has none, each searches.
///
/// # Errors
/// What `search` fails with; [`crate::stop::Stopped`] once `stop` is set.
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
    // The data may lie where nobody may write.
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
    let kept = found.iter().map(|((question, place), texts)| Kept {
        question: *question,
        source: place.source.clone(),
        file: place.file.clone(),
        texts: *texts,
    });
    if let Err(error) = write_atomic(&path, &serde_json::to_vec(&kept.collect::<Vec<_>>())?) {
        tracing::warn!("{error:#}; the next exam looks through the text of {stage} again");
    }
    Ok(found)
}

/// What is kept, where that is whole.
fn read(path: &Path, stage: &str, index: &Index) -> Option<Found> {
    let kept: Vec<Kept> = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let place = |source, file| Arc::new(Place { stage: stage.into(), source, file });
    let found = kept.into_iter().map(|Kept { question, source, file, texts }| {
        ((question as usize) < index.questions).then(|| ((question, place(source, file)), texts))
    });
    found.collect()
}

/// Waits until nobody else holds a lock, and holds it.
fn wait(path: &Path, stop: &AtomicBool) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    loop {
        check(stop)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Ok(()) => return Ok(file),
        }
    }
}

/// Of all that is looked for.
fn digest(sheets: &[Sheet]) -> String {
    let mut digest = Sha256::new();
    for number in [VERSION, WORDS, FEWEST] {
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
        // Subjects, ids and keys are not looked for; texts are, in each stage.
        let mut renamed = sheet("one two three four five");
        (renamed[0].subject, renamed[0].questions[0].answer) = ("art".into(), 'B');
        assert_eq!(ask(&renamed, "sft"), found(1));
        assert_eq!(ask(&sheet("one two three four six"), "sft"), found(2));
        ask(&one, "dpo");
        assert_eq!(searches.load(Ordering::SeqCst), 3);
        // What is damaged, or speaks of a question that there is not, is found again.
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
