//! Counts of rows that are left out or cut, by reason.

use super::super::row::Kind;
use crate::records::Notice;
use crate::track::number;

/// Counts of a store's rows that are left out or cut, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Number of rows that were examined.
    pub of: u64,
    /// Maximum row length in tokens.
    pub seq_len: usize,
    /// Rows left out because their answers lie beyond that length or they have no second token.
    pub nothing_left: u64,
    /// Rows left out because no turn carries loss.
    pub no_loss: u64,
    /// Pairs left out because their answers are equal, at the latest after the cut.
    pub equal: u64,
    /// Rows that are cut and used in part.
    pub cut: u64,
}

impl Dropped {
    /// Returns a notice, labelled `place` (such as `sft`), for each reason with its count.
    pub fn notices(&self, place: &str) -> Vec<Notice> {
        let within = format!("within seq_len = {} tokens", self.seq_len);
        let counts = [
            (self.nothing_left, format!("rows left out: nothing left to learn {within}")),
            (self.no_loss, "rows left out: no turn carries loss".into()),
            (self.equal, format!("pairs left out: chosen and rejected are equal {within}")),
            (self.cut, format!("rows cut to stay {within}")),
        ];
        let present = counts.into_iter().filter(|(count, _)| *count > 0);
        present.map(|(count, reason)| Notice { place: place.into(), reason, count, of: self.of }).collect()
    }

    /// Returns the error for a store of which no row is left.
    pub(super) fn empty_error(&self, kind: Kind) -> anyhow::Error {
        let reasons = self.notices("");
        let reasons: Vec<String> =
            reasons.iter().map(|n| format!("{} of {} {}", number(n.count), number(n.of), n.reason)).collect();
        let reasons = if reasons.is_empty() { "the store is empty".into() } else { reasons.join(", ") };
        anyhow::anyhow!("no {kind} to train on: {reasons}; raise seq_len or shorten the rows")
    }
}
