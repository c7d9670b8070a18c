//! A tuned key: candidates first, then the trials, with the same bytes however often the run is interrupted.

use crate::common::driver::{Driver, PATIENCE};
use crate::common::{manifests, mindscale};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const SWEEP: &str = r#"
name = "tuned"
[base.model]
d_model = 16
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.world]
people = 8
pretrain_rows = 400
questions_per_subject = 3
[base.pretrain]
steps = 24
seq_len = 64
batch_size = 8
warmup_steps = 2
checkpoint_every = 5
[base.sft]
enabled = false
[base.dpo]
enabled = false
[axes]
seed = [1, 2]
"model.n_layers" = [1, 2]
[tune]
seeds = [101, 102]
method = "halving"
"pretrain.lr" = [1e-3, 4e-3, 1.6e-2, 1e20]
"#;

fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_path(path).unwrap().deserialize().map(Result::unwrap).collect()
}

fn plan(dir: &Path) -> Value {
    let output = mindscale(dir).args(["plan", "sweep.toml", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The mean loss of each value on a rung of a setting, without values that failed.
fn means(rows: &[BTreeMap<String, String>], setting: &str, rung: &str) -> Vec<(f64, f64)> {
    let mut losses: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row["setting"] == setting && row["rung"] == rung) {
        losses.entry(row["value"].clone()).or_default().push(row["loss"].parse().ok());
    }
    let mean = |(value, losses): (String, Vec<Option<f64>>)| {
        let n = losses.len() as f64;
        Some((losses.into_iter().sum::<Option<f64>>()? / n, value.parse().unwrap()))
    };
    let mut means: Vec<(f64, f64)> = losses.into_iter().filter_map(mean).collect();
    means.sort_by(|a, b| a.0.total_cmp(&b.0));
    means
}

#[test]
fn the_study_takes_the_best_of_the_candidates_whose_best_went_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sweep.toml"), SWEEP).unwrap();
    let before = plan(dir.path());
    let names = |plan: &Value| -> Vec<String> {
        let trials = plan["trials"].as_array().unwrap();
        trials.iter().map(|trial| trial["trial"].as_str().unwrap().into()).collect()
    };
    assert_eq!(before["trials"][0]["keys"]["pretrain.lr"], "to be tuned");
    mindscale(dir.path()).args(["run", "sweep.toml"]).assert().success();
    let out = dir.path().join("results/tuned");
    let (tried, trials) = (rows(&out.join("tuning.csv")), rows(&out.join("trials.csv")));
    assert_eq!((tried.len(), trials.len()), (2 * 2 * 4 * 2, 4));
    for (setting, layers) in [("model.n_layers = 1", "1"), ("model.n_layers = 2", "2")] {
        // One value diverges, two of the others continue, and the better of these is chosen.
        let (first, second) = (means(&tried, setting, "1"), means(&tried, setting, "2"));
        assert_eq!((first.len(), second.len()), (3, 2), "{setting}");
        let went_on = |value: f64| second.iter().any(|mean| mean.1 == value);
        assert!(first[..2].iter().all(|mean| went_on(mean.1)), "{setting}");
        for trial in trials.iter().filter(|trial| trial["model.n_layers"] == layers) {
            assert_eq!(trial["pretrain.lr"].parse::<f64>().unwrap(), second[0].1, "{setting}");
            assert!(trial["status"] == "done" && !["101", "102"].contains(&trial["seed"].as_str()));
        }
    }
    let lost: Vec<&str> =
        tried.iter().filter(|row| row["status"] == "failed").map(|row| &*row["value"]).collect();
    assert_eq!(lost, ["1e+20"; 4]);
    // Names are known before training, and nothing is left to do.
    let after = plan(dir.path());
    assert_eq!(names(&before), names(&after));
    let short: Vec<String> = trials.iter().map(|trial| trial["trial"][..8].into()).collect();
    assert_eq!(names(&after), short);
    let before = manifests(&dir.path().join("runs"));
    mindscale(dir.path()).args(["run", "sweep.toml"]).assert().success();
    assert_eq!(before, manifests(&dir.path().join("runs")));
    // The same value set by hand gives the same stage runs.
    let chosen = &trials.iter().find(|trial| trial["model.n_layers"] == "2").unwrap()["pretrain.lr"];
    let by_hand = SWEEP.split("[tune]").next().unwrap().replace("\"tuned\"", "\"hand\"");
    let by_hand = by_hand.replace("\"model.n_layers\" = [1, 2]", "\"model.n_layers\" = [2]");
    fs::write(dir.path().join("hand.toml"), by_hand).unwrap();
    let run = mindscale(dir.path())
        .args(["run", "hand.toml", "--set", &format!("pretrain.lr={chosen}")])
        .assert()
        .success();
    let stdout = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(stdout.contains("hand: 0 stage runs done here"), "{stdout}");
    assert_eq!(before, manifests(&dir.path().join("runs")));
    // Without the stage runs, the report comes from the record.
    let page = fs::read(out.join("report.html")).unwrap();
    assert!(
        String::from_utf8_lossy(&page).contains("Tuning took 24 training runs"),
        "of 32 candidates 8 were not needed"
    );
    mindscale(dir.path()).args(["report", "sweep.toml"]).assert().success();
    assert_eq!(page, fs::read(out.join("report.html")).unwrap());
}

#[test]
fn a_tuned_sweep_that_is_killed_ends_in_the_same_bytes() {
    let [undisturbed, killed] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    for dir in [&undisturbed, &killed] {
        fs::write(dir.path().join("sweep.toml"), SWEEP).unwrap();
    }
    mindscale(undisturbed.path()).args(["run", "sweep.toml"]).assert().success();
    for pause in [150, 400, 900] {
        let mut driver = Driver::start(killed.path(), &["run", "sweep.toml"]);
        std::thread::sleep(std::time::Duration::from_millis(pause));
        driver.kill_all();
    }
    mindscale(killed.path()).timeout(PATIENCE).args(["run", "sweep.toml"]).assert().success();
    let [a, b] = [&undisturbed, &killed].map(|dir| dir.path().join("runs"));
    let done = |runs: &Path| -> BTreeMap<String, Value> {
        let done = manifests(runs).into_iter().filter(|(_, manifest)| manifest["status"] == "done");
        done.map(|(name, manifest)| (name, manifest["results"]["val_loss"].clone())).collect()
    };
    assert_eq!(done(&a), done(&b));
    for name in done(&a).keys().filter(|name| name.starts_with("pretrain-")) {
        let weights = |runs: &Path| fs::read(runs.join(name).join("model/model.safetensors")).unwrap();
        assert!(weights(&a) == weights(&b), "{name}");
    }
    let losses = |dir: &Path| -> Vec<(String, String, String)> {
        let rows = rows(&dir.join("results/tuned/tuning.csv")).into_iter();
        rows.map(|row| (row["trial"].clone(), row["loss"].clone(), row["chosen"].clone())).collect()
    };
    assert_eq!(losses(undisturbed.path()), losses(killed.path()));
}

#[test]
fn where_no_value_trains_the_study_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sweep.toml"), SWEEP.replace("[1e-3, 4e-3, 1.6e-2, 1e20]", "[1e19, 1e20]"))
        .unwrap();
    let failed = mindscale(dir.path()).args(["run", "sweep.toml"]).assert().failure();
    let stdout = String::from_utf8_lossy(&failed.get_output().stdout).into_owned();
    let why = "failed: pretrain.lr is not tuned for model.n_layers = 1: no value finished training: step 2: training diverged";
    assert!(stdout.contains(why), "{stdout}");
    let trials = rows(&dir.path().join("results/tuned/trials.csv"));
    assert!(
        trials.iter().all(|trial| trial["status"] == "failed" && trial["reason"].contains("is not tuned"))
    );
}
