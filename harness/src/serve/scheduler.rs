//! Who writes when: requests wait in a queue, and one thread a model writes as many texts at a time as there is room for.
//!
//! Requests go in with [`Scheduler::submit`]; what becomes of them comes out of a channel. The channel takes
//! all that they can come to, which `max_tokens` bounds, so that a receiver who is slow holds nobody up; one who
//! drops it frees its place before the next step. *Invariant:* what a text becomes depends on its request alone, not on
//! what else is written.

use crate::data::Tokenizer;
use crate::data::stream::{AnswerStream, Piece};
use crate::system::on_threads;
use anyhow::{Context, Result};
use model::{Backend, Event, GenerateOptions, LogProbs, TextId, Token, Transformer, Writing};
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Texts that one thread turns into characters at a time; fewer are not worth waking another.
const TEXTS_A_THREAD: usize = 8;

/// How much is done and kept at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Texts that are written at a time.
    pub texts: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
}

/// What is to be written behind one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the model reads.
    pub prompt: Vec<u32>,
    /// A text for each.
    pub options: Vec<GenerateOptions>,
    /// So many of the likeliest tokens at each place of the prompt are told, with the log-probabilities of its own.
    pub prompt_log_probs: Option<usize>,
    /// Strings before which a text ends.
    pub stop: Vec<String>,
    /// When it has to be over.
    pub deadline: Instant,
    /// The number of its first text, among those of all requests that are handed in with it.
    pub first_choice: usize,
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// Log-probabilities of a prompt's next tokens; its first has none.
    Prompt {
        /// The first text behind it.
        choice: usize,
        /// Token by token.
        log_probs: Vec<LogProbs>,
    },
    /// A piece of a text.
    Piece {
        /// Which text.
        choice: usize,
        /// Whole characters.
        text: String,
        /// The tokens that begin in them.
        tokens: Vec<Token>,
    },
    /// The end of a text.
    End {
        /// Which text.
        choice: usize,
        /// Why it ended.
        ending: Ending,
        /// Tokens that were written, those of a stop string included.
        tokens: usize,
        /// The token that ended it, where one did; it is not among them.
        by: Option<Token>,
    },
    /// A request came to nothing.
    Failed(Failure),
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A token or a string that ends it came.
    Stop,
    /// It has as many tokens as it may have.
    Length,
    /// Its time was over.
    Time,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its time was over before its turn came.
    Waited,
    /// The model cannot write it.
    Model(String),
}

/// Why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// So many wait already.
    Full,
    /// No more are taken: the program ends.
    Closed,
}

/// What was done so far, and what is being done.
#[derive(Debug, Default)]
pub struct Counts {
    /// Texts that are being written.
    pub writing: AtomicUsize,
    /// Requests that wait.
    pub waiting: AtomicUsize,
    /// Requests taken.
    pub requests: AtomicU64,
    /// Tokens of prompts that were begun.
    pub prompt_tokens: AtomicU64,
    /// Tokens written.
    pub tokens: AtomicU64,
    /// Steps of the model, whatever was written in each.
    pub steps: AtomicU64,
    /// Texts whose receivers went away before their end.
    pub abandoned: AtomicU64,
}

/// The queue of one model and the thread that works on it.
pub struct Scheduler {
    shared: Arc<Shared>,
    limits: Limits,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    counts: Counts,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    is_closed: bool,
}

struct Waiting {
    request: Request,
    to: UnboundedSender<Told>,
}

