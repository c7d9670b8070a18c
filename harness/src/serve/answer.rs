//! Answers in OpenAI's formats: whole, or streamed as server-sent events.
//!
//! The scheduler's events are gathered choice by choice. A stream sends and forgets whatever has arrived since it was
//! last polled, so that a slow client gets fewer and larger pieces.

use super::ask::Endpoint;
use super::error::ApiError;
use super::models::Spelling;
use super::scheduler::{Ending, Update};
use model::{LogProbs, Token};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Metadata of an answer.
pub struct About {
    /// Id of the answer, such as `chatcmpl-1`.
    pub id: String,
    /// When it was begun, in seconds since 1970.
    pub created: u64,
    /// Name of the model.
    pub model: String,
    /// Endpoint, which determines the format.
    pub endpoint: Endpoint,
    /// Number of texts per prompt.
    pub n: usize,
    /// Whether log-probabilities are included.
    pub log_probs: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
    /// Ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Text of each prompt if it is echoed, otherwise `None`.
    pub echoes: Vec<Option<String>>,
    /// Text of each token, by id.
    pub spellings: Arc<[Spelling]>,
}

/// An answer as far as it has arrived.
pub struct Answer {
    about: About,
    prompts: Vec<Vec<LogProbs>>,
    choices: Vec<Choice>,
    /// What every event of a stream has before and after its choice.
    envelope: [String; 2],
}

#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<Token>,
    ending: Option<Ending>,
    written: usize,
    /// Number of characters already sent, an echoed prompt included.
    sent_chars: usize,
    is_begun: bool,
    is_over: bool,
}

impl Answer {
    /// Creates an empty answer.
    pub fn new(about: About) -> Self {
        let mut choices = vec![];
        choices.resize_with(about.prompts.len() * about.n, Choice::default);
        let envelope = envelope(&about);
        Self { prompts: vec![vec![]; about.prompts.len()], choices, about, envelope }
    }

    /// Adds an event of the scheduler.
    ///
    /// # Errors
    /// If the request failed.
    pub fn push(&mut self, update: Update) -> Result<(), ApiError> {
        match update {
            Update::Prompt { choice, log_probs } => self.prompts[choice / self.about.n].extend(log_probs),
            Update::Piece { choice, text, tokens } => {
                let choice = &mut self.choices[choice];
                choice.text += &text;
                choice.tokens.extend(tokens);
            }
            Update::End { choice, ending, tokens, by } => {
                let choice = &mut self.choices[choice];
                (choice.ending, choice.written) = (Some(ending), tokens);
                // Evaluation harnesses rely on getting the token that ends a continuation.
                if let Some(token) = by.filter(|_| self.about.endpoint == Endpoint::Completion) {
                    choice.written += 1;
                    choice.tokens.push(token);
                }
            }
            Update::Failed(failure) => return Err(failure.into()),
        }
        Ok(())
    }

    /// Returns whether every text has ended.
    pub fn is_complete(&self) -> bool {
        self.choices.iter().all(|choice| choice.ending.is_some())
    }

