//! `/metrics` in Prometheus's text format.

use super::http::App;
use super::scheduler::Counts;
use crate::system::peak_rss_mb;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// Endpoints that are counted separately.
const ENDPOINTS: [&str; 2] = ["/v1/chat/completions", "/v1/completions"];

/// Number of responses by endpoint and status.
#[derive(Debug, Default)]
pub struct Answered(Mutex<BTreeMap<(&'static str, u16), u64>>);

impl Answered {
    /// Counts a response.
    pub fn count(&self, path: &str, status: StatusCode) {
        let endpoint = ENDPOINTS.into_iter().find(|endpoint| *endpoint == path).unwrap_or("other");
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((endpoint, status.as_u16())).or_default() += 1;
    }
}

/// A metric of each model: name, type, help text, value.
type Series = (&'static str, &'static str, &'static str, fn(&Counts) -> u64);

const OF_MODELS: [Series; 7] = [
    ("mindscale_texts_writing", "gauge", "Texts being generated", |c| {
        c.writing.load(Ordering::Relaxed) as u64
    }),
    ("mindscale_requests_waiting", "gauge", "Requests waiting in the queue", |c| {
        c.waiting.load(Ordering::Relaxed) as u64
    }),
    ("mindscale_requests_total", "counter", "Requests accepted, one for each prompt", |c| {
        c.requests.load(Ordering::Relaxed)
    }),
    ("mindscale_prompt_tokens_total", "counter", "Tokens of prompts", |c| {
        c.prompt_tokens.load(Ordering::Relaxed)
    }),
    ("mindscale_written_tokens_total", "counter", "Tokens written", |c| c.tokens.load(Ordering::Relaxed)),
    ("mindscale_steps_total", "counter", "Steps, each over the texts of one worker", |c| {
        c.steps.load(Ordering::Relaxed)
    }),
    ("mindscale_texts_abandoned_total", "counter", "Texts whose client disconnected", |c| {
        c.abandoned.load(Ordering::Relaxed)
    }),
];

/// Serves `/metrics`.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text(&app)).into_response()
}

fn text(app: &App) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, kind, help, value) in OF_MODELS {
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for served in &app.models {
            let model = label(&served.name);
            let _ = writeln!(text, "{name}{{model=\"{model}\"}} {}", value(served.scheduler.counts()));
        }
    }
    let name = "mindscale_responses_total";
    let _ = writeln!(text, "# HELP {name} Responses by endpoint and status.\n# TYPE {name} counter");
    for ((endpoint, status), count) in app.answered.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = writeln!(text, "{name}{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}");
    }
    let name = "mindscale_peak_memory_bytes";
    let peak = peak_rss_mb() * 1024.0 * 1024.0;
    let _ = writeln!(text, "# HELP {name} Largest resident set so far.\n# TYPE {name} gauge\n{name} {peak}");
    text
}

/// Escapes backslashes, quotes and line breaks in a label's value.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
