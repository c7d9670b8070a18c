//! Refusals of the endpoints on a real socket: invalid requests, and unauthorized clients.

use crate::common::server::{Running, read_response};
use crate::common::tiny::CONTEXT;
use serde_json::{Value, json};
use std::io::Write;

#[test]
fn what_is_wrong_is_reported_in_openai_s_shape() {
    let server = Running::usual();
    let cases = [
        (
            json!({ "model": "nowhere" }),
            404,
            "model",
            "there is no model \"nowhere\" here, expected one of tiny, other",
        ),
        (json!({ "model": null }), 400, "model", "is missing, expected one of tiny, other"),
        (json!({ "temperature": -1 }), 400, "temperature", "temperature is -1, expected 0"),
        (json!({ "temperature": "hot" }), 400, "temperature", "is \"hot\", expected a number"),
        (json!({ "top_p": 0 }), 400, "top_p", "top_p is 0, expected above 0"),
        (json!({ "min_p": 2 }), 400, "min_p", "min_p is 2, expected 0"),
        (json!({ "repetition_penalty": 1e-320 }), 400, "repetition_penalty", "expected 0.01 to 100"),
        (json!({ "n": 0 }), 400, "n", "is 0, expected a whole number from 1 to 64"),
        (json!({ "n": 1.5 }), 400, "n", "is 1.5, expected a whole number"),
        (json!({ "max_tokens": 0 }), 400, "max_tokens", "expected 1 or more, or -1 for no limit"),
        (json!({ "max_completion_tokens": 5 }), 400, "max_completion_tokens", "is 5 and max_tokens 20"),
        (json!({ "stop": 1 }), 400, "stop", "expected a text or a list"),
        (json!({ "top_logprobs": 3 }), 400, "top_logprobs", "is only for logprobs = true"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), 400, "top_logprobs", "from 0 to 20"),
        (json!({ "stream_options": {} }), 400, "stream_options", "is only for stream = true"),
        (
            json!({ "stream": true, "stream_options": { "includ_usage": true } }),
            400,
            "stream_options.includ_usage",
            "unknown parameter; did you mean include_usage?",
        ),
        (json!({ "seed": 1.5 }), 400, "seed", "is 1.5, expected a whole number of 64 bits"),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "contents": "b" }] }),
            400,
            "messages[0].contents",
            "unknown parameter; did you mean content?",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "system", "content": "b" }] }),
            400,
            "messages",
            "messages: the chat template leaves out turn 2 of a conversation (role system)",
        ),
        (json!({ "temprature": 1 }), 400, "temprature", "unknown parameter; did you mean temperature?"),
        (json!({ "tools": [{}] }), 400, "tools", "is not supported here"),
        (json!({ "frequency_penalty": 0.5 }), 400, "frequency_penalty", "is not supported here"),
        (json!({ "messages": [] }), 400, "messages", "is empty"),
        (json!({ "messages": "你好" }), 400, "messages", "is a text, expected a list of objects"),
        (
            json!({ "messages": [{ "role": "tool", "content": "" }] }),
            400,
            "messages[0].role",
            "expected system, user",
        ),
        (json!({ "messages": [{ "role": "user" }] }), 400, "messages[0].content", "is missing"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            "messages[0].content",
            "expected {\"type\": \"text\"",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
            400,
            "messages",
            "the last one is the assistant's",
        ),
    ];
    for (more, status, param, problem) in cases {
        let (found, answer) = server.chat(more.clone());
        let error = &answer["error"];
        assert_eq!((found, &error["param"]), (status, &json!(param)), "{more}: {answer}");
        assert!(error["message"].as_str().unwrap().contains(problem), "{more}: {answer}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    let long = "天空".repeat(CONTEXT);
    let (status, answer) = server.chat(json!({ "messages": [{ "role": "user", "content": long }] }));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")));
    // If no token fits after the prompt, none can be requested; the prompt alone can still be scored.
    let full = vec![70; CONTEXT];
    for (max_tokens, want) in [(1, 400), (-1, 400), (0, 200)] {
        let ask = json!({ "prompt": full, "max_tokens": max_tokens, "echo": true, "logprobs": 1 });
        let (status, answer) = server.complete(ask);
        assert_eq!(status, want, "{answer}");
        let code = if want == 400 { json!("context_length_exceeded") } else { Value::Null };
        assert_eq!(answer["error"]["code"], code);
    }
    let (_, one) = server.complete(json!({ "prompt": full[1..], "max_tokens": 9 }));
    assert_eq!(one["usage"]["completion_tokens"], 1);
    let (status, answer) = server.complete(json!({ "prompt": [1, 5000] }));
    assert_eq!(status, 400);
    assert!(answer["error"]["message"].as_str().unwrap().contains("has the id 5000"), "{answer}");
    for (method, path, want) in [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/nowhere", 404),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/v1/models/%ff", 400),
        ("GET", "/results/%ff", 400),
    ] {
        let (status, _, body) = server.request(method, path, "", b"");
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert!(
            status == want && answer["error"]["message"].is_string(),
            "{method} {path}: {status} {answer}"
        );
    }
    assert_eq!(server.get("/health"), (200, json!({ "status": "ok" })));
}

