//! The local executor: works through a stage graph, running several stage runs at a time.
//!
//! *Invariant:* a failed stage run blocks those that need it, and no others; a branch waits for its trunk, and trains
//! from its own first step if the trunk has failed.

use super::gpus::Wait;
use super::machine::Machine;
use super::pace::{Pace, TrackedProgress};
use super::retry::pause;
use super::worker::{AttemptOutcome, record_end};
use crate::plan::{StageGraph, StageNode, State, Trunk};
use crate::recipe::{StageBody, StageRequest};
use crate::runs::claim::{Claim, ClaimOwner, Held, Taking, Watch};
use crate::runs::manifest::{Manifest, RunStatus};
use crate::track::{Board, Progress, time};
use crate::train::describe;
use crate::train::trunk::Branch;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// How often stage runs that other processes work on are checked.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A request to stop: gracefully, after the next checkpoint, or immediately.
#[derive(Debug, Default)]
pub struct Stop {
    requests: AtomicU8,
}

impl Stop {
    /// Requests a stop: a graceful one the first time, an immediate one from the second time on.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a stop is requested, graceful or immediate.
    pub fn is_requested(&self) -> bool {
        self.requests.load(Ordering::SeqCst) >= 1
    }

    /// Whether an immediate stop is requested.
    pub fn is_immediate(&self) -> bool {
        self.requests.load(Ordering::SeqCst) >= 2
    }
}

/// A way to run an attempt at a stage run.
pub trait Launch: Sync {
    /// Works on the requested stage run; returns when this attempt has ended.
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> AttemptOutcome;
}

/// A stage run that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Index of the stage run in the graph.
    pub node: usize,
    /// Why it failed.
    pub reason: String,
}

/// The outcome of a stage graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Number of stage runs that this execution finished.
    pub ran: usize,
    /// Number of stage runs that were finished before or not needed, or that another process finished.
    pub found: usize,
    /// Stage runs that failed themselves.
    pub failed: Vec<Failure>,
    /// Indices of the stage runs that need a failed one.
    pub blocked: Vec<usize>,
    /// Whether work is left because a stop was requested.
    pub stopped: bool,
}

impl Outcome {
    /// Adds the outcome of another round, and maps indices to the newer graph: `place` returns the new index of a stage run.
    ///
    /// What this execution ran in earlier rounds was finished when the other round began, and does not count as found; nor do
    /// `dropped` stage runs, which became unnecessary since the first round.
    pub fn add(&mut self, other: Self, dropped: usize, place: impl Fn(usize) -> Option<usize>) {
        self.found = other.found.saturating_sub(self.ran + dropped);
        self.ran += other.ran;
        self.stopped = other.stopped;
        let failed = std::mem::take(&mut self.failed).into_iter().chain(other.failed);
        self.failed =
            failed.filter_map(|failure| Some(Failure { node: place(failure.node)?, ..failure })).collect();
        let blocked = std::mem::take(&mut self.blocked).into_iter().chain(other.blocked);
        self.blocked = blocked.filter_map(place).collect();
    }
}

/// Works through `graph` until everything is finished or failed, or until a stop is requested.
///
/// A stage run that is cut off is retried up to `retries` times.
///
/// # Errors
/// If the request for a process cannot be assembled.
pub fn execute(
    graph: &StageGraph,
    machine: Machine,
    retries: u32,
    launch: &dyn Launch,
    stop: &Stop,
    board: &Board,
) -> Result<Outcome> {
    let (sender, ended) = channel();
    std::thread::scope(|scope| {
        Pool {
            graph,
            machine,
            retries,
            tried: vec![0; graph.nodes.len()],
            launch,
            stop,
            board,
            sender,
            ended,
            states: graph.nodes.iter().map(NodeState::of).collect(),
            weights: downstream(graph),
            pace: Arc::new(Pace::new(graph.nodes.len())),
            outcome: Outcome::default(),
            said_busy: false,
            said_memory: false,
            noticed: BTreeSet::new(),
        }
        .run(scope)
    })
}

/// The state of a stage run while the pool works.
enum NodeState {
    /// Finished or not needed.
    Done,
    /// To be run, at the earliest at this instant; another process may be working on it.
    Open(Watch, Instant),
    /// Being run by this pool since this instant.
    Running(Instant),
    /// Failed, or blocked by a stage run that failed.
    Failed,
    /// Waits for a tuned value that is not chosen yet.
    Held,
}

impl NodeState {
    fn of(node: &StageNode) -> Self {
        match node.state {
            State::Held => NodeState::Held,
            _ if node.state.is_open() => NodeState::Open(Watch::default(), Instant::now()),
            _ => NodeState::Done,
        }
    }
}

