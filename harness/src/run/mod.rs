//! A sweep or an experiment from its file to its report: what `mindscale run` does, for programs.
//!
//! A file flows in through [`Work::read`], an [`Outcome`] flows out of [`run`]; what is kept is in the folders of stage
//! runs and of results. *Invariant:* nothing is started before everything that can be known to be wrong is known.

mod report;
mod work;

#[cfg(test)]
mod tests;

pub use report::write as write_report;
pub use work::{Layers, ReadOptions, Work};

use crate::execute::child::Processes;
use crate::execute::gpus::{Gpus, VISIBLE};
use crate::execute::limits::Limits;
use crate::execute::machine::Machine;
use crate::execute::pool::{self, Stop};
use crate::execute::slurm;
use crate::fsutil::create_dir;
use crate::plan::{PlannedTuning, StageGraph, State};
use crate::records::notices;
use crate::runs::recorded::finished;
use crate::status::records::collect;
use crate::sweep::Trial;
use crate::track::{Board, counted};
use anyhow::{Result, ensure};
use model::Device;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Stage runs at a time on each GPU where nothing says otherwise.
pub const PER_GPU: usize = 1;

/// How often a stage run that was cut off is tried again where nothing says otherwise.
pub const RETRIES: u32 = 2;

/// Where stage runs are worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executor {
    /// In processes on this machine.
    Local {
        /// Stage runs at a time; `None`: as many as cores and memory allow, at most as many as trials.
        jobs: Option<usize>,
        /// Stage runs at a time on each GPU, as far as its memory has room; 0 is as many as there is room for.
        per_gpu: usize,
        /// Bounds on trials.
        limits: Limits,
        /// How often a stage run is tried again that was cut off.
        retries: u32,
    },
    /// As job arrays of Slurm, with these options of `sbatch`.
    Slurm(Vec<String>),
}

impl Default for Executor {
    fn default() -> Self {
        Self::Local { jobs: None, per_gpu: PER_GPU, limits: Limits::default(), retries: RETRIES }
    }
}

/// How a sweep or an experiment is run.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// Who works.
    pub executor: Executor,
    /// Whether results that show more finished trials may be replaced by these, which show fewer.
    pub force: bool,
    /// The wish to stop.
    pub stop: Arc<Stop>,
    /// Where progress is shown.
    pub board: Board,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The stage runs of the trials that were to be worked on, those of tuned trials once their values were chosen.
    pub graph: StageGraph,
    /// Trials that were left out, by the condition on those that were wanted.
    pub left_out: usize,
    /// What came of them; `None` where everything was finished before.
    pub executed: Option<pool::Outcome>,
    /// What stages dropped, cut, skipped or reduced, each once, with the number of trials that it is of.
    pub notices: Vec<(String, usize)>,
    /// The report.
    pub report: PathBuf,
    /// Why an earlier report, which shows more, was left as it is.
    pub report_kept: Option<String>,
}

impl Outcome {
    /// Whether everything is finished.
    pub fn is_complete(&self) -> bool {
        let is_complete = |executed: &pool::Outcome| executed.failed.is_empty() && !executed.stopped;
        self.executed.as_ref().is_none_or(is_complete) && self.untuned().next().is_none()
    }

    /// Why values were not chosen that trials wait for.
    pub fn untuned(&self) -> impl Iterator<Item = String> {
        self.graph.tunings.iter().filter_map(PlannedTuning::problem)
    }
}

