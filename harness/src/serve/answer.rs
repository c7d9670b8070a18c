//! Answers in OpenAI's shapes: whole, or piece by piece as server-sent events.
//!
//! What the scheduler tells is gathered choice by choice; a stream tells and forgets whatever has come since it was
//! last asked, so that a client who reads slowly gets fewer and larger pieces.

use super::ask::Endpoint;
use super::error::ApiError;
use super::models::Spelling;
use super::scheduler::{Ending, Told};
use model::{LogProbs, Token};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What an answer is about.
pub struct About {
    /// Its name, such as `chatcmpl-1`.
    pub id: String,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// In whose shape.
    pub endpoint: Endpoint,
    /// Texts for each prompt.
    pub n: usize,
    /// Whether log-probabilities are told.
    pub log_probs: bool,
    /// Whether a stream ends with the numbers of tokens.
    pub include_usage: bool,
    /// The prompts' ids.
    pub prompts: Vec<Vec<u32>>,
    /// The prompts' texts, where they are told.
    pub echoes: Vec<Option<String>>,
    /// What each token is.
    pub spellings: Arc<[Spelling]>,
}

/// An answer as far as it has come.
pub struct Answer {
    about: About,
    prompts: Vec<Vec<LogProbs>>,
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<Token>,
    ending: Option<Ending>,
    written: usize,
    /// Characters that were told, the prompt's included.
    told: usize,
    is_begun: bool,
    is_over: bool,
}

impl Answer {
    /// Nothing yet.
    pub fn new(about: About) -> Self {
        let mut choices = vec![];
        choices.resize_with(about.prompts.len() * about.n, Choice::default);
        Self { prompts: vec![vec![]; about.prompts.len()], choices, about }
    }

    /// Takes what the scheduler tells.
    ///
    /// # Errors
    /// Where the request came to nothing.
    pub fn hear(&mut self, told: Told) -> Result<(), ApiError> {
        match told {
            Told::Prompt { choice, log_probs } => self.prompts[choice / self.about.n].extend(log_probs),
            Told::Piece { choice, text, tokens } => {
                let choice = &mut self.choices[choice];
                choice.text += &text;
                choice.tokens.extend(tokens);
            }
            Told::End { choice, ending, tokens, by } => {
                let choice = &mut self.choices[choice];
                (choice.ending, choice.written) = (Some(ending), tokens);
                // Evaluation harnesses count on it that the token which ends a continuation is told.
                if let Some(token) = by.filter(|_| self.about.endpoint == Endpoint::Completion) {
                    choice.written += 1;
                    choice.tokens.push(token);
                }
            }
            Told::Failed(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    /// Whether every text has ended.
    pub fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.ending.is_some())
    }

    /// Tokens read and written.
    pub fn usage(&self) -> Value {
        let prompt: usize = self.about.prompts.iter().map(Vec::len).sum();
        let written: usize = self.choices.iter().map(|choice| choice.written).sum();
        json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written })
    }

    /// The whole answer.
    pub fn whole(mut self) -> Value {
        let is_chat = self.about.endpoint == Endpoint::Chat;
        let choices: Vec<Value> = (0..self.choices.len())
            .map(|index| {
                let finish = self.choices[index].ending.map(finish_reason);
                let (text, log_probs) = self.take(index);
                match is_chat {
                    true => json!({
                        "index": index,
                        "message": { "role": "assistant", "content": text, "refusal": null },
                        "logprobs": log_probs,
                        "finish_reason": finish,
                    }),
                    false => json!({
                        "index": index, "text": text, "logprobs": log_probs, "finish_reason": finish
                    }),
                }
            })
            .collect();
        let mut whole = self.head(if is_chat { "chat.completion" } else { "text_completion" });
        whole["choices"] = choices.into();
        whole["usage"] = self.usage();
        whole
    }

    /// What has come since the last time, as events; the last ones where it is complete.
    pub fn events(&mut self) -> String {
        let mut events = String::new();
        for index in 0..self.choices.len() {
            self.events_of(index, &mut events);
        }
        if self.is_complete() {
            if self.about.include_usage {
                let mut last = self.chunk(vec![]);
                last["usage"] = self.usage();
                event(&mut events, &last);
            }
            events += "data: [DONE]\n\n";
        }
        events
    }

    fn events_of(&mut self, index: usize, events: &mut String) {
        let is_chat = self.about.endpoint == Endpoint::Chat;
        let prompt = index / self.about.n;
        let choice = &self.choices[index];
        let has_echo = !choice.is_begun && self.about.echoes[prompt].is_some();
        // The prompt's log-probabilities come before anything behind it.
        let lacks = self.about.log_probs && self.prompts[prompt].len() + 1 < self.about.prompts[prompt].len();
        if choice.is_over || has_echo && lacks {
            return;
        }
        let is_first = !choice.is_begun;
        if is_first && is_chat {
            let delta = json!({ "role": "assistant", "content": "", "refusal": null });
            let first = json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
            event(events, &self.chunk(vec![first]));
        }
        let choice = &self.choices[index];
        let has_more = has_echo || !choice.text.is_empty() || !choice.tokens.is_empty();
        let ending = choice.ending;
        if has_more {
            let (text, log_probs) = self.take(index);
            let piece = match is_chat {
                true => json!({
                    "index": index, "delta": { "content": text }, "logprobs": log_probs, "finish_reason": null
                }),
                false => {
                    json!({ "index": index, "text": text, "logprobs": log_probs, "finish_reason": null })
                }
            };
            event(events, &self.chunk(vec![piece]));
        }
        if let Some(ending) = ending {
            let finish = finish_reason(ending);
            let last = match is_chat {
                true => json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": finish }),
                false => json!({ "index": index, "text": "", "logprobs": null, "finish_reason": finish }),
            };
            event(events, &self.chunk(vec![last]));
        }
        let choice = &mut self.choices[index];
        choice.is_begun |= is_first && (is_chat || has_more);
        choice.is_over = ending.is_some();
    }

    fn head(&self, object: &str) -> Value {
        let About { id, created, model, .. } = &self.about;
        json!({ "id": id, "object": object, "created": created, "model": model, "system_fingerprint": null })
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.head(match self.about.endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        });
        chunk["choices"] = choices.into();
        if self.about.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    /// The text of a choice and the log-probabilities of its tokens, as far as they were not taken yet; first the prompt,
    /// where it is told.
    fn take(&mut self, index: usize) -> (String, Value) {
        let prompt = index / self.about.n;
        let choice = &mut self.choices[index];
        let (mut text, tokens) = (std::mem::take(&mut choice.text), std::mem::take(&mut choice.tokens));
        let echo = self.about.echoes[prompt].as_ref().filter(|_| !choice.is_begun);
        if let Some(echo) = echo {
            text.insert_str(0, echo);
        }
        let offset = choice.told;
        choice.told += text.chars().count();
        if !self.about.log_probs {
            return (text, Value::Null);
        }
        let spellings = &self.about.spellings;
        let written = tokens.iter().filter_map(|token| Some((token.id, token.log_probs.as_ref()?)));
        if self.about.endpoint == Endpoint::Chat {
            let content: Vec<Value> = written.map(|(id, found)| of_chat(spellings, id, found)).collect();
            return (text, json!({ "content": content, "refusal": null }));
        }
        let mut legacy = Legacy { offset, ..Legacy::default() };
        if echo.is_some() {
            let ids = &self.about.prompts[prompt];
            let found = std::iter::once(None).chain(self.prompts[prompt].iter().map(Some));
            ids.iter().zip(found).for_each(|(&id, found)| legacy.push(spellings, id, found));
        }
        written.for_each(|(id, found)| legacy.push(spellings, id, Some(found)));
        (text, legacy.json())
    }
}

