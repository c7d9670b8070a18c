//! A server that speaks the part of the hub's protocol that is used here, and misbehaves on request.

use crate::fsutil::hex;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The only commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Content and behaviour of a server.
#[derive(Default)]
pub struct Site {
    /// `models/a/b` or `datasets/a/b`, with their files.
    pub repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Minimum size in bytes of large files, which have a SHA-256 and are redirected.
    pub large: usize,
    /// Target of redirects of large files: another server, which must not see the token.
    pub store: Option<String>,
    /// Required token, and the error code of a refusal.
    pub token: Option<(String, String)>,
    /// Responses sent before any other, each once: status and headers.
    pub first: Vec<(u16, String)>,
    /// Byte offset at which contents break off, and how many times.
    pub breaks: (usize, u32),
    /// How many times a content has a flipped bit.
    pub flips: u32,
    /// Whether ranges are not supported.
    pub no_ranges: bool,
    /// Whether the list has no sizes and digests.
    pub bare_list: bool,
    /// Requests so far: request line, range, whether a token was sent.
    pub seen: Vec<String>,
}

impl Site {
    pub fn with(repo: &str, files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(path, bytes)| (path.to_string(), bytes.to_vec())).collect();
        Self { repos: BTreeMap::from([(repo.into(), files)]), large: 1000, ..Self::default() }
    }
}

/// A server on a free port, which runs until the process ends.
pub struct Server {
    pub url: String,
    pub site: Arc<Mutex<Site>>,
}

impl Server {
    pub fn start(site: Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(Mutex::new(site));
        let own = Arc::clone(&site);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let site = Arc::clone(&own);
                thread::spawn(move || answer(&stream, &site));
            }
        });
        Self { url, site }
    }

    pub fn change(&self, change: impl FnOnce(&mut Site)) {
        change(&mut self.site.lock().unwrap());
    }

    /// Returns the requests so far and forgets them.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.site.lock().unwrap().seen)
    }
}

fn answer(stream: &TcpStream, site: &Mutex<Site>) {
    let mut lines = BufReader::new(stream).lines();
    let Some(Ok(line)) = lines.next() else { return };
    let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let of = |line: &String| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        headers.iter().find_map(of)
    };
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let (range, token) = (header("range"), header("authorization"));
    let mut site = site.lock().unwrap();
    let shown = [Some(format!("{method} {path}")), range.clone(), token.as_ref().map(|_| "token".into())];
    site.seen.push(shown.into_iter().flatten().collect::<Vec<_>>().join(" "));
    let (head, body) = respond(&mut site, method, path, range.as_deref(), token.as_deref());
    drop(site);
    let mut stream = stream;
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// Head of a response, and the part of its body that is sent.
fn respond(
    site: &mut Site,
    method: &str,
    path: &str,
    range: Option<&str>,
    token: Option<&str>,
) -> (String, Vec<u8>) {
    let plain = |status: u16, headers: &str| {
        (format!("HTTP/1.1 {status} x\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n"), vec![])
    };
    if !site.first.is_empty() {
        let (status, headers) = site.first.remove(0);
        return plain(status, &headers);
    }
    if let Some((wanted, code)) = &site.token
        && token != Some(&format!("Bearer {wanted}"))
    {
        return plain(401, &format!("x-error-code: {code}\r\nx-error-message: Access is restricted.\r\n"));
    }
    let path = path.split('?').next().unwrap().replace("%20", " ");
    if let Some(rest) = path.strip_prefix("/api/") {
        let (repo, _revision) = rest.split_once("/revision/").unwrap();
        let Some(files) = site.repos.get(repo) else {
            return plain(404, "x-error-code: RepoNotFound\r\n");
        };
        let sibling = |(path, bytes): (&String, &Vec<u8>)| match (site.bare_list, bytes.len() >= site.large) {
            (true, _) => json!({ "rfilename": path }),
            (false, false) => json!({ "rfilename": path, "size": bytes.len(), "blobId": git(bytes) }),
            (false, true) => json!({
                "rfilename": path, "size": bytes.len(), "blobId": "0".repeat(40),
                "lfs": { "sha256": sha(bytes), "size": bytes.len(), "pointerSize": 134 },
            }),
        };
        let siblings: Vec<_> = files.iter().map(sibling).collect();
        let body = json!({ "id": repo, "sha": COMMIT, "siblings": siblings }).to_string().into_bytes();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        return (head, body);
    }
    let (repo, rest) = path.trim_start_matches('/').split_once("/resolve/").unwrap();
    let repo = if repo.starts_with("datasets/") { repo.into() } else { format!("models/{repo}") };
    let (_commit, file) = rest.split_once('/').unwrap();
    let Some(bytes) = site.repos.get(&repo).and_then(|files| files.get(file)).cloned() else {
        return plain(404, "x-error-code: EntryNotFound\r\n");
    };
    let mut headers = format!("x-repo-commit: {COMMIT}\r\n");
    if bytes.len() >= site.large {
        headers += &format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", sha(&bytes), bytes.len());
        if let Some(store) = &site.store {
            return plain(302, &format!("{headers}location: {store}{path}\r\n"));
        }
    } else {
        headers += &format!("etag: \"{}\"\r\n", git(&bytes));
    }
    content(site, method, bytes, range, &headers)
}

fn content(
    site: &mut Site,
    method: &str,
    mut bytes: Vec<u8>,
    range: Option<&str>,
    headers: &str,
) -> (String, Vec<u8>) {
    let length = bytes.len();
    let from = range.filter(|_| !site.no_ranges).map_or(0, |range| {
        range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap()
    });
    if from >= length && from > 0 {
        return ("HTTP/1.1 416 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(), vec![]);
    }
    if site.flips > 0 && length > 0 {
        site.flips -= 1;
        bytes[length - 1] ^= 1;
    }
    let (status, which) = match from {
        0 => ("200 OK", String::new()),
        _ => ("206 Partial", format!("content-range: bytes {from}-{}/{length}\r\n", length - 1)),
    };
    let mut body = bytes.split_off(from);
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}{which}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    if site.breaks.1 > 0 && body.len() > site.breaks.0 {
        site.breaks.1 -= 1;
        body.truncate(site.breaks.0);
    }
    if method == "HEAD" {
        body.clear();
    }
    (head, body)
}

/// SHA-256, as printed by `sha256sum`.
pub fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Git blob id, as printed by `git hash-object`.
fn git(bytes: &[u8]) -> String {
    let mut hasher = sha1_smol::Sha1::from(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.digest().to_string()
}
