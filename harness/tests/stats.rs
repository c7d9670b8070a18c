//! `mindscale stats` through the command line.

use crate::common::mindscale;
use crate::testing::shared;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use serde_json::Value;
use std::fmt::Write;

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
    // No difference is a finding, too: scipy.stats.binom.cdf(0, 40, 0.1).
    let found = json(&dir, &["compare", "a.csv", "a.csv", "--margin", "0.1"]);
    let p = found["findings"][1]["p_equivalence"].as_f64().unwrap();
    assert!((p / 0.014_780_882_941_434_6 - 1.0).abs() < 1e-9, "{found}");
    mindscale(dir.path())
        .args(["stats", "compare", "a.csv", "a.csv", "--margin", "0.1"])
        .assert()
        .code(0)
        .stdout(contains("40 questions; a - b = 0, all scores are equal").and(contains(
        "none: no interval, as the difference is 0 for each of 40 questions, p of no equivalence = 0.01478",
    )));
    mindscale(dir.path())
        .args(["stats", "compare", "a.csv", "a.csv", "--margin", "-1"])
        .assert()
        .code(1)
        .stderr(contains("--margin -1: expected a number above 0"));
}

#[test]
fn different_questions_are_compared_as_independent_shares() {
    // statsmodels: confint_proportions_2indep(9, 10, 3, 10, method="newcomb"), proportion_effectsize(0.9, 0.3).
    let side = |first: u64, right: u64| -> String {
        let rows = (0..10).map(|i| format!("{},{}\n", first + i, u64::from(i < right)));
        "id,correct\n".to_string() + &rows.collect::<String>()
    };
    let dir = folder(&[("a.csv", &side(0, 9)), ("b.csv", &side(100, 3)), ("c.csv", "id,score\n200,0.5\n")]);
    let found = json(&dir, &["compare", "a.csv", "b.csv", "--independent"]);
    let of = |finding: usize| {
        ["value", "low", "high"].map(|key| found["findings"][finding]["estimate"][key].as_f64().unwrap())
    };
    let expected = [
        [0.6, 0.1705227239345029, 0.809017973535488],
        [1.3388120640691004, 0.46228952349251884, 2.215334604645682],
    ];
    for (found, expected) in [of(0), of(1)].iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-8, "{found} instead of {expected}");
    }
    let refused = |sides: [&str; 2], text: &str| {
        let args = ["stats", "compare", sides[0], sides[1], "--independent"];
        mindscale(dir.path()).args(args).assert().code(1).stderr(contains(text.to_string()));
    };
    refused(["a.csv", "a.csv"], "--independent: a.csv and a.csv have 10 questions in common");
    refused(["a.csv", "c.csv"], "--independent: c.csv has scores other than 0 and 1");
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
    // A question that both sides lack is reported as a row of each.
    let dir = folder(&[("a.csv", "id,score\n1,1\n2,\n3,1\n"), ("b.csv", "id,score\n1,1\n2,\n3,0\n")]);
    let found = json(&dir, &["compare", "a.csv", "b.csv"]);
    assert_eq!((found["questions"].as_u64(), found["a"]["rows_without_score"].as_u64()), (Some(2), Some(1)));
    mindscale(dir.path())
        .args(["stats", "compare", "a.csv", "b.csv"])
        .assert()
        .code(0)
        .stdout(contains("b.csv: mean 0.5, seeds: 1, 1 row without a score left out"));
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
    let dir = folder(&[("q.csv", &answers(3, 5)), ("b.csv", "id,prediction,answer\n0,A,5\n")]);
    let found = json(&dir, &["guess", "q.csv"]);
    assert_eq!(
        (found["models"].as_u64(), found["verdict"].as_str()),
        (Some(3), Some("better than guessing"))
    );
    assert!(found["p_binomial"].is_null(), "three seeds are no independent answers");
    let problem = mindscale(dir.path()).args(["stats", "guess", "b.csv"]).assert().code(1);
    problem.stderr(contains("b.csv:2: answer: expected a letter from A to Z, found \"5\""));
}

/// Answers to 12 questions, all alike.
fn alike(prediction: &str, answer: &str) -> String {
    let rows = (0..12).map(|id| format!("{id},{prediction},{answer}\n"));
    "id,prediction,answer\n".to_string() + &rows.collect::<String>()
}

