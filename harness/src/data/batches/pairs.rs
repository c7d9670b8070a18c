//! Batches of preference pairs.

use super::super::loss::last_words;
use super::super::row::Kind;
use super::super::store::Store;
use super::order::Order;
use super::{Dropped, Position, RowSize};
use crate::records::SourceUse;
use anyhow::{Result, bail, ensure};
use model::Sequence;
use std::ops::Range;

/// Two answers to one prompt, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Index of the pair in its store.
    pub index: usize,
    /// Prompt and preferred answer; only the answer carries loss.
    pub chosen: Sequence,
    /// Prompt and rejected answer; only the answer carries loss.
    pub rejected: Sequence,
}

/// Preference pairs of a store whose documents alternate between the prompt with the chosen answer and with the rejected one.
pub struct PreferenceBatches {
    pairs: Vec<Pair>,
    dropped: Dropped,
    order: Order,
    /// Order of the current pass.
    pass: Vec<u32>,
    position: Position,
}

impl PreferenceBatches {
    /// Reads all pairs and cuts them to `seq_len` ids, from the beginning of the prompt first, so that answers survive.
    ///
    /// Both answers follow the same part of the prompt: as much as the longer answer leaves room for. `shares` gives the
    /// share of each source in the target tokens, by name; with `None` every pair occurs once per pass.
    ///
    /// # Errors
    /// If the store does not hold pairs, `seq_len` is below 2, or a source with a share has no pairs.
    pub fn new(store: &Store, seq_len: usize, seed: u64, shares: Option<&[(String, f64)]>) -> Result<Self> {
        let kind = store.info().kind;
        ensure!(kind == Kind::Preferences, "the store holds {kind}, expected {}", Kind::Preferences);
        ensure!(seq_len >= 2, "seq_len is {seq_len}, expected at least 2");
        let (pairs, dropped) = pairs(store, 0..store.len(), seq_len);
        let tokens = |pair: &Pair| (pair.chosen.counted + pair.rejected.counted) as u32;
        let items: Vec<(usize, u32)> = pairs.iter().map(|pair| (2 * pair.index, tokens(pair))).collect();
        let why = |documents| self::pairs(store, documents, seq_len).1;
        let order = Order::new(seed, store.info(), shares, &items, why)?;
        let mut batches = Self { pairs, dropped, order, pass: vec![], position: Position::default() };
        batches.seek(Position::default());
        Ok(batches)
    }

    /// Starts at the first batch of another seed: the same pairs in another order.
    pub fn reseed(&mut self, seed: u64) {
        self.order.reseed(seed);
        self.seek(Position::default());
    }

    /// Checks that there is a pair to train on.
    ///
    /// # Errors
    /// If no pair is left, with the reasons.
    pub fn ensure_any(&self) -> Result<()> {
        if self.pairs.is_empty() {
            bail!(self.dropped.empty_error(Kind::Preferences));
        }
        Ok(())
    }

    /// Returns the counts of pairs that are left out or cut.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Returns all pairs, in the order of the store.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Returns the index of a pair's source in [`Self::used`], if sources have names.
    pub fn source_of(&self, pair: usize) -> Option<usize> {
        self.order.source_of(pair as u32)
    }

    /// Returns the position at which the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns the size of every pair of a pass, in order, for a model with an attention `window`.
    pub fn pair_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        let answer = |row: &Sequence| RowSize::document(row.counted as u64, row.len() as u64, window);
        let pair = |pair: &Pair| [&pair.chosen, &pair.rejected].into_iter().map(answer).sum();
        self.order.pass(epoch).iter().map(|&i| pair(&self.pairs[i as usize])).collect()
    }

    /// Moves to a position returned by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        self.position = position;
        self.pass = self.order.pass(position.epoch);
    }

    /// Returns the next pairs, as indices into [`Self::pairs`]; a batch may extend across the end of a pass.
    pub fn next_batch(&mut self, pairs: usize) -> Vec<usize> {
        let mut batch = vec![];
        while batch.len() < pairs && !self.pairs.is_empty() {
            if self.position.row >= self.pass.len() as u64 {
                self.seek(Position { epoch: self.position.epoch + 1, row: 0 });
            }
            batch.push(self.pass[self.position.row as usize] as usize);
            self.position.row += 1;
        }
        batch
    }

    /// Returns what the first `pairs` pairs use of each source; empty if sources have no names.
    pub fn used(&self, pairs: u64) -> Vec<SourceUse> {
        if !self.order.has_sources() || self.pairs.is_empty() {
            return vec![];
        }
        self.order.used((0..).flat_map(|epoch| self.order.pass(epoch)).take(pairs as usize))
    }
}

/// Cuts the pairs of `documents`; also returns the counts of pairs that are left out or cut.
fn pairs(store: &Store, documents: Range<usize>, seq_len: usize) -> (Vec<Pair>, Dropped) {
    let mut dropped = Dropped { of: documents.len() as u64 / 2, seq_len, ..Dropped::default() };
    let mut pairs = vec![];
    for index in documents.start / 2..documents.end / 2 {
        let of = |document: usize| {
            let ids = store.document(document);
            let words = last_words(store.marks(document, 0, usize::MAX)).unwrap_or(ids.len());
            (ids, words)
        };
        let both = [of(2 * index), of(2 * index + 1)];
        // At least one id of the prompt stays, so that the answer's first token has a predecessor.
        let longest = both.iter().map(|(ids, words)| ids.len() - words).max().unwrap_or(0).min(seq_len - 1);
        let mut is_cut = false;
        let [chosen, rejected] = both.map(|(ids, words)| {
            let (prompt, answer) = ids.split_at(words);
            let begin = prompt.len().saturating_sub(seq_len - longest);
            let end = answer.len().min(longest);
            is_cut |= begin > 0 || end < answer.len();
            answered(&prompt[begin..], &answer[..end])
        });
        if chosen.counted == 0.0 || rejected.counted == 0.0 {
            dropped.nothing_left += 1;
        } else if chosen == rejected {
            dropped.equal += 1;
        } else {
            dropped.cut += u64::from(is_cut);
            pairs.push(Pair { index, chosen, rejected });
        }
    }
    (pairs, dropped)
}

fn answered(prompt: &[u32], answer: &[u32]) -> Sequence {
    let all: Vec<u32> = prompt.iter().chain(answer).copied().collect();
    let n = all.len().saturating_sub(1);
    let weights: Vec<f32> = (0..n).map(|i| if i + 1 >= prompt.len() { 1.0 } else { 0.0 }).collect();
    Sequence {
        ids: all[..n].to_vec(),
        targets: all.get(1..).unwrap_or_default().to_vec(),
        counted: weights.iter().sum(),
        weights,
        documents: vec![n as u32],
    }
}
