//! A sweep run in parts with `--only`, and local files of the machine next to it, through the command line.

use crate::common::{TINY, manifests, mindscale, two_seeds};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

fn record(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("results/tiny/record.json")).unwrap()).unwrap()
}

/// The status of each trial in `trials.csv`, by seed.
fn states(dir: &Path) -> BTreeMap<String, String> {
    let rows = csv::Reader::from_path(dir.join("results/tiny/trials.csv")).unwrap().into_deserialize();
    rows.map(|row: Result<BTreeMap<String, String>, _>| row.unwrap())
        .map(|row| (row["seed"].clone(), row["status"].clone()))
        .collect()
}

#[test]
fn a_part_of_a_sweep_is_run_and_the_rest_is_kept_for_another_time() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    let run = |verb: &str, only: &str| mindscale(dir).args([verb, "tiny.toml", "--only", only]).assert();
    run("run", "seed == 3")
        .code(1)
        .stderr(contains("error: --only: \"seed == 3\" holds for none of the 2 trials: seed is 1, 2"));
    run("plan", "sed == 1")
        .code(1)
        .stderr(contains("error: --only: there is no \"sed\"; did you mean seed?"));
    run("run", "val.bpb < 2")
        .code(1)
        .stderr(contains("--only: names val.bpb, which is known only after a trial has run"));
    assert!(!dir.join("runs").exists() && !dir.join("results").exists());

    run("plan", "seed == 2").code(0).stdout(contains("for 1 trial").and(contains("for 2 trials").not()));
    run("run", "seed == 2").code(0).stdout(
        contains("6 stage runs done here, 0 already done")
            .and(contains("1 trial left out by --only 'seed == 2'")),
    );
    // The record and the report cover the whole sweep.
    assert_eq!(record(dir)["runs"][0]["trials"].as_array().unwrap().len(), 2);
    let wanted = |one: &str, two: &str| {
        BTreeMap::from([("1", one), ("2", two)].map(|(k, v)| (k.to_string(), v.to_string())))
    };
    assert_eq!(states(dir), wanted("pending", "done"));
    mindscale(dir)
        .args(["status", "tiny.toml"])
        .assert()
        .stdout(contains("1 done, 0 running, 0 failed, 0 stopped, 1 pending"));
    run("status", "seed == 2").stdout(contains("1 done, 0 running, 0 failed, 0 stopped, 0 pending"));
    run("run", "seed == 2").code(0).stdout(contains("its trial is finished"));
    assert_eq!(states(dir), wanted("pending", "done"));
    let json = mindscale(dir).args(["run", "tiny.toml", "--only", "seed == 1", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&json["ran"], &json["left_out"], &json["trials"]), (&4.into(), &1.into(), &1.into()));
    assert_eq!(states(dir), wanted("done", "done"));
    mindscale(dir).args(["run", "tiny.toml"]).assert().code(0).stdout(contains("all 2 trials are finished"));
    assert_eq!(record(dir)["runs"].as_array().unwrap().len(), 1);
}

#[test]
fn files_of_the_machine_lie_over_the_sweep_and_are_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir_all(dir.join("sweeps/text")).unwrap();
    let stages = ["sft", "dpo"].map(|stage| format!("[base.{stage}]\nenabled = false\n")).concat();
    let (world, rest) = TINY.split_at(TINY.find("[base.sft]").unwrap());
    assert!(rest.contains("[base.dpo]"));
    let world =
        world.replace("[base.world]", "[base.data]\nsource = \"files\"\nval_share = 0.1\n[base.world]");
    fs::write(dir.join("sweeps/tiny.toml"), format!("{world}{stages}[base.exam]\nenabled = false\n"))
        .unwrap();
    let text: String = (0..60).map(|i| format!("第{i}句话，说的是{}。\n\n", i * i)).collect();
    fs::write(dir.join("sweeps/text/a.txt"), text).unwrap();
    let run = || mindscale(dir).args(["run", "sweeps/tiny.toml"]).assert();
    run().code(1).stderr(contains("data.pretrain: is empty"));

    let local = |name: &str, text: &str| fs::write(dir.join("sweeps").join(name), text).unwrap();
    local("tiny.local.toml", "[pretrain]\nlr = 0.1\n");
    run().code(1).stderr(contains(
        "sweeps/tiny.local.toml:2: pretrain.lr: is not a setting of this machine; move it to the sweep, sweeps/tiny.toml",
    ));
    local("local.toml", "threads = 1\n[data]\npretrain = [\"text/*.txt\"]\n");
    local("tiny.local.toml", "threads = 2\n");
    run().code(0).stderr(
        contains("note: sweeps/local.toml sets threads, data.pretrain")
            .and(contains("note: sweeps/tiny.local.toml sets threads")),
    );
    let layers = record(dir)["runs"][0]["layers"]["local"].clone();
    let files: Vec<&str> =
        layers.as_array().unwrap().iter().map(|local| local["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["sweeps/local.toml", "sweeps/tiny.local.toml"]);
    let config = fs::read_dir(dir.join("runs")).unwrap().map(|entry| entry.unwrap().path());
    let config = config.into_iter().find(|run| run.to_string_lossy().contains("pretrain-")).unwrap();
    let config = fs::read_to_string(config.join("config.toml")).unwrap();
    assert!(
        config.contains("pretrain = [\"sweeps/text/*.txt\"]") && config.contains("threads = 2"),
        "{config}"
    );
    // Paths do not affect the names of stage runs: without the local files, the report still finds them.
    let before = manifests(&dir.join("runs")).len();
    for name in ["local.toml", "tiny.local.toml"] {
        fs::remove_file(dir.join("sweeps").join(name)).unwrap();
    }
    mindscale(dir)
        .args(["report", "sweeps/tiny.toml"])
        .assert()
        .code(0)
        .stderr(contains("using the layers of the last run: [sweeps/local.toml] [sweeps/tiny.local.toml]"));
    mindscale(dir)
        .args(["run", "sweeps/tiny.toml", "--set", "data.pretrain=sweeps/text/a.txt"])
        .assert()
        .code(0)
        .stdout(contains("its trial is finished"));
    assert_eq!(manifests(&dir.join("runs")).len(), before);
}

#[test]
fn the_page_of_a_sweep_needs_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    mindscale(dir).args(["run", "tiny.toml", "--only", "seed == 1"]).assert().code(0);
    let mut server = std::process::Command::new(assert_cmd::cargo::cargo_bin("mindscale"))
        .current_dir(dir)
        .args(["status", "tiny.toml", "--web"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("tiny at http://").unwrap().to_owned();
    let (address, page) = address.split_once('/').unwrap();
    assert!(address.starts_with("127.0.0.1:") && page == "#/sweeps/tiny", "{line}");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/").contains("app.js"));
    assert!(get("/api/models").ends_with("[]"));
    let sweep = get("/api/sweeps/tiny");
    let sweep: Value = serde_json::from_str(sweep.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&sweep["status"]["counts"]["done"], &sweep["status"]["counts"]["pending"]),
        (&1.into(), &1.into())
    );
    server.kill().unwrap();
    server.wait().unwrap();
}
