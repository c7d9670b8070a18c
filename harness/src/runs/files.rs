//! File names in the folder of a stage run, for the modules that write the files and those that read them.

/// The record of what the stage run depends on and how it ended: see [`super::manifest`].
pub const MANIFEST: &str = "manifest.json";

/// The owner that works on it: see [`super::claim`].
pub const CLAIM: &str = "claim.json";

/// The request to its process.
pub const REQUEST: &str = "request.json";

/// The configuration of its trial.
pub const CONFIG: &str = "config.toml";

/// Standard error of its process.
pub const LOG: &str = "log.txt";

/// Its Slurm job, as `array_task`.
pub const JOB: &str = "job.txt";

/// The number of optimizer steps of a training, for progress displays.
pub const LENGTH: &str = "length.txt";

/// The folder of a training's checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// The folder of the checkpoints that a training leaves for shorter ones, each named after the branch's stage run.
pub const BRANCHES: &str = "branches";

/// The origin of a training that began from a checkpoint of a longer one.
pub const TRUNK: &str = "trunk.json";

/// The folder, inside that of prepared data, in which exams cache which of their questions appear in that data.
pub const CONTAMINATION: &str = "contamination";

/// The answers of an exam.
pub const QUESTIONS: &str = "questions.json";

/// What the model of an exam generated after fixed prompts.
pub const SAMPLES: &str = "samples.json";

/// Files that belong to the execution of a stage run, or were added next to its results later: not part of its results.
pub const NOT_OUTPUTS: [&str; 11] =
    [MANIFEST, CONFIG, LOG, REQUEST, JOB, CLAIM, LENGTH, CHECKPOINTS, BRANCHES, TRUNK, CONTAMINATION];
