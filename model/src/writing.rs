//! Texts that are written together: they begin and leave between any two steps (continuous batching; Yu et al. 2022,
//! "Orca", section 3.1).
//!
//! At each step every text reads: one that writes its last token, one that begins the next piece of its prompt. All
//! read together, shared out over the current rayon threads where those are what computes. *Invariant:* what a text becomes depends on its prompt,
//! its options and the model alone: pieces end at fixed positions, whatever else is read.

use crate::backend::Backend;
use crate::decode::{KvCache, Reading};
use crate::generate::{GenerateOptions, Token};
use crate::sampling::{LogProbs, Sampler, not_finite};
use crate::transformer::Transformer;
use crate::{Error, Result};
use rayon::prelude::*;

/// Positions of a prompt that are read in one step; a multiple of the query tiles of attention.
const PIECE: usize = 256;

/// Positions of prompts that are read in one step, but for the last piece: so long at most others wait for a token.
const PROMPT_POSITIONS: usize = 512;

/// Names a text. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(u64);

/// What has become of a text.
#[derive(Debug)]
pub enum Event {
    /// Log-probabilities of the next tokens of the prompt, where they were asked for; its first token has none. Of texts
    /// with one prompt, the first hears it.
    Prompt(Vec<LogProbs>),
    /// A token was written.
    Token(Token),
    /// A token of [`GenerateOptions::stop`] came, which is no part of the text; it has left.
    Stop(Token),
    /// The text has [`GenerateOptions::max_tokens`] tokens; it has left.
    Length,
    /// It cannot be written on; it has left.
    Failed(Error),
}

/// Texts that are being written by one model.
pub struct Writing<'a, B: Backend> {
    model: &'a Transformer<B>,
    texts: Vec<Text<B>>,
    next: u64,
}

/// A prompt that is being read, for one or several texts, or a single text that is being written.
struct Text<B: Backend> {
    cache: KvCache<B>,
    /// The prompt, or the last token.
    ids: Vec<u32>,
    /// How many of them were read.
    read: usize,
    /// Whether `ids` is a prompt.
    is_prompt: bool,
    /// So many of the likeliest tokens are told at each place of the prompt.
    prompt_log_probs: Option<usize>,
    writers: Vec<Writer>,
}

/// What chooses the tokens of a text.
struct Writer {
    id: TextId,
    sampler: Sampler,
    options: GenerateOptions,
    written: usize,
}

impl<'a, B: Backend> Writing<'a, B> {
    /// Nothing written by `model` yet.
    pub fn new(model: &'a Transformer<B>) -> Self {
        Self { model, texts: vec![], next: 0 }
    }

    /// Whether no text is being written.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Texts that are being written.
    pub fn len(&self) -> usize {
        self.texts.iter().map(|text| text.writers.len()).sum()
    }

    /// Begins a text for each of `options`, all behind one prompt, which is read once. With `prompt_log_probs` the first
    /// of them tells the log-probabilities of the prompt's tokens, with so many of the likeliest at each place.
    ///
    /// # Errors
    /// Where the prompt is empty or has a token outside the vocabulary, or an option makes no sense.
    pub fn begin(
        &mut self,
        prompt: &[u32],
        options: &[GenerateOptions],
        prompt_log_probs: Option<usize>,
    ) -> Result<Vec<TextId>> {
        let vocab_size = self.model.config.vocab_size;
        if prompt.is_empty() {
            return Err(Error::Input("nothing to read; a prompt needs at least one token".into()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::Input(format!(
                "token id {id} is outside the model's vocabulary of {vocab_size}; is this the model's own tokenizer?"
            )));
        }
        let writer = |(id, options): (u64, &GenerateOptions)| {
            let GenerateOptions { sampling, seed, choice, .. } = *options;
            let sampler = Sampler::new(sampling, seed, choice, vocab_size, prompt)?;
            Ok(Writer { id: TextId(id), sampler, options: options.clone(), written: 0 })
        };
        let writers: Vec<Writer> = (self.next..).zip(options).map(writer).collect::<Result<_>>()?;
        let most = options.iter().map(|options| options.max_tokens).max().unwrap_or(0);
        let cache = self.model.cache(prompt.len() + most)?;
        self.next += writers.len() as u64;
        let ids = writers.iter().map(|writer| writer.id).collect();
        let (is_prompt, prompt) = (true, prompt.to_vec());
        self.texts.push(Text { cache, ids: prompt, read: 0, is_prompt, prompt_log_probs, writers });
        Ok(ids)
    }

    /// Forgets a text.
    pub fn leave(&mut self, id: TextId) {
        self.texts.iter_mut().for_each(|text| text.writers.retain(|writer| writer.id != id));
        self.texts.retain(|text| !text.writers.is_empty());
    }

    /// Goes on with all texts, by a token each or by a piece of the prompt, and tells what has become of them, ordered
    /// by text.
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
        let mut shares = deal(now, if B::LANES { rayon::current_num_threads() } else { 1 });
        let done: Vec<Done<B>> = match shares.len() {
            1 => shares.iter_mut().map(|share| advance(model, share)).collect(),
            _ => shares.into_par_iter().map(|mut share| advance(model, &mut share)).collect(),
        };
        let mut events = vec![];
        for Done { events: told, more } in done {
            events.extend(told);
            self.texts.extend(more);
        }
        self.texts.retain(|text| !text.writers.is_empty());
        events.sort_by_key(|(id, _)| *id); // stable: each text's own events stay in order
        events
    }
}

