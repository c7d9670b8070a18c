//! Weights that a stage keeps on its way, for exams: model folders beside the model.
//!
//! *Invariant:* a snapshot is written before any checkpoint of its step, so that whoever resumes writes it or has it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is known of a snapshot, beside its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The optimizer step after which it was taken.
    pub step: u64,
    /// Target tokens that the stage had trained on.
    pub tokens: u64,
}

/// The file in the folder of a snapshot that says when it was taken.
pub(super) const FILE: &str = "snapshot.json";

/// The folder of the weights that a stage had after a share of its steps; those of its end are its model.
pub fn folder(run: &Path, share: f64) -> PathBuf {
    if share >= 1.0 { run.join("model") } else { run.join("snapshots").join(share.to_string()) }
}

/// When the weights after a share were taken; `None` at the end.
///
/// # Errors
/// Where they are not there.
pub fn read(run: &Path, share: f64) -> Result<Option<Snapshot>> {
    if share >= 1.0 {
        return Ok(None);
    }
    let path = folder(run, share).join(FILE);
    let text = crate::fsutil::read_text(&path)?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{}: is damaged", path.display()))
}

/// The step after which the weights of a share are taken, the nearest one.
pub(super) fn step_of(share: f64, steps: u64) -> u64 {
    // Steps are far fewer than a float counts exactly.
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
