//! `mindscale stats` through the command line.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../src/testing.rs"]
mod testing;

use common::mindscale;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::fmt::Write;
use testing::shared;

/// A temporary folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    dir
}

fn json(dir: &tempfile::TempDir, args: &[&str]) -> Value {
    let found = mindscale(dir.path()).arg("stats").args(args).arg("--json").assert().code(0);
    serde_json::from_slice(&found.get_output().stdout).unwrap()
}

/// Answers of several seeds to 40 questions in 4 subjects, with the first `right` of each subject correct.
fn answers(seeds: u64, right: u64) -> String {
    let mut text = "seed,stage,subject,id,prediction,answer\n".to_string();
    for (seed, question) in (0..seeds).flat_map(|seed| (0..40).map(move |question| (seed, question))) {
        let answer = ["A", "B", "C", "D"][question as usize * 7 % 4];
        let is_right = question % 10 < right + (seed + question) % 3;
        let prediction = if is_right { answer } else { ["B", "C", "D", "A"][question as usize * 7 % 4] };
        writeln!(text, "{seed},sft,s{},{question},{prediction},{answer}", question / 10).unwrap();
    }
    text
}

#[test]
fn the_published_scores_of_minimind_come_out_as_guessing() {
    let dir = folder(&[]);
    let found = json(&dir, &["guess", "--correct", "316,344,351", "--questions", "1346"]);
    let verdicts: Vec<&str> =
        found.as_array().unwrap().iter().map(|f| f["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["not distinguishable from guessing"; 3]);
    let text =
        mindscale(dir.path()).args(["stats", "guess", "--correct", "351", "--questions", "1346"]).assert();
    text.code(0)
        .stdout(contains("351 of 1346: 26.08 % [23.80, 28.49] (Wilson), p = 0.3614 (exact binomial)"));
}

#[test]
fn a_model_against_itself_does_not_differ() {
    let dir = folder(&[("a.csv", &answers(1, 5))]);
    let found = json(&dir, &["compare", "a.csv", "a.csv"]);
    assert_eq!((found["difference"].as_f64(), found["questions"].as_u64()), (Some(0.0), Some(40)));
    let mcnemar = &found["findings"][0];
    assert!(mcnemar["method"].as_str().unwrap().starts_with("McNemar"));
    assert_eq!(mcnemar["test"]["p"].as_f64(), Some(1.0));
    // No division by zero: findings that cannot be computed are refused.
    assert!(found["findings"].as_array().unwrap()[1..].iter().all(|f| f["refused"].is_string()), "{found}");
}

#[test]
fn settings_are_compared_over_seeds_and_questions() {
    let dir = folder(&[("a.csv", &answers(5, 6)), ("b.csv", &answers(5, 3))]);
    let found = json(&dir, &["compare", "a.csv", "b.csv"]);
    assert_eq!(found["paired_seeds"], true);
    let of = |method: &str| {
        let all = found["findings"].as_array().unwrap();
        all.iter().find(|f| f["method"].as_str().unwrap().starts_with(method)).unwrap().clone()
    };
    assert!(of("sign-flip")["refused"].as_str().unwrap().contains("cannot go below 0.0625"));
    let crossed = of("variance components");
    assert_eq!(crossed["speaks_of"], "other seeds, other questions");
    assert!((crossed["estimate"]["value"].as_f64().unwrap() - 0.3).abs() < 0.02, "{crossed}");
    mindscale(dir.path())
        .args(["stats", "compare", "a.csv", "b.csv", "--margin", "0.02"])
        .assert()
        .code(0)
        .stdout(contains("40 questions; a - b = 0.3").and(contains("p of no equivalence = ")));
}

#[test]
fn questions_that_either_side_lacks_are_left_out_and_counted() {
    let dir = folder(&[("a.csv", "id,score\n1,1\n2,0\n3,1\n"), ("b.csv", "id,score\n2,1\n3,1\n4,0\n")]);
    let found = json(&dir, &["compare", "a.csv", "b.csv"]);
    // 1 and 4 are left out of 1 to 4.
    assert_eq!((found["questions"].as_u64(), found["questions_left_out"].as_u64()), (Some(2), Some(2)));
}

#[test]
fn every_verb_checks_the_level() {
    let dir = folder(&[("a.csv", &answers(1, 5)), ("p.csv", "x,y\n1,2\n2,4\n3,7\n4,8\n")]);
    for words in [&["compare", "a.csv", "a.csv"][..], &["fit", "line", "p.csv", "--x", "x", "--y", "y"]] {
        let refused = mindscale(dir.path()).arg("stats").args(words).args(["--level", "0.05"]).assert();
        refused.code(1).stderr(contains("--level 0.05: expected a number between 0.5 and 1"));
    }
}

#[test]
fn tables_of_other_programs_are_read() {
    let samples = |shift: u64| -> String {
        (0..30)
            .map(|i| {
                format!(
                    "{{\"doc_id\": {i}, \"doc\": {{}}, \"acc\": {}.0}}\n",
                    u64::from((i + shift) % 3 != 1)
                )
            })
            .collect()
    };
    let core = "Task                , Accuracy  , Centered  \narc_easy , 0.41 , 0.21\nboolq , 0.55 , -0.1\npiqa , 0.61 , 0.2\nCORE , , 0.1\n";
    let dir = folder(&[
        ("a.jsonl", &samples(0)),
        ("b.jsonl", &samples(1)),
        ("a.csv", core),
        ("b.csv", &core.replace("0.41", "0.44").replace("0.61", "0.6")),
    ]);
    let found = json(&dir, &["compare", "a.jsonl", "b.jsonl"]);
    assert_eq!(
        (found["questions"].as_u64(), found["findings"][0]["test"]["n"].as_u64()),
        (Some(30), Some(20))
    );
    let found = json(&dir, &["compare", "a.csv", "b.csv"]);
    assert_eq!(found["questions"].as_u64(), Some(3));
    let problem = mindscale(dir.path()).args(["stats", "compare", "a.csv", "a.jsonl"]).assert().code(1);
    problem.stderr(contains("a.csv and a.jsonl have no question in common"));
}

#[test]
fn guessing_is_tested_by_the_key() {
    let dir = folder(&[("q.csv", &answers(3, 5)), ("b.csv", "id,prediction,answer\n0,A,e\n")]);
    let found = json(&dir, &["guess", "q.csv"]);
    assert_eq!(
        (found["models"].as_u64(), found["verdict"].as_str()),
        (Some(3), Some("better than guessing"))
    );
    assert!(found["p_binomial"].is_null(), "three seeds are no independent answers");
    let problem = mindscale(dir.path()).args(["stats", "guess", "b.csv"]).assert().code(1);
    problem.stderr(contains("b.csv:2: answer: expected a letter from A to Z, found \"e\""));
}

#[test]
fn optima_have_their_exponents() {
    let Some(path) = shared("references/iso_flop.csv") else { return };
    let dir = folder(&[]);
    let file = std::fs::canonicalize(path).unwrap();
    let columns = ["--flops", "flops", "--n", "params", "--d", "tokens", "--by", "counting"];
    let args = [&["fit", "isoflop", file.to_str().unwrap()], columns.as_slice()].concat();
    let found = json(&dir, &args);
    let exponents: Vec<f64> =
        found.as_array().unwrap().iter().map(|f| f["exponent"]["value"].as_f64().unwrap()).collect();
    for (found, expected) in exponents.iter().zip([0.524, 0.479, 0.366, 0.490]) {
        assert!((found - expected).abs() < 1e-3, "{exponents:?}");
    }
}

#[test]
fn laws_have_the_names_of_their_parameters() {
    let mut points = "N,D,loss\n".to_string();
    for (n, d) in (0..5).flat_map(|i| (0..5).map(move |j| (1e6 * 3f64.powi(i), 1e8 * 2f64.powi(j)))) {
        writeln!(points, "{n},{d},{}", 1.8 + 400.0 / n.powf(0.35) + 2000.0 / d.powf(0.37)).unwrap();
    }
    let dir = folder(&[("points.csv", &points)]);
    let columns = ["fit", "chinchilla", "points.csv", "--n", "N", "--d", "D", "--loss", "loss"];
    let found = json(&dir, &[columns.as_slice(), &["--draws", "100"]].concat());
    let parameters = [("E", 1.8), ("A", 400.0), ("alpha", 0.35), ("B", 2000.0), ("beta", 0.37)];
    for (name, expected) in parameters {
        let [value, low, high] = ["value", "low", "high"].map(|key| found[name][key].as_f64().unwrap());
        assert!((value / expected - 1.0).abs() < 1e-3 && low <= high, "{name}: {value}");
    }
    mindscale(dir.path())
        .args(["stats", "fit", "chinchilla", "points.csv", "--n", "M", "--loss", "loss"])
        .assert()
        .code(1)
        .stderr(contains("points.csv: no column \"M\", it has N, D, loss"));
}

#[test]
fn metrics_are_ranked_by_what_they_tell() {
    let rows = "n,seed,bpb,acc\n2,1,1.50,0.30\n2,2,1.52,0.20\n4,1,1.20,0.25\n4,2,1.22,0.35\n";
    let dir = folder(&[("trials.csv", rows)]);
    let found = json(&dir, &["signal", "trials.csv", "--model", "n", "--metric", "acc", "--metric", "bpb"]);
    assert_eq!(found[0]["metric"], "bpb");
    // Means 1.51 and 1.21, each with variance 0.0002; means 0.25 and 0.30 with variance 0.005.
    assert!((found[0]["ratio"].as_f64().unwrap() - 0.3 / 0.0002f64.sqrt()).abs() < 1e-9);
    assert!((found[1]["ratio"].as_f64().unwrap() - 0.05 / 0.005f64.sqrt()).abs() < 1e-9);
}

#[test]
fn designs_tell_what_they_detect() {
    let dir = folder(&[("seeds.csv", "seed,accuracy\n1,0.27\n2,0.26\n3,0.28\n4,0.25\n5,0.29\n")]);
    // statsmodels: TTestIndPower().solve_power(power=0.8, nobs1=5, alpha=0.05) = 2.0244.
    let found = json(&dir, &["power", "--seeds", "5", "--sd", "0.01"]);
    assert!((found["minimal_detectable_difference"].as_f64().unwrap() - 0.020244).abs() < 1e-6, "{found}");
    mindscale(dir.path())
        .args(["stats", "power"])
        .assert()
        .code(1)
        .stderr(contains("expected --seeds with --sd"));
    let found = json(&dir, &["one-sample", "seeds.csv", "--value", "accuracy", "--null", "0.25"]);
    assert!((found["findings"][0]["test"]["p"].as_f64().unwrap() - 0.047_421).abs() < 1e-5, "{found}");
    mindscale(dir.path()).args(["stats", "comprae"]).assert().code(2);
}
