//! `manifest.json`: what a reader needs to verify and reproduce a stage run, and how it ended.

use super::files::{MANIFEST, NOT_OUTPUTS, QUESTIONS, SAMPLES};
use crate::config::{ExamPoint, Stage, TrialConfig};
use crate::fsutil::digests::FileDigest;
use crate::fsutil::{files_below, read_if_there, read_text, write_atomic};
use crate::records::{
    Contaminated, Ending, GUESSING, Notice, QuestionRecord, Routing, Sample, SetLoss, SourceUse, Tally,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The status of a stage run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Begun: being worked on, or interrupted if nobody holds its claim.
    Running,
    /// Complete.
    Done,
    /// Ended in an error.
    Failed,
    /// Stopped on request; to be resumed from its last checkpoint.
    Stopped,
}

/// A stage run that another one reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its stage.
    pub stage: Stage,
    /// Its name.
    pub uuid: Uuid,
}

/// The program that did the work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// The git commit that it was built from, if known.
    pub commit: Option<String>,
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mindscale {}", self.version)?;
        self.commit.as_ref().map_or(Ok(()), |commit| write!(f, " (commit {commit})"))
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        })
    }
}

impl Program {
    /// This program.
    pub fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("MINDSCALE_COMMIT").filter(|commit| !commit.is_empty()).map(Into::into),
        }
    }
}

/// A file that a stage run produced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Its path inside the folder of the stage run.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The weights that an exam examined: a snapshot on the way of a stage, or the mean of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// The shares of the stage's steps after which they were taken.
    pub at: ExamPoint,
    /// Target tokens of the stage that they had been trained on; `None`: all.
    pub tokens: Option<u64>,
}

/// The results of a stage run. Fields that do not apply to its stage are zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Optimizer steps taken.
    pub steps: u64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Passes over the training rows; a cut pass counts by the share of its rows.
    #[serde(default)]
    pub passes: f64,
    /// Floating-point operations of training.
    pub flops: f64,
    /// Final validation loss in nats per target token; for preferences in nats per pair.
    pub val_loss: Option<f64>,
    /// Final validation bits per byte; `None` unless the loss covers whole texts.
    pub val_bpb: Option<f64>,
    /// Final validation loss and bits per byte of each named validation set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub val_sets: Vec<SetLoss>,
    /// How much of each named source was trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceUse>,
    /// The stage whose model the exam examined.
    pub exam_after: Option<Stage>,
    /// The weights of that stage that the exam examined; `None`: the final ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exam_at: Option<Box<Examined>>,
    /// Exam questions answered correctly.
    pub correct: Option<u64>,
    /// Exam questions asked.
    pub questions: Option<u64>,
    /// Questions that appear in training text; `None` if that was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contaminated: Option<Contaminated>,
    /// Routing of the tokens of each subject's prompts to experts; empty for dense models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routing: Vec<Routing>,
    /// Expected accuracy of guessing in the exam; `None`: a quarter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guessing: Option<f64>,
    /// What was dropped, cut, skipped or reduced.
    #[serde(default)]
    pub notices: Vec<Notice>,
}

/// The record of a stage run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its stage.
    pub stage: Stage,
    /// Its name, derived from `facts`.
    pub uuid: Uuid,
    /// Its status.
    pub status: RunStatus,
    /// Why it failed or was cut off.
    pub reason: Option<String>,
    /// Whether it was cut off from outside, so that another attempt may end differently.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// Its results.
    pub results: Results,
    /// The end of the training; `None` for stages that do not train, and in older manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The program of the last attempt.
    pub program: Program,
    /// Host name of the machine.
    pub host: String,
    /// `cpu`, or `cuda:` and the number or short UUID of the GPU.
    pub device: String,
    /// Threads of the last attempt.
    pub threads: usize,
    /// Seeds of the trial and, if used, of the built-in world or the probe.
    pub seeds: Vec<(String, u64)>,
    /// When the first attempt began (UTC).
    pub started: String,
    /// When the last attempt ended (UTC).
    pub ended: Option<String>,
    /// Number of attempts.
    #[serde(alias = "sittings")]
    pub attempts: u32,
    /// Number of consecutive attempts, this one included, that left nothing to resume from.
    #[serde(default, alias = "idle_sittings")]
    pub idle_attempts: u32,
    /// Seconds of all attempts, by a monotonic clock; for a killed attempt as far as its claim's heartbeats show.
    pub wall_seconds: f64,
    /// Largest resident set size of any attempt, in MiB.
    pub peak_rss_mb: f64,
    /// Stage runs that it reads.
    pub inputs: Vec<Input>,
    /// Files that its results depend on.
    pub data: Vec<FileDigest>,
    /// Everything that its results depend on.
    pub facts: Value,
    /// The files that it produced.
    pub outputs: Vec<Output>,
    /// The resolved configuration of the trial that it was first run for.
    pub config: TrialConfig,
}

