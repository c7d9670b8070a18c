//! The local executor: works through a stage graph, several stage runs at a time.
//!
//! *Invariant:* a stage run that fails takes those that need it with it, and no others; a branch waits for its trunk and
//! does without one that has failed.

use super::gpus::Wait;
use super::machine::Machine;
use super::pace::{Counted, Pace};
use super::retry::pause;
use super::worker::{Ended, record_end};
use crate::plan::{StageGraph, StageNode, State, Trunk};
use crate::recipe::StageRequest;
use crate::runs::claim::{Held, Owner, Watch, clear_dead};
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

/// How often stage runs that others work on are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The wish to stop: soon, after a checkpoint; or now.
#[derive(Debug, Default)]
pub struct Stop {
    wishes: AtomicU8,
}

impl Stop {
    /// Asks to stop: the first time soon, from the second time on now.
    pub fn ask(&self) {
        self.wishes.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether to stop soon.
    pub fn soon(&self) -> bool {
        self.wishes.load(Ordering::SeqCst) >= 1
    }

    /// Whether to stop now.
    pub fn now(&self) -> bool {
        self.wishes.load(Ordering::SeqCst) >= 2
    }
}

/// A way to have a stage run worked on; returns when that attempt has ended.
pub trait Launch: Sync {
    /// Works on the request.
    fn launch(&self, request: &StageRequest, stop: &Stop, progress: &dyn Progress) -> Ended;
}

/// A stage run that failed, or that could not be run because of one that did.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Index of the stage run.
    pub node: usize,
    /// Why.
    pub reason: String,
}

/// What came of a stage graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Stage runs that were worked on to their end, here.
    pub ran: usize,
    /// Stage runs that were finished before, or by somebody else.
    pub found: usize,
    /// Stage runs that failed themselves.
    pub failed: Vec<Failure>,
    /// Stage runs that need one that failed, by index.
    pub blocked: Vec<usize>,
    /// Whether somebody asked to stop before the end.
    pub stopped: bool,
}

impl Outcome {
    /// Adds what came of another round over the same stage runs, and goes over to the graph in which `place` tells where
    /// each is now; what was finished before counts in the first round only.
    pub fn add(&mut self, other: Self, is_first: bool, place: impl Fn(usize) -> Option<usize>) {
        self.ran += other.ran;
        self.found += if is_first { other.found } else { 0 };
        self.stopped = other.stopped;
        let failed = std::mem::take(&mut self.failed).into_iter().chain(other.failed);
        self.failed =
            failed.filter_map(|failure| Some(Failure { node: place(failure.node)?, ..failure })).collect();
        let blocked = std::mem::take(&mut self.blocked).into_iter().chain(other.blocked);
        self.blocked = blocked.filter_map(place).collect();
    }
}

/// Works through `graph` until everything is finished or failed, or `stop` is asked.
///
/// A stage run that was cut off is tried again `retries` times.
///
/// # Errors
/// Where a process cannot be started, or its stage run not be looked at.
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
            states: graph.nodes.iter().map(Doing::of).collect(),
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

/// How a stage run stands while the pool works.
enum Doing {
    /// Finished or not needed.
    Done,
    /// To be run; others may be at it.
    Open(Watch, Instant),
    /// Being run by us since.
    Running(Instant),
    /// Failed, or needs one that did.
    Failed,
    /// Waits for a value that is chosen elsewhere.
    Held,
}

impl Doing {
    fn of(node: &StageNode) -> Self {
        match node.state {
            State::Held => Doing::Held,
            _ if node.state.is_open() => Doing::Open(Watch::default(), Instant::now()),
            _ => Doing::Done,
        }
    }
}

struct Pool<'a> {
    graph: &'a StageGraph,
    machine: Machine,
    retries: u32,
    /// How often each stage run was cut off here.
    tried: Vec<u32>,
    launch: &'a dyn Launch,
    stop: &'a Stop,
    board: &'a Board,
    sender: Sender<(usize, Ended)>,
    ended: Receiver<(usize, Ended)>,
    states: Vec<Doing>,
    weights: Vec<f64>,
    pace: Arc<Pace>,
    outcome: Outcome,
    said_busy: bool,
    said_memory: bool,
    /// The notices that were told.
    noticed: BTreeSet<String>,
}

