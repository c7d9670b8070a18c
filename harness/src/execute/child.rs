//! A stage run in a process of its own, so that a crash or an out-of-memory kill is that stage's alone.
//!
//! The child reads a request file and tells its progress and its end as JSON lines on its standard output; its standard
//! error stream goes to `log.txt`. Its standard input stays open as long as it should work: when that ends, because
//! somebody asked to stop or because the parent died, a training finishes its step, writes a checkpoint and ends; any
//! other stage is given up, and killed where it does not end by itself.

use super::gpus::VISIBLE;
use super::limits::{Limits, Verdict, Watched};
use super::pool::{Launch, Stop};
use super::retry::signal_may_pass;
use super::worker::{Ended, hopeless, record_end, work};
use crate::fsutil::{create_dir, hand_in, read_text};
use crate::recipe::{StageBody, StageRequest};
use crate::runs::files::{LOG, REQUEST};
use crate::runs::manifest::RunStatus;
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

/// The hidden verb under which this program works as a child.
pub const VERB: &str = "stage-run";

/// The variable that keeps the allocator from huge pages, which take memory that no buffer asked for, by as much as a
/// half, and win no time here; and its value.
pub const HUGE_PAGES: (&str, &str) = ("MIMALLOC_ALLOW_THP", "0");

/// The exit code of a child that is alone, has written a checkpoint and is to be queued again.
pub const AGAIN: u8 = 75;

/// How often a child tells its progress at most.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How often a parent looks at the wish to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A line of a child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start { label: String, total: u64, unit: String },
    Update { done: u64, message: String },
    Finish { message: String },
    Ended { ended: Ended },
}

/// Starts this program again for each stage run.
pub struct Processes {
    program: PathBuf,
    limits: Limits,
}

impl Processes {
    /// Children of the running program, each of which may use so much.
    ///
    /// # Errors
    /// Where the system does not say what the running program is.
    pub fn of_this_program(limits: Limits) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program is not known")?;
        Ok(Self { program, limits })
    }
}

impl Launch for Processes {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Ended {
        match self.run(request, stop, progress) {
            Ok(ended) => ended,
            Err(error) => Ended::of(&error),
        }
    }
}

impl Processes {
    fn run(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Result<Ended> {
        let request_path = write_request(request)?;
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
        // Ctrl-C reaches the parent only, which asks its children to stop.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child =
            command.spawn().with_context(|| format!("{}: cannot be started", self.program.display()))?;

        let (sender, lines) = channel();
        let told = child.stdout.take();
        let mut watched = Watched::new(
            self.limits,
            Duration::try_from_secs_f64(request.spent).unwrap_or_default(),
            request.stage,
            child.id(),
        );
        let ended = std::thread::scope(|scope| {
            if let Some(told) = told {
                scope.spawn(move || read_lines(told, &sender));
            }
            follow(&mut child, &lines, &mut watched, stop, progress)
        });
        let status = child.wait()?;
        let sat = watched.elapsed();
        match (ended, watched.excess) {
            (Some(Ended::Done(results)), _) => Ok(Ended::Done(results)),
            (_, Some(excess)) => {
                record_end(request, RunStatus::Failed, Some(&excess), sat)?;
                Ok(Ended::Failed(excess))
            }
            (Some(ended), None) => Ok(ended),
            (None, None) if watched.was_killed => {
                // Without the record nothing is lost but the time that it took.
                if let Err(error) = record_end(request, RunStatus::Stopped, None, sat) {
                    tracing::warn!("{error:#}");
                }
                Ok(Ended::Stopped)
            }
            (None, None) => {
                let (reason, may_pass) = describe(status);
                let recorded = if may_pass { RunStatus::Stopped } else { RunStatus::Failed };
                record_end(request, recorded, Some(&reason), sat)?;
                Ok(if may_pass { Ended::CutOff(reason) } else { Ended::Failed(reason) })
            }
        }
    }
}

/// Writes a request into the folder of its stage run; its place.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_request(request: &StageRequest) -> Result<PathBuf> {
    create_dir(&request.dir)?;
    hand_in(&request.dir, REQUEST, &serde_json::to_vec_pretty(request)?)
}

