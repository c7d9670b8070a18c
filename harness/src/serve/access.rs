//! Access control: the API key, if one is set, and for browsers only pages of this server.

use super::error::ApiError;
use super::http::App;
use super::page;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;

/// Name of the cookie with which browsers request figures of reports, since they send no key with them.
const COOKIE: &str = "mindscale";

/// Admits or rejects a request, and adds security headers to every response.
pub async fn authorize(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = match check(&app, &request, &path) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.answered.count(&path, response.status());
    let headers = response.headers_mut();
    let mut put = |name, value| drop(headers.insert(name, HeaderValue::from_static(value)));
    put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(header::REFERRER_POLICY, "no-referrer");
    // Reports contain their own styles, and no scripts.
    put(
        header::CONTENT_SECURITY_POLICY,
        match path.starts_with("/results/") {
            true => {
                "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; \
                 frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
            }
            false => {
                "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'"
            }
        },
    );
    if let Some(key) = app.options.api_key.as_deref().filter(|_| path.starts_with("/api/"))
        && response.status() == StatusCode::OK
        && let Ok(cookie) =
            HeaderValue::from_str(&format!("{}; Path=/results; HttpOnly; SameSite=Strict", cookie(key)))
    {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn check(app: &App, request: &Request, path: &str) -> Result<(), ApiError> {
    let headers = request.headers();
    let host = text(headers, header::HOST).or_else(|| request.uri().host());
    // DNS rebinding: a page of another site may point its name to this machine, and then sends that name.
    if app.options.is_local() && !host.is_some_and(|host| is_local(name_of(host))) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "the Host header is not localhost; start the server with --host to allow other names",
        ));
    }
    if let Some(origin) = text(headers, header::ORIGIN) {
        let from = origin.split_once("://").map(|(_, host)| host);
        if from.is_none() || from != host {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                format!("requests from pages of {origin} are not allowed"),
            ));
        }
    }
    let Some(key) = &app.options.api_key else { return Ok(()) };
    let is_open = path == "/health" || page::has(path);
    let bearer = text(headers, header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let has_key = bearer.is_some_and(|given| digest(given.trim()) == digest(key));
    let cookies = || headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let has_cookie = || cookies().flat_map(|all| all.split(';')).any(|one| one.trim() == cookie(key));
    if is_open || has_key || path.starts_with("/results/") && has_cookie() {
        return Ok(());
    }
    let problem = match bearer {
        None => "an API key is required: send it as the header Authorization: Bearer KEY",
        Some(_) => "the key is wrong",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, problem).with_code("invalid_api_key"))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Removes the port from a host.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    }
}

/// Returns whether a name or address is local to this machine.
pub fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Hashes a key, so that the time of a comparison reveals nothing about it.
fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn cookie(key: &str) -> String {
    format!("{COOKIE}={}", crate::fsutil::hex(&Sha256::digest(format!("results {key}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known() {
        for host in ["localhost:8080", "127.0.0.1", "127.1.2.3:1", "[::1]:80", "LOCALHOST"] {
            assert!(is_local(name_of(host)), "{host}");
        }
        for host in ["example.com", "localhost.example.com:80", "10.0.0.1", "[::2]:80", ""] {
            assert!(!is_local(name_of(host)), "{host}");
        }
    }
}
