//! Tokenized documents in a folder, memory-mapped: written once, read by every trial.
//!
//! | file | content, little-endian |
//! |---|---|
//! | `tokens.bin` | the documents' token ids end to end, `u16` or `u32` |
//! | `offsets.bin` | `u64` for each document, plus one at the end: where it starts in `tokens.bin`, in ids |
//! | `marks.bin` | for conversations and pairs, `u8` for each id: its role in an answer, see [`super::loss::mark`]; else empty |
//! | `labels.bin` | for labelled sequences, the target in the place of each id, same width, 0 for no target; else missing |
//! | `bytes.bin` | `u32` for each document: bytes of its text, without special tokens |
//! | `token_bytes.bin` | `u16` for each entry of the vocabulary: bytes of text that the token stands for |
//! | `store.json` | counts, kind, tokenizer, and the SHA-256 of the other files |

use super::row::Kind;
use crate::fsutil::{hex, write_atomic};
use anyhow::{Context, Result, bail, ensure};
use memmap2::Mmap;
use model::Sequence;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Version of the file layout; incremented whenever the meaning of the files changes.
pub const FORMAT: u32 = 2;

const TOKENS: &str = "tokens.bin";
const MARKS: &str = "marks.bin";
const LABELS: &str = "labels.bin";
const OFFSETS: &str = "offsets.bin";
const BYTES: &str = "bytes.bin";
const TOKEN_BYTES: &str = "token_bytes.bin";
const INFO: &str = "store.json";

/// Content of `store.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Version of the layout, [`FORMAT`].
    pub format: u32,
    /// Kind of the documents.
    pub kind: Kind,
    /// Number of documents; a preference pair is two: the prompt with the chosen answer and the prompt with the rejected one.
    pub documents: u64,
    /// Number of token ids in all documents.
    pub tokens: u64,
    /// Bytes of text in all documents, without special tokens.
    pub bytes: u64,
    /// Bytes per stored id: 2 or 4.
    pub id_bytes: u32,
    /// Number of entries of the vocabulary.
    pub vocab_size: u32,
    /// Ids of the marker that opens an answer, for MiniMind-style rows; else empty.
    pub marker: Vec<u32>,
    /// Digest of the tokenizer and its chat template.
    pub tokenizer: String,
    /// Sources of the documents, in the order of the documents; empty if the sources have no names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceInfo>,
    /// SHA-256 of each other file of the store, by file name.
    pub sha256: BTreeMap<String, String>,
}

/// One source of a store's documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Name of the source, or of the validation set.
    pub name: String,
    /// Number of documents.
    pub documents: u64,
}

impl StoreInfo {
    /// Returns the range of document indices of each named source.
    pub fn ranges(&self) -> Vec<(&str, std::ops::Range<usize>)> {
        let mut end = 0;
        let range = |source: &'_ SourceInfo| {
            let begin = end;
            end += source.documents as usize;
            begin..end
        };
        let ranges: Vec<_> = self.sources.iter().map(range).collect();
        self.sources.iter().map(|source| source.name.as_str()).zip(ranges).collect()
    }

    /// Whether the store has a mark for each id.
    pub fn has_marks(&self) -> bool {
        has_marks(self.kind, &self.marker)
    }
}

/// Whether ids of this kind have marks. Pretraining text carries loss everywhere, MiniMind-style conversations are
/// searched for the marker, and labelled sequences have labels.
fn has_marks(kind: Kind, marker: &[u32]) -> bool {
    match kind {
        Kind::Pretrain => false,
        Kind::Conversations => marker.is_empty(),
        Kind::Preferences => true,
        Kind::Labelled => false,
    }
}

/// A document to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Mark of each id, see [`super::loss::mark`]; empty if the store has no marks.
    pub marks: Vec<u8>,
    /// For labelled sequences, the target in the place of each id, 0 for no target; else empty.
    pub labels: Vec<u32>,
    /// Bytes of the text, without special tokens.
    pub bytes: usize,
}

