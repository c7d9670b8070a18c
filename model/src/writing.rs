//! Continuous batching (Yu et al. 2022, "Orca", section 3.1): texts are generated together and can begin or leave between
//! any two steps.
//!
//! In each step, a text that is being generated reads its last token, and a text whose prompt is incomplete reads the next
//! piece of it. All texts are read together, distributed over the current rayon threads if the backend computes there. Threads
//! that need not wait for each other after each step have a batch each, between which texts can move.
//! *Invariant:* a text depends only on its prompt, its options and the model: pieces end at fixed positions, independent of
//! the other texts.

use crate::backend::Backend;
use crate::decode::{KvCache, Reading};
use crate::generate::{GenerateOptions, Token};
use crate::sampling::{LogProbs, Sampler, not_finite};
use crate::transformer::Transformer;
use crate::{Error, Result};
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Maximum number of positions of a prompt that one step reads; a multiple of the query tile of attention.
const PIECE: usize = 256;

/// Number of positions of all prompts after which a step begins no further piece; bounds the time that other texts wait for
/// a token.
const PROMPT_POSITIONS: usize = 512;

/// Identifier of a text, unique in this process; the texts of one [`GenerationBatch::begin`] have ascending identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(u64);

impl TextId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Event of a text during a step.
#[derive(Debug)]
pub enum Event {
    /// Log-probabilities of the next tokens of the prompt, if requested; the first token of a prompt has none. For texts that
    /// share a prompt, only the first receives this event.
    Prompt(Vec<LogProbs>),
    /// A token was generated.
    Token(Token),
    /// A token of [`GenerateOptions::stop`], which is not part of the text, ended the text; it has left.
    Stop(Token),
    /// The text has reached [`GenerateOptions::max_tokens`] tokens; it has left.
    Length,
    /// Generation of the text failed; it has left.
    Failed(Error),
}

/// Texts that one model is generating.
pub struct GenerationBatch<'a, B: Backend> {
    model: &'a Transformer<B>,
    texts: Vec<Text<B>>,
    /// Number of threads over which a step distributes the texts; `None` for the current rayon threads.
    threads: Option<usize>,
}

/// A prompt that is being read for one or more texts, or a single text that is being generated.
struct Text<B: Backend> {
    cache: KvCache<B>,
    /// Ids of the prompt, or the last token of the text.
    ids: Vec<u32>,
    /// Number of these ids that were read.
    read: usize,
    /// Whether `ids` is a prompt.
    is_prompt: bool,
    /// If set, the log-probabilities of the prompt are reported, with this many most likely tokens at each place.
    prompt_log_probs: Option<usize>,
    writers: Vec<Writer>,
}

/// State of one text: its sampler, its options and the number of generated tokens.
struct Writer {
    id: TextId,
    sampler: Sampler,
    options: GenerateOptions,
    written: usize,
}

impl<'a, B: Backend> GenerationBatch<'a, B> {
    /// Creates an empty set of texts for `model`.
    pub fn new(model: &'a Transformer<B>) -> Self {
        let threads = (!B::LANES).then_some(1);
        Self { model, texts: vec![], threads }
    }

    /// Makes steps run on the calling thread alone.
    pub fn on_one_thread(self) -> Self {
        Self { threads: Some(1), ..self }
    }

    /// Returns whether no text is being generated.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the number of texts that are being generated.
    pub fn len(&self) -> usize {
        self.texts.iter().map(|text| text.writers.len()).sum()
    }

