//! Garbage collection: finds, measures and optionally removes stage runs that no sweep refers to.
//!
//! *Invariant:* a stage run that is being worked on stays, and so does everything that it was made from.

use super::claim::{Claim, Held, Taking, Watch};
use super::files::REQUEST;
use super::manifest::{Input, Manifest, RunStatus};
use crate::fsutil::{files_below, read_if_there};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Prefix of a stage run's folder while it is being removed.
const REMOVING: &str = ".removing-";

/// A stage run that no sweep refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Its folder.
    pub dir: PathBuf,
    /// Total size of its files in bytes.
    pub bytes: u64,
    /// Its status; `None` if unknown.
    pub status: Option<RunStatus>,
    /// When it last ended (UTC).
    pub ended: Option<String>,
    /// Why it has to stay although no sweep refers to it; `None` if it may be removed.
    pub stays: Option<String>,
}

/// Finds every stage run in `runs` that is not in `kept`, the largest first.
///
/// # Errors
/// If a folder cannot be read.
pub fn find(runs: &Path, kept: &BTreeSet<Uuid>) -> Result<Vec<Garbage>> {
    let mut others = BTreeMap::new();
    for entry in fs::read_dir(runs).with_context(|| format!("{}: cannot be read", runs.display()))? {
        let dir = entry?.path();
        match uuid_of(&dir) {
            Some(uuid) if !kept.contains(&uuid) && dir.is_dir() => drop(others.insert(uuid, dir)),
            _ => {}
        }
    }
    let stays = in_use(runs, &others)?;
    let garbage = others.into_iter().map(|(uuid, dir)| {
        // A stage run with an unreadable manifest is unusable, and thus garbage.
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

/// The names of all stage runs with a folder in `runs`.
pub fn names(runs: &Path) -> Vec<Uuid> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    entries.filter_map(|entry| uuid_of(&entry.path())).collect()
}

/// Removes a stage run; returns `false` if a process has begun to work on it.
///
/// Its folder is renamed first: an interrupted removal leaves nothing that looks like a stage run.
///
/// # Errors
/// If a file cannot be removed.
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

/// Completes interrupted removals.
///
/// # Errors
/// If a file cannot be removed.
pub fn finish_removals(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs).with_context(|| format!("{}: cannot be read", runs.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(REMOVING)) {
            fs::remove_dir_all(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
    }
    Ok(())
}

/// The stage runs that are being worked on and those that they were made from, each with the reason to stay.
fn in_use(runs: &Path, others: &BTreeMap<Uuid, PathBuf>) -> Result<BTreeMap<Uuid, String>> {
    let (mut stays, mut open) = (BTreeMap::new(), vec![]);
    // Work on a kept stage run needs kept ones only, so only the claims of the others matter.
    for (&uuid, dir) in others {
        if let Held::By(owner) = Watch::default().look(dir)? {
            open.push((uuid, format!("{} works on it", owner.describe())));
        }
    }
    while let Some((uuid, reason)) = open.pop() {
        let dir = others.get(&uuid).cloned();
        if stays.insert(uuid, reason).is_some() {
            continue;
        }
        let Some(dir) = dir else { continue };
        let name = dir.strip_prefix(runs).unwrap_or(&dir).display().to_string();
        open.extend(inputs(&dir)?.into_iter().map(|input| (input.uuid, format!("{name} needs it"))));
    }
    Ok(stays)
}

/// The inputs of a stage run: from its manifest or, before there is one, from the request to work on it.
fn inputs(dir: &Path) -> Result<Vec<Input>> {
    #[derive(Deserialize)]
    struct Request {
        inputs: Vec<Input>,
    }
    if let Some(manifest) = Manifest::read(dir)? {
        return Ok(manifest.inputs);
    }
    let path = dir.join(REQUEST);
    let Some(text) = read_if_there(&path)? else { return Ok(vec![]) };
    let request: Request =
        serde_json::from_str(&text).with_context(|| format!("{}: is not a request", path.display()))?;
    Ok(request.inputs)
}

/// The name of a stage run, from the name of its folder, `<stage>-<uuid>`.
fn uuid_of(dir: &Path) -> Option<Uuid> {
    let name = dir.file_name()?.to_str()?;
    let (_, uuid) = name.split_once('-').filter(|(stage, _)| !stage.is_empty() && !stage.starts_with('.'))?;
    Uuid::try_parse(uuid).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Stage, TrainStage};
    use crate::execute::testing::{Fake, run, seeds};
    use crate::plan::testing::plan;
    use crate::runs::files::MANIFEST;
    use serde_json::json;

    #[test]
    fn what_no_sweep_refers_to_is_found_and_removed() {
        let runs = tempfile::tempdir().unwrap();
        let (mine, old) = (plan(&seeds(&[1]), runs.path()), plan(&seeds(&[2]), runs.path()));
        run(&mine, &Fake::default());
        run(&old, &Fake::default());
        let kept = mine.nodes.iter().map(|node| node.uuid).collect();
        let stages = |garbage: &[Garbage]| {
            let name = |g: &Garbage| g.dir.file_name().unwrap().to_string_lossy().into_owned();
            let mut names: Vec<String> = garbage.iter().map(|g| name(g)[..3].to_string()).collect();
            names.sort();
            names
        };
        // The tokenizer and the data are shared.
        let garbage = find(runs.path(), &kept).unwrap();
        assert_eq!(stages(&garbage), ["dpo", "exa", "pre", "sft"]);
        assert!(
            garbage.iter().all(|g| g.bytes > 0 && g.stays.is_none() && g.status == Some(RunStatus::Done))
        );

        // The SFT is being worked on: it stays, and so does the model that it starts from.
        let sft = old.nodes.iter().find(|node| node.stage == Stage::Train(TrainStage::Sft)).unwrap();
        let Taking::Ours(claim) = Claim::take(&sft.dir, None).unwrap() else { panic!("nobody holds it") };
        let garbage = find(runs.path(), &kept).unwrap();
        let stay: Vec<Garbage> = garbage.into_iter().filter(|g| g.stays.is_some()).collect();
        assert_eq!(stages(&stay), ["pre", "sft"]);
        assert!(!remove(stay.iter().find(|g| g.dir == sft.dir).unwrap()).unwrap());
        drop(claim);

        for item in find(runs.path(), &kept).unwrap() {
            assert!(remove(&item).unwrap());
        }
        assert_eq!(find(runs.path(), &kept).unwrap(), []);
        assert!(plan(&seeds(&[1]), runs.path()).is_finished());
    }

    #[test]
    fn what_is_worked_on_keeps_its_inputs_before_and_without_a_manifest() {
        let runs = tempfile::tempdir().unwrap();
        let graph = plan(&seeds(&[1]), runs.path());
        run(&graph, &Fake::default());
        let at = |stage: TrainStage| {
            graph.nodes.iter().position(|node| node.stage == Stage::Train(stage)).unwrap()
        };
        let sft = &graph.nodes[at(TrainStage::Sft)].dir;
        let stay = || -> Result<BTreeSet<PathBuf>> {
            let garbage = find(runs.path(), &BTreeSet::new())?;
            let staying = garbage.into_iter().filter(|item| item.stays.is_some());
            Ok(staying.map(|item| item.dir).collect::<BTreeSet<PathBuf>>())
        };
        let needed: Vec<usize> =
            graph.nodes[at(TrainStage::Sft)].needs().chain([at(TrainStage::Sft)]).collect();
        let needed: BTreeSet<PathBuf> =
            needed.into_iter().map(|node| graph.nodes[node].dir.clone()).collect();
        let Taking::Ours(_claim) = Claim::take(sft, None).unwrap() else { panic!("nobody holds it") };
        assert_eq!(stay().unwrap(), needed);

        // It has begun but has no manifest yet: the request lists its inputs.
        let manifest = fs::read(sft.join(MANIFEST)).unwrap();
        fs::remove_file(sft.join(MANIFEST)).unwrap();
        let request = json!({ "stage": "sft", "inputs": graph.inputs(at(TrainStage::Sft)) });
        fs::write(sft.join(REQUEST), request.to_string()).unwrap();
        assert_eq!(stay().unwrap(), needed);

        let message = |problem: Result<BTreeSet<PathBuf>>| problem.unwrap_err().to_string();
        fs::write(sft.join(REQUEST), "{").unwrap();
        assert!(message(stay()).ends_with("request.json: is not a request"));
        fs::write(sft.join(MANIFEST), &manifest[..manifest.len() / 2]).unwrap();
        assert!(message(stay()).contains("manifest.json: is not a manifest"));
        fs::remove_file(sft.join(MANIFEST)).unwrap();
        fs::create_dir(sft.join(MANIFEST)).unwrap();
        assert!(message(stay()).ends_with("manifest.json: cannot be read"));
    }
}
