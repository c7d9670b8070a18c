//! Requests of OpenAI's clients, parsed from JSON: chats and completions.

use super::error::ApiError;
use super::fields::{Fields, kind, shown};
use super::models::Served;
use super::scheduler::Request;
use crate::data::{Message, SpecialText};
use model::{GenerateOptions, Sampling};
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

/// Maximum number of texts per prompt.
const MAX_CHOICES: i64 = 64;

/// Maximum number of top log-probabilities per position.
const MAX_TOP: i64 = 20;

/// Maximum number of stop strings.
const MAX_STOPS: usize = 16;

/// Default of `max_tokens` for completions, as in OpenAI's API.
const USUAL_TOKENS: usize = 16;

/// One of the two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// The prompts of a request.
#[derive(Debug, Clone, PartialEq)]
enum Prompts {
    Chat(Vec<Message>),
    Texts(Vec<String>),
    Ids(Vec<Vec<u32>>),
}

/// A request, validated as far as possible without its model.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// Name of the model; `None` if the request names none.
    pub model: Option<String>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with the token counts.
    pub include_usage: bool,
    /// Number of texts per prompt.
    pub n: usize,
    /// Number of top log-probabilities per position; `None` for no log-probabilities.
    pub log_probs: Option<usize>,
    /// Whether the prompt is echoed.
    pub echo: bool,
    prompts: Prompts,
    /// Maximum number of new tokens; `None` for no limit.
    max_tokens: Option<usize>,
    sampling: Sampling,
    seed: Option<u64>,
    stop: Vec<String>,
    /// Whether to treat the end-of-text token as an ordinary one, for example to measure speed.
    ignore_eos: bool,
}

/// Requests to the scheduler, with the prompts to echo.
pub struct Prepared {
    /// One request per prompt.
    pub requests: Vec<Request>,
    /// Text of each prompt if it is echoed, otherwise `None`.
    pub echoes: Vec<Option<String>>,
}

