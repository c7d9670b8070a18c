//! Snapshots: weights that a stage keeps on the way for exams, in model folders next to the final model.
//!
//! *Invariant:* a snapshot is written before any checkpoint of its step, so that a resumed stage either has it or writes it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// When a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The optimizer step after which it was taken.
    pub step: u64,
    /// Target tokens that the stage had trained on by then.
    pub tokens: u64,
}

/// The file in the folder of a snapshot that records when it was taken.
pub(super) const FILE: &str = "snapshot.json";

/// The folder of the weights after a share of the steps; for a share of 1 or more, the final model's.
pub fn folder(run: &Path, share: f64) -> PathBuf {
    if share >= 1.0 { run.join("model") } else { run.join("snapshots").join(share.to_string()) }
}

/// When the weights after a share of the steps were taken; `None` for the final model.
///
/// # Errors
/// If there is no such snapshot.
pub fn read(run: &Path, share: f64) -> Result<Option<Snapshot>> {
    if share >= 1.0 {
        return Ok(None);
    }
    let path = folder(run, share).join(FILE);
    let text = crate::fsutil::read_text(&path)?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{}: is damaged", path.display()))
}

/// The step after which the snapshot of a share is taken: the nearest one, at least 1.
pub(super) fn step_of(share: f64, steps: u64) -> u64 {
    // The number of steps is far below the largest integer that a float represents exactly.
    ((share * steps as f64).round() as u64).clamp(1, steps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_taken_at_the_nearest_step() {
        let of_ten = [0.01, 0.05, 0.25, 0.5, 0.96, 0.99, 1.0].map(|share| step_of(share, 10));
        assert_eq!(of_ten, [1, 1, 3, 5, 10, 10, 10]);
        assert_eq!(step_of(0.5, 1), 1);
    }
}
