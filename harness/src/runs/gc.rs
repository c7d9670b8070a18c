//! Stage runs that no sweep refers to: found, measured and, where wanted, removed.
//!
//! *Invariant:* what somebody works on stays, and so does all that it was made from.

use super::claim::{Claim, Held, Taking, Watch};
use super::manifest::{Manifest, RunStatus};
use crate::fsutil::files_below;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// How the name of a stage run's folder begins while it is being removed.
const REMOVING: &str = ".removing-";

/// A stage run that no sweep refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Its folder.
    pub dir: PathBuf,
    /// Bytes of its files.
    pub bytes: u64,
    /// How it ended; `None` where that is not known.
    pub status: Option<RunStatus>,
    /// When it ended (UTC).
    pub ended: Option<String>,
    /// Why it stays, though no sweep refers to it.
    pub stays: Option<String>,
}

/// Every stage run in `runs` that is not among `kept`, the largest first.
///
/// # Errors
/// Where a folder cannot be read.
pub fn find(runs: &Path, kept: &BTreeSet<Uuid>) -> Result<Vec<Garbage>> {
    let mut others = BTreeMap::new();
    for entry in fs::read_dir(runs).with_context(|| format!("{}: cannot be read", runs.display()))? {
        let dir = entry?.path();
        match uuid_of(&dir) {
            Some(uuid) if !kept.contains(&uuid) && dir.is_dir() => drop(others.insert(uuid, dir)),
            _ => {}
        }
    }
    let stays = at_work(runs, &others);
    let garbage = others.into_iter().map(|(uuid, dir)| {
        // A manifest that cannot be read belongs to a stage run that cannot be used.
        let manifest = Manifest::read(&dir).ok().flatten();
        Ok(Garbage {
            bytes: files_below(&dir)?.iter().map(|(_, bytes)| bytes).sum(),
            status: manifest.as_ref().map(|manifest| manifest.status),
            ended: manifest.and_then(|manifest| manifest.ended),
            stays: stays.get(&uuid).cloned(),
            dir,
        })
    });
    let mut garbage = garbage.collect::<Result<Vec<_>>>()?;
    garbage.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.dir.cmp(&b.dir)));
    Ok(garbage)
}

/// The names of all stage runs that have a folder in `runs`.
pub fn names(runs: &Path) -> Vec<Uuid> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    entries.filter_map(|entry| uuid_of(&entry.path())).collect()
}

/// Removes a stage run; `false` where somebody has begun to work on it.
///
/// Its folder is renamed first: a removal that is cut off leaves nothing that looks like a stage run.
///
/// # Errors
/// Where a file cannot be removed.
pub fn remove(garbage: &Garbage) -> Result<bool> {
    let dir = &garbage.dir;
    let Taking::Ours(_claim) = Claim::take(dir, None)? else {
        return Ok(false);
    };
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!("{REMOVING}{name}"));
    let moved = fs::rename(dir, &aside).and_then(|()| fs::remove_dir_all(&aside));
    moved.with_context(|| format!("{}: cannot be removed", dir.display()))?;
    Ok(true)
}

/// Removes what removals that were cut off left behind.
///
/// # Errors
/// Where a file cannot be removed.
pub fn finish_removals(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).with_context(|| format!("{}: cannot be read", runs.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(REMOVING)) {
            fs::remove_dir_all(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// The stage runs that somebody works on, and those that these were made from, each with the reason to stay.
fn at_work(runs: &Path, others: &BTreeMap<Uuid, PathBuf>) -> BTreeMap<Uuid, String> {
    let mut stays = BTreeMap::new();
    // Whoever works on a stage run of a kept sweep needs kept ones only: the others' claims are what matters.
    let held = others.iter().filter_map(|(&uuid, dir)| match Watch::default().look(dir) {
        Held::By(owner) => Some((uuid, format!("{} works on it", owner.describe()))),
        Held::Free | Held::Dead(_) => None,
    });
    let mut open: Vec<(Uuid, String)> = held.collect();
    while let Some((uuid, reason)) = open.pop() {
        let dir = others.get(&uuid).cloned();
        if stays.insert(uuid, reason).is_some() {
            continue;
        }
        let Some(dir) = dir else { continue };
        let name = dir.strip_prefix(runs).unwrap_or(&dir).display().to_string();
        let inputs = Manifest::read(&dir).ok().flatten().map(|manifest| manifest.inputs).unwrap_or_default();
        open.extend(inputs.into_iter().map(|input| (input.uuid, format!("{name} needs it"))));
    }
    stays
}

/// The name in that of a stage run's folder, `<stage>-<uuid>`.
fn uuid_of(dir: &Path) -> Option<Uuid> {
    let name = dir.file_name()?.to_str()?;
    let (_, uuid) = name.split_once('-').filter(|(stage, _)| !stage.is_empty() && !stage.starts_with('.'))?;
    Uuid::try_parse(uuid).ok()
}
