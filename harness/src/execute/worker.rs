//! One stage run, worked on in one process: claim, manifest, the stage itself, manifest again.

use super::gpus::short;
use super::retry::may_pass;
use crate::config::{Source, TrialConfig};
use crate::fsutil::{create_dir, remove_drafts, write_atomic};
use crate::recipe::{StageBody, StageRequest};
use crate::records::Ending;
use crate::runs::claim::{Claim, Taking, host};
use crate::runs::files::CONFIG;
use crate::runs::manifest::{Manifest, Program, Results, RunStatus, outputs};
use crate::system::{now, peak_rss_mb, utc};
use crate::track::Progress;
use crate::train::newest_checkpoint;
use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The stage run is complete.
    Done(Box<Results>),
    /// It stopped on request and can be gone on with.
    Stopped,
    /// It failed, for this reason, and would fail again.
    Failed(String),
    /// It was cut off, for this reason, which may be gone the next time.
    CutOff(String),
    /// Somebody else works on it.
    Busy,
}

impl Ended {
    /// The end that an error makes.
    pub fn of(error: &Error) -> Self {
        let reason = format!("{error:#}");
        if may_pass(error) { Ended::CutOff(reason) } else { Ended::Failed(reason) }
    }
}

/// Works on a stage run, and records how it went.
///
/// # Errors
/// Where the folder of the stage run cannot be read or written; what the stage itself fails with is recorded.
pub fn work(
    request: &StageRequest,
    body: &dyn StageBody,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Ended> {
    let dir = &request.dir;
    create_dir(dir)?;
    let claim = match Claim::take(dir, request.dead.as_ref())? {
        Taking::Ours(claim) => claim,
        Taking::Busy(_) => return Ok(Ended::Busy),
    };
    let before = Manifest::read(dir)?.filter(|manifest| manifest.uuid == request.uuid);
    if let Some(before) = &before
        && before.status == RunStatus::Done
        && before.damage(dir).is_none()
    {
        return Ok(Ended::Done(Box::new(before.results.clone())));
    }
    remove_drafts(dir)?;
    let config = request.trial_config()?;
    write_atomic(&dir.join(CONFIG), request.config.as_bytes())?;
    let mut manifest = begun(request, &config, before);
    manifest.wall_seconds += claim.taken_over().as_secs_f64();
    manifest.write(dir)?;

    let (began, before) = (Instant::now(), newest_checkpoint(dir));
    let ended = claim.while_ours(stop, || sit(request, &config, body, stop, progress));
    if claim.lost() {
        // Somebody took over: the folder is theirs, and so is its manifest.
        return Ok(Ended::Busy);
    }
    match &ended {
        Ended::Done(results) => {
            for notice in &results.notices {
                tracing::warn!("{notice}");
            }
            manifest.results = (**results).clone();
            manifest.ending = Ending::read(&dir.join(crate::track::METRICS));
            manifest.outputs = outputs(dir)?;
            manifest.end(RunStatus::Done, None, began.elapsed());
        }
        Ended::Failed(reason) => manifest.end(RunStatus::Failed, Some(reason.clone()), began.elapsed()),
        Ended::CutOff(reason) => manifest.end(RunStatus::Stopped, Some(reason.clone()), began.elapsed()),
        Ended::Stopped | Ended::Busy => manifest.end(RunStatus::Stopped, None, began.elapsed()),
    }
    if manifest.status == RunStatus::Done || newest_checkpoint(dir) != before {
        manifest.idle_attempts = 0;
    }
    manifest.peak_rss_mb = manifest.peak_rss_mb.max(peak_rss_mb());
    manifest.write(dir)?;
    if manifest.status == RunStatus::Done {
        body.tidy(request, &config)?;
    }
    Ok(ended)
}

/// Records from outside how an attempt of `sat` ended that could not do so itself, or whose end is judged otherwise.
///
/// What is finished stays finished, and what somebody else works on is left to them.
///
/// # Errors
/// Where the manifest cannot be read or written.
pub fn record_end(
    request: &StageRequest,
    status: RunStatus,
    reason: Option<&str>,
    sat: Duration,
) -> Result<()> {
    let Taking::Ours(claim) = Claim::take(&request.dir, None)? else {
        return Ok(());
    };
    let before = Manifest::read(&request.dir)?.filter(|manifest| manifest.uuid == request.uuid);
    let mut manifest = match before {
        Some(manifest) if manifest.status == RunStatus::Done => return Ok(()),
        Some(manifest) => manifest,
        // It died before it could write one.
        None => begun(request, &request.trial_config()?, None),
    };
    let unrecorded = match manifest.status {
        RunStatus::Running => sat.max(claim.taken_over()),
        _ => Duration::ZERO,
    };
    manifest.end(status, reason.map(Into::into), unrecorded);
    manifest.cut_off = true;
    manifest.write(&request.dir)?;
    remove_drafts(&request.dir)
}

/// Attempts in a row that came to nothing, after which another like them would as well.
const MOST_IDLE: u32 = 3;

/// Why another job like the last ones would not finish a stage run that was told to end; `None` where it may.
///
/// `restarts` is how often the present job was queued again: what people stopped before does not count.
///
/// # Errors
/// Where the manifest cannot be read.
pub fn hopeless(request: &StageRequest, restarts: u32) -> Result<Option<String>> {
    let idle = Manifest::read(&request.dir)?.map_or(0, |manifest| manifest.idle_attempts);
    if idle.min(restarts.saturating_add(1)) < MOST_IDLE {
        return Ok(None);
    }
    let kept = match request.stage.training() {
        Some(_) => "without a new checkpoint",
        None => "and its progress cannot be kept",
    };
    Ok(Some(format!(
        "the {} stage needs more than the job's time limit: it was told to end {MOST_IDLE} times before it was done, {kept}; raise slurm.time, or --sbatch=--time=...",
        request.stage
    )))
}

impl Manifest {
    fn end(&mut self, status: RunStatus, reason: Option<String>, after: Duration) {
        self.status = status;
        self.reason = reason;
        self.ended = Some(utc(now()));
        self.wall_seconds += after.as_secs_f64();
    }
}

/// The manifest of an attempt that begins.
fn begun(request: &StageRequest, config: &TrialConfig, before: Option<Manifest>) -> Manifest {
    let (started, attempts, idle_attempts, wall_seconds, peak_rss_mb) = match before {
        None => (utc(now()), 0, 0, 0.0, 0.0),
        Some(before) => {
            // Whoever runs a failed one again has changed something.
            let idle = if before.status == RunStatus::Failed { 0 } else { before.idle_attempts };
            (before.started, before.attempts, idle, before.wall_seconds, before.peak_rss_mb)
        }
    };
    let of_data = match config.data.source {
        Source::World => Some(config.world.seed),
        Source::Files => None,
        Source::Hops => Some(config.hops.seed),
        Source::Recall => Some(config.recall.seed),
        Source::Capacity => Some(config.capacity.seed),
    };
    let of_data = of_data.map(|seed| (config.data.source.word().into(), seed));
    Manifest {
        stage: request.stage,
        uuid: request.uuid,
        status: RunStatus::Running,
        reason: None,
        cut_off: false,
        results: Results::default(),
        ending: None,
        program: Program::this(),
        host: host(),
        device: request
            .gpu
            .as_ref()
            .map_or_else(|| config.device.to_string(), |gpu| format!("cuda:{}", short(gpu))),
        threads: config.threads,
        seeds: [("trial".into(), config.seed)].into_iter().chain(of_data).collect(),
        started,
        ended: None,
        attempts: attempts + 1,
        idle_attempts: idle_attempts + 1,
        wall_seconds,
        peak_rss_mb,
        inputs: request.inputs.clone(),
        data: request.files.clone(),
        facts: request.facts.clone(),
        outputs: Vec::new(),
        config: config.clone(),
    }
}

fn sit(
    request: &StageRequest,
    config: &TrialConfig,
    body: &dyn StageBody,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Ended {
    let run = || body.run(request, config, stop, progress);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(Some(results))) => Ended::Done(Box::new(results)),
        Ok(Ok(None)) => Ended::Stopped,
        // An error on the way out, after somebody asked to stop, is an error all the same.
        Ok(Err(error)) => Ended::of(&error),
        Err(panic) => {
            stop.store(true, Ordering::SeqCst);
            Ended::Failed(format!("the program broke: {}", panic_message(&panic)))
        }
    }
}

fn panic_message(panic: &Box<dyn Any + Send>) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
