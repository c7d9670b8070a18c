//! Trials that differ in the length of a `wsd` schedule: one shared trunk and a decay for each, with the same bytes as separate runs.

use crate::common::driver::{Driver, PATIENCE};
use crate::common::{leftovers, manifests, mindscale, timeless};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const SWEEP: &str = r#"
name = "budgets"
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
dropout = 0.1
[base.world]
people = 8
pretrain_rows = 120
sft_rows = 20
questions_per_subject = 3
[base.pretrain]
seq_len = 64
batch_size = 4
schedule = "wsd"
decay_share = 0.25
warmup_steps = 5
checkpoint_every = 9
log_every = 3
val_every_tokens = 3000
[base.sft]
enabled = false
[base.dpo]
enabled = false
[axes]
"#;

const BUDGETS: [u64; 3] = [40, 80, 160];

/// Snapshots during training, which a branch takes itself.
const EXAMS: &str = "[base.exam]\nat = [0.6, 1.0]\n";

fn write_sweep(dir: &Path, budgets: &[u64], more: &str) {
    let axis = format!("\"pretrain.steps\" = {budgets:?}\n");
    fs::write(dir.join("sweep.toml"), format!("{SWEEP}{axis}{more}")).unwrap();
}

/// Trains each budget in a run of its own; returns the folder of stage runs.
fn apart(dir: &Path, more: &str) -> PathBuf {
    for budget in BUDGETS {
        write_sweep(dir, &[budget], more);
        mindscale(dir).args(["run", "sweep.toml", "--results", &budget.to_string()]).assert().success();
    }
    dir.join("runs")
}

/// The notice of a pretraining that started from a branch point.
fn begun(manifest: &Value) -> Option<&Value> {
    let notices = manifest["results"]["notices"].as_array()?;
    notices.iter().find(|notice| notice["reason"].as_str().unwrap().contains("its trunk"))
}

/// Compares both folders byte for byte; `shared_steps` are the steps of the trunk in each branch.
fn assert_same(apart: &Path, shared: &Path, shared_steps: [u64; 2]) {
    let (apart_runs, shared_runs) = (manifests(apart), manifests(shared));
    assert_eq!(apart_runs.keys().collect::<Vec<_>>(), shared_runs.keys().collect::<Vec<_>>());
    let mut branches = vec![];
    for (name, manifest) in &shared_runs {
        let file = |runs: &Path, file: &str| fs::read(runs.join(name).join(file)).ok();
        for compared in ["model/model.safetensors", "snapshots/0.6/model.safetensors", "questions.csv"] {
            assert!(file(apart, compared) == file(shared, compared), "{name} {compared}");
        }
        if name.starts_with("pretrain-") {
            let metrics = |runs: &Path| timeless(&runs.join(name).join("metrics.csv"));
            assert_eq!(metrics(apart), metrics(shared), "{name}");
            for key in ["steps", "tokens", "flops", "val_loss", "passes"] {
                let results = [&apart_runs[name], manifest].map(|manifest| &manifest["results"][key]);
                assert_eq!(results[0], results[1], "{name} {key}");
            }
            branches.extend(begun(manifest).map(|notice| notice["count"].as_u64().unwrap()));
            assert_eq!(begun(&apart_runs[name]), None);
            assert!(!shared.join(name).join("branches").exists(), "{name}");
        }
    }
    branches.sort_unstable();
    assert_eq!(branches, shared_steps);
    assert_eq!(leftovers(shared), Vec::<PathBuf>::new());
}

#[test]
fn budgets_share_their_stable_steps_and_end_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let apart = apart(dir.path(), "");
    let other = tempfile::tempdir().unwrap();
    write_sweep(other.path(), &BUDGETS, "");
    let plan = mindscale(other.path()).args(["plan", "sweep.toml"]).assert().success();
    let plan = String::from_utf8(plan.get_output().stdout.clone()).unwrap();
    assert!(plan.contains("2 stage runs start from a checkpoint of a longer one"), "{plan}");
    assert!(plan.contains(", its first 78 % of steps by pretrain-"), "{plan}");
    mindscale(other.path()).args(["run", "sweep.toml", "--jobs", "2"]).assert().success();
    // The learning rate decays over a quarter of the steps after the warm-up: of 35 and of 75.
    assert_same(&apart, &other.path().join("runs"), [31, 61]);
    let plan = mindscale(other.path()).args(["plan", "sweep.toml"]).assert().success();
    assert!(!String::from_utf8_lossy(&plan.get_output().stdout).contains("start from a checkpoint"));
}

