//! Small inputs that reproduce published faults, through the command line: each has the right outcome.

use crate::common::{manifests, mindscale};
use crate::testing::shared;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Copies the folder of a case, so that its relative paths to the shared data are valid.
fn case(name: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let from = shared(&format!("cases/{name}"))?;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("cases").join(name);
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::write(dir.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap();
    }
    let data = fs::canonicalize(shared("data")?).unwrap();
    std::os::unix::fs::symlink(data, root.path().join("data")).unwrap();
    Some((root, dir))
}

/// The results of the only stage run of a stage.
fn results(dir: &Path, stage: &str) -> Value {
    let all = manifests(&dir.join("runs"));
    let mut found = all.values().filter(|manifest| manifest["stage"] == stage);
    let results = found.next().unwrap()["results"].clone();
    assert!(found.next().is_none());
    results
}

#[test]
fn a_pair_of_equal_answers_is_left_out() {
    let Some((_root, dir)) = case("05_dpo_equal_pair") else { return };
    let run = mindscale(&dir).args(["run", "dpo.toml"]).assert().code(1);
    run.stdout(contains(
        "no preference pairs to train on: 1 row after filtering, 1 pair with chosen equal to rejected",
    ));
}

#[test]
fn control_tokens_in_words_are_text() {
    // All 23 ids of the answer carry loss, where a search for `<s>assistant` would find the last 14 only; in the other
    // conversation only the 4 ids of the answer do, although the text of the user contains the marker.
    for (name, tokens) in [("ans_marker", 23), ("user_marker", 4)] {
        let Some((_root, dir)) = case("09_control_tokens") else { return };
        let notice = "sft: 1 of 1 texts hold special tokens, encoded as characters";
        let file = format!("{name}.toml");
        mindscale(&dir).args(["run", &file]).assert().code(0).stderr(contains(notice));
        let sft = results(&dir, "sft");
        assert_eq!((sft["steps"].as_u64(), sft["tokens"].as_u64()), (Some(1), Some(tokens)), "{name}");
        let report = fs::read_to_string(dir.join(format!("results/{name}/report.html"))).unwrap();
        assert!(report.contains(notice));
    }
}

#[test]
fn a_model_that_is_not_finite_fails_alone_and_for_good() {
    let Some((_root, dir)) = case("29_nan_model") else { return };
    for _ in 0..2 {
        let run = mindscale(&dir).args(["run", "t.toml"]).assert().code(1);
        run.stdout(contains("failed: pretrain-").and(contains("lower pretrain.lr")));
        mindscale(&dir).args(["report", "t.toml"]).assert().code(0);
        let trials = fs::read_to_string(dir.join("results/t/trials.csv")).unwrap();
        let count = |word: &str| trials.lines().skip(1).filter(|line| line.contains(word)).count();
        assert_eq!((count(",done,"), count(",failed,")), (1, 1), "{trials}");
        // The failed trial has no loss, no score and no p.
        let failed = trials.lines().find(|line| line.contains(",failed,")).unwrap();
        assert!(failed.contains(",0,0,,,,,,,,,,"), "{failed}");
    }
}
