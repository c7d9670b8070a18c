//! Rows of a batch, cut from a store: MiniMind's rows without their padding, or packed documents.

use super::loss::{RowLoss, last_words};
use super::row::Kind;
use super::store::Store;
use crate::config::Packing;
use crate::records::Notice;
use crate::track::number;
use anyhow::{Result, bail, ensure};
use model::Sequence;
use model::cost::squares;
use model::random::{Purpose, stream};
use rand::seq::SliceRandom;
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

/// A piece of a document: its number and its ids.
#[derive(Debug, Clone, Copy)]
struct Piece {
    document: u32,
    start: u32,
    len: u32,
}

/// Rows of a store that are not trained on, or not whole, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// All rows of the store that were looked at.
    pub of: u64,
    /// Longest row in tokens.
    pub seq_len: usize,
    /// Rows whose answers lie beyond that length, or that have no second token.
    pub nothing_left: u64,
    /// Rows none of whose turns carries loss.
    pub no_loss: u64,
    /// Pairs whose answers are equal, if not before they were cut then after it.
    pub equal: u64,
    /// Rows that are trained on in part.
    pub cut: u64,
}

impl Lost {
    /// What was lost at `place`, such as `sft`, each reason with its count.
    pub fn notices(&self, place: &str) -> Vec<Notice> {
        let within = format!("within seq_len = {} tokens", self.seq_len);
        let counts = [
            (self.nothing_left, format!("rows left out: nothing left to learn {within}")),
            (self.no_loss, "rows left out: no turn carries loss".into()),
            (self.equal, format!("pairs left out: chosen and rejected are equal {within}")),
            (self.cut, format!("rows cut to stay {within}")),
        ];
        let told = counts.into_iter().filter(|(count, _)| *count > 0);
        told.map(|(count, reason)| Notice { place: place.into(), reason, count, of: self.of }).collect()
    }

