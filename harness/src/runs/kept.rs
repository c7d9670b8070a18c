//! What is kept of stage runs in a folder of results: manifest, metrics and answers, no weights. With these a report is
//! written again where the stage runs themselves are gone, on another machine or after years.
//!
//! A file a stage run, `records/<stage>-<uuid>.json.gz`, small enough to be committed. *Invariant:* equal stage runs leave equal
//! bytes, and what another run in this folder of results refers to stays.

use super::files::{MANIFEST, QUESTIONS, SAMPLES};
use super::manifest::{Manifest, RunStatus};
use super::recorded::Record;
use crate::fsutil::{create_dir, read_text, write_atomic};
use crate::track::METRICS;
use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use tempfile::TempDir;
use uuid::Uuid;

/// The folder of what is kept, in one of results.
const RECORDS: &str = "records";

/// The end of its files' names.
const ENDING: &str = ".json.gz";

/// The files that are kept of a stage run, as they are.
#[derive(Serialize, Deserialize)]
struct Kept {
    manifest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    questions: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    samples: Option<String>,
}

/// Keeps those of the stage runs in these folders that have ended, in the folder of results `out`; what nothing there refers
/// to any more goes.
///
/// # Errors
/// Where a stage run cannot be read, or a file not be written or removed.
pub fn keep<'a>(out: &Path, dirs: impl Iterator<Item = &'a Path>) -> Result<()> {
    let records = out.join(RECORDS);
    create_dir(&records)?;
    let mut known: BTreeSet<String> = BTreeSet::new();
    let has_ended = |dir: &Path| {
        let manifest = Manifest::read(dir).ok().flatten();
        manifest.is_some_and(|manifest| matches!(manifest.status, RunStatus::Done | RunStatus::Failed))
    };
    for dir in dirs.filter(|dir| has_ended(dir)) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let file = records.join(format!("{name}{ENDING}"));
        known.extend(file.file_name().map(|name| name.to_string_lossy().into_owned()));
        let bytes = pack(dir)?;
        if fs::read(&file).ok().as_ref() != Some(&bytes) {
            write_atomic(&file, &bytes)?;
        }
    }
    let elsewhere = Record::read(out)?.map(|record| record.stage_runs()).unwrap_or_default();
    // What has another name is not ours.
    let of = |name: &str| name.strip_suffix(ENDING)?.split_once('-')?.1.parse::<Uuid>().ok();
    for entry in fs::read_dir(&records).with_context(|| records.display().to_string())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&name) && of(&name).is_some_and(|uuid| !elsewhere.contains(&uuid)) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => {
                    removed.with_context(|| format!("{}: cannot be removed", entry.path().display()))?;
                }
            }
        }
    }
    Ok(())
}

fn pack(dir: &Path) -> Result<Vec<u8>> {
    let text = |name: &str| {
        let path = dir.join(name);
        path.is_file().then(|| read_text(&path)).transpose()
    };
    let manifest = read_text(&dir.join(MANIFEST))?;
    let (metrics, questions, samples) = (text(METRICS)?, text(QUESTIONS)?, text(SAMPLES)?);
    let kept = Kept { manifest, metrics, questions, samples };
    // No time of the day and no name: equal stage runs, equal bytes.
    let mut gzip: GzEncoder<Vec<u8>> = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&serde_json::to_vec(&kept)?)?;
    Ok(gzip.finish()?)
}

/// Unpacks all that is kept in a folder of results, a folder a stage run; `None` where nothing is.
///
/// # Errors
/// Where a file cannot be read, or is damaged.
pub fn unpack(out: &Path) -> Result<Option<TempDir>> {
    let Ok(entries) = fs::read_dir(out.join(RECORDS)) else { return Ok(None) };
    let folder = tempfile::tempdir().context("a folder for records")?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(ENDING) else { continue };
        let damaged = || format!("{}: is damaged; take it away, or restore it", path.display());
        let mut json = Vec::new();
        GzDecoder::new(fs::File::open(&path).with_context(damaged)?)
            .read_to_end(&mut json)
            .with_context(damaged)?;
        let kept: Kept = serde_json::from_slice(&json).with_context(damaged)?;
        let dir = folder.path().join(name);
        create_dir(&dir)?;
        let Kept { manifest, metrics, questions, samples } = kept;
        let files =
            [(MANIFEST, Some(manifest)), (METRICS, metrics), (QUESTIONS, questions), (SAMPLES, samples)];
        for (name, text) in files {
            text.map(|text| fs::write(dir.join(name), text)).transpose().context("a folder for records")?;
        }
    }
    Ok(Some(folder))
}