    /// Returns the numbers of prompt tokens and generated tokens.
    pub fn usage(&self) -> Value {
        let prompt: usize = self.about.prompts.iter().map(Vec::len).sum();
        let written: usize = self.choices.iter().map(|choice| choice.written).sum();
        json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written })
    }

    /// Returns the complete answer.
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
        let mut whole = head(&self.about, if is_chat { "chat.completion" } else { "text_completion" });
        whole["choices"] = choices.into();
        whole["usage"] = self.usage();
        whole
    }

    /// Returns what has arrived since the last call as events; including the final ones if the answer is complete.
    pub fn events(&mut self) -> String {
        let mut events = String::new();
        for index in 0..self.choices.len() {
            self.events_of(index, &mut events);
        }
        if self.is_complete() {
            if self.about.include_usage {
                let mut last = head(&self.about, chunk(&self.about));
                (last["choices"], last["usage"]) = (json!([]), self.usage());
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
        // The prompt's log-probabilities precede everything after it.
        let lacks = self.about.log_probs && self.prompts[prompt].len() + 1 < self.about.prompts[prompt].len();
        if choice.is_over || has_echo && lacks {
            return;
        }
        let is_first = !choice.is_begun;
        if is_first && is_chat {
            let delta = json!({ "role": "assistant", "content": "", "refusal": null });
            let first = json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
            self.event(events, &first);
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
            self.event(events, &piece);
        }
        if let Some(ending) = ending {
            let finish = finish_reason(ending);
            let last = match is_chat {
                true => json!({ "index": index, "delta": {}, "logprobs": null, "finish_reason": finish }),
                false => json!({ "index": index, "text": "", "logprobs": null, "finish_reason": finish }),
            };
            self.event(events, &last);
        }
        let choice = &mut self.choices[index];
        choice.is_begun |= is_first && (is_chat || has_more);
        choice.is_over = ending.is_some();
    }

    /// Appends the event of a choice.
    fn event(&self, events: &mut String, choice: &Value) {
        let [before, after] = &self.envelope;
        events.extend([before, choice.to_string().as_str(), after]);
    }

    /// Takes the text of a choice and the log-probabilities of its tokens that have not been taken yet; an echoed
    /// prompt comes first.
    fn take(&mut self, index: usize) -> (String, Value) {
        let prompt = index / self.about.n;
        let choice = &mut self.choices[index];
        let (mut text, tokens) = (std::mem::take(&mut choice.text), std::mem::take(&mut choice.tokens));
        let echo = self.about.echoes[prompt].as_ref().filter(|_| !choice.is_begun);
        if let Some(echo) = echo {
            text.insert_str(0, echo);
        }
        let offset = choice.sent_chars;
        choice.sent_chars += text.chars().count();
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

/// Returns the fields that whole answers and all events of a stream have.
fn head(about: &About, object: &str) -> Value {
    let About { id, created, model, .. } = about;
    json!({ "id": id, "object": object, "created": created, "model": model, "system_fingerprint": null })
}

/// Returns the type of a stream's events.
fn chunk(about: &About) -> &'static str {
    match about.endpoint {
        Endpoint::Chat => "chat.completion.chunk",
        Endpoint::Completion => "text_completion",
    }
}

/// Returns what every event of a stream has before and after its choice.
fn envelope(about: &About) -> [String; 2] {
    let head = head(about, chunk(about)).to_string();
    let usage = if about.include_usage { ",\"usage\":null" } else { "" };
    [format!("data: {},\"choices\":[", head.trim_end_matches('}')), format!("]{usage}}}\n\n")]
}

fn finish_reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Stop => "stop",
        Ending::Length | Ending::Time => "length",
    }
}

/// Appends a server-sent event; the JSON contains no line breaks.
fn event(events: &mut String, value: &Value) {
    *events += "data: ";
    *events += &value.to_string();
    *events += "\n\n";
}

/// Formats an error in the middle of a stream.
pub fn error_event(error: &ApiError) -> String {
    let mut events = String::new();
    event(&mut events, &error.json());
    events
}

fn bytes_of(spellings: &[Spelling], id: u32) -> &[u8] {
    spellings.get(id as usize).map_or(&[], |spelling| &spelling.bytes)
}

/// Formats a token's text; incomplete characters are written as OpenAI does: `bytes:\xe4\xbd`.
fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| name + &format!("\\x{byte:02x}")),
    }
}

/// Formats a token with its log-probability for the chat endpoint.
fn of_chat(spellings: &[Spelling], id: u32, found: &LogProbs) -> Value {
    let one = |id: u32, log_prob: f64| {
        let bytes = bytes_of(spellings, id);
        json!({ "token": name(bytes), "logprob": log_prob, "bytes": bytes })
    };
    let mut token = one(id, found.own);
    token["top_logprobs"] = found.top.iter().map(|&(id, log_prob)| one(id, log_prob)).collect();
    token
}

/// Log-probabilities in the format of the completions endpoint.
#[derive(Default)]
struct Legacy {
    tokens: Vec<String>,
    own: Vec<Option<f64>>,
    top: Vec<Option<Map<String, Value>>>,
    offsets: Vec<usize>,
    /// Number of characters before the next token.
    offset: usize,
}

impl Legacy {
    fn push(&mut self, spellings: &[Spelling], id: u32, found: Option<&LogProbs>) {
        let bytes = bytes_of(spellings, id);
        let top = found.map(|found| {
            let likeliest = found.top.iter().map(|&(id, p)| (name(bytes_of(spellings, id)), p.into()));
            let mut top: Map<String, Value> = likeliest.collect();
            // The token itself is always included.
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