/// Properties of a store that are known before its documents are written.
#[derive(Debug, Clone, PartialEq)]
pub struct StoreHead {
    /// Kind of the documents.
    pub kind: Kind,
    /// Bytes of text that each entry of the vocabulary stands for.
    pub token_bytes: Vec<u16>,
    /// Ids of the marker that opens an answer, for MiniMind-style rows; else empty.
    pub marker: Vec<u32>,
    /// Digest of the tokenizer and its chat template.
    pub tokenizer: String,
}

/// Tokenized documents, memory-mapped.
pub struct Store {
    dir: PathBuf,
    info: StoreInfo,
    tokens: Mmap,
    marks: Mmap,
    /// Only for labelled sequences.
    labels: Option<Mmap>,
    offsets: Mmap,
    bytes: Mmap,
    token_bytes: Vec<u16>,
}

impl Store {
    /// Opens a store; checks the sizes of its files against `store.json` and that the offsets are consistent.
    ///
    /// # Errors
    /// If a file is missing, has another format or size than expected, or the offsets or sources are inconsistent.
    pub fn open(dir: &Path) -> Result<Self> {
        let info_path = dir.join(INFO);
        let text = fs::read(&info_path)
            .with_context(|| format!("{}: cannot be read; expected a token store", info_path.display()))?;
        let info: StoreInfo = serde_json::from_slice(&text)
            .with_context(|| format!("{}: is not a token store's description", info_path.display()))?;
        ensure!(
            info.format == FORMAT,
            "{}: format {}, expected {FORMAT}; prepare the data again",
            info_path.display(),
            info.format
        );
        ensure!(
            matches!(info.id_bytes, 2 | 4),
            "{}: id_bytes is {}, expected 2 or 4",
            info_path.display(),
            info.id_bytes
        );
        let expect = |name: &str, items: u64, width: u32| -> Result<Mmap> {
            let path = dir.join(name);
            let mapped = map(&path)?;
            let expected = items.saturating_mul(u64::from(width));
            ensure!(
                mapped.len() as u64 == expected,
                "{}: has {} bytes, expected {expected}; the store is damaged, prepare the data again",
                path.display(),
                mapped.len()
            );
            Ok(mapped)
        };
        let store = Self {
            dir: dir.to_path_buf(),
            tokens: expect(TOKENS, info.tokens, info.id_bytes)?,
            marks: expect(MARKS, if info.has_marks() { info.tokens } else { 0 }, 1)?,
            labels: match info.kind {
                Kind::Labelled => Some(expect(LABELS, info.tokens, info.id_bytes)?),
                Kind::Pretrain | Kind::Conversations | Kind::Preferences => None,
            },
            offsets: expect(OFFSETS, info.documents.saturating_add(1), 8)?,
            bytes: expect(BYTES, info.documents, 4)?,
            token_bytes: expect(TOKEN_BYTES, u64::from(info.vocab_size), 2)?
                .chunks_exact(2)
                .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
                .collect(),
            info,
        };
        let mut before = 0;
        for document in 0..=store.len() {
            let offset = store.offset(document);
            let whole = document < store.len() || offset == store.info.tokens;
            ensure!(
                before <= offset && offset <= store.info.tokens && whole,
                "{}: is damaged at document {document}; prepare the data again",
                dir.join(OFFSETS).display()
            );
            before = offset;
        }
        let of_sources: u64 = store.info.sources.iter().map(|source| source.documents).sum();
        ensure!(
            store.info.sources.is_empty() || of_sources == store.info.documents,
            "{}: its sources have {of_sources} documents of {}; prepare the data again",
            info_path.display(),
            store.info.documents
        );
        Ok(store)
    }

    /// Checks the SHA-256 of every file.
    ///
    /// # Errors
    /// If a file cannot be read or its digest differs; names the first such file.
    pub fn verify(&self) -> Result<()> {
        for (name, expected) in &self.info.sha256 {
            let path = self.dir.join(name);
            let found = crate::fsutil::sha256(&path)?;
            ensure!(
                found == *expected,
                "{}: its SHA-256 is not that of store.json; the store is damaged, prepare the data again",
                path.display()
            );
        }
        Ok(())
    }

