//! The endpoints over a real socket, with a tiny random model: what clients send, and what they should not.
#![allow(clippy::unwrap_used)]

use harness::data::Tokenizer;
use harness::serve::{Limits, Options, Served, Server, Stop};
use model::{Cpu, ModelConfig, Transformer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Positions that the models are meant for.
const CONTEXT: usize = 256;

struct Running {
    address: SocketAddr,
    stop: watch::Sender<Stop>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Running {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options { port: 0, grace: Duration::from_secs(20), ..Options::default() };
        options.limits = Limits { texts: 4, waiting: 16 };
        change(&mut options);
        let served = ["tiny", "other"].map(|name| served(name, &options));
        let server = Server::bind(served.into(), options).unwrap();
        let (stop, asked) = watch::channel(Stop::No);
        let address = server.address();
        Self { address, stop, thread: Some(std::thread::spawn(move || server.run(asked))) }
    }

    fn usual() -> Self {
        Self::start(|_| ())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Status, head and body of the response to raw bytes.
    fn raw(&self, bytes: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_response(stream)
    }

    fn request(&self, method: &str, path: &str, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let host = self.address;
        let begin = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[begin.as_bytes(), body].concat())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.request("GET", path, "", b"");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let json = "Content-Type: application/json\r\n";
        let (status, _, answer) = self.request("POST", path, json, body.to_string().as_bytes());
        (status, serde_json::from_slice(&answer).unwrap())
    }

    fn chat(&self, more: Value) -> (u16, Value) {
        self.post("/v1/chat/completions", &with(chat_body(), more))
    }

    fn complete(&self, more: Value) -> (u16, Value) {
        self.post("/v1/completions", &with(json!({ "model": "tiny", "temperature": 0 }), more))
    }

    /// The chunks of a stream, which must end in `[DONE]`.
    fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, head, bytes) = self.request("POST", path, "", body.to_string().as_bytes());
        assert_eq!(status, 200);
        assert!(head.contains("text/event-stream"), "{head}");
        let text = String::from_utf8(bytes).unwrap();
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let (last, chunks) = data.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
    }

    fn metric(&self, line: &str) -> f64 {
        let (_, _, body) = self.request("GET", "/metrics", "", b"");
        let text = String::from_utf8(body).unwrap();
        let found =
            text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line}\n{text}"));
        found.trim().parse().unwrap()
    }

    fn end(mut self, how: Stop) {
        self.stop.send_replace(how);
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(Stop::Now);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tiny(name: &str) -> (Tokenizer, Transformer) {
    let texts = "abcd efgh 你好 天空是蓝色的 ".repeat(30);
    let tokenizer = Tokenizer::train(std::iter::once(texts), 300).unwrap();
    let config = ModelConfig {
        d_model: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: tokenizer.vocab_size(),
        max_seq_len: CONTEXT,
        ..ModelConfig::default()
    };
    let transformer = Transformer::new(&config, name.len() as u64, &Cpu).unwrap();
    (tokenizer, transformer)
}

fn served(name: &str, options: &Options) -> Served {
    let (tokenizer, transformer) = tiny(name);
    let source = format!("test/{name}");
    Served::new(name.into(), source, Some("sft"), transformer, tokenizer, options.limits, 2).unwrap()
}

fn read_response(stream: TcpStream) -> (u16, String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head += &line;
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut body = vec![];
    // A connection that is closed on a client which still sends may be reset.
    let _ = reader.read_to_end(&mut body);
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    (status, head, body)
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = vec![];
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let len = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        all.extend(&bytes[end + 2..end + 2 + len]);
        bytes = &bytes[end + 4 + len..];
        if len == 0 {
            break;
        }
    }
    all
}

