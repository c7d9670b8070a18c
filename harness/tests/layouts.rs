//! Small inputs that once failed, through the command line.

use crate::common::{manifests, mindscale, only};
use crate::testing::shared;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Copies the folder of a case to its place next to the data.
fn case(name: &str) -> Option<(TempDir, PathBuf)> {
    let (cases, data) = (shared("cases")?, shared("data")?);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cases").join(name);
    copy(&cases.join(name), &dir);
    std::os::unix::fs::symlink(data.canonicalize().unwrap(), root.path().join("data")).unwrap();
    Some((root, dir))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            // Not `fs::copy`: the originals are read-only, and it would copy their permissions.
            fs::write(target, fs::read(path).unwrap()).unwrap();
        }
    }
}

#[test]
fn vocabularies_that_cannot_be_are_refused_before_anything_starts() {
    let Some((_root, dir)) = case("12_tokenizer_limits") else {
        return;
    };
    mindscale(&dir)
        .args(["tokenizer", "train", "--vocab-size", "1000000000000", "--out", "t", "tiny.jsonl"])
        .assert()
        .code(2)
        .stderr(contains("expected 259 (3 special tokens and 256 bytes) to 16777216"));
    for verb in ["plan", "run"] {
        let refused = |file: &str, message: &'static str| {
            mindscale(&dir).args([verb, file]).assert().code(1).stderr(contains(message));
        };
        refused(
            "v200.toml",
            "model.vocab_size: is 200, expected at least 259 for a tokenizer that is trained",
        );
        refused("big.toml", "model.vocab_size is 300, expected at least 6400, the entries of tokenizer.path");
    }
    assert!(manifests(&dir.join("runs")).is_empty());
}

#[test]
fn a_vocabulary_that_the_text_cannot_fill_is_reported() {
    let Some((_root, dir)) = case("12_tokenizer_limits") else {
        return;
    };
    let notice = "tokenizer: 240 of 500 entries of the vocabulary stay unused";
    mindscale(&dir)
        .args(["run", "v200.toml", "--set", "model.vocab_size=500"])
        .assert()
        .code(0)
        .stderr(contains(notice));
    let tokenizer = only(&dir.join("runs"), "tokenizer");
    let manifest = fs::read_to_string(tokenizer.join("manifest.json")).unwrap();
    assert!(manifest.contains("\"count\": 240"), "{manifest}");
    mindscale(&dir)
        .args(["tokenizer", "train", "--vocab-size", "300", "--out", "t", "tiny.jsonl"])
        .assert()
        .code(0)
        .stdout(contains("the text is too small for 300 entries: the tokenizer has 260"));
}

#[test]
fn what_a_run_leaves_out_is_reported_and_recorded() {
    let Some((_root, dir)) = case("26_counts") else {
        return;
    };
    let notice =
        "pretrain: 90 of 100 rows left out: cannot be read (the first: pre.jsonl:11: has no \"text\"";
    mindscale(&dir).args(["run", "skip.toml"]).assert().code(0).stderr(contains(notice));
    let manifest = fs::read_to_string(only(&dir.join("runs"), "data").join("manifest.json")).unwrap();
    assert!(manifest.contains("\"count\": 90"), "{manifest}");
    let report = fs::read_to_string(dir.join("results/t/report.html")).unwrap();
    assert!(report.contains("rows left out: cannot be read"), "the report does not tell it");
}

#[test]
fn what_cannot_be_trained_fails_with_file_and_line() {
    let Some((_root, dir)) = case("04_assistant_without_question") else {
        return;
    };
    for (set, message) in [
        ("data.sft=[\"sft.jsonl\"]", "sft.jsonl:1: \"conversations\"[0] is an answer without a question"),
        (
            "data.sft=[\"sysmid.jsonl\"]",
            "sysmid.jsonl:1: \"conversations\"[1] is a system text that is not the first",
        ),
    ] {
        mindscale(&dir).args(["run", "t.toml", "--set", set]).assert().code(1).stderr(contains(message));
    }
}

#[test]
fn folders_are_meant_by_their_names() {
    let Some((_root, dir)) = case("27_paths") else {
        return;
    };
    mindscale(&dir).args(["run", "br.toml"]).assert().code(0);
    mindscale(&dir).args(["run", "stale.toml"]).assert().code(0);
    fs::write(dir.join("sh[1]/law_val.csv"), "id,question,A,B,C,D,answer\n0,q,a,b,c,d,B\n").unwrap();
    mindscale(&dir).args(["run", "stale.toml"]).assert().code(0);
    let exams = manifests(&dir.join("runs")).into_keys().filter(|name| name.starts_with("exam-")).count();
    // The exam of br.toml has the same sheet as the first one of stale.toml.
    assert_eq!(exams, 2);
}

#[test]
fn a_file_is_read_once_and_what_is_left_out_is_reported() {
    let Some((_root, dir)) = case("27_paths") else {
        return;
    };
    let tokenizer = shared("data/minimind_tokenizer").unwrap();
    let prepare = |kind: &str, more: &[&str]| {
        let mut command = mindscale(&dir);
        command.args(["data", "prepare", "--kind", kind, "--out", "store", "--tokenizer"]);
        command.arg(&tokenizer).args(more);
        command
    };
    std::os::unix::fs::symlink("a.jsonl", dir.join("d/b.jsonl")).unwrap();
    prepare("pretrain", &["d/*.jsonl", "./d/a.jsonl", "d/a.jsonl"])
        .assert()
        .code(0)
        .stdout(contains("files: 3 of 4 names are duplicates").and(contains("0 left out")));
    let counts = shared("cases/26_counts").unwrap().join("empty.csv");
    prepare("pretrain", &[counts.to_str().unwrap()])
        .assert()
        .code(1)
        .stderr(contains("empty.csv:2: the key \"x\" has content").and(contains("--ignore-unknown-keys")));
    prepare("pretrain", &["--ignore-unknown-keys", counts.to_str().unwrap()]).assert().code(0).stdout(
        contains("data: 2 of 3 rows left out: no text")
            .and(contains("1 row to train on"))
            .and(contains("2 left out")),
    );
    mindscale(&dir)
        .args(["data", "show", "--kind", "pretrain", "--ignore-unknown-keys", counts.to_str().unwrap()])
        .assert()
        .code(0)
        .stdout(contains("2 of 3 rows left out: no text"));
}