    /// Returns the content of `store.json`.
    pub fn info(&self) -> &StoreInfo {
        &self.info
    }

    /// Returns the number of documents.
    pub fn len(&self) -> usize {
        self.info.documents as usize
    }

    /// Whether the store has no documents.
    pub fn is_empty(&self) -> bool {
        self.info.documents == 0
    }

    /// Returns the number of ids of a document.
    pub fn document_len(&self, index: usize) -> usize {
        (self.offset(index + 1) - self.offset(index)) as usize
    }

    /// Returns the ids of a document.
    pub fn document(&self, index: usize) -> Vec<u32> {
        self.slice(index, 0, usize::MAX)
    }

    /// Returns at most `len` ids of a document, beginning with id `start`.
    pub fn slice(&self, index: usize, start: usize, len: usize) -> Vec<u32> {
        self.ids_in(&self.tokens, index, start, len)
    }

    /// Returns the targets in the place of the ids of [`Self::slice`], 0 for no target; empty if the store has no labels.
    pub fn labels(&self, index: usize, start: usize, len: usize) -> Vec<u32> {
        self.labels.as_ref().map_or(vec![], |labels| self.ids_in(labels, index, start, len))
    }

    fn ids_in(&self, file: &Mmap, index: usize, start: usize, len: usize) -> Vec<u32> {
        let document = self.document_len(index);
        let start = start.min(document);
        let width = self.info.id_bytes as usize;
        let from = (self.offset(index) as usize + start) * width;
        let ids = &file[from..from + len.min(document - start) * width];
        if width == 2 {
            ids.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]))).collect()
        } else {
            ids.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect()
        }
    }

    /// Returns the marks of the ids of [`Self::slice`]; empty if the store has no marks.
    pub fn marks(&self, index: usize, start: usize, len: usize) -> &[u8] {
        if self.marks.is_empty() {
            return &[];
        }
        let document = self.document_len(index);
        let start = start.min(document);
        let from = self.offset(index) as usize + start;
        &self.marks[from..from + len.min(document - start)]
    }

    /// Returns the bytes of a document's text, without special tokens.
    pub fn bytes(&self, index: usize) -> u32 {
        let at = &self.bytes[index * 4..index * 4 + 4];
        u32::from_le_bytes([at[0], at[1], at[2], at[3]])
    }

    /// Returns the bytes of text that a row's targets with positive weight stand for: the denominator of bits per byte.
    pub fn target_bytes(&self, row: &Sequence) -> u64 {
        let bytes = |target: u32| u64::from(self.token_bytes.get(target as usize).copied().unwrap_or(0));
        row.targets
            .iter()
            .zip(&row.weights)
            .map(|(&id, &weight)| if weight > 0.0 { bytes(id) } else { 0 })
            .sum()
    }

    fn offset(&self, index: usize) -> u64 {
        let at = &self.offsets[index * 8..index * 8 + 8];
        u64::from_le_bytes([at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7]])
    }
}

fn map(path: &Path) -> Result<Mmap> {
    let whole = || -> std::io::Result<Mmap> {
        let file = File::open(path)?;
        // SAFETY: a store's files are complete before their folder gets its final name and never change afterwards;
        // the map is read as plain bytes.
        unsafe { Mmap::map(&file) }
    };
    whole().with_context(|| format!("{}: cannot be read; prepare the data again", path.display()))
}

/// Writes a store document by document, in constant memory.
pub struct StoreWriter {
    dir: PathBuf,
    head: StoreHead,
    id_bytes: u32,
    tokens: Hashed,
    marks: Hashed,
    labels: Option<Hashed>,
    offsets: Hashed,
    bytes: Hashed,
    documents: u64,
    total_tokens: u64,
    total_bytes: u64,
    sources: Vec<SourceInfo>,
    buffer: Vec<u8>,
}

