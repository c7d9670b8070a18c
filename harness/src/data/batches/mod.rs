//! Batches of rows cut from a store: single documents as in MiniMind but without padding, or packed documents.

mod dropped;
mod order;
mod pairs;
mod pieces;
#[cfg(test)]
mod tests;

pub use dropped::Dropped;
pub use pairs::{Pair, PreferenceBatches};
pub use pieces::sequential;

use super::loss::RowLoss;
use super::store::Store;
use crate::config::Packing;
use crate::records::SourceUse;
use anyhow::{Result, bail, ensure};
use model::Sequence;
use model::cost::attention_pairs_x2;
use order::Order;
use pieces::{Piece, join, pieces, sequence};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options for cutting batches from a store.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Maximum row length: in ids of the document for single rows, in positions for packed rows.
    pub seq_len: usize,
    /// Whether a row holds one document or several.
    pub packing: Packing,
    /// Which positions carry loss.
    pub loss: RowLoss,
    /// Seed of the row order.
    pub seed: u64,
    /// Share of each source in the target tokens, by name; with `None` every row occurs once per pass.
    pub shares: Option<Vec<(String, f64)>>,
}

/// A position in the endless sequence of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Number of completed passes over the data.
    pub epoch: u64,
    /// Number of rows taken from the current pass.
    pub row: u64,
}

/// Size of a row or a pair, from which its cost follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSize {
    /// Number of positions with loss.
    pub tokens: u64,
    /// Number of positions that pass through the model.
    pub positions: u64,
    /// Sum of the [`attention_pairs_x2`] of its documents.
    pub squares: u64,
}

impl RowSize {
    /// Size of a document with `tokens` targets and `positions` positions, each attending to at most `window` positions.
    fn document(tokens: u64, positions: u64, window: Option<usize>) -> Self {
        Self { tokens, positions, squares: attention_pairs_x2(positions, window) }
    }
}

impl std::ops::AddAssign for RowSize {
    fn add_assign(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.positions += other.positions;
        self.squares += other.squares;
    }
}

impl std::iter::Sum for RowSize {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), |mut sum, size| {
            sum += size;
            sum
        })
    }
}

/// A training row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainRow {
    /// Inputs, targets and loss weights.
    pub sequence: Sequence,
    /// For each document of the row, the index of its source and its number of positions with loss; empty if sources have
    /// no names.
    pub sources: Vec<(usize, u32)>,
}

impl From<Sequence> for TrainRow {
    fn from(sequence: Sequence) -> Self {
        Self { sequence, sources: vec![] }
    }
}

/// An endless sequence of batches, reshuffled for every pass.
pub struct Batches {
    store: Arc<Store>,
    options: BatchOptions,
    dropped: Dropped,
    pieces: Vec<Piece>,
    /// Number of positions with loss of every piece.
    counted: Vec<u32>,
    order: Order,
    pass: Pass,
    position: Position,
}

/// The order of one pass over the data.
#[derive(Debug, Default)]
struct Pass {
    /// Indices of pieces.
    order: Vec<u32>,
    /// Rows, as ranges of `order`.
    rows: Vec<std::ops::Range<usize>>,
}

impl Batches {
    /// Starts at the first batch; documents without loss are left out.
    ///
    /// # Errors
    /// If no document carries loss, `seq_len` is below 2, or a source with a share has no rows.
    pub fn new(store: Arc<Store>, options: BatchOptions) -> Result<Self> {
        ensure!(options.seq_len >= 2, "seq_len is {}, expected at least 2", options.seq_len);
        let (pieces, dropped) = pieces(&store, 0..store.len(), &options);
        if pieces.is_empty() {
            bail!(dropped.empty_error(store.info().kind));
        }
        let counted = |piece: &Piece| sequence(&store, &options.loss, *piece).counted as u32;
        let counted: Vec<u32> = match options.loss {
            RowLoss::Text => pieces.iter().map(|p| p.len - 1).collect(),
            _ => pieces.iter().map(counted).collect(),
        };
        let (pass, position) = (Pass::default(), Position::default());
        let items: Vec<(usize, u32)> =
            pieces.iter().zip(&counted).map(|(piece, counted)| (piece.document as usize, *counted)).collect();
        let why = |documents| pieces::pieces(&store, documents, &options).1;
        let order = Order::new(options.seed, store.info(), options.shares.as_deref(), &items, why)?;
        let mut batches = Self { store, options, dropped, pieces, counted, order, pass, position };
        batches.seek(position);
        Ok(batches)
    }

