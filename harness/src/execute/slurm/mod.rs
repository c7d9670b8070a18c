//! The Slurm executor: submits the remaining stage runs as job arrays whose tasks wait for what they need.
//!
//! A task works on a request file, as a child of the local executor does. What else it needs (partition, memory, time)
//! comes from the configuration's `[slurm]`, from options of `sbatch` on the command line, which win, or from its
//! environment variables, such as `SBATCH_PARTITION`. *Invariant:* a task that is asked to stop writes a checkpoint and is
//! requeued, unless several attempts in a row made no progress.

mod arrays;

use crate::execute::child::{AGAIN, HUGE_PAGES, VERB, write_request};
use crate::execute::pool::{Failure, Outcome, Stop, request_of};
use crate::fsutil::{absolute, hand_in, read_text, shell_word};
use crate::plan::{StageGraph, StageNode};
use crate::recipe::StageRequest;
use crate::runs::files::{JOB, LOG, REQUEST};
use crate::runs::manifest::{Manifest, RunStatus};
use crate::track::{Board, counted};
use anyhow::{Context, Result, bail};
use arrays::{After, Array, arrays};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The default of Slurm's `MaxArraySize`.
const MAX_TASKS: usize = 1001;

/// How often the queue and the manifests are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Polls after which a job that left the queue without a record counts as lost: records take time on network file systems.
const PATIENCE: u32 = 5;

/// Submits the graph to Slurm and waits until everything is finished or failed. A stop leaves the jobs running.
///
/// A job waits only for what it needs: the graph is [apart](StageGraph::apart), so that no job waits for a trunk.
///
/// # Errors
/// If Slurm is not available or refuses a job.
pub fn execute(graph: &StageGraph, options: &[String], stop: &Stop, board: &Board) -> Result<Outcome> {
    let jobs = submit_all(graph, options, board)?;
    let mut outcome = Outcome { found: found(graph), ..Outcome::default() };
    let mut open: Vec<(usize, u32)> = jobs.keys().map(|&index| (index, 0)).collect();
    let mut is_away = false;
    while !open.is_empty() && !stop.is_requested() {
        std::thread::sleep(POLL_INTERVAL);
        let queued = match queue() {
            Ok(queued) => queued,
            Err(error) => {
                // Controllers restart and networks fail; the jobs keep running.
                if !is_away {
                    board.line(&format!("{error:#}; retrying every {} s", POLL_INTERVAL.as_secs()));
                }
                is_away = true;
                continue;
            }
        };
        is_away = false;
        let mut left = Vec::new();
        for (index, lost) in open {
            let node = &graph.nodes[index];
            let is_queued = queued.contains(&jobs[&index]);
            let found = Manifest::read(&node.dir).ok().flatten();
            let found = found.filter(|manifest| manifest.uuid == node.uuid);
            match found.map(|manifest| (manifest.status, manifest.attempts, manifest.reason)) {
                Some((RunStatus::Done, ..)) => {
                    outcome.ran += 1;
                    board.line(&format!("{} done", node.short()));
                }
                Some((RunStatus::Failed, attempts, reason)) if attempts > node.attempts && !is_queued => {
                    fail(&mut outcome, board, node, index, reason.unwrap_or_default());
                }
                _ if is_queued => left.push((index, 0)),
                _ if needs_failed(&outcome, node) => outcome.blocked.push(index),
                _ if lost < PATIENCE => left.push((index, lost + 1)),
                found => {
                    let reason = found.and_then(|(.., reason)| reason);
                    let reason = reason.unwrap_or_else(|| left_early(&jobs[&index], node));
                    fail(&mut outcome, board, node, index, reason);
                }
            }
        }
        open = left;
    }
    outcome.stopped = !open.is_empty();
    Ok(outcome)
}

/// Submits the remaining stage runs that are not queued yet; returns the job of each remaining stage run.
fn submit_all(graph: &StageGraph, options: &[String], board: &Board) -> Result<BTreeMap<usize, String>> {
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let in_queue = queue()?;
    let place = |node: &StageNode| {
        let job = job_of(&node.dir).filter(|job| node.state.is_open() && in_queue.contains(job))?;
        let (array, task) = job.split_once('_')?;
        Some((array.to_string(), task.parse().ok()?))
    };
    let queued: Vec<_> = graph.nodes.iter().map(place).collect();
    let mut arrays = arrays(graph, &queued, most_tasks());
    let mut jobs = BTreeMap::new();
    for index in 0..arrays.len() {
        let array = &arrays[index];
        let job = match &array.job {
            Some(job) => job.clone(),
            None => {
                for &node in array.tasks.values() {
                    write_request(&request_of(graph, node, graph.nodes[node].config.threads)?)?;
                }
                let dirs = array.tasks.iter().map(|(&task, &node)| (task, graph.nodes[node].dir.as_path()));
                let after = dependency(&arrays, array.after);
                let job = submit(array, after, &script(&program, &dirs.collect::<Vec<_>>()), options)?;
                for (task, &node) in &array.tasks {
                    hand_in(&graph.nodes[node].dir, JOB, format!("{job}_{task}").as_bytes())?;
                }
                board.line(&format!("{}: job {job}, {}", array.stage, counted(array.tasks.len(), "task")));
                job
            }
        };
        jobs.extend(array.tasks.iter().map(|(task, &node)| (node, format!("{job}_{task}"))));
        arrays[index].job = Some(job);
    }
    Ok(jobs)
}