impl Results {
    /// The exam's count of correct answers; `None` for other stages.
    pub fn tally(&self) -> Option<Tally> {
        let guessing = self.guessing.unwrap_or(GUESSING);
        Some(Tally { correct: self.correct?, questions: self.questions?, guessing })
    }
}

impl Manifest {
    /// Reads the manifest of a stage run; `None` if there is none yet.
    ///
    /// # Errors
    /// If it cannot be read, or is not a manifest.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let manifest = serde_json::from_str(&text).with_context(|| {
            format!("{}: is not a manifest; move the folder away to run the stage again", path.display())
        })?;
        Ok(Some(manifest))
    }

    /// Seconds that a stage run has taken so far, over all its attempts; 0 if its folder holds no manifest of it.
    pub fn seconds_so_far(dir: &Path, uuid: Uuid) -> f64 {
        let manifest = Self::read(dir).ok().flatten().filter(|manifest| manifest.uuid == uuid);
        manifest.map_or(0.0, |manifest| manifest.wall_seconds)
    }

    /// Writes the manifest into the folder of its stage run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        write_atomic(&dir.join(MANIFEST), text.as_bytes())
    }

    /// What is wrong with the outputs of a finished stage run; `None` if they are intact.
    pub fn damage(&self, dir: &Path) -> Option<String> {
        let is_there = |output: &&Output| {
            fs::metadata(dir.join(&output.path)).is_ok_and(|about| about.len() == output.bytes)
        };
        if let Some(missing) = self.outputs.iter().find(|output| !is_there(output)) {
            return Some(format!("{} is missing or truncated", missing.path.display()));
        }
        // Reports read the answers: they count as intact only if they can be parsed.
        let has_answers = self.stage == Stage::Exam && dir.join(QUESTIONS).exists();
        has_answers.then(|| questions(dir).err()).flatten().map(|error| format!("{error:#}"))
    }
}

/// Reads the answers of an exam.
///
/// # Errors
/// If the file cannot be read, or is damaged.
pub fn questions(dir: &Path) -> Result<Vec<QuestionRecord>> {
    let path = dir.join(QUESTIONS);
    serde_json::from_str(&read_text(&path)?)
        .with_context(|| format!("{}: is damaged; run again to repeat the exam", path.display()))
}

/// Reads what the model of an exam generated after fixed prompts; empty if the exam has no such prompts, or predates them.
///
/// # Errors
/// If the file cannot be read, or is damaged.
pub fn samples(dir: &Path) -> Result<Vec<Sample>> {
    let path = dir.join(SAMPLES);
    let Some(text) = read_if_there(&path)? else { return Ok(vec![]) };
    serde_json::from_str(&text).with_context(|| format!("{}: is damaged", path.display()))
}

/// Lists every file of a finished stage run except those of its execution: log, manifest, claim, checkpoints.
///
/// # Errors
/// If the folder cannot be read.
pub fn outputs(dir: &Path) -> Result<Vec<Output>> {
    let mut found = Vec::new();
    for (path, bytes) in files_below(dir)? {
        let inside = path.strip_prefix(dir)?.to_path_buf();
        let names: Vec<_> = inside.iter().map(|name| name.to_string_lossy()).collect();
        let is_hidden = names.iter().any(|name| name.starts_with('.'));
        if !is_hidden && !NOT_OUTPUTS.contains(&names[0].as_ref()) {
            found.push(Output { path: inside, bytes });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn outputs_leave_out_what_is_about_the_running() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["model", "checkpoints"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in ["log.txt", "checkpoints/a", "model/w", "metrics.csv", ".writing-1"] {
            fs::write(dir.path().join(file), "12345").unwrap();
        }
        let found = outputs(dir.path()).unwrap();
        let paths: Vec<_> = found.iter().map(|o| o.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["metrics.csv", "model/w"]);
        assert!(found.iter().all(|o| o.bytes == 5));
    }
}
