//! Digests of files, cached as long as the files do not change.

use super::{absolute, read_text, sha256, write_atomic};
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// File in the folder of stage runs that caches digests.
const REMEMBERED: &str = ".digests.json";

/// Age below which a file's digest is not cached: it might change again without a new time stamp.
const SETTLED: Duration = Duration::from_secs(2);

/// A file with the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Path that it was read from.
    pub path: PathBuf,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, in hexadecimal.
    pub sha256: String,
}

impl FileDigest {
    /// Returns the file's name without its folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Checks that files are the same as when the run was planned, in the same order.
///
/// # Errors
/// If a file has changed, which the error names.
pub fn unchanged(planned: &[FileDigest], now: &[FileDigest]) -> Result<()> {
    let again = "run again, with what the files hold now";
    for (i, file) in now.iter().enumerate() {
        let shown = file.path.display();
        match planned.iter().find(|known| known.path == file.path) {
            None => bail!("{shown}: was not there when the run was planned; {again}"),
            Some(known) if known.sha256 != file.sha256 => bail!(
                "{shown}: has changed since the run was planned (SHA-256 {:.12}..., then {:.12}...); {again}",
                file.sha256,
                known.sha256
            ),
            Some(_) => ensure!(
                planned.get(i).is_some_and(|known| known.path == file.path),
                "{shown}: its place among the files has changed since the run was planned; {again}"
            ),
        }
    }
    match planned.iter().find(|known| now.iter().all(|file| file.path != known.path)) {
        Some(gone) => bail!("{}: is gone since the run was planned; {again}", gone.path.display()),
        None => Ok(()),
    }
}

/// State of a file when its content was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_ns: u128,
    sha256: String,
}

/// Digests of files, each computed once and cached while size and time stamp are unchanged.
pub struct Digests {
    file: Option<PathBuf>,
    known: BTreeMap<String, Known>,
    changed: bool,
}

impl Digests {
    /// Loads the digests cached in the folder of stage runs; an unreadable cache is started again.
    pub fn remembered(runs: &Path) -> Self {
        let file = runs.join(REMEMBERED);
        let known =
            read_text(&file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { file: Some(file), known, changed: false }
    }

    /// Creates a cache that is not stored.
    pub fn fresh() -> Self {
        Self { file: None, known: BTreeMap::new(), changed: false }
    }

    /// Returns the digests of files, in their order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn all(&mut self, paths: &[PathBuf]) -> Result<Vec<FileDigest>> {
        paths.iter().map(|path| self.of(path)).collect()
    }

    /// Returns the digest of one file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of(&mut self, path: &Path) -> Result<FileDigest> {
        let about = fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let modified = about.modified().unwrap_or(UNIX_EPOCH);
        let modified_ns = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = absolute(path).to_string_lossy().into_owned();
        let digest = |sha256: String| FileDigest { path: path.to_path_buf(), bytes: about.len(), sha256 };
        if let Some(known) = self.known.get(&name)
            && (known.bytes, known.modified_ns) == (about.len(), modified_ns)
        {
            return Ok(digest(known.sha256.clone()));
        }
        let sha256 = sha256(path)?;
        let settled = SystemTime::now().duration_since(modified);
        if settled.is_ok_and(|age| age > SETTLED) {
            let known = Known { bytes: about.len(), modified_ns, sha256: sha256.clone() };
            self.known.insert(name, known);
            self.changed = true;
        }
        Ok(digest(sha256))
    }

    /// Stores new digests, if the folder of stage runs exists.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn save(&mut self) -> Result<()> {
        match &self.file {
            Some(file) if self.changed && file.parent().is_some_and(Path::is_dir) => {
                self.changed = false;
                write_atomic(file, serde_json::to_string_pretty(&self.known)?.as_bytes())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_that_are_not_as_planned_are_named() {
        let file =
            |path: &str, sha256: &str| FileDigest { path: path.into(), bytes: 1, sha256: sha256.into() };
        let planned = [file("a", "1"), file("b", "2")];
        assert!(unchanged(&planned, &planned).is_ok());
        for (now, expected) in [
            (vec![file("a", "1"), file("b", "3")], "b: has changed since the run was planned"),
            (vec![file("a", "1")], "b: is gone since the run was planned"),
            (
                vec![file("a", "1"), file("b", "2"), file("c", "1")],
                "c: was not there when the run was planned",
            ),
            (vec![file("b", "2"), file("a", "1")], "b: its place among the files has changed"),
        ] {
            let error = unchanged(&planned, &now).unwrap_err().to_string();
            assert!(error.starts_with(expected) && error.contains("run again"), "{error}");
        }
    }

    #[test]
    fn a_changed_file_has_another_digest_though_digests_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let old = SystemTime::now() - Duration::from_secs(100);
        let write = |text: &str, at: SystemTime| {
            fs::write(&path, text).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        };
        write("one", old);
        let mut digests = Digests::remembered(dir.path());
        let first = digests.of(&path).unwrap();
        digests.save().unwrap();
        let mut digests = Digests::remembered(dir.path());
        assert_eq!(digests.known.len(), 1);
        assert_eq!(digests.of(&path).unwrap(), first);
        write("two", old + Duration::from_secs(1));
        assert_ne!(digests.of(&path).unwrap().sha256, first.sha256);
    }
}