/// Consecutive attempts without progress after which no further one is made.
const MAX_IDLE: u32 = 3;

/// Why another job like the last ones would not finish a stage run that was stopped; `None` if it may.
///
/// `restarts` is how often Slurm requeued the present job: attempts that users stopped before it do not count.
///
/// # Errors
/// If the manifest cannot be read.
pub fn time_limit_problem(request: &StageRequest, restarts: u32) -> Result<Option<String>> {
    let idle = Manifest::read(&request.dir)?.map_or(0, |manifest| manifest.idle_attempts);
    if idle.min(restarts.saturating_add(1)) < MAX_IDLE {
        return Ok(None);
    }
    let kept = match request.stage.training() {
        Some(_) => "without a new checkpoint",
        None => "and its progress cannot be kept",
    };
    Ok(Some(format!(
        "the {} stage needs more than the job's time limit: it was stopped {MAX_IDLE} times before it was done, {kept}; raise slurm.time, or --sbatch=--time=...",
        request.stage
    )))
}

/// Number of stage runs that need no work: all but those left to run, now or once a value is chosen.
fn found(graph: &StageGraph) -> usize {
    graph.nodes.iter().filter(|node| !node.state.is_left()).count()
}

/// The failure message for a stage run whose job left the queue without a record of its end.
fn left_early(job: &str, node: &StageNode) -> String {
    let log = node.dir.join(LOG);
    // Slurm remembers a finished job for some minutes.
    let output = run(Command::new("scontrol").args(["--oneliner", "show", "job", job]), "");
    let state = output.ok().and_then(|output| Some(field(&output, "JobState=")?.to_string()));
    let state = state.map_or(String::new(), |state| format!(" as {state}"));
    format!("job {job} left the queue{state} before its end; run again to resume; its log: {}", log.display())
}

/// The value of `name` in a line such as `JobId=7 JobState=TIMEOUT Reason=TimeLimit`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name))
}

/// Slurm's `MaxArraySize`: task numbers are below it.
fn most_tasks() -> usize {
    let output = run(Command::new("scontrol").args(["show", "config"]), "").unwrap_or_default();
    let line = output.lines().find(|line| line.starts_with("MaxArraySize"));
    let most = line.and_then(|line| line.split('=').nth(1)?.trim().parse().ok());
    most.unwrap_or(MAX_TASKS)
}

/// Cancels the queued jobs of a graph; returns their names.
///
/// # Errors
/// If Slurm is not available or refuses.
pub fn cancel(graph: &StageGraph) -> Result<Vec<String>> {
    let queued = queue()?;
    let open = graph.nodes.iter().filter(|node| node.state.is_open());
    let jobs: Vec<String> =
        open.filter_map(|node| job_of(&node.dir)).filter(|job| queued.contains(job)).collect();
    if !jobs.is_empty() {
        // `--full` signals the processes of the batch shell as well, so that a training writes a checkpoint.
        run(Command::new("scancel").arg("--full").args(&jobs), "")?;
    }
    Ok(jobs)
}

/// The job that was last submitted for a stage run.
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

/// The user's pending and running jobs.
fn queue() -> Result<BTreeSet<String>> {
    let listed = run(Command::new("squeue").args(["--me", "--array", "--noheader", "--format=%i"]), "")?;
    Ok(listed.lines().map(|line| line.trim().to_string()).collect())
}

/// What an array waits for, in the form that `sbatch --dependency` takes; the arrays before it have their jobs.
fn dependency(arrays: &[Array], after: After) -> Option<String> {
    let job = |array: usize| arrays[array].job.as_deref().unwrap_or_default();
    match after {
        After::Nothing => None,
        After::Same(array) => Some(format!("aftercorr:{}", job(array))),
        After::One(array, task) => Some(format!("afterok:{}_{task}", job(array))),
    }
}