    /// Begins a text for each of `options`, all after the same prompt, which is read once. If `prompt_log_probs` is set, the
    /// first text reports the log-probabilities of the prompt's tokens, with this many most likely tokens at each place.
    ///
    /// # Errors
    /// If the prompt is empty or has a token outside the vocabulary, an option is invalid, or the device runs out of memory.
    pub fn begin(
        &mut self,
        prompt: &[u32],
        options: &[GenerateOptions],
        prompt_log_probs: Option<usize>,
    ) -> Result<Vec<TextId>> {
        let vocab_size = self.model.config.vocab_size;
        if prompt.is_empty() {
            return Err(Error::Input("the prompt is empty, expected at least one token".into()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocab_size}; is this the model's own tokenizer?"
            )));
        }
        let writer = |options: &GenerateOptions| {
            let GenerateOptions { sampling, seed, choice, .. } = *options;
            let sampler = Sampler::new(sampling, seed, choice, vocab_size, prompt)?;
            Ok(Writer { id: TextId::next(), sampler, options: options.clone(), written: 0 })
        };
        let writers: Vec<Writer> = options.iter().map(writer).collect::<Result<_>>()?;
        let Some(most) = options.iter().map(|options| options.max_tokens).max() else { return Ok(vec![]) };
        let cache = self.model.cache(prompt.len().saturating_add(most))?;
        let ids = writers.iter().map(|writer| writer.id).collect();
        let (is_prompt, prompt) = (true, prompt.to_vec());
        self.texts.push(Text { cache, ids: prompt, read: 0, is_prompt, prompt_log_probs, writers });
        Ok(ids)
    }

    /// Removes a text. If it reports the log-probabilities of a prompt that others share, no other text reports the rest.
    pub fn leave(&mut self, id: TextId) {
        for text in &mut self.texts {
            if text.writers.first().is_some_and(|first| first.id == id) {
                text.prompt_log_probs = None;
            }
            text.writers.retain(|writer| writer.id != id);
        }
        self.texts.retain(|text| !text.writers.is_empty());
    }

    /// Returns the identifiers of the texts.
    pub fn ids(&self) -> impl Iterator<Item = TextId> {
        self.texts.iter().flat_map(|text| text.writers.iter().map(|writer| writer.id))
    }

    /// Moves the texts of another batch of the same model to this one.
    pub fn append(&mut self, mut other: Self) {
        self.texts.append(&mut other.texts);
    }

    /// Moves up to `len` texts to a batch of their own. Texts that still share a prompt stay.
    pub fn split_off(&mut self, len: usize) -> Self {
        let mut left = len;
        let texts = self.texts.extract_if(.., |text| {
            let is_moved = left > 0 && text.writers.len() == 1;
            left -= usize::from(is_moved);
            is_moved
        });
        Self { texts: texts.collect(), ..*self }
    }

    /// Advances the texts by one token or one piece of the prompt each, and returns their events, ordered by text. Prompts
    /// beyond the limit of a step wait for a later one.
    pub fn step(&mut self) -> Vec<(TextId, Event)> {
        let model = self.model;
        let mut room = PROMPT_POSITIONS;
        let mut now: Vec<&mut Text<B>> = vec![];
        for text in &mut self.texts {
            if text.is_prompt {
                if room == 0 {
                    continue;
                }
                room = room.saturating_sub(text.piece());
            }
            now.push(text);
        }
        let mut shares = distribute(now, self.threads.unwrap_or_else(rayon::current_num_threads));
        let done: Vec<StepOutput<B>> = match shares.len() {
            1 => shares.iter_mut().map(|share| advance(model, share)).collect(),
            _ => shares.into_par_iter().map(|mut share| advance(model, &mut share)).collect(),
        };
        let mut events = vec![];
        for StepOutput { events: output, forked } in done {
            events.extend(output);
            self.texts.extend(forked);
        }
        self.texts.retain(|text| !text.writers.is_empty());
        events.sort_by_key(|(id, _)| *id); // stable: the events of each text stay in order
        events
    }
}

/// Result of a step for some texts.
struct StepOutput<B: Backend> {
    events: Vec<(TextId, Event)>,
    /// Texts that continue separately after their common prompt.
    forked: Vec<Text<B>>,
}

impl<B: Backend> Text<B> {
    /// Returns the number of ids to read next.
    fn piece(&self) -> usize {
        (self.ids.len() - self.read).min(PIECE)
    }

    /// Returns the first place of the next piece whose logits are needed.
    fn logits_from(&self) -> usize {
        let piece = self.piece();
        let is_last = self.read + piece == self.ids.len();
        let writes = self.writers.iter().any(|writer| writer.options.max_tokens > 0);
        match self.prompt_log_probs {
            Some(_) if self.is_prompt => 0,
            _ if is_last && writes => piece - 1,
            _ => piece,
        }
    }

    /// Chooses the next token of every text from the logits after the last id; `None` if no text generates tokens.
    fn choose(&mut self, logits: Option<&[f32]>, done: &mut StepOutput<B>) {
        let chosen: Vec<Option<u32>> =
            self.writers.iter_mut().map(|writer| writer.choose(logits, &mut done.events)).collect();
        let read = self.cache.len();
        let writers = std::mem::take(&mut self.writers).into_iter().zip(chosen);
        for (writer, id) in writers.filter_map(|(writer, id)| Some((writer, id?))) {
            let ids = vec![id];
            if self.writers.is_empty() {
                (self.ids, self.read, self.is_prompt) = (ids, 0, false);
                self.writers.push(writer);
                continue;
            }
            match self.cache.fork(read.saturating_add(writer.options.max_tokens)) {
                Ok(cache) => done.forked.push(Text {
                    cache,
                    ids,
                    read: 0,
                    is_prompt: false,
                    prompt_log_probs: None,
                    writers: vec![writer],
                }),
                Err(error) => done.events.push((writer.id, Event::Failed(error))),
            }
        }
    }
}

