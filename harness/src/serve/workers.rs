//! The workers of a model: each generates a share of its texts on one thread of the model's pool.
//!
//! Workers do not wait for each other. After every step a worker takes waiting requests if it has less than an equal share
//! of all texts, and puts down texts for the others if it has more; one without texts ends, so that its thread is free to
//! compute parts of large products.

use super::scheduler::{Ending, Failure, Limits, PIECE_EVERY, Request, Shared, Update, Waiting};
use crate::data::Tokenizer;
use crate::data::stream::{AnswerStream, Piece};
use model::{Backend, Event, GenerationBatch, TextId, Token, Transformer};
use rayon::Scope;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;

/// All workers of a model.
pub(super) struct Workers<'a, B: Backend> {
    shared: &'a Shared,
    limits: Limits,
    transformer: &'a Transformer<B>,
    tokenizer: &'a Tokenizer,
    /// Maximum number of workers.
    most: usize,
    /// Texts that a worker has put down; locked only by who holds the lock of the queue.
    put_down: Mutex<Group<'a, B>>,
}

thread_local! {
    /// Whether this thread is a worker.
    static IS_WORKER: Cell<bool> = const { Cell::new(false) };
}

impl<'a, B: Backend> Workers<'a, B> {
    pub fn new(
        shared: &'a Shared,
        limits: Limits,
        transformer: &'a Transformer<B>,
        tokenizer: &'a Tokenizer,
        most: usize,
    ) -> Self {
        let put_down = Mutex::new(Group::new(transformer));
        Self { shared, limits, transformer, tokenizer, most, put_down }
    }

    /// Starts workers until the queue is closed and all texts are finished.
    pub fn start_when_needed<'s>(&'s self, scope: &Scope<'s>) {
        let mut queue = self.shared.lock();
        loop {
            queue.drop_late();
            let is_work_left = queue.admits(self.limits) || !self.put_down().is_empty();
            if is_work_left && queue.workers < self.most {
                queue.workers += 1;
                scope.spawn(|scope| self.work(scope));
            } else if queue.is_closed && queue.waiting.is_empty() && queue.workers == 0 {
                return;
            }
            queue = self.shared.wait(queue);
        }
    }

    fn put_down(&self) -> MutexGuard<'_, Group<'a, B>> {
        self.put_down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Generates texts until none are left for this worker.
    fn work<'s>(&'s self, scope: &Scope<'s>) {
        // A worker's thread that waits for a part of a product may be given the start of another worker. Its own texts
        // would wait for the end of that one.
        if IS_WORKER.get() {
            scope.spawn(|scope| self.work(scope));
            return;
        }
        let _leaving = Leaving(self.shared);
        IS_WORKER.set(true);
        let mut own = Group::new(self.transformer);
        while self.balance(&mut own) {
            own.end_expired(self.shared);
            own.step(self.shared);
        }
    }

    /// Gives a worker its share of the texts and of the waiting requests; returns whether it has any.
    fn balance(&self, own: &mut Group<'a, B>) -> bool {
        let mut queue = self.shared.lock();
        queue.drop_late();
        queue.texts -= own.counted - own.len();
        let waiting: usize = queue.waiting.iter().map(|waiting| waiting.request.options.len()).sum();
        let all = (queue.texts + waiting).min(self.limits.texts.max(queue.texts));
        let share = all.div_ceil(self.most).max(1);
        let mut put_down = self.put_down();
        if own.len() > share {
            put_down.append(own.split_off(own.len() - share));
        } else {
            own.append(put_down.split_off(share - own.len()));
        }
        let mut taken = vec![];
        let mut len = own.len();
        while len < share && queue.admits(self.limits) {
            let Some(next) = queue.waiting.pop_front() else { break };
            let texts = next.request.options.len();
            (len, queue.texts) = (len + texts, queue.texts + texts);
            taken.push(next);
        }
        own.counted = len;
        let counts = &self.shared.counts;
        counts.waiting.store(queue.waiting.len(), Ordering::Relaxed);
        counts.writing.store(queue.texts, Ordering::Relaxed);
        if queue.workers < self.most && (queue.admits(self.limits) || !put_down.is_empty()) {
            self.shared.notify();
        }
        drop((put_down, queue));
        taken.into_iter().for_each(|waiting| own.begin(waiting, self.tokenizer, self.shared));
        own.counted > 0
    }
}

/// Counts a worker that ends; if it panics, the queue is closed, so that nobody waits for what it leaves undone.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        IS_WORKER.set(false);
        if std::thread::panicking() {
            self.0.abort();
        }
        self.0.lock().workers -= 1;
        self.0.notify();
    }
}

/// Some texts with their requests.
struct Group<'a, B: Backend> {
    texts: GenerationBatch<'a, B>,
    jobs: BTreeMap<TextId, Job<'a>>,
    /// Number of texts when the queue last counted them.
    counted: usize,
}

