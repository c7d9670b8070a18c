//! Rows of a batch, cut from a store: MiniMind's rows without their padding, or packed documents.

use super::row::Kind;
use super::store::Store;
use crate::config::{AnswerLoss, Packing};
use anyhow::{Result, bail, ensure};
use model::Sequence;
use model::random::{Purpose, stream};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which positions of a document carry loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowLoss {
    /// All.
    Text,
    /// Those after the last answer marker, as MiniMind finds it in the cut ids.
    LastAnswer {
        /// Ids of `<s>assistant`.
        marker: Vec<u32>,
    },
    /// Those of every answer, up to and including what ends it.
    EveryAnswer {
        /// Ids of `<s>assistant`.
        marker: Vec<u32>,
        /// Ids of `</s>` and the newline behind it.
        turn_end: Vec<u32>,
    },
}

impl RowLoss {
    /// The loss on the documents of a store.
    pub fn of(store: &Store, answers: AnswerLoss) -> Self {
        let (marker, turn_end) = (store.info().marker.clone(), store.info().turn_end.clone());
        match (store.info().kind, answers) {
            (Kind::Pretrain, _) => Self::Text,
            (_, AnswerLoss::Last) => Self::LastAnswer { marker },
            (_, AnswerLoss::Every) => Self::EveryAnswer { marker, turn_end },
        }
    }

    /// 1 for each id that is trained on as a target, `(ids,)`.
    fn mask(&self, ids: &[u32]) -> Vec<f32> {
        let mut mask = vec![0.0; ids.len()];
        match self {
            Self::Text => mask.fill(1.0),
            Self::LastAnswer { marker } => {
                let found = (0..ids.len()).rfind(|&at| ids[at..].starts_with(marker));
                // Without a marker v1's search says -1, and its loss starts at -1 + marker length.
                let start = found.map_or(marker.len().saturating_sub(1), |at| at + marker.len());
                mask.iter_mut().skip(start).for_each(|m| *m = 1.0);
            }
            Self::EveryAnswer { marker, turn_end } => {
                let mut at = 0;
                while at < ids.len() {
                    if !ids[at..].starts_with(marker) {
                        at += 1;
                        continue;
                    }
                    let start = at + marker.len();
                    let end = (start..ids.len()).find(|&end| ids[end..].starts_with(turn_end));
                    // An answer that was cut off has no end; what is left of it counts.
                    at = end.map_or(ids.len(), |end| end + turn_end.len());
                    mask[start..at].fill(1.0);
                }
            }
        }
        mask
    }

    /// A document of at least two ids as a sequence.
    fn sequence(&self, ids: &[u32]) -> Sequence {
        let mask = &self.mask(ids)[1..];
        let (n, targets) = (ids.len() - 1, &ids[1..]);
        Sequence {
            ids: ids[..n].to_vec(),
            targets: targets.to_vec(),
            // A target 0 has no loss in MiniMind, but counts in the mean.
            weights: mask.iter().zip(targets).map(|(&m, &t)| if t == 0 { 0.0 } else { m }).collect(),
            documents: vec![n as u32],
            counted: mask.iter().sum(),
        }
    }
}

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
}

/// A place in the endless sequence of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the data that are behind us.
    pub epoch: u64,
    /// Rows of the current pass that are behind us.
    pub row: u64,
}

/// A piece of a document: its number and its ids.
#[derive(Debug, Clone, Copy)]
struct Piece {
    document: u32,
    start: u32,
    len: u32,
}

/// An endless sequence of batches, reshuffled with every pass.
pub struct Batches {
    store: Arc<Store>,
    options: BatchOptions,
    pieces: Vec<Piece>,
    /// Positions with loss of every piece.
    counted: Vec<u32>,
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
    pub fn new(store: Arc<Store>, options: BatchOptions) -> Result<Self> {
        ensure!(options.seq_len >= 2, "seq_len is {}, expected at least 2", options.seq_len);
        let pieces = pieces(&store, &options);
        if pieces.is_empty() {
            bail!("no document has anything to train on within {} tokens", options.seq_len);
        }
        let counted = |piece: &Piece| options.loss.sequence(&ids(&store, *piece)).counted as u32;
        let counted = match options.loss {
            RowLoss::Text => pieces.iter().map(|p| p.len - 1).collect(),
            _ => pieces.iter().map(counted).collect(),
        };
        let (pass, position) = (Pass::default(), Position::default());
        let mut batches = Self { store, options, pieces, counted, pass, position };
        batches.seek(position);
        Ok(batches)
    }

