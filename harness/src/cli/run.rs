//! The verb `run`: trains, examines and reports every trial.

use super::{ExecutorArg, HowArgs, OnlyArg, SweepArgs, say};
use crate::execute::limits::Limits;
use crate::execute::pool::{Failure, Stop};
use crate::fsutil::shell_word;
use crate::plan::StageNode;
use crate::run::{self, Executor, Layers, Outcome, RunOptions, Work};
use crate::track::{Board, counted};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Maximum number of notices printed at the end.
const NOTICES: usize = 20;

/// Trains, examines and reports every trial.
pub fn run(args: &SweepArgs, only: &OnlyArg, force: bool, how: &HowArgs) -> Result<bool> {
    let executor = executor(how)?;
    let work = args.read_only(Layers::Given, only)?;
    let stopping = stopping(&executor, &args.file.display().to_string());
    let options = RunOptions { executor, force, board: Board::for_stderr(), stop: Arc::default() };
    stop_on_ctrl_c(&options, stopping)?;
    let outcome = run::run(&work, &options)?;
    match args.with.json {
        true => print_json(&work, &outcome)?,
        false => print(&work, &outcome)?,
    }
    Ok(outcome.is_complete())
}

fn executor(how: &HowArgs) -> Result<Executor> {
    let HowArgs { jobs, time_limit, memory_limit, per_gpu, retries, ref sbatch, .. } = *how;
    let has_limits = time_limit.is_some() || memory_limit.is_some();
    match how.executor {
        ExecutorArg::Local => {
            ensure!(sbatch.is_empty(), "--sbatch needs --executor slurm");
            let (per_gpu, retries) = (per_gpu.unwrap_or(run::PER_GPU), retries.unwrap_or(run::RETRIES));
            let limits = Limits { time: time_limit, memory: memory_limit };
            Ok(Executor::Local { jobs, per_gpu, limits, retries })
        }
        ExecutorArg::Slurm => {
            ensure!(
                !has_limits,
                "--time-limit and --memory-limit apply to the local executor only; for Slurm jobs set slurm.time and slurm.memory, as in --set slurm.time=2:00:00"
            );
            ensure!(
                jobs.is_none() && per_gpu.is_none() && retries.is_none(),
                "--jobs, --per-gpu and --retries apply to the local executor only; the number of concurrent Slurm jobs is slurm.at_once, as in --set slurm.at_once=4"
            );
            Ok(Executor::Slurm(sbatch.clone()))
        }
    }
}

/// Returns the message for the first Ctrl-C, which says what stopping means.
fn stopping(executor: &Executor, file: &str) -> String {
    match executor {
        Executor::Local { .. } => "stopping: trainings finish their step and write a checkpoint, other stages are aborted; press Ctrl-C again to stop at once".into(),
        Executor::Slurm(_) => format!(
            "stopping: Slurm jobs keep running, and the same command follows them again; cancel them with: mindscale cancel {}",
            shell_word(file)
        ),
    }
}

fn stop_on_ctrl_c(options: &RunOptions, stopping: String) -> Result<()> {
    let (stop, board): (Arc<Stop>, Board) = (Arc::clone(&options.stop), options.board.clone());
    ctrlc::set_handler(move || {
        stop.request();
        board.line(if stop.is_immediate() { "stopping at once" } else { &stopping });
    })
    .context("Ctrl-C cannot be caught")
}

fn print_json(work: &Work, outcome: &Outcome) -> Result<()> {
    let Outcome { graph, left_out, executed, notices, report, report_kept } = outcome;
    let executed = executed.clone().unwrap_or_default();
    let failed = executed
        .failed
        .iter()
        .map(|f| serde_json::json!({ "stage": graph.nodes[f.node].short(), "reason": f.reason }));
    say(serde_json::json!({
        "name": work.name, "trials": graph.study().count(), "left_out": left_out, "untuned": outcome.untuned().collect::<Vec<_>>(),
        "ran": executed.ran, "found": executed.found, "failed": failed.collect::<Vec<_>>(), "stopped": executed.stopped,
        "notices": notices, "report": report, "report_kept": report_kept,
    }))
}

fn print(work: &Work, outcome: &Outcome) -> Result<()> {
    let Outcome { graph, left_out, executed, notices, report, report_kept } = outcome;
    if !notices.is_empty() {
        say("noticed:")?;
    }
    for (text, trials) in notices.iter().take(NOTICES) {
        say(format!("  {text} ({})", counted(*trials, "trial")))?;
    }
    if let Some(more) = notices.len().checked_sub(NOTICES).filter(|more| *more > 0) {
        say(format!("  and {more} more, in the report"))?;
    }
    if let Some(only) = work.only.as_ref().filter(|_| *left_out > 0) {
        say(format!("{} left out by --only {}", counted(*left_out, "trial"), shell_word(only)))?;
    }
    let Some(executed) = executed else {
        // A trial of several sweeps counts once.
        let all = match graph.study().map(|trial| trial.uuid).collect::<BTreeSet<_>>().len() {
            1 => "its trial is finished".into(),
            n if *left_out == 0 => format!("all {n} trials are finished"),
            n => format!("these {n} trials are finished"),
        };
        return match report_kept {
            Some(why) => say(format!("{}: {all}; the report is not written: {why}", work.name)),
            None => say(format!("{}: {all}; see {}", work.name, report.display())),
        };
    };
    let ran = counted(executed.ran, "stage run");
    say(format!("{}: {ran} done here, {} already done", work.name, executed.found))?;
    let mut failed: Vec<(&str, Vec<&StageNode>)> = vec![];
    for Failure { node, reason } in &executed.failed {
        match failed.iter_mut().find(|(other, _)| other == reason) {
            Some((_, nodes)) => nodes.push(&graph.nodes[*node]),
            None => failed.push((reason, vec![&graph.nodes[*node]])),
        }
    }
    for (reason, nodes) in failed {
        let first = format!("{} ({})", nodes[0].short(), graph.trials[nodes[0].trials[0]].label());
        let more = match nodes.len() {
            1 => String::new(),
            several => format!(" and {} for the same reason", counted(several - 1, "other")),
        };
        say(format!("failed: {first}{more}: {reason}"))?;
    }
    for problem in outcome.untuned() {
        say(format!("failed: {problem}"))?;
    }
    if executed.stopped {
        let given: Vec<String> = std::env::args().skip(1).map(|word| shell_word(&word)).collect();
        say(format!("stopped; resume with: mindscale {}", given.join(" ")))?;
    }
    match report_kept {
        Some(why) => say(format!("the report is not written: {why}")),
        None => say(format!("report: {}", report.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_says_what_becomes_of_the_work() {
        let local = stopping(&Executor::default(), "a.toml");
        assert!(local.starts_with("stopping: trainings finish their step and write a checkpoint"), "{local}");
        assert_eq!(
            stopping(&Executor::Slurm(vec![]), "a b.toml"),
            "stopping: Slurm jobs keep running, and the same command follows them again; cancel them with: mindscale cancel 'a b.toml'"
        );
    }
}
