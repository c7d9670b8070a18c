//! Runs a sweep or an experiment from its file to its report: `mindscale run` as a library.
//!
//! Input is a file, through [`Work::read`]; output is the [`Outcome`] of [`run`], and files in the folders of stage runs and of
//! results. *Invariant:* nothing starts before all errors that can be known in advance are reported.

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
use crate::plan::outline::outline;
use crate::plan::{PlannedTuning, StageGraph, StageNode, State};
use crate::recipe::Recipe;
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

/// Default number of stage runs at a time on each GPU.
pub const PER_GPU: usize = 1;

/// Default number of retries of a stage run that was cut off.
pub const RETRIES: u32 = 2;

/// How stage runs are executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executor {
    /// In processes on this machine.
    Local {
        /// Stage runs at a time; `None`: as many as cores and memory allow, and at most as many as trials.
        jobs: Option<usize>,
        /// Stage runs at a time on each GPU, as far as its memory has room; 0: as many as fit.
        per_gpu: usize,
        /// Limits on trials and stage runs.
        limits: Limits,
        /// How often a stage run that was cut off is retried.
        retries: u32,
    },
    /// As Slurm job arrays, with these options of `sbatch`.
    Slurm(Vec<String>),
}

impl Default for Executor {
    fn default() -> Self {
        Self::Local { jobs: None, per_gpu: PER_GPU, limits: Limits::default(), retries: RETRIES }
    }
}

/// Options for running a sweep or an experiment.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// How stage runs are executed.
    pub executor: Executor,
    /// Whether a report with more finished trials may be replaced by one with fewer.
    pub force: bool,
    /// The request to stop.
    pub stop: Arc<Stop>,
    /// Where progress is shown.
    pub board: Board,
}

/// The outcome of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The stage runs of the selected trials; those of tuned trials once their values were chosen.
    pub graph: StageGraph,
    /// Number of trials that the condition `--only` left out.
    pub left_out: usize,
    /// The outcome of the execution; `None` if everything was finished before.
    pub executed: Option<pool::Outcome>,
    /// What stages dropped, cut, skipped or reduced: each notice once, with its number of trials.
    pub notices: Vec<(String, usize)>,
    /// Path of the report.
    pub report: PathBuf,
    /// Why an earlier report, which shows more finished trials, was not replaced; `None` if the report was written.
    pub report_kept: Option<String>,
}

impl Outcome {
    /// Whether everything is finished and every tuning has chosen a value.
    pub fn is_complete(&self) -> bool {
        let is_complete = |executed: &pool::Outcome| executed.failed.is_empty() && !executed.stopped;
        self.executed.as_ref().is_none_or(is_complete) && self.untuned().next().is_none()
    }

    /// For each tuning that cannot choose a value, the reason.
    pub fn untuned(&self) -> impl Iterator<Item = String> {
        self.graph.tunings.iter().filter_map(PlannedTuning::problem)
    }
}

/// Trains, examines and reports every trial.
///
/// A failed trial does not make the call fail: the [`Outcome`] lists it.
///
/// # Errors
/// If there is an error that can be known before anything starts, or if a record or report cannot be written.
pub fn run(work: &Work, options: &RunOptions) -> Result<Outcome> {
    work.may_write()?;
    let planned = work.trials.iter().filter(|trial| !trial.is_candidate()).count();
    let shown = finished(&work.out).len();
    ensure!(
        options.force || planned >= shown,
        "{} shows {shown} finished trials, and this run has {planned} in all; write to another folder with --results DIR, or replace these results with --force{}",
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
        tidy_killed(&all, &options.board);
        work.end()?;
        // What the experiment shows may have changed.
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
        gpus.turns(jobs.unwrap_or(left).min(left)).iter().for_each(|line| options.board.line(line));
    }
    create_dir(&work.runs)?;
    let summary = match options.executor {
        Executor::Slurm(_) => outline(&graph.apart(), &work.runs)?,
        Executor::Local { .. } => outline(&graph, &work.runs)?,
    };
    options.board.line(&summary);
    work.detectable(&graph).iter().for_each(|detectable| options.board.line(&detectable.sentence()));
    let (all, graph, executed) = execute(work, all, graph, gpus, options)?;
    // By the names of this run: its data may have changed meanwhile.
    let ended = all.refreshed();
    tidy_killed(&ended, &options.board);
    work.end()?;
    let report_kept = write_report(work, &all, options.force)?;
    let notices = notices(&collect(&work.chosen(ended)?)?);
    Ok(Outcome { graph, left_out, executed: Some(executed), notices, report, report_kept })
}

/// Removes what killed processes left in finished stage runs; what cannot be removed is reported, and stays until the next run.
fn tidy_killed(graph: &StageGraph, board: &Board) {
    if let Err(error) = pool::tidy_killed(graph, &Recipe) {
        board.line(&format!("{error:#}"));
    }
}

/// Cancels the Slurm jobs of a sweep; returns their names.
///
/// # Errors
/// If Slurm is not available or refuses.
pub fn cancel(work: &Work) -> Result<Vec<String>> {
    slurm::cancel(&work.look()?(work)?)
}

/// Number of different trials of the study in a graph: a trial of several sweeps counts once.
fn distinct(graph: &StageGraph) -> usize {
    graph.study().map(|planned| planned.uuid).collect::<BTreeSet<_>>().len()
}

/// Executes a graph. If trials are tuned, repeats that with the remaining stage runs whenever a tuning has progressed.
///
/// `all` is the graph of the whole sweep, which is recorded; `graph` is the part to execute now. Returns both as they are
/// planned at the end, with the outcome of the part.
fn execute(
    work: &Work,
    mut all: StageGraph,
    mut graph: StageGraph,
    gpus: Gpus,
    options: &RunOptions,
) -> Result<(StageGraph, StageGraph, pool::Outcome)> {
    let mut outcome = pool::Outcome::default();
    let unneeded_before = unneeded(&graph);
    loop {
        work.begin(&all)?;
        let executed = match &options.executor {
            Executor::Slurm(sbatch) => slurm::execute(&graph.apart(), sbatch, &options.stop, &options.board)?,
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
        // A failed candidate has served its purpose: its value counts as the worst.
        let counts = |node: &usize| !matches!(next.nodes[*node].state, State::Lost(_));
        let dropped = unneeded(&graph).saturating_sub(unneeded_before);
        outcome.add(executed, dropped, |node| next.find(graph.nodes[node].uuid).filter(counts));
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

/// Number of stage runs that are neither finished nor to be run.
fn unneeded(graph: &StageGraph) -> usize {
    let is_unneeded = |node: &&StageNode| matches!(node.state, State::Unneeded | State::Lost(_));
    graph.nodes.iter().filter(is_unneeded).count()
}

/// The GPUs that the trials share, after checking that each trial's device exists.
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
            "device = \"{device}\": nvidia-smi and {VISIBLE} list {} here; set {VISIBLE}, or --set device=cpu",
            counted(gpus.count(), "GPU")
        );
    }
    Ok(gpus)
}
