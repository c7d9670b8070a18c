//! Scheduling of generation: requests wait in a queue, and one thread per model generates as many texts at a time as
//! the limits allow.
//!
//! Requests are submitted with [`Scheduler::submit`]; their events come out of a channel. The channel is unbounded, as
//! `max_tokens` bounds the number of events, so a slow receiver delays nobody; a receiver that is dropped frees its
//! place before the next step. A text's first token is sent at once, those after it at most every `PIECE_EVERY`.
//! *Invariant:* a text depends on its request alone, not on what else is being generated.

use crate::data::Tokenizer;
use crate::data::stream::{AnswerStream, Piece};
use crate::system::on_threads;
use anyhow::{Context, Result};
use model::{Backend, Event, GenerateOptions, GenerationBatch, LogProbs, TextId, Token, Transformer};
use rayon::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Number of texts that one thread decodes at a time; for fewer, waking another thread does not pay off.
const TEXTS_A_THREAD: usize = 8;

/// Minimum time between two pieces of a text. More than 50 a second cannot be read, and on the way to the client each
/// costs more than generating a token with a tiny model.
pub(super) const PIECE_EVERY: Duration = Duration::from_millis(20);

/// Limits of a scheduler.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of texts generated at the same time.
    pub texts: usize,
    /// Maximum number of waiting requests.
    pub waiting: usize,
}

/// A request for one or more texts after one prompt.
#[derive(Debug, Clone)]
pub struct Request {
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Options of each text.
    pub options: Vec<GenerateOptions>,
    /// Number of top log-probabilities reported for each position of the prompt, in addition to that of its own token;
    /// `None` for none.
    pub prompt_log_probs: Option<usize>,
    /// Strings before which a text ends.
    pub stop: Vec<String>,
    /// Time by which the request must be finished.
    pub deadline: Instant,
    /// Index of its first text among those of all requests submitted together.
    pub first_choice: usize,
}

/// An event of a request.
#[derive(Debug, PartialEq)]
pub enum Update {
    /// Log-probabilities of the prompt's next tokens; its first token has none.
    Prompt {
        /// Index of the first text of the prompt.
        choice: usize,
        /// Log-probabilities, token by token.
        log_probs: Vec<LogProbs>,
    },
    /// A piece of a text.
    Piece {
        /// Index of the text.
        choice: usize,
        /// Complete characters.
        text: String,
        /// Tokens that begin in them.
        tokens: Vec<Token>,
    },
    /// The end of a text.
    End {
        /// Index of the text.
        choice: usize,
        /// Why the text ended.
        ending: Ending,
        /// Number of generated tokens, those of a stop string included.
        tokens: usize,
        /// The end token, if one ended the text; it is not counted in `tokens`.
        by: Option<Token>,
    },
    /// The request failed.
    Failed(Failure),
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// An end token or a stop string.
    Stop,
    /// Its maximum number of tokens.
    Length,
    /// Its deadline.
    Time,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline passed while it was waiting.
    DeadlineInQueue,
    /// The model failed, with the reason.
    Model(String),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full.
    Full,
    /// The scheduler is closed.
    Closed,
}

/// Counters and gauges of a scheduler.
#[derive(Debug, Default)]
pub struct Counts {
    /// Texts being generated.
    pub writing: AtomicUsize,
    /// Requests waiting.
    pub waiting: AtomicUsize,
    /// Requests accepted so far.
    pub requests: AtomicU64,
    /// Tokens of prompts started so far.
    pub prompt_tokens: AtomicU64,
    /// Tokens generated so far.
    pub tokens: AtomicU64,
    /// Model steps so far, each over all texts.
    pub steps: AtomicU64,
    /// Texts whose receiver was dropped before their end.
    pub abandoned: AtomicU64,
}

/// The queue of one model, and the thread that processes it.
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
    to: UnboundedSender<Update>,
}

impl Scheduler {
    /// Starts the thread of a model, which computes with `threads` threads; 0 uses all cores.
    ///
    /// # Errors
    /// If a thread cannot be started.
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
            // However the work ends, even by a panic, nobody is left waiting for it.
            let own = Closing(own);
            on_threads(threads, || {
                Worker {
                    shared: &own.0,
                    limits,
                    tokenizer: &tokenizer,
                    writing: GenerationBatch::new(&transformer),
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

    /// Submits requests, all or none; their events come out of one channel, which closes after the last of them.
    ///
    /// # Errors
    /// If too many requests are waiting, or the scheduler is closed.
    pub fn submit(&self, requests: Vec<Request>) -> Result<UnboundedReceiver<Update>, Refusal> {
        let mut queue = self.shared.lock();
        if queue.is_closed {
            return Err(Refusal::Closed);
        }
        if queue.waiting.len() + requests.len() > self.limits.waiting {
            return Err(Refusal::Full);
        }
        let counts = &self.shared.counts;
        counts.requests.fetch_add(requests.len() as u64, Ordering::Relaxed);
        let (to, updates) = unbounded_channel();
        queue.waiting.extend(requests.into_iter().map(|request| Waiting { request, to: to.clone() }));
        counts.waiting.store(queue.waiting.len(), Ordering::Relaxed);
        self.shared.wake.notify_one();
        Ok(updates)
    }

    /// Returns the counters.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Accepts no more requests; those accepted before are finished.
    pub fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.wake.notify_one();
    }

    /// Returns whether the thread has ended.
    pub fn is_done(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the queue when the thread ends; the channels of waiting requests close with it.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.is_closed = true;
        queue.waiting.clear();
    }
}

/// State of a model's thread.
struct Worker<'a, B: Backend> {
    shared: &'a Shared,
    limits: Limits,
    tokenizer: &'a Tokenizer,
    writing: GenerationBatch<'a, B>,
    jobs: BTreeMap<TextId, Job<'a>>,
}

/// A text being generated.
struct Job<'a> {
    choice: usize,
    stream: AnswerStream<'a>,
    tokens: usize,
    /// Text and tokens that are not sent yet.
    unsent: (String, Vec<Token>),
    last_sent: Option<Instant>,
    to: UnboundedSender<Update>,
    deadline: Instant,
    is_over: bool,
}

