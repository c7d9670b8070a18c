//! Stage runs that no sweep refers to: found, measured and, where wanted, removed.
//!
//! *Invariant:* what somebody works on stays, and so does all that it was made from.

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
    let stays = at_work(runs, &others)?;
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
fn at_work(runs: &Path, others: &BTreeMap<Uuid, PathBuf>) -> Result<BTreeMap<Uuid, String>> {
    let (mut stays, mut open) = (BTreeMap::new(), vec![]);
    // Whoever works on a stage run of a kept sweep needs kept ones only: the others' claims are what matters.
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

/// What a stage run is made from, as its manifest names it, or before there is one the request to work on it.
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

/// The name in that of a stage run's folder, `<stage>-<uuid>`.
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

        // Somebody works on the SFT: it stays, and so does the model it starts from.
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

        // It has begun, and has no manifest yet: the request tells.
        let manifest = fs::read(sft.join(MANIFEST)).unwrap();
        fs::remove_file(sft.join(MANIFEST)).unwrap();
        let request = json!({ "stage": "sft", "inputs": graph.inputs(at(TrainStage::Sft)) });
        fs::write(sft.join(REQUEST), request.to_string()).unwrap();
        assert_eq!(stay().unwrap(), needed);

        let told = |problem: Result<BTreeSet<PathBuf>>| problem.unwrap_err().to_string();
        fs::write(sft.join(REQUEST), "{").unwrap();
        assert!(told(stay()).ends_with("request.json: is not a request"));
        fs::write(sft.join(MANIFEST), &manifest[..manifest.len() / 2]).unwrap();
        assert!(told(stay()).contains("manifest.json: is not a manifest"));
        fs::remove_file(sft.join(MANIFEST)).unwrap();
        fs::create_dir(sft.join(MANIFEST)).unwrap();
        assert!(told(stay()).ends_with("manifest.json: cannot be read"));
    }
}