impl Ask {
    /// Parses a request body.
    ///
    /// # Errors
    /// If the body is invalid; the error names the parameter.
    pub fn read(body: &[u8], endpoint: Endpoint) -> Result<Self, ApiError> {
        let mut fields = Fields::read(body)?;
        let model = fields.text("model")?;
        let stream = fields.flag("stream")?;
        let include_usage = stream_options(&mut fields, stream)?;
        let n = fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1) as usize;
        let sampling = sampling(&mut fields)?;
        let seed = fields.seed("seed")?;
        let stop = stops(fields.take("stop"))?;
        let ignore_eos = fields.flag("ignore_eos")?;
        let (prompts, max_tokens, log_probs, echo) = match endpoint {
            Endpoint::Chat => {
                let prompts = Prompts::Chat(messages(fields.take("messages"))?);
                (prompts, chat_limit(&mut fields)?, chat_log_probs(&mut fields)?, false)
            }
            Endpoint::Completion => {
                let prompts = prompts(fields.take("prompt"))?;
                let most = fields.integer("max_tokens", -1..=i64::MAX)?;
                let most = most.map_or(Some(USUAL_TOKENS), |most| usize::try_from(most).ok());
                let log_probs = fields.integer("logprobs", 0..=MAX_TOP)?.map(|top| top as usize);
                if let Some(best_of) =
                    fields.integer("best_of", 1..=MAX_CHOICES)?.filter(|&best| best != n as i64)
                {
                    return Err(ApiError::param(
                        "best_of",
                        format_args!("is {best_of}, expected n, which is {n}"),
                    ));
                }
                fields.refuse("suffix", &[json!("")])?;
                (prompts, most, log_probs, fields.flag("echo")?)
            }
        };
        refuse_others(&mut fields)?;
        fields.finish()?;
        Ok(Self {
            model,
            stream,
            include_usage,
            n,
            log_probs,
            echo,
            prompts,
            max_tokens,
            sampling,
            seed,
            stop,
            ignore_eos,
        })
    }

    /// Returns the number of prompts.
    pub fn prompts(&self) -> usize {
        match &self.prompts {
            Prompts::Chat(_) => 1,
            Prompts::Texts(texts) => texts.len(),
            Prompts::Ids(all) => all.len(),
        }
    }

    /// Tokenizes the prompts and prepares the requests for a model.
    ///
    /// # Errors
    /// If a prompt cannot be tokenized, is too long, or contains ids outside the vocabulary.
    pub fn prepare(self, served: &Served, deadline: Instant) -> Result<Prepared, ApiError> {
        let Self { n, log_probs, echo, prompts, max_tokens, sampling, seed, stop, ignore_eos, .. } = self;
        let tokenizer = &served.tokenizer;
        // Only the cause: its context names files of the server.
        let bad = |name: &str, error: anyhow::Error| ApiError::param(name, error.root_cause());
        let prompts: Vec<(Vec<u32>, Option<String>)> = match prompts {
            Prompts::Chat(messages) => {
                let found = tokenizer.conversation(&messages, SpecialText::Characters);
                vec![(found.map_err(|error| bad("messages", error))?.ids, None)]
            }
            Prompts::Texts(texts) => {
                let one = |text: String| {
                    let ids = tokenizer.encode_opening(&text, SpecialText::Characters);
                    Ok((ids.map_err(|error| bad("prompt", error))?, Some(text)))
                };
                texts.into_iter().map(one).collect::<Result<_, ApiError>>()?
            }
            Prompts::Ids(all) => {
                let one = |ids: Vec<u32>| {
                    let text = tokenizer.decode(&ids, true).map_err(|error| bad("prompt", error))?;
                    Ok((ids, Some(text)))
                };
                all.into_iter().map(one).collect::<Result<_, ApiError>>()?
            }
        };
        let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        let end: Vec<u32> = tokenizer.eos().into_iter().filter(|_| !ignore_eos).collect();
        let (mut requests, mut echoes) = (vec![], vec![]);
        for (number, (prompt, text)) in prompts.into_iter().enumerate() {
            let room = served.room(&prompt)?;
            // Silently truncating to no tokens would corrupt a score that relies on the one token.
            if room == 0 && max_tokens != Some(0) {
                let problem = format!(
                    "the prompt fills this model's maximum context length of {} tokens, which leaves no room for a token; \
                     shorten it, or score it with max_tokens = 0",
                    served.context
                );
                return Err(ApiError::bad(problem).with_code("context_length_exceeded"));
            }
            let max_tokens = max_tokens.map_or(room, |most| most.min(room));
            let options =
                GenerateOptions { max_tokens, sampling, seed, choice: 0, stop: end.clone(), log_probs };
            let choices = (0..n as u64).map(|choice| GenerateOptions { choice, ..options.clone() });
            requests.push(Request {
                prompt,
                options: choices.collect(),
                prompt_log_probs: log_probs.filter(|_| echo),
                stop: stop.clone(),
                deadline,
                first_choice: number * n,
            });
            echoes.push(text.filter(|_| echo));
        }
        Ok(Prepared { requests, echoes })
    }
}

fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(options) = fields.take("stream_options") else { return Ok(false) };
    if !stream {
        return Err(ApiError::param("stream_options", "is only for stream = true"));
    }
    let Value::Object(options) = options else {
        return Err(ApiError::param(
            "stream_options",
            "expected an object such as {\"include_usage\": true}",
        ));
    };
    let mut options = Fields::within(options, "stream_options.".into());
    let include_usage = options.flag("include_usage")?;
    options.ignore(&["include_obfuscation"]);
    options.finish()?;
    Ok(include_usage)
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let sampling = Sampling {
        temperature: fields.number("temperature")?.unwrap_or(1.0),
        top_p: fields.number("top_p")?.unwrap_or(1.0),
        min_p: fields.number("min_p")?.unwrap_or(0.0),
        // -1 means all in other servers.
        top_k: fields.integer("top_k", -1..=i64::MAX)?.map_or(0, |k| k.max(0) as usize),
        repetition_penalty: fields.number("repetition_penalty")?.unwrap_or(1.0),
    };
    let alone = |name: &'static str, sampling: Sampling| {
        sampling
            .validate()
            .map_err(|error| ApiError { param: Some(name.into()), ..ApiError::bad(error.to_string()) })
    };
    let Sampling { temperature, top_p, min_p, repetition_penalty, .. } = sampling;
    alone("temperature", Sampling { temperature, ..Sampling::default() })?;
    alone("top_p", Sampling { top_p, ..Sampling::default() })?;
    alone("min_p", Sampling { min_p, ..Sampling::default() })?;
    alone("repetition_penalty", Sampling { repetition_penalty, ..Sampling::default() })?;
    Ok(sampling)
}

fn stops(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let expected =
        || ApiError::param("stop", format_args!("expected a text or a list of at most {MAX_STOPS} texts"));
    let texts = match value {
        None => vec![],
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(all)) if all.len() <= MAX_STOPS => {
            let text = |value: Value| if let Value::String(text) = value { Some(text) } else { None };
            all.into_iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(expected)?
        }
        Some(_) => return Err(expected()),
    };
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Reads `max_tokens` and its newer name; -1, as MiniMind's example sends it, is no limit.
fn chat_limit(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let mut limit = |name| -> Result<Option<i64>, ApiError> {
        match fields.integer(name, -1..=i64::MAX)? {
            Some(0) => Err(ApiError::param(name, "is 0, expected 1 or more, or -1 for no limit")),
            other => Ok(other),
        }
    };
    let (old, new) = (limit("max_tokens")?, limit("max_completion_tokens")?);
    if let (Some(old), Some(new)) = (old, new)
        && old != new
    {
        let problem = format_args!("is {new} and max_tokens {old}; give one of them").to_string();
        return Err(ApiError::param("max_completion_tokens", problem));
    }
    Ok(new.or(old).and_then(|most| usize::try_from(most).ok()))
}

fn chat_log_probs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.flag("logprobs")?;
    match fields.integer("top_logprobs", 0..=MAX_TOP)? {
        Some(top) if !wanted && top > 0 => {
            Err(ApiError::param("top_logprobs", "is only for logprobs = true"))
        }
        top => Ok(wanted.then(|| top.unwrap_or(0) as usize)),
    }
}

/// Rejects parameters of other servers that are not supported here, and ignores those that do not affect answers.
fn refuse_others(fields: &mut Fields) -> Result<(), ApiError> {
    let (zero, none, list, object) = (json!(0), json!("none"), json!([]), json!({}));
    fields.refuse("frequency_penalty", std::slice::from_ref(&zero))?;
    fields.refuse("presence_penalty", std::slice::from_ref(&zero))?;
    fields.refuse("logit_bias", std::slice::from_ref(&object))?;
    fields.refuse("tools", std::slice::from_ref(&list))?;
    fields.refuse("functions", std::slice::from_ref(&list))?;
    fields.refuse("tool_choice", &[none.clone(), json!("auto")])?;
    fields.refuse("function_call", &[none, json!("auto")])?;
    fields.refuse("response_format", &[json!({ "type": "text" })])?;
    fields.refuse("modalities", &[json!(["text"])])?;
    fields.refuse("audio", &[])?;
    fields.refuse("prediction", &[])?;
    fields.refuse("web_search_options", &[])?;
    fields.ignore(&[
        "user",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "reasoning_effort",
        "verbosity",
    ]);
    Ok(())
}