    /// The error of a store of which nothing is left.
    fn nothing(&self, kind: Kind) -> anyhow::Error {
        let reasons = self.notices("");
        let reasons: Vec<String> =
            reasons.iter().map(|n| format!("{} of {} {}", number(n.count), number(n.of), n.reason)).collect();
        let reasons = if reasons.is_empty() { "the store is empty".into() } else { reasons.join(", ") };
        anyhow::anyhow!("no {kind} to train on: {reasons}; raise seq_len or shorten the rows")
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
        let counted = match options.loss {
            RowLoss::Text => pieces.iter().map(|p| p.len - 1).collect(),
            _ => pieces.iter().map(counted).collect(),
        };
        let (pass, position) = (Pass::default(), Position::default());
        let mut batches = Self { store, options, lost, pieces, counted, pass, position };
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
    pub fn next_batch(&mut self, rows: usize) -> Vec<Sequence> {
        (0..rows).map(|_| self.next_row()).collect()
    }

    fn next_row(&mut self) -> Sequence {
        if self.position.row >= self.pass.rows.len() as u64 {
            self.seek(Position { epoch: self.position.epoch + 1, row: 0 });
        }
        let row = self.pass.rows[self.position.row as usize].clone();
        self.position.row += 1;
        let pieces = self.pass.order[row].iter().map(|&i| self.pieces[i as usize]);
        join(pieces.map(|piece| sequence(&self.store, &self.options.loss, piece)))
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
fn pieces(store: &Store, options: &BatchOptions) -> (Vec<Piece>, Lost) {
    let (single, is_text) = (options.packing == Packing::Single, options.loss == RowLoss::Text);
    // Positions are one fewer than ids.
    let longest = if single { options.seq_len } else { options.seq_len + 1 };
    let mut lost = Lost { of: store.len() as u64, seq_len: options.seq_len, ..Lost::default() };
    let mut pieces = vec![];
    for document in 0..store.len() {
        let len = store.document_len(document);
        let piece = |start: usize| {
            let len = (len - start).min(longest);
            Piece { document: document as u32, start: start as u32, len: len as u32 }
        };
        if is_text && !single && len > 1 {
            // Pieces overlap by one id, so that every id is a target once.
            pieces.extend((0..len - 1).step_by(options.seq_len).map(piece));
            continue;
        }
        // The rest of a long conversation would be answers without their questions.
        let piece = piece(0);
        match loss_of(store, &options.loss, piece) {
            Ok(()) => {
                lost.cut += u64::from(len > longest);
                pieces.push(piece);
            }
            Err(NoLoss::Within) => lost.nothing_left += 1,
            Err(NoLoss::AtAll) => lost.no_loss += 1,
        }
    }
    (pieces, lost)
}

/// Why a piece of a document carries no loss.
enum NoLoss {
    /// The whole document carries some.
    Within,
    /// Nor does the whole document.
    AtAll,
}

fn loss_of(store: &Store, loss: &RowLoss, piece: Piece) -> Result<(), NoLoss> {
    let carries = |piece: Piece| {
        // Two ids of a text are an input and a target.
        piece.len > 1 && (*loss == RowLoss::Text || sequence(store, loss, piece).counted > 0.0)
    };
    if carries(piece) {
        return Ok(());
    }
    let whole = Piece { start: 0, len: store.document_len(piece.document as usize) as u32, ..piece };
    let is_short = whole.len < 2 || *loss == RowLoss::Text;
    Err(if is_short || carries(whole) { NoLoss::Within } else { NoLoss::AtAll })
}

fn sequence(store: &Store, loss: &RowLoss, piece: Piece) -> Sequence {
    let (document, start, len) = (piece.document as usize, piece.start as usize, piece.len as usize);
    loss.sequence(&store.slice(document, start, len), store.marks(document, start, len))
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
/// the bytes of text that its targets with loss stand for. And those of them that were lost.
pub fn sequential(store: &Store, options: &BatchOptions, max_tokens: u64) -> (Vec<(Sequence, f64)>, Lost) {
    let mut lost = Lost { seq_len: options.seq_len, ..Lost::default() };
    let (mut rows, mut tokens) = (vec![], 0.0);
    for document in 0..store.len() {
        lost.of += 1;
        let len = store.document_len(document);
        let piece = Piece { document: document as u32, start: 0, len: len.min(options.seq_len) as u32 };
        match loss_of(store, &options.loss, piece) {
            Ok(()) => lost.cut += u64::from(len > options.seq_len),
            Err(NoLoss::Within) => {
                lost.nothing_left += 1;
                continue;
            }
            Err(NoLoss::AtAll) => {
                lost.no_loss += 1;
                continue;
            }
        }
        let sequence = sequence(store, &options.loss, piece);
        tokens += f64::from(sequence.counted);
        let bytes = store.target_bytes(&sequence) as f64;
        rows.push((sequence, bytes));
        if tokens >= max_tokens as f64 {
            break;
        }
    }
    (rows, lost)
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

/// Preference pairs of a store whose documents are the prompt with the chosen answer and with the rejected one in turn.
pub struct PreferenceBatches {
    pairs: Vec<Pair>,
    lost: Lost,
    seed: u64,
    order: Vec<u32>,
    position: Position,
}

impl PreferenceBatches {
    /// All pairs, cut to `seq_len` ids so that answers survive: the prompt loses its beginning first.
    ///
    /// Both answers stand behind the same part of the prompt, what the longer one leaves of it.
    ///
    /// # Errors
    /// Where nothing is left to learn from, or a row would not fit.
    pub fn new(store: &Store, seq_len: usize, seed: u64) -> Result<Self> {
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
        let mut batches = Self { pairs, lost, seed, order: vec![], position: Position::default() };
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

    /// Where the next batch begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What every pair of a pass holds, in its order.
    pub fn pair_sizes(&self, epoch: u64, window: Option<usize>) -> Vec<RowSize> {
        let answer = |row: &Sequence| RowSize::document(row.counted as u64, row.len() as u64, window);
        let pair = |pair: &Pair| [&pair.chosen, &pair.rejected].into_iter().map(answer).sum();
        self.order_of(epoch).iter().map(|&i| pair(&self.pairs[i as usize])).collect()
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
    let weights: Vec<f32> = (0..n).map(|i| if i + 1 >= prompt.len() { 1.0 } else { 0.0 }).collect();
    Sequence {
        ids: all[..n].to_vec(),
        targets: all.get(1..).unwrap_or_default().to_vec(),
        counted: weights.iter().sum(),
        weights,
        documents: vec![n as u32],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::AnswerLoss;
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
        for _ in 0..batches.row_sizes(0, None).len() {
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
        assert_eq!(batches.row_sizes(0, None).into_iter().sum::<RowSize>().tokens, want.len() as u64);
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
    fn every_pass_has_an_order_of_its_own() {
        let documents: Vec<Vec<u32>> = (0..30).map(|d| vec![10 + d, 50, 51]).collect();
        let (_dir, rows) = store(&documents);
        let mut batches = Batches::new(rows, options(Packing::Single, 8)).unwrap();
        // Of each pair the chosen answer is 7 and the rejected one 8.
        let pairs = (0..30).flat_map(|pair| [7, 8].map(|answer| vec![10 + pair, 5, answer]));
        let (_dir, pairs) = store_as(Kind::Preferences, &pairs.collect::<Vec<_>>());
        let mut preferences = PreferenceBatches::new(&pairs, 8, 3).unwrap();
        let of_rows = [(); 2].map(|()| (0..30).map(|_| batches.next_row().ids[0] as usize - 10).collect());
        let of_pairs = [(); 2].map(|()| preferences.next_batch(30));
        let all: Vec<usize> = (0..30).collect();
        for [first, second] in [of_rows, of_pairs] as [[Vec<usize>; 2]; 2] {
            assert_ne!(first, second);
            for mut pass in [first, second] {
                assert_ne!(pass, all);
                pass.sort_unstable();
                assert_eq!(pass, all);
            }
        }
    }

    #[test]
    fn long_pairs_keep_their_answers() {
        let documents = [vec![1, 2, 3, 4, 6, 5, 7, 8], vec![1, 2, 3, 4, 6, 5, 9]];
        let (_dir, store) = store_as(Kind::Preferences, &documents);
        let batches = PreferenceBatches::new(&store, 4, 1).unwrap();
        let pair = &batches.pairs()[0];
        assert_eq!(
            (pair.chosen.ids.as_slice(), pair.chosen.targets.as_slice()),
            ([6, 5, 7].as_slice(), [5, 7, 8].as_slice())
        );
        assert_eq!(pair.chosen.weights, [0.0, 1.0, 1.0]);
        assert_eq!(
            (pair.rejected.ids.as_slice(), pair.rejected.weights.as_slice()),
            ([6, 5].as_slice(), [0.0, 1.0].as_slice())
        );
        assert_eq!(*batches.lost(), Lost { of: 1, seq_len: 4, cut: 1, ..Lost::default() });
    }

    #[test]
    fn pairs_that_are_equal_once_cut_are_left_out() {
        let (same, other) = (vec![1, 5, 7, 8, 9], vec![1, 5, 7, 8, 10]);
        let (_dir, store) = store_as(Kind::Preferences, &[same.clone(), other.clone(), other, vec![1, 5, 3]]);
        let kept = |seq_len| {
            let batches = PreferenceBatches::new(&store, seq_len, 1).unwrap();
            let kept: Vec<usize> = batches.pairs().iter().map(|pair| pair.index).collect();
            (kept, batches.lost().equal)
        };
        assert_eq!(kept(5), (vec![0, 1], 0));
        assert_eq!(kept(3), (vec![1], 1));
        let (_dir, store) = store_as(Kind::Preferences, &[same.clone(), same]);
        let batches = PreferenceBatches::new(&store, 8, 1).unwrap();
        assert_eq!(
            batches.ensure_any().unwrap_err().to_string(),
            "no preference pairs to train on: 1 of 1 pairs left out: chosen and rejected are equal within \
             seq_len = 8 tokens; raise seq_len or shorten the rows"
        );
    }

    #[test]
    fn conversations_with_nothing_left_to_learn_are_left_out_and_counted() {
        // The second one's answer begins at its sixth id, the third one has none.
        let documents = [vec![1, 4, 5, 7, 8, 2], vec![1, 4, 4, 4, 5, 7, 2], vec![1, 4, 4, 2]];
        let (_dir, store) = store_as(Kind::Conversations, &documents);
        let last = RowLoss::Answers(AnswerLoss::Last);
        let made = |packing, seq_len| {
            Batches::new(store.clone(), BatchOptions { loss: last.clone(), ..options(packing, seq_len) })
        };
        let lost = Lost { of: 3, seq_len: 5, nothing_left: 1, no_loss: 1, equal: 0, cut: 1 };
        let batches = made(Packing::Single, 5).unwrap();
        assert_eq!(*batches.lost(), lost);
        assert_eq!(batches.row_sizes(0, None), [RowSize::document(2, 4, None)]);
        let wider = Lost { nothing_left: 0, ..lost.clone() };
        assert_eq!(*made(Packing::Separated, 5).unwrap().lost(), Lost { cut: 1, ..wider });
        assert_eq!(
            made(Packing::Single, 3).err().unwrap().to_string(),
            "no conversations to train on: 2 of 3 rows left out: nothing left to learn within seq_len = 3 tokens, \
             1 of 3 rows left out: no turn carries loss; raise seq_len or shorten the rows"
        );
        let single = BatchOptions { loss: last, ..options(Packing::Single, 5) };
        let (rows, held_out) = sequential(&store, &single, u64::MAX);
        assert_eq!((rows.len(), held_out), (1, lost.clone()));
        assert_eq!(
            lost.notices("sft").iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "sft: 1 of 3 rows left out: nothing left to learn within seq_len = 5 tokens",
                "sft: 1 of 3 rows left out: no turn carries loss",
                "sft: 1 of 3 rows cut to stay within seq_len = 5 tokens",
            ]
        );
    }

    #[test]
    fn a_long_conversation_is_cut_and_a_long_text_goes_on() {
        let document: Vec<u32> = [1, 4, 9, 2, 1, 5].into_iter().chain(10..30).collect();
        let pieces = |kind, loss| {
            let (_dir, store) = store_as(kind, std::slice::from_ref(&document));
            let mut batches =
                Batches::new(store, BatchOptions { loss, ..options(Packing::Separated, 8) }).unwrap();
            (0..batches.row_sizes(0, None).len()).map(|_| batches.next_row().ids[0]).collect::<Vec<_>>()
        };
        assert_eq!(pieces(Kind::Conversations, RowLoss::Answers(AnswerLoss::Last)), [1]);
        let mut starts = pieces(Kind::Pretrain, RowLoss::Text);
        starts.sort_unstable();
        assert_eq!(starts, [1, 12, 20, 28]);
    }

    #[test]
    fn held_out_rows_come_with_the_bytes_of_their_targets() {
        // Every id from 3 on stands for three bytes.
        let (_dir, store) = store(&[vec![1, 7, 8, 2], vec![1], vec![1, 7, 8, 9, 10, 2], vec![1, 7, 2]]);
        let (rows, lost) = sequential(&store, &options(Packing::Single, 4), 6);
        assert_eq!(lost, Lost { of: 3, seq_len: 4, nothing_left: 1, cut: 1, ..Lost::default() });
        let found: Vec<(usize, f64)> = rows.iter().map(|(row, bytes)| (row.len(), *bytes)).collect();
        assert_eq!(found, [(3, 6.0), (3, 9.0)]);
    }
}
