//! What one process is asked to do, and who does it.

use crate::config::{At, Stage, TrialConfig};
use crate::fsutil::digests::FileDigest;
use crate::runs::claim::Owner;
use crate::runs::manifest::{Input, Results};
use crate::track::Progress;
use crate::train::trunk::Branch;
use anyhow::{Context, Result};
use model::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use uuid::Uuid;

/// What one process is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRequest {
    /// The stage.
    pub stage: Stage,
    /// Its name.
    pub uuid: Uuid,
    /// The folder of the stage run.
    pub dir: PathBuf,
    /// The resolved configuration of the trial as TOML, which keeps every number exactly.
    pub config: String,
    /// The folder of the tokenizer's stage run; `None` for that stage itself.
    pub tokenizer: Option<PathBuf>,
    /// The folder of the data's stage run.
    pub data: Option<PathBuf>,
    /// The folder of the stage run whose model is trained on or examined.
    pub model: Option<PathBuf>,
    /// The stage that made that model.
    pub model_stage: Option<Stage>,
    /// The weights of that stage that sit an exam.
    #[serde(default)]
    pub at: At,
    /// The folder of the stage run that takes the first steps of this one, where one does.
    #[serde(default)]
    pub trunk: Option<PathBuf>,
    /// Shorter trainings that go on from a checkpoint of this one.
    #[serde(default)]
    pub branches: Vec<Branch>,
    /// Threads to work with; 0 takes all that there are.
    pub threads: usize,
    /// The names of the inputs.
    pub inputs: Vec<Input>,
    /// The files that the results depend on.
    pub files: Vec<FileDigest>,
    /// All that the results depend on.
    pub facts: Value,
    /// Seconds that the trial has taken so far.
    pub spent: f64,
    /// The only GPU that the process sees, as `CUDA_VISIBLE_DEVICES` names it; unset: as it finds them.
    pub gpu: Option<String>,
    /// An owner of the claim on another machine that was found dead.
    pub dead: Option<Owner>,
}

impl StageRequest {
    /// The configuration, with the threads and the device of this attempt.
    ///
    /// # Errors
    /// Where the configuration is none of this version.
    pub fn trial_config(&self) -> Result<TrialConfig> {
        let mut config: TrialConfig = toml::from_str(&self.config)
            .with_context(|| format!("{}: configuration of the request", self.dir.display()))?;
        config.threads = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        if self.gpu.is_some() {
            // The one that it sees is the first for it, whichever it is for others.
            config.device = Device::Cuda(None);
        }
        Ok(config)
    }
}

/// What a stage does; its inputs are in the request, its results go into the folder of the stage run.
///
/// A stage that was interrupted is run again in the same folder and goes on from what it finds there.
pub trait StageBody: Sync {
    /// Works until the end, or until `stop` is set: then what is needed to go on is written, and `None` returned.
    ///
    /// # Errors
    /// What the stage fails with.
    fn run(
        &self,
        request: &StageRequest,
        config: &TrialConfig,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Results>>;

    /// Clears away what only an unfinished stage run needs; called once its end is recorded.
    ///
    /// # Errors
    /// Where a file cannot be removed.
    fn tidy(&self, request: &StageRequest, config: &TrialConfig) -> Result<()>;
}
