//! The files that a configuration names, and their digests.

use super::files::{absolute, read_text, sha256, write_atomic};
use crate::data::Tokenizer;
use crate::records::Notice;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The file in the folder of stage runs that remembers digests.
const REMEMBERED: &str = ".digests.json";

/// A file changed within this time may change again without its time stamp telling.
const SETTLED: Duration = Duration::from_secs(2);

/// A file with its content's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Where it was read.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content.
    pub sha256: String,
}

impl FileDigest {
    /// The file's name without its folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// The files that patterns name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Each once: patterns in their order, the files of a glob in alphabetical order.
    pub files: Vec<PathBuf>,
    /// Names of files that are among them under another name or by another pattern.
    pub again: Vec<PathBuf>,
}

impl Named {
    /// What is told of files that were named more than once, at `place`.
    pub fn notice(&self, place: &str) -> Option<Notice> {
        let first = self.again.first()?;
        Some(Notice {
            place: place.into(),
            reason: format!(
                "names are of files that were named before, each read once (the first: {})",
                first.display()
            ),
            count: self.again.len() as u64,
            of: (self.files.len() + self.again.len()) as u64,
        })
    }
}

/// The files that `patterns` name.
///
/// What exists under a name is meant by it, whatever signs of a glob are in it, and so are the folders in which a glob
/// begins. A file is taken once, however many patterns and links name it. `key` is the configuration key that holds
/// the patterns, for messages.
pub fn expand(patterns: &[String], key: &str) -> Result<Named> {
    let mut named = Named::default();
    let mut known = BTreeSet::new();
    for pattern in patterns {
        for path in matches(pattern, key)? {
            let list = if known.insert(identity(&path)?) { &mut named.files } else { &mut named.again };
            list.push(path);
        }
    }
    Ok(named)
}

fn matches(pattern: &str, key: &str) -> Result<Vec<PathBuf>> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    ensure!(
        !path.is_dir(),
        "{key}: \"{pattern}\" is a folder, expected a file or a glob such as \"{pattern}/*.jsonl\""
    );
    let entries = glob::glob(&literal_start(path))
        .with_context(|| format!("{key}: \"{pattern}\" is not a file and not a glob"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("{key}: \"{pattern}\""))?;
        if path.is_file() {
            files.push(path);
        }
    }
    ensure!(
        !files.is_empty(),
        "{key}: no file matches \"{pattern}\"; expected a file or a glob, seen from the current folder"
    );
    Ok(files)
}

/// The pattern with the signs of its longest beginning that exists taken as they stand.
fn literal_start(pattern: &Path) -> String {
    let mut start = PathBuf::new();
    let mut parts = pattern.components().peekable();
    while let Some(part) = parts.next_if(|part| start.join(part).exists()) {
        start.push(part);
    }
    let rest: PathBuf = parts.collect();
    let start = glob::Pattern::escape(&start.to_string_lossy());
    Path::new(&start).join(rest).to_string_lossy().into_owned()
}

/// What a file is, under whichever name.
#[cfg(unix)]
fn identity(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok((about.dev(), about.ino()))
}

/// What a file is, under whichever name.
#[cfg(not(unix))]
fn identity(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("{}: cannot be read", path.display()))
}

/// Checks that files are those that were there when the run was planned.
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

/// What was known of a file when its content was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    bytes: u64,
    modified_ns: u128,
    sha256: String,
}

/// Digests of files, each read once and remembered while size and time stamp stay.
pub struct Digests {
    file: Option<PathBuf>,
    known: BTreeMap<String, Known>,
    changed: bool,
    vocab_sizes: BTreeMap<PathBuf, usize>,
}

impl Digests {
    /// Digests remembered in the folder of stage runs; a memory that cannot be read is begun anew.
    pub fn remembered(runs: &Path) -> Self {
        let file = runs.join(REMEMBERED);
        let known =
            read_text(&file).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Self { file: Some(file), known, changed: false, vocab_sizes: BTreeMap::new() }
    }

    /// Digests of this moment only.
    pub fn fresh() -> Self {
        Self { file: None, known: BTreeMap::new(), changed: false, vocab_sizes: BTreeMap::new() }
    }

    /// The digests of files, in their order.
    pub fn all(&mut self, paths: &[PathBuf]) -> Result<Vec<FileDigest>> {
        paths.iter().map(|path| self.of(path)).collect()
    }

    /// The digest of one file.
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

    /// Entries of a tokenizer, which is read once.
    pub fn vocab_size(&mut self, path: &Path) -> Result<usize> {
        if let Some(&size) = self.vocab_sizes.get(path) {
            return Ok(size);
        }
        let size = Tokenizer::load(path)?.vocab_size();
        self.vocab_sizes.insert(path.to_path_buf(), size);
        Ok(size)
    }

    /// Remembers what was read. Without a folder of stage runs there is nothing to remember for.
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
    fn globs_expand_in_order_and_misses_name_the_key() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", "c.csv"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let at = |pattern: &str| dir.path().join(pattern).to_string_lossy().into_owned();
        let names = |patterns: &[String]| -> Vec<String> {
            let files = expand(patterns, "data.sft").unwrap().files;
            files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&[at("c.csv"), at("*.txt")]), ["c.csv", "a.txt", "b.txt"]);
        let error = |pattern: &str| format!("{:#}", expand(&[at(pattern)], "data.sft").unwrap_err());
        for (pattern, expected) in [
            ("*.json", "data.sft: no file matches"),
            ("", "is a folder, expected a file or a glob"),
            ("a[.txt", "is not a file and not a glob"),
        ] {
            assert!(error(pattern).contains(expected), "{}", error(pattern));
        }
    }

    #[test]
    fn what_exists_under_a_name_is_meant_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for folder in ["d[1]", "d1", "e*"] {
            fs::create_dir(at(folder)).unwrap();
            for name in ["a[1].txt", "a1.txt"] {
                fs::write(dir.path().join(folder).join(name), folder).unwrap();
            }
        }
        let names = |pattern: &str| -> Vec<String> {
            let files = expand(&[at(pattern)], "data.sft").unwrap().files;
            files.iter().map(|f| f.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
        };
        assert_eq!(names("d[1]/a[1].txt"), ["d[1]/a[1].txt"]);
        assert_eq!(names("d[1]/*.txt"), ["d[1]/a1.txt", "d[1]/a[1].txt"]);
        assert_eq!(names("d[1]/a[0-9].txt"), ["d[1]/a1.txt"]);
        assert_eq!(names("d[0-9]/a1.txt"), ["d1/a1.txt"]);
        assert_eq!(names("e*/a1.txt"), ["e*/a1.txt"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_taken_once_whatever_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["a.txt", "b.txt"] {
            fs::write(at(name), "the same content").unwrap();
        }
        std::os::unix::fs::symlink(at("a.txt"), at("c.txt")).unwrap();
        fs::hard_link(at("b.txt"), at("d.txt")).unwrap();
        std::os::unix::fs::symlink(dir.path(), at("folder")).unwrap();
        let patterns =
            ["*.txt", "./a.txt", "folder/b.txt"].map(|name| at(name).to_string_lossy().into_owned());
        let named = expand(&patterns, "data.sft").unwrap();
        assert_eq!(named.files, [at("a.txt"), at("b.txt")]);
        assert_eq!(named.again.len(), 4);
        let told = named.notice("sft").unwrap().to_string();
        assert!(
            told.starts_with("sft: 4 of 6 names are of files that were named before, each read once"),
            "{told}"
        );
        assert_eq!(expand(&patterns[..0], "data.sft").unwrap().notice("sft"), None);
    }

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
