//! The verbs over sweeps and experiments: run, plan, status, report.

use super::work::{Layers, Work, note};
use super::{Executor, HowArgs, SweepArgs, say};
use crate::config::TrainStage;
use crate::exam::Questions;
use crate::records::{Status, TrialRecord};
use crate::report::{Experiment, TrialQuestion};
use crate::run::child::{Processes, stage_run as sit};
use crate::run::extents::extents;
use crate::run::gpus::{Gpus, VISIBLE};
use crate::run::graph::{StageGraph, State, explain};
use crate::run::limits::Limits;
use crate::run::machine::Machine;
use crate::run::manifest::questions;
use crate::run::pool::{Outcome, Stop, execute};
use crate::run::recorded::{fewer, finished};
use crate::run::records::collect;
use crate::run::stage::Stage;
use crate::run::stages::Recipe;
use crate::run::{files::create_dir, files::shell_word, pool, slurm};
use crate::sweep::{Detectable, Trial};
use crate::track::{Board, counted};
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Trains, examines and reports every trial.
pub fn run(args: &SweepArgs, force: bool, jobs: Option<usize>, how: &HowArgs) -> Result<bool> {
    let has_limits = how.time_limit.is_some() || how.memory_limit.is_some();
    ensure!(
        how.executor == Executor::Local || !has_limits,
        "--time-limit and --memory-limit are kept by the local executor; Slurm's jobs have slurm.time and slurm.memory, as in --set slurm.time=2:00:00"
    );
    let work = Work::read(&args.file, &args.with, Layers::Given)?;
    work.may_write()?;
    let (planned, shown) = (work.trials.len(), finished(&work.out).len());
    ensure!(
        force || planned >= shown,
        "{} shows {shown} finished trials, and this run has {planned} in all; keep its results elsewhere with --results DIR, or --force to replace what is shown there{}",
        work.out.display(),
        work.other_layers().map_or(String::new(), |other| format!(" ({other})"))
    );
    let graph = work.graph()?;
    graph.check()?;
    if graph.is_finished() && work.out.join("report.html").is_file() {
        work.begin(&graph)?;
        work.end()?;
        // What the experiment asks to be shown may have changed.
        write_report(&work, &work.graph()?, true)?;
        // A trial that several sweeps hold is one.
        let all = match graph.trials.iter().map(|trial| trial.uuid).collect::<BTreeSet<_>>().len() {
            1 => "its trial is finished".into(),
            n => format!("all {n} trials are finished"),
        };
        say(format!("{}: {all}; see {}", work.name, work.out.join("report.html").display()))?;
        return Ok(true);
    }
    let gpus = match how.executor {
        Executor::Local => gpus(&work.trials, how.per_gpu)?,
        Executor::Slurm => Gpus::default(),
    };
    create_dir(&work.runs)?;
    create_dir(&args.with.results)?;
    work.begin(&graph)?;
    let stop = Arc::new(Stop::default());
    let board = Board::for_stderr();
    let (asked, told) = (Arc::clone(&stop), board.clone());
    ctrlc::set_handler(move || {
        asked.ask();
        told.line(match asked.now() {
            true => "stopping at once",
            false => {
                "stopping: trainings finish their step and write a checkpoint, other stages are given up; again to stop at once"
            }
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
    work.end()?;
    // By the names of this run: its data may have changed meanwhile.
    let kept = write_report(&work, &graph.looked_at_again(), force)?;
    conclude(&work, &graph, &outcome, kept.as_deref(), args)
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

/// Tells what came of a run; `kept` says why an earlier report was left as it is.
fn conclude(
    work: &Work,
    graph: &StageGraph,
    outcome: &Outcome,
    kept: Option<&str>,
    args: &SweepArgs,
) -> Result<bool> {
    let report = work.out.join("report.html");
    if args.with.json {
        let failed: Vec<_> = outcome
            .failed
            .iter()
            .map(|f| serde_json::json!({ "stage": graph.nodes[f.node].short(), "reason": f.reason }))
            .collect();
        say(serde_json::json!({
            "name": work.name, "trials": graph.trials.len(), "ran": outcome.ran, "found": outcome.found,
            "failed": failed, "stopped": outcome.stopped, "report": report, "report_kept": kept,
        }))?;
    } else {
        let ran = counted(outcome.ran, "stage run");
        say(format!("{}: {ran} done here, {} found done", work.name, outcome.found))?;
        for pool::Failure { node, reason } in &outcome.failed {
            let node = &graph.nodes[*node];
            say(format!("failed: {} ({}): {reason}", node.short(), graph.trials[node.trials[0]].label()))?;
        }
        if outcome.stopped {
            let given: Vec<String> = std::env::args().skip(1).map(|word| shell_word(&word)).collect();
            say(format!("stopped; go on with: mindscale {}", given.join(" ")))?;
        }
        match kept {
            Some(why) => say(format!("the report is not written: {why}"))?,
            None => say(format!("report: {}", report.display()))?,
        }
    }
    Ok(outcome.failed.is_empty() && !outcome.stopped)
}

/// Shows the trials and the stage graph.
pub fn plan(args: &SweepArgs, explained: bool) -> Result<bool> {
    let work = Work::read(&args.file, &args.with, Layers::Given)?;
    if let Some(other) = work.other_layers() {
        note(&format!(
            "{other}; this is the plan {}",
            if args.with.has_layers() { "with those given" } else { "without" }
        ));
    }
    let graph = work.graph()?;
    graph.check()?;
    let extents = extents(&graph);
    let known = |trial: usize, stage: TrainStage| {
        let mut stages = graph.trials[trial].stages.iter();
        stages.find(|&&node| graph.nodes[node].stage() == stage.into()).and_then(|&node| extents[node])
    };
    let rows = crate::sweep::plan(&work.trials, known);
    let examined = work.trials.iter().find(|trial| trial.config.exam.enabled);
    let questions = examined.and_then(|trial| Some(Questions::of(&trial.config).ok()?.count()));
    let detectable = Detectable::of(&work.trials, questions);
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
        say(serde_json::json!({
            "trials": rows, "stages": stages.collect::<Vec<_>>(), "detectable": detectable,
        }))?;
        return Ok(true);
    }
    say(crate::sweep::render_table(&rows))?;
    if let Some(detectable) = detectable {
        say(format!("{}\n", detectable.sentence()))?;
    }
    for node in &graph.nodes {
        let why = if explained && node.state.is_open() { explain(node, &work.runs) } else { None };
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        say(format!(
            "{:<24} for {}: {}{why}",
            node.short(),
            counted(node.trials.len(), "trial"),
            state(node)
        ))?;
    }
    Ok(true)
}

/// Writes the report from recorded runs.
pub fn report(args: &SweepArgs, force: bool) -> Result<bool> {
    let work = Work::read(&args.file, &args.with, Layers::Last)?;
    work.may_write()?;
    if let Some(why) = write_report(&work, &work.recorded_graph()?, force)? {
        bail!(why);
    }
    work.own()?;
    say(work.out.join("report.html").display())?;
    Ok(true)
}

/// Writes the report of a graph as it stands; why not, where a better one is there and nobody forces it.
fn write_report(work: &Work, graph: &StageGraph, force: bool) -> Result<Option<String>> {
    let mut records = collect(graph)?;
    let answers = answers(graph, &mut records);
    let standing: BTreeMap<_, _> = records.iter().map(|record| (record.trial, record.status)).collect();
    if let Some((shown, new)) = fewer(&work.out, &standing).filter(|_| !force) {
        return Ok(Some(format!(
            "{} shows {shown} finished trials, and this report would show {new} of {}{}; keep it elsewhere with --results DIR, or --force to replace what is shown there",
            work.out.display(),
            records.len(),
            work.other_layers().map_or(String::new(), |other| format!(" ({other})"))
        )));
    }
    let for_sweep = || Experiment::for_sweep(&work.name, &records);
    let experiment = work.experiment.clone().unwrap_or_else(for_sweep);
    crate::report::write(&experiment, &records, &answers, &work.out)?;
    Ok(None)
}

/// What was answered in all exams; a trial whose answers cannot be read has failed.
fn answers(graph: &StageGraph, records: &mut [TrialRecord]) -> Vec<TrialQuestion> {
    let mut found = Vec::new();
    // A trial that several sweeps hold has one record, and answers once.
    let planned: BTreeMap<_, _> = graph.trials.iter().map(|planned| (planned.uuid, planned)).collect();
    for record in records {
        let Some(planned) = planned.get(&record.trial) else { continue };
        for node in planned.stages.iter().map(|&index| &graph.nodes[index]) {
            if node.stage() != Stage::Exam || node.state != State::Done {
                continue;
            }
            let stage = node.model.map_or("", |m| graph.nodes[m].stage().name());
            match questions(&node.dir) {
                Ok(answered) => found.extend(answered.into_iter().map(|record| TrialQuestion {
                    trial: planned.uuid,
                    stage: stage.into(),
                    record,
                })),
                Err(error) => {
                    (record.status, record.reason) = (Status::Failed, Some(format!("exam: {error:#}")));
                    record.exams.retain(|exam| exam.stage != stage);
                }
            }
        }
    }
    found
}

/// The child's side of a stage run; one that is alone and has something left to do asks to be queued again.
pub fn stage_run(request: &Path, alone: bool) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).context("signals cannot be caught")?;
    let is_over = sit(request, alone.then(slurm::restarts), &Recipe, &stop)?;
    Ok(if alone && !is_over { ExitCode::from(slurm::AGAIN) } else { ExitCode::SUCCESS })
}

/// Takes a sweep's jobs out of Slurm's queue.
pub fn cancel(args: &SweepArgs) -> Result<bool> {
    let work = Work::read(&args.file, &args.with, Layers::Last)?;
    let graph = work.look()?;
    let jobs = slurm::cancel(&graph(&work)?)?;
    match args.with.json {
        true => say(serde_json::json!({ "cancelled": jobs }))?,
        false => say(format!("{}: {} jobs cancelled", work.name, jobs.len()))?,
    }
    Ok(true)
}
