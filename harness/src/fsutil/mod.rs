//! Atomic file writes: files are written next to their final path, synced and renamed.

pub mod digests;
pub mod folder;
pub mod lock;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::path::{Component, Path, PathBuf};

/// Prefix of the names of files that are being written.
const DRAFT: &str = ".writing-";

/// Writes `bytes` to `path` so that a reader, even after a crash, sees the old file or the new one and nothing in
/// between.
///
/// # Errors
/// If the file cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| Ok(out.write_all(bytes)?))
}

/// As [`write_atomic`], for content that is produced piece by piece.
///
/// # Errors
/// If `fill` fails, or the file cannot be written.
pub fn write_atomic_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let whole = || -> Result<()> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(DRAFT);
        #[cfg(unix)]
        {
            // Temporary files are private by default; ours become ordinary files, so the umask decides.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = BufWriter::new(builder.tempfile_in(parent(path))?);
        fill(&mut file)?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_dir(parent(path));
        Ok(())
    };
    whole().with_context(|| format!("{}: cannot be written", path.display()))
}

/// As [`write_atomic`], for writers without the claim on a stage run's folder: the draft is made next to the folder,
/// where the claim's owner does not remove it.
///
/// # Errors
/// If the file cannot be written.
pub fn hand_in(dir: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let folder = dir.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.with_file_name(format!(".{folder}.{name}.{}", std::process::id()));
    let path = dir.join(name);
    write_atomic(&draft, bytes)?;
    fs::rename(&draft, &path).with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(path)
}

/// Removes what killed writers left in a stage run's folder; only for the owner of its claim.
///
/// # Errors
/// If a folder cannot be read.
pub fn remove_drafts(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if folder::DRAFTS.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    for (path, _) in files_below(dir)? {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DRAFT)) {
            // A file that vanishes in the meantime need not be removed.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// Returns every file below a folder with its size; files that vanish in the meantime are skipped.
///
/// # Errors
/// If a folder cannot be read.
pub fn files_below(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("{}: cannot be read", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(about) if about.is_dir() => folders.push(entry.path()),
                Ok(about) => found.push((entry.path(), about.len())),
                Err(_) => {}
            }
        }
    }
    Ok(found)
}

/// Creates a folder and its parents.
///
/// # Errors
/// If it cannot be created.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}: the folder cannot be made", path.display()))
}

/// Reads a text file, without a byte order mark; errors name it.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    text_of(path, fs::read(path))
}

/// As [`read_text`]; `None` if there is no such file.
///
/// # Errors
/// If the file exists but cannot be read or is not UTF-8.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        read => text_of(path, read).map(Some),
    }
}

fn text_of(path: &Path, read: io::Result<Vec<u8>>) -> Result<String> {
    let bytes = read.with_context(|| format!("{}: cannot be read", path.display()))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{}: is not UTF-8 text", path.display()))?;
    Ok(without_mark(text))
}

/// Removes the byte order mark with which programs on Windows begin a text.
pub fn without_mark(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Computes the SHA-256 of a file's content in lower-case hexadecimal, in constant memory.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    let digest = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        Ok(hex(&hasher.finalize()))
    };
    digest().with_context(|| format!("{}: cannot be read", path.display()))
}

/// Formats bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the last `count` non-empty lines of a log; empty if there is no log.
pub fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let Ok(bytes) = fs::read(path) else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(ToString::to_string).collect()
}

/// Returns a path that does not depend on the current folder.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// Removes `..` from a path below the current folder, as in `sweeps/a.toml` for `experiments/../sweeps/a.toml`; other
/// paths are returned unchanged.
pub fn without_detours(path: &Path) -> PathBuf {
    let straight = || {
        let folder = path.parent()?.canonicalize().ok()?;
        let below = folder.strip_prefix(Path::new(".").canonicalize().ok()?).ok()?.to_path_buf();
        Some(below.join(path.file_name()?))
    };
    let has_detours = path.components().any(|part| part == Component::ParentDir);
    has_detours.then(straight).flatten().unwrap_or_else(|| path.into())
}

/// Quotes a word for a shell.
pub fn shell_word(word: &str) -> String {
    // Only words with a NUL byte cannot be quoted, and no argument has one.
    shlex::try_quote(word).map_or_else(|_| word.into(), Cow::into_owned)
}

