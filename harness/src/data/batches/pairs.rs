//! Preference pairs: two answers to one prompt.

use super::super::loss::last_words;
use super::super::row::Kind;
use super::super::store::Store;
use super::order::Order;
use super::{Lost, Position, RowSize};
use crate::records::SourceUse;
use anyhow::{Result, bail, ensure};
use model::Sequence;

/// Two answers to one prompt, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Number of the pair in its store.
    pub index: usize,
    /// Prompt and better answer; weights are on the answer.
    pub chosen: Sequence,
    /// Prompt and worse answer.
    pub rejected: Sequence,
}

/// Preference pairs of a store whose documents are the prompt with the chosen answer and with the rejected one in turn.
pub struct PreferenceBatches {
    pairs: Vec<Pair>,
    lost: Lost,
    order: Order,
    /// The pass that is being gone through.
    pass: Vec<u32>,
    position: Position,
}

impl PreferenceBatches {
    /// All pairs, cut to `seq_len` ids so that answers survive: the prompt loses its beginning first.
    ///
    /// Both answers stand behind the same part of the prompt, what the longer one leaves of it. `shares`: of each source in
    /// the target tokens, by name; `None` takes every pair once in a pass.
    ///
    /// # Errors
    /// Where nothing is left to learn from, or a row would not fit.
    pub fn new(store: &Store, seq_len: usize, seed: u64, shares: Option<&[(String, f64)]>) -> Result<Self> {
        let kind = store.info().kind;
        ensure!(kind == Kind::Preferences, "the store holds {kind}, expected {}", Kind::Preferences);
        ensure!(seq_len >= 2, "seq_len is {seq_len}, expected at least 2");
        let mut lost = Lost { of: store.len() as u64 / 2, seq_len, ..Lost::default() };
        let mut pairs = vec![];
        for index in 0..store.len() / 2 {
            let of = |document: usize| {
                let ids = store.document(document);
                let words = last_words(store.marks(document, 0, usize::MAX)).unwrap_or(ids.len());
                (ids, words)
            };
            let both = [of(2 * index), of(2 * index + 1)];
            // One id of the prompt at least stays, so that the answer's first token has something before it.
            let longest =
                both.iter().map(|(ids, words)| ids.len() - words).max().unwrap_or(0).min(seq_len - 1);
            let mut is_cut = false;
            let [chosen, rejected] = both.map(|(ids, words)| {
                let (prompt, answer) = ids.split_at(words);
                let begin = prompt.len().saturating_sub(seq_len - longest);
                let end = answer.len().min(longest);
                is_cut |= begin > 0 || end < answer.len();
                answered(&prompt[begin..], &answer[..end])
            });
            if chosen.counted == 0.0 || rejected.counted == 0.0 {
                lost.nothing_left += 1;
            } else if chosen == rejected {
                lost.equal += 1;
            } else {
                lost.cut += u64::from(is_cut);
                pairs.push(Pair { index, chosen, rejected });
            }
        }
        let tokens = |pair: &Pair| (pair.chosen.counted + pair.rejected.counted) as u32;
        let items: Vec<(usize, u32)> = pairs.iter().map(|pair| (2 * pair.index, tokens(pair))).collect();
        let order = Order::new(seed, store.info(), shares, &items)?;
        let mut batches = Self { pairs, lost, order, pass: vec![], position: Position::default() };
        batches.seek(Position::default());
        Ok(batches)
    }

    /// The error of a store none of whose pairs can be trained on.
    ///
    /// # Errors
    /// That one.
    pub fn ensure_any(&self) -> Result<()> {
        if self.pairs.is_empty() {
            bail!(self.lost.nothing(Kind::Preferences));
        }
        Ok(())
    }

    /// Pairs that are not trained on, or not whole.
    pub fn lost(&self) -> &Lost {
        &self.lost
    }

    /// All pairs, in the order of the store.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The number of the source of a pair among those of [`Self::used`], where it has a name.
    pub fn source_of(&self, pair: usize) -> Option<usize> {
        self.order.source_of(pair as u32)
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What every pair of a pass holds, in its order.
    pub fn pair_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        let answer = |row: &Sequence| RowSize::document(row.counted as u64, row.len() as u64, window);
        let pair = |pair: &Pair| [&pair.chosen, &pair.rejected].into_iter().map(answer).sum();
        self.order.pass(epoch).iter().map(|&i| pair(&self.pairs[i as usize])).collect()
    }

    /// Goes to a place told by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        self.position = position;
        self.pass = self.order.pass(position.epoch);
    }

    /// The next pairs, by their place in [`Self::pairs`]; a batch may run across the end of a pass.
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

    /// What the first pairs take of each source that has a name.
    pub fn used(&self, pairs: u64) -> Vec<SourceUse> {
        if !self.order.has_sources() || self.pairs.is_empty() {
            return vec![];
        }
        self.order.used((0..).flat_map(|epoch| self.order.pass(epoch)).take(pairs as usize))
    }
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