impl StoreWriter {
    /// Starts a store in the folder `dir`, which is created.
    ///
    /// # Errors
    /// If the folder or a file cannot be created.
    pub fn create(dir: &Path, head: StoreHead) -> Result<Self> {
        crate::fsutil::create_dir(dir)?;
        let kind = head.kind;
        let mut writer = Self {
            id_bytes: if head.token_bytes.len() <= 1 << 16 { 2 } else { 4 },
            head,
            tokens: Hashed::create(dir, TOKENS)?,
            marks: Hashed::create(dir, MARKS)?,
            labels: (kind == Kind::Labelled).then(|| Hashed::create(dir, LABELS)).transpose()?,
            offsets: Hashed::create(dir, OFFSETS)?,
            bytes: Hashed::create(dir, BYTES)?,
            dir: dir.to_path_buf(),
            documents: 0,
            total_tokens: 0,
            total_bytes: 0,
            sources: Vec::new(),
            buffer: Vec::new(),
        };
        writer.offsets.write(&0u64.to_le_bytes())?;
        Ok(writer)
    }

    /// Starts a named source, to which the following documents belong.
    pub fn begin(&mut self, name: &str) {
        self.sources.push(SourceInfo { name: name.into(), documents: 0 });
    }

    /// Returns the number of documents written so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Appends a document.
    ///
    /// # Errors
    /// If a file cannot be written, an id is not in the vocabulary, marks or labels do not fit the ids, or the text exceeds 4 GB.
    pub fn push(&mut self, document: &Document) -> Result<()> {
        let Document { ids, marks, labels, bytes } = document;
        let vocab = self.head.token_bytes.len();
        let marked = if has_marks(self.head.kind, &self.head.marker) { ids.len() } else { 0 };
        ensure!(marks.len() == marked, "{} marks for {} ids", marks.len(), ids.len());
        let labelled = if self.labels.is_some() { ids.len() } else { 0 };
        ensure!(labels.len() == labelled, "{} labels for {} ids", labels.len(), ids.len());
        if let Some(id) = ids.iter().chain(labels).find(|&&id| id as usize >= vocab) {
            bail!("token id {id} is not in the vocabulary of {vocab} entries");
        }
        let width = self.id_bytes as usize;
        self.buffer.clear();
        self.buffer.extend(ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)));
        self.tokens.write(&self.buffer)?;
        if let Some(file) = &mut self.labels {
            self.buffer.clear();
            self.buffer.extend(labels.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)));
            file.write(&self.buffer)?;
        }
        self.marks.write(marks)?;
        self.documents += 1;
        if let Some(source) = self.sources.last_mut() {
            source.documents += 1;
        }
        self.total_tokens += ids.len() as u64;
        self.total_bytes += *bytes as u64;
        self.offsets.write(&self.total_tokens.to_le_bytes())?;
        self.bytes.write(&u32::try_from(*bytes).context("a document of more than 4 GB")?.to_le_bytes())
    }

    /// Completes the store. `store.json` is written last, so a folder that has one is complete.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn finish(self) -> Result<StoreInfo> {
        let mut token_bytes = Hashed::create(&self.dir, TOKEN_BYTES)?;
        for bytes in &self.head.token_bytes {
            token_bytes.write(&bytes.to_le_bytes())?;
        }
        let mut sha256 = BTreeMap::new();
        let files = [self.tokens, self.marks, self.offsets, self.bytes, token_bytes];
        for file in files.into_iter().chain(self.labels) {
            let (name, digest) = file.finish()?;
            sha256.insert(name.to_owned(), digest);
        }
        let info = StoreInfo {
            format: FORMAT,
            kind: self.head.kind,
            documents: self.documents,
            tokens: self.total_tokens,
            bytes: self.total_bytes,
            id_bytes: self.id_bytes,
            vocab_size: u32::try_from(self.head.token_bytes.len()).context("a vocabulary of over 2^32")?,
            marker: self.head.marker,
            tokenizer: self.head.tokenizer,
            sources: self.sources,
            sha256,
        };
        write_atomic(&self.dir.join(INFO), &serde_json::to_vec_pretty(&info)?)?;
        Ok(info)
    }
}

/// A file whose SHA-256 is computed while it is written.
struct Hashed {
    name: &'static str,
    path: PathBuf,
    out: BufWriter<File>,
    hasher: Sha256,
}

