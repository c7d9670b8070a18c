//! HTTP as a client.

use std::io;
use std::time::Duration;
use ureq::http::HeaderMap;
use ureq::http::header::RETRY_AFTER;
use ureq::{Agent, Error};

/// Longest wait for a connection, the handshake of TLS with it.
const CONNECT: Duration = Duration::from_secs(20);

/// An agent for all requests of a task, which keeps its connections: `silence` is the longest wait for the next
/// bytes of an answer. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured.
///
/// Any status is an answer and no error, and redirects are answers too: who asks follows them as far as he trusts them.
pub fn agent(silence: Duration) -> Agent {
    Agent::config_builder()
        .user_agent(concat!("mindscale/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(silence))
        .timeout_per_write(Some(silence))
        .build()
        .into()
}

/// What kept an answer from coming, for people: without the address, which they know.
pub fn trouble(error: &Error) -> String {
    match error {
        Error::HostNotFound => "no such host is known here".into(),
        Error::Timeout(_) => "no answer in time".into(),
        Error::ConnectionFailed => "no connection".into(),
        Error::Io(error) => interrupted(error),
        Error::Rustls(error) => format!("no secure connection: {error}"),
        other => other.to_string(),
    }
}

/// What ended the reading of an answer, for people.
pub fn interrupted(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(inner) => trouble(inner),
        None => error.to_string(),
    }
}

/// When a server wants to be asked again, where it says so in seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refused_connection_is_told() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = agent(CONNECT).get(format!("http://127.0.0.1:{port}/")).call().unwrap_err();
        assert!(trouble(&error).contains("refused"), "{error}");
    }
}