#[test]
fn malformed_bodies_are_refused_one_by_one() {
    let server = Running::usual();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"\"text\"".to_vec(),
        b"\xff\xfe{}".to_vec(),
        b"{\"model\": \"tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}".to_vec(),
        b"{\"model\": \"tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"\xc3\x28\"}]}".to_vec(),
        b"{\"model\": \"tiny\", \"messages\": [null]}".to_vec(),
        b"{\"model\": \"tiny\", \"messages\": {}}".to_vec(),
        b"{\"model\": 5}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": \"a\", \"prompt\": \"b\"}".to_vec(),
        b"{\"temperature\": 1e999}".to_vec(),
        b"{\"model\": \"tiny\", \"seed\": 99999999999999999999999}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": [1, -2]}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": [[1], \"a\"]}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": []}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": [[]]}".to_vec(),
        b"{\"model\": \"tiny\", \"prompt\": 7}".to_vec(),
        deep.clone().into_bytes(),
        format!("{{\"model\": \"tiny\", \"messages\": {deep}}}").into_bytes(),
        b"model=tiny&prompt=a".to_vec(),
    ];
    for body in bodies {
        for path in ["/v1/chat/completions", "/v1/completions"] {
            let (status, _, answer) = server.request("POST", path, "", &body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(status, 400, "{path}: {shown}");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            assert!(answer["error"]["message"].is_string(), "{answer}");
        }
    }
    assert_eq!(server.chat(json!({})).0, 200);
    // What clients send back of an earlier answer.
    let answer = json!({ "role": "assistant", "content": "b", "refusal": null, "tool_calls": null, "annotations": [] });
    let turns =
        json!([{ "role": "user", "content": "a", "name": "x" }, answer, { "role": "user", "content": "c" }]);
    assert_eq!(server.chat(json!({ "messages": turns, "seed": u64::MAX })).0, 200);
}

#[test]
fn bodies_are_bounded_and_garbage_is_no_request() {
    let server = Running::start(|options| options.body_limit = 1000);
    let (status, _, body) = server.request("POST", "/v1/completions", "", &vec![b' '; 2000]);
    assert_eq!(status, 413);
    assert!(String::from_utf8(body).unwrap().contains("exceeds the limit of 1000 bytes"));
    // The same length in chunks, so that it is unknown in advance.
    let host = server.address;
    let mut bytes = format!("POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..20 {
        bytes.extend(b"64\r\n");
        bytes.extend([b' '; 100]);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    assert_eq!(server.raw(&bytes).0, 413);
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"HELLO\r\n\r\n", b"\r\n\r\n\r\n\x00\x00", &[b'a'; 100_000]]
    {
        let mut stream = server.connect();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let (status, ..) = read_response(stream);
        assert!([0, 400, 414, 431].contains(&status), "{status}");
    }
    assert_eq!(server.chat(json!({})).0, 200);
    // What clients send back of an earlier answer.
    let answer = json!({ "role": "assistant", "content": "b", "refusal": null, "tool_calls": null, "annotations": [] });
    let turns =
        json!([{ "role": "user", "content": "a", "name": "x" }, answer, { "role": "user", "content": "c" }]);
    assert_eq!(server.chat(json!({ "messages": turns, "seed": u64::MAX })).0, 200);
}

