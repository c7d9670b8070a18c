//! Requests to run a stage in a process, and the trait of stage bodies.

use crate::config::{ExamPoint, Stage, TrialConfig};
use crate::fsutil::digests::FileDigest;
use crate::runs::claim::ClaimOwner;
use crate::runs::manifest::{Input, Results};
use crate::system::cores;
use crate::track::Progress;
use crate::train::trunk::Branch;
use anyhow::{Context, Result};
use model::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use uuid::Uuid;

/// Request to a process to run one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRequest {
    /// Stage to run.
    pub stage: Stage,
    /// Name of the stage run.
    pub uuid: Uuid,
    /// Folder of the stage run.
    pub dir: PathBuf,
    /// Resolved configuration of the trial as TOML, which preserves every number exactly.
    pub config: String,
    /// Folder of the tokenizer's stage run; `None` for that stage itself.
    pub tokenizer: Option<PathBuf>,
    /// Folder of the data's stage run, if the stage needs it.
    pub data: Option<PathBuf>,
    /// Folder of the stage run whose model is trained further or examined.
    pub model: Option<PathBuf>,
    /// Stage that produced that model.
    pub model_stage: Option<Stage>,
    /// Which weights of that stage are examined.
    #[serde(default)]
    pub at: ExamPoint,
    /// Folder of the stage run that takes the first steps of this one, if they are shared.
    #[serde(default)]
    pub trunk: Option<PathBuf>,
    /// Shorter training runs that continue from a checkpoint of this one.
    #[serde(default)]
    pub branches: Vec<Branch>,
    /// Number of threads; 0 for all available ones.
    pub threads: usize,
    /// Inputs of the stage run, by name.
    pub inputs: Vec<Input>,
    /// Files that the results depend on, with their digests.
    pub files: Vec<FileDigest>,
    /// Facts: everything that the results depend on.
    pub facts: Value,
    /// Seconds that the trial has taken so far, over all its stage runs.
    pub spent: f64,
    /// The only GPU visible to the process, as `CUDA_VISIBLE_DEVICES` names it; `None` leaves its environment as it is.
    pub gpu: Option<String>,
    /// Owner of the claim on another machine that was found dead, if any.
    pub dead: Option<ClaimOwner>,
}

impl StageRequest {
    /// Returns the configuration, with the threads and the device of this attempt.
    ///
    /// # Errors
    /// If the configuration does not belong to this version.
    pub fn trial_config(&self) -> Result<TrialConfig> {
        let mut config = TrialConfig::from_toml(&self.config)
            .with_context(|| format!("{}: configuration of the request", self.dir.display()))?;
        config.threads = match self.threads {
            0 => cores(),
            threads => threads,
        };
        if self.gpu.is_some() {
            // The only visible GPU is the first one for this process, whatever its number on the machine.
            config.device = Device::Cuda(None);
        }
        Ok(config)
    }
}

/// Implementation of a stage. Its inputs are in the request; its results are written to the folder of the stage run.
///
/// An interrupted stage is run again in the same folder and resumes from what it finds there.
pub trait StageBody: Sync {
    /// Runs to the end, or until `stop` is set: then it writes what is needed to resume and returns `None`.
    ///
    /// # Errors
    /// Any error of the stage.
    fn run(
        &self,
        request: &StageRequest,
        config: &TrialConfig,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Results>>;

    /// Removes what only an unfinished stage run needs; called once its end is recorded.
    ///
    /// # Errors
    /// If a file cannot be removed.
    fn tidy(&self, request: &StageRequest, config: &TrialConfig) -> Result<()>;
}
