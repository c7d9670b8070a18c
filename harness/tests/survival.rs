//! Sweeps that are killed at any moment, and sweeps that several drivers run at once.

use crate::common::driver::{Driver, PATIENCE, send};
use crate::common::{leftovers, manifests, mindscale, stage_runs, timeless, two_seeds};
use predicates::str::contains;
use protobuf::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tensorboard_proto::event::Event;

/// Number of signals that a sweep gets by default; `SURVIVAL_SIGNALS` overrides it.
const SIGNALS: u64 = 18;

/// A sweep with a long pretraining.
const LONG: &str = r#"
name = "long"
[base.model]
d_model = 32
n_layers = 2
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.world]
people = 8
pretrain_rows = 200
sft_rows = 20
[base.pretrain]
steps = 150
seq_len = 64
checkpoint_every = 7
log_every = 1
[base.sft]
enabled = false
[base.dpo]
enabled = false
[base.exam]
enabled = false
"#;

/// A number from an environment variable.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The number of attempts of each finished stage run.
fn attempts_of_done(runs: &Path) -> BTreeMap<String, u64> {
    let done = manifests(runs).into_iter().filter(|(_, manifest)| manifest["status"] == "done");
    done.map(|(name, manifest)| (name, manifest["attempts"].as_u64().unwrap())).collect()
}

/// The step of every scalar in the TensorBoard files of a stage run; panics if one occurs twice.
fn event_steps(dir: &Path) -> HashSet<(String, i64)> {
    let mut steps = HashSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("events.out.tfevents.") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let mut rest = bytes.as_slice();
        // A record consists of length, checksum of the length, data, checksum of the data.
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = Event::parse_from_bytes(&rest[12..12 + length]).unwrap();
            for value in event.get_summary().get_value() {
                let step = (value.tag.clone(), event.step);
                assert!(steps.insert(step.clone()), "{}: {step:?} is there twice", path.display());
            }
            rest = &rest[12 + length + 4..];
        }
    }
    steps
}

/// Compares all files that results depend on, byte for byte.
fn assert_same_results(undisturbed: &Path, killed: &Path) {
    let dirs = stage_runs(undisturbed);
    assert_eq!(dirs.len(), stage_runs(killed).len());
    for dir in dirs {
        let name = dir.file_name().unwrap();
        let other = killed.join(name);
        let mut compared = 0;
        for file in
            ["model/model.safetensors", "model/tokenizer.json", "questions.csv", "pretrain/train/tokens.bin"]
        {
            if dir.join(file).exists() {
                assert!(
                    fs::read(dir.join(file)).unwrap() == fs::read(other.join(file)).unwrap(),
                    "{name:?} {file}"
                );
                compared += 1;
            }
        }
        let results = |dir: &Path| -> serde_json::Value {
            let manifest = fs::read(dir.join("manifest.json")).unwrap();
            serde_json::from_slice::<serde_json::Value>(&manifest).unwrap()["results"].take()
        };
        assert_eq!(results(&dir), results(&other), "{name:?}");
        for kept in fs::read_dir(dir.join("checkpoints")).into_iter().flatten() {
            let kept = kept.unwrap().file_name();
            assert!(other.join("checkpoints").join(&kept).exists(), "{name:?} {kept:?}");
        }
        if dir.join("metrics.csv").exists() {
            assert_eq!(timeless(&dir.join("metrics.csv")), timeless(&other.join("metrics.csv")), "{name:?}");
            assert_eq!(event_steps(&dir), event_steps(&other), "{name:?}");
        }
        assert!(compared > 0 || name.to_string_lossy().starts_with("data-"), "{name:?}");
        assert_eq!(leftovers(&other), Vec::<PathBuf>::new());
    }
}