impl<B: Backend> Worker<'_, B> {
    /// Works until the queue is closed and empty.
    fn work(mut self) {
        while let Some(taken) = self.take() {
            taken.into_iter().for_each(|waiting| self.begin(waiting));
            self.end_expired();
            self.step();
            self.shared.counts.writing.store(self.writing.len(), Ordering::Relaxed);
        }
    }

    /// Takes the next requests in the order of submission; blocks while there is nothing to do. `None` ends the work.
    fn take(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.shared.lock();
        loop {
            let mut taken = vec![];
            let now = Instant::now();
            let mut room = self.limits.texts.saturating_sub(self.writing.len());
            queue.waiting.retain(|waiting| {
                let is_late = waiting.request.deadline <= now;
                if is_late {
                    let _ = waiting.to.send(Update::Failed(Failure::DeadlineInQueue)); // the receiver may be gone
                }
                !is_late && !waiting.to.is_closed()
            });
            while let Some(next) = queue.waiting.front() {
                let texts = next.request.options.len();
                // A request for more texts than ever fit runs alone.
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
                let _ = to.send(Update::Failed(Failure::Model(error.to_string())));
                return;
            }
        };
        self.shared.counts.prompt_tokens.fetch_add(prompt.len() as u64, Ordering::Relaxed);
        for (choice, id) in (first_choice..).zip(ids) {
            let stream = AnswerStream::new(self.tokenizer, &stop);
            let job = Job {
                choice,
                stream,
                tokens: 0,
                unsent: Default::default(),
                last_sent: None,
                to: to.clone(),
                deadline,
                is_over: false,
            };
            self.jobs.insert(id, job);
        }
    }

    /// Drops texts whose receiver is gone, and ends those whose deadline has passed.
    fn end_expired(&mut self) {
        let now = Instant::now();
        for job in self.jobs.values_mut() {
            if job.to.is_closed() {
                job.is_over = true;
                self.shared.counts.abandoned.fetch_add(1, Ordering::Relaxed);
            } else if job.deadline <= now {
                job.finish(Ending::Time, None);
            }
        }
        self.drop_finished();
    }

    fn drop_finished(&mut self) {
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
        // Both events and jobs are ordered by text id.
        let mut events = events.into_iter().peekable();
        let mut pending: Vec<(&mut Job, Vec<Event>)> = vec![];
        for (id, job) in &mut self.jobs {
            let mut own = vec![];
            while let Some((_, event)) = events.next_if(|(of, _)| of <= id) {
                own.push(event);
            }
            if !own.is_empty() {
                pending.push((job, own));
            }
        }
        pending.into_par_iter().with_min_len(TEXTS_A_THREAD).for_each(|(job, events)| job.handle(events));
        self.drop_finished();
    }
}

impl Job<'_> {
    fn handle(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                _ if self.is_over => return,
                Event::Prompt(log_probs) => self.send(Update::Prompt { choice: self.choice, log_probs }),
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

    /// Sends what is left of the text, and its end.
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
        let (text, tokens) = &mut self.unsent;
        *text += &piece.text;
        tokens.extend(piece.tokens);
        if self.last_sent.is_none_or(|sent| sent.elapsed() >= PIECE_EVERY) {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let (text, tokens) = std::mem::take(&mut self.unsent);
        if !(text.is_empty() && tokens.is_empty()) {
            self.send(Update::Piece { choice: self.choice, text, tokens });
            self.last_sent = Some(Instant::now());
        }
    }

    fn end(&mut self, ending: Ending, by: Option<Token>) {
        self.flush();
        self.send(Update::End { choice: self.choice, ending, tokens: self.tokens, by });
        self.is_over = true;
    }

    fn fail(&mut self, problem: String) {
        self.flush();
        self.send(Update::Failed(Failure::Model(problem)));
        self.is_over = true;
    }

    /// Sends an event; a receiver that is gone is noticed before the next step.
    fn send(&self, update: Update) {
        let _ = self.to.send(update);
    }
}
