//! Pieces of documents that carry loss, of which rows are made.

use super::super::loss::RowLoss;
use super::super::store::Store;
use super::{BatchOptions, Dropped};
use crate::config::Packing;
use model::Sequence;
use std::ops::Range;

/// A range of a document's ids.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Index of the document.
    pub document: u32,
    /// First id of the piece.
    pub start: u32,
    /// Number of ids.
    pub len: u32,
}

/// Returns the pieces of those `documents` that are used, and the counts of rows that are left out or cut.
pub fn pieces(store: &Store, documents: Range<usize>, options: &BatchOptions) -> (Vec<Piece>, Dropped) {
    let (single, is_text) = (options.packing == Packing::Single, options.loss == RowLoss::Text);
    // A piece has one position fewer than ids.
    let longest = if single { options.seq_len } else { options.seq_len + 1 };
    let mut dropped = Dropped { seq_len: options.seq_len, ..Dropped::default() };
    let mut pieces = vec![];
    for document in documents {
        let len = store.document_len(document);
        let piece = |start: usize| {
            let len = (len - start).min(longest);
            Piece { document: document as u32, start: start as u32, len: len as u32 }
        };
        if is_text && !single && len > 1 {
            // Pieces overlap by one id, so that every id after the first is a target once.
            pieces.extend((0..len - 1).step_by(options.seq_len).map(piece));
            dropped.of += 1;
            continue;
        }
        // Only the first piece is used: the rest of a long conversation could be answers without their questions.
        let piece = piece(0);
        if is_used(store, &options.loss, piece, &mut dropped) {
            pieces.push(piece);
        }
    }
    (pieces, dropped)
}

/// Whether the first piece of a document carries loss; counts the document in `dropped`.
fn is_used(store: &Store, loss: &RowLoss, piece: Piece, dropped: &mut Dropped) -> bool {
    dropped.of += 1;
    let (document, len) = (piece.document as usize, piece.len as usize);
    let found = loss_of(store, loss, piece);
    match found {
        Ok(()) if len < store.document_len(document) => {
            dropped.cut += 1;
            dropped.on_question += u64::from(loss.is_on_question(&store.slice(document, 0, len)));
        }
        Ok(()) => {}
        Err(NoLoss::AfterCut) => dropped.nothing_left += 1,
        Err(NoLoss::Never) => dropped.no_loss += 1,
    }
    found.is_ok()
}

/// Why a piece of a document carries no loss.
#[derive(Clone, Copy)]
enum NoLoss {
    /// The whole document carries loss, or is too short.
    AfterCut,
    /// Neither does the whole document.
    Never,
}

fn loss_of(store: &Store, loss: &RowLoss, piece: Piece) -> Result<(), NoLoss> {
    let carries = |piece: Piece| {
        // Two ids of a text make an input and a target.
        piece.len > 1 && (*loss == RowLoss::Text || sequence(store, loss, piece).counted > 0.0)
    };
    if carries(piece) {
        return Ok(());
    }
    let whole = Piece { start: 0, len: store.document_len(piece.document as usize) as u32, ..piece };
    let is_short = whole.len < 2 || *loss == RowLoss::Text;
    Err(if is_short || carries(whole) { NoLoss::AfterCut } else { NoLoss::Never })
}

/// Returns a piece as a row.
pub fn sequence(store: &Store, loss: &RowLoss, piece: Piece) -> Sequence {
    let (document, start, len) = (piece.document as usize, piece.start as usize, piece.len as usize);
    let (marks, labels) = (store.marks(document, start, len), store.labels(document, start, len));
    loss.sequence(&store.slice(document, start, len), marks, &labels)
}

/// Joins pieces into one row.
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

/// Returns held-out documents in order until `max_tokens` positions with loss are reached, each as a row of at most `seq_len`
/// ids with the bytes of text that its targets with loss stand for; and the counts of rows that are left out or cut.
pub fn sequential(
    store: &Store,
    documents: Range<usize>,
    options: &BatchOptions,
    max_tokens: u64,
) -> (Vec<(Sequence, f64)>, Dropped) {
    let mut dropped = Dropped { seq_len: options.seq_len, ..Dropped::default() };
    let (mut rows, mut tokens) = (vec![], 0.0);
    for document in documents {
        let len = store.document_len(document).min(options.seq_len);
        let piece = Piece { document: document as u32, start: 0, len: len as u32 };
        if !is_used(store, &options.loss, piece, &mut dropped) {
            continue;
        }
        let sequence = sequence(store, &options.loss, piece);
        tokens += f64::from(sequence.counted);
        let bytes = store.target_bytes(&sequence) as f64;
        rows.push((sequence, bytes));
        if tokens >= max_tokens as f64 {
            break;
        }
    }
    (rows, dropped)
}