#[test]
fn budgets_that_are_killed_and_resumed_share_them_too() {
    let dir = tempfile::tempdir().unwrap();
    let apart = apart(dir.path(), EXAMS);
    let other = tempfile::tempdir().unwrap();
    write_sweep(other.path(), &BUDGETS, EXAMS);
    let runs = other.path().join("runs");
    let pretrainings = || {
        let folders = fs::read_dir(&runs).into_iter().flatten().flatten().map(|entry| entry.path());
        folders.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("pretrain-"))
    };
    let has = |file: &str| pretrainings().any(|run| run.join(file).exists());
    let checkpoints = |dir: &Path| {
        let files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|e| e == "ckpt")).count()
    };
    // In the trunk after its first checkpoint, once it has left two checkpoints, and in a branch that has just begun.
    let moments: [&dyn Fn() -> bool; 3] = [
        &|| pretrainings().any(|run| checkpoints(&run.join("checkpoints")) > 0),
        &|| pretrainings().any(|run| checkpoints(&run.join("branches")) == 2),
        &|| has("trunk.json"),
    ];
    let mut claim = None;
    for moment in moments {
        let mut driver = Driver::start(other.path(), &["run", "sweep.toml"]);
        assert!(driver.wait_until(moment), "the sweep was over too soon:\n{}", driver.output());
        driver.kill_all();
        claim = claim.or_else(|| pretrainings().find_map(|run| fs::read(run.join("claim.json")).ok()));
    }
    let mut driver = Driver::start(other.path(), &["run", "sweep.toml"]);
    assert!(driver.wait(PATIENCE).success(), "{}", driver.output());
    assert_same(&apart, &runs, [23, 47]);
    // A branch whose process is killed once its end is recorded leaves two checkpoints and its claim: the next run removes them.
    let branch = pretrainings().find(|run| run.join("trunk.json").exists()).unwrap();
    let origin: Value = serde_json::from_slice(&fs::read(branch.join("trunk.json")).unwrap()).unwrap();
    let uuid = branch.file_name().unwrap().to_string_lossy().replacen("pretrain-", "", 1);
    let of_trunk = runs.join(origin["run"].as_str().unwrap()).join("branches");
    fs::create_dir(&of_trunk).unwrap();
    for left in [of_trunk.join(format!("{uuid}.ckpt")), branch.join("checkpoints/step-0000000036.ckpt")] {
        fs::write(left, "left").unwrap();
    }
    fs::write(branch.join("claim.json"), claim.unwrap()).unwrap();
    mindscale(other.path()).args(["run", "sweep.toml"]).assert().success();
    assert_eq!(checkpoints(&branch.join("checkpoints")), 0);
    assert_same(&apart, &runs, [23, 47]);
}

/// A trunk that finished in an earlier run has left no checkpoint.
#[test]
fn a_branch_without_a_trunk_takes_all_steps_itself() {
    let dir = tempfile::tempdir().unwrap();
    let apart = apart(dir.path(), "");
    let other = tempfile::tempdir().unwrap();
    write_sweep(other.path(), &[160], "");
    mindscale(other.path()).args(["run", "sweep.toml", "--results", "one"]).assert().success();
    write_sweep(other.path(), &[40, 160], "");
    mindscale(other.path()).args(["run", "sweep.toml", "--results", "two"]).assert().success();
    for (name, manifest) in manifests(&other.path().join("runs")) {
        let model = |runs: &Path| fs::read(runs.join(&name).join("model/model.safetensors")).ok();
        assert!(model(&apart) == model(&other.path().join("runs")), "{name}");
        assert_eq!(begun(&manifest), None);
    }
}
