//! The Slurm executor: every stage run that is left becomes a job, which waits for the jobs that it needs.
//!
//! A job works on a request file as a child of the local executor does. What a job needs beyond that (partition,
//! memory, time) stands in the configuration's `[slurm]`, in options of `sbatch` on the command line, which win, or
//! in its variables, `SBATCH_PARTITION` and the like. *Invariant:* a job that is told to end writes a checkpoint and queues again.

use super::child::{LOG, VERB, write_request};
use super::files::{hand_in, read_text};
use super::graph::{StageGraph, StageNode};
use super::manifest::{Manifest, RunStatus};
use super::pool::{Failure, Outcome, Stop, request_of};
use crate::track::Board;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The file in the folder of a stage run that names its job.
pub const JOB: &str = "job.txt";

/// The exit code of a job that has written a checkpoint and is to be queued again.
pub const AGAIN: u8 = 75;

/// How often the queue and the manifests are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks after which a job that has left the queue without a record counts as lost: records travel over networks.
const PATIENCE: u32 = 5;

/// Hands the graph to Slurm and waits until all is finished or failed; asked to stop, it leaves the jobs alone.
pub fn execute(graph: &StageGraph, options: &[String], stop: &Stop, board: &Board) -> Result<Outcome> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let mut outcome = Outcome::default();
    let mut open = Vec::new();
    let mut jobs: Vec<Option<String>> = vec![None; graph.nodes.len()];
    let queued = queue()?;
    for (index, node) in graph.nodes.iter().enumerate() {
        if !node.state.is_open() {
            outcome.found += 1;
            continue;
        }
        let job = match job_of(&node.dir).filter(|job| queued.contains(job)) {
            Some(job) => job,
            None => {
                let needs: Vec<&str> = node.needs().filter_map(|need| jobs[need].as_deref()).collect();
                let request = write_request(&request_of(graph, index, 0)?)?;
                let mut asked = node.config.slurm.sbatch(node.stage().computes());
                asked.extend(options.iter().cloned());
                let job = submit(node, &script(&program, &request), &needs, &asked)?;
                hand_in(&node.dir, JOB, job.as_bytes())?;
                board.line(&format!("{}: job {job}", node.short()));
                job
            }
        };
        jobs[index] = Some(job);
        open.push((index, 0));
    }
    while !open.is_empty() && !stop.soon() {
        std::thread::sleep(LOOK_EVERY);
        let queued = queue()?;
        let mut left = Vec::new();
        for (index, lost) in open {
            let node = &graph.nodes[index];
            let is_queued = jobs[index].as_ref().is_some_and(|job| queued.contains(job));
            let found = Manifest::read(&node.dir)?.filter(|manifest| manifest.uuid == node.uuid);
            match found.map(|manifest| (manifest.status, manifest.sittings, manifest.reason)) {
                Some((RunStatus::Done, ..)) => {
                    outcome.ran += 1;
                    board.line(&format!("{} done", node.short()));
                }
                Some((RunStatus::Failed, sittings, reason)) if sittings > node.sittings && !is_queued => {
                    fail(&mut outcome, board, node, index, reason.unwrap_or_default());
                }
                _ if is_queued => left.push((index, 0)),
                _ if needs_failed(&outcome, node) => outcome.blocked.push(index),
                _ if lost < PATIENCE => left.push((index, lost + 1)),
                found => {
                    let job = jobs[index].as_deref().unwrap_or_default();
                    let log = node.dir.join(LOG);
                    let unknown = || {
                        format!(
                            "job {job} left the queue before its end, cancelled perhaps; run again to go on; its log: {}",
                            log.display()
                        )
                    };
                    let reason = found.and_then(|(.., reason)| reason).unwrap_or_else(unknown);
                    fail(&mut outcome, board, node, index, reason);
                }
            }
        }
        open = left;
    }
    outcome.stopped = !open.is_empty();
    Ok(outcome)
}

/// Takes the jobs of a graph out of the queue; their names.
pub fn cancel(graph: &StageGraph) -> Result<Vec<String>> {
    let queued = queue()?;
    let open = graph.nodes.iter().filter(|node| node.state.is_open());
    let jobs: Vec<String> =
        open.filter_map(|node| job_of(&node.dir)).filter(|job| queued.contains(job)).collect();
    if !jobs.is_empty() {
        // The batch shell's processes get the signal as well, so that what runs writes a checkpoint.
        run(Command::new("scancel").arg("--full").args(&jobs), "")?;
    }
    Ok(jobs)
}

/// The job that was last made for a stage run.
fn job_of(dir: &Path) -> Option<String> {
    Some(read_text(&dir.join(JOB)).ok()?.trim().to_string())
}

fn fail(outcome: &mut Outcome, board: &Board, node: &StageNode, index: usize, reason: String) {
    board.line(&format!("{} FAILED: {reason}", node.short()));
    outcome.failed.push(Failure { node: index, reason });
}

fn needs_failed(outcome: &Outcome, node: &StageNode) -> bool {
    let is_lost = |need| outcome.failed.iter().any(|f| f.node == need) || outcome.blocked.contains(&need);
    node.needs().any(is_lost)
}

/// The user's jobs that wait or run.
fn queue() -> Result<BTreeSet<String>> {
    let listed = run(Command::new("squeue").args(["--me", "--noheader", "--format=%i"]), "")?;
    Ok(listed.lines().map(|line| line.trim().to_string()).collect())
}

fn submit(node: &StageNode, script: &str, needs: &[&str], options: &[String]) -> Result<String> {
    let mut command = Command::new("sbatch");
    command.args(["--parsable", "--requeue", "--open-mode=append", "--kill-on-invalid-dep=yes"]);
    // A minute before the time is up, the batch shell is told.
    command.arg("--signal=B:TERM@60");
    command.arg(format!("--job-name=mindscale-{}", node.short()));
    command.arg(format!("--output={}", node.dir.join(LOG).display()));
    if !needs.is_empty() {
        command.arg(format!("--dependency=afterok:{}", needs.join(":")));
    }
    let answer = run(command.args(options), script)?;
    // `job` or `job;cluster`.
    let job = answer.trim().split(';').next().unwrap_or_default();
    match job.parse::<u64>() {
        Ok(_) => Ok(job.to_string()),
        Err(_) => bail!("sbatch answered \"{}\", expected the number of a job", answer.trim()),
    }
}

/// What the batch shell does: the work, and the way back into the queue after a checkpoint.
fn script(program: &Path, request: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
    format!(
        "#!/bin/sh\n\
         {} {VERB} --alone {} &\n\
         work=$!\n\
         trap 'kill -TERM $work' TERM\n\
         wait $work; code=$?\n\
         # A signal ends the first wait, not the work.\n\
         while kill -0 $work 2>/dev/null; do wait $work; code=$?; done\n\
         if [ $code -eq {AGAIN} ]; then scontrol requeue $SLURM_JOB_ID && sleep 60; fi\n\
         exit $code\n",
        quoted(program),
        quoted(request),
    )
}

/// Runs a program of Slurm's and returns what it says.
fn run(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        started.with_context(|| format!("{name} cannot be started; is this a login node of Slurm?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("{name} does not listen"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_quotes_are_safe_in_the_script() {
        let script = script(Path::new("/bin/it's"), Path::new("runs/a b/request.json"));
        assert!(script.contains(r"'/bin/it'\''s' stage-run --alone 'runs/a b/request.json' &"), "{script}");
    }
}
