//! Faults around a sweep: trials that fail in different ways, unusable folders and full disks.

use crate::common::driver::{Driver, PATIENCE};
use crate::common::{leftovers, manifests, mindscale, only, stage_runs, timeless, two_seeds};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// One valid trial, and one for each kind of failure.
const FAILING: &str = r#"
name = "failing"
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.data]
source = "files"
[base.pretrain]
steps = 80
seq_len = 32
schedule = "constant"
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
[[zip]]
seed = [1, 2, 3, 4, 5]
"pretrain.lr" = [1e-3, 1e30, 1e-3, 1e-3, 3.0]
"pretrain.warmup_steps" = [0, 0, 0, 0, 80]
"pretrain.max_loss_rise" = [0, 0, 0, 0, 0.5]
"model.d_model" = [16, 16, 512, 16, 16]
"model.n_layers" = [1, 1, 8, 1, 1]
"data.pretrain" = [["good.jsonl"], ["good.jsonl"], ["good.jsonl"], ["bad.jsonl"], ["good.jsonl"]]
"#;

#[test]
fn each_failure_is_named_and_the_other_trials_complete() {
    let dir = tempfile::tempdir().unwrap();
    let row =
        |i: usize| format!("{{\"text\": \"第{i}个人住在城市{}，他喜欢读书、下棋和唱歌。\"}}\n", i * 7 % 13);
    let rows: String = (0..200).map(row).collect();
    fs::write(dir.path().join("good.jsonl"), &rows).unwrap();
    fs::write(dir.path().join("bad.jsonl"), rows + "{\"text\": 7}\n").unwrap();
    fs::write(dir.path().join("s.toml"), FAILING).unwrap();
    mindscale(dir.path())
        .args(["run", "s.toml", "--memory-limit", "200MiB", "--time-limit", "10m"])
        .assert()
        .code(1)
        .stdout(contains("failed: pretrain-"));
    let status = mindscale(dir.path()).args(["status", "s.toml"]).output().unwrap().stdout;
    let status = String::from_utf8(status).unwrap();
    for cause in [
        "1 done, 0 running, 4 failed",
        "lower pretrain.lr (now 1e30)",
        "of the 200.0 MiB of memory allowed; raise --memory-limit",
        "bad.jsonl:201",
        "more than pretrain.max_loss_rise = 0.5",
    ] {
        assert!(status.contains(cause), "{cause} is not in\n{status}");
    }
}

#[test]
fn a_stage_run_out_of_time_goes_on_with_more() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}[axes]\nseed = [1]\n", crate::common::TINY).replace("steps = 6", "steps = 600000");
    fs::write(dir.path().join("s.toml"), text).unwrap();
    let run = || {
        mindscale(dir.path())
            .args(["run", "s.toml", "--time-limit", "3s"])
            .assert()
            .code(1)
            .stdout(contains("of the 3 s allowed; raise --time-limit"));
    };
    run();
    // The limit holds for the trial, over all attempts: none works on. Starting a process is not in the records, so the
    // first may have left some milliseconds.
    let pretraining = only(&dir.path().join("runs"), "pretrain");
    let works_on = || {
        let steps = || fs::read_to_string(pretraining.join("metrics.csv")).unwrap();
        let before = steps();
        run();
        steps() != before
    };
    assert!((0..3).any(|_| !works_on()), "every attempt worked on");
    assert!(pretraining.join("checkpoints").read_dir().unwrap().count() > 0);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.toml"), two_seeds()).unwrap();
    // A file in place of the folder stops root as well.
    fs::write(dir.path().join("occupied"), "").unwrap();
    for folder in ["--runs", "--results"] {
        mindscale(dir.path()).args(["run", "s.toml", folder, "occupied/here"]).assert().code(1).stderr(
            contains("error: occupied/here").and(contains("the folder cannot be made: Not a directory")),
        );
    }
}

