//! What a training stage tells beside its results.

use crate::records::{Notice, SourceUse};
use model::{Backend, Trainer};

/// A number of passes to two digits behind the point, or two that are not 0.
fn shown(passes: f64) -> String {
    let zeros = if passes > 0.0 { -passes.log10().floor() } else { 0.0 };
    format!("{passes:.0$}", 2.max(zeros as usize + 1))
}

/// What is to be told of sources that have names: the share of each, and how often it is passed.
pub fn of_sources(sources: &[SourceUse], stage: &str) -> Vec<Notice> {
    let of = sources.iter().map(|source| source.tokens).sum();
    let told = |source: &SourceUse| Notice {
        place: stage.into(),
        reason: format!("target tokens are of {}, in {} passes over it", source.name, shown(source.passes)),
        count: source.tokens,
        of,
    };
    sources.iter().map(told).collect()
}

/// Tells of steps that changed nothing, where there were any.
pub fn of_skipped<B: Backend>(trainer: &Trainer<B>, stage: &str) -> Option<Notice> {
    let count = trainer.skipped_steps();
    let reason = "steps changed nothing: their gradient overflowed half precision, and the scale of the loss was halved";
    let notice = Notice { place: stage.into(), reason: reason.into(), count, of: trainer.steps() };
    (count > 0).then_some(notice)
}
