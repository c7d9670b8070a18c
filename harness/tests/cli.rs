//! The program as a user runs it.
#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use predicates::str::contains;
use std::path::Path;

fn mindscale(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("mindscale").unwrap();
    command.current_dir(dir);
    command
}

/// The smallest sweep that goes through the whole recipe.
const TINY: &str = r#"
name = "tiny"
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.world]
people = 6
pretrain_rows = 60
sft_rows = 60
dpo_pairs = 20
questions_per_subject = 3
[base.pretrain]
steps = 6
seq_len = 64
checkpoint_every = 2
[base.sft]
steps = 2
seq_len = 64
[base.dpo]
steps = 2
seq_len = 64
[axes]
seed = [1, 2]
"#;

#[test]
fn wrong_usage_exits_with_two() {
    let dir = tempfile::tempdir().unwrap();
    mindscale(dir.path()).arg("trian").assert().code(2).stderr(contains("unrecognized subcommand"));
    mindscale(dir.path()).args(["run"]).assert().code(2);
    mindscale(dir.path()).args(["run", "--help"]).assert().code(0).stdout(contains("Example:"));
}

#[test]
fn bad_input_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = |text: &str, message: &'static str| {
        std::fs::write(dir.path().join("s.toml"), text).unwrap();
        mindscale(dir.path()).args(["run", "s.toml"]).assert().code(1).stderr(contains(message));
        assert!(!dir.path().join("runs").exists(), "nothing is started");
    };
    mindscale(dir.path())
        .args(["run", "none.toml"])
        .assert()
        .code(1)
        .stderr(contains("none.toml: cannot be read"));
    run(
        "name = \"s\"\n[base.model]\nn_layer = 2\n",
        "s.toml:3: model.n_layer: unknown key; did you mean model.n_layers?",
    );
    run("name = \"s\"\n[base.model]\nd_model = 30\n", "model.d_model: 30 is not divisible by n_heads = 4");
    run("", "name: expected a name for the sweep");
    mindscale(dir.path())
        .args(["exam", "nowhere", "--sheets", "nowhere"])
        .assert()
        .code(1)
        .stderr(contains("nowhere: expected a folder of <subject>_val.csv sheets"));
}

#[test]
fn an_experiment_is_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    let run = |part: &str, message: &'static str| {
        std::fs::write(dir.path().join("x.toml"), format!("sweeps = [\"tiny.toml\"]\n{part}")).unwrap();
        mindscale(dir.path()).args(["run", "x.toml"]).assert().code(1).stderr(contains(message));
        assert!(!dir.path().join("runs").exists(), "nothing is started");
    };
    run("[[figure]]\nkynd = \"line\"\n", "x.toml:3: figure.kynd: unknown key; did you mean kind?");
    run(
        "[[table]]\nrows = [\"seed\"]\ncolumns = [\"exam.acuracy\"]\n",
        "x.toml:4: table.columns: there is no \"exam.acuracy\"; did you mean exam.accuracy?",
    );
    run(
        "[[table]]\nrows = [\"sweep\"]\ncolumns = [\"val.bpb\"]\nwhere = \"seed == 7\"\n",
        "x.toml:5: table.where: \"seed == 7\" holds for none of the 2 trials",
    );
}

#[test]
fn a_sweep_runs_once_and_a_missing_part_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    let run = || {
        let mut command = mindscale(dir.path());
        command.args(["run", "tiny.toml"]);
        command.assert()
    };
    // Tokenizer and data are shared; each seed has three trainings and an exam.
    run().code(0).stdout(contains("10 stage runs done here, 0 found done"));
    run().code(0).stdout(contains("all 2 trials are finished"));
    let trials = std::fs::read_to_string(dir.path().join("results/tiny/trials.csv")).unwrap();
    assert_eq!(trials.lines().count(), 3);
    assert!(trials.lines().skip(1).all(|l| l.contains(",done,")), "{trials}");
    mindscale(dir.path())
        .args(["status", "tiny.toml"])
        .assert()
        .code(0)
        .stdout(contains("2 done, 0 running, 0 failed"));
    let text = mindscale(dir.path()).args(["plan", "tiny.toml", "--json"]).output().unwrap().stdout;
    let plan: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(plan["stages"].as_array().unwrap().len(), 10);
    assert!(plan["stages"].as_array().unwrap().iter().all(|s| s["state"] == "done"));
}

#[test]
fn a_failed_trial_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = TINY.replace("[axes]\nseed = [1, 2]", "[axes]\n\"dpo.lr\" = [1e-4, 1e30]");
    std::fs::write(
        dir.path().join("s.toml"),
        text.replace("[base.dpo]\nsteps = 2", "[base.dpo]\nsteps = 20"),
    )
    .unwrap();
    mindscale(dir.path()).args(["run", "s.toml"]).assert().code(1).stdout(contains("failed: dpo-"));
    let trials = std::fs::read_to_string(dir.path().join("results/tiny/trials.csv")).unwrap();
    assert_eq!(trials.matches(",done,").count(), 1, "{trials}");
    assert!(trials.contains("lower dpo.lr"), "{trials}");
}