/// Maximum length of a file or folder name on common file systems, in bytes.
const LONGEST_NAME: usize = 255;

/// Returns why a name is unfit for a folder, or for a file with this `extension`, on some common system; `None` if it
/// is fit.
pub fn file_name_problem(name: &str, extension: &str) -> Option<String> {
    let longest = LONGEST_NAME - extension.len();
    if name.len() > longest {
        return Some(format!(
            "is {} bytes long, expected at most {longest} for the name of a file",
            name.len()
        ));
    }
    let is_reserved = |c: char| c.is_control() || "/\\:*?\"<>|".contains(c);
    let is_unfit = name.trim().is_empty()
        || name.starts_with('.')
        || name.ends_with(['.', ' '])
        || name.contains(is_reserved);
    is_unfit.then(|| {
        "does not fit a file: expected no / \\ : * ? \" < > | in it, no dot at its beginning, no dot or space at its end".into()
    })
}

/// Makes a rename durable by syncing its folder; does nothing on file systems that cannot sync folders.
fn sync_dir(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_can_be_given_to_a_shell() {
        let given = ["run", "a b.toml", "--set", "exam.system=it's", ""].map(shell_word);
        assert_eq!(given.join(" "), "run 'a b.toml' --set \"exam.system=it's\" ''");
    }

    #[test]
    fn paths_below_the_current_folder_lose_their_detours() {
        for (path, plain) in [
            ("src/../Cargo.toml", "Cargo.toml"),
            ("src/cli/../lib.rs", "src/lib.rs"),
            ("src/lib.rs", "src/lib.rs"),
            ("../README.md", "../README.md"),
            ("nowhere/../Cargo.toml", "nowhere/../Cargo.toml"),
        ] {
            assert_eq!(without_detours(Path::new(path)), Path::new(plain), "{path}");
        }
    }

    #[test]
    fn names_fit_files_on_any_system() {
        let longest = "x".repeat(255);
        for name in ["deep-vs-wide", "深与宽", "a b", "v1.2", longest.as_str()] {
            assert_eq!(file_name_problem(name, ""), None, "{name}");
        }
        for name in ["", " ", ".", "..", ".a", "a/b", "a\\b", "a:", "a.", "a ", "a\nb"] {
            assert!(file_name_problem(name, "").is_some_and(|why| why.starts_with("does not fit")), "{name}");
        }
        let problem = file_name_problem(&longest, ".svg").unwrap();
        assert_eq!(problem, "is 255 bytes long, expected at most 251 for the name of a file");
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |out| {
            out.write_all(b"half")?;
            anyhow::bail!("the source broke")
        })
        .unwrap_err();
        assert!(format!("{error:#}").contains("the source broke"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn drafts_of_killed_writers_are_removed() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("sft-1");
        fs::create_dir_all(dir.join("model")).unwrap();
        fs::create_dir_all(dir.join(".preparing-c/train")).unwrap();
        for name in [".writing-a", "model/.writing-b", "model/w", ".preparing-c/train/tokens"] {
            fs::write(dir.join(name), "").unwrap();
        }
        assert_eq!(fs::read(hand_in(&dir, "request.json", b"{}").unwrap()).unwrap(), b"{}");
        remove_drafts(&dir).unwrap();
        let left = |dir: &Path| fs::read_dir(dir).unwrap().count();
        assert_eq!([left(runs.path()), left(&dir), left(&dir.join("model"))], [1, 2, 1]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read_if_there(&path).unwrap(), None);
        fs::write(&path, "{}").unwrap();
        assert_eq!(read_if_there(&path).unwrap().as_deref(), Some("{}"));
        fs::write(&path, "\u{feff}{}\u{feff}").unwrap();
        assert_eq!(read_text(&path).unwrap(), "{}\u{feff}", "without its byte order mark");
        assert_eq!(read_if_there(&path.join("b.json")).unwrap(), None);
        assert!(read_if_there(dir.path()).unwrap_err().to_string().ends_with(": cannot be read"));
    }

    #[test]
    fn errors_name_the_file() {
        let error = write_atomic(Path::new("/nowhere/at/all.json"), b"").unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at/all.json"));
        assert!(sha256(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn digests_are_sha256() {
        // FIPS 180-2, appendix B.1.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