#[test]
fn a_letter_counts_in_either_case_and_that_is_reported() {
    let dir = folder(&[("lower.csv", &alike("a", "A")), ("upper.csv", &alike("A", "A"))]);
    let found = json(&dir, &["compare", "lower.csv", "upper.csv"]);
    assert_eq!(
        (found["difference"].as_f64(), found["a"]["rows_in_other_case"].as_u64()),
        (Some(0.0), Some(12))
    );
    assert_eq!(found["b"]["rows_in_other_case"].as_u64(), Some(0));
    let message = ", 12 rows with the right letter in the other case counted as right";
    let said = mindscale(dir.path()).args(["stats", "compare", "lower.csv", "upper.csv"]).assert().code(0);
    said.stdout(contains(format!("lower.csv: mean 1, seeds: 1{message}")));
    let [lower, upper] = ["lower.csv", "upper.csv"].map(|file| json(&dir, &["guess", file]));
    assert_eq!((&lower["accuracy"], &lower["p"]), (&upper["accuracy"], &upper["p"]));
    let said = mindscale(dir.path()).args(["stats", "guess", "lower.csv"]).assert().code(0);
    said.stdout(contains(format!("questions: 12{message}: 100.00 % right")));
}

#[test]
fn tables_with_different_keys_are_not_compared() {
    let dir = folder(&[("a.csv", &alike("A", "A")), ("b.csv", &alike("A", "B"))]);
    let refused = mindscale(dir.path()).args(["stats", "compare", "a.csv", "b.csv"]).assert().code(1);
    refused.stderr(contains(
        "a.csv:2 and b.csv:2: question \"0\" has the answers \"A\" and \"B\", and so for 11 more: these are different \
         questions; expected one answer key",
    ));
}

#[test]
fn a_guess_without_a_letter_is_wrong_and_one_beyond_the_options_refused() {
    let some = "id,prediction,answer\n1,,A\n2,B,B\n3,C,\n4,A,C\n";
    let beyond = "id,prediction,answer,p_a,p_b\n1,A,C,.5,.5\n2,B,B,.5,.5\n";
    let dir = folder(&[("some.csv", some), ("beyond.csv", beyond), ("none.csv", &alike("", "A"))]);
    let found = json(&dir, &["guess", "some.csv"]);
    let rows = ["questions", "answers", "rows_without_prediction", "rows_without_score"];
    assert_eq!(rows.map(|key| found[key].as_u64().unwrap()), [3, 3, 1, 1]);
    // One of three is right: scipy.stats.binomtest(1, 3, 0.25).pvalue is 1.
    assert_eq!(found["accuracy"].as_f64(), Some(1.0 / 3.0));
    assert!((found["p_binomial"].as_f64().unwrap() - 1.0).abs() < 1e-12, "{found}");
    let said = mindscale(dir.path()).args(["stats", "guess", "some.csv"]).assert().code(0);
    said.stdout(contains(
        "questions: 3, 1 row without a score left out, 1 row without a prediction counted as wrong: 33.33 % right",
    ));
    for (file, message) in [
        ("beyond.csv", "beyond.csv:2: answer: expected an option that has a probability, A, B, found \"C\""),
        ("none.csv", "none.csv: no row has a prediction"),
    ] {
        mindscale(dir.path()).args(["stats", "guess", file]).assert().code(1).stderr(contains(message));
    }
}

#[test]
fn numbers_that_cannot_be_used_are_reported_with_their_line() {
    let law = "N,D,loss\n1e6,2e7,3\n2e6,4e7,-1\n";
    let dir = folder(&[
        ("law.csv", law),
        ("line.csv", "x,y\n0,2\n2,3\n3,4\n"),
        ("iso.csv", "C,N\n1e15,1e6\n1e16,-2\n1e17,4e6\n"),
        ("flat.csv", "x,y\n1,2\n2,2\n3,2\n"),
        ("huge.csv", "x\n1e300\n2e300\n-1e300\n"),
        ("semicolons.csv", "x;y\n1;2\n2;3\n3;5\n"),
    ]);
    let line = ["fit", "line", "line.csv", "--x", "x", "--y", "y"];
    let fit = |file: &'static str| ["fit", "line", file, "--x", "x", "--y", "y"];
    for (args, message) in [
        (
            &["fit", "chinchilla", "law.csv", "--n", "N", "--d", "D", "--loss", "loss"][..],
            "law.csv:3: loss: expected a number above 0, found \"-1\"",
        ),
        (&line[..], "line.csv:2: x: expected a number above 0, found \"0\""),
        (
            &["fit", "isoflop", "iso.csv", "--flops", "C", "--n", "N"],
            "iso.csv:3: N: expected a number above 0, found \"-2\"",
        ),
        (&fit("flat.csv")[..], "flat.csv: the points do not determine the fit: all points have one y"),
        (
            &fit("semicolons.csv")[..],
            "semicolons.csv:1: the columns are separated by semicolons, expected commas",
        ),
    ] {
        mindscale(dir.path()).arg("stats").args(args).assert().code(1).stderr(contains(message));
    }
    let found = json(&dir, &[&line[..], &["--kind", "linear"]].concat());
    // scipy.stats.linregress([0, 2, 3], [2, 3, 4]): slope 9 / 14.
    assert!((found["b"]["value"].as_f64().unwrap() - 9.0 / 14.0).abs() < 1e-12, "{found}");
    let found = json(&dir, &["one-sample", "huge.csv", "--value", "x"]);
    let message = "a value is 1e300, expected at most 1e150 in size, as variances are made of squares";
    assert_eq!(found["findings"][0]["refused"], message, "{found}");
}