/// Passes the child's progress on until it says how it ended, or its output ends without.
fn follow(
    child: &mut Child,
    lines: &Receiver<Line>,
    watched: &mut Watched,
    stop: &Stop,
    progress: &dyn Progress,
) -> Option<Ended> {
    let mut ended = None;
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(Line::Start { label, total, unit }) => progress.start(&label, total, &unit),
            Ok(Line::Update { done, message }) => progress.update(done, &message),
            Ok(Line::Finish { message }) => progress.finish(&message),
            Ok(Line::Ended { ended: how }) => ended = Some(how),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return ended,
        }
        let verdict = watched.look(stop.soon());
        if verdict != Verdict::Within {
            drop(child.stdin.take());
        }
        if stop.now() || verdict == Verdict::Kill {
            watched.was_killed = true;
            // It may have ended by itself just now; there is nothing else to do about it then.
            let _ = child.kill();
        }
    }
}

fn read_lines(told: impl Read, sender: &Sender<Line>) {
    for line in BufReader::new(told).lines() {
        let Ok(line) = line else { return };
        // A library that prints to the standard output must not break the conversation.
        if let Ok(line) = serde_json::from_str(&line)
            && sender.send(line).is_err()
        {
            return;
        }
    }
}

/// How a process ended that did not say so, and whether that may not happen again.
fn describe(status: ExitStatus) -> (String, bool) {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let reason = match signal {
            9 => "killed by signal 9: out of memory, or somebody's kill -9".into(),
            signal => format!("the process was killed by signal {signal}"),
        };
        return (reason, signal_may_pass(signal));
    }
    match status.code() {
        Some(code) => (format!("the process ended with exit code {code}"), false),
        None => ("the process ended without saying why".into(), false),
    }
}

/// The child's side: works on the request in a file; `false` where there is something left to do.
///
/// `stop` is set when the standard input ends, unless nobody holds it: a child that is `alone`, in a job that was queued
/// again so often, ends by a signal only, and tells its progress to its log.
///
/// # Errors
/// Where the request cannot be read, or the stage fails.
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
        // The thread is left waiting when the work is done first; the process ends with it.
        std::thread::spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            asked.store(true, std::sync::atomic::Ordering::SeqCst);
        });
    }
    let sit = |progress: &dyn Progress| {
        work(&request, body, stop, progress).unwrap_or_else(|error| Ended::of(&error))
    };
    let ended = if alone.is_some() {
        sit(Board::Lines.task(request.stage.name()).as_ref())
    } else {
        let teller = Teller::default();
        let ended = sit(&teller);
        teller.tell(&Line::Ended { ended: ended.clone() });
        ended
    };
    match ended {
        Ended::Done(_) => Ok(true),
        Ended::Stopped => {
            let reason = alone.map(|restarts| hopeless(&request, restarts)).transpose()?.flatten();
            let Some(reason) = reason else { return Ok(false) };
            record_end(&request, RunStatus::Failed, Some(&reason), Duration::ZERO)?;
            bail!(reason)
        }
        Ended::Busy => Ok(false),
        Ended::Failed(reason) | Ended::CutOff(reason) => bail!(reason),
    }
}

/// Tells progress as JSON lines on the standard output.
#[derive(Default)]
struct Teller {
    last_update: Mutex<Option<Instant>>,
}

impl Teller {
    fn tell(&self, line: &Line) {
        if let Ok(mut text) = serde_json::to_vec(line) {
            text.push(b'\n');
            let mut out = io::stdout().lock();
            // A parent that is gone is noticed by the standard input.
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
    }
}

impl Progress for Teller {
    fn start(&self, label: &str, total: u64, unit: &str) {
        self.tell(&Line::Start { label: label.into(), total, unit: unit.into() });
    }

    fn update(&self, done: u64, message: &str) {
        let mut last = self.last_update.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            *last = Some(Instant::now());
            self.tell(&Line::Update { done, message: message.into() });
        }
    }

    fn finish(&self, message: &str) {
        self.tell(&Line::Finish { message: message.into() });
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
            at: crate::config::At::default(),
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
        // It ended without saying how.
        assert!(matches!(ended, Ended::Failed(_)), "{ended:?}");
        let seen = fs::read_to_string(request.dir.join(format!("{REQUEST}.seen"))).unwrap();
        assert_eq!(seen.trim(), format!("{VERB} GPU-7"));
        assert_eq!(request.trial_config().unwrap().device, Device::Cuda(None));
    }
}