impl<'a, B: Backend> Group<'a, B> {
    fn new(transformer: &'a Transformer<B>) -> Self {
        let texts = GenerationBatch::new(transformer).on_one_thread();
        Self { texts, jobs: BTreeMap::new(), counted: 0 }
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn append(&mut self, mut other: Self) {
        self.texts.append(other.texts);
        self.jobs.append(&mut other.jobs);
    }

    /// Moves up to `len` texts to a group of their own.
    fn split_off(&mut self, len: usize) -> Self {
        let texts = self.texts.split_off(len);
        let jobs = texts.ids().filter_map(|id| self.jobs.remove_entry(&id)).collect();
        Self { texts, jobs, counted: 0 }
    }

    fn begin(&mut self, Waiting { request, to }: Waiting, tokenizer: &'a Tokenizer, shared: &Shared) {
        let Request { prompt, options, prompt_log_probs, stop, deadline, first_choice } = request;
        let ids = match self.texts.begin(&prompt, &options, prompt_log_probs) {
            Ok(ids) => ids,
            Err(error) => {
                let _ = to.send(Update::Failed(Failure::Model(error.to_string())));
                return;
            }
        };
        shared.counts.prompt_tokens.fetch_add(prompt.len() as u64, Ordering::Relaxed);
        for (choice, id) in (first_choice..).zip(ids) {
            let stream = AnswerStream::new(tokenizer, &stop);
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
    fn end_expired(&mut self, shared: &Shared) {
        let now = Instant::now();
        for job in self.jobs.values_mut() {
            if job.to.is_closed() {
                job.is_over = true;
                shared.counts.abandoned.fetch_add(1, Ordering::Relaxed);
            } else if job.deadline <= now {
                job.finish(Ending::Time, None);
            }
        }
        self.drop_finished();
    }

    fn drop_finished(&mut self) {
        let texts = &mut self.texts;
        self.jobs.retain(|id, job| {
            if job.is_over {
                texts.leave(*id);
            }
            !job.is_over
        });
    }

    /// Advances each text by one token, or one piece of its prompt.
    fn step(&mut self, shared: &Shared) {
        if self.is_empty() {
            return;
        }
        let events = self.texts.step();
        shared.counts.steps.fetch_add(1, Ordering::Relaxed);
        let tokens = events.iter().filter(|(_, event)| matches!(event, Event::Token(_))).count();
        shared.counts.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        for (id, event) in events {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.handle(event);
            }
        }
        self.drop_finished();
    }
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

impl Job<'_> {
    fn handle(&mut self, event: Event) {
        match event {
            _ if self.is_over => {}
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::serve::tests::{request, tokenizer, transformer};
    use tokio::sync::mpsc::unbounded_channel;

    const LIMITS: Limits = Limits { texts: 6, waiting: 100 };

    /// Lets requests of so many texts wait.
    fn submit(shared: &Shared, texts: &[usize]) {
        for &texts in texts {
            let mut request = request(1, 1000);
            request.options = vec![request.options[0].clone(); texts];
            let (to, updates) = unbounded_channel();
            std::mem::forget(updates); // the receiver stays
            shared.lock().waiting.push_back(Waiting { request, to });
        }
    }

    #[test]
    fn workers_get_equal_shares() {
        let (shared, transformer, tokenizer) = (Shared::default(), transformer(), tokenizer());
        let workers = Workers::new(&shared, LIMITS, &transformer, &tokenizer, 2);
        let [mut one, mut other] = [Group::new(&transformer), Group::new(&transformer)];
        let waiting = || shared.lock().waiting.len();

        // Half of four, and the rest is for the other.
        submit(&shared, &[1; 4]);
        assert!(workers.balance(&mut one));
        assert_eq!((one.len(), waiting()), (2, 2));
        assert!(workers.balance(&mut other));
        assert_eq!((other.len(), waiting()), (2, 0));

        // Three for each; five of the requests exceed the limit.
        submit(&shared, &[1; 7]);
        workers.balance(&mut one);
        workers.balance(&mut other);
        assert_eq!((one.len(), other.len(), waiting()), (3, 3, 5));

        // When texts end, a worker with more than half of the rest puts some down for the other.
        shared.lock().waiting.clear();
        let ids: Vec<TextId> = one.texts.ids().collect();
        ids.into_iter().for_each(|id| one.texts.leave(id));
        one.jobs.clear();
        assert!(!workers.balance(&mut one), "a worker without texts ends");
        assert!(workers.balance(&mut other));
        assert_eq!((other.len(), workers.put_down().len()), (2, 1));
        assert!(workers.balance(&mut one));
        assert_eq!((one.len(), one.jobs.len(), workers.put_down().len()), (1, 1, 0));
        assert_eq!(shared.counts.writing.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn texts_of_one_prompt_are_shared_once_it_is_read() {
        let (shared, transformer, tokenizer) = (Shared::default(), transformer(), tokenizer());
        let workers = Workers::new(&shared, LIMITS, &transformer, &tokenizer, 3);
        let mut all = [(); 3].map(|()| Group::new(&transformer));
        submit(&shared, &[9]);
        assert!(workers.balance(&mut all[0]));
        assert!(!workers.balance(&mut all[1]), "they share a prompt");
        all[0].step(&shared);
        for own in &mut all {
            assert!(workers.balance(own));
        }
        assert_eq!(all.map(|own| own.len()), [3, 3, 3]);
    }

    #[test]
    fn a_worker_that_panics_closes_the_queue() {
        let shared = Shared::default();
        submit(&shared, &[1]);
        shared.lock().workers = 2;
        let worker = || {
            let _leaving = Leaving(&shared);
            panic!("a fault");
        };
        std::thread::scope(|scope| scope.spawn(worker).join()).unwrap_err();
        let queue = shared.lock();
        assert!(queue.is_closed && queue.has_failed && queue.waiting.is_empty());
        assert_eq!(queue.workers, 1);
    }
}
