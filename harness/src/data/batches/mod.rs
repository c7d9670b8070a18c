//! Rows of a batch, cut from a store: MiniMind's rows without their padding, or packed documents.

mod lost;
mod order;
mod pairs;
mod pieces;
#[cfg(test)]
mod tests;

pub use lost::Lost;
pub use pairs::{Pair, PreferenceBatches};
pub use pieces::sequential;

use super::loss::RowLoss;
use super::store::Store;
use crate::config::Packing;
use crate::records::SourceUse;
use anyhow::{Result, bail, ensure};
use model::Sequence;
use model::cost::squares;
use order::Order;
use pieces::{Piece, join, pieces, sequence};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How batches are cut.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Longest row: ids of a document where rows are single, positions where they are packed.
    pub seq_len: usize,
    /// One document a row, or several.
    pub packing: Packing,
    /// Positions with loss.
    pub loss: RowLoss,
    /// Seed of the order.
    pub seed: u64,
    /// Share of each source in the target tokens, by name; `None` takes every row once in a pass.
    pub shares: Option<Vec<(String, f64)>>,
}

/// A place in the endless sequence of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the data that are behind us.
    pub epoch: u64,
    /// Rows of the current pass that are behind us.
    pub row: u64,
}

/// What a row, or a pair, holds: all that its cost follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSize {
    /// Positions with loss.
    pub tokens: u64,
    /// Positions that pass through the model.
    pub positions: u64,
    /// The [`squares`] of its documents, in sum.
    pub squares: u64,
}

impl RowSize {
    /// A document with so many positions, of which each sees a window at most.
    fn document(tokens: u64, positions: u64, window: Option<usize>) -> Self {
        Self { tokens, positions, squares: squares(positions, window) }
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

/// A row as it is trained on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainRow {
    /// What the model reads and predicts.
    pub sequence: Sequence,
    /// Of each of its documents the number of its source, and its positions with loss; empty where sources have no names.
    pub sources: Vec<(usize, u32)>,
}

impl From<Sequence> for TrainRow {
    fn from(sequence: Sequence) -> Self {
        Self { sequence, sources: vec![] }
    }
}

/// An endless sequence of batches, reshuffled with every pass.
pub struct Batches {
    store: Arc<Store>,
    options: BatchOptions,
    lost: Lost,
    pieces: Vec<Piece>,
    /// Positions with loss of every piece.
    counted: Vec<u32>,
    order: Order,
    pass: Pass,
    position: Position,
}

/// The order of one pass over the data.
#[derive(Debug, Default)]
struct Pass {
    /// Numbers of pieces.
    order: Vec<u32>,
    /// Rows, as ranges of `order`.
    rows: Vec<std::ops::Range<usize>>,
}

impl Batches {
    /// Batches from the start; documents without anything to learn are left out.
    ///
    /// # Errors
    /// Where nothing is left to learn from, or a row would not fit.
    pub fn new(store: Arc<Store>, options: BatchOptions) -> Result<Self> {
        ensure!(options.seq_len >= 2, "seq_len is {}, expected at least 2", options.seq_len);
        let (pieces, lost) = pieces(&store, &options);
        if pieces.is_empty() {
            bail!(lost.nothing(store.info().kind));
        }
        let counted = |piece: &Piece| sequence(&store, &options.loss, *piece).counted as u32;
        let counted: Vec<u32> = match options.loss {
            RowLoss::Text => pieces.iter().map(|p| p.len - 1).collect(),
            _ => pieces.iter().map(counted).collect(),
        };
        let (pass, position) = (Pass::default(), Position::default());
        let items: Vec<(usize, u32)> =
            pieces.iter().zip(&counted).map(|(piece, counted)| (piece.document as usize, *counted)).collect();
        let order = Order::new(options.seed, store.info(), options.shares.as_deref(), &items)?;
        let mut batches = Self { store, options, lost, pieces, counted, order, pass, position };
        batches.seek(position);
        Ok(batches)
    }

    /// Rows that are not trained on, or not whole.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// What every row of a pass over the data holds, in order, for a model that attends to a `window`. Packed rows differ
    /// between passes.
    pub fn row_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        let pass = self.pass(epoch);
        let document = |&piece: &u32| {
            let piece = piece as usize;
            RowSize::document(u64::from(self.counted[piece]), u64::from(self.pieces[piece].len) - 1, window)
        };
        pass.rows.iter().map(|row| pass.order[row.clone()].iter().map(document).sum()).collect()
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Goes to a place told by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        self.position = position;
        self.pass = self.pass(position.epoch);
    }

    /// The next rows; a batch may run across the end of a pass.
    pub fn next_rows(&mut self, rows: usize) -> Vec<TrainRow> {
        (0..rows).map(|_| self.next_row()).collect()
    }

    /// The sequences of the next rows.
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

    /// What the first rows take of each source that has a name.
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

    /// A pass, cut into rows.
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