#[test]
fn exams_of_one_file_are_not_pooled_as_models() {
    let mut text = "trial,stage,subject,id,prediction,answer,at\n".to_string();
    for (at, question) in [0.5, 1.0].into_iter().flat_map(|at| (0..20).map(move |question| (at, question))) {
        writeln!(text, "x,sft,law,{question},A,{},{at}", ["A", "B"][question % 2]).unwrap();
    }
    let dir = folder(&[("q.csv", &text)]);
    for verb in [&["guess", "q.csv"][..], &["compare", "q.csv", "q.csv"]] {
        let refused = mindscale(dir.path()).arg("stats").args(verb).assert().code(1);
        refused.stderr(contains(
            "q.csv:22: question \"0\" again, as in line 2; choose some rows, such as by --where at=1",
        ));
    }
    let found = json(&dir, &["guess", "q.csv", "--where", "at=1"]);
    assert_eq!((found["models"].as_u64(), found["answers"].as_u64()), (Some(1), Some(20)));
}

#[test]
fn chance_follows_from_the_number_of_options() {
    let mut five = "id,p_a,p_b,p_c,p_d,prediction,answer,p_e\n".to_string();
    for i in 0..40 {
        let (prediction, answer) = (["A", "C"][i % 2], ["A", "E", "C", "D", "B"][i % 5]);
        writeln!(five, "{i},0.3,0.2,0.2,0.1,{prediction},{answer},0.2").unwrap();
    }
    let four = "id,prediction,answer\n0,A,A\n1,B,A\n2,C,C\n";
    let dir = folder(&[("five.csv", &five), ("four.csv", four)]);
    // scipy.stats.binomtest(8, 40, 0.2).pvalue, and with 0.3; max(binom.sf(7, 40, 0.05), binom.cdf(8, 40, 0.35)).
    for (args, from, chance, p) in
        [(&[][..], "options", 0.2, 1.0), (&["--chance", "0.3"], "given", 0.3, 0.22615582583118554)]
    {
        let found = json(&dir, &[&["guess", "five.csv", "--margin", "0.15"], args].concat());
        assert_eq!(found["chance_from"], from);
        assert!((found["chance"].as_f64().unwrap() - chance).abs() < 1e-12, "{found}");
        assert!((found["p_binomial"].as_f64().unwrap() - p).abs() < 1e-9, "{found}");
    }
    let found = json(&dir, &["guess", "five.csv", "--margin", "0.15"]);
    assert!((found["p_equivalence"].as_f64().unwrap() - 0.030254517692378278).abs() < 1e-9, "{found}");
    let said = mindscale(dir.path()).args(["stats", "guess", "four.csv"]).assert().code(0);
    said.stdout(contains("exact binomial against 0.25 (assumed: four options; --chance sets it) p = "));
}