fn messages(value: Option<Value>) -> Result<Vec<Message>, ApiError> {
    let example = "a list of objects such as {\"role\": \"user\", \"content\": \"...\"}";
    let all = match value {
        Some(Value::Array(all)) => all,
        Some(other) => {
            let problem = format_args!("is {}, expected {example}", kind(&other)).to_string();
            return Err(ApiError::param("messages", problem));
        }
        None => return Err(ApiError::param("messages", format_args!("is missing, expected {example}"))),
    };
    let messages: Vec<Message> = all
        .into_iter()
        .enumerate()
        .map(|(turn, value)| message(&format!("messages[{turn}]"), value))
        .collect::<Result<_, _>>()?;
    match messages.last() {
        None => Err(ApiError::param("messages", "is empty, expected one at least")),
        Some(last) if last.role == "assistant" => {
            Err(ApiError::param("messages", "the last one is the assistant's, expected one to answer"))
        }
        Some(_) => Ok(messages),
    }
}

fn message(place: &str, value: Value) -> Result<Message, ApiError> {
    let Value::Object(fields) = value else {
        return Err(ApiError::param(place, format_args!("is {}, expected an object", kind(&value))));
    };
    let mut fields = Fields::within(fields, format!("{place}."));
    let role = match fields.take("role").as_ref().and_then(Value::as_str) {
        // `developer` is the newer name of `system`.
        Some("developer" | "system") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        other => {
            let problem = other.map_or("is missing or no text".to_owned(), |role| format!("is {role:?}"));
            return Err(fields.wrong("role", format_args!("{problem}, expected system, user or assistant")));
        }
    };
    fields.refuse("tool_calls", &[json!([])])?;
    fields.refuse("function_call", &[])?;
    fields.refuse("audio", &[])?;
    fields.refuse("type", &[json!("text"), json!("message")])?;
    // Clients send back the messages of earlier answers with all their fields.
    fields.ignore(&["name", "refusal", "annotations"]);
    let content = content(&format!("{place}.content"), fields.take("content"))?;
    fields.finish()?;
    Ok(Message::new(role, content))
}

/// Parses a message's content: a text, or parts of text, which are concatenated.
fn content(place: &str, value: Option<Value>) -> Result<String, ApiError> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            let part = |part: &Value| match (part.get("type").and_then(Value::as_str), part.get("text")) {
                (Some("text"), Some(Value::String(text))) => Ok(text.clone()),
                _ => Err(ApiError::param(
                    place,
                    format_args!(
                        "has the part {}, expected {{\"type\": \"text\", \"text\": \"...\"}}",
                        shown(part)
                    ),
                )),
            };
            parts.iter().map(part).collect()
        }
        other => {
            let what = other.as_ref().map_or("missing", kind);
            Err(ApiError::param(place, format_args!("is {what}, expected a text or a list of parts of text")))
        }
    }
}

fn prompts(value: Option<Value>) -> Result<Prompts, ApiError> {
    let wrong = |what: &str| {
        let expected = "expected a text, a list of texts, a list of token ids, or a list of such lists";
        Err(ApiError::param("prompt", format_args!("{what}, {expected}")))
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = |value: &Value| value.as_array()?.iter().map(id).collect::<Option<Vec<u32>>>();
    match value {
        None => wrong("is missing"),
        Some(Value::String(text)) => Ok(Prompts::Texts(vec![text])),
        Some(Value::Array(all)) if all.is_empty() => wrong("is empty"),
        Some(Value::Array(all)) => {
            if let Some(texts) = all.iter().map(text).collect() {
                Ok(Prompts::Texts(texts))
            } else if let Some(prompt) = all.iter().map(id).collect() {
                Ok(Prompts::Ids(vec![prompt]))
            } else if let Some(prompts) = all.iter().map(ids).collect::<Option<Vec<_>>>() {
                match prompts.iter().any(Vec::is_empty) {
                    true => wrong("has an empty list of ids"),
                    false => Ok(Prompts::Ids(prompts)),
                }
            } else {
                wrong("is a list of something else")
            }
        }
        Some(other) => wrong(&format!("is {}", kind(&other))),
    }
}
