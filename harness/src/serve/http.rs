//! The endpoints. Access control is in [`super::access`], connections are in [`super::server`].

use super::answer::{About, Answer, error_event};
use super::ask::{Ask, Endpoint, Prepared};
use super::error::{ApiError, Name, wrong_method};
use super::models::Served;
use super::scheduler::{Refusal, Update};
use super::{Options, access, browse, metrics, page};
use crate::system::now;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// Time limit for a client to send a body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Maximum number of scheduler events in one chunk of a stream.
const EVENTS: usize = 1024;

/// State shared by all endpoints.
pub struct App {
    /// The models; a request must name one unless there is only one.
    pub models: Vec<Arc<Served>>,
    /// Options of the server.
    pub options: Options,
    /// Number of responses by endpoint and status.
    pub answered: metrics::Answered,
    /// Cached status of sweeps.
    pub status_cache: browse::StatusCache,
    /// Number of the next answer, part of its id.
    pub next: AtomicU64,
}

/// Builds the router of all endpoints.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completion))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/health", get(health))
        .route("/metrics", get(metrics::metrics))
        .route("/api/models", get(browse::models))
        .route("/api/sweeps", get(browse::sweeps))
        .route("/api/sweeps/{name}", get(browse::sweep))
        .route("/api/runs/{run}/metrics", get(browse::run_metrics))
        .route("/results/{*path}", get(browse::file))
        .fallback(page::page)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::authorize))
        .with_state(app)
}

async fn method_not_allowed(request: Request) -> ApiError {
    wrong_method(request.method(), request.uri().path())
}

/// Creates a JSON response.
pub fn json_response(value: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (kind, value.to_string()).into_response()
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    complete(app, request, Endpoint::Chat).await
}

async fn completion(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    complete(app, request, Endpoint::Completion).await
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match app.models.iter().find(|served| served.scheduler.has_failed()) {
        None => Ok(json_response(&json!({ "status": "ok" }))),
        Some(served) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the model {} has stopped", served.name),
        )),
    }
}

fn about(served: &Served) -> Value {
    json!({
        "id": served.name, "object": "model", "created": served.created, "owned_by": "mindscale",
        "max_model_len": served.context,
    })
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let data: Vec<Value> = app.models.iter().map(|served| about(served)).collect();
    json_response(&json!({ "object": "list", "data": data }))
}

async fn model(State(app): State<Arc<App>>, Name(name): Name) -> Result<Response, ApiError> {
    Ok(json_response(&about(app.named(Some(&name))?)))
}

impl App {
    /// Returns the model with this name; without a name, the only model.
    fn named(&self, name: Option<&str>) -> Result<&Arc<Served>, ApiError> {
        let names = || self.models.iter().map(|served| served.name.as_str()).collect::<Vec<_>>().join(", ");
        match (name, self.models.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => {
                Err(ApiError::param("model", format_args!("is missing, expected one of {}", names())))
            }
            (Some(name), all) => all.iter().find(|served| served.name == name).ok_or_else(|| ApiError {
                param: Some("model".into()),
                ..ApiError::missing(format!("there is no model {name:?} here, expected one of {}", names()))
                    .with_code("model_not_found")
            }),
        }
    }
}

/// Reads a body within the limits of size and time.
async fn body(app: &App, request: Request) -> Result<Bytes, ApiError> {
    let limit = app.options.body_limit;
    let too_large = || {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body exceeds the limit of {limit} bytes"))
    };
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|len| len > limit as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_TIME, axum::body::to_bytes(request.into_body(), limit));
    match read.await {
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body was not received in time")),
        // The only error that is not one of the connection.
        Ok(Err(error)) if format!("{error:?}").contains("LengthLimit") => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad(format!("the body cannot be read: {error}"))),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

async fn complete(app: Arc<App>, request: Request, endpoint: Endpoint) -> Result<Response, ApiError> {
    let deadline = Instant::now() + app.options.time_limit;
    let body = body(&app, request).await?;
    let own = Arc::clone(&app);
    // Long prompts take a while to tokenize; other requests proceed in the meantime.
    let prepared = tokio::task::spawn_blocking(move || prepare(&own, &body, endpoint, deadline));
    let (served, about, stream, prepared) =
        prepared.await.map_err(|_| ApiError::internal("the request could not be prepared"))??;
    let mut updates = served.scheduler.submit(prepared.requests).map_err(|refusal| match refusal {
        Refusal::Closed if served.scheduler.has_failed() => {
            ApiError::internal(format!("the model {} has stopped", served.name))
        }
        refusal => refusal.into(),
    })?;
    let mut answer = Answer::new(about);
    if !stream {
        while !answer.is_complete() {
            answer.push(updates.recv().await.ok_or_else(worker_gone)?)?;
        }
        return Ok(json_response(&answer.whole()));
    }
    // If the request fails before the first event, the response still has the status of the error.
    answer.push(updates.recv().await.ok_or_else(worker_gone)?)?;
    let events = Events { updates, answer, first: true, is_over: false };
    let kind = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((kind, Body::new(events)).into_response())
}

fn worker_gone() -> ApiError {
    ApiError::internal("the model's thread has ended in the middle of an answer")
}

fn prepare(
    app: &App,
    body: &[u8],
    endpoint: Endpoint,
    deadline: Instant,
) -> Result<(Arc<Served>, About, bool, Prepared), ApiError> {
    let ask = Ask::read(body, endpoint)?;
    let served = Arc::clone(app.named(ask.model.as_deref())?);
    let most = app.options.limits.waiting;
    if ask.prompts() > most {
        return Err(ApiError::param(
            "prompt",
            format_args!("has {} prompts, expected at most {most}", ask.prompts()),
        ));
    }
    let (stream, n, log_probs, include_usage) =
        (ask.stream, ask.n, ask.log_probs.is_some(), ask.include_usage);
    let mut prepared = ask.prepare(&served, deadline)?;
    let kind = if endpoint == Endpoint::Chat { "chatcmpl" } else { "cmpl" };
    let about = About {
        id: format!("{kind}-{}-{}", served.created, app.next.fetch_add(1, Ordering::Relaxed)),
        created: now() as u64,
        model: served.name.clone(),
        endpoint,
        n,
        log_probs,
        include_usage,
        prompts: prepared.requests.iter().map(|request| request.prompt.clone()).collect(),
        echoes: std::mem::take(&mut prepared.echoes),
        spellings: Arc::clone(&served.spellings),
    };
    Ok((served, about, stream, prepared))
}

/// A stream of server-sent events. When its connection drops it, the request is abandoned.
struct Events {
    updates: UnboundedReceiver<Update>,
    answer: Answer,
    first: bool,
    is_over: bool,
}

impl Events {
    /// Adds an event to the answer; an error ends the stream and is returned as an event.
    fn push(&mut self, update: Option<Update>) -> Option<String> {
        let pushed = update.ok_or_else(worker_gone).and_then(|update| self.answer.push(update));
        pushed.err().map(|error| error_event(&error))
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if self.is_over {
                return Poll::Ready(None);
            }
            let mut failed = None;
            if !std::mem::take(&mut self.first) {
                let Poll::Ready(update) = self.updates.poll_recv(context) else { return Poll::Pending };
                failed = self.push(update);
            }
            for _ in 0..EVENTS {
                let (None, Ok(update)) = (&failed, self.updates.try_recv()) else { break };
                failed = self.push(Some(update));
            }
            self.is_over = failed.is_some() || self.answer.is_complete();
            let events = failed.unwrap_or_else(|| self.answer.events());
            if !events.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(events.into()))));
            }
        }
    }
}
