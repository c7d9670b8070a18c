//! Files that come whole or go on: a part is kept until its digest has been checked.
//!
//! *Invariant:* a file has its final name only once its size and its digest are those that the hub told.

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

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;

/// A folder of files that are complete, and of parts of others, each by its digest.
pub struct Store<'a> {
    /// Where they come from.
    pub hub: &'a Hub,
    /// Whose files they are.
    pub repo: &'a Repo,
    /// Of which state.
    pub commit: &'a str,
    /// The folder.
    pub dir: &'a Path,
}

impl Store<'_> {
    /// Asks for what the hub's list does not tell of a file.
    pub fn complete(&self, entry: &mut Entry) -> Result<()> {
        let mut waits = self.hub.waits();
        while entry.size.is_none() || entry.digest.is_none() {
            match self.hub.describe(self.repo, self.commit, entry) {
                Ok(()) => break,
                Err(trouble) => self.bear(trouble, &mut waits, &entry.path)?,
            }
        }
        Ok(())
    }

    /// Where a file is once it is complete. Content without a digest has its name by where it comes from.
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

    /// Bytes of a file that are here.
    pub fn present(&self, entry: &Entry) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).ok().map(|about| about.len());
        length(self.place(entry)).or_else(|| length(self.part(entry))).unwrap_or(0)
    }

    /// Makes a file complete, and gives its place; `tell` hears how many bytes of it are here.
    ///
    /// # Errors
    /// Where the hub does not give it, its digest is another, or the disk is full.
    pub fn fetch(&self, entry: &Entry, tell: &mut dyn FnMut(u64)) -> Result<PathBuf> {
        let (place, part) = (self.place(entry), self.part(entry));
        if place.is_file() {
            return Ok(place);
        }
        let mut is_old = length(&part) > 0;
        loop {
            if !self.take_from_cache(entry, &part) {
                self.download(entry, &part, tell)?;
            }
            let Some(problem) = self.problem(entry, &part)? else { break };
            remove(&part)?;
            let address = self.hub.address(self.repo, self.commit, &entry.path);
            ensure!(
                is_old,
                "{address}: {problem}; nothing of it is kept: run the command again, and look at HF_ENDPOINT where this happens twice"
            );
            tracing::warn!("{address}: {problem}, behind a part that an earlier fetch left; beginning anew");
            is_old = false;
        }
        rename(&part, &place)?;
        Ok(place)
    }

    /// Copies a file out of the cache of Hugging Face's own programs, which name contents by their digests too.
    fn take_from_cache(&self, entry: &Entry, part: &Path) -> bool {
        let (Some(cache), Some(digest)) = (&self.hub.cache, &entry.digest) else { return false };
        let folder = format!("{}--{}", self.repo.kind.plural(), self.repo.name.replace('/', "--"));
        let known = cache.join(folder).join("blobs").join(digest.digits());
        known.is_file()
            && digest.of_file(&known).is_ok_and(|found| found == *digest)
            && fs::copy(&known, part).is_ok()
    }

    /// What is wrong with a file that has come to its end.
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

    fn download(&self, entry: &Entry, part: &Path, tell: &mut dyn FnMut(u64)) -> Result<()> {
        let mut waits = self.hub.waits();
        loop {
            let before = length(part);
            if entry.size.is_some_and(|size| before > size) {
                remove(part)?;
            }
            if entry.size.is_some_and(|size| size == length(part) && size > 0) {
                return Ok(());
            }
            match self.go_on(entry, part, tell)? {
                Ok(()) => return Ok(()),
                Err(trouble) => {
                    if length(part) > before {
                        waits = self.hub.waits();
                    }
                    self.bear(trouble, &mut waits, &entry.path)?;
                }
            }
        }
    }

    /// Waits where that may help.
    fn bear(&self, trouble: Trouble, waits: &mut Waits, path: &str) -> Result<()> {
        let (why, wanted) = match trouble {
            Trouble::Refused(error) => return Err(error),
            Trouble::Network(why) => (why, None),
            Trouble::Busy(why, wanted) => (why, wanted),
            Trouble::Beyond => ("the part that is here is longer than the file".into(), None),
        };
        waits.wait(&format!("{path}: {why}"), wanted)
    }

    /// Reads on from where the part ends; the outer error is one of the disk.
    fn go_on(&self, entry: &Entry, part: &Path, tell: &mut dyn FnMut(u64)) -> Result<Result<(), Trouble>> {
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
        // A server that knows no ranges sends all of it again.
        let goes_on = answer.response.status() == StatusCode::PARTIAL_CONTENT
            && range.and_then(begins_at) == Some(from);
        let written = || format!("{}: cannot be written", part.display());
        let mut file = OpenOptions::new()
            .create(true)
            .append(goes_on)
            .write(true)
            .truncate(!goes_on)
            .open(part)
            .with_context(written)?;
        let mut here = if goes_on { from } else { 0 };
        let mut body = answer.response.body_mut().as_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            tell(here);
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
            anyhow::anyhow!("the disk is full; make room, and run the command again to go on")
        }
        _ => error.into(),
    }
}

/// Fails before anything is downloaded where `needed` more bytes do not fit beside `dir`.
pub fn check_room(dir: &Path, needed: u64) -> Result<()> {
    let free = fs4::available_space(dir).unwrap_or(u64::MAX);
    ensure!(
        needed <= free,
        "{}: {} are free, expected {} more; make room, or name another place with --out",
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

/// Gives a file another place on the same file system.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("{}: cannot be written", to.display()))
}

/// Holds a folder of parts for itself, as long as the file is open.
pub fn hold(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
    ensure!(
        file.try_lock().is_ok(),
        "{}: another fetch is at work there; wait for it or choose another folder",
        dir.display()
    );
    Ok(file)
}
