//! Steps that trainings of different lengths have in common, taken once.
//!
//! Trainings that differ only in their length take the same steps as long as their learning rates are equal: with `wsd`,
//! until the shorter one begins to decay. At that step the longer one, the trunk, writes a checkpoint for the shorter
//! one, a branch, which resumes from it as from its own. *Invariant:* a training that finds no such checkpoint takes
//! all steps itself and gets the same bytes.

use super::checkpoint::{self, Checkpoints, Saved};
use super::length::Length;
use super::schedule::learning_rate;
use super::snapshot;
use crate::config::{TrainStage, Training, TrialConfig};
use crate::fsutil::{create_dir, read_text, write_atomic};
use crate::records::Notice;
use crate::runs::files::{BRANCHES, CHECKPOINTS, TRUNK};
use crate::runs::manifest::Results;
use crate::track::carry_over;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// A shorter training that resumes from a checkpoint of this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// The name of its stage run.
    pub uuid: Uuid,
    /// The resolved configuration of its trial, as TOML.
    pub config: String,
}

/// The origin of a branch.
#[derive(Debug, Serialize, Deserialize)]
struct Origin {
    /// Folder name of the stage run that took the steps before.
    run: String,
    /// Number of those steps.
    step: u64,
}

/// The path of the checkpoint that a trunk leaves for a branch; `trunk` is the folder of its stage run.
pub fn checkpoint_for(branch: Uuid, trunk: &Path) -> PathBuf {
    trunk.join(BRANCHES).join(format!("{branch}.ckpt"))
}

/// Whether a training has checkpoints of its own.
pub fn has_begun(run: &Path) -> bool {
    Checkpoints::new(&run.join(CHECKPOINTS), 1, 0).any()
}

/// Number of first steps that two trainings share. They differ in their length only; each is given with its number of steps,
/// and takes at least one more step than the shared ones.
pub fn shared_steps(a: (&Training, u64), b: (&Training, u64)) -> u64 {
    let rate = |(training, steps): (&Training, u64), step| learning_rate(training, step, steps).to_bits();
    let most = a.1.min(b.1).saturating_sub(1);
    (1..=most).take_while(|&step| rate(a, step) == rate(b, step)).count() as u64
}

/// The step after which each branch resumes on its own: before its first snapshot, since it writes all its snapshots itself.
pub(super) fn branch_points(
    stage: TrainStage,
    trunk: (&Training, u64),
    branches: &[Branch],
    length: impl Fn(&Training) -> Length,
) -> Result<Vec<(u64, Uuid)>> {
    let mut found = vec![];
    for Branch { uuid, config } in branches {
        let config =
            TrialConfig::from_toml(config).with_context(|| format!("configuration of the branch {uuid}"))?;
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

/// Begins a training that has no intact checkpoint of its own: from its trunk's, which is copied to `out` with all metrics up to
/// it. Returns `None` if there is no such checkpoint, or if it is damaged; the training then takes all steps itself.
pub(super) fn begin(
    trunk: Option<(Uuid, &Path)>,
    out: &Path,
    checkpoints: &Checkpoints,
) -> Result<Option<Saved>> {
    let path = trunk.map(|(branch, trunk)| (checkpoint_for(branch, trunk), trunk));
    let Some((path, trunk)) = path.filter(|(path, _)| path.exists()) else {
        return forget(out).map(|()| None);
    };
    let saved = match checkpoint::read(&path) {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!("{}: {error:#}; training from the first step instead", path.display());
            return forget(out).map(|()| None);
        }
    };
    let step = saved.about.step;
    let run = trunk.file_name().unwrap_or_default().to_string_lossy().into_owned();
    tracing::info!("the first {step} steps are those of {run}");
    carry_over(trunk, out, step)?;
    write_atomic(&out.join(TRUNK), &serde_json::to_vec(&Origin { run, step })?)?;
    // Last: whoever finds the checkpoint also has the rest.
    checkpoints.adopt(&path, step)?;
    Ok(Some(saved))
}

/// Removes the origin that an earlier attempt recorded: none of the steps taken from now on are those of a trunk.
fn forget(out: &Path) -> Result<()> {
    let path = out.join(TRUNK);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// The folder of the trunk that a training began from in an earlier attempt; `None` if it began by itself.
pub fn recorded_trunk(out: &Path) -> Option<PathBuf> {
    Some(out.parent()?.join(read_origin(out).ok().flatten()?.run))
}

/// The origin of a training; `None` if it did not begin as a branch.
fn read_origin(out: &Path) -> Result<Option<Origin>> {
    let path = out.join(TRUNK);
    if !path.exists() {
        return Ok(None);
    }
    let origin = serde_json::from_str(&read_text(&path)?);
    origin.map(Some).with_context(|| format!("{}: is damaged", path.display()))
}

/// How the notice about a branch begins; manifests state the number of adopted steps nowhere else.
const NOTICE: &str = "steps, and their time, are those of ";

/// The share of a finished training's steps that its trunk took, whose operations are in its results but whose time is not
/// in its manifest; 0 if it took all steps itself.
pub fn adopted_share(results: &Results) -> f64 {
    let of_trunk = results.notices.iter().find(|notice| notice.reason.starts_with(NOTICE));
    of_trunk.map_or(0.0, |notice| notice.count as f64 / notice.of.max(1) as f64)
}

/// The notice about a training that began as a branch. `trunk.json` names its trunk: so many branches share a line.
pub(super) fn notice(out: &Path, stage: TrainStage, steps: u64) -> Result<Option<Notice>> {
    let Some(origin) = read_origin(out)? else { return Ok(None) };
    let reason = format!("{NOTICE}its trunk, a longer training that begins the same");
    Ok(Some(Notice { place: stage.name().into(), reason, count: origin.step, of: steps }))
}

/// Removes the checkpoint that a trunk left for the finished branch in `out`. `planned` is the trunk of the request: a branch
/// that took all steps itself, because that checkpoint was damaged, has recorded none.
///
/// # Errors
/// If it cannot be removed.
pub fn tidy(out: &Path, branch: Uuid, planned: Option<&Path>) -> Result<()> {
    let recorded = recorded_trunk(out);
    let Some(trunk) = recorded.as_deref().or(planned) else { return Ok(()) };
    let path = checkpoint_for(branch, trunk);
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        // Removes the folder if this was its last checkpoint.
        let _ = std::fs::remove_dir(trunk.join(BRANCHES));
    }
    Ok(())
}

/// Creates the folder of the branches' checkpoints.
pub(super) fn create_branches_dir(out: &Path) -> Result<()> {
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
        // 90 steps follow the warm-up of 10; the last 0.2 of their 89 intervals decay: from step 82.2 on.
        assert_eq!(shared_steps((&wsd, 1000), (&wsd, 100)), 82);
        assert_eq!(shared_steps((&wsd, 100), (&wsd, 1000)), 82);
        let later = Training { decay_share: 0.1, min_lr_ratio: 0.0, ..wsd.clone() };
        assert_eq!(shared_steps((&wsd, 100), (&later, 100)), 82);
        let constant = Training { schedule: Schedule::Constant, ..wsd.clone() };
        assert_eq!(shared_steps((&constant, 1000), (&constant, 100)), 99);
        let cosine = Training { schedule: Schedule::Cosine, ..wsd };
        // The warm-up, and the first step after it.
        assert_eq!(shared_steps((&cosine, 1000), (&cosine, 100)), 11);
        assert_eq!(shared_steps((&constant, 1), (&constant, 9)), 0);
    }
}
