//! Every use of a model, on the emulated GPU compared with the CPU.
#![cfg(feature = "emulate")]

use crate::common::server::read_response;
use crate::common::tiny::folder;
use crate::common::{TINY, mindscale, only, stage_runs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the program prints in `dir`, given `input` on stdin.
fn printed(dir: &Path, words: &[&str], input: &str) -> String {
    let output = mindscale(dir).args(words).write_stdin(input).assert().success().get_output().clone();
    String::from_utf8(output.stdout).unwrap()
}

/// What a command prints on the CPU and on the GPU.
fn on_both(dir: &Path, words: &[&str], input: &str) -> [String; 2] {
    ["cpu", "cuda"].map(|device| printed(dir, &[words, &["--device", device]].concat(), input))
}

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn log_probs(text: &Value) -> Vec<f64> {
    let rows = text["log_probs"].as_array().unwrap();
    rows.iter().map(|row| row["log_prob"].as_f64().unwrap()).collect()
}

fn assert_close(a: &[f64], b: &[f64], bound: f64) {
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(!a.is_empty() && a.len() == b.len() && off < bound, "{off:e} off: {a:?} {b:?}");
}

/// The numbers in these columns of a table, row by row.
fn columns(csv: &Path, names: &[&str]) -> Vec<f64> {
    let mut csv = csv::Reader::from_path(csv).unwrap();
    let rows = csv.deserialize::<BTreeMap<String, String>>().map(Result::unwrap);
    rows.flat_map(|row| names.iter().filter_map(|name| row[*name].parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn texts_are_those_of_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("a"), 4);
    folder(&dir.path().join("b"), 5);
    let written = ["--max-tokens", "24", "--temperature", "0"];
    let generate =
        [&["generate", "a", "--prompt", "你好", "--chat", "--json", "--log-probs", "2"], &written[..]]
            .concat();
    let [cpu, gpu] = on_both(dir.path(), &generate, "").map(|text| read(&text));
    assert_eq!(gpu["text"], cpu["text"]);
    assert!(log_probs(&cpu).len() > 8, "{cpu}");
    assert_close(&log_probs(&gpu), &log_probs(&cpu), 1e-5);
    // In half precision only the first token is compared: the texts may diverge.
    for precision in ["bf16", "f16"] {
        let half = [&generate[..], &["--device", "cuda", "--precision", precision]].concat();
        let half = read(&printed(dir.path(), &half, ""));
        assert_close(&log_probs(&half)[..1], &log_probs(&cpu)[..1], 0.02);
    }

    let [cpu, gpu] = on_both(dir.path(), &[&["chat", "a"], &written[..]].concat(), "你好\n天空\n");
    assert!(cpu == gpu && cpu.len() > 20, "{cpu}{gpu}");

    fs::write(dir.path().join("prompts.txt"), "你好\nefgh 天空\n").unwrap();
    let compare = [&["compare", "a", "b", "--prompts", "prompts.txt", "--json"], &written[..]].concat();
    let [cpu, gpu] = on_both(dir.path(), &compare, "");
    assert_eq!(gpu, cpu);
}

#[test]
fn texts_and_questions_are_judged_as_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("a"), 4);
    fs::write(dir.path().join("text.txt"), "abcd efgh 你好 天空是蓝色的 ".repeat(20)).unwrap();
    let perplexity =
        ["perplexity", "a", "--text", "text.txt", "--lengths", "16,48", "--windows", "2", "--json"];
    let losses = |text: &str| -> Vec<f64> {
        read(text).as_array().unwrap().iter().map(|one| one["loss"].as_f64().unwrap()).collect()
    };
    let [cpu, gpu] = on_both(dir.path(), &perplexity, "").map(|text| losses(&text));
    assert_close(&gpu, &cpu, 1e-5);

    fs::create_dir(dir.path().join("sheets")).unwrap();
    let sheet = "id,question,A,B,C,D,answer\n0,谁画了它,甲,乙,丙,丁,A\n1,问,abcd,b,c,d,D\n";
    fs::write(dir.path().join("sheets/art_val.csv"), sheet).unwrap();
    for answer in ["letter", "cloze"] {
        let exam = |device: &str, precision: &str| {
            let words = ["exam", "a", "--sheets", "sheets", "--out", "out.csv", "--answer", answer];
            printed(dir.path(), &[&words[..], &["--device", device, "--precision", precision]].concat(), "");
            let found = columns(&dir.path().join("out.csv"), &["p_a", "p_b", "p_c", "p_d"]);
            found.iter().map(|p| p.ln()).collect::<Vec<f64>>()
        };
        let cpu = exam("cpu", "f32");
        assert_eq!(cpu.len(), 8);
        assert_close(&exam("cuda", "f32"), &cpu, 2e-5);
        assert_close(&exam("cuda", "bf16"), &cpu, 0.2);
    }
}