    /// Positions with loss of every row of a pass over the data, in order. Packed rows differ between passes.
    pub fn row_tokens(&self, epoch: u64) -> Vec<u64> {
        let pass = self.pass(epoch);
        let tokens = |row: &std::ops::Range<usize>| {
            pass.order[row.clone()].iter().map(|&piece| u64::from(self.counted[piece as usize])).sum()
        };
        pass.rows.iter().map(tokens).collect()
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
    pub fn next_batch(&mut self, rows: usize) -> Vec<Sequence> {
        (0..rows).map(|_| self.next_row()).collect()
    }

    fn next_row(&mut self) -> Sequence {
        if self.position.row >= self.pass.rows.len() as u64 {
            self.seek(Position { epoch: self.position.epoch + 1, row: 0 });
        }
        let row = self.pass.rows[self.position.row as usize].clone();
        self.position.row += 1;
        let documents = self.pass.order[row].iter().map(|&i| {
            let ids = ids(&self.store, self.pieces[i as usize]);
            self.options.loss.sequence(&ids)
        });
        join(documents)
    }

    /// The order of a pass, a function of seed and epoch.
    fn pass(&self, epoch: u64) -> Pass {
        let mut order: Vec<u32> = (0..self.pieces.len() as u32).collect();
        let mut rng = stream(self.options.seed, Purpose::Order, epoch);
        order.shuffle(&mut rng);
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

/// What of each document is used.
fn pieces(store: &Store, options: &BatchOptions) -> Vec<Piece> {
    let mut pieces = vec![];
    for document in 0..store.len() {
        let len = store.document_len(document);
        match options.packing {
            Packing::Single => pieces.push(Piece {
                document: document as u32,
                start: 0,
                len: len.min(options.seq_len) as u32,
            }),
            // The rest of a long conversation would be answers without their questions.
            Packing::Separated if options.loss != RowLoss::Text => {
                let len = len.min(options.seq_len + 1) as u32;
                pieces.push(Piece { document: document as u32, start: 0, len });
            }
            // Positions are one fewer than ids; pieces overlap by one id, so that every id is a target once.
            Packing::Separated => {
                for start in (0..len.saturating_sub(1)).step_by(options.seq_len) {
                    let len = (len - start).min(options.seq_len + 1);
                    pieces.push(Piece { document: document as u32, start: start as u32, len: len as u32 });
                }
            }
        }
    }
    pieces.retain(|p| p.len > 1);
    if options.loss != RowLoss::Text {
        pieces.retain(|p| options.loss.sequence(&ids(store, *p)).counted > 0.0);
    }
    pieces
}

fn ids(store: &Store, piece: Piece) -> Vec<u32> {
    store.slice(piece.document as usize, piece.start as usize, piece.len as usize)
}

fn join(documents: impl Iterator<Item = Sequence>) -> Sequence {
    documents
        .reduce(|mut row, document| {
            row.ids.extend(document.ids);
            row.targets.extend(document.targets);
            row.weights.extend(document.weights);
            row.documents.extend(document.documents);
            row.counted += document.counted;
            row
        })
        .unwrap_or_default()
}

/// Held-out documents in order until `max_tokens` positions with loss: each a row of at most `seq_len` ids, with
/// the bytes of text that its targets with loss stand for.
pub fn sequential(store: &Store, options: &BatchOptions, max_tokens: u64) -> Vec<(Sequence, f64)> {
    let (mut rows, mut tokens) = (vec![], 0.0);
    for document in 0..store.len() {
        let ids = store.slice(document, 0, options.seq_len);
        if ids.len() < 2 {
            continue;
        }
        let sequence = options.loss.sequence(&ids);
        if sequence.counted == 0.0 {
            continue;
        }
        tokens += f64::from(sequence.counted);
        let bytes = store.target_bytes(&sequence) as f64;
        rows.push((sequence, bytes));
        if tokens >= max_tokens as f64 {
            break;
        }
    }
    rows
}

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

/// Preference pairs of a store whose documents are prompt, chosen, rejected in turn.
pub struct PreferenceBatches {
    pairs: Vec<Pair>,
    seed: u64,
    order: Vec<u32>,
    position: Position,
}

impl PreferenceBatches {
    /// All pairs, cut to `seq_len` ids so that answers survive: the prompt loses its beginning first.
    ///
    /// Both answers stand behind the same part of the prompt, what the longer one leaves of it.
    pub fn new(store: &Store, seq_len: usize, seed: u64) -> Result<Self> {
        let kind = store.info().kind;
        ensure!(kind == Kind::Preferences, "the store holds {kind}, expected {}", Kind::Preferences);
        ensure!(seq_len >= 2, "seq_len is {seq_len}, expected at least 2");
        let pairs: Vec<Pair> = (0..store.len() / 3)
            .map(|index| {
                let [prompt, chosen, rejected] = [0, 1, 2].map(|part| store.document(3 * index + part));
                // One id of the prompt at least stays, so that the answer's first token has something before it.
                let longest = chosen.len().max(rejected.len()).min(seq_len - 1);
                let prompt = &prompt[prompt.len().saturating_sub(seq_len - longest)..];
                let answered = |answer: &[u32]| answered(prompt, &answer[..answer.len().min(longest)]);
                Pair { index, chosen: answered(&chosen), rejected: answered(&rejected) }
            })
            .filter(|pair| pair.chosen.counted > 0.0 && pair.rejected.counted > 0.0)
            .collect();
        let mut batches = Self { pairs, seed, order: vec![], position: Position::default() };
        batches.seek(Position::default());
        Ok(batches)
    }

    /// All pairs, in the order of the store.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Positions with loss of every pair of a pass, in its order.
    pub fn pair_tokens(&self, epoch: u64) -> Vec<u64> {
        let tokens = |&i: &u32| {
            let pair = &self.pairs[i as usize];
            (pair.chosen.counted + pair.rejected.counted) as u64
        };
        self.order_of(epoch).iter().map(tokens).collect()
    }

    /// Goes to a place told by [`Self::position`].
    pub fn seek(&mut self, position: Position) {
        self.position = position;
        self.order = self.order_of(position.epoch);
    }

    /// The next pairs, by their place in [`Self::pairs`]; a batch may run across the end of a pass.
    pub fn next_batch(&mut self, pairs: usize) -> Vec<usize> {
        let mut batch = vec![];
        while batch.len() < pairs && !self.pairs.is_empty() {
            if self.position.row >= self.order.len() as u64 {
                self.seek(Position { epoch: self.position.epoch + 1, row: 0 });
            }
            batch.push(self.order[self.position.row as usize] as usize);
            self.position.row += 1;
        }
        batch
    }

    /// The order of a pass, a function of seed and epoch.
    fn order_of(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.pairs.len() as u32).collect();
        let mut rng = stream(self.seed, Purpose::Order, epoch);
        order.shuffle(&mut rng);
        order
    }
}

fn answered(prompt: &[u32], answer: &[u32]) -> Sequence {
    let all: Vec<u32> = prompt.iter().chain(answer).copied().collect();
    let n = all.len().saturating_sub(1);
    Sequence {
        ids: all[..n].to_vec(),
        targets: all.get(1..).unwrap_or_default().to_vec(),
        weights: (0..n).map(|i| if i + 1 >= prompt.len() { 1.0 } else { 0.0 }).collect(),
        documents: vec![n as u32],
        counted: answer.len() as f32,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data::store::tests::store_of;

    fn store(documents: &[Vec<u32>]) -> (tempfile::TempDir, Arc<Store>) {
        store_as(Kind::Pretrain, documents)
    }

    fn store_as(kind: Kind, documents: &[Vec<u32>]) -> (tempfile::TempDir, Arc<Store>) {
        let dir = tempfile::tempdir().unwrap();
        let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        let store = Arc::new(store_of(dir.path(), kind, 10_000, &documents));
        (dir, store)
    }

    fn options(packing: Packing, seq_len: usize) -> BatchOptions {
        BatchOptions { seq_len, packing, loss: RowLoss::Text, seed: 3 }
    }

    #[test]
    fn packed_rows_hold_whole_documents_and_every_target_once() {
        let documents: Vec<Vec<u32>> =
            (0..20u32).map(|d| (0..3 + d).map(|i| 10 + d * 100 + i).collect()).collect();
        let (_dir, store) = store(&documents);
        let mut batches = Batches::new(store, options(Packing::Separated, 16)).unwrap();
        let mut targets = vec![];
        for _ in 0..batches.row_tokens(0).len() {
            let row = batches.next_row();
            assert!(row.len() <= 16);
            assert_eq!(row.documents.iter().sum::<u32>() as usize, row.len());
            let mut start = 0;
            for &len in &row.documents {
                let span = start..start + len as usize;
                // Ids of one document share their hundred and follow each other.
                assert!(row.ids[span.clone()].iter().zip(&row.targets[span]).all(|(i, t)| i + 1 == *t));
                start += len as usize;
            }
            targets.extend(row.targets);
        }
        targets.sort_unstable();
        let mut want: Vec<u32> = documents.iter().flat_map(|d| d[1..].to_vec()).collect();
        want.sort_unstable();
        assert_eq!(targets, want);
        assert_eq!(batches.row_tokens(0).iter().sum::<u64>(), want.len() as u64);
    }

    #[test]
    fn a_place_is_found_again() {
        let documents: Vec<Vec<u32>> = (0..7u32).map(|d| vec![1, d + 3, 2]).collect();
        let (_dir, store) = store(&documents);
        let mut batches = Batches::new(store.clone(), options(Packing::Single, 8)).unwrap();
        (0..5).for_each(|_| drop(batches.next_batch(2))); // into the second pass
        let place = batches.position();
        assert_eq!(place, Position { epoch: 1, row: 3 });
        let want: Vec<_> = (0..4).map(|_| batches.next_batch(2)).collect();
        let mut again = Batches::new(store, options(Packing::Single, 8)).unwrap();
        again.seek(place);
        assert_eq!((0..4).map(|_| again.next_batch(2)).collect::<Vec<_>>(), want);
    }

    #[test]
    fn every_answer_carries_loss_and_nothing_else() {
        // user 1 9 9 2 3, marker 1 7, answer 5 5 2 3
        let ids = [1, 9, 9, 2, 3, 1, 7, 5, 5, 2, 3, 1, 9, 2, 3, 1, 7, 6, 2, 3];
        let loss = RowLoss::EveryAnswer { marker: vec![1, 7], turn_end: vec![2, 3] };
        let trained: Vec<usize> =
            loss.mask(&ids).iter().enumerate().filter(|(_, m)| **m > 0.0).map(|(i, _)| i).collect();
        assert_eq!(trained, [7, 8, 9, 10, 17, 18, 19]);
    }

    #[test]
    fn long_pairs_keep_their_answers() {
        let documents = [vec![1, 2, 3, 4, 5, 6], vec![7, 8], vec![9]];
        let (_dir, store) = store_as(Kind::Preferences, &documents);
        let batches = PreferenceBatches::new(&store, 4, 1).unwrap();
        let pair = &batches.pairs()[0];
        assert_eq!(
            (pair.chosen.ids.as_slice(), pair.chosen.targets.as_slice()),
            ([5, 6, 7].as_slice(), [6, 7, 8].as_slice())
        );
        assert_eq!(pair.chosen.weights, [0.0, 1.0, 1.0]);
        assert_eq!(
            (pair.rejected.ids.as_slice(), pair.rejected.weights.as_slice()),
            ([5, 6].as_slice(), [0.0, 1.0].as_slice())
        );
    }

    #[test]
    fn loss_falls_on_the_last_answer() {
        let loss = RowLoss::LastAnswer { marker: vec![1, 5] };
        let on = |ids: &[u32]| loss.mask(ids).iter().map(|&m| m as u32).collect::<Vec<_>>();
        assert_eq!(on(&[1, 4, 9, 2, 1, 5, 8, 2, 1, 5, 7, 2]), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        // The marker was cut off: MiniMind's -1 + its length.
        assert_eq!(on(&[1, 4, 9]), [0, 1, 1]);
        assert_eq!(on(&[]), [0u32; 0]);
    }

    #[test]
    fn a_long_conversation_is_cut_and_a_long_text_goes_on() {
        let document: Vec<u32> = [1, 4, 9, 2, 1, 5].into_iter().chain(10..30).collect();
        let pieces = |kind, loss| {
            let (_dir, store) = store_as(kind, std::slice::from_ref(&document));
            let mut batches =
                Batches::new(store, BatchOptions { loss, ..options(Packing::Separated, 8) }).unwrap();
            (0..batches.row_tokens(0).len()).map(|_| batches.next_row().ids[0]).collect::<Vec<_>>()
        };
        assert_eq!(pieces(Kind::Conversations, RowLoss::LastAnswer { marker: vec![1, 5] }), [1]);
        let mut starts = pieces(Kind::Pretrain, RowLoss::Text);
        starts.sort_unstable();
        assert_eq!(starts, [1, 12, 20, 28]);
    }

    #[test]
    fn held_out_rows_come_with_the_bytes_of_their_targets() {
        // Every id from 3 on stands for three bytes.
        let (_dir, store) = store(&[vec![1, 7, 8, 2], vec![1], vec![1, 7, 8, 9, 10, 2], vec![1, 7, 2]]);
        let rows = sequential(&store, &options(Packing::Single, 4), 6);
        let found: Vec<(usize, f64)> = rows.iter().map(|(row, bytes)| (row.len(), *bytes)).collect();
        assert_eq!(found, [(3, 6.0), (3, 9.0)]);
    }
}
