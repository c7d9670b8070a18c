//! Client of a server with an OpenAI-compatible API.

use crate::net::{agent, retry_after, trouble};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{HeaderValue, StatusCode, Uri, header};

/// Maximum number of attempts per question.
const TRIES: u32 = 4;

/// Time limit of a request, including its response.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Wait before the second attempt; each later wait is twice as long.
const WAIT: Duration = Duration::from_secs(1);

/// Maximum wait, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Maximum number of bytes of a response that are read.
const LONGEST: u64 = 1 << 20;

/// Interval at which `stop` is checked while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// A model on a server.
pub struct Client {
    agent: Agent,
    url: String,
    model: String,
    key: Option<HeaderValue>,
    wait: Duration,
    /// Whether requests set the temperature; some models have a fixed one and say so.
    has_temperature: AtomicBool,
}

/// The reason why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Description for people.
    pub text: String,
    /// What the problem affects.
    pub reach: Reach,
}

/// What a problem affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Only this question, for example one that is too long.
    Question,
    /// The network or the server, which may recover.
    Server,
    /// All questions, for example a wrong key or an unknown model.
    All,
}

/// A failed attempt.
struct Missed {
    problem: Problem,
    /// Whether another attempt may succeed.
    may_pass: bool,
    /// Whether the model rejects the temperature.
    is_temperature: bool,
    /// Wait that the server asks for.
    retry_after: Option<Duration>,
}

impl Client {
    /// Creates a client of `model` on the server whose base URL is `url`, such as `http://127.0.0.1:8000/v1`.
    ///
    /// # Errors
    /// If `url` is not an HTTP URL, or the key contains characters that no header may have.
    pub fn new(url: &str, model: &str, key: Option<&str>) -> Result<Self> {
        let base = url.trim_end_matches('/').trim_end_matches("/chat/completions");
        let expected = "expected the base URL of a server, such as https://api.openai.com/v1";
        let uri: Uri = base.parse().with_context(|| format!("{url}: is not a URL, {expected}"))?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().filter(|_| is_http && uri.query().is_none());
        ensure!(host.is_some(), "{url}: {expected}");
        let key = key.map(|key| HeaderValue::try_from(format!("Bearer {key}")));
        let mut key =
            key.transpose().context("the judge's key has characters that are not allowed in a header")?;
        key.iter_mut().for_each(|key| key.set_sensitive(true));
        let (agent, url) = (agent(TIMEOUT), format!("{base}/chat/completions"));
        Ok(Self { agent, url, model: model.into(), key, wait: WAIT, has_temperature: true.into() })
    }

    /// Returns the model's name on the server.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Changes the first wait, for tests.
    #[cfg(test)]
    pub fn waiting(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Returns the model's reply to a system and a user message, at temperature 0. Failures of the network or the
    /// server are retried, up to four attempts in all.
    ///
    /// # Errors
    /// If there is no reply, or it has another format.
    pub fn reply(&self, system: &str, user: &str, stop: &AtomicBool) -> Result<String, Problem> {
        let messages = json!([{ "role": "system", "content": system }, { "role": "user", "content": user }]);
        let mut body = json!({ "model": self.model, "messages": messages });
        let mut wait = self.wait;
        let mut tries = 1;
        loop {
            let has_temperature = self.has_temperature.load(Ordering::Relaxed);
            match body.as_object_mut() {
                Some(body) if !has_temperature => drop(body.remove("temperature")),
                _ => body["temperature"] = 0.into(),
            }
            let missed = match self.once(&body.to_string()) {
                Ok(reply) => return Ok(reply),
                Err(missed) if missed.is_temperature && has_temperature => {
                    self.has_temperature.store(false, Ordering::Relaxed);
                    continue;
                }
                Err(missed) => missed,
            };
            if !missed.may_pass || tries == TRIES || stop.load(Ordering::Relaxed) {
                return Err(missed.problem);
            }
            let mut left = missed.retry_after.unwrap_or(wait).min(LONGEST_WAIT);
            while !left.is_zero() && !stop.load(Ordering::Relaxed) {
                let now = left.min(LOOK);
                sleep(now);
                left -= now;
            }
            (wait, tries) = (2 * wait, tries + 1);
        }
    }

    fn once(&self, body: &str) -> Result<String, Missed> {
        let network = |error: ureq::Error| Missed {
            problem: Problem { text: trouble(&error), reach: Reach::Server },
            may_pass: true,
            is_temperature: false,
            retry_after: None,
        };
        let request = self.agent.post(&self.url).config().timeout_global(Some(TIMEOUT)).build();
        let mut request = request.content_type("application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        let mut response = request.send(body).map_err(network)?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let text = response.body_mut().with_config().limit(LONGEST).read_to_string().map_err(network)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        if status == StatusCode::OK {
            let content = answer["choices"][0]["message"]["content"].as_str();
            return content.map(str::to_owned).ok_or_else(|| Missed {
                problem: Problem {
                    text: "the answer has no choices[0].message.content".into(),
                    reach: Reach::Question,
                },
                may_pass: false,
                is_temperature: false,
                retry_after: None,
            });
        }
        let error = &answer["error"];
        let said: String =
            error["message"].as_str().or(error.as_str()).unwrap_or_default().chars().take(300).collect();
        let colon = if said.is_empty() { "" } else { ": " };
        let status = status.as_u16();
        let may_pass = matches!(status, 408 | 409 | 425 | 429 | 500..);
        let reach = match status {
            300..=399 | 401 | 403 | 404 | 405 => Reach::All,
            _ if may_pass => Reach::Server,
            _ => Reach::Question,
        };
        Err(Missed {
            problem: Problem { text: format!("status {status}{colon}{said}"), reach },
            may_pass,
            is_temperature: status == 400 && error["param"] == "temperature",
            retry_after,
        })
    }
}
