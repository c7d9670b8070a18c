//! The folder into which a report is written. It records the written files, so that the next report can remove those
//! left behind by an earlier version of the experiment, and nothing else.

use crate::fsutil::{create_dir, read_text, sha256, write_atomic};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Name of the list of written files.
const LIST: &str = "report.json";

/// The files that a report wrote.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    /// SHA-256 of each file, by its path within the folder.
    files: BTreeMap<String, String>,
}

/// A folder with the files written into it so far.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    written: Written,
}

impl Output {
    /// Creates the folder and its subfolders `parts` if they do not exist.
    pub fn open(dir: &Path, parts: &[&str]) -> Result<Self> {
        create_dir(dir)?;
        for part in parts {
            create_dir(&dir.join(part))?;
        }
        Ok(Self { dir: dir.into(), written: Written::default() })
    }

    /// Path of the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file, such as `figures/loss.svg`, and creates its folder if that does not exist.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        path.parent().map_or(Ok(()), create_dir)?;
        write_atomic(&path, bytes)?;
        self.written.files.insert(name.into(), sha256(&path)?);
        Ok(())
    }

    /// Removes files that an earlier report wrote and this one did not, unless they have been changed since; then writes the
    /// list of files.
    pub fn finish(self) -> Result<()> {
        let list = self.dir.join(LIST);
        // Without a readable list, it is not known which files are the report's.
        let earlier: Written =
            read_text(&list).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        for (name, digest) in &earlier.files {
            let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
            if !is_inside || self.written.files.contains_key(name) {
                continue;
            }
            let path = self.dir.join(name);
            let is_file = path.symlink_metadata().is_ok_and(|found| found.is_file());
            if is_file && sha256(&path)? == *digest {
                std::fs::remove_file(&path)
                    .with_context(|| format!("{}: cannot be removed", path.display()))?;
                // Remove the folder if it is empty now; otherwise this fails, and the folder stays.
                let _ = path.parent().filter(|parent| *parent != self.dir).map(std::fs::remove_dir);
            }
        }
        write_atomic(&list, &serde_json::to_vec_pretty(&self.written)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn what_an_earlier_report_wrote_goes_and_what_is_a_users_stays() {
        let outside = tempfile::tempdir().unwrap();
        let dir = outside.path().join("x");
        let report = |names: &[&str]| {
            let mut output = Output::open(&dir, &["figures"]).unwrap();
            names.iter().for_each(|name| output.write(name, name.as_bytes()).unwrap());
            output.finish().unwrap();
        };
        report(&["a.csv", "figures/old.svg", "figures/edited.svg", "b.csv"]);
        fs::write(dir.join("figures/edited.svg"), "by hand").unwrap();
        fs::write(dir.join("notes.md"), "a user's").unwrap();
        fs::write(outside.path().join("near.csv"), "near").unwrap();
        // A list that names files elsewhere does not affect them.
        let list = fs::read_to_string(dir.join(LIST)).unwrap();
        let near =
            format!("\"../near.csv\": {:?},\n\"a.csv\"", sha256(&outside.path().join("near.csv")).unwrap());
        fs::write(dir.join(LIST), list.replacen("\"a.csv\"", &near, 1)).unwrap();
        report(&["a.csv", "figures/new.svg"]);
        let there = |name: &str| dir.join(name).exists();
        assert!(
            there("a.csv") && there("figures/new.svg") && there("figures/edited.svg") && there("notes.md")
        );
        assert!(!there("figures/old.svg") && !there("b.csv"));
        assert!(outside.path().join("near.csv").exists());
        // The same report again changes nothing.
        report(&["a.csv", "figures/new.svg"]);
        assert!(there("a.csv") && there("figures/new.svg"));
        // Without a readable list, nothing is removed.
        fs::write(dir.join(LIST), "{").unwrap();
        report(&["a.csv"]);
        assert!(there("figures/new.svg"));
    }
}