impl<'a> Pool<'a> {
    fn run<'scope>(mut self, scope: &'scope Scope<'scope, 'a>) -> Result<Outcome>
    where
        'a: 'scope,
    {
        self.outcome.found = self.count(|doing| matches!(doing, Doing::Done));
        loop {
            if !self.stop.soon() {
                self.start_what_can(scope)?;
            }
            let open = self.count(|doing| matches!(doing, Doing::Open(..)));
            let running = self.count(|doing| matches!(doing, Doing::Running(_)));
            if running == 0 && (open == 0 || self.stop.soon()) {
                self.outcome.stopped = open > 0;
                self.board.finish();
                for (node, doing) in self.graph.nodes.iter().zip(&self.states) {
                    if matches!(doing, Doing::Done) {
                        // Tidiness only: a dead claim on what is finished keeps nobody away.
                        let _ = clear_dead(&node.dir);
                    }
                }
                return Ok(self.outcome);
            }
            self.show_total();
            match self.ended.recv_timeout(LOOK_EVERY) {
                Ok((node, ended)) => self.note(node, ended)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Starts stage runs whose inputs are finished, the longest way to the end first.
    fn start_what_can<'scope>(&mut self, scope: &'scope Scope<'scope, 'a>) -> Result<()>
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
                    self.tell_wait(node, &why);
                    continue;
                }
            };
            let gpu = self.machine.gpu(share).map(String::from);
            let spent = self.spent(node);
            let request = StageRequest { dead, gpu, spent, ..request_of(self.graph, node, share.threads)? };
            let task = self.board.task(&self.name(node));
            let (launch, stop, sender) = (self.launch, self.stop, self.sender.clone());
            let pace = Arc::clone(&self.pace);
            self.states[node] = Doing::Running(Instant::now());
            scope.spawn(move || {
                let counted = Counted { shown: task, total: AtomicU64::new(0), node, pace };
                let ended = launch.launch(&request, stop, &counted);
                drop(counted);
                // The pool waits for every stage run that it started.
                let _ = sender.send((node, ended));
            });
        }
        Ok(())
    }

    /// Tells of the first stage run that waits for memory, as fewer then work than one might expect.
    fn tell_wait(&mut self, node: usize, why: &Wait) {
        if matches!(why, Wait::Memory { .. }) && !self.said_memory {
            self.said_memory = true;
            self.board.line(&format!("{} waits: {why}", self.name(node)));
        }
    }

    /// Seconds that the trial of a stage run has taken so far, over all its stage runs: exams as well, and what works on
    /// it right now. Of several trials that share the stage run, the one counts that has taken least.
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

    /// Seconds that a stage run has taken so far.
    fn taken(&self, index: usize) -> f64 {
        let planned = &self.graph.nodes[index];
        let manifest = Manifest::read(&planned.dir).ok().flatten();
        let manifest = manifest.filter(|manifest| manifest.uuid == planned.uuid);
        let now = match &self.states[index] {
            Doing::Running(since) => since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        manifest.map_or(0.0, |manifest| manifest.wall_seconds) + now
    }

    /// Shows how much of the work is done, and how long the rest will take.
    fn show_total(&self) {
        let is_lost = |index: usize| matches!(self.states[index], Doing::Failed);
        let is_done = |index: usize| matches!(self.states[index], Doing::Done);
        if let Some((share, left)) = self.pace.total(self.graph, is_done, is_lost) {
            let finished = self.count(|doing| matches!(doing, Doing::Done));
            let left = left.map_or(String::new(), |left| format!("  {} left", time(left)));
            self.board.total("all", share, &format!("{finished}/{} stage runs{left}", self.states.len()));
        }
    }

    fn is_ready(&self, node: usize) -> bool {
        let due = matches!(&self.states[node], Doing::Open(_, at) if Instant::now() >= *at);
        let mut needs = self.graph.nodes[node].needs();
        let is_open = |trunk: Trunk| matches!(self.states[trunk.node], Doing::Open(..) | Doing::Running(_));
        due && needs.all(|need| matches!(self.states[need], Doing::Done))
            && !self.graph.nodes[node].trunk.is_some_and(is_open)
    }

    /// Whether nobody else works on a stage run: `Some`, with a far owner that has died, if any.
    ///
    /// What somebody else has finished or failed since the plan was made is noted on the way.
    fn is_free(&mut self, node: usize) -> Option<Option<Owner>> {
        let planned = &self.graph.nodes[node];
        let Doing::Open(watch, at) = &mut self.states[node] else {
            return None;
        };
        // Where it cannot be read, taking it tells.
        let held = watch.look(&planned.dir).unwrap_or(Held::Free);
        if let Held::By(owner) = held {
            *at = Instant::now() + LOOK_EVERY;
            if !self.said_busy {
                self.said_busy = true;
                let text = format!("{}: {} is at it; waiting", self.name(node), owner.describe());
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
                    self.states[node] = Doing::Done;
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

    fn note(&mut self, node: usize, ended: Ended) -> Result<()> {
        let seconds = match &self.states[node] {
            Doing::Running(since) => since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        self.machine.take_back(node);
        match ended {
            Ended::Done(results) => {
                self.states[node] = Doing::Done;
                self.outcome.ran += 1;
                let finished = self.count(|doing| matches!(doing, Doing::Done));
                let mut text =
                    format!("[{finished}/{}] {} done in {seconds:.1} s", self.states.len(), self.name(node));
                if results.steps > 0 {
                    text += &format!(", {}", describe(results.steps, results.passes));
                }
                if let Some(loss) = results.val_loss {
                    text += &format!(", validation loss {loss:.4}");
                }
                if let Some(tally) = results.tally() {
                    text += &format!(", {} of {} questions right", tally.correct, tally.questions);
                }
                self.board.line(&text);
                for notice in results.notices.iter().map(ToString::to_string) {
                    // Trials have much in common: once is enough.
                    if self.noticed.insert(notice.clone()) {
                        self.board.line(&format!("  {notice}"));
                    }
                }
            }
            Ended::Failed(reason) => self.fail(node, reason),
            Ended::CutOff(reason) if self.tried[node] < self.retries => {
                self.tried[node] += 1;
                let pause = pause(self.tried[node]);
                let (number, of, seconds) = (self.tried[node], self.retries, pause.as_secs());
                let name = self.name(node);
                self.board.line(&format!("{name}: {reason}; again in {seconds} s ({number} of {of})"));
                self.states[node] = Doing::Open(Watch::default(), Instant::now() + pause);
            }
            Ended::CutOff(reason) => {
                // A disk that is full takes no record either; the reason is told all the same.
                let request = request_of(self.graph, node, 1)?;
                if let Err(error) = record_end(&request, RunStatus::Failed, Some(&reason), Duration::ZERO) {
                    self.board.line(&format!("{}: {error:#}", self.name(node)));
                }
                self.fail(node, reason);
            }
            Ended::Stopped | Ended::Busy => {
                let again = Instant::now() + LOOK_EVERY;
                self.states[node] = Doing::Open(Watch::default(), again);
            }
        }
        Ok(())
    }

    /// Notes a failure, and that nothing which needs the stage run can be run.
    fn fail(&mut self, node: usize, reason: String) {
        self.board.line(&format!("{} FAILED: {reason}", self.name(node)));
        self.states[node] = Doing::Failed;
        self.outcome.failed.push(Failure { node, reason });
        for later in node + 1..self.states.len() {
            let mut needs = self.graph.nodes[later].needs();
            if matches!(self.states[later], Doing::Open(..))
                && needs.any(|need| matches!(self.states[need], Doing::Failed))
            {
                self.states[later] = Doing::Failed;
                self.outcome.blocked.push(later);
            }
        }
    }

    fn count(&self, is: impl Fn(&Doing) -> bool) -> usize {
        self.states.iter().filter(|doing| is(doing)).count()
    }

    /// The stage run with the trial that it is for.
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

/// For each stage run the cost of the way from it to the end of the recipe.
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

/// What a process needs to know to work on a stage run of the plan; 0 threads are all that it finds.
///
/// # Errors
/// Where a configuration cannot be written down.
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
