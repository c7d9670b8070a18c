//! Stages without checkpoints end soon after a request to stop, or when the time limit is reached.
#![cfg(unix)]

use crate::common::driver::{Driver, PATIENCE};
use crate::common::{leftovers, manifests, mindscale, stage_runs};
use predicates::str::contains;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// A sweep over `text.jsonl` without an exam.
const SLOW: &str = r#"
name = "slow"
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 6400
[base.data]
source = "files"
pretrain = ["text.jsonl"]
[base.pretrain]
steps = 2
seq_len = 32
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
"#;

/// Writes a long text in which all lines differ.
fn write_text(path: &Path, lines: usize) {
    let mut state = 1u64;
    let mut text = String::new();
    for _ in 0..lines {
        text += "{\"text\":\"";
        for _ in 0..100 {
            // Knuth's linear congruential generator for MMIX.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push(char::from_u32(0x4e00 + (state >> 33) as u32 % 4000).unwrap());
        }
        text += "\"}\n";
    }
    fs::write(path, text).unwrap();
}

/// Runs the sweep in `dir`, sends SIGINT once a stage run of `stage` is running, and checks that it ends and reports
/// why.
fn assert_stopped(dir: &Path, stage: &str) {
    let status = || {
        let found = manifests(&dir.join("runs")).into_iter().find(|(name, _)| name.starts_with(stage));
        found.map_or(String::new(), |(_, manifest)| manifest["status"].as_str().unwrap().into())
    };
    let mut driver = Driver::start(dir, &["run", "s.toml"]);
    assert!(driver.wait_until(|| status() == "running"), "no {stage} stage run was seen at work");
    driver.send("INT");
    let code = driver.wait(PATIENCE).code();
    let output = driver.output();
    assert!(output.contains("stopped; resume with: mindscale run s.toml"), "{output}");
    assert_eq!((code, status().as_str()), (Some(1), "stopped"));
    assert_eq!(leftovers(&dir.join("runs")), Vec::<std::path::PathBuf>::new());
}

fn assert_out_of_time(dir: &Path, stage: &str) {
    mindscale(dir)
        .args(["run", "s.toml", "--time-limit", "1s"])
        .timeout(PATIENCE)
        .assert()
        .code(1)
        .stdout(contains(format!("failed: {stage}-")))
        .stdout(contains("of the 1 s allowed; raise --time-limit; running again restarts this stage"));
}

#[test]
fn tokenizer_training_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.toml"), SLOW).unwrap();
    write_text(&dir.path().join("text.jsonl"), 60_000);
    assert_stopped(dir.path(), "tokenizer");
    assert_out_of_time(dir.path(), "tokenizer");
}

#[test]
fn the_making_of_token_stores_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("few.jsonl"), 300);
    let train = ["tokenizer", "train", "few.jsonl", "--vocab-size", "6400", "--out", "tokenizer"];
    mindscale(dir.path()).args(train).assert().code(0);
    fs::write(dir.path().join("s.toml"), format!("{SLOW}[base.tokenizer]\npath = \"tokenizer\"\n")).unwrap();
    write_text(&dir.path().join("text.jsonl"), 150_000);
    assert_stopped(dir.path(), "data");
    let is_data = |dir: &&std::path::PathBuf| dir.file_name().unwrap().to_string_lossy().starts_with("data-");
    let data = stage_runs(&dir.path().join("runs")).iter().find(is_data).unwrap().clone();
    for name in ["pretrain", ".preparing-"] {
        let is_left = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with(name);
        assert!(!fs::read_dir(&data).unwrap().any(|entry| is_left(entry.unwrap())), "{name} is left");
    }
    assert_out_of_time(dir.path(), "data");
}

#[test]
fn an_exam_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut sheet = String::from("id,question,A,B,C,D,answer\n");
    for id in 0..30_000 {
        writeln!(sheet, "{id},第{id}个问题是什么,一,二,三,四,A").unwrap();
    }
    fs::create_dir(dir.path().join("sheets")).unwrap();
    fs::write(dir.path().join("sheets/facts_val.csv"), sheet).unwrap();
    let text = SLOW.split("[base.exam]").next().unwrap().replace("vocab_size = 6400", "vocab_size = 400");
    write_text(&dir.path().join("text.jsonl"), 100);
    fs::write(dir.path().join("s.toml"), format!("{text}[base.exam]\nsheets = \"sheets\"\n")).unwrap();
    assert_stopped(dir.path(), "exam");
    assert_out_of_time(dir.path(), "exam");
}