impl Hashed {
    fn create(dir: &Path, name: &'static str) -> Result<Self> {
        let path = dir.join(name);
        let file = File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
        Ok(Self { name, path, out: BufWriter::with_capacity(1 << 16, file), hasher: Sha256::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    fn finish(self) -> Result<(&'static str, String)> {
        let whole = || -> std::io::Result<()> {
            let file = self.out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()
        };
        whole().with_context(|| format!("{}: cannot be written", self.path.display()))?;
        Ok((self.name, hex(&self.hasher.finalize())))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::loss::mark;

    /// Creates a small store of hand-made documents; every token stands for three bytes, ids 0 to 2 for none.
    pub(crate) fn store_of(dir: &Path, kind: Kind, vocab: usize, documents: &[&[u32]]) -> Store {
        let token_bytes = (0..vocab).map(|id| if id < 3 { 0 } else { 3 }).collect();
        let head = StoreHead { kind, token_bytes, marker: vec![], tokenizer: "hand-made".into() };
        let mut writer = StoreWriter::create(dir, head).unwrap();
        for ids in documents {
            // In a hand-made conversation an answer begins after id 5 and ends with the next id 2.
            let mut marks = vec![0; if has_marks(kind, &[]) { ids.len() } else { 0 }];
            let mut inside = false;
            for (at, mark) in marks.iter_mut().enumerate() {
                let is_first = at > 0 && ids[at - 1] == 5;
                inside = is_first || inside && ids[at - 1] != 2;
                let words = if ids[at] == 2 { 0 } else { mark::WORDS };
                let first = if is_first { mark::FIRST } else { 0 };
                *mark = if inside { mark::ANSWER | words | first } else { 0 };
            }
            let bytes = ids.len() * 3;
            writer.push(&Document { ids: ids.to_vec(), marks, bytes, ..Document::default() }).unwrap();
        }
        writer.finish().unwrap();
        Store::open(dir).unwrap()
    }

    #[test]
    fn documents_come_back_as_they_were_written() {
        for vocab in [300, 70_000] {
            let dir = tempfile::tempdir().unwrap();
            let last = vocab as u32 - 1;
            let documents: [&[u32]; 4] = [&[1, 7, 2], &[], &[1, last, 9, 8, 2], &[3]];
            let store = store_of(dir.path(), Kind::Pretrain, vocab, &documents);
            assert_eq!(store.len(), 4);
            for (index, document) in documents.iter().enumerate() {
                assert_eq!(store.document(index), *document);
                assert_eq!(store.bytes(index) as usize, document.len() * 3);
            }
            assert_eq!(store.slice(2, 1, 2), [last, 9]);
            assert_eq!(store.slice(2, 4, 9), [2]);
            assert_eq!(store.slice(2, 9, 9), [0u32; 0]);
            store.verify().unwrap();
        }
    }

    #[test]
    fn an_empty_store_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        assert!(store_of(dir.path(), Kind::Pretrain, 10, &[]).is_empty());
    }

    #[test]
    fn damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_of(dir.path(), Kind::Pretrain, 10, &[&[1, 7, 2], &[1, 2]]);
        let tokens = dir.path().join(TOKENS);
        let mut bytes = fs::read(&tokens).unwrap();
        bytes[2] = 8;
        fs::write(&tokens, &bytes).unwrap();
        assert!(store.verify().unwrap_err().to_string().contains("tokens.bin"));
        fs::write(&tokens, &bytes[..4]).unwrap();
        assert!(Store::open(dir.path()).err().unwrap().to_string().contains("has 4 bytes, expected 10"));
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let head = StoreHead {
            kind: Kind::Pretrain,
            token_bytes: vec![1; 4],
            marker: vec![],
            tokenizer: String::new(),
        };
        let mut writer = StoreWriter::create(dir.path(), head).unwrap();
        assert!(
            writer
                .push(&Document { ids: vec![1, 4], ..Document::default() })
                .unwrap_err()
                .to_string()
                .contains("token id 4")
        );
    }
}
