//! What is called how in the folder of a stage run, for the rooms that write it and those that read it.

/// What is needed to believe and repeat it, and how it ended: see [`super::manifest`].
pub const MANIFEST: &str = "manifest.json";

/// Who works on it: see [`super::claim`].
pub const CLAIM: &str = "claim.json";

/// What its process is asked to do.
pub const REQUEST: &str = "request.json";

/// The configuration of its trial.
pub const CONFIG: &str = "config.toml";

/// What its process tells on the standard error stream.
pub const LOG: &str = "log.txt";

/// Its job, as `array_task` of Slurm.
pub const JOB: &str = "job.txt";

/// The optimizer steps of a training, for whoever watches.
pub const LENGTH: &str = "length.txt";

/// The folder of a training's checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// The folder of the checkpoints that a training leaves for shorter ones, each by the name of its stage run.
pub const BRANCHES: &str = "branches";

/// Where a training began, if with a checkpoint of a longer one.
pub const TRUNK: &str = "trunk.json";

/// The folder in that of prepared data in which exams keep which of their questions stand in it.
pub const CONTAMINATION: &str = "contamination";

/// The answers of an exam.
pub const QUESTIONS: &str = "questions.json";

/// What the model of an exam wrote behind fixed prompts.
pub const SAMPLES: &str = "samples.json";

/// What belongs to the running of a stage, or was laid beside its results later: no results.
pub const RUNNING: [&str; 11] =
    [MANIFEST, CONFIG, LOG, REQUEST, JOB, CLAIM, LENGTH, CHECKPOINTS, BRANCHES, TRUNK, CONTAMINATION];