    /// Starts at the first batch of another seed: the same documents in another order.
    pub fn reseed(&mut self, seed: u64) {
        self.options.seed = seed;
        self.order.reseed(seed);
        self.seek(Position::default());
    }

    /// Returns the counts of rows that are left out or cut.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Returns the number of documents, or of pieces of long ones.
    pub fn documents(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the size of every row of a pass, in order, for a model with an attention `window`. Packed rows differ between
    /// passes.
    pub fn row_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        let pass = self.pass(epoch);
        let document = |&piece: &u32| {
            let piece = piece as usize;
            RowSize::document(u64::from(self.counted[piece]), u64::from(self.pieces[piece].len) - 1, window)
        };
        pass.rows.iter().map(|row| pass.order[row.clone()].iter().map(document).sum()).collect()
    }

    /// Returns the position at which the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Moves to a position returned by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        self.position = position;
        self.pass = self.pass(position.epoch);
    }

    /// Returns the next rows; a batch may extend across the end of a pass.
    pub fn next_rows(&mut self, rows: usize) -> Vec<TrainRow> {
        (0..rows).map(|_| self.next_row()).collect()
    }

    /// Returns the sequences of the next rows.
    pub fn next_batch(&mut self, rows: usize) -> Vec<Sequence> {
        self.next_rows(rows).into_iter().map(|row| row.sequence).collect()
    }

    fn next_row(&mut self) -> TrainRow {
        if self.position.row >= self.pass.rows.len() as u64 {
            self.seek(Position { epoch: self.position.epoch + 1, row: 0 });
        }
        let row = self.pass.rows[self.position.row as usize].clone();
        self.position.row += 1;
        let order = &self.pass.order[row];
        let pieces = order.iter().map(|&i| self.pieces[i as usize]);
        let of = |&i: &u32| Some((self.order.source_of(i)?, self.counted[i as usize]));
        TrainRow {
            sequence: join(pieces.map(|piece| sequence(&self.store, &self.options.loss, piece))),
            sources: order.iter().filter_map(of).collect(),
        }
    }

    /// Returns what the first `rows` rows use of each source; empty if sources have no names.
    pub fn used(&self, rows: u64) -> Vec<SourceUse> {
        if !self.order.has_sources() {
            return vec![];
        }
        let mut left = rows as usize;
        let items = (0..).map_while(|epoch| {
            let pass = (left > 0).then(|| self.pass(epoch))?;
            let rows = left.min(pass.rows.len());
            left -= rows;
            let end = pass.rows[rows - 1].end;
            Some(pass.order.into_iter().take(end))
        });
        self.order.used(items.flatten())
    }

    /// Returns a pass, split into rows.
    fn pass(&self, epoch: u64) -> Pass {
        let order = self.order.pass(epoch);
        let single = self.options.packing == Packing::Single;
        let (mut start, mut filled, mut rows) = (0, 0, vec![]);
        for (i, &piece) in order.iter().enumerate() {
            let len = self.pieces[piece as usize].len as usize - 1;
            if i > start && (single || filled + len > self.options.seq_len) {
                rows.push(start..i);
                (start, filled) = (i, 0);
            }
            filled += len;
        }
        rows.push(start..order.len());
        Pass { order, rows }
    }
}
