//! The verbs over sweeps and experiments: run, plan, status, report.

use super::{Executor, HowArgs, ReadArgs, SweepArgs, say};
use crate::config::Overrides;
use crate::report::{Experiment, TrialQuestion};
use crate::run::child::{Processes, stage_run as work};
use crate::run::gpus::{Gpus, VISIBLE};
use crate::run::graph::{StageGraph, State, explain};
use crate::run::limits::Limits;
use crate::run::machine::Machine;
use crate::run::pool::{Outcome, Stop, execute};
use crate::run::records::collect;
use crate::run::stage::Stage;
use crate::run::stages::Recipe;
use crate::run::{files::create_dir, files::shell_word, pool, slurm};
use crate::sweep::{Sweep, Trial};
use crate::track::Board;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A sweep or an experiment, expanded.
pub(super) struct Work {
    /// The experiment; `None` where a sweep was named.
    experiment: Option<Experiment>,
    name: String,
    pub(super) trials: Vec<Trial>,
}

impl Work {
    /// Reads and expands one file.
    pub(super) fn read(file: &Path, with: &ReadArgs) -> Result<Self> {
        let overrides = Overrides::from_env(with.preset.clone(), with.set.clone());
        let experiment = Experiment::read_if_experiment(file)?;
        let files = experiment.as_ref().map_or_else(|| vec![file.to_path_buf()], |e| e.sweeps.clone());
        let (mut trials, mut name) = (vec![], String::new());
        for file in &files {
            let sweep = Sweep::read(file, &overrides)?;
            trials.extend(sweep.expand()?);
            name = sweep.name;
        }
        if experiment.is_some() {
            name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        }
        Ok(Self { experiment, name, trials })
    }

    /// The graph of stage runs, once what the experiment asks for is known to fit its trials.
    fn graph(&self, runs: &Path) -> Result<StageGraph> {
        let graph = StageGraph::plan(&self.trials, runs)?;
        if let Some(experiment) = &self.experiment {
            experiment.check(&collect(&graph)?)?;
        }
        Ok(graph)
    }
}

/// Trains, examines and reports every trial.
pub fn run(args: &SweepArgs, results: &Path, jobs: Option<usize>, how: &HowArgs) -> Result<bool> {
    let sweep = Work::read(&args.file, &args.with)?;
    let graph = sweep.graph(&args.with.runs)?;
    let out = results.join(&sweep.name);
    if graph.is_finished() && out.join("report.html").is_file() {
        // What the experiment asks to be shown may have changed.
        write_report(&sweep, &args.with.runs, &out)?;
        say(format!(
            "{}: all {} trials are finished; see {}",
            sweep.name,
            graph.trials.len(),
            out.join("report.html").display()
        ))?;
        return Ok(true);
    }
    let gpus = match how.executor {
        Executor::Local => gpus(&sweep.trials, how.per_gpu)?,
        Executor::Slurm => Gpus::default(),
    };
    create_dir(&args.with.runs)?;
    create_dir(results)?;
    let stop = Arc::new(Stop::default());
    let board = Board::for_stderr();
    let (asked, told) = (Arc::clone(&stop), board.clone());
    ctrlc::set_handler(move || {
        asked.ask();
        told.line(match asked.now() {
            true => "stopping at once",
            false => "finishing the step, then a checkpoint; again to stop at once",
        });
    })
    .context("Ctrl-C cannot be caught")?;
    let outcome = match how.executor {
        Executor::Slurm => slurm::execute(&graph, &how.sbatch, &stop, &board)?,
        Executor::Local => {
            let limits = Limits { time: how.time_limit, memory: how.memory_limit };
            let children = Processes::of_this_program(limits)?;
            let machine = Machine::this(gpus, jobs, graph.trials.len());
            execute(&graph, machine, how.retries, &children, &stop, &board)?
        }
    };
    write_report(&sweep, &args.with.runs, &out)?;
    conclude(&sweep, &graph, &outcome, &out, args)
}

/// The GPUs that the trials will share, once it is known that each finds one that it can use.
fn gpus(trials: &[Trial], per_gpu: usize) -> Result<Gpus> {
    if trials.iter().all(|trial| trial.config.device == "cpu") {
        return Ok(Gpus::default());
    }
    ensure!(
        cfg!(feature = "cuda"),
        "device = \"cuda\": this program was built without CUDA; build it with --features cuda, or --set device=cpu"
    );
    let gpus = Gpus::of_this_machine(per_gpu);
    for trial in trials {
        let device = &trial.config.device;
        ensure!(
            gpus.have(device),
            "device = \"{device}\": nvidia-smi and {VISIBLE} name {} GPUs here; set {VISIBLE}, or --set device=cpu",
            gpus.count()
        );
    }
    Ok(gpus)
}

