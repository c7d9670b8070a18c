//! Fake stages and helpers for tests of the executors.
#![allow(clippy::unwrap_used)]

use super::gpus::Gpus;
use super::machine::Machine;
use super::pool::{Launch, Outcome, Stop, execute};
use super::worker::{AttemptOutcome, work};
use crate::config::{Stage, TrainStage, TrialConfig};
use crate::plan::StageGraph;
use crate::plan::testing::trial;
use crate::recipe::{StageBody, StageRequest};
use crate::runs::files::CHECKPOINTS;
use crate::runs::manifest::{Manifest, Results, RunStatus};
use crate::sweep::Trial;
use crate::track::{Board, Progress};
use anyhow::{Result, bail};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A stage body that records its runs, and fails or waits as configured.
#[derive(Default)]
pub struct Fake {
    /// Stage and seed of each run.
    pub ran: Mutex<Vec<(Stage, u64)>>,
    /// Stage and seed that fail.
    pub fail: Option<(Stage, u64)>,
    /// Stage and seed that panic.
    pub panic: Option<(Stage, u64)>,
    /// A stage that fails with a full disk, and how many times still.
    pub no_room: Mutex<Option<(Stage, u32)>>,
    /// A stage that works until it is asked to stop.
    pub wait_for_stop: Option<Stage>,
    /// The step of a checkpoint that each stage writes first.
    pub checkpoint: Mutex<Option<u64>>,
    /// How long each stage takes.
    pub takes: Duration,
    /// Stage and seed of each stage run that was tidied.
    pub tidied: Mutex<Vec<(Stage, u64)>>,
}

impl StageBody for Fake {
    fn run(
        &self,
        request: &StageRequest,
        config: &TrialConfig,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<Option<Results>> {
        let me = (request.stage, config.seed);
        self.ran.lock().unwrap().push(me);
        progress.start("pretending", 1, "steps");
        std::thread::sleep(self.takes);
        if let Some(step) = *self.checkpoint.lock().unwrap() {
            fs::write(request.dir.join(format!("{CHECKPOINTS}/step-{step:010}.ckpt")), "")?;
        }
        while self.wait_for_stop == Some(request.stage) {
            if stop.load(Ordering::SeqCst) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.fail == Some(me) {
            bail!("loss is not finite");
        }
        if let Some((stage, times)) = self.no_room.lock().unwrap().as_mut()
            && *stage == request.stage
            && *times > 0
        {
            *times -= 1;
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(anyhow::Error::from(full).context("metrics.csv: cannot be written"));
        }
        if self.panic == Some(me) {
            panic!("index out of bounds");
        }
        for dir in [&request.tokenizer, &request.data, &request.model].into_iter().flatten() {
            let manifest = Manifest::read(dir)?.unwrap();
            assert_eq!(manifest.status, RunStatus::Done);
        }
        fs::write(request.dir.join("result.txt"), request.stage.name())?;
        let exam = request.stage == Stage::Exam;
        Ok(Some(Results {
            tokens: if request.stage.training().is_some() { 10 } else { 0 },
            val_loss: (request.stage == Stage::Train(TrainStage::Pretrain)).then_some(2.5),
            correct: exam.then_some(3),
            questions: exam.then_some(4),
            ..Results::default()
        }))
    }

    fn tidy(&self, request: &StageRequest, config: &TrialConfig) -> Result<()> {
        self.tidied.lock().unwrap().push((request.stage, config.seed));
        Ok(())
    }
}

/// Works in this process instead of a child.
impl Launch for Fake {
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> AttemptOutcome {
        let asked = AtomicBool::new(false);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    asked.fetch_or(stop.is_requested(), Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let ended = work(request, self, &asked, progress).unwrap();
            over.store(true, Ordering::SeqCst);
            ended
        })
    }
}

impl Fake {
    /// How often a stage ran.
    pub fn count(&self, stage: Stage) -> usize {
        let ran = self.ran.lock().unwrap();
        ran.iter().filter(|(s, _)| *s == stage).count()
    }
}

/// Trials with these seeds.
pub fn seeds(seeds: &[u64]) -> Vec<Trial> {
    seeds.iter().map(|&seed| trial(|config| config.seed = seed)).collect()
}

/// A machine with two cores that runs two stage runs at a time.
pub fn two_cores() -> Machine {
    Machine::new(2, f64::INFINITY, Gpus::default(), Some(2), 2)
}

/// Works through a graph with a fake body.
pub fn run(graph: &StageGraph, body: &Fake) -> Outcome {
    execute(graph, two_cores(), 2, body, &Stop::default(), &Board::Silent).unwrap()
}