/// Trains, examines and reports every trial.
///
/// A trial that fails is part of the [`Outcome`].
///
/// # Errors
/// Where something is wrong that can be known before anything starts, or a record or report cannot be written.
pub fn run(work: &Work, options: &RunOptions) -> Result<Outcome> {
    work.may_write()?;
    let planned = work.trials.iter().filter(|trial| !trial.is_candidate()).count();
    let shown = finished(&work.out).len();
    ensure!(
        options.force || planned >= shown,
        "{} shows {shown} finished trials, and this run has {planned} in all; keep its results elsewhere with --results DIR, or --force to replace what is shown there{}",
        work.out.display(),
        work.other_layers().map_or(String::new(), |other| format!(" ({other})"))
    );
    let all = work.graph()?;
    let graph = work.chosen(all.clone())?;
    let left_out = distinct(&all) - distinct(&graph);
    graph.check()?;
    let report = work.out.join("report.html");
    if graph.is_finished() && report.is_file() {
        work.begin(&all)?;
        work.end()?;
        // What the experiment asks to be shown may have changed.
        let report_kept = write_report(work, &all, options.force || all.is_finished())?;
        let notices = notices(&collect(&graph)?);
        return Ok(Outcome { graph, left_out, executed: None, notices, report, report_kept });
    }
    let gpus = match &options.executor {
        Executor::Local { per_gpu, .. } => gpus(graph.trials.iter().map(|planned| &planned.trial), *per_gpu)?,
        Executor::Slurm(_) => Gpus::default(),
    };
    if let Executor::Local { jobs, .. } = &options.executor {
        let left = graph.trials.iter().filter(|planned| graph.is_left(planned)).count();
        gpus.turns(jobs.unwrap_or(left).min(left)).iter().for_each(|told| options.board.line(told));
    }
    create_dir(&work.runs)?;
    let (all, graph, executed) = execute(work, all, graph, gpus, options)?;
    work.end()?;
    // By the names of this run: its data may have changed meanwhile.
    let report_kept = write_report(work, &all, options.force)?;
    let notices = notices(&collect(&work.chosen(all.looked_at_again())?)?);
    Ok(Outcome { graph, left_out, executed: Some(executed), notices, report, report_kept })
}

/// Takes the jobs of a sweep out of Slurm's queue; their names.
///
/// # Errors
/// Where Slurm is not there, or refuses.
pub fn cancel(work: &Work) -> Result<Vec<String>> {
    slurm::cancel(&work.look()?(work)?)
}

/// The trials of the study in a graph: one that several sweeps hold counts once.
fn distinct(graph: &StageGraph) -> usize {
    graph.study().map(|planned| planned.uuid).collect::<BTreeSet<_>>().len()
}

/// Works through a graph; where trials are tuned, again through what is left once values are chosen.
///
/// The record is of the whole sweep, `all`, of which a part may be worked on now and the rest another time: `graph`. Both are
/// given back as they are planned at the end, with what came of the part.
fn execute(
    work: &Work,
    mut all: StageGraph,
    mut graph: StageGraph,
    gpus: Gpus,
    options: &RunOptions,
) -> Result<(StageGraph, StageGraph, pool::Outcome)> {
    let mut outcome = pool::Outcome::default();
    for round in 0.. {
        work.begin(&all)?;
        let executed = match &options.executor {
            Executor::Slurm(sbatch) => slurm::execute(&graph, sbatch, &options.stop, &options.board)?,
            Executor::Local { jobs, limits, retries, .. } => {
                let children = Processes::of_this_program(*limits)?;
                let machine = Machine::this(gpus.clone(), *jobs, graph.trials.len());
                pool::execute(&graph, machine, *retries, &children, &options.stop, &options.board)?
            }
        };
        if graph.tunings.is_empty() {
            return Ok((all, graph, executed));
        }
        all = work.graph()?;
        let mut next = work.chosen(all.clone())?;
        // A candidate that fails has told what it is for.
        let counts = |node: &usize| !matches!(next.nodes[*node].state, State::Lost(_));
        outcome.add(executed, round == 0, |node| next.find(graph.nodes[node].uuid).filter(counts));
        for &node in outcome.failed.iter().map(|failure| &failure.node).chain(&outcome.blocked) {
            // Not again in this run.
            next.nodes[node].state = State::Held;
        }
        let standings = graph.tunings.iter().zip(&next.tunings);
        let moved: Vec<_> = standings.filter(|(before, now)| before.standing != now.standing).collect();
        moved.iter().for_each(|(_, now)| options.board.line(&now.sentence()));
        let is_over = outcome.stopped || moved.is_empty();
        graph = next;
        if is_over {
            break;
        }
    }
    Ok((all, graph, outcome))
}

/// The GPUs that the trials will share, once it is known that each finds one that it can use.
fn gpus<'a>(trials: impl Iterator<Item = &'a Trial> + Clone, per_gpu: usize) -> Result<Gpus> {
    if trials.clone().all(|trial| trial.config.device == Device::Cpu) {
        return Ok(Gpus::default());
    }
    ensure!(
        cfg!(any(feature = "cuda", feature = "emulate")),
        "device = \"cuda\": this program was built without CUDA; build it with --features cuda, or --set device=cpu"
    );
    let gpus = Gpus::of_this_machine(per_gpu);
    for trial in trials {
        let device = trial.config.device;
        ensure!(
            gpus.have(device),
            "device = \"{device}\": nvidia-smi and {VISIBLE} name {} here; set {VISIBLE}, or --set device=cpu",
            counted(gpus.count(), "GPU")
        );
    }
    Ok(gpus)
}
