//! Committed results: their reports are reproduced from the records, byte for byte.

use crate::common::mindscale;
use std::fs;
use std::path::{Path, PathBuf};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        match path.is_dir() {
            true => copy(&path, &to.join(name)),
            false => drop(fs::copy(&path, to.join(name)).unwrap()),
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn committed_results_are_written_again_from_their_records() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = tempfile::tempdir().unwrap();
    for folder in ["experiments", "sweeps"] {
        copy(&root.join(folder), &dir.path().join(folder));
    }
    let names =
        ["deep_vs_wide", "dense_vs_moe", "parametrization", "probes", "recall", "scaling", "tuned_scaling"];
    for name in names {
        let (committed, here) = (root.join("results").join(name), dir.path().join("results").join(name));
        // Only the records are copied; everything that a report writes is made anew.
        copy(&committed.join("records"), &here.join("records"));
        fs::copy(committed.join("record.json"), here.join("record.json")).unwrap();
        mindscale(dir.path()).args(["report", &format!("experiments/{name}.toml")]).assert().success();
        for file in files(&committed) {
            let inside = file.strip_prefix(&committed).unwrap();
            // Bitmaps are not committed, and their digests in report.json may depend on the fonts of the machine.
            let is_compared = !["png", "pdf"].iter().any(|end| inside.extension().is_some_and(|e| e == *end))
                && !inside.starts_with("tensorboard")
                && inside != Path::new("report.json");
            if is_compared {
                assert!(
                    fs::read(&file).unwrap() == fs::read(here.join(inside)).unwrap(),
                    "{name}: {}",
                    inside.display()
                );
            }
        }
    }
}
