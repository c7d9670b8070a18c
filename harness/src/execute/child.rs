//! A stage run in a process of its own, so that a crash or an out-of-memory kill affects that stage run only.
//!
//! The child reads a request file and reports its progress and its end as JSON lines on standard output; its standard
//! error goes to `log.txt`. The parent keeps the child's standard input open for as long as the child should work. When
//! it closes, because a stop was requested or the parent died, a training stage finishes its step, writes a checkpoint
//! and ends; any other stage is abandoned, and killed if it does not end in time.

use super::gpus::VISIBLE;
use super::limits::{Limits, Verdict, Watched};
use super::pool::{Launch, Stop};
use super::retry::is_transient_signal;
use super::slurm::time_limit_problem;
use super::worker::{AttemptOutcome, record_end, work};
use crate::fsutil::{create_dir, hand_in, read_text};
use crate::recipe::{StageBody, StageRequest};
use crate::runs::files::{LOG, REQUEST};
use crate::runs::manifest::{Manifest, RunStatus};
use crate::track::{Board, Progress};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The hidden subcommand under which this program runs as a child.
pub const VERB: &str = "stage-run";

/// The environment variable that keeps the allocator from huge pages, and its value: huge pages increase memory use by up
/// to a half beyond what the buffers need, and save no time here.
pub const HUGE_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");

/// The exit code of a child without a parent that has written a checkpoint and is to be queued again.
pub const AGAIN: u8 = 75;

/// Shortest interval between two progress updates of a child.
const UPDATE_INTERVAL: Duration = Duration::from_millis(200);

/// How often a parent checks whether a stop is requested.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A line that a child prints on standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start { label: String, total: u64, unit: String },
    Update { done: u64, message: String },
    Finish { message: String },
    Ended { ended: AttemptOutcome },
}

/// Launches each stage run as a child process of this program.
pub struct Processes {
    program: PathBuf,
    limits: Limits,
}

impl Processes {
    /// Children of the running program, each subject to `limits`.
    ///
    /// # Errors
    /// If the path of the running program is unknown.
    pub fn of_this_program(limits: Limits) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        Ok(Self { program, limits })
    }
}

impl Launch for Processes {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> AttemptOutcome {
        match self.run(request, stop, progress) {
            Ok(ended) => ended,
            Err(error) => AttemptOutcome::of(&error),
        }
    }
}

impl Processes {
    fn run(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Result<AttemptOutcome> {
        let request_path = write_request(request)?;
        let before = Manifest::seconds_so_far(&request.dir, request.uuid);
        let log_path = request.dir.join(LOG);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("{}: cannot be written", log_path.display()))?;
        let mut command = Command::new(&self.program);
        command.arg(VERB).arg(&request_path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.env(HUGE_PAGES.0, HUGE_PAGES.1);
        if let Some(gpu) = &request.gpu {
            command.env(VISIBLE, gpu);
        }
        // Ctrl-C then reaches the parent only, which asks its children to stop.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child =
            command.spawn().with_context(|| format!("{}: cannot be started", self.program.display()))?;

        let (sender, lines) = channel();
        let stdout = child.stdout.take();
        let mut watched = Watched::new(
            self.limits,
            Duration::try_from_secs_f64(request.spent).unwrap_or_default(),
            request.stage,
            child.id(),
        );
        let ended = std::thread::scope(|scope| {
            if let Some(stdout) = stdout {
                scope.spawn(move || read_lines(stdout, &sender));
            }
            follow(&mut child, &lines, &mut watched, stop, progress)
        });
        let status = child.wait()?;
        let least = before + watched.elapsed().as_secs_f64();
        match (ended, watched.excess) {
            (Some(AttemptOutcome::Done(results)), _) => Ok(AttemptOutcome::Done(results)),
            (_, Some(excess)) => {
                record_end(request, RunStatus::Failed, Some(&excess), least)?;
                Ok(AttemptOutcome::Failed(excess))
            }
            (Some(ended), None) => Ok(ended),
            (None, None) if watched.was_killed => {
                // Without this record only the time of the attempt is lost.
                if let Err(error) = record_end(request, RunStatus::Stopped, None, least) {
                    tracing::warn!("{error:#}");
                }
                Ok(AttemptOutcome::Stopped)
            }
            (None, None) => {
                let (reason, is_transient) = describe(status);
                let recorded = if is_transient { RunStatus::Stopped } else { RunStatus::Failed };
                record_end(request, recorded, Some(&reason), least)?;
                Ok(if is_transient { AttemptOutcome::CutOff(reason) } else { AttemptOutcome::Failed(reason) })
            }
        }
    }
}

/// Writes a request into the folder of its stage run; returns the path of the file.
///
/// # Errors
/// If the file cannot be written.
pub fn write_request(request: &StageRequest) -> Result<PathBuf> {
    create_dir(&request.dir)?;
    hand_in(&request.dir, REQUEST, &serde_json::to_vec_pretty(request)?)
}

/// Forwards the child's progress until its output ends; returns how the child says that it ended, if it does.
fn follow(
    child: &mut Child,
    lines: &Receiver<Line>,
    watched: &mut Watched,
    stop: &Stop,
    progress: &dyn Progress,
) -> Option<AttemptOutcome> {
    let mut ended = None;
    loop {
        match lines.recv_timeout(POLL_INTERVAL) {
            Ok(Line::Start { label, total, unit }) => progress.start(&label, total, &unit),
            Ok(Line::Update { done, message }) => progress.update(done, &message),
            Ok(Line::Finish { message }) => progress.finish(&message),
            Ok(Line::Ended { ended: how }) => ended = Some(how),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return ended,
        }
        let verdict = watched.look(stop.is_requested());
        if verdict != Verdict::Within {
            drop(child.stdin.take());
        }
        if stop.is_immediate() || verdict == Verdict::Kill {
            watched.was_killed = true;
            // The child may just have ended; a failed kill then needs no handling.
            let _ = child.kill();
        }
    }
}

fn read_lines(stdout: impl Read, sender: &Sender<Line>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        // Ignore other lines: a library may print to standard output.
        if let Ok(line) = serde_json::from_str(&line)
            && sender.send(line).is_err()
        {
            return;
        }
    }
}