#[test]
fn runs_that_vanish_are_an_error_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let text = two_seeds().replace("steps = 6", "steps = 1000").replace("every = 2", "every = 500");
    fs::write(dir.path().join("s.toml"), text).unwrap();
    let runs = dir.path().join("runs");
    let is_training = || {
        let of_pretrain = manifests(&runs).into_iter().filter(|(name, _)| name.starts_with("pretrain-"));
        let mut at_work = of_pretrain.filter(|(_, manifest)| manifest["status"] == "running");
        at_work.any(|(name, _)| runs.join(name).join("metrics.csv").exists())
    };
    let mut driver = Driver::start(dir.path(), &["run", "s.toml", "--retries", "0"]);
    assert!(driver.wait_until(is_training), "the sweep was over too soon");
    mindscale(dir.path()).args(["status", "s.toml"]).assert().stdout(contains("\nRunning "));
    // Retry, since files written meanwhile can prevent the removal.
    while fs::remove_dir_all(&runs).is_err() {}
    let code = driver.wait(PATIENCE).code();
    let output = driver.output();
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("failed: pretrain-") && output.contains("No such file or directory"), "{output}");
    mindscale(dir.path()).args(["run", "s.toml"]).assert().code(0);
    mindscale(dir.path()).args(["status", "s.toml"]).assert().stdout(contains("2 done, 0 running, 0 failed"));
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let library = glob::glob("/usr/lib/*/faketime/libfaketime.so.1").unwrap().find_map(Result::ok);
    let Some(library) = library else {
        eprintln!("skipped: libfaketime is not installed (Debian: apt-get install faketime)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.toml"), two_seeds().replace("steps = 6", "steps = 600")).unwrap();
    mindscale(dir.path()).args(["run", "s.toml", "--runs", "steady"]).assert().code(0);
    let (clock, over) = (dir.path().join("clock"), AtomicBool::new(false));
    fs::write(&clock, "+0").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for offset in ["-400d", "+400d"].into_iter().cycle() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                fs::write(&clock, offset).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        });
        let ran = mindscale(dir.path())
            .args(["run", "s.toml", "--runs", "jumping", "--time-limit", "10m"])
            .env("LD_PRELOAD", &library)
            .env("FAKETIME_TIMESTAMP_FILE", &clock)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .ok();
        over.store(true, Ordering::SeqCst);
        ran.unwrap();
    });
    let runs = dir.path().join("jumping");
    assert_same_models(&dir.path().join("steady"), &runs);
    for (name, manifest) in manifests(&runs) {
        let seconds = manifest["wall_seconds"].as_f64().unwrap();
        assert!((0.0..600.0).contains(&seconds), "{name} took {seconds} s");
    }
}

/// Compares the results of every stage run in both folders, byte for byte.
fn assert_same_models(runs: &Path, others: &Path) {
    for whole in stage_runs(runs) {
        let other = others.join(whole.file_name().unwrap());
        for file in ["model/model.safetensors", "model/tokenizer.json", "questions.csv"] {
            assert!(
                fs::read(whole.join(file)).ok() == fs::read(other.join(file)).ok(),
                "{}",
                other.display()
            );
        }
        if whole.join("metrics.csv").exists() {
            assert_eq!(timeless(&whole.join("metrics.csv")), timeless(&other.join("metrics.csv")));
        }
        assert_eq!(leftovers(&other), Vec::<std::path::PathBuf>::new());
    }
}

/// A mounted disk, unmounted when dropped.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn mount(&self, options: &str) -> bool {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0).output();
        mounted.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).output();
    }
}

#[test]
fn a_full_disk_stops_a_sweep_that_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // The first checkpoint, of 1.5 MiB, does not fit.
    let text = two_seeds().replace("d_model = 16", "d_model = 96");
    fs::write(dir.path().join("s.toml"), text).unwrap();
    let runs = dir.path().join("runs");
    fs::create_dir(&runs).unwrap();
    let disk = Disk(&runs);
    if !disk.mount("size=1500k") {
        eprintln!("skipped: a small disk cannot be mounted here");
        return;
    }
    let run = |runs: &str| {
        let mut command = mindscale(dir.path());
        command.args(["run", "s.toml", "--retries", "0", "--jobs", "2", "--runs", runs]);
        command.assert()
    };
    run("runs").code(1).stdout(contains("cannot be written").and(contains("No space left on device")));
    assert!(disk.mount("remount,size=64m"));
    run("runs").code(0);
    run("roomy").code(0);
    assert_same_models(&dir.path().join("roomy"), &runs);
}