fn finish_reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Stop => "stop",
        Ending::Length | Ending::Time => "length",
    }
}

/// Appends a server-sent event; JSON has no line break.
fn event(events: &mut String, value: &Value) {
    *events += "data: ";
    *events += &value.to_string();
    *events += "\n\n";
}

/// An error in the middle of a stream.
pub fn error_event(error: &ApiError) -> String {
    let mut events = String::new();
    event(&mut events, &error.json());
    events
}

fn bytes_of(spellings: &[Spelling], id: u32) -> &[u8] {
    spellings.get(id as usize).map_or(&[], |spelling| &spelling.bytes)
}

/// A token's text; parts of characters are written as OpenAI does: `bytes:\xe4\xbd`.
fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| name + &format!("\\x{byte:02x}")),
    }
}

/// A token with its log-probability, as chat tells it.
fn of_chat(spellings: &[Spelling], id: u32, found: &LogProbs) -> Value {
    let one = |id: u32, log_prob: f64| {
        let bytes = bytes_of(spellings, id);
        json!({ "token": name(bytes), "logprob": log_prob, "bytes": bytes })
    };
    let mut token = one(id, found.own);
    token["top_logprobs"] = found.top.iter().map(|&(id, log_prob)| one(id, log_prob)).collect();
    token
}

/// Log-probabilities as the older endpoint tells them.
#[derive(Default)]
struct Legacy {
    tokens: Vec<String>,
    own: Vec<Option<f64>>,
    top: Vec<Option<Map<String, Value>>>,
    offsets: Vec<usize>,
    /// Characters before the next token.
    offset: usize,
}

impl Legacy {
    fn push(&mut self, spellings: &[Spelling], id: u32, found: Option<&LogProbs>) {
        let bytes = bytes_of(spellings, id);
        let top = found.map(|found| {
            let likeliest = found.top.iter().map(|&(id, p)| (name(bytes_of(spellings, id)), p.into()));
            let mut top: Map<String, Value> = likeliest.collect();
            // The token itself is always among them.
            top.entry(name(bytes)).or_insert_with(|| found.own.into());
            top
        });
        self.tokens.push(name(bytes));
        self.own.push(found.map(|found| found.own));
        self.top.push(top);
        self.offsets.push(self.offset);
        self.offset += spellings.get(id as usize).map_or(0, |spelling| spelling.characters);
    }

    fn json(self) -> Value {
        let Self { tokens, own, top, offsets, .. } = self;
        json!({ "tokens": tokens, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets })
    }
}
