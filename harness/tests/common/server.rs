//! A server on a real socket, and raw requests to it.

use super::tiny::tiny;
use harness::config::Stage;
use harness::models::Model;
use harness::serve::{Limits, Options, Served, Server, Stop};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// A server in a thread of this process, with the models `tiny` and `other`.
pub struct Running {
    /// The address on which it listens.
    pub address: SocketAddr,
    stop: watch::Sender<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options { port: 0, grace: Duration::from_secs(20), ..Options::default() };
        options.limits = Limits { texts: 4, waiting: 16 };
        change(&mut options);
        let served = ["tiny", "other"].map(|name| served(name, &options));
        let server = Server::bind(served.into(), options).unwrap();
        let (stop, asked) = watch::channel(Stop::No);
        let address = server.address();
        Self { address, stop, thread: Some(std::thread::spawn(move || server.run(asked))) }
    }

    pub fn usual() -> Self {
        Self::start(|_| ())
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends raw bytes; returns status, head and body of the response.
    pub fn raw(&self, bytes: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        read_response(stream)
    }

    /// Sends a request and returns the connection without reading the response.
    pub fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let (host, body) = (self.address, body.to_string());
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut stream = self.connect();
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        stream
    }

    pub fn request(&self, method: &str, path: &str, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let host = self.address;
        let begin = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}Content-Length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[begin.as_bytes(), body].concat())
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.request("GET", path, "", b"");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let json = "Content-Type: application/json\r\n";
        let (status, _, answer) = self.request("POST", path, json, body.to_string().as_bytes());
        (status, serde_json::from_slice(&answer).unwrap())
    }

    pub fn chat(&self, more: Value) -> (u16, Value) {
        self.post("/v1/chat/completions", &with(chat_body(), more))
    }

    pub fn complete(&self, more: Value) -> (u16, Value) {
        self.post("/v1/completions", &with(json!({ "model": "tiny", "temperature": 0 }), more))
    }

    /// Returns the chunks of a stream, which must end in `[DONE]`.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, head, bytes) = self.request("POST", path, "", body.to_string().as_bytes());
        assert_eq!(status, 200);
        assert!(head.contains("text/event-stream"), "{head}");
        let text = String::from_utf8(bytes).unwrap();
        let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let (last, chunks) = data.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
    }

    pub fn metric(&self, line: &str) -> f64 {
        let (_, _, body) = self.request("GET", "/metrics", "", b"");
        let text = String::from_utf8(body).unwrap();
        let found =
            text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line}\n{text}"));
        found.trim().parse().unwrap()
    }

    pub fn end(mut self, how: Stop) {
        self.stop.send_replace(how);
        self.thread.take().unwrap().join().unwrap();
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

fn served(name: &str, options: &Options) -> Served {
    let (tokenizer, transformer) = tiny(name.len() as u64);
    let (name, source, stage) = (name.into(), format!("test/{name}"), Stage::named("sft"));
    Served::new(Model { name, source, stage, transformer, tokenizer }, options.limits, 2).unwrap()
}

/// Reads status, head and body of a response.
pub fn read_response(stream: TcpStream) -> (u16, String, Vec<u8>) {
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
    // The connection may be reset if the server closes it while the client is still sending.
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

/// A chat request to `tiny`.
pub fn chat_body() -> Value {
    json!({ "model": "tiny", "messages": [{ "role": "user", "content": "你好" }], "seed": 7, "max_tokens": 20 })
}

/// Sets further fields of a request.
pub fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// The text of the assistant in an answer.
pub fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}