/// Why a process ended that did not report its end, and whether a retry may succeed.
fn describe(status: ExitStatus) -> (String, bool) {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let reason = match signal {
            9 => "killed by signal 9: out of memory, or by kill -9".into(),
            signal => format!("the process was killed by signal {signal}"),
        };
        return (reason, is_transient_signal(signal));
    }
    match status.code() {
        Some(code) => (format!("the process ended with exit code {code}"), false),
        None => ("the process ended for an unknown reason".into(), false),
    }
}

/// Runs in the child: works on the request in a file; returns `false` if work is left.
///
/// `stop` is set when standard input ends. The exception is a child without a parent, in a batch job: `alone` is then how
/// often the job was queued again. Only a signal stops it, and its progress goes to its log.
///
/// # Errors
/// If the request cannot be read, or if the stage fails.
pub fn stage_run(
    request: &Path,
    alone: Option<u32>,
    body: &dyn StageBody,
    stop: &Arc<AtomicBool>,
) -> Result<bool> {
    let request: StageRequest = serde_json::from_str(&read_text(request)?)
        .with_context(|| format!("{}: is not a request", request.display()))?;
    if alone.is_none() {
        let asked = Arc::clone(stop);
        // If the work is done first, the thread is still waiting; it ends with the process.
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            asked.store(true, std::sync::atomic::Ordering::SeqCst);
        });
    }
    let attempt = |progress: &dyn Progress| {
        work(&request, body, stop, progress).unwrap_or_else(|error| AttemptOutcome::of(&error))
    };
    let ended = if alone.is_some() {
        attempt(Board::Lines.task(request.stage.name()).as_ref())
    } else {
        let reporter = Reporter::default();
        let ended = attempt(&reporter);
        reporter.send(&Line::Ended { ended: ended.clone() });
        ended
    };
    match ended {
        AttemptOutcome::Done(_) => Ok(true),
        AttemptOutcome::Stopped => {
            let reason = alone.map(|restarts| time_limit_problem(&request, restarts)).transpose()?.flatten();
            let Some(reason) = reason else { return Ok(false) };
            record_end(&request, RunStatus::Failed, Some(&reason), 0.0)?;
            bail!(reason)
        }
        AttemptOutcome::Busy => Ok(false),
        AttemptOutcome::Failed(reason) | AttemptOutcome::CutOff(reason) => bail!(reason),
    }
}

/// Reports progress as JSON lines on standard output.
#[derive(Default)]
struct Reporter {
    last_update: Mutex<Option<Instant>>,
}

impl Reporter {
    fn send(&self, line: &Line) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            let mut out = io::stdout().lock();
            // If the parent is gone, standard input has ended, which sets `stop`.
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
    }
}

impl Progress for Reporter {
    fn start(&self, label: &str, total: u64, unit: &str) {
        self.send(&Line::Start { label: label.into(), total, unit: unit.into() });
    }

    fn update(&self, done: u64, message: &str) {
        let mut last = self.last_update.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= UPDATE_INTERVAL) {
            *last = Some(Instant::now());
            self.send(&Line::Update { done, message: message.into() });
        }
    }

    fn finish(&self, message: &str) {
        self.send(&Line::Finish { message: message.into() });
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Stage;
    use crate::config::TrainStage;
    use crate::config::TrialConfig;
    use model::Device;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_child_sees_the_gpu_that_it_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, format!("#!/bin/sh\necho \"$1 ${VISIBLE}\" > \"$2.seen\"\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let request = StageRequest {
            stage: Stage::Train(TrainStage::Pretrain),
            uuid: uuid::Uuid::nil(),
            dir: dir.path().join("pretrain-1"),
            config: toml::to_string(&TrialConfig::default()).unwrap(),
            tokenizer: None,
            data: None,
            model: None,
            model_stage: None,
            at: crate::config::ExamPoint::default(),
            trunk: None,
            branches: vec![],
            threads: 1,
            inputs: vec![],
            files: vec![],
            facts: serde_json::Value::Null,
            spent: 0.0,
            gpu: Some("GPU-7".into()),
            dead: None,
        };
        let processes = Processes { program, limits: Limits::default() };
        let ended = processes.launch(&request, &Stop::default(), &crate::track::Silent);
        // It ended without reporting how.
        assert!(matches!(ended, AttemptOutcome::Failed(_)), "{ended:?}");
        let seen = fs::read_to_string(request.dir.join(format!("{REQUEST}.seen"))).unwrap();
        assert_eq!(seen.trim(), format!("{VERB} GPU-7"));
        assert_eq!(request.trial_config().unwrap().device, Device::Cuda(None));
    }
}
