//! Results folders: which file owns one, what was run for it, and what may overwrite it.

use crate::common::{TINY, mindscale, only, stage_runs, two_seeds};
use crate::testing::shared;
use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};

const LR: &str = "pretrain.lr=3e-3";

fn table(dir: &Path, results: &str) -> String {
    fs::read_to_string(dir.join(results).join("trials.csv")).unwrap()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = mindscale(dir);
    command.args(args);
    command
}

#[test]
fn a_report_takes_the_layers_of_the_last_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    let notice = |notice: &str| contains(format!("note: using the layers of the last run: {notice}\n"));
    let set = format!("--set {LR}");
    command(dir, &["run", "tiny.toml", "--set", LR, "--runs", "elsewhere"]).assert().code(0);
    let before = table(dir, "results/tiny");
    assert_eq!(before.matches(",done,").count(), 2);
    for verb in ["report", "status"] {
        command(dir, &[verb, "tiny.toml"]).assert().code(0).stderr(
            notice(&set).and(contains("note: using the stage runs of the last run: --runs elsewhere")),
        );
        assert_eq!(table(dir, "results/tiny"), before);
    }
    let json = command(dir, &["status", "tiny.toml", "--json"]).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&json["counts"]["done"], &json["counts"]["pending"]), (&2.into(), &0.into()));
    // Stage runs are not garbage just because the flags of the run are missing.
    command(dir, &["gc", "tiny.toml", "--runs", "elsewhere"])
        .assert()
        .code(0)
        .stdout(contains("elsewhere: nothing to remove"))
        .stdout(contains("stage runs that only results/tiny/record.json refers to"));

    // With other layers there are fewer results, which do not overwrite the existing ones.
    for other in [["--set", "pretrain.lr=1e-2"], ["--preset", "small"]] {
        command(dir, &["report", "tiny.toml"])
            .args(other)
            .assert()
            .code(1)
            .stderr(contains(
                "note: the layers differ from those of the last run, which had --set pretrain.lr=3e-3",
            ))
            .stderr(contains("results/tiny shows 2 finished trials, and this report would show 0 of 2"))
            .stderr(contains("--force"));
    }
    command(dir, &["report", "tiny.toml"]).env("MINDSCALE_SFT__LR", "1e-2").assert().code(1);
    // The records show as much as the stage runs.
    command(dir, &["report", "tiny.toml", "--runs", "nowhere"]).assert().code(0);
    assert_eq!(table(dir, "results/tiny"), before);
    let other = ["report", "tiny.toml", "--set", "pretrain.lr=1e-2", "--runs", "elsewhere"];
    command(dir, &other).args(["--results", "apart"]).assert().code(0);
    assert_eq!(table(dir, "apart/tiny").matches(",pending,").count(), 2);
    command(dir, &other).arg("--force").assert().code(0);
    assert_eq!(table(dir, "results/tiny").matches(",pending,").count(), 2);
    command(dir, &["report", "tiny.toml"]).assert().code(0).stderr(notice(&set));
    assert_eq!(table(dir, "results/tiny"), before);

    // A run that finishes fewer trials leaves the report unchanged; the environment is a layer as well.
    command(dir, &["run", "tiny.toml", "--time-limit", "1s", "--runs", "elsewhere"])
        .env("MINDSCALE_PRETRAIN__STEPS", "600000")
        .assert()
        .code(1)
        .stderr(contains(format!(
            "note: the last run used other layers: {set}; to keep its report, write this one to another folder with --results DIR"
        )))
        .stdout(contains("the report is not written: results/tiny shows 2 finished trials"));
    assert_eq!(table(dir, "results/tiny"), before);
    command(dir, &["status", "tiny.toml"])
        .assert()
        .stderr(notice("MINDSCALE_PRETRAIN__STEPS=600000"))
        .stdout(contains("0 done"));
    command(dir, &["report", "tiny.toml", "--set", LR]).assert().code(0);
    command(dir, &["gc", "tiny.toml", "--runs", "elsewhere"]).assert().stdout(contains("nothing to remove"));

    // A smaller number of trials is detected before anything starts.
    fs::write(dir.join("tiny.toml"), format!("{TINY}[axes]\nseed = [1]\n")).unwrap();
    command(dir, &["run", "tiny.toml", "--runs", "fresh"])
        .assert()
        .code(1)
        .stderr(contains("results/tiny shows 2 finished trials, and this run has 1 in all"));
    assert!(!dir.join("fresh").exists(), "nothing is started");
}