/// What a step has come to.
struct Done<B: Backend> {
    events: Vec<(TextId, Event)>,
    /// Texts that go on by themselves behind a prompt that they had in common.
    more: Vec<Text<B>>,
}

impl<B: Backend> Text<B> {
    /// How many ids are read next.
    fn piece(&self) -> usize {
        (self.ids.len() - self.read).min(PIECE)
    }

    /// The first place of the next piece whose logits are wanted.
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

    /// Goes on behind what was read, by the logits of what follows the last id; `None` where nobody writes.
    fn choose(&mut self, logits: Option<&[f32]>, done: &mut Done<B>) {
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
            match self.cache.fork(read + writer.options.max_tokens) {
                Ok(cache) => done.more.push(Text {
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
    /// Chooses the next token and tells it; `None` where the text has ended.
    fn choose(&mut self, logits: Option<&[f32]>, events: &mut Vec<(TextId, Event)>) -> Option<u32> {
        let mut tell = |event| events.push((self.id, event));
        let Some(logits) = logits.filter(|_| self.written < self.options.max_tokens) else {
            tell(Event::Length);
            return None;
        };
        let id = match self.sampler.next(logits) {
            Ok(id) => id,
            Err(error) => {
                tell(Event::Failed(error));
                return None;
            }
        };
        let log_probs = self.options.log_probs.map(|top| LogProbs::new(logits, id, top));
        let token = Token { id, log_probs };
        if self.options.stop.contains(&id) {
            tell(Event::Stop(token));
            return None;
        }
        self.written += 1;
        tell(Event::Token(token));
        if self.written == self.options.max_tokens {
            tell(Event::Length);
            return None;
        }
        Some(id)
    }
}

/// Deals texts to threads so that each has about as many positions to read.
fn deal<B: Backend>(mut texts: Vec<&mut Text<B>>, threads: usize) -> Vec<Vec<&mut Text<B>>> {
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

/// Reads on in some texts, and goes on with those that have read all that they have.
fn advance<B: Backend>(model: &Transformer<B>, texts: &mut [&mut Text<B>]) -> Done<B> {
    let mut done = Done { events: vec![], more: vec![] };
    let mut last: Vec<Option<Vec<f32>>> = vec![None; texts.len()];
    let mut of_prompts: Vec<Vec<LogProbs>> = vec![vec![]; texts.len()];
    let mut readings: Vec<Reading<B>> = vec![];
    let mut places: Vec<(&[u32], usize, Option<usize>)> = vec![];
    for text in texts.iter_mut() {
        let (piece, logits_from) = (text.piece(), text.logits_from());
        let Text { cache, ids, read, is_prompt, prompt_log_probs, .. } = &mut **text;
        readings.push(Reading { cache, after: None, ids: &ids[*read..*read + piece], logits_from });
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
        return Done { events: failed.collect(), more: vec![] };
    }
    for ((text, logits), log_probs) in texts.iter_mut().zip(last).zip(of_prompts) {
        text.read += text.piece();
        if log_probs.iter().any(|at| !at.own.is_finite()) {
            let writers = text.writers.drain(..);
            done.events.extend(writers.map(|writer| (writer.id, Event::Failed(not_finite()))));
            continue;
        }
        if !log_probs.is_empty() {
            done.events.push((text.writers[0].id, Event::Prompt(log_probs)));
        }
        if text.read == text.ids.len() {
            text.choose(logits.as_deref(), &mut done);
        }
    }
    done
}