impl Writer {
    /// Chooses the next token and records the event; `None` if the text has ended.
    fn choose(&mut self, logits: Option<&[f32]>, events: &mut Vec<(TextId, Event)>) -> Option<u32> {
        let mut emit = |event| events.push((self.id, event));
        let Some(logits) = logits.filter(|_| self.written < self.options.max_tokens) else {
            emit(Event::Length);
            return None;
        };
        let id = match self.sampler.next(logits) {
            Ok(id) => id,
            Err(error) => {
                emit(Event::Failed(error));
                return None;
            }
        };
        let log_probs = self.options.log_probs.map(|top| LogProbs::new(logits, id, top));
        let token = Token { id, log_probs };
        if self.options.stop.contains(&id) {
            emit(Event::Stop(token));
            return None;
        }
        self.written += 1;
        emit(Event::Token(token));
        if self.written == self.options.max_tokens {
            emit(Event::Length);
            return None;
        }
        Some(id)
    }
}

/// Distributes texts over threads so that each reads about the same number of positions.
fn distribute<B: Backend>(mut texts: Vec<&mut Text<B>>, threads: usize) -> Vec<Vec<&mut Text<B>>> {
    texts.sort_by_key(|text| std::cmp::Reverse(text.piece()));
    let mut shares: Vec<(usize, Vec<&mut Text<B>>)> = vec![];
    shares.resize_with(threads.clamp(1, texts.len().max(1)), || (0, vec![]));
    for text in texts {
        if let Some(share) = shares.iter_mut().min_by_key(|share| share.0) {
            share.0 += text.piece();
            share.1.push(text);
        }
    }
    shares.into_iter().map(|share| share.1).filter(|share| !share.is_empty()).collect()
}

/// Reads the next ids of some texts and chooses the next token of those that have read all their ids.
fn advance<B: Backend>(model: &Transformer<B>, texts: &mut [&mut Text<B>]) -> StepOutput<B> {
    let mut done = StepOutput { events: vec![], forked: vec![] };
    let mut last: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
    let mut of_prompts: Vec<Vec<LogProbs>> = vec![vec![]; texts.len()];
    let mut readings: Vec<Reading<B>> = vec![];
    let mut places: Vec<(&[u32], usize, Option<usize>)> = vec![];
    for text in texts.iter_mut() {
        let (piece, logits_from) = (text.piece(), text.logits_from());
        let Text { cache, ids, read, is_prompt, prompt_log_probs, .. } = &mut **text;
        readings.push(Reading { cache, continues: None, ids: &ids[*read..*read + piece], logits_from });
        places.push((ids, *read, prompt_log_probs.filter(|_| *is_prompt)));
    }
    let outcome = model.extend_with(&mut readings, |number, place, logits| {
        let (ids, read, log_probs) = places[number];
        match ids.get(read + place + 1) {
            Some(&next) => {
                of_prompts[number].extend(log_probs.map(|top| LogProbs::new(logits, next, top)));
            }
            None => last[number] = Some(logits.to_vec()),
        }
    });
    if let Err(error) = outcome {
        let writers = texts.iter_mut().flat_map(|text| text.writers.drain(..));
        let failed = writers.map(|writer| (writer.id, Event::Failed(Error::Input(error.to_string()))));
        return StepOutput { events: failed.collect(), forked: vec![] };
    }
    for ((text, logits), log_probs) in texts.iter_mut().zip(last).zip(of_prompts) {
        text.read += text.piece();
        if log_probs.iter().any(|at| !at.own.is_finite()) {
            let writers = text.writers.drain(..);
            done.events.extend(writers.map(|writer| (writer.id, Event::Failed(not_finite()))));
            continue;
        }
        if let Some(first) = text.writers.first().filter(|_| !log_probs.is_empty()) {
            done.events.push((first.id, Event::Prompt(log_probs)));
        }
        if text.read == text.ids.len() {
            text.choose(logits.as_deref(), &mut done);
        }
    }
    done
}
