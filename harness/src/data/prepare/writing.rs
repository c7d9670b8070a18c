//! Writes tokenized rows into the training or the validation store and counts overlaps.

use super::super::store::{Document, StoreWriter};
use super::{FileDocuments, Overlap, Part, Prepared};
use anyhow::Result;
use std::collections::HashMap;
use std::sync::mpsc::Receiver;

/// A [`Part`] without its rows.
pub struct PartInfo {
    /// Configuration key that names its files.
    pub key: String,
    /// Name of the source or of the validation set, if it has one.
    pub name: Option<String>,
    /// Whether all of its rows are held out.
    pub is_held_out: bool,
}

impl PartInfo {
    /// Describes a part.
    pub fn of(part: &Part) -> Self {
        Self { key: part.key.clone(), name: part.name.clone(), is_held_out: part.is_held_out }
    }
}

/// Consecutive rows from one file of one part.
pub struct Chunk<T> {
    /// Index of their part.
    pub part: usize,
    /// Number of files that had been opened when the rows were read; theirs is the last.
    pub file: usize,
    /// The rows.
    pub rows: Vec<T>,
}

/// A tokenized row.
#[derive(Default)]
pub struct Tokenized {
    /// Hash of its text, or for a pair of its prompt.
    pub content: u128,
    /// Documents of the row: one, two for a pair, none for a pair with equal answers.
    pub documents: Vec<Document>,
    /// Number of special tokens in its texts.
    pub spelled: u64,
}

/// Counts of what was written of a part.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// Number of rows in the stores.
    pub rows: u64,
    /// Number of pairs left out because their answers are equal.
    pub equal: u64,
}

/// The two stores while they are being written.
pub struct Writing<'a> {
    train: StoreWriter,
    val: StoreWriter,
    parts: &'a [PartInfo],
    val_share: f64,
    /// The part that is being written.
    part: Option<usize>,
    /// What was written of each part.
    written: Vec<Written>,
    /// Rows of validation files by the hash of their text: part, number of rows, and whether an equal row is also
    /// trained on.
    held_out: HashMap<u128, Vec<(usize, u64, bool)>>,
    prepared: Prepared,
}

impl<'a> Writing<'a> {
    /// Starts with stores without documents.
    pub fn new(train: StoreWriter, val: StoreWriter, parts: &'a [PartInfo], val_share: f64) -> Self {
        let written = vec![Written::default(); parts.len()];
        let (part, held_out, prepared) = (None, HashMap::new(), Prepared::default());
        // Validation files replace the held-out share.
        let val_share = if parts.iter().any(|part| part.is_held_out) { 0.0 } else { val_share };
        Self { train, val, parts, val_share, part, written, held_out, prepared }
    }

    /// Writes all chunks and completes the stores; also returns what was written of each part.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write_all(mut self, chunks: &Receiver<Chunk<Tokenized>>) -> Result<(Prepared, Vec<Written>)> {
        for Chunk { part, file, rows } in chunks {
            self.begin(part);
            let before = self.train.documents();
            rows.into_iter().try_for_each(|row| self.row(part, &row))?;
            if let Some(index) = file.checked_sub(1) {
                let files = &mut self.prepared.files;
                files.resize(files.len().max(file), FileDocuments::default());
                files[index].documents += self.train.documents() - before;
            }
        }
        for info in [self.train.finish()?, self.val.finish()?] {
            self.prepared.tokens += info.tokens;
            self.prepared.bytes += info.bytes;
        }
        for (part, info) in self.parts.iter().enumerate().filter(|(_, info)| info.is_held_out) {
            let of_part = self.held_out.values().flatten().filter(|(of, ..)| *of == part);
            let rows = of_part.filter(|(.., is_trained)| *is_trained).map(|(_, count, _)| count).sum();
            let set = info.name.clone().unwrap_or_default();
            let Written { rows: of, equal } = self.written[part];
            self.prepared.overlaps.push(Overlap { set, rows, of, equal });
        }
        Ok((self.prepared, self.written))
    }

    fn begin(&mut self, part: usize) {
        if self.part.replace(part) == Some(part) {
            return;
        }
        let PartInfo { name: Some(name), is_held_out, .. } = &self.parts[part] else { return };
        if *is_held_out {
            self.val.begin(name);
        } else {
            self.train.begin(name);
            if self.val_share > 0.0 {
                self.val.begin(name);
            }
        }
    }

    fn row(&mut self, part: usize, row: &Tokenized) -> Result<()> {
        let prepared = &mut self.prepared;
        prepared.special += u64::from(row.spelled > 0);
        if row.documents.is_empty() {
            prepared.equal += 1;
            self.written[part].equal += 1;
            return Ok(());
        }
        let is_file = self.parts[part].is_held_out;
        let (store, rows) = match is_file || share(row.content) < self.val_share {
            true => (&mut self.val, &mut prepared.val_rows),
            false => (&mut self.train, &mut prepared.train_rows),
        };
        *rows += 1;
        self.written[part].rows += 1;
        row.documents.iter().try_for_each(|document| store.push(document))?;
        if is_file {
            let sets = self.held_out.entry(row.content).or_default();
            match sets.iter_mut().find(|(of, ..)| *of == part) {
                Some((_, count, _)) => *count += 1,
                None => sets.push((part, 1, false)),
            }
        } else if let Some(sets) = self.held_out.get_mut(&row.content) {
            sets.iter_mut().for_each(|(.., is_trained)| *is_trained = true);
        }
        Ok(())
    }
}

/// Maps a hash to a number in [0, 1) that depends on the content alone.
fn share(hash: u128) -> f64 {
    ((hash >> 64) as u64 >> 11) as f64 / (1u64 << 53) as f64
}
