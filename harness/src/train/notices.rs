//! Notices that a training stage gives in addition to its results.

use crate::records::{Notice, SourceUse};
use model::{Backend, Trainer};

/// Formats a number of passes with two decimals, or with as many as show two significant digits.
fn shown(passes: f64) -> String {
    let zeros = if passes > 0.0 { -passes.log10().floor() } else { 0.0 };
    format!("{passes:.0$}", 2.max(zeros as usize + 1))
}

/// The notices about named sources: each one's share of the target tokens and its number of passes.
pub fn of_sources(sources: &[SourceUse], stage: &str) -> Vec<Notice> {
    let of = sources.iter().map(|source| source.tokens).sum();
    let notice = |source: &SourceUse| Notice {
        place: stage.into(),
        reason: format!("target tokens are of {}, in {} passes over it", source.name, shown(source.passes)),
        count: source.tokens,
        of,
    };
    sources.iter().map(notice).collect()
}

/// The notice about steps that were skipped; `None` if there were none.
pub fn of_skipped<B: Backend>(trainer: &Trainer<B>, stage: &str) -> Option<Notice> {
    let count = trainer.skipped_steps();
    let reason = "steps changed nothing: their gradient overflowed half precision, and the scale of the loss was halved";
    let notice = Notice { place: stage.into(), reason: reason.into(), count, of: trainer.steps() };
    (count > 0).then_some(notice)
}
