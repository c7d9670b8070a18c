//! Scheduling of generation: requests wait in a queue, and the workers of a model generate as many texts at a time as the
//! limits allow.
//!
//! Requests are submitted with [`Scheduler::submit`]; their events come out of a channel. The channel is unbounded, as
//! `max_tokens` bounds the number of events, so a slow receiver delays nobody; a receiver that is dropped frees its
//! place before the next step. A text's first token is sent at once, those after it at most every `PIECE_EVERY`.
//! *Invariant:* a text depends on its request alone, not on what else is being generated.

use super::workers::Workers;
use crate::data::Tokenizer;
use crate::system::thread_pool;
use anyhow::{Context, Result};
use model::{Backend, GenerateOptions, LogProbs, Token, Transformer};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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
    /// Steps so far, each over the texts of one worker.
    pub steps: AtomicU64,
    /// Texts whose receiver was dropped before their end.
    pub abandoned: AtomicU64,
}

/// The queue of one model, and the thread that starts workers for it.
pub struct Scheduler {
    shared: Arc<Shared>,
    limits: Limits,
    thread: Option<JoinHandle<()>>,
}

/// What the scheduler shares with its workers.
#[derive(Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// Notified when a worker may be needed or none is left.
    wake: Condvar,
    pub counts: Counts,
}

#[derive(Default)]
pub(super) struct Queue {
    pub waiting: VecDeque<Waiting>,
    pub is_closed: bool,
    /// Whether a worker has panicked.
    pub has_failed: bool,
    /// Number of workers.
    pub workers: usize,
    /// Number of texts that are being generated.
    pub texts: usize,
}

pub(super) struct Waiting {
    pub request: Request,
    pub to: UnboundedSender<Update>,
}

impl Scheduler {
    /// Starts the scheduler of a model, which computes with `threads` threads; 0 uses all cores.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start<B: Backend>(
        transformer: Arc<Transformer<B>>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        threads: usize,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let pool = thread_pool(threads)?;
        let work = move || {
            let most = if B::LANES { pool.current_num_threads() } else { 1 };
            let workers = Workers::new(&own, limits, &transformer, &tokenizer, most);
            pool.in_place_scope(|scope| workers.start_when_needed(scope));
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

    /// Returns whether a fault of the program has closed the queue.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().has_failed
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
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a notification.
    pub fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    pub fn notify(&self) {
        self.wake.notify_one();
    }

    /// Closes the queue after a fault; the channels of waiting requests close with it.
    pub fn abort(&self) {
        let mut queue = self.lock();
        (queue.is_closed, queue.has_failed) = (true, true);
        queue.waiting.clear();
    }
}

impl Queue {
    /// Drops requests whose receiver is gone or whose deadline has passed.
    pub fn drop_late(&mut self) {
        let now = Instant::now();
        self.waiting.retain(|waiting| {
            let is_late = waiting.request.deadline <= now;
            if is_late {
                let _ = waiting.to.send(Update::Failed(Failure::DeadlineInQueue)); // the receiver may be gone
            }
            !is_late && !waiting.to.is_closed()
        });
    }

    /// Returns whether the limits allow the next request to begin. A request for more texts than ever fit runs alone.
    pub fn admits(&self, limits: Limits) -> bool {
        self.waiting
            .front()
            .is_some_and(|next| self.texts == 0 || self.texts + next.request.options.len() <= limits.texts)
    }
}