#[test]
fn two_files_of_one_name_do_not_share_results() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let seed = |seed: u32| format!("{TINY}[axes]\nseed = [{seed}]\n");
    fs::write(dir.join("a.toml"), seed(1)).unwrap();
    fs::write(dir.join("b.toml"), seed(7)).unwrap();
    command(dir, &["run", "a.toml"]).assert().code(0);
    let before = table(dir, "results/tiny");
    let runs = stage_runs(&dir.join("runs")).len();
    for verb in ["run", "report"] {
        let both =
            contains("results/tiny holds the results of a.toml, and b.toml has the same name, \"tiny\"");
        command(dir, &[verb, "b.toml"])
            .assert()
            .code(1)
            .stderr(both.and(contains("give b.toml another name, or its results another folder")));
    }
    assert_eq!((table(dir, "results/tiny"), stage_runs(&dir.join("runs")).len()), (before.clone(), runs));
    command(dir, &["run", "b.toml", "--results", "other"]).assert().code(0);
    // A link, another spelling of the path and a project moved as a whole count as the same file.
    let moved = tempfile::tempdir().unwrap();
    fs::rename(dir, moved.path().join("project")).unwrap();
    let dir = &moved.path().join("project");
    command(dir, &["report", "./a.toml"]).assert().code(0).stderr(contains("that of").not());
    command(dir, &["report", "a.toml", "--results"]).arg(dir.join("results")).assert().code(0);
    // A renamed file keeps its results.
    fs::rename(dir.join("a.toml"), dir.join("c.toml")).unwrap();
    let taken = "note: results/tiny belonged to a.toml, which no longer exists; it now belongs to c.toml";
    command(dir, &["report", "c.toml"]).assert().code(0).stderr(contains(taken));
    command(dir, &["report", "c.toml"]).assert().code(0).stderr(contains(taken).not());
    assert_eq!(table(dir, "results/tiny"), before);
}

#[test]
fn a_report_needs_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let line = |i: usize| format!("{{\"text\": \"第{i}个人住在城市{}，他喜欢读书、下棋。\"}}\n", i * 7 % 13);
    fs::write(dir.join("text.jsonl"), (0..200).map(line).collect::<String>()).unwrap();
    command(dir, &["tokenizer", "train", "text.jsonl", "--vocab-size", "300", "--out", "tokenizer"])
        .assert()
        .code(0);
    let sweep = format!("{}[axes]\nseed = [1, 2]\n", TINY.replace("name = \"tiny\"", "name = \"files\""));
    fs::write(dir.join("files.toml"), sweep).unwrap();
    fs::write(
        dir.join("asked.toml"),
        "sweeps = [\"files.toml\"]\n[[figure]]\nkind = \"line\"\nx = \"seed\"\ny = \"val.bpb\"\nname = \"asked\"\n",
    )
    .unwrap();
    fs::create_dir(dir.join("sheets")).unwrap();
    let questions: String = (0..8).map(|i| format!("{i},他住在哪里{i},一,二,三,四,A\n")).collect();
    let sheet = format!("id,question,A,B,C,D,answer\n{questions}");
    fs::write(dir.join("sheets/facts_val.csv"), sheet).unwrap();
    let without = ["sft.enabled=false", "dpo.enabled=false"];
    let files = ["tokenizer.path=tokenizer", "data.source=files", "data.pretrain=text.jsonl"];
    let layers = files.iter().chain(&without).chain(&["exam.sheets=sheets"]);
    command(dir, &["run", "asked.toml"]).args(layers.flat_map(|set| ["--set", set])).assert().code(0);
    let before = table(dir, "results/asked");
    assert_eq!(before.matches(",done,").count(), 2);
    fs::remove_file(dir.join("text.jsonl")).unwrap();
    for folder in ["tokenizer", "sheets"] {
        fs::remove_dir_all(dir.join(folder)).unwrap();
    }
    fs::remove_dir_all(dir.join("results/asked/figures")).unwrap();
    let again = || {
        command(dir, &["report", "asked.toml"]).assert().code(0);
        assert_eq!(table(dir, "results/asked"), before);
        assert!(dir.join("results/asked/figures/asked.svg").is_file());
        command(dir, &["status", "asked.toml"]).assert().code(0).stdout(contains("2 done"));
        command(dir, &["gc", "asked.toml"]).assert().code(0).stdout(contains("nothing to remove"));
    };
    again();
    // The sweep files and the experiment file are not needed either.
    fs::remove_file(dir.join("files.toml")).unwrap();
    again();
    fs::remove_file(dir.join("asked.toml")).unwrap();
    again();
    // A trial that was never run cannot be reported without its data.
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    let layers = files.iter().chain(&without).chain(&["exam.enabled=false"]);
    command(dir, &["report", "tiny.toml"])
        .args(layers.flat_map(|set| ["--set", set]))
        .assert()
        .code(1)
        .stderr(contains("tokenizer"));
}

