//! Records of stage runs in a folder of results: manifest, metrics and answers, but no weights. With them a report can be
//! written again after the stage runs themselves are gone, on another machine or years later.
//!
//! Each stage run has one file, `records/<stage>-<uuid>.json.gz`, small enough to be committed. *Invariant:* equal stage runs
//! give equal bytes, and files that other runs in this folder of results refer to stay.

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

/// The folder of the records, inside a folder of results.
const RECORDS: &str = "records";

/// The suffix of a record's file name.
const ENDING: &str = ".json.gz";

/// The contents of the files that are kept of a stage run.
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

/// Writes the records of those stage runs in `dirs` that have ended into the folder of results `out`; removes records that
/// nothing there refers to any more.
///
/// # Errors
/// If a stage run cannot be read, or if a file cannot be written or removed.
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
    // Files with other names are left alone.
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
    // No timestamp and no file name in the header: equal stage runs give equal bytes.
    let mut gzip: GzEncoder<Vec<u8>> = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&serde_json::to_vec(&kept)?)?;
    Ok(gzip.finish()?)
}

/// Unpacks all records of a folder of results, one folder per stage run; `None` if there are none.
///
/// # Errors
/// If a file cannot be read, or is damaged.
pub fn unpack(out: &Path) -> Result<Option<TempDir>> {
    let Ok(entries) = fs::read_dir(out.join(RECORDS)) else { return Ok(None) };
    let folder = tempfile::tempdir().context("a folder for records")?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(ENDING) else { continue };
        let damaged = || format!("{}: is damaged; remove or restore it", path.display());
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