#[test]
fn a_key_is_asked_for_where_one_is_set() {
    let server = Running::start(|options| options.api_key = Some("secret".into()));
    let (status, answer) = server.get("/v1/models");
    assert_eq!((status, &answer["error"]["code"]), (401, &json!("invalid_api_key")));
    for (head, want) in [("Authorization: Bearer wrong\r\n", 401), ("Authorization: Bearer secret\r\n", 200)]
    {
        for path in ["/v1/models", "/api/models", "/metrics"] {
            assert_eq!(server.request("GET", path, head, b"").0, want, "{path}");
        }
    }
    // What is not known to be open asks for the key, so that a new endpoint does.
    assert_eq!(server.request("GET", "/new", "", b"").0, 401);
    for path in ["/health", "/", "/app.js"] {
        assert_eq!(server.request("GET", path, "", b"").0, 200, "{path}");
    }
    // Images are requested without the key, by the cookie of the page.
    let (_, head, _) = server.request("GET", "/api/models", "Authorization: Bearer secret\r\n", b"");
    let cookie =
        head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap().split(';').next().unwrap();
    assert!(!cookie.contains("secret"));
    let cookie = format!("Cookie: a=b; {cookie}\r\n");
    assert_eq!(server.request("GET", "/results/nothing.svg", &cookie, b"").0, 404);
    assert_eq!(server.request("GET", "/results/nothing.svg", "", b"").0, 401);
    assert_eq!(server.request("GET", "/v1/models", &cookie, b"").0, 401);
}

#[test]
fn pages_of_others_may_not_ask() {
    let server = Running::usual();
    let own = format!("Origin: http://{}\r\n", server.address);
    assert_eq!(server.request("GET", "/v1/models", &own, b"").0, 200);
    assert_eq!(server.request("GET", "/v1/models", "Origin: https://example.com\r\n", b"").0, 403);
    assert_eq!(server.request("POST", "/v1/completions", "Origin: null\r\n", b"{}").0, 403);
    // A foreign host name that resolves to this server.
    assert_eq!(
        server.raw(b"GET /v1/models HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").0,
        403
    );
    let (status, head, page) = server.request("GET", "/", "", b"");
    let head = head.to_lowercase();
    assert!(status == 200 && head.contains("text/html") && page.starts_with(b"<!doctype html>"));
    assert!(
        head.contains("content-security-policy: default-src 'self'") && head.contains("nosniff"),
        "{head}"
    );
}

#[test]
fn results_are_served_and_nothing_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let results = dir.path().join("results");
    std::fs::create_dir_all(results.join("a b/figures")).unwrap();
    std::fs::write(results.join("a b/figures/图.svg"), "<svg/>").unwrap();
    std::fs::write(results.join("a b/.hidden"), "hidden").unwrap();
    std::fs::write(dir.path().join("secret.txt"), "secret").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("secret.txt"), results.join("link.txt")).unwrap();
    let server = Running::start(|options| options.results = results);
    let (status, head, body) = server.request("GET", "/results/a%20b/figures/%E5%9B%BE.svg", "", b"");
    assert!(status == 200 && body == b"<svg/>" && head.contains("image/svg+xml"), "{head}");
    for path in [
        "/results/../secret.txt",
        "/results/%2e%2e/secret.txt",
        "/results/a%20b/..%2f..%2fsecret.txt",
        "/results/%2fetc/passwd",
        "/results//etc/passwd",
        "/results/link.txt",
        "/results/a%20b/.hidden",
        "/results/a%20b",
        "/results/",
        "/results/a%20b/figures/none.svg",
        "/results/%00",
    ] {
        let (status, _, body) = server.request("GET", path, "", b"");
        assert!([400, 404].contains(&status), "{path}: {status} {}", String::from_utf8_lossy(&body));
    }
    assert_eq!(server.get("/api/sweeps"), (200, json!([])));
    assert_eq!(server.get("/api/sweeps/a%20b").0, 404);
    assert_eq!(server.get("/api/sweeps/%2e%2e").0, 404);
    assert_eq!(server.get("/api/runs/%2e%2e/metrics").0, 404);
    assert_eq!(server.get("/api/runs/sft-1/metrics").0, 404);
}
