//! Rows that are not trained on, or not whole, and why.

use super::super::row::Kind;
use crate::records::Notice;
use crate::track::number;

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
    pub(super) fn nothing(&self, kind: Kind) -> anyhow::Error {
        let reasons = self.notices("");
        let reasons: Vec<String> =
            reasons.iter().map(|n| format!("{} of {} {}", number(n.count), number(n.of), n.reason)).collect();
        let reasons = if reasons.is_empty() { "the store is empty".into() } else { reasons.join(", ") };
        anyhow::anyhow!("no {kind} to train on: {reasons}; raise seq_len or shorten the rows")
    }
}
