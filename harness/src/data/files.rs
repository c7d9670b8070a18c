//! The files that a configuration names, their digests and the vocabulary sizes of tokenizers.

use super::Tokenizer;
use crate::config::near_file;
use crate::fsutil::digests::{Digests, FileDigest};
use crate::records::Notice;
use anyhow::{Context, Result, anyhow};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that a list of patterns matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Files without duplicates: patterns in the given order, matches of a glob in alphabetical order.
    pub files: Vec<PathBuf>,
    /// Paths of duplicates: files already listed under another name or by another pattern.
    pub duplicates: Vec<PathBuf>,
}

impl Matched {
    /// Returns a notice, labelled `place`, about files that were named more than once; `None` if there are none.
    pub fn notice(&self, place: &str) -> Option<Notice> {
        let first = self.duplicates.first()?;
        Some(Notice {
            place: place.into(),
            reason: format!("names are duplicates; each file is read once (the first: {})", first.display()),
            count: self.duplicates.len() as u64,
            of: (self.files.len() + self.duplicates.len()) as u64,
        })
    }
}

/// Expands `patterns` into the files that they match.
///
/// A name that exists is taken literally, even if it contains glob characters; the same holds for the leading folders
/// of a glob. A file is taken once, however many patterns and links name it. `key` is the configuration key that holds
/// the patterns, for error messages.
///
/// # Errors
/// Returns an error for the first pattern that matches no file, names a folder, or is not a valid glob.
pub fn expand(patterns: &[String], key: &str) -> Result<Matched> {
    let mut matched = Matched::default();
    let mut known = BTreeSet::new();
    for pattern in patterns {
        for path in matches(pattern, Path::new("")).map_err(|problem| anyhow!("{key}: {problem}"))? {
            let list =
                if known.insert(identity(&path)?) { &mut matched.files } else { &mut matched.duplicates };
            list.push(path);
        }
    }
    Ok(matched)
}

/// Returns what is wrong with a pattern, if anything. `from` is the folder that the pattern was resolved against; it is
/// stripped from the pattern in the message, as the user did not write it.
pub fn pattern_problem(pattern: &str, from: &Path) -> Option<String> {
    matches(pattern, from).err()
}

fn matches(pattern: &str, from: &Path) -> Result<Vec<PathBuf>, String> {
    let path = Path::new(pattern);
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let shown = |path: &Path| path.strip_prefix(from).unwrap_or(path).display().to_string();
    let written = shown(path);
    let dangling = |path: &Path| {
        let to = fs::read_link(path).ok().filter(|_| !path.exists())?;
        Some(format!("\"{}\" is a link to {}, which does not exist", shown(path), to.display()))
    };
    if let Some(problem) = dangling(path) {
        return Err(problem);
    }
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
        } else if let Some(problem) = dangling(&path) {
            return Err(format!("{problem}, but matches \"{written}\"; mend or remove it"));
        }
    }
    if files.is_empty() {
        let hint = match near_file(path, from) {
            hint if !hint.is_empty() => hint,
            _ if from.as_os_str().is_empty() => {
                "; expected a file or a glob, relative to the current folder".into()
            }
            _ => format!("; expected a file or a glob, relative to {}", from.display()),
        };
        return Err(format!("no file matches \"{written}\"{hint}"));
    }
    Ok(files)
}

/// Escapes glob characters in the longest leading part of the pattern that exists as a path.
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

/// Returns the identity of a file independent of its name: device and inode.
#[cfg(unix)]
fn identity(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok((about.dev(), about.ino()))
}

/// Returns the identity of a file independent of its name: its canonical path.
#[cfg(not(unix))]
fn identity(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("{}: cannot be read", path.display()))
}

/// Cache of file digests and vocabulary sizes; each file is read once.
pub struct Inputs {
    digests: Digests,
    vocab_sizes: BTreeMap<PathBuf, usize>,
    /// Digests of the files that a list of patterns matches.
    expanded: BTreeMap<Vec<String>, Arc<[FileDigest]>>,
}

impl Inputs {
    /// Creates a cache with the digests that are stored in the folder of stage runs.
    pub fn remembered(runs: &Path) -> Self {
        Self { digests: Digests::remembered(runs), vocab_sizes: BTreeMap::new(), expanded: BTreeMap::new() }
    }

    /// Returns the digests of files, in the given order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn digests(&mut self, paths: &[PathBuf]) -> Result<Vec<FileDigest>> {
        self.digests.all(paths)
    }

    /// Returns the digests of the files that patterns match; `key` is the configuration key, for error messages.
    ///
    /// # Errors
    /// As [`expand`], or if a file cannot be read.
    pub fn expanded(&mut self, patterns: &[String], key: &str) -> Result<Arc<[FileDigest]>> {
        if let Some(known) = self.expanded.get(patterns) {
            return Ok(Arc::clone(known));
        }
        let digests: Arc<[FileDigest]> = self.digests(&expand(patterns, key)?.files)?.into();
        self.expanded.insert(patterns.to_vec(), Arc::clone(&digests));
        Ok(digests)
    }

    /// Returns the vocabulary size of the tokenizer in a file or a folder.
    ///
    /// # Errors
    /// If no tokenizer can be loaded from there.
    pub fn vocab_size(&mut self, path: &Path) -> Result<usize> {
        if let Some(&size) = self.vocab_sizes.get(path) {
            return Ok(size);
        }
        let size = Tokenizer::load(path)?.vocab_size();
        self.vocab_sizes.insert(path.to_path_buf(), size);
        Ok(size)
    }

    /// Stores the new digests in the folder of stage runs.
    ///
    /// # Errors
    /// If they cannot be written.
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
        let matched = expand(&patterns, "data.sft").unwrap();
        assert_eq!(matched.files, [at("a.txt"), at("b.txt")]);
        assert_eq!(matched.duplicates.len(), 4);
        let notice = matched.notice("sft").unwrap().to_string();
        assert!(notice.starts_with("sft: 4 of 6 names are duplicates; each file is read once"), "{notice}");
        assert_eq!(expand(&patterns[..0], "data.sft").unwrap().notice("sft"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_is_an_error_by_its_name_and_in_a_glob() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a.txt"), "a").unwrap();
        fs::create_dir(at("b.txt")).unwrap();
        std::os::unix::fs::symlink("gone/c", at("c.txt")).unwrap();
        let problem = |name: &str| pattern_problem(&at(name).to_string_lossy(), dir.path());
        assert_eq!(problem("c.txt").unwrap(), "\"c.txt\" is a link to gone/c, which does not exist");
        let in_glob =
            "\"c.txt\" is a link to gone/c, which does not exist, but matches \"*.txt\"; mend or remove it";
        assert_eq!(problem("*.txt").unwrap(), in_glob);
        // Folders are skipped.
        assert_eq!(problem("[ab].txt"), None);
    }
}
