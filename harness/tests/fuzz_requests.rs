//! Random requests: each one gets an answer in the format of OpenAI's API, and the server keeps running.
//!
//! `PROPTEST_CASES` sets the number of cases of each kind; the default is 256.

use crate::common::server::Running;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::Duration;

/// The endpoints that read a body, each with a valid body.
const POSTS: [(&str, &str); 2] = [
    (
        "/v1/chat/completions",
        r#"{"model": "tiny", "messages": [{"role": "system", "content": "系统"}, {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "b"}, {"role": "user", "content": [{"type": "text", "text": "天空"}]}],
            "max_tokens": 3, "n": 2, "stream": false, "stop": ["。"], "logprobs": true, "top_logprobs": 2, "seed": 5}"#,
    ),
    (
        "/v1/completions",
        r#"{"model": "other", "prompt": ["天空", "ab"], "max_tokens": 3, "temperature": 0, "n": 1, "logprobs": 1,
            "echo": true, "stream": false, "stop": "b", "top_p": 0.9, "top_k": 5, "min_p": 0.1}"#,
    ),
];

/// Every known parameter, and some unknown ones.
const FIELDS: [&str; 32] = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "n",
    "stream",
    "stream_options",
    "ignore_eos",
    "logprobs",
    "top_logprobs",
    "echo",
    "best_of",
    "suffix",
    "tools",
    "logit_bias",
    "frequency_penalty",
    "response_format",
    "user",
    "metadata",
    "store",
    "role",
    "content",
    "temprature",
    "",
];

fn text() -> impl Strategy<Value = String> {
    const TEXTS: [&str; 16] = [
        "",
        "tiny",
        "other",
        "user",
        "assistant",
        "system",
        "text",
        "auto",
        "</s>",
        "<s>user\n",
        "你好",
        "\u{0}",
        "\u{10fffe}0\u{10ffff}",
        "\u{202e}a\u{fffd}",
        "{{ 1 }}{% raw %}",
        "ab ab ab",
    ];
    prop_oneof![
        4 => prop::sample::select(&TEXTS).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => (prop::sample::select(&TEXTS), 0..400usize).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..70i64).prop_map(Value::from),
        prop::sample::select(&[i64::MIN, i64::MAX, -1 << 40, 1 << 32, 299, 300, 6400][..])
            .prop_map(Value::from),
        Just(json!(u64::MAX)),
        prop::sample::select(&[0.0, -0.0, 1e-320, 1e308, -1e308, 0.5, 1.5, 2e9][..]).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(
                (prop_oneof![prop::sample::select(&FIELDS).prop_map(str::to_owned), text()], inner),
                0..5
            )
            .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A change to a request body.
#[derive(Debug, Clone)]
enum Change {
    /// A field is set to a value.
    Set(&'static str, Value),
    /// A value at any depth is replaced.
    Inside(prop::sample::Index, Value),
    /// A field is removed.
    Remove(prop::sample::Index),
    /// Bytes of the serialized JSON are replaced.
    Bytes(prop::sample::Index, usize, Vec<u8>),
    /// The body is truncated.
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        5 => (prop::sample::select(&FIELDS), value()).prop_map(|(name, value)| Change::Set(name, value)),
        4 => (at(), value()).prop_map(|(at, value)| Change::Inside(at, value)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), 0..4usize, prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(at, len, bytes)| Change::Bytes(at, len, bytes)),
        1 => at().prop_map(Change::Cut),
    ]
}

/// Collects the JSON pointers of all values, the outermost first.
fn pointers(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| pointers(item, &format!("{here}/{i}"), found));
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                pointers(item, &format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        _ => {}
    }
}

/// Applies changes to a body: first those of its JSON, then those of its bytes.
fn changed(body: &str, changes: &[Change]) -> Vec<u8> {
    let mut json: Value = serde_json::from_str(body).unwrap();
    for change in changes {
        match change {
            Change::Set(name, value) if json.is_object() => json[*name] = value.clone(),
            Change::Remove(at) => {
                if let Some(fields) = json.as_object_mut().filter(|fields| !fields.is_empty()) {
                    let name = fields.keys().nth(at.index(fields.len())).unwrap().clone();
                    fields.remove(&name);
                }
            }
            Change::Inside(at, value) => {
                let mut found = vec![];
                pointers(&json, "", &mut found);
                let pointer: &String = at.get(&found);
                *json.pointer_mut(pointer).unwrap() = value.clone();
            }
            Change::Set(..) | Change::Bytes(..) | Change::Cut(_) => {}
        }
    }
    let mut bytes = json.to_string().into_bytes();
    for change in changes {
        match change {
            Change::Bytes(at, len, new) => {
                let from = at.index(bytes.len() + 1);
                let to = (from + len).min(bytes.len());
                bytes.splice(from..to, new.iter().copied());
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Change::Set(..) | Change::Inside(..) | Change::Remove(_) => {}
        }
    }
    bytes
}

/// Checks that an error has the format of OpenAI's API and is not a server error, that a stream ends, and that any
/// other answer is JSON.
fn check(exchange: &str, (status, head, body): (u16, String, Vec<u8>)) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(&body).into_owned();
    let exchange = format!("{exchange}\n{head}{text}");
    if head.to_lowercase().contains("text/event-stream") {
        prop_assert_eq!(status, 200, "{}", exchange);
        prop_assert!(text.trim_end().ends_with("data: [DONE]"), "{}", exchange);
        return Ok(());
    }
    let json: Value = serde_json::from_slice(&body).map_err(|_| TestCaseError::fail(exchange.clone()))?;
    if status == 200 {
        prop_assert!(json["choices"].is_array() || !json["id"].is_null(), "{}", exchange);
        return Ok(());
    }
    prop_assert!((400..500).contains(&status), "{}", exchange);
    let error = json["error"].as_object().ok_or_else(|| TestCaseError::fail(exchange.clone()))?;
    let is_text = |name: &str| error[name].is_string();
    let may_be_text = |name: &str| error.get(name).is_some_and(|value| value.is_null() || value.is_string());
    prop_assert!(
        is_text("message") && is_text("type") && may_be_text("param") && may_be_text("code"),
        "{}",
        exchange
    );
    Ok(())
}