fn conclude(
    sweep: &Work,
    graph: &StageGraph,
    outcome: &Outcome,
    out: &Path,
    args: &SweepArgs,
) -> Result<bool> {
    if args.with.json {
        let failed: Vec<_> = outcome
            .failed
            .iter()
            .map(|f| serde_json::json!({ "stage": graph.nodes[f.node].short(), "reason": f.reason }))
            .collect();
        say(serde_json::json!({
            "name": sweep.name, "trials": graph.trials.len(), "ran": outcome.ran, "found": outcome.found,
            "failed": failed, "stopped": outcome.stopped, "report": out.join("report.html"),
        }))?;
    } else {
        say(format!("{}: {} stage runs done here, {} found done", sweep.name, outcome.ran, outcome.found))?;
        for pool::Failure { node, reason } in &outcome.failed {
            let node = &graph.nodes[*node];
            say(format!("failed: {} ({}): {reason}", node.short(), graph.trials[node.trials[0]].label()))?;
        }
        if outcome.stopped {
            let given: Vec<String> = std::env::args().skip(1).map(|word| shell_word(&word)).collect();
            say(format!("stopped; go on with: mindscale {}", given.join(" ")))?;
        }
        say(format!("report: {}", out.join("report.html").display()))?;
    }
    Ok(outcome.failed.is_empty() && !outcome.stopped)
}

/// Shows the trials and the stage graph.
pub fn plan(args: &SweepArgs, explained: bool) -> Result<bool> {
    let sweep = Work::read(&args.file, &args.with)?;
    let rows = crate::sweep::plan(&sweep.trials);
    let graph = sweep.graph(&args.with.runs)?;
    let state = |node: &crate::run::graph::StageNode| match &node.state {
        State::Done => "done".to_string(),
        State::Spare => "not needed".into(),
        State::Fresh => "to run".into(),
        State::Unfinished => "to go on".into(),
        State::Again(reason) => format!("to run again: {reason}"),
        State::Running(owner) => format!("running: {owner}"),
    };
    if args.with.json {
        let stages = graph.nodes.iter().map(|n| {
            serde_json::json!({ "stage": n.short(), "trials": n.trials.len(), "state": state(n), "dir": n.dir })
        });
        say(serde_json::json!({ "trials": rows, "stages": stages.collect::<Vec<_>>() }))?;
        return Ok(true);
    }
    say(crate::sweep::render_table(&rows))?;
    for node in &graph.nodes {
        let why = if explained && node.state.is_open() { explain(node, &args.with.runs) } else { None };
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        say(format!("{:<24} for {} trials: {}{why}", node.short(), node.trials.len(), state(node)))?;
    }
    Ok(true)
}

/// Writes the report from recorded runs.
pub fn report(args: &SweepArgs, results: &Path) -> Result<bool> {
    let sweep = Work::read(&args.file, &args.with)?;
    let out = results.join(&sweep.name);
    write_report(&sweep, &args.with.runs, &out)?;
    say(out.join("report.html").display())?;
    Ok(true)
}

fn write_report(sweep: &Work, runs: &Path, out: &Path) -> Result<()> {
    // Planned again: what ran meanwhile is done now.
    let graph = sweep.graph(runs)?;
    let records = collect(&graph)?;
    let mut questions = vec![];
    for planned in &graph.trials {
        for &index in &planned.stages {
            let node = &graph.nodes[index];
            if node.stage() != Stage::Exam || node.state != State::Done {
                continue;
            }
            let path = node.dir.join("questions.json");
            let text = std::fs::read(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
            let answered: Vec<crate::records::QuestionRecord> =
                serde_json::from_slice(&text).with_context(|| format!("{}: is damaged", path.display()))?;
            let stage = node.model.map_or("", |m| graph.nodes[m].stage().name());
            questions.extend(answered.into_iter().map(|record| TrialQuestion {
                trial: planned.uuid,
                stage: stage.into(),
                record,
            }));
        }
    }
    let experiment = sweep.experiment.clone().unwrap_or_else(|| Experiment::for_sweep(&sweep.name, &records));
    crate::report::write(&experiment, &records, &questions, out)
}

/// The child's side of a stage run; one that is alone and has something left to do asks to be queued again.
pub fn stage_run(request: &Path, alone: bool) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).context("signals cannot be caught")?;
    let is_over = work(request, alone, &Recipe, &stop)?;
    Ok(if alone && !is_over { ExitCode::from(slurm::AGAIN) } else { ExitCode::SUCCESS })
}

/// Takes a sweep's jobs out of Slurm's queue.
pub fn cancel(args: &SweepArgs) -> Result<bool> {
    let sweep = Work::read(&args.file, &args.with)?;
    let jobs = slurm::cancel(&StageGraph::plan(&sweep.trials, &args.with.runs)?)?;
    match args.with.json {
        true => say(serde_json::json!({ "cancelled": jobs }))?,
        false => say(format!("{}: {} jobs cancelled", sweep.name, jobs.len()))?,
    }
    Ok(true)
}