impl Scheduler {
    /// Starts the thread of a model, which computes on `threads` of them; 0 takes all cores.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start<B: Backend>(
        transformer: Arc<Transformer<B>>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        threads: usize,
    ) -> Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new(), counts: Counts::default() });
        let own = Arc::clone(&shared);
        let work = move || {
            // However the work ends, by a fault of its own too, nobody waits for it in vain.
            let own = Closing(own);
            on_threads(threads, || {
                Worker {
                    shared: &own.0,
                    limits,
                    tokenizer: &tokenizer,
                    writing: Writing::new(&transformer),
                    jobs: BTreeMap::new(),
                }
                .work();
                Ok(())
            })
        };
        let thread = std::thread::Builder::new().name("scheduler".into()).spawn(work);
        let thread = Some(thread.context("a thread cannot be started")?);
        Ok(Self { shared, limits, thread })
    }

    /// Hands in requests, all or none; what becomes of them comes out of one channel, which ends with the last of them.
    ///
    /// # Errors
    /// Where too many wait already, or the program ends.
    pub fn submit(&self, requests: Vec<Request>) -> Result<UnboundedReceiver<Told>, Refusal> {
        let mut queue = self.shared.lock();
        if queue.is_closed {
            return Err(Refusal::Closed);
        }
        if queue.waiting.len() + requests.len() > self.limits.waiting {
            return Err(Refusal::Full);
        }
        let counts = &self.shared.counts;
        counts.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
        let (to, told) = unbounded_channel();
        queue.waiting.extend(requests.into_iter().map(|request| Waiting { request, to: to.clone() }));
        counts.waiting.store(queue.waiting.len(), Ordering::Relaxed);
        self.shared.wake.notify_one();
        Ok(told)
    }

    /// What was done.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Takes no more requests; those that were taken are written to their ends.
    pub fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }

    /// Whether its thread has ended.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic was told by its own thread.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue when the thread ends; whoever waits is told by the end of the channel.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        queue.waiting.clear();
    }
}

/// What the thread of a model works with.
struct Worker<'a, B: Backend> {
    shared: &'a Shared,
    limits: Limits,
    tokenizer: &'a Tokenizer,
    writing: Writing<'a, B>,
    jobs: BTreeMap<TextId, Job<'a>>,
}

/// A text that is being written for somebody.
struct Job<'a> {
    choice: usize,
    stream: AnswerStream<'a>,
    tokens: usize,
    to: UnboundedSender<Told>,
    deadline: Instant,
    is_over: bool,
}