struct Pool<'a> {
    graph: &'a StageGraph,
    machine: Machine,
    retries: u32,
    /// How often each stage run was cut off in this execution.
    tried: Vec<u32>,
    launch: &'a dyn Launch,
    stop: &'a Stop,
    board: &'a Board,
    sender: Sender<(usize, AttemptOutcome)>,
    ended: Receiver<(usize, AttemptOutcome)>,
    states: Vec<NodeState>,
    weights: Vec<f64>,
    pace: Arc<Pace>,
    outcome: Outcome,
    said_busy: bool,
    said_memory: bool,
    /// Notices that were printed already.
    noticed: BTreeSet<String>,
}

impl<'a> Pool<'a> {
    fn run<'scope>(mut self, scope: &'scope Scope<'scope, 'a>) -> Result<Outcome>
    where
        'a: 'scope,
    {
        self.outcome.found = self.count(|state| matches!(state, NodeState::Done));
        loop {
            if !self.stop.is_requested() {
                self.start_ready(scope)?;
            }
            let open = self.count(|state| matches!(state, NodeState::Open(..)));
            let running = self.count(|state| matches!(state, NodeState::Running(_)));
            if running == 0 && (open == 0 || self.stop.is_requested()) {
                self.outcome.stopped = open > 0;
                self.board.finish();
                return Ok(self.outcome);
            }
            self.show_total();
            match self.ended.recv_timeout(POLL_INTERVAL) {
                Ok((node, ended)) => self.note(node, ended)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Starts stage runs whose inputs are finished, those with the most work downstream first.
    fn start_ready<'scope>(&mut self, scope: &'scope Scope<'scope, 'a>) -> Result<()>
    where
        'a: 'scope,
    {
        let mut ready: Vec<usize> = (0..self.states.len()).filter(|&node| self.is_ready(node)).collect();
        ready.sort_by(|&a, &b| self.weights[b].total_cmp(&self.weights[a]).then(a.cmp(&b)));
        let mut waiting = ready.len();
        for node in ready {
            if self.machine.is_full() {
                return Ok(());
            }
            waiting -= 1;
            let Some(dead) = self.is_free(node) else {
                continue;
            };
            let share = match self.machine.take(node, &self.graph.nodes[node], waiting) {
                Ok(share) => share,
                Err(why) => {
                    self.report_wait(node, &why);
                    continue;
                }
            };
            let gpu = self.machine.gpu(share).map(String::from);
            let spent = self.spent(node);
            let request = StageRequest { dead, gpu, spent, ..request_of(self.graph, node, share.threads)? };
            let task = self.board.task(&self.name(node));
            let (launch, stop, sender) = (self.launch, self.stop, self.sender.clone());
            let pace = Arc::clone(&self.pace);
            self.states[node] = NodeState::Running(Instant::now());
            scope.spawn(move || {
                let tracked = TrackedProgress { shown: task, total: AtomicU64::new(0), node, pace };
                let ended = launch.launch(&request, stop, &tracked);
                drop(tracked);
                // The pool outlives every stage run that it starts.
                let _ = sender.send((node, ended));
            });
        }
        Ok(())
    }

    /// Reports the first stage run that waits for memory, since fewer then run at a time than one might expect.
    fn report_wait(&mut self, node: usize, why: &Wait) {
        if matches!(why, Wait::Memory { .. }) && !self.said_memory {
            self.said_memory = true;
            self.board.line(&format!("{} waits: {why}", self.name(node)));
        }
    }

    /// Seconds that the trial of a stage run has taken so far, over all its stage runs, exams and running ones included.
    /// If several trials share the stage run, the smallest of their times.
    fn spent(&self, node: usize) -> f64 {
        let mut taken: BTreeMap<usize, f64> = BTreeMap::new();
        let mut least = f64::INFINITY;
        for &trial in &self.graph.nodes[node].trials {
            let mut seconds = 0.0;
            for &index in &self.graph.trials[trial].stages {
                seconds += match taken.get(&index) {
                    Some(&known) => known,
                    None => *taken.entry(index).or_insert_with(|| self.taken(index)),
                };
            }
            least = least.min(seconds);
        }
        if least.is_finite() { least } else { 0.0 }
    }

    /// Seconds that a stage run has taken so far, over all its attempts.
    fn taken(&self, index: usize) -> f64 {
        let planned = &self.graph.nodes[index];
        let now = match &self.states[index] {
            NodeState::Running(since) => since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        Manifest::seconds_so_far(&planned.dir, planned.uuid) + now
    }

    /// Shows the share of the work that is done and how long the rest will take.
    fn show_total(&self) {
        let is_lost = |index: usize| matches!(self.states[index], NodeState::Failed);
        let is_done = |index: usize| matches!(self.states[index], NodeState::Done);
        if let Some((share, left)) = self.pace.total(self.graph, is_done, is_lost) {
            let finished = self.count(|state| matches!(state, NodeState::Done));
            let left = left.map_or(String::new(), |left| format!("  {} left", time(left)));
            self.board.total("all", share, &format!("{finished}/{} stage runs{left}", self.states.len()));
        }
    }

    fn is_ready(&self, node: usize) -> bool {
        let due = matches!(&self.states[node], NodeState::Open(_, at) if Instant::now() >= *at);
        let mut needs = self.graph.nodes[node].needs();
        let is_open =
            |trunk: Trunk| matches!(self.states[trunk.node], NodeState::Open(..) | NodeState::Running(_));
        due && needs.all(|need| matches!(self.states[need], NodeState::Done))
            && !self.graph.nodes[node].trunk.is_some_and(is_open)
    }

    /// Checks that no other process works on a stage run: if so `Some`, with the dead owner whose claim is left, if any.
    ///
    /// If another process has finished or failed it since the plan was made, records that and returns `None`.
    fn is_free(&mut self, node: usize) -> Option<Option<ClaimOwner>> {
        let planned = &self.graph.nodes[node];
        let NodeState::Open(watch, at) = &mut self.states[node] else {
            return None;
        };
        // If the claim cannot be read, taking it reports the error.
        let held = watch.look(&planned.dir).unwrap_or(Held::Free);
        if let Held::By(owner) = held {
            *at = Instant::now() + POLL_INTERVAL;
            if !self.said_busy {
                self.said_busy = true;
                let text = format!("{}: {} is working on it; waiting", self.name(node), owner.describe());
                self.board.line(&text);
            }
            return None;
        }
        let found = match Manifest::read(&planned.dir) {
            Ok(found) => found,
            Err(error) => {
                self.fail(node, format!("{error:#}"));
                return None;
            }
        };
        if let Some(manifest) = found
            && manifest.uuid == planned.uuid
            && manifest.attempts > planned.attempts
        {
            match manifest.status {
                RunStatus::Done => {
                    self.outcome.found += 1;
                    self.states[node] = NodeState::Done;
                    return None;
                }
                RunStatus::Failed => {
                    self.fail(node, manifest.reason.unwrap_or_default());
                    return None;
                }
                RunStatus::Running | RunStatus::Stopped => {}
            }
        }
        Some(match held {
            Held::Dead(owner) => Some(owner),
            Held::Free | Held::By(_) => None,
        })
    }

    fn note(&mut self, node: usize, ended: AttemptOutcome) -> Result<()> {
        let seconds = match &self.states[node] {
            NodeState::Running(since) => since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        self.machine.take_back(node);
        match ended {
            AttemptOutcome::Done(results) => {
                self.states[node] = NodeState::Done;
                self.outcome.ran += 1;
                let finished = self.count(|state| matches!(state, NodeState::Done));
                let mut text =
                    format!("[{finished}/{}] {} done in {seconds:.1} s", self.states.len(), self.name(node));
                if results.steps > 0 {
                    text += &format!(", {}", describe(results.steps, results.passes));
                }
                if let Some(loss) = results.val_loss {
                    text += &format!(", validation loss {loss:.4}");
                }
                if let Some(tally) = results.tally() {
                    text += &format!(", {} of {} questions correct", tally.correct, tally.questions);
                }
                self.board.line(&text);
                for notice in results.notices.iter().map(ToString::to_string) {
                    // Trials often give the same notice: print each once.
                    if self.noticed.insert(notice.clone()) {
                        self.board.line(&format!("  {notice}"));
                    }
                }
            }
            AttemptOutcome::Failed(reason) => self.fail(node, reason),
            AttemptOutcome::CutOff(reason) if self.tried[node] < self.retries => {
                self.tried[node] += 1;
                let pause = pause(self.tried[node]);
                let (number, of, seconds) = (self.tried[node], self.retries, pause.as_secs());
                let name = self.name(node);
                self.board.line(&format!("{name}: {reason}; again in {seconds} s ({number} of {of})"));
                self.states[node] = NodeState::Open(Watch::default(), Instant::now() + pause);
            }
            AttemptOutcome::CutOff(reason) => {
                // A full disk takes no record either; report the reason nevertheless.
                let request = request_of(self.graph, node, 1)?;
                if let Err(error) = record_end(&request, RunStatus::Failed, Some(&reason), 0.0) {
                    self.board.line(&format!("{}: {error:#}", self.name(node)));
                }
                self.fail(node, reason);
            }
            AttemptOutcome::Stopped | AttemptOutcome::Busy => {
                let again = Instant::now() + POLL_INTERVAL;
                self.states[node] = NodeState::Open(Watch::default(), again);
            }
        }
        Ok(())
    }

    /// Records a failure, and that the stage runs that need this one are blocked.
    fn fail(&mut self, node: usize, reason: String) {
        self.board.line(&format!("{} FAILED: {reason}", self.name(node)));
        self.states[node] = NodeState::Failed;
        self.outcome.failed.push(Failure { node, reason });
        for later in node + 1..self.states.len() {
            let mut needs = self.graph.nodes[later].needs();
            if matches!(self.states[later], NodeState::Open(..))
                && needs.any(|need| matches!(self.states[need], NodeState::Failed))
            {
                self.states[later] = NodeState::Failed;
                self.outcome.blocked.push(later);
            }
        }
    }

    fn count(&self, is: impl Fn(&NodeState) -> bool) -> usize {
        self.states.iter().filter(|state| is(state)).count()
    }

    /// The stage with the label of its trial, or with the number of trials that share it.
    fn name(&self, node: usize) -> String {
        let node = &self.graph.nodes[node];
        match node.trials.as_slice() {
            [only] if self.graph.trials.len() > 1 => {
                format!("{} {}", node.stage, self.graph.trials[*only].label())
            }
            [_] => node.stage.to_string(),
            trials => format!("{} of {} trials", node.stage, trials.len()),
        }
    }
}

/// For each stage run the cost of the most expensive path from it to the end of the recipe, itself included.
fn downstream(graph: &StageGraph) -> Vec<f64> {
    let mut weights: Vec<f64> = graph.nodes.iter().map(|node| node.weight).collect();
    for index in (0..graph.nodes.len()).rev() {
        let after = (index + 1..graph.nodes.len())
            .filter(|&later| graph.nodes[later].needs().any(|need| need == index))
            .map(|later| weights[later])
            .fold(0.0, f64::max);
        weights[index] += after;
    }
    weights
}

/// Completes finished stage runs whose process was killed after it had recorded their end: removes what only an unfinished
/// stage run needs, and the claim of the dead process.
///
/// # Errors
/// If a claim cannot be taken, or a file cannot be removed.
pub fn tidy_killed(graph: &StageGraph, body: &dyn StageBody) -> Result<()> {
    for (index, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.state == State::Done) {
        if let Ok(Held::Dead(_)) = Watch::default().look(&node.dir)
            && let Taking::Ours(_claim) = Claim::take(&node.dir, None)?
        {
            let request = request_of(graph, index, 1)?;
            body.tidy(&request, &request.trial_config()?)?;
        }
    }
    Ok(())
}

/// The request by which a process works on a stage run of the plan; `threads` = 0 means all cores that it finds.
///
/// # Errors
/// If a configuration cannot be serialized.
pub fn request_of(graph: &StageGraph, node: usize, threads: usize) -> Result<StageRequest> {
    let planned = &graph.nodes[node];
    let dir_of = |index: Option<usize>| -> Option<PathBuf> { Some(graph.nodes[index?].dir.clone()) };
    let toml = |planned: &StageNode| {
        toml::to_string(&*planned.config).with_context(|| format!("configuration of {}", planned.short()))
    };
    let is_branch = |other: &&StageNode| other.trunk.is_some_and(|trunk| trunk.node == node);
    let branch = |other: &StageNode| Ok(Branch { uuid: other.uuid, config: toml(other)? });
    let branches = graph.nodes.iter().filter(is_branch).map(branch).collect::<Result<_>>()?;
    Ok(StageRequest {
        stage: planned.stage,
        uuid: planned.uuid,
        dir: planned.dir.clone(),
        config: toml(planned)?,
        tokenizer: dir_of(planned.tokenizer),
        data: dir_of(planned.data),
        model: dir_of(planned.model),
        model_stage: planned.model.map(|model| graph.nodes[model].stage),
        at: planned.at.clone(),
        trunk: dir_of(planned.trunk.map(|trunk| trunk.node)),
        branches,
        threads,
        inputs: graph.inputs(node),
        files: planned.files.iter().flat_map(|(_, files)| files.iter().cloned()).collect(),
        facts: serde_json::to_value(graph.facts(node))?,
        spent: 0.0,
        gpu: None,
        dead: None,
    })
}