fn submit(array: &Array, after: Option<String>, script: &str, options: &[String]) -> Result<String> {
    let mut command = Command::new("sbatch");
    command.args(["--parsable", "--requeue", "--kill-on-invalid-dep=yes", "--output=/dev/null"]);
    // The batch shell gets SIGTERM one minute before the time limit.
    command.arg("--signal=B:TERM@60");
    command.arg(format!("--job-name=mindscale-{}", array.stage));
    let tasks: Vec<String> = array.tasks.keys().map(ToString::to_string).collect();
    let at_once = array.at_once.map_or(String::new(), |most| format!("%{most}"));
    command.arg(format!("--array={}{at_once}", tasks.join(",")));
    command.args(after.map(|after| format!("--dependency={after}")));
    let answer = run(command.args(&array.options).args(options), script)?;
    // The answer is `job` or `job;cluster`.
    let job = answer.trim().split(';').next().unwrap_or_default();
    match job.parse::<u64>() {
        Ok(_) => Ok(job.to_string()),
        Err(_) => bail!("sbatch answered \"{}\", expected the number of a job", answer.trim()),
    }
}

/// The batch script of each task: works in the task's folder, and requeues the task after a checkpoint.
fn script(program: &Path, dirs: &[(usize, &Path)]) -> String {
    let quoted = |path: &Path| shell_word(&absolute(path).to_string_lossy());
    let cases: Vec<String> =
        dirs.iter().map(|(task, dir)| format!("{task}) dir={} ;;\n", quoted(dir))).collect();
    format!(
        "#!/bin/sh\n\
         case $SLURM_ARRAY_TASK_ID in\n\
         {}\
         esac\n\
         exec >> \"$dir/{LOG}\" 2>&1\n\
         export {}={}\n\
         {} {VERB} --restarts ${{SLURM_RESTART_COUNT:-0}} \"$dir/{REQUEST}\" &\n\
         work=$!\n\
         trap 'kill -TERM $work 2>/dev/null' TERM\n\
         wait $work; code=$?\n\
         # A signal ends the first wait, not the work.\n\
         while kill -0 $work 2>/dev/null; do wait $work; code=$?; done\n\
         # A job that was cancelled is asked to stop as well, and stays away.\n\
         # SLURM_JOB_ID of the last task is that of the whole array.\n\
         job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID\n\
         state() {{ squeue --noheader --jobs=$job --format=%T; }}\n\
         if [ $code -eq {AGAIN} ] && [ \"$(state)\" = RUNNING ]; then scontrol requeue $job && sleep 60; fi\n\
         exit $code\n",
        cases.concat(),
        HUGE_PAGES.0,
        HUGE_PAGES.1,
        quoted(program),
    )
}

/// Runs a Slurm command with `input` on its standard input; returns its standard output.
fn run(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child =
        started.with_context(|| format!("{name} cannot be started; is this a login node of Slurm?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("{name}: cannot write to its standard input"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::State;
    use crate::plan::testing::{plan, trial};
    use std::fs;

    #[test]
    fn each_task_of_a_script_works_in_its_folder_whatever_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["it's", "a b $HOME \"x\""].map(|name| dir.path().join(name));
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let script = script(Path::new("/bin/echo"), &[(0, &folders[0]), (7, &folders[1])]);
        for (task, folder, restarts) in [("0", &folders[0], 0), ("7", &folders[1], 2)] {
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).env("SLURM_ARRAY_TASK_ID", task);
            if restarts > 0 {
                shell.env("SLURM_RESTART_COUNT", restarts.to_string());
            }
            let ended = shell.status().unwrap();
            assert!(ended.success());
            let said = fs::read_to_string(folder.join(LOG)).unwrap();
            assert_eq!(said, format!("stage-run --restarts {restarts} {}/request.json\n", folder.display()));
        }
    }

    #[test]
    fn what_waits_for_a_choice_is_not_done_already() {
        let mut graph = plan(&[trial(|_| {})], Path::new("runs"));
        let states = [State::Done, State::Unneeded, State::Fresh, State::Held, State::Lost("nan".into())];
        for (node, state) in graph.nodes.iter_mut().zip(states) {
            node.state = state;
        }
        assert_eq!((graph.nodes.len(), found(&graph)), (6, 3));
    }

    #[test]
    fn the_state_of_a_job_is_read() {
        let line = "JobId=9 ArrayJobId=8 ArrayTaskId=1 JobState=OUT_OF_MEMORY Reason=OutOfMemory";
        assert_eq!(field(line, "JobState="), Some("OUT_OF_MEMORY"));
        assert_eq!(field(line, "Nothing="), None);
    }
}