/// Runs a property test without persisting failures; `PROPTEST_CASES` sets the number of cases.
fn try_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    if let Err(error) = runner.run(&strategy, test) {
        panic!("{error}");
    }
}

/// Checks that the server answers, and soon has no text left to generate.
fn is_well(server: &Running) {
    assert_eq!(server.get("/health"), (200, json!({ "status": "ok" })));
    for model in ["tiny", "other"] {
        let is_writing = || server.metric(&format!("mindscale_texts_writing{{model=\"{model}\"}}")) > 0.0;
        let waited = (0..1000).take_while(|_| is_writing()).map(|_| sleep(Duration::from_millis(10))).count();
        assert!(waited < 1000, "{model} writes for nobody");
    }
}

#[test]
fn any_body_is_answered() {
    let server = Running::start(|options| options.body_limit = 100_000);
    let strategy = (prop::sample::select(&POSTS), prop::collection::vec(change(), 0..4));
    try_all(strategy, |((path, body), changes)| {
        let bytes = changed(body, &changes);
        let exchange = format!("{path} {}", String::from_utf8_lossy(&bytes));
        check(&exchange, server.request("POST", path, "Content-Type: application/json\r\n", &bytes))
    });
    is_well(&server);
}

#[test]
fn any_bytes_are_answered() {
    let server = Running::usual();
    let strategy = (prop::sample::select(&POSTS), prop::collection::vec(any::<u8>(), 0..300));
    try_all(strategy, |((path, _), bytes)| {
        check(&format!("{path} {bytes:?}"), server.request("POST", path, "", &bytes))
    });
    is_well(&server);
}

#[test]
fn any_path_is_answered() {
    const PARTS: [&str; 20] = [
        "v1",
        "api",
        "results",
        "models",
        "chat",
        "completions",
        "sweeps",
        "runs",
        "metrics",
        "health",
        "tiny",
        "..",
        ".",
        "",
        "%2e%2e",
        "%00",
        "%ff",
        "%E5%9B%BE",
        "a+b",
        "%2F",
    ];
    let part = prop_oneof![5 => prop::sample::select(&PARTS).prop_map(str::to_owned), 1 => "[!-\"$-~]{0,12}"];
    let methods =
        prop::sample::select(&["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "X-Y"][..]);
    let heads = prop::sample::select(
        &["", "Authorization: Bearer x\r\n", "Origin: null\r\n", "Cookie: a=b\r\n", "Range: bytes=0-\r\n"][..],
    );
    let server = Running::usual();
    try_all((methods, prop::collection::vec(part, 0..5), heads), |(method, parts, head)| {
        let path = format!("/{}", parts.join("/"));
        let found = server.request(method, &path, head, b"");
        // Answers to HEAD requests and to lines that are not HTTP have no body.
        if method == "HEAD" || found.0 < 400 || found.0 == 400 && found.2.is_empty() {
            return Ok(());
        }
        check(&format!("{method} {path} {head}"), found)
    });
    is_well(&server);
}

#[test]
fn any_connection_is_let_go() {
    let server = Running::usual();
    let line = prop_oneof![
        Just("POST /v1/completions HTTP/1.1\r\n".to_owned()),
        Just("GET / HTTP/1.0\r\n".to_owned()),
        Just("Host: 127.0.0.1\r\n".to_owned()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        Just("Connection: upgrade\r\nUpgrade: websocket\r\n".to_owned()),
        (0..200u64).prop_map(|len| format!("Content-Length: {len}\r\n")),
        Just("\r\n".to_owned()),
        Just("5\r\nabcde\r\n0\r\n\r\n".to_owned()),
        "[ -~]{0,40}\r\n",
    ];
    try_all(prop::collection::vec(line, 0..8), |lines| {
        use std::io::Write;
        let mut stream = server.connect();
        let _ = stream.write_all(lines.concat().as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let (status, ..) = crate::common::server::read_response(stream);
        prop_assert!(status == 0 || (200..500).contains(&status), "{} {:?}", status, lines);
        Ok(())
    });
    is_well(&server);
}
