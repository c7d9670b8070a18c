//! Models with weights or answers that are not finite: their trials fail with a reason, and no others do.

use crate::common::{TINY, manifests, mindscale, only};
use predicates::str::contains;
use std::fs;
use std::path::Path;

/// `status` and `reason` of every trial, in order.
fn standing(results: &Path) -> Vec<(String, String)> {
    let mut reader = csv::Reader::from_path(results.join("trials.csv")).unwrap();
    let names = reader.headers().unwrap().clone();
    let at = |name: &str| names.iter().position(|column| column == name).unwrap();
    let (status, reason) = (at("status"), at("reason"));
    reader.records().map(|row| row.unwrap()).map(|row| (row[status].into(), row[reason].into())).collect()
}

#[test]
fn a_trial_whose_last_step_makes_weights_infinite_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let off = "[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n";
    let sweep = TINY.split("[base.sft]").next().unwrap().replace("steps = 6", "steps = 1");
    fs::write(
        dir.path().join("tiny.toml"),
        format!("{sweep}{off}[axes]\n\"pretrain.lr\" = [1e-3, 1e18, 1e38]\n"),
    )
    .unwrap();
    let results = dir.path().join("results/tiny");
    for _ in 0..2 {
        mindscale(dir.path())
            .args(["run", "tiny.toml"])
            .assert()
            .code(1)
            .stdout(contains("step 1: training diverged; lower pretrain.lr (now 1e38)"))
            .stdout(contains("tensor tok_embeddings.weight: "));
        mindscale(dir.path()).args(["report", "tiny.toml"]).assert().code(0);
        let standing = standing(&results);
        assert_eq!(standing[0], ("done".into(), String::new()));
        for (status, reason) in &standing[1..] {
            assert_eq!(status, "failed");
            assert!(reason.starts_with("pretrain: step 1: training diverged"), "{reason}");
        }
    }
    let runs = dir.path().join("runs");
    let ended = |stage: &str| -> Vec<String> {
        let all = manifests(&runs).into_iter().filter(|(name, _)| name.starts_with(stage));
        all.map(|(_, manifest)| manifest["status"].as_str().unwrap().to_owned()).collect()
    };
    let mut pretrained = ended("pretrain");
    pretrained.sort();
    assert_eq!(pretrained, ["done", "failed", "failed"]);
    assert_eq!(ended("exam"), ["done"]);
}

#[test]
fn a_model_folder_with_weights_that_are_not_finite_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let off = "[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n";
    let sweep = TINY.split("[base.sft]").next().unwrap();
    fs::write(dir.path().join("tiny.toml"), format!("{sweep}{off}")).unwrap();
    mindscale(dir.path()).args(["run", "tiny.toml"]).assert().code(0);
    let model = only(&dir.path().join("runs"), "pretrain").join("model");
    let file = model.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    mindscale(dir.path())
        .args(["generate", model.to_str().unwrap(), "--prompt", "a"])
        .assert()
        .code(1)
        .stderr(contains("tok_embeddings.weight: 1 of 4800 values are NaN or infinite"));
}
