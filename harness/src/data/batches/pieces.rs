//! Documents as pieces that carry loss: what rows are made of.

use super::super::loss::RowLoss;
use super::super::store::Store;
use super::{BatchOptions, Lost};
use crate::config::Packing;
use model::Sequence;
use std::ops::Range;

/// A piece of a document: its number and its ids.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// The document's number.
    pub document: u32,
    /// Where it begins.
    pub start: u32,
    /// Its number of ids.
    pub len: u32,
}

/// What of each document is used.
pub fn pieces(store: &Store, options: &BatchOptions) -> (Vec<Piece>, Lost) {
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

/// A piece as a row.
pub fn sequence(store: &Store, loss: &RowLoss, piece: Piece) -> Sequence {
    let (document, start, len) = (piece.document as usize, piece.start as usize, piece.len as usize);
    let (marks, labels) = (store.marks(document, start, len), store.labels(document, start, len));
    loss.sequence(&store.slice(document, start, len), marks, &labels)
}

/// Pieces as one row.
pub fn join(documents: impl Iterator<Item = Sequence>) -> Sequence {
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
pub fn sequential(
    store: &Store,
    documents: Range<usize>,
    options: &BatchOptions,
    max_tokens: u64,
) -> (Vec<(Sequence, f64)>, Lost) {
    let mut lost = Lost { seq_len: options.seq_len, ..Lost::default() };
    let (mut rows, mut tokens) = (vec![], 0.0);
    for document in documents {
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