#[test]
fn damaged_answers_are_their_trials_failure_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    command(dir, &["run", "tiny.toml"]).assert().code(0);
    let before = table(dir, "results/tiny");
    let exams: Vec<PathBuf> = stage_runs(&dir.join("runs"))
        .into_iter()
        .filter(|run| run.file_name().unwrap().to_string_lossy().starts_with("exam-"))
        .collect();
    assert_eq!(exams.len(), 2);
    let answers = exams[0].join("questions.json");
    // A number becomes null, with the length of the file unchanged.
    let text = fs::read_to_string(&answers).unwrap();
    let (head, tail) = text.split_at(text.find("\"probabilities\":[").unwrap() + 17);
    let (_, rest) = tail.split_once(',').unwrap();
    let damaged = format!("{head}{:>width$},{rest}", "null", width = tail.len() - rest.len() - 1);
    assert_eq!(damaged.len(), text.len());
    fs::write(&answers, damaged).unwrap();
    command(dir, &["status", "tiny.toml"]).assert().code(0).stdout(contains("1 done, 0 running, 1 failed"));
    command(dir, &["report", "tiny.toml"]).assert().code(0);
    let after = table(dir, "results/tiny");
    assert_eq!(after.matches(",done,").count(), 1, "{after}");
    assert!(after.contains("questions.json: is damaged"), "{after}");
    // An unreadable manifest fails its trial only, too.
    let manifest = only(&dir.join("runs"), "tokenizer").with_file_name(exams[1].file_name().unwrap());
    let manifest = manifest.join("manifest.json");
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    command(dir, &["report", "tiny.toml"]).assert().code(0);
    assert!(table(dir, "results/tiny").contains("manifest.json: is not a manifest"));
    fs::write(&manifest, whole).unwrap();
    command(dir, &["run", "tiny.toml"]).assert().code(0).stdout(contains("1 stage run done here"));
    let without_time = |table: &str| -> Vec<String> {
        table.lines().map(|line| line.split(',').take(12).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(without_time(&table(dir, "results/tiny")), without_time(&before));
}

#[test]
fn names_that_fit_no_folder_are_refused_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let refused = |file: &str, text: &str, why: &str| {
        fs::write(dir.join(file), text).unwrap();
        command(dir, &["run", file]).assert().code(1).stderr(contains(why));
        assert!(!dir.join("runs").exists() && !dir.join("results").exists(), "nothing is started");
    };
    let long = "x".repeat(300);
    let sweep = |name: &str| TINY.replace("\"tiny\"", &format!("\"{name}\""));
    refused("s.toml", &sweep(&long), "is 300 bytes long, expected at most 255 for the name of a file");
    for name in ["a/b", "..", "a:b", ".a", "a."] {
        refused("s.toml", &sweep(name), "s.toml:2: name: ");
    }
    fs::write(dir.join("tiny.toml"), two_seeds()).unwrap();
    refused("what?.toml", "sweeps = [\"tiny.toml\"]\n", "what?.toml: the name \"what?\" does not fit a file");
    let named = |part: &str| format!("sweeps = [\"tiny.toml\"]\n{part}name = \"{}\"\n", "x".repeat(252));
    let why = "is 252 bytes long, expected at most 251 for the name of a file";
    refused("x.toml", &named("[[figure]]\nkind = \"line\"\nx = \"seed\"\ny = \"val.bpb\"\n"), why);
    refused("x.toml", &named("[[table]]\nrows = [\"sweep\"]\ncolumns = [\"val.bpb\"]\n"), why);
}

