//! Steps that trainings of different lengths have in common, taken once.
//!
//! Trainings that differ in their length alone take the same steps as long as their learning rates are the same: under
//! `wsd`, until the shorter one begins to decay. There the longer one, the trunk, leaves a checkpoint for the other, a
//! branch, which goes on from it as from one of its own. *Invariant:* a training that finds no such checkpoint takes
//! all steps itself, to the same bytes.

use super::checkpoint::{self, Checkpoints};
use super::length::Length;
use super::schedule::learning_rate;
use super::snapshot;
use crate::config::{TrainStage, Training, TrialConfig};
use crate::fsutil::{create_dir, read_text, write_atomic};
use crate::records::Notice;
use crate::runs::files::{BRANCHES, CHECKPOINTS, TRUNK};
use crate::track::carry_over;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A shorter training that goes on from a checkpoint of this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// The name of its stage run.
    pub uuid: Uuid,
    /// The resolved configuration of its trial, as TOML.
    pub config: String,
}

/// Where a branch began.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    /// The stage run that took the steps before.
    run: String,
    /// Those steps.
    step: u64,
}

/// The checkpoint that a trunk, by the folder of its stage run, leaves for a branch.
pub fn checkpoint_for(branch: Uuid, trunk: &Path) -> PathBuf {
    trunk.join(BRANCHES).join(format!("{branch}.ckpt"))
}

/// Whether a training has a checkpoint of its own.
pub fn has_begun(run: &Path) -> bool {
    Checkpoints::new(&run.join(CHECKPOINTS), 1, 0).any()
}

/// The first steps that two trainings have in common, which differ in their length alone and have so many steps; each
/// takes at least one more.
pub fn shared_steps(a: (&Training, u64), b: (&Training, u64)) -> u64 {
    let rate = |(training, steps): (&Training, u64), step| learning_rate(training, step, steps).to_bits();
    let most = a.1.min(b.1).saturating_sub(1);
    (1..=most).take_while(|&step| rate(a, step) == rate(b, step)).count() as u64
}

/// The step from which each branch goes on by itself; it keeps all its snapshots itself.
pub(super) fn branch_points(
    stage: TrainStage,
    trunk: (&Training, u64),
    branches: &[Branch],
    length: impl Fn(&Training) -> Length,
) -> Result<Vec<(u64, Uuid)>> {
    let mut found = vec![];
    for Branch { uuid, config } in branches {
        let config: TrialConfig =
            toml::from_str(config).with_context(|| format!("configuration of the branch {uuid}"))?;
        let training = stage.training(&config);
        let steps = length(training).steps;
        let kept = config.snapshots(stage);
        let first = kept.iter().map(|&share| snapshot::step_of(share, steps)).min();
        let shared = shared_steps(trunk, (training, steps)).min(first.map_or(u64::MAX, |step| step - 1));
        if shared > 0 {
            found.push((shared, *uuid));
        }
    }
    Ok(found)
}

/// Takes a trunk's checkpoint over as the first of a branch in `out`, with all that was told up to it. Nothing is taken
/// where there is none, or a damaged one.
pub(super) fn begin(trunk: &Path, branch: Uuid, out: &Path, checkpoints: &Checkpoints) -> Result<()> {
    let path = checkpoint_for(branch, trunk);
    if !path.exists() {
        return Ok(());
    }
    let step = match checkpoint::read(&path) {
        Ok(saved) => saved.about.step,
        Err(error) => {
            tracing::warn!("{}: {error:#}; all steps are taken here", path.display());
            return Ok(());
        }
    };
    let run = trunk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    tracing::info!("the first {step} steps are those of {run}");
    carry_over(trunk, out, step)?;
    write_atomic(&out.join(TRUNK), &serde_json::to_vec(&Begun { run, step })?)?;
    // Last: whoever finds a checkpoint has the rest.
    checkpoints.adopt(&path, step)
}

/// Where a training began, if as a branch.
fn begun(out: &Path) -> Result<Option<Begun>> {
    let path = out.join(TRUNK);
    if !path.exists() {
        return Ok(None);
    }
    let begun = serde_json::from_str(&read_text(&path)?);
    begun.map(Some).with_context(|| format!("{}: is damaged", path.display()))
}

/// What is to be told of a training that began as a branch.
pub(super) fn notice(out: &Path, stage: TrainStage, steps: u64) -> Result<Option<Notice>> {
    let Some(begun) = begun(out)? else { return Ok(None) };
    let reason =
        format!("steps, and their time, are those of {}, which differs in its length alone", begun.run);
    Ok(Some(Notice { place: stage.name().into(), reason, count: begun.step, of: steps }))
}

/// Removes the checkpoint that a trunk has left for the branch in `out`, which is done.
///
/// # Errors
/// Where it cannot be removed.
pub fn tidy(out: &Path, branch: Uuid) -> Result<()> {
    let Some((begun, runs)) = begun(out)?.zip(out.parent()) else { return Ok(()) };
    let trunk = &runs.join(begun.run);
    let path = checkpoint_for(branch, trunk);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        // The last one takes the folder with it.
        let _ = std::fs::remove_dir(trunk.join(BRANCHES));
    }
    Ok(())
}

/// Makes the folder of branches.
pub(super) fn make_room(out: &Path) -> Result<()> {
    create_dir(&out.join(BRANCHES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Schedule;

    #[test]
    fn steps_are_shared_until_a_learning_rate_differs() {
        let wsd =
            Training { schedule: Schedule::Wsd, decay_share: 0.2, warmup_steps: 10, ..Training::default() };
        // After 10 steps of warm-up 90 are left; the last 0.2 of their 89 intervals decay: from step 82.2 on.
        assert_eq!(shared_steps((&wsd, 1000), (&wsd, 100)), 82);
        assert_eq!(shared_steps((&wsd, 100), (&wsd, 1000)), 82);
        let later = Training { decay_share: 0.1, min_lr_ratio: 0.0, ..wsd.clone() };
        assert_eq!(shared_steps((&wsd, 100), (&later, 100)), 82);
        let constant = Training { schedule: Schedule::Constant, ..wsd.clone() };
        assert_eq!(shared_steps((&constant, 1000), (&constant, 100)), 99);
        let cosine = Training { schedule: Schedule::Cosine, ..wsd };
        // The warm-up, and the first step behind it.
        assert_eq!(shared_steps((&cosine, 1000), (&cosine, 100)), 11);
        assert_eq!(shared_steps((&constant, 1), (&constant, 9)), 0);
    }
}
