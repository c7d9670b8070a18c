//! `mindscale fetch` through the command line, against a local server with the protocol of the Hugging Face Hub.

use crate::common::mindscale;
use assert_cmd::Command;
use predicates::str::{contains, is_match};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

type Files = BTreeMap<String, Vec<u8>>;

/// Starts a hub with a model `tiny/one` and a data set `ceval/ceval-exam`. The first `stuck` answers with weights stop
/// half way and hang.
fn hub(stuck: usize) -> String {
    let references = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references");
    let file =
        |path: PathBuf| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap());
    let model: Files =
        fs::read_dir(references.join("model")).unwrap().map(|entry| file(entry.unwrap().path())).collect();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fetch/tests/sheets.zip");
    let exam = Files::from([file(archive)]);
    let repos = BTreeMap::from([
        ("models/tiny/one".to_owned(), model),
        ("datasets/ceval/ceval-exam".to_owned(), exam),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (repos, stuck) = (Arc::new(repos), Arc::new(AtomicUsize::new(stuck)));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (repos, stuck) = (Arc::clone(&repos), Arc::clone(&stuck));
            thread::spawn(move || answer(stream, &repos, &stuck));
        }
    });
    url
}

fn answer(mut stream: TcpStream, repos: &BTreeMap<String, Files>, stuck: &AtomicUsize) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let lines: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = lines[0].split(' ').nth(1).unwrap().split('?').next().unwrap().trim_start_matches('/');
    let range =
        lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let mut send = |status: &str, headers: &str, body: &[u8], length: usize| {
        let head =
            format!("HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    let content = match path.strip_prefix("api/") {
        Some(rest) => repos.get(rest.split("/revision/").next().unwrap()).map(|files| {
            let sibling = |(name, bytes): (&String, &Vec<u8>)| {
                let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                json!({ "rfilename": name, "lfs": { "sha256": sha256, "size": bytes.len() } })
            };
            let siblings: Vec<Value> = files.iter().map(sibling).collect();
            json!({ "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": siblings })
                .to_string()
                .into_bytes()
        }),
        None => {
            let (repo, rest) = path.split_once("/resolve/").unwrap();
            let repo = if repo.starts_with("datasets/") { repo.into() } else { format!("models/{repo}") };
            repos.get(&repo).and_then(|files| files.get(rest.split_once('/').unwrap().1)).cloned()
        }
    };
    let Some(content) = content else { return send("404", "", b"", 0) };
    let from: usize = range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let rest = &content[from..];
    let (end, length) = (content.len().saturating_sub(1), content.len());
    let (status, which) = match from {
        0 => ("200", String::new()),
        _ => ("206", format!("content-range: bytes {from}-{end}/{length}\r\n")),
    };
    let is_stuck = |left: usize| left.checked_sub(1);
    if path.ends_with(".safetensors")
        && stuck.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_stuck).is_ok()
    {
        send(status, &which, &rest[..rest.len() / 2], rest.len());
        // Wait until the client disconnects.
        let _ = stream.read(&mut [0]);
        return;
    }
    send(status, &which, rest, rest.len());
}

/// The program in an environment where only the hub is reachable.
fn fetch(dir: &Path, hub: &str, words: &[&str]) -> Command {
    let mut command = mindscale(dir);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy);
    }
    command.env("HF_ENDPOINT", hub).env("HF_HOME", dir.join("cache")).env("HF_TOKEN", "hf_secret");
    command.arg("fetch").args(words);
    command
}

#[test]
fn what_is_fetched_is_examined_written_with_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(0);
    let run = |words: &[&str]| fetch(dir.path(), &hub, words).assert();
    run(&["hf:tiny/one"])
        .success()
        .stdout(
            is_match(r"^one: \d+ files, .* tiny/one at 0123456789ab\nnext: mindscale chat one\n$").unwrap(),
        )
        .stderr("");
    run(&["ceval"]).success().stdout(contains("next: mindscale exam MODEL --sheets ceval"));
    let output = run(&["hf:tiny/one", "--json"]).success().get_output().stdout.clone();
    let output: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((&output["folder"], &output["fetched"]["kind"]), (&json!("one"), &json!("model")));
    let plain = |words: &[&str]| mindscale(dir.path()).args(words).assert();
    plain(&["generate", "one", "--prompt", "他", "--max-tokens", "2"]).success();
    plain(&["exam", "one", "--sheets", "ceval"]).success().stdout(contains("total"));
    plain(&["import", "one", "mine"]).success();
    run(&["hf:tiny/two"]).code(1).stderr(contains("no model or data set has this name"));
    run(&["tiny/one"]).code(1).stderr(contains("did you mean hf:tiny/one?"));
    let entries =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    assert_eq!(names, ["ceval", "mine", "one"]);
}

#[test]
fn a_fetch_that_is_killed_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub(2);
    let size =
        fs::metadata(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/model/model.safetensors"));
    let half = size.unwrap().len() / 2;
    let part = || {
        let entries = fs::read_dir(dir.path().join(".one.fetching")).into_iter().flatten().flatten();
        let parts = entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "part"));
        parts.map(|entry| entry.metadata().unwrap().len()).max().unwrap_or(0)
    };
    for (signal, wanted) in [("KILL", half), ("INT", half + 1)] {
        let command = fetch(dir.path(), &hub, &["hf:tiny/one"]);
        let mut process = command_of(command).stderr(Stdio::piped()).spawn().unwrap();
        while part() < wanted {
            assert!(process.try_wait().unwrap().is_none(), "it ended by itself");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!dir.path().join("one").exists());
        let pid = process.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let ended = process.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        match signal {
            "INT" => {
                assert_eq!(ended.status.code(), Some(130));
                assert!(
                    said.contains("the same command resumes from ") && !said.contains("hf_secret"),
                    "{said}"
                );
            }
            _ => assert_eq!(ended.status.code(), None),
        }
    }
    fetch(dir.path(), &hub, &["hf:tiny/one"]).assert().success();
    let fetched = fs::read(dir.path().join("one/model.safetensors")).unwrap();
    assert!(
        fetched
            == fs::read(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/model/model.safetensors")
            )
            .unwrap()
    );
    assert!(!dir.path().join(".one.fetching").exists());
}

/// A standard-library command with the same program, arguments and environment.
fn command_of(command: Command) -> std::process::Command {
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => plain.env(name, value),
            None => plain.env_remove(name),
        };
    }
    plain
}
