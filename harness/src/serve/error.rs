//! Errors in OpenAI's format, with the status codes that its clients expect.

use super::scheduler::{Failure, Refusal};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error sent to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// 400, 401, 403, 404, 405, 408 or 413 for errors of the client, 500 for those of the server, and 503 for temporary
    /// ones.
    pub status: StatusCode,
    /// What is wrong, and what was expected.
    pub message: String,
    /// Name of the parameter at fault, if one is.
    pub param: Option<String>,
    /// Machine-readable code.
    pub code: Option<&'static str>,
}

/// A path parameter; if it is not valid UTF-8, the error is in OpenAI's format too.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = Path::from_request_parts(parts, state).await;
        found.map(|Path(name)| Self(name)).map_err(|problem| ApiError::bad(problem.body_text()))
    }
}

impl ApiError {
    /// Creates an error without a parameter.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// Creates an error for a malformed request.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Creates an error for an invalid parameter; the message begins with its name.
    pub fn param(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { param: Some(name.into()), ..Self::bad(format!("{name}: {problem}")) }
    }

    /// Creates an error for something that does not exist.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// Creates an error for a fault of the server or the model.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Adds a machine-readable code.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Returns the response body.
    pub fn json(&self) -> Value {
        let kind = match self.status {
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

/// Creates an error for a method that a path does not support.
pub fn wrong_method(method: &Method, path: &str) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for {path}"))
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::DeadlineInQueue => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the time limit passed while the request was queued; try again later",
            )
            .with_code("overloaded"),
            Failure::Model(problem) => Self::internal(problem),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (message, code) = match refusal {
            Refusal::Full => ("too many requests are queued; try again later", "overloaded"),
            Refusal::Closed => ("the server is shutting down", "shutting_down"),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code(code)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, self.json().to_string()).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
