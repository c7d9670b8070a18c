//! Tokenized documents in a folder, read through a memory map.
//!
//! `tokens.bin` holds all ids as little-endian u32, `offsets.bin` the end of each document in tokens (u64),
//! `bytes.bin` the length of each document's text in bytes (u32), `store.json` counts that the others must match.

use anyhow::{Context, Result, bail};
use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counts {
    format: u32,
    documents: u64,
    tokens: u64,
    bytes: u64,
}

const FORMAT: u32 = 1;

/// Writes a store document by document.
pub struct StoreWriter {
    dir: PathBuf,
    tokens: BufWriter<File>,
    offsets: BufWriter<File>,
    bytes: BufWriter<File>,
    counts: Counts,
}

impl StoreWriter {
    /// A new store in a new or empty folder.
    pub fn create(dir: &Path) -> Result<Self> {
        crate::run::files::create_dir(dir)?;
        let file = |name: &str| {
            let path = dir.join(name);
            File::create(&path)
                .map(BufWriter::new)
                .with_context(|| format!("{}: cannot be written", path.display()))
        };
        Ok(Self {
            dir: dir.into(),
            tokens: file("tokens.bin")?,
            offsets: file("offsets.bin")?,
            bytes: file("bytes.bin")?,
            counts: Counts { format: FORMAT, documents: 0, tokens: 0, bytes: 0 },
        })
    }

    /// Adds a document whose text has `text_bytes` bytes.
    pub fn push(&mut self, ids: &[u32], text_bytes: usize) -> Result<()> {
        let context = || format!("{}: cannot be written", self.dir.display());
        for id in ids {
            self.tokens.write_all(&id.to_le_bytes()).with_context(context)?;
        }
        self.counts.documents += 1;
        self.counts.tokens += ids.len() as u64;
        self.counts.bytes += text_bytes as u64;
        self.offsets.write_all(&self.counts.tokens.to_le_bytes()).with_context(context)?;
        let text_bytes = u32::try_from(text_bytes).context("a document of more than 4 GiB")?;
        self.bytes.write_all(&text_bytes.to_le_bytes()).with_context(context)
    }

    /// Completes the store.
    pub fn finish(self) -> Result<()> {
        for file in [self.tokens, self.offsets, self.bytes] {
            let file = file.into_inner().map_err(|e| e.into_error());
            let file = file.with_context(|| format!("{}: cannot be written", self.dir.display()))?;
            file.sync_all().with_context(|| format!("{}: cannot be written", self.dir.display()))?;
        }
        crate::run::files::write_atomic(
            &self.dir.join("store.json"),
            &serde_json::to_vec_pretty(&self.counts)?,
        )
    }
}

/// A complete store.
#[derive(Debug)]
pub struct Store {
    tokens: Option<Mmap>,
    offsets: Vec<u64>,
    bytes: Vec<u32>,
}

impl Store {
    /// Opens a store and checks that its parts fit together.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("store.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{}: expected a token store", path.display()))?;
        let counts: Counts = serde_json::from_str(&text)
            .with_context(|| format!("{}: not the counts of a store", path.display()))?;
        if counts.format != FORMAT {
            bail!("{}: format {}, expected {FORMAT}; prepare the data again", path.display(), counts.format);
        }
        let read = |name: &str, size: u64| -> Result<Vec<u8>> {
            let path = dir.join(name);
            let data = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
            if data.len() as u64 != size * counts.documents {
                bail!("{}: is damaged; remove the folder and run again", path.display());
            }
            Ok(data)
        };
        let mut offsets = vec![0u64];
        offsets.extend(read("offsets.bin", 8)?.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)));
        let bytes = read("bytes.bin", 4)?.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let path = dir.join("tokens.bin");
        let file = File::open(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let size = file.metadata().with_context(|| format!("{}: cannot be read", path.display()))?.len();
        let whole =
            offsets.is_sorted() && offsets.last() == Some(&counts.tokens) && size == 4 * counts.tokens;
        if !whole {
            bail!("{}: is damaged; remove the folder and run again", path.display());
        }
        // SAFETY: stores are written once, under another name, and never changed afterwards.
        let map = || unsafe { Mmap::map(&file) };
        let tokens = if size == 0 {
            None
        } else {
            Some(map().with_context(|| format!("{}: cannot be mapped", path.display()))?)
        };
        Ok(Self { tokens, offsets, bytes })
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no document.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> u64 {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Tokens of document `i`.
    pub fn document_len(&self, i: usize) -> usize {
        (self.offsets[i + 1] - self.offsets[i]) as usize
    }

    /// Ids of document `i`, at most `limit` of them.
    pub fn document(&self, i: usize, limit: usize) -> Vec<u32> {
        let Some(tokens) = &self.tokens else { return vec![] };
        let len = self.document_len(i).min(limit);
        let start = self.offsets[i] as usize * 4;
        tokens[start..start + 4 * len].as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
    }

    /// Length of document `i`'s text in bytes.
    pub fn bytes(&self, i: usize) -> u64 {
        u64::from(self.bytes[i])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_come_back_and_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = StoreWriter::create(dir.path()).unwrap();
        for (ids, bytes) in [(vec![1, 70000, 2], 9), (vec![], 0), (vec![5], 1)] {
            writer.push(&ids, bytes).unwrap();
        }
        writer.finish().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!((store.len(), store.tokens()), (3, 4));
        assert_eq!(store.document(0, 10), [1, 70000, 2]);
        assert_eq!(store.document(0, 2), [1, 70000]);
        assert!(store.document(1, 9).is_empty());
        assert_eq!(store.bytes(2), 1);
        drop(store);
        std::fs::write(dir.path().join("tokens.bin"), [0; 15]).unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokens.bin: is damaged"), "{error}");
    }
}