#[test]
fn the_cases_of_results_end_well() {
    let Some(cases) = shared("cases/25_results") else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for file in ["a.toml", "b.toml", "long.toml"] {
        fs::copy(cases.join(file), dir.join(file)).unwrap();
    }
    command(dir, &["run", "a.toml"]).assert().code(0);
    let before = table(dir, "results/same");
    assert_eq!(before.matches(",done,").count(), 4);
    command(dir, &["run", "b.toml"]).assert().code(1).stderr(contains("holds the results of a.toml"));
    assert_eq!(table(dir, "results/same"), before);
    let runs = stage_runs(&dir.join("runs")).len();
    command(dir, &["run", "long.toml"]).assert().code(1).stderr(contains("expected at most 255"));
    assert_eq!(stage_runs(&dir.join("runs")).len(), runs, "nothing is started");
}

#[test]
fn one_grid_in_two_sweeps_counts_once() {
    let Some(cases) = shared("cases/22_same_runs_counted_twice") else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for file in ["a.toml", "b.toml", "one.toml", "two.toml", "three.toml"] {
        fs::copy(cases.join(file), dir.join(file)).unwrap();
    }
    let read =
        |name: &str, file: &str| fs::read_to_string(dir.join("results").join(name).join(file)).unwrap();
    for name in ["one", "two", "three"] {
        command(dir, &["run", &format!("{name}.toml")]).assert().code(0);
        for file in
            ["summary.csv", "questions.csv", "figures/wilson.csv", "figures/wilson.svg", "tables/summary.md"]
        {
            assert_eq!(read(name, file), read("one", file), "{name}: {file}");
        }
        // The same trials, contained in two sweeps.
        assert_eq!(read(name, "trials.csv").replace("a; b", "a"), read("one", "trials.csv"), "{name}");
    }
    assert!(read("three", "trials.csv").contains(",a; b,1,1,"), "{}", read("three", "trials.csv"));
    // Two settings with three seeds each, all with the same 40 questions.
    let summary = read("three", "summary.csv");
    for (row, setting) in summary.lines().skip(1).zip(["n_layers=1", "n_layers=2"]) {
        let cells: Vec<&str> = row.split(',').collect();
        assert_eq!(
            [cells[0], cells[1], cells[8], cells[15], cells[16]],
            [setting, "3", "120", "40", "9999"],
            "{row}"
        );
    }
    // Figures of an earlier version of the experiment are removed; the user's own files stay.
    fs::write(dir.join("results/one/notes.md"), "mine").unwrap();
    let renamed = fs::read_to_string(dir.join("one.toml")).unwrap().replace("\"wilson\"\nx", "\"bars\"\nx");
    fs::write(dir.join("one.toml"), renamed).unwrap();
    command(dir, &["report", "one.toml"]).assert().code(0);
    let is_there = |file: &str| dir.join("results/one").join(file).exists();
    assert!(is_there("figures/bars.svg") && is_there("notes.md") && is_there("record.json"));
    assert!(
        !is_there("figures/wilson.svg") && !is_there("figures/wilson.png") && !is_there("figures/wilson.csv")
    );
}
