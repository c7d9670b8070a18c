//! The files that a configuration names, and what is known of their content.

use super::Tokenizer;
use crate::config::near_file;
use crate::fsutil::digests::{Digests, FileDigest};
use crate::records::Notice;
use anyhow::{Context, Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
///
/// # Errors
/// Names the patterns that match no file, or name what is none.
pub fn expand(patterns: &[String], key: &str) -> Result<Named> {
    let mut named = Named::default();
    let mut known = BTreeSet::new();
    for pattern in patterns {
        for path in matches(pattern, Path::new("")).map_err(|problem| anyhow!("{key}: {problem}"))? {
            let list = if known.insert(identity(&path)?) { &mut named.files } else { &mut named.again };
            list.push(path);
        }
    }
    Ok(named)
}

/// What is wrong with a name of files; nobody has written the folder `from` before it, from which it is seen.
pub fn problem(pattern: &str, from: &Path) -> Option<String> {
    matches(pattern, from).err()
}

fn matches(pattern: &str, from: &Path) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let written = path.strip_prefix(from).unwrap_or(path).display();
    if path.is_dir() {
        return Err(format!(
            "\"{written}\" is a folder, expected a file or a glob such as \"{written}/*.jsonl\""
        ));
    }
    let entries = glob::glob(&literal_start(path))
        .map_err(|error| format!("\"{written}\" is not a file and not a glob: {error}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("\"{written}\": {error}"))?;
        if path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let hint = match near_file(path, from) {
            hint if !hint.is_empty() => hint,
            _ if from.as_os_str().is_empty() => {
                "; expected a file or a glob, seen from the current folder".into()
            }
            _ => format!("; expected a file or a glob, seen from {}", from.display()),
        };
        return Err(format!("no file matches \"{written}\"{hint}"));
    }
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

/// What is known of the content of files, each read once.
pub struct Inputs {
    digests: Digests,
    vocab_sizes: BTreeMap<PathBuf, usize>,
    /// What patterns name, with their digests.
    expanded: BTreeMap<Vec<String>, Arc<[FileDigest]>>,
}

impl Inputs {
    /// With the digests that the folder of stage runs remembers.
    pub fn remembered(runs: &Path) -> Self {
        Self { digests: Digests::remembered(runs), vocab_sizes: BTreeMap::new(), expanded: BTreeMap::new() }
    }

    /// The digests of files, in their order.
    ///
    /// # Errors
    /// Where one cannot be read.
    pub fn digests(&mut self, paths: &[PathBuf]) -> Result<Vec<FileDigest>> {
        self.digests.all(paths)
    }

    /// The digests of the files that patterns name; `key` holds the patterns, for messages.
    ///
    /// # Errors
    /// As of [`expand`], or where a file cannot be read.
    pub fn expanded(&mut self, patterns: &[String], key: &str) -> Result<Arc<[FileDigest]>> {
        if let Some(known) = self.expanded.get(patterns) {
            return Ok(Arc::clone(known));
        }
        let digests: Arc<[FileDigest]> = self.digests(&expand(patterns, key)?.files)?.into();
        self.expanded.insert(patterns.to_vec(), Arc::clone(&digests));
        Ok(digests)
    }

    /// Entries of the tokenizer in a file or a folder.
    ///
    /// # Errors
    /// Where there is none.
    pub fn vocab_size(&mut self, path: &Path) -> Result<usize> {
        if let Some(&size) = self.vocab_sizes.get(path) {
            return Ok(size);
        }
        let size = Tokenizer::load(path)?.vocab_size();
        self.vocab_sizes.insert(path.to_path_buf(), size);
        Ok(size)
    }

    /// Remembers the digests that are new.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn save(&mut self) -> Result<()> {
        self.digests.save()
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
}