#[test]
fn a_served_model_answers_as_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("a"), 4);
    let body = json!({
        "model": "a", "messages": [{ "role": "user", "content": "你好" }], "temperature": 0, "max_tokens": 16,
        "logprobs": true,
    });
    let body = body.to_string();
    let answers = ["cpu", "cuda"].map(|device| {
        let mut server = Command::new(assert_cmd::cargo::cargo_bin("mindscale"));
        server.current_dir(dir.path()).args(["serve", "a", "--port", "0", "--device", device]);
        let mut server = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit('/').next().unwrap().to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        let (status, _, answer) = read_response(stream);
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&answer).unwrap()["choices"][0].take()
    });
    let [cpu, gpu] = answers;
    assert_eq!(gpu["message"], cpu["message"]);
    let log_probs = |answer: &Value| -> Vec<f64> {
        let tokens = answer["logprobs"]["content"].as_array().unwrap();
        tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).collect()
    };
    assert_close(&log_probs(&gpu), &log_probs(&cpu), 1e-5);
}

#[test]
fn what_the_processor_cannot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    folder(&dir.path().join("a"), 4);
    let verbs: [&[&str]; 6] = [
        &["generate", "a", "--prompt", "a"],
        &["chat", "a"],
        &["serve", "a", "--port", "0"],
        &["exam", "a", "--sheets", "nowhere"],
        &["perplexity", "a", "--text", "nowhere"],
        &["compare", "a"],
    ];
    for verb in verbs {
        let message = "error: precision = \"bf16\": device = \"cpu\" supports only \"f32\"; set precision = \"f32\" or device = \"cuda\"\n";
        mindscale(dir.path()).args(verb).args(["--precision", "bf16"]).assert().code(1).stderr(message);
    }
}

#[test]
fn every_stage_learns_as_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    let lora = "[base.lora]\nenabled = true\nsteps = 2\nseq_len = 64\n";
    fs::write(dir.path().join("tiny.toml"), format!("{TINY}{lora}")).unwrap();
    for device in ["cpu", "cuda"] {
        let mut run = mindscale(dir.path());
        // One GPU, by the environment.
        run.env("CUDA_VISIBLE_DEVICES", "0").args(["run", "tiny.toml", "--runs", device]);
        for set in
            [&format!("device={device}"), "pretrain.log_every=1", "pretrain.batch_size=4", "sft.batch_size=4"]
        {
            run.args(["--set", set]);
        }
        run.assert().success();
    }
    for stage in ["pretrain", "sft", "lora", "dpo"] {
        let losses = ["cpu", "cuda"].map(|device| {
            columns(&only(&dir.path().join(device), stage).join("metrics.csv"), &["loss", "grad_norm"])
        });
        assert_close(&losses[1], &losses[0], 1e-4);
    }
    let exams = ["cpu", "cuda"].map(|device| {
        let mut answers = vec![];
        for run in stage_runs(&dir.path().join(device)) {
            if run.join("questions.csv").exists() {
                answers.push(columns(&run.join("questions.csv"), &["p_a", "p_b", "p_c", "p_d"]));
            }
        }
        answers.sort_by(|a, b| a[0].total_cmp(&b[0]));
        answers.concat()
    });
    assert_close(&exams[1], &exams[0], 1e-4);
}
