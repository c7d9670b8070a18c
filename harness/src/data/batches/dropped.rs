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
    /// Cut rows with loss on a question whose answer is cut away; only with `data.rows = "minimind"`.
    pub on_question: u64,
}

impl Dropped {
    /// Returns the number of rows that are left.
    pub fn left(&self) -> u64 {
        self.of - self.nothing_left - self.no_loss - self.equal
    }

    /// Returns a notice, labelled `place` (such as `sft`), for each reason with its count.
    pub fn notices(&self, place: &str) -> Vec<Notice> {
        let within = format!("within seq_len = {} tokens", self.seq_len);
        let counts = [
            (self.nothing_left, format!("rows left out: nothing left to learn {within}")),
            (self.no_loss, "rows left out: no turn carries loss".into()),
            (self.equal, format!("pairs left out: chosen and rejected are equal {within}")),
            (self.cut, format!("rows cut to stay {within}")),
            (self.on_question, format!("rows have loss on a question whose answer is not {within}")),
        ];
        let present = counts.into_iter().filter(|(count, _)| *count > 0);
        present.map(|(count, reason)| Notice { place: place.into(), reason, count, of: self.of }).collect()
    }

    /// Describes why no row is left, and what to do.
    pub(super) fn why(&self) -> String {
        let reasons: Vec<String> = self
            .notices("")
            .iter()
            .map(|n| format!("{} of {} {}", number(n.count), number(n.of), n.reason))
            .collect();
        let advice = match self {
            Self { of: 0, .. } => return "every row is held out; lower data.val_share".into(),
            Self { nothing_left: 0, equal: 0, .. } => "let an answer carry loss (weight = 1 on its turn)",
            _ => "raise seq_len or shorten the rows",
        };
        format!("{}; {advice}", reasons.join(", "))
    }

    /// Returns the error for a store of which no row is left.
    pub(super) fn empty_error(&self, kind: Kind) -> anyhow::Error {
        anyhow::anyhow!("no {kind} to train on: {}", self.why())
    }
}