impl<B: Backend> Worker<'_, B> {
    /// Until the queue is closed and empty.
    fn work(mut self) {
        while let Some(taken) = self.take() {
            taken.into_iter().for_each(|waiting| self.begin(waiting));
            self.clear_away();
            self.step();
            self.shared.counts.writing.store(self.writing.len(), Ordering::Relaxed);
        }
    }

    /// The requests whose turn it is, in the order they came; waits while there is nothing to do. `None` ends the work.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.shared.lock();
        loop {
            let mut taken = vec![];
            let now = Instant::now();
            let mut room = self.limits.texts.saturating_sub(self.writing.len());
            queue.waiting.retain(|waiting| {
                let is_late = waiting.request.deadline <= now;
                if is_late {
                    let _ = waiting.to.send(Told::Failed(Failure::Waited)); // whoever went away is not told
                }
                !is_late && !waiting.to.is_closed()
            });
            while let Some(next) = queue.waiting.front() {
                let texts = next.request.options.len();
                // One that wants more than there ever is goes alone.
                let is_alone = self.writing.is_empty() && taken.is_empty();
                if texts > room && !is_alone {
                    break;
                }
                room = room.saturating_sub(texts);
                taken.extend(queue.waiting.pop_front());
            }
            self.shared.counts.waiting.store(queue.waiting.len(), Ordering::Relaxed);
            if !(taken.is_empty() && self.writing.is_empty()) {
                return Some(taken);
            }
            if queue.is_closed {
                return None;
            }
            queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn begin(&mut self, Waiting { request, to }: Waiting) {
        let Request { prompt, options, prompt_log_probs, stop, deadline, first_choice } = request;
        let ids = match self.writing.begin(&prompt, &options, prompt_log_probs) {
            Ok(ids) => ids,
            Err(error) => {
                let _ = to.send(Told::Failed(Failure::Model(error.to_string())));
                return;
            }
        };
        self.shared.counts.prompt_tokens.fetch_add(prompt.len() as u64, Ordering::Relaxed);
        for (choice, id) in (first_choice..).zip(ids) {
            let stream = AnswerStream::new(self.tokenizer, &stop);
            let job = Job { choice, stream, tokens: 0, to: to.clone(), deadline, is_over: false };
            self.jobs.insert(id, job);
        }
    }

    /// Lets texts go for which nobody waits any more, or no longer.
    fn clear_away(&mut self) {
        let now = Instant::now();
        for job in self.jobs.values_mut() {
            if job.to.is_closed() {
                job.is_over = true;
                self.shared.counts.abandoned.fetch_add(1, Ordering::Relaxed);
            } else if job.deadline <= now {
                job.finish(Ending::Time, None);
            }
        }
        self.drop_those_over();
    }

    fn drop_those_over(&mut self) {
        let writing = &mut self.writing;
        self.jobs.retain(|id, job| {
            if job.is_over {
                writing.leave(*id);
            }
            !job.is_over
        });
    }

    fn step(&mut self) {
        if self.writing.is_empty() {
            return;
        }
        let events = self.writing.step();
        let counts = &self.shared.counts;
        counts.steps.fetch_add(1, Ordering::Relaxed);
        let tokens = events.iter().filter(|(_, event)| matches!(event, Event::Token(_))).count();
        counts.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        // Both are ordered by text.
        let mut events = events.into_iter().peekable();
        let mut heard: Vec<(&mut Job, Vec<Event>)> = vec![];
        for (id, job) in &mut self.jobs {
            let mut own = vec![];
            while let Some((_, event)) = events.next_if(|(of, _)| of <= id) {
                own.push(event);
            }
            if !own.is_empty() {
                heard.push((job, own));
            }
        }
        heard.into_par_iter().with_min_len(TEXTS_A_THREAD).for_each(|(job, events)| job.hear(events));
        self.drop_those_over();
    }
}

impl Job<'_> {
    fn hear(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                _ if self.is_over => return,
                Event::Prompt(log_probs) => self.tell(Told::Prompt { choice: self.choice, log_probs }),
                Event::Token(token) => {
                    self.tokens += 1;
                    match self.stream.push(token) {
                        Ok(piece) => {
                            let is_stopped = piece.is_stopped;
                            self.piece(piece);
                            if is_stopped {
                                self.end(Ending::Stop, None);
                            }
                        }
                        Err(error) => self.fail(format!("{error:#}")),
                    }
                }
                Event::Stop(token) => self.finish(Ending::Stop, Some(token)),
                Event::Length => self.finish(Ending::Length, None),
                Event::Failed(error) => self.fail(error.to_string()),
            }
        }
    }

    /// Tells what is left, and the end.
    fn finish(&mut self, ending: Ending, by: Option<Token>) {
        match self.stream.finish() {
            Ok(piece) => {
                let (ending, by) = if piece.is_stopped { (Ending::Stop, None) } else { (ending, by) };
                self.piece(piece);
                self.end(ending, by);
            }
            Err(error) => self.fail(format!("{error:#}")),
        }
    }

    fn piece(&mut self, piece: Piece) {
        let Piece { text, tokens, is_stopped: _ } = piece;
        if !(text.is_empty() && tokens.is_empty()) {
            self.tell(Told::Piece { choice: self.choice, text, tokens });
        }
    }

    fn end(&mut self, ending: Ending, by: Option<Token>) {
        self.tell(Told::End { choice: self.choice, ending, tokens: self.tokens, by });
        self.is_over = true;
    }

    fn fail(&mut self, problem: String) {
        self.tell(Told::Failed(Failure::Model(problem)));
        self.is_over = true;
    }

    /// A receiver that has gone away is noticed before the next step.
    fn tell(&self, told: Told) {
        let _ = self.to.send(told);
    }
}
