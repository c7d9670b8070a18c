//! Errors in OpenAI's shape, with the status codes that its clients expect.

use super::scheduler::{Failure, Refusal};
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An error as the client gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// 400 for what the client can mend, 401, 403, 404, 405, 408, 413, 500, and 503 for what passes.
    pub status: StatusCode,
    /// What is wrong, what was expected.
    pub message: String,
    /// The parameter that is wrong.
    pub param: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

/// What a path has in the place of a name; bytes that are no text are an error in OpenAI's shape too.
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let found = Path::from_request_parts(parts, state).await;
        found.map(|Path(name)| Self(name)).map_err(|problem| ApiError::bad(problem.body_text()))
    }
}

impl ApiError {
    /// An error that is no parameter's.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A request that cannot be understood.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A parameter that cannot have its value; the message begins with its name.
    pub fn param(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { param: Some(name.into()), ..Self::bad(format!("{name}: {problem}")) }
    }

    /// Something that is not there.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A fault of this program, or of the model.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same with a word for programs.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The body.
    pub fn json(&self) -> Value {
        let kind = match self.status {
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.param, "code": self.code } })
    }
}

/// A path that is asked for in another way than it can be.
pub fn wrong_method(method: &Method, path: &str) -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}"))
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Waited => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the time limit was over before its turn came; try again later",
            )
            .with_code("overloaded"),
            Failure::Model(problem) => Self::internal(problem),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let (message, code) = match refusal {
            Refusal::Full => ("too many requests wait already; try again later", "overloaded"),
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
