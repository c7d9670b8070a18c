//! `[[fit]]`: laws fitted to settings, and messages for mistakes.

use super::*;
use std::collections::BTreeMap;

/// Settings of four sizes and three lengths, two seeds each, whose mean losses follow `1.5 + 40 N^-0.4 + 60 D^-0.35`.
fn trials() -> Vec<TrialRecord> {
    let mut found = vec![];
    for (i, n) in [2e4, 5e4, 1e5, 3e5].into_iter().enumerate() {
        for (j, d) in [3e5, 6e5, 1.2e6].into_iter().enumerate() {
            let loss = 1.5 + 40.0 * f64::powf(n, -0.4) + 60.0 * f64::powf(d, -0.35);
            for seed in [1, 2] {
                let off = if seed == 1 { 1e-3 } else { -1e-3 };
                let base = trial(seed, 2, 50, Status::Done);
                found.push(TrialRecord {
                    trial: Uuid::from_u128((100 * i + 10 * j) as u128 + u128::from(seed)),
                    setting: Uuid::from_u128((100 * i + 10 * j) as u128),
                    params: n as u64,
                    train_tokens: d as u64,
                    train_flops: 6.0 * n * d,
                    val_loss: Some(loss + off),
                    ..base
                });
            }
        }
    }
    found
}

fn report(fit: &str) -> (tempfile::TempDir, Vec<BTreeMap<String, String>>) {
    report_of(fit, &trials())
}

fn report_of(fit: &str, trials: &[TrialRecord]) -> (tempfile::TempDir, Vec<BTreeMap<String, String>>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.toml");
    std::fs::write(&file, format!("sweeps = ['s.toml']\n{fit}")).unwrap();
    let experiment = Experiment::read_if_experiment(&file).unwrap().unwrap();
    write(&experiment, trials, &[], &[], dir.path()).unwrap();
    let mut csv = csv::Reader::from_path(dir.path().join("fits.csv")).unwrap();
    let rows = csv.deserialize().map(Result::unwrap).collect();
    (dir, rows)
}

#[test]
fn a_law_through_means_over_seeds_is_found_again() {
    let (dir, rows) = report("[[fit]]\nkind = 'chinchilla'\nname = 'law'\nd = 'train_tokens'\n");
    let value = |name: &str| -> f64 {
        rows.iter().find(|row| row["parameter"] == name).unwrap()["value"].parse().unwrap()
    };
    for (name, truth) in
        [("E", 1.5), ("A", 40.0), ("alpha", 0.4), ("B", 60.0), ("beta", 0.35), ("n_exponent", 0.35 / 0.75)]
    {
        assert!((value(name) / truth - 1.0).abs() < 0.02, "{name}: {}", value(name));
    }
    assert!(rows.iter().all(|row| row["settings"] == "12" && row["fit"] == "law"));
    assert!(
        rows[0]["note"].contains("12 settings, means over 2 seeds")
            && rows[0]["note"].contains("predicted from the other 10: off by 0.0"),
        "{}",
        rows[0]["note"]
    );
    let there = |name: &str| dir.path().join(name).is_file();
    assert!(there("tables/fits.tex") && there("figures/fit_law.svg"));
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Law of loss") && page.contains("n_exponent"));
}

#[test]
fn a_loss_that_rises_is_reported() {
    let rising = |mut record: TrialRecord| {
        record.val_loss = Some(1.0 + 0.02 * (record.params as f64).powf(0.3));
        record
    };
    let rising: Vec<TrialRecord> = trials().into_iter().map(rising).collect();
    let (_, rows) = report_of("[[fit]]\nkind = 'chinchilla'\nhold_out = 0\n", &rising);
    let note = &rows[0]["note"];
    assert!(note.ends_with("; the loss rises with params, so E is no limit of it"), "{note}");
    // It does not depend on the tokens, so a law with both is not determined.
    let (_, rows) = report_of("[[fit]]\nkind = 'chinchilla'\nd = 'train_tokens'\n", &rising);
    let note =
        "not fitted: the points do not determine the fit: train_tokens: a law without it fits the losses";
    assert!(rows[0]["note"].contains(note), "{}", rows[0]["note"]);
}

#[test]
fn what_cannot_be_fitted_says_why() {
    let (_, rows) = report("[[fit]]\nkind = 'chinchilla'\nd = 'train_tokens'\nwhere = 'params < 40000'\n");
    assert_eq!((rows.len(), rows[0]["value"].as_str()), (1, ""));
    assert!(rows[0]["note"].starts_with("not fitted: "), "{}", rows[0]["note"]);
}

#[test]
fn budgets_are_left_out_with_their_reasons() {
    let valley = |c: f64, factor: f64| 3.0 - 0.05 * c.ln() + 0.02 * factor.ln().powi(2);
    let mut points = vec![];
    for c in [1e15, 1e16, 1e17] {
        points.extend([0.25, 1.0, 4.0].map(|factor| (c, factor, valley(c, factor))));
    }
    points.extend([(1e18, 1.0, 0.95), (1e18, 4.0, 0.9)]);
    // A hill has no minimum.
    points.extend([(1e19, 0.25, 0.8), (1e19, 1.0, 0.75), (1e19, 4.0, 0.6)]);
    let trial_of = |(i, (c, factor, loss)): (usize, (f64, f64, f64))| TrialRecord {
        trial: Uuid::from_u128(i as u128 + 1),
        setting: Uuid::from_u128(i as u128 + 1),
        params: (0.1 * c.sqrt() * factor) as u64,
        train_flops: c,
        val_loss: Some(loss),
        ..trial(1, 2, 50, Status::Done)
    };
    let trials: Vec<TrialRecord> = points.into_iter().enumerate().map(trial_of).collect();
    let (_, rows) = report_of("[[fit]]\nkind = 'isoflop'\n", &trials);
    let expected =
        "; 1 budget left out: fewer than 3 runs; 1 budget left out: the losses of the budget have no minimum";
    assert!(rows[0]["note"].ends_with(expected), "{}", rows[0]["note"]);
}

#[test]
fn mistakes_of_a_fit_have_their_lines() {
    let problems = |fit: &str| {
        let path = Path::new("x.toml");
        let text = format!("sweeps = ['s.toml']\n[[fit]]\n{fit}");
        Experiment::read_text(path, &text).unwrap_err().to_string()
    };
    assert_eq!(
        problems("n = 'params'"),
        "x.toml:2: fit.kind: is missing, expected kind = \"chinchilla\" or \"isoflop\""
    );
    assert_eq!(
        problems("kind = 'chinchila'"),
        "x.toml:3: fit.kind: is \"chinchila\", expected chinchilla, isoflop; did you mean chinchilla?"
    );
    assert_eq!(
        problems("kind = 'isoflop'\nd = 'train_tokens'"),
        "x.toml:4: fit.d: has no meaning for kind = \"isoflop\", expected kind, n, flops, loss, name, title, where"
    );
    assert_eq!(
        problems("kind = 'chinchilla'\nn = 'sweep'"),
        "x.toml:4: fit.n: is \"sweep\", which holds text, expected numbers as in \"params\""
    );
    assert_eq!(
        problems("kind = 'chinchilla'\nhold_out = 1"),
        "x.toml:4: fit.hold_out: is 1, expected a share of 0 or more and below 1"
    );
}