/// Each run draws a new recipe, from all options of training, and new signals. The seed is printed:
/// `SURVIVAL_SEED` repeats it, and `SURVIVAL_ROUNDS` tries more recipes, from that seed on.
#[test]
fn a_sweep_that_is_stopped_and_killed_at_any_moment_ends_in_the_same_bytes() {
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = given("SURVIVAL_SEED").unwrap_or_else(drawn);
    for seed in seed..seed + given("SURVIVAL_ROUNDS").unwrap_or(1) {
        eprintln!("SURVIVAL_SEED={seed}");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let recipe = crate::common::recipe::draw(&mut random);
        eprintln!("{recipe}");
        survive(&recipe, &mut random);
    }
}

fn survive(recipe: &str, random: &mut ChaCha8Rng) {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["undisturbed", "disturbed"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("drawn.toml"), recipe).unwrap();
        crate::common::recipe::write_files(&dir.path().join(folder));
    }
    let (undisturbed, disturbed) = (dir.path().join("undisturbed"), dir.path().join("disturbed"));
    let began = Instant::now();
    mindscale(&undisturbed).args(["run", "drawn.toml"]).assert().code(0);
    let whole = began.elapsed().as_secs_f64();

    let runs = disturbed.join("runs");
    let mut driver = Driver::start(&disturbed, &["run", "drawn.toml"]);
    let (mut landed, mut lives, mut done) = (0, 1, BTreeMap::new());
    while landed < given("SURVIVAL_SIGNALS").unwrap_or(SIGNALS) {
        std::thread::sleep(Duration::from_secs_f64(whole * random.random_range(0.02..0.14)));
        if let Some(status) = driver.ended() {
            // It finished, or gave up on a child that was killed too often. After a finished run, start from scratch.
            if status.success() {
                assert_same_results(&undisturbed.join("runs"), &runs);
                fs::remove_dir_all(&runs).unwrap();
                done.clear();
                lives += 1;
            }
            driver = Driver::start(&disturbed, &["run", "drawn.toml"]);
            continue;
        }
        let workers = driver.children();
        if workers.is_empty() {
            continue;
        }
        let signal = random.random_range(0..5);
        match signal {
            // Ctrl-C, and the signal of a batch system: the step is finished and a checkpoint written.
            0 => driver.send("INT"),
            1 => driver.send("TERM"),
            // Only the driver: its children notice, write a checkpoint and end.
            2 => driver.send("KILL"),
            // All processes at once, like a power failure.
            3 => driver.kill_all(),
            // Only a child, as the out-of-memory killer does: the driver retries it.
            _ => send("KILL", workers[0]),
        }
        if signal < 4 {
            driver.wait(PATIENCE);
            driver = Driver::start(&disturbed, &["run", "drawn.toml"]);
        }
        landed += 1;
        let now = attempts_of_done(&runs);
        for (name, attempts) in &done {
            assert_eq!(now.get(name), Some(attempts), "{name} was done and ran again");
        }
        done = now;
    }
    let mut status = driver.wait(PATIENCE);
    if !status.success() {
        // A child that was killed more often than it is retried has failed; running again repairs it.
        driver = Driver::start(&disturbed, &["run", "drawn.toml"]);
        status = driver.wait(PATIENCE);
    }
    assert!(status.success(), "{}", driver.output());
    let last = attempts_of_done(&runs);
    assert!(done.iter().all(|(name, attempts)| last.get(name) == Some(attempts)));
    assert_same_results(&undisturbed.join("runs"), &runs);
    eprintln!("{landed} signals over {lives} lives of the sweep; undisturbed it takes {whole:.1} s");
    mindscale(&disturbed).args(["run", "drawn.toml"]).assert().code(0).stdout(contains("are finished"));
}

