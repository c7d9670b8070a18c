//! One attempt at a stage run, in one process: claim, manifest, the stage's body, manifest again.

use super::gpus::short;
use super::retry::is_transient;
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
pub enum AttemptOutcome {
    /// The stage run is complete.
    Done(Box<Results>),
    /// It stopped on request and can be resumed.
    Stopped,
    /// It failed for this reason and would fail again.
    Failed(String),
    /// It was cut off for this reason; a retry may succeed.
    CutOff(String),
    /// Another process works on it.
    Busy,
}

impl AttemptOutcome {
    /// Classifies an error: [`AttemptOutcome::CutOff`] if a retry may succeed, [`AttemptOutcome::Failed`] otherwise.
    pub fn of(error: &Error) -> Self {
        let reason = format!("{error:#}");
        if is_transient(error) { AttemptOutcome::CutOff(reason) } else { AttemptOutcome::Failed(reason) }
    }
}

/// Works on a stage run and records how the attempt ended.
///
/// # Errors
/// If the folder of the stage run cannot be read or written; an error of the stage itself is recorded instead.
pub fn work(
    request: &StageRequest,
    body: &dyn StageBody,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<AttemptOutcome> {
    let dir = &request.dir;
    create_dir(dir)?;
    let claim = match Claim::take(dir, request.dead.as_ref())? {
        Taking::Ours(claim) => claim,
        Taking::Busy(_) => return Ok(AttemptOutcome::Busy),
    };
    let before = Manifest::read(dir)?.filter(|manifest| manifest.uuid == request.uuid);
    if let Some(before) = &before
        && before.status == RunStatus::Done
        && before.damage(dir).is_none()
    {
        // The process that finished it may have been killed before this.
        body.tidy(request, &request.trial_config()?)?;
        return Ok(AttemptOutcome::Done(Box::new(before.results.clone())));
    }
    remove_drafts(dir)?;
    let config = request.trial_config()?;
    write_atomic(&dir.join(CONFIG), request.config.as_bytes())?;
    let mut manifest = new_manifest(request, &config, before);
    manifest.wall_seconds += claim.taken_over().as_secs_f64();
    manifest.write(dir)?;

    let (began, before) = (Instant::now(), newest_checkpoint(dir));
    let ended = claim.while_ours(stop, || run_body(request, &config, body, stop, progress));
    if claim.lost() {
        // Another process took over: the folder and its manifest are now its own.
        return Ok(AttemptOutcome::Busy);
    }
    match &ended {
        AttemptOutcome::Done(results) => {
            for notice in &results.notices {
                tracing::warn!("{notice}");
            }
            manifest.results = (**results).clone();
            manifest.ending = Ending::read(&dir.join(crate::track::METRICS));
            manifest.outputs = outputs(dir)?;
            manifest.end(RunStatus::Done, None, began.elapsed());
        }
        AttemptOutcome::Failed(reason) => {
            manifest.end(RunStatus::Failed, Some(reason.clone()), began.elapsed())
        }
        AttemptOutcome::CutOff(reason) => {
            manifest.end(RunStatus::Stopped, Some(reason.clone()), began.elapsed())
        }
        AttemptOutcome::Stopped | AttemptOutcome::Busy => {
            manifest.end(RunStatus::Stopped, None, began.elapsed())
        }
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

/// Records from outside how an attempt ended that could not record it itself, or whose end is to be judged otherwise.
/// `least` is how many seconds the stage run has taken at least, over all its attempts, as seen from outside: a process
/// counts its own time only once it has started.
///
/// A finished stage run stays finished, with the claim of its dead process, by which [`super::pool::tidy_killed`] finds it.
/// One that another process works on is left alone.
///
/// # Errors
/// If the manifest cannot be read or written.
pub fn record_end(request: &StageRequest, status: RunStatus, reason: Option<&str>, least: f64) -> Result<()> {
    let recorded = || -> Result<Option<Manifest>> {
        Ok(Manifest::read(&request.dir)?.filter(|manifest| manifest.uuid == request.uuid))
    };
    let is_done = |found: &Option<Manifest>| found.as_ref().is_some_and(|it| it.status == RunStatus::Done);
    if is_done(&recorded()?) {
        return Ok(());
    }
    let Taking::Ours(claim) = Claim::take(&request.dir, None)? else {
        return Ok(());
    };
    let before = recorded()?;
    if is_done(&before) {
        return Ok(());
    }
    let mut manifest = match before {
        Some(manifest) => manifest,
        // The attempt died before it could write one.
        None => new_manifest(request, &request.trial_config()?, None),
    };
    let unrecorded = match manifest.status {
        RunStatus::Running => claim.taken_over(),
        _ => Duration::ZERO,
    };
    manifest.end(status, reason.map(Into::into), unrecorded);
    manifest.wall_seconds = manifest.wall_seconds.max(least);
    manifest.cut_off = true;
    manifest.write(&request.dir)?;
    remove_drafts(&request.dir)
}

impl Manifest {
    fn end(&mut self, status: RunStatus, reason: Option<String>, after: Duration) {
        self.status = status;
        self.reason = reason;
        self.ended = Some(utc(now()));
        self.wall_seconds += after.as_secs_f64();
    }
}

/// The manifest at the start of an attempt; totals continue those of `before`.
fn new_manifest(request: &StageRequest, config: &TrialConfig, before: Option<Manifest>) -> Manifest {
    let (started, attempts, idle_attempts, wall_seconds, peak_rss_mb) = match before {
        None => (utc(now()), 0, 0, 0.0, 0.0),
        Some(before) => {
            // Whoever reruns a failed stage run has changed something.
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

fn run_body(
    request: &StageRequest,
    config: &TrialConfig,
    body: &dyn StageBody,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> AttemptOutcome {
    let run = || body.run(request, config, stop, progress);
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(Some(results))) => AttemptOutcome::Done(Box::new(results)),
        Ok(Ok(None)) => AttemptOutcome::Stopped,
        // An error after a stop was requested is still an error.
        Ok(Err(error)) => AttemptOutcome::of(&error),
        Err(panic) => {
            stop.store(true, Ordering::SeqCst);
            AttemptOutcome::Failed(format!("the program panicked: {}", panic_message(&panic)))
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
