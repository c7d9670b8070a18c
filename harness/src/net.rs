//! HTTP client.

use std::io;
use std::time::Duration;
use ureq::http::HeaderMap;
use ureq::http::header::RETRY_AFTER;
use ureq::{Agent, Error};

/// Time limit of connecting, TLS handshake included.
const CONNECT: Duration = Duration::from_secs(20);

/// Creates an HTTP agent that reuses connections; `silence` is the maximum wait for the next bytes of a response. It
/// honours HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
///
/// Error statuses and redirects are returned as ordinary responses; the caller follows only redirects that it trusts.
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

/// Describes for people why there was no response, without the address, which they know.
pub fn trouble(error: &Error) -> String {
    match error {
        Error::HostNotFound => "unknown host".into(),
        Error::Timeout(_) => "no answer in time".into(),
        Error::ConnectionFailed => "no connection".into(),
        Error::Io(error) => interrupted(error),
        Error::Rustls(error) => format!("no TLS connection: {error}"),
        other => other.to_string(),
    }
}

/// Describes for people why reading a response ended.
pub fn interrupted(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(inner) => trouble(inner),
        None => error.to_string(),
    }
}

/// Returns the wait that a server asks for in `Retry-After`, if it is given in seconds.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_refused_connection_is_reported() {
        // A port that was free a moment ago, so nothing listens on it.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = agent(CONNECT).get(format!("http://127.0.0.1:{port}/")).call().unwrap_err();
        assert!(trouble(&error).contains("refused"), "{error}");
    }
}