fn chat_body() -> Value {
    json!({ "model": "tiny", "messages": [{ "role": "user", "content": "你好" }], "seed": 7, "max_tokens": 20 })
}

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_chat_is_answered_whole_and_as_a_stream() {
    let server = Running::usual();
    let (status, whole) = server.chat(json!({ "logprobs": true, "top_logprobs": 3 }));
    assert_eq!(status, 200, "{whole}");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("tiny")));
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    let count = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    assert!((1..=20).contains(&count) && tokens.len() == count, "{whole}");
    assert_eq!(choice["finish_reason"], if count == 20 { "length" } else { "stop" });
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert!(top.len() == 3 && top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        assert!(token["logprob"].as_f64().unwrap() <= top[0]["logprob"].as_f64().unwrap());
    }

    let body = with(
        chat_body(),
        json!({ "stream": true, "stream_options": { "include_usage": true }, "logprobs": true }),
    );
    let chunks = server.stream("/v1/chat/completions", &body);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
    let (last, pieces) = chunks.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], choice["finish_reason"]);
    assert!(
        pieces.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null() && chunk["usage"].is_null())
    );
    let text: String =
        pieces.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or("")).collect();
    assert_eq!(text, content(&whole));
    let told = |chunk: &Value| chunk["choices"][0]["logprobs"]["content"].as_array().map_or(0, Vec::len);
    assert_eq!(pieces.iter().map(told).sum::<usize>(), count);
}