#[test]
fn counts_are_tested_for_equivalence_and_as_a_family() {
    let dir = folder(&[]);
    let counts = ["guess", "--correct", "340,316,400", "--questions", "1346", "--margin", "0.05"];
    let found = json(&dir, &counts);
    // max(binom.sf(339, 1346, 0.2), binom.cdf(340, 1346, 0.3)); multipletests(p, method="fdr_bh") of binomtest(k, 1346, 0.25).
    assert!(
        (found[0]["p_equivalence"].as_f64().unwrap() / 6.595_791_439_567_637e-5 - 1.0).abs() < 1e-9,
        "{found}"
    );
    for (i, p) in [0.8256432688642942, 0.3119981037783905, 0.0002799600233654804].into_iter().enumerate() {
        assert!((found[i]["p_benjamini_hochberg"].as_f64().unwrap() / p - 1.0).abs() < 1e-6, "{found}");
    }
    let said = mindscale(dir.path()).arg("stats").args(counts).assert().code(0);
    said.stdout(contains("by Benjamini-Hochberg").and(contains("; p of no equivalence = 6.596e-5")));
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
fn what_points_do_not_determine_is_refused_with_its_reason() {
    let (mut flat, mut rising, mut high) =
        ("N,loss\n".to_string(), "N,loss\n".to_string(), "C,N,L\n".to_string());
    for i in 0..8 {
        let n = 1e6 * 3f64.powi(i);
        writeln!(flat, "{n},2").unwrap();
        writeln!(rising, "{n},{}", 1.0 + 0.05 * n.powf(0.2)).unwrap();
        writeln!(high, "{},{n},{}", 1e15 * 10f64.powi(i / 4), 3.0 - 0.1 * f64::from(i % 4)).unwrap();
    }
    let dir = folder(&[("flat.csv", &flat), ("rising.csv", &rising), ("high.csv", &high)]);
    let law = |file: &str, more: &[&str]| {
        let words = ["stats", "fit", "chinchilla", file, "--n", "N", "--loss", "loss", "--draws", "100"];
        mindscale(dir.path()).args(words).args(more).assert()
    };
    law("flat.csv", &[])
        .code(1)
        .stderr(contains("determine the fit: N: a law without it fits the losses as well (p = 1.00)"));
    law("rising.csv", &[]).code(0).stdout(contains("alpha is not above 0: the loss rises with N"));
    for share in ["1.5", "-0.2", "NaN"] {
        let refused = law("rising.csv", &["--hold-out", share]).code(1);
        refused.stderr(contains(format!("--hold-out {share}: expected a share of the points below 1")));
    }
    let budgets = ["stats", "fit", "isoflop", "high.csv", "--flops", "C", "--n", "N", "--loss", "L"];
    mindscale(dir.path()).args(budgets).assert().code(1).stderr(
        contains("too few budgets with an optimum: n=0")
            .and(contains("\n  C = 1e15, 4 runs: the points do not")),
    );
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
    // Options that do not go together are refused instead of ignored.
    for (args, message) in [
        (
            &["--seeds", "5", "--sd", "0.01", "--disagreement", "0.4", "--questions", "100"][..],
            "cannot be used with",
        ),
        (&["--seeds", "5", "--sd", "0.01", "--accuracy", "0.4", "--questions", "100"], "cannot be used with"),
        (&["--seeds", "3", "--questions", "100"], "--questions 100 has no effect with --seeds alone"),
        (&["--seeds", "3", "--score", "acc"], "name columns of the tables of --pilot, which is missing"),
        (
            &["--seeds", "3", "--power", "0.01"],
            "the power is 0.01, expected a number above the significance level",
        ),
    ] {
        mindscale(dir.path())
            .args(["stats", "power"])
            .args(args)
            .assert()
            .failure()
            .stderr(contains(message));
    }
    let side = |seeds: std::ops::Range<u64>| -> String {
        let rows =
            seeds.flat_map(|seed| (0..6).map(move |q| format!("{seed},{q},{}\n", (seed * 7 + q * 5) % 3)));
        "seed,id,score\n".to_string() + &rows.collect::<String>()
    };
    let pilot = folder(&[("a.csv", &side(0..4)), ("b.csv", &side(2..6)), ("c.csv", &side(0..3))]);
    let power = |seeds: &str, b: &str| {
        let args = ["stats", "power", "--seeds", seeds, "--questions", "100", "--pilot", "a.csv", b];
        mindscale(pilot.path()).args(args).assert()
    };
    power("4", "c.csv")
        .code(1)
        .stderr(contains("--pilot: a.csv has the seeds 0, 1, 2, 3, c.csv has 0, 1, 2;"));
    power("4", "b.csv").code(1).stderr(contains("b.csv has 2, 3, 4, 5; expected the same"));
    power("2", "a.csv")
        .code(1)
        .stderr(contains("too few seeds: n=2, a comparison by seeds and questions needs 4"));
    let found = json(&dir, &["one-sample", "seeds.csv", "--value", "accuracy", "--null", "0.25"]);
    assert!((found["findings"][0]["test"]["p"].as_f64().unwrap() - 0.047_421).abs() < 1e-5, "{found}");
    mindscale(dir.path()).args(["stats", "comprae"]).assert().code(2);
}
