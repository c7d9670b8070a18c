//! Helpers for tests of the binary: a small sweep, and access to the folders that it writes.

pub mod driver;
pub mod recipe;
pub mod server;
pub mod tiny;

use assert_cmd::Command;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The smallest sweep that covers the whole recipe; tables may be appended.
pub const TINY: &str = r#"
name = "tiny"
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.world]
people = 6
pretrain_rows = 60
sft_rows = 60
dpo_pairs = 20
questions_per_subject = 3
[base.pretrain]
steps = 6
seq_len = 64
checkpoint_every = 2
[base.sft]
steps = 2
seq_len = 64
[base.dpo]
steps = 2
seq_len = 64
"#;

/// Two trials of [`TINY`].
pub fn two_seeds() -> String {
    format!("{TINY}[axes]\nseed = [1, 2]\n")
}

/// The program, to run in `dir`.
pub fn mindscale(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("mindscale").unwrap();
    command.current_dir(dir);
    command
}

/// The folders of stage runs.
pub fn stage_runs(runs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten();
    let mut dirs: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

/// The manifests of stage runs by folder name; stage runs without a manifest yet are left out.
pub fn manifests(runs: &Path) -> BTreeMap<String, Value> {
    let manifest = |dir: PathBuf| {
        let text = fs::read(dir.join("manifest.json")).ok()?;
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        Some((name, serde_json::from_slice(&text).unwrap()))
    };
    stage_runs(runs).into_iter().filter_map(manifest).collect()
}

/// The folder of the only stage run of a stage.
pub fn only(runs: &Path, stage: &str) -> PathBuf {
    let prefix = format!("{stage}-");
    let mut dirs = stage_runs(runs);
    dirs.retain(|dir| dir.file_name().unwrap().to_string_lossy().starts_with(&prefix));
    assert_eq!(dirs.len(), 1, "{dirs:?}");
    dirs.remove(0)
}

/// The rows of `metrics.csv` without the columns that depend on time.
pub fn timeless(metrics: &Path) -> Vec<Vec<String>> {
    let mut reader = csv::Reader::from_path(metrics).unwrap();
    let names = reader.headers().unwrap().clone();
    let is_time = |name: &str| ["tokens_per_second", "elapsed_seconds"].contains(&name);
    reader
        .records()
        .map(|row| {
            let row = row.unwrap();
            names.iter().zip(&row).filter(|(n, _)| !is_time(n)).map(|(_, v)| v.to_string()).collect()
        })
        .collect()
}

/// Unfinished files and token stores whose writer was killed, and claims that were not released.
pub fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(".writing-") || name.starts_with(".preparing-") || name == "claim.json" {
            found.push(path);
        } else if path.is_dir() {
            found.extend(leftovers(&path));
        }
    }
    found
}