#[test]
fn two_drivers_of_one_sweep_do_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny.toml"), two_seeds()).unwrap();
    let mut drivers = [(); 2].map(|()| Driver::start(dir.path(), &["run", "tiny.toml"]));
    for driver in &mut drivers {
        let status = driver.wait(PATIENCE);
        assert!(status.success(), "{}", driver.output());
    }
    let manifests = manifests(&dir.path().join("runs"));
    assert_eq!(manifests.len(), 10);
    for (name, manifest) in manifests {
        assert_eq!((&manifest["status"], &manifest["attempts"]), (&"done".into(), &1.into()), "{name}");
    }
}

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_serves() {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["whole", "damaged"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("s.toml"), LONG).unwrap();
    }
    let (whole, damaged) = (dir.path().join("whole"), dir.path().join("damaged"));
    mindscale(&whole).args(["run", "s.toml"]).assert().code(0);
    let mut driver = Driver::start(&damaged, &["run", "s.toml"]);
    let runs = damaged.join("runs");
    let checkpoints = || -> Vec<PathBuf> {
        let pretrain = stage_runs(&runs).into_iter().find(|run| run.join("checkpoints").exists());
        let entries =
            pretrain.and_then(|run| fs::read_dir(run.join("checkpoints")).ok()).into_iter().flatten();
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "ckpt"));
        files.sort();
        files
    };
    assert!(driver.wait_until(|| checkpoints().len() >= 2), "the sweep was over too soon");
    driver.kill_all();
    let newest = checkpoints().pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&newest, bytes).unwrap();
    mindscale(&damaged).args(["run", "s.toml"]).assert().code(0);
    let log = fs::read_to_string(crate::common::only(&runs, "pretrain").join("log.txt")).unwrap();
    assert!(log.contains("is damaged: its checksum is"), "{log}");
    assert!(log.contains("using the checkpoint before it"), "{log}");
    assert_same_results(&whole.join("runs"), &runs);
}

/// Every file below a folder, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (path.join(below), bytes)));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found.into_iter().map(|(path, bytes)| (path.strip_prefix(dir).unwrap().into(), bytes)).collect()
}

#[test]
fn token_stores_that_are_killed_half_written_end_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // Enough rows that writing a store takes a while.
    let text = crate::common::TINY
        .replace("pretrain_rows = 60", "pretrain_rows = 4000")
        .replace("sft_rows = 60", "sft_rows = 4000")
        .replace("dpo_pairs = 20", "dpo_pairs = 2000");
    fs::write(dir.path().join("s.toml"), format!("{text}[base.data]\nval_share = 0.1\n")).unwrap();
    mindscale(dir.path()).args(["run", "s.toml", "--runs", "undisturbed"]).assert().code(0);
    let undisturbed = crate::common::only(&dir.path().join("undisturbed"), "data");

    let disturbed = dir.path().join("disturbed");
    let data = disturbed.join(undisturbed.file_name().unwrap());
    let half_written = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&data).into_iter().flatten();
        let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
        folders
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(".preparing-"))
            .collect()
    };
    let is_writing = || {
        let stores = half_written().into_iter().map(|dir| dir.join("train/tokens.bin"));
        stores.into_iter().any(|tokens| fs::metadata(tokens).is_ok_and(|about| about.len() > 0))
    };
    // While each of the three stores is being written, with the earlier ones complete.
    for whole in [None, Some("pretrain"), Some("sft")] {
        let mut driver = Driver::start(dir.path(), &["run", "s.toml", "--runs", "disturbed"]);
        let is_there = || whole.is_none_or(|store| data.join(store).exists());
        assert!(driver.wait_until(|| is_there() && is_writing()), "the data were ready too soon");
        driver.kill_all();
        assert_eq!(half_written().len(), 1, "{}", driver.output());
        assert!(manifests(&disturbed)[data.file_name().unwrap().to_str().unwrap()]["status"] == "running");
    }
    mindscale(dir.path()).args(["run", "s.toml", "--runs", "disturbed"]).assert().code(0);
    for store in ["pretrain", "sft", "dpo"] {
        let (whole, other) = (files(&undisturbed.join(store)), files(&data.join(store)));
        assert_eq!(whole.len(), 13, "{:?}", whole.keys());
        assert!(whole == other, "{store}");
    }
    assert_eq!(leftovers(&disturbed), Vec::<PathBuf>::new());
    assert_same_results(&dir.path().join("undisturbed"), &disturbed);
}
