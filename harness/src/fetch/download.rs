//! Resumable downloads: a partial file is kept until its digest has been checked.
//!
//! *Invariant:* a file gets its final name only once its size and digest match those reported by the hub.

use super::hub::{Digest, Entry, Hub, Repo, Trouble, Waits};
use crate::fsutil::hex;
use crate::net::interrupted;
use crate::track::size;
use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use ureq::http::StatusCode;
use ureq::http::header::CONTENT_RANGE;

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// A folder of complete and partial files, each named by its digest.
pub struct Store<'a> {
    /// Hub that the files come from.
    pub hub: &'a Hub,
    /// Repository of the files.
    pub repo: &'a Repo,
    /// Commit of the files.
    pub commit: &'a str,
    /// Path of the folder.
    pub dir: &'a Path,
}

impl Store<'_> {
    /// Requests the size and digest of a file if the hub's list lacks them.
    pub fn complete(&self, entry: &mut Entry) -> Result<()> {
        let mut waits = self.hub.waits();
        while entry.size.is_none() || entry.digest.is_none() {
            match self.hub.describe(self.repo, self.commit, entry) {
                Ok(()) => break,
                Err(trouble) => self.wait_or_fail(trouble, &mut waits, &entry.path)?,
            }
        }
        Ok(())
    }

    /// Returns the path of a complete file: by its digest, or by its origin if the hub reports none.
    pub fn place(&self, entry: &Entry) -> PathBuf {
        self.dir.join(match &entry.digest {
            Some(digest) => digest.digits().to_owned(),
            None => {
                let whence = format!("{}\n{}\n{}", self.repo.name, self.commit, entry.path);
                format!("unchecked-{}", hex(&Sha256::digest(whence)))
            }
        })
    }

    fn part(&self, entry: &Entry) -> PathBuf {
        self.place(entry).with_extension("part")
    }

    /// Returns the number of bytes of a file that are already here.
    pub fn present(&self, entry: &Entry) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).ok().map(|about| about.len());
        length(self.place(entry)).or_else(|| length(self.part(entry))).unwrap_or(0)
    }

    /// Completes a file and returns its path; `report` is given the number of bytes that are here.
    ///
    /// # Errors
    /// If the hub does not provide it, its digest differs, or the disk is full.
    pub fn fetch(&self, entry: &Entry, report: &mut dyn FnMut(u64)) -> Result<PathBuf> {
        let (place, part) = (self.place(entry), self.part(entry));
        if place.is_file() {
            return Ok(place);
        }
        let mut is_old = length(&part) > 0;
        loop {
            if !self.take_from_cache(entry, &part) {
                self.download(entry, &part, report)?;
            }
            let Some(problem) = self.problem(entry, &part)? else { break };
            remove(&part)?;
            let address = self.hub.address(self.repo, self.commit, &entry.path);
            ensure!(
                is_old,
                "{address}: {problem}; the download is discarded; run the command again, and check HF_ENDPOINT if this happens twice"
            );
            tracing::warn!("{address}: {problem}, after resuming a partial download; starting over");
            is_old = false;
        }
        rename(&part, &place)?;
        Ok(place)
    }

    /// Copies a file from the cache of Hugging Face's own programs, which also name contents by digest.
    fn take_from_cache(&self, entry: &Entry, part: &Path) -> bool {
        let (Some(cache), Some(digest)) = (&self.hub.cache, &entry.digest) else { return false };
        let folder = format!("{}--{}", self.repo.kind.plural(), self.repo.name.replace('/', "--"));
        let known = cache.join(folder).join("blobs").join(digest.digits());
        known.is_file()
            && digest.of_file(&known).is_ok_and(|found| found == *digest)
            && fs::copy(&known, part).is_ok()
    }

    /// Returns what is wrong with a complete download, if anything.
    fn problem(&self, entry: &Entry, part: &Path) -> Result<Option<String>> {
        let length = fs::metadata(part).with_context(|| format!("{}: cannot be read", part.display()))?.len();
        if let Some(size) = entry.size.filter(|&size| size != length) {
            return Ok(Some(format!("came with {length} bytes, expected {size}")));
        }
        let Some(digest) = &entry.digest else { return Ok(None) };
        let found = digest.of_file(part)?;
        let name = if matches!(digest, Digest::Git(_)) { "git's SHA-1" } else { "SHA-256" };
        Ok((found != *digest).then(|| {
            format!(
                "is damaged: its {name} is {:.16}..., expected {:.16}...",
                found.digits(),
                digest.digits()
            )
        }))
    }

    fn download(&self, entry: &Entry, part: &Path, report: &mut dyn FnMut(u64)) -> Result<()> {
        let mut waits = self.hub.waits();
        loop {
            let before = length(part);
            if entry.size.is_some_and(|size| before > size) {
                remove(part)?;
            }
            if entry.size.is_some_and(|size| size == length(part) && size > 0) {
                return Ok(());
            }
            match self.resume(entry, part, report)? {
                Ok(()) => return Ok(()),
                Err(trouble) => {
                    if length(part) > before {
                        waits = self.hub.waits();
                    }
                    self.wait_or_fail(trouble, &mut waits, &entry.path)?;
                }
            }
        }
    }

    /// Waits if another attempt may succeed; otherwise returns the error.
    fn wait_or_fail(&self, trouble: Trouble, waits: &mut Waits, path: &str) -> Result<()> {
        let (why, wanted) = match trouble {
            Trouble::Refused(error) => return Err(error),
            Trouble::Network(why) => (why, None),
            Trouble::Busy(why, wanted) => (why, wanted),
            Trouble::Beyond => ("the partial download is longer than the file".into(), None),
        };
        waits.wait(&format!("{path}: {why}"), wanted)
    }

    /// Resumes from the end of the partial file; the outer error is one of the disk.
    fn resume(&self, entry: &Entry, part: &Path, report: &mut dyn FnMut(u64)) -> Result<Result<(), Trouble>> {
        let from = length(part);
        let mut answer = match self.hub.open(self.repo, self.commit, &entry.path, from) {
            Ok(answer) => answer,
            Err(trouble) => {
                if matches!(trouble, Trouble::Beyond) {
                    remove(part)?;
                }
                return Ok(Err(trouble));
            }
        };
        let begins_at = |range: &str| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok();
        let range = answer.response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        // A server without support for ranges sends the whole file again.
        let is_resumed = answer.response.status() == StatusCode::PARTIAL_CONTENT
            && range.and_then(begins_at) == Some(from);
        let written = || format!("{}: cannot be written", part.display());
        let mut file = OpenOptions::new()
            .create(true)
            .append(is_resumed)
            .write(true)
            .truncate(!is_resumed)
            .open(part)
            .with_context(written)?;
        let mut here = if is_resumed { from } else { 0 };
        let mut body = answer.response.body_mut().as_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            report(here);
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(Trouble::Network(interrupted(&error)))),
            };
            file.write_all(&buffer[..count]).map_err(disk_is_full).with_context(written)?;
            here += count as u64;
        }
        file.sync_all().map_err(disk_is_full).with_context(written)?;
        Ok(match entry.size {
            Some(size) if here < size => {
                Err(Trouble::Network(format!("the connection ended at byte {here} of {size}")))
            }
            _ => Ok(()),
        })
    }
}

fn disk_is_full(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            anyhow::anyhow!("the disk is full; free some space, and run the command again to resume")
        }
        _ => error.into(),
    }
}

/// Fails before anything is downloaded if `needed` more bytes do not fit on the disk of `dir`.
pub fn check_room(dir: &Path, needed: u64) -> Result<()> {
    let free = fs4::available_space(dir).unwrap_or(u64::MAX);
    ensure!(
        needed <= free,
        "{}: {} are free, expected {} more; free some space, or choose another folder with --out",
        dir.display(),
        size(free),
        size(needed)
    );
    Ok(())
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.len())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Moves a file within a file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("{}: cannot be written", to.display()))
}

/// Locks a folder of parts as long as the returned file is open.
pub fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
    ensure!(
        file.try_lock().is_ok(),
        "{}: another fetch is at work there; wait for it or choose another folder",
        dir.display()
    );
    Ok(file)
}