#[test]
fn options_of_a_chat_mean_what_openai_says() {
    let server = Running::usual();
    let (_, one) = server.chat(json!({}));
    let (_, same) = server.chat(json!({ "messages": [{ "role": "user", "content": [
        { "type": "text", "text": "你" }, { "type": "text", "text": "好" }] }] }));
    assert_eq!(content(&one), content(&same), "parts of text are one text");
    let (_, three) = server.chat(json!({ "n": 3 }));
    let choices = three["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    assert_eq!(choices[0]["message"]["content"].as_str(), Some(content(&one)));
    assert_ne!(choices[0]["message"], choices[1]["message"]);
    assert_eq!(choices[2]["index"], 2);
    // No limit but the context.
    let (_, long) = server.chat(json!({ "max_tokens": -1 }));
    let usage = &long["usage"];
    if long["choices"][0]["finish_reason"] == "length" {
        assert_eq!(usage["total_tokens"], CONTEXT);
    }
    assert!(content(&long).starts_with(content(&one)));
    let (_, new) = server.chat(json!({ "max_tokens": null, "max_completion_tokens": 5 }));
    assert_eq!(new["usage"]["completion_tokens"], 5);
    // A stop string is not part of the text.
    let stop: String = content(&long).chars().skip(10).take(2).collect();
    let (_, stopped) = server.chat(json!({ "max_tokens": -1, "stop": [stop, "\u{1}never"] }));
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert_eq!(content(&stopped), &content(&long)[..content(&long).find(&stop).unwrap()]);
    // Behind the end of a text it writes on.
    let (_, on) = server.chat(json!({ "max_tokens": -1, "ignore_eos": true }));
    assert_eq!(
        (&on["usage"]["total_tokens"], &on["choices"][0]["finish_reason"]),
        (&json!(CONTEXT), &json!("length"))
    );
    // Without a seed each answer is another.
    let unseeded = json!({ "seed": null, "max_tokens": -1 });
    assert_ne!(content(&server.chat(unseeded.clone()).1), content(&server.chat(unseeded).1));
    // Nor do words become control tokens: the prompt is longer than with one for </s>.
    let spelled = |text: &str| {
        let messages = json!([{ "role": "user", "content": text }]);
        server.chat(json!({ "messages": messages, "max_tokens": 1 })).1["usage"]["prompt_tokens"].as_u64()
    };
    assert_eq!(spelled("a</s>b"), spelled("a").map(|n| n + 5));
}

#[test]
fn continuations_tell_their_prompts() {
    let server = Running::usual();
    let scored =
        server.complete(json!({ "prompt": "天空是", "max_tokens": 0, "echo": true, "logprobs": 2 })).1;
    let choice = &scored["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("天空是"), &json!("length")));
    let found = &choice["logprobs"];
    let tokens = found["tokens"].as_array().unwrap();
    assert_eq!(tokens[0], "<s>");
    assert!(found["token_logprobs"][0].is_null() && found["top_logprobs"][0].is_null());
    for (i, own) in found["token_logprobs"].as_array().unwrap().iter().enumerate().skip(1) {
        let top = found["top_logprobs"][i].as_object().unwrap();
        assert!((2..=3).contains(&top.len()));
        assert_eq!(&top[tokens[i].as_str().unwrap()], own);
    }
    assert_eq!(found["text_offset"][0], 0);
    assert_eq!(scored["usage"]["prompt_tokens"].as_u64(), Some(tokens.len() as u64));
    assert_eq!(scored["usage"]["completion_tokens"], 0);

    // A greedy continuation is as likely when it is read as when it is written.
    let ask = json!({ "prompt": [1, 70, 71, 72], "max_tokens": 6, "logprobs": 0 });
    let written = server.complete(ask).1["choices"][0]["logprobs"].clone();
    let echoed = json!({ "prompt": [1, 70, 71, 72], "max_tokens": 6, "logprobs": 0, "echo": true });
    let whole = server.complete(echoed.clone()).1["choices"][0]["logprobs"].clone();
    assert_eq!(
        whole["token_logprobs"].as_array().unwrap()[4..],
        written["token_logprobs"].as_array().unwrap()[..]
    );
    let chunks = server.stream(
        "/v1/completions",
        &with(json!({ "model": "tiny", "temperature": 0, "stream": true }), echoed),
    );
    let joined: Vec<Value> = chunks
        .iter()
        .flat_map(|chunk| {
            chunk["choices"][0]["logprobs"]["token_logprobs"].as_array().cloned().unwrap_or_default()
        })
        .collect();
    assert_eq!(joined, *whole["token_logprobs"].as_array().unwrap());
}

#[test]
fn prompts_come_alone_or_many_as_text_or_ids() {
    let server = Running::usual();
    let text = |answer: &Value, i: usize| answer["choices"][i]["text"].as_str().unwrap().to_owned();
    let (_, many) = server.complete(
        json!({ "prompt": ["ab", "cd", "天"], "max_tokens": 8, "n": 2, "seed": 1, "temperature": 1 }),
    );
    assert_eq!(many["choices"].as_array().unwrap().len(), 6);
    for (i, prompt) in ["ab", "cd", "天"].iter().enumerate() {
        let (_, one) =
            server.complete(json!({ "prompt": prompt, "max_tokens": 8, "seed": 1, "temperature": 1 }));
        assert_eq!(text(&one, 0), text(&many, 2 * i));
    }
    let (_, ids) = server.complete(json!({ "prompt": [[1, 70], [1, 71, 72]], "max_tokens": 3 }));
    assert_eq!(ids["usage"]["prompt_tokens"], 5);
    // Sixteen new tokens where nothing is said.
    let usage = server.complete(json!({ "prompt": "ab", "temperature": 1, "seed": 3 })).1["usage"].clone();
    assert!(usage["completion_tokens"].as_u64().unwrap() <= 16);
    let too_many: Vec<&str> = vec!["a"; 17];
    let (status, answer) = server.complete(json!({ "prompt": too_many }));
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt")));
}

#[test]
fn what_is_wrong_is_told_in_openai_s_shape() {
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
        (json!({ "n": 0 }), 400, "n", "is 0, expected a whole number from 1 to 64"),
        (json!({ "n": 1.5 }), 400, "n", "is 1.5, expected a whole number"),
        (json!({ "max_tokens": 0 }), 400, "max_tokens", "expected 1 or more, or -1 for no limit"),
        (json!({ "max_completion_tokens": 5 }), 400, "max_completion_tokens", "is 5 and max_tokens 20"),
        (json!({ "stop": 1 }), 400, "stop", "expected a text or a list"),
        (json!({ "top_logprobs": 3 }), 400, "top_logprobs", "is only for logprobs = true"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), 400, "top_logprobs", "from 0 to 20"),
        (json!({ "stream_options": {} }), 400, "stream_options", "is only for stream = true"),
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
    // Where no token fits behind the prompt, one cannot be asked for; the prompt alone can be scored.
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
}

#[test]
fn bodies_are_bounded_and_garbage_is_no_request() {
    let server = Running::start(|options| options.body_limit = 1000);
    let (status, _, body) = server.request("POST", "/v1/completions", "", &vec![b' '; 2000]);
    assert_eq!(status, 413);
    assert!(String::from_utf8(body).unwrap().contains("longer than 1000 bytes"));
    // As long, but told only as it comes.
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
}

#[test]
fn who_hangs_up_frees_the_place() {
    let server = Running::start(|options| options.limits = Limits { texts: 1, waiting: 16 });
    // It would write for long: nothing ends it before the context does, a thousand times over.
    let body = with(chat_body(), json!({ "max_tokens": -1, "n": 64, "stream": true, "temperature": 3 }));
    for stream in [true, false] {
        let body = with(body.clone(), json!({ "stream": stream })).to_string();
        let mut connection = server.connect();
        let host = server.address;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        if stream {
            connection.read_exact(&mut [0; 100]).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(connection);
        assert_eq!(server.chat(json!({})).0, 200);
    }
    let mut waited = 0;
    while server.metric("mindscale_texts_writing{model=\"tiny\"}") > 0.0 {
        waited += 1;
        assert!(waited < 1000, "a text is written for nobody");
        std::thread::sleep(Duration::from_millis(10));
    }
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
    assert_eq!(server.get("/health").0, 200);
    // Pictures are asked for without the key, by the cookie that the page was given.
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
    // A name of elsewhere that points here.
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
fn models_and_numbers_are_listed() {
    let server = Running::usual();
    let (_, list) = server.get("/v1/models");
    assert_eq!(
        list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect::<Vec<_>>(),
        ["tiny", "other"]
    );
    assert_eq!(server.get("/v1/models/other").1["max_model_len"], CONTEXT);
    assert_eq!(server.get("/v1/models/none").0, 404);
    let (_, known) = server.get("/api/models");
    assert_eq!((&known[0]["stage"], &known[0]["source"]), (&json!("sft"), &json!("test/tiny")));
    let ask = json!({ "model": "other", "prompt": [1, 70], "max_tokens": 5, "temperature": 0 });
    let tokens = server.post("/v1/completions", &ask).1["usage"]["completion_tokens"].as_f64().unwrap();
    assert_eq!(server.metric("mindscale_written_tokens_total{model=\"other\"}"), tokens);
    assert_eq!(server.metric("mindscale_prompt_tokens_total{model=\"other\"}"), 2.0);
    assert_eq!(server.metric("mindscale_requests_total{model=\"tiny\"}"), 0.0);
    assert_eq!(server.metric("mindscale_responses_total{endpoint=\"/v1/completions\",status=\"200\"}"), 1.0);
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

#[test]
fn answers_that_were_begun_are_finished_before_the_end() {
    let server = Running::usual();
    let body = with(chat_body(), json!({ "max_tokens": -1, "stream": true, "n": 4 })).to_string();
    let mut connection = server.connect();
    let host = server.address;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
    let mut first = [0; 1];
    connection.read_exact(&mut first).unwrap();
    server.end(Stop::Soon);
    let mut rest = String::new();
    connection.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(TcpStream::connect(host).is_err(), "nobody listens any more");
}

/// A folder of the tiny model.
fn folder(dir: &std::path::Path) {
    let (tokenizer, transformer) = tiny("tiny");
    std::fs::write(dir.join("config.json"), model::folder::write_config(&transformer.config)).unwrap();
    let weights = transformer.to_weights().unwrap();
    let bytes = model::weights::write_safetensors(&weights.layout, &weights.flat).unwrap();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    tokenizer.save(dir).unwrap();
}

fn mindscale(words: &[&str], input: &str) -> (i32, String, String) {
    let mut command = assert_cmd::Command::cargo_bin("mindscale").unwrap();
    let output = command.args(words).write_stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_chat_in_the_terminal_follows_its_commands() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let path = dir.path().to_str().unwrap();
    let saved = dir.path().join("talk.json");
    let input = format!(
        "/set temperature 0\n/set temprature 1\n/set top-p 7\n/nowhere\n你\\\n好\n\"\"\"one\ntwo\"\"\"\n/save {0}\n/reset\n/system 系统\n/save {0}.md\n/quit\nnever read\n",
        saved.display()
    );
    let (code, answers, told) = mindscale(&["chat", path, "--max-tokens", "8"], &input);
    assert_eq!(code, 0, "{told}");
    for problem in [
        "did you mean temperature?",
        "top_p is 7, expected",
        "there is no command /nowhere",
        "4 turns written to",
    ] {
        assert!(told.contains(problem), "{problem}: {told}");
    }
    let talk: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let said: Vec<&str> =
        talk["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!((said[0], said[2]), ("你\n好", "one\ntwo"));
    assert_eq!(answers, format!("{}\n{}\n", said[1], said[3]));
    assert_eq!(std::fs::read_to_string(saved.with_extension("json.md")).unwrap(), "**system**\n\n系统\n");
    // A conversation that outgrows the model loses its first turns, and says so.
    let long: String = (0..12).map(|i| format!("{i} {}\n", "天空".repeat(10))).collect();
    let (code, answers, told) = mindscale(&["chat", path, "--max-tokens", "8", "--system", "系统"], &long);
    assert!(
        code == 0
            && answers.lines().count() >= 12
            && told.contains("turns are forgotten: the model reads 256 tokens"),
        "{told}"
    );
}

#[test]
fn prompts_come_from_files_and_from_the_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let path = dir.path().to_str().unwrap();
    let file = dir.path().join("prompts.jsonl");
    std::fs::write(&file, "{\"prompt\": \"天空\"}\n{\"prompt\": \"ab\"}\n").unwrap();
    let usual = ["generate", path, "--max-tokens", "9", "--json"];
    let rows = |more: &[&str], input: &str| -> Vec<Value> {
        let (code, text, told) = mindscale(&[&usual, more].concat(), input);
        assert_eq!(code, 0, "{told}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let many = rows(&["--prompts", file.to_str().unwrap(), "-n", "3", "--log-probs", "2"], "");
    let places: Vec<_> = many.iter().map(|row| (row["prompt"].as_u64(), row["choice"].as_u64())).collect();
    let want: Vec<_> =
        (0..2).flat_map(|prompt| (0..3).map(move |choice| (Some(prompt), Some(choice)))).collect();
    assert_eq!(places, want);
    let one = rows(&["--prompt", "-"], "ab\n");
    assert_eq!(one[0]["text"], many[3]["text"]);
    assert_eq!(many[3]["log_probs"].as_array().unwrap().len(), 9);
    assert_eq!(many[3]["log_probs"][0]["top"].as_array().unwrap().len(), 2);
    // What is printed is what JSON has.
    let (_, text, _) = mindscale(&["generate", path, "--max-tokens", "9", "--prompt", "ab"], "");
    assert_eq!(text, format!("{}\n", one[0]["text"].as_str().unwrap()));
    let stop: String = one[0]["text"].as_str().unwrap().chars().skip(2).take(1).collect();
    let cut = rows(&["--prompt", "ab", "--stop", &stop], "");
    assert!(!cut[0]["text"].as_str().unwrap().contains(&stop) && cut[0]["stopped"] == true);
    for (options, problem) in [
        (
            &["--prompt", "a", "--temperature", "-1"][..],
            "expected 0 (the likeliest token) or more, such as 0.7",
        ),
        (&["--prompt", "a", "--top-p", "2"], "expected above 0 and at most 1"),
        (&["--prompt", "a", "--min-p", "hot"], "expected a number"),
        (&["--prompt", "a", "-n", "0"], "0 is not in 1..=1024"),
        (&["--prompt", "a", "--stop", ""], "at least one character"),
        (&["--prompt", "a", "--prompts", "b"], "cannot be used with"),
        (&[], "--prompt <TEXT>|--prompts <FILE>"),
    ] {
        let (code, _, told) = mindscale(&[&usual, options].concat(), "");
        assert!(code == 2 && told.contains(problem), "{options:?}: {told}");
    }
}
