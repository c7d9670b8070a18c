//! Trials shared by several sweeps, and settings with equal labels.

use super::*;
use crate::report::results::observation::Results;
use crate::report::results::summary::settings;

/// Two sweeps: both contain three seeds of two depths, and `b` also contains a third depth.
fn shared() -> Vec<TrialRecord> {
    let mut trials = vec![];
    for (n_layers, correct) in [(2, 30), (4, 40), (8, 50)] {
        for seed in [1, 2, 3] {
            let mut trial = trial(seed, n_layers, correct + seed, Status::Done);
            trial.sweeps = if n_layers == 8 { vec!["b".into()] } else { vec!["a".into(), "b".into()] };
            trials.push(trial);
        }
    }
    trials
}

fn written_as(part: &str, trials: &[TrialRecord]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, format!("sweeps = ['s']\n{part}")).unwrap();
    let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
    write(&experiment, trials, &answers(trials), &[], dir.path()).unwrap();
    dir
}

#[test]
fn a_trial_of_two_sweeps_is_seen_in_both_and_counts_once() {
    let dir = written_as(
        "[[table]]\nname = 'by_sweep'\nrows = ['sweep']\ncolumns = ['exam.accuracy']\n\
         [[table]]\nname = 'all'\nrows = ['model.n_layers']\ncolumns = ['exam.accuracy', 'exam.p_guess']\n\
         where = \"sweep == 'a' or sweep == 'b'\"\n\
         [[figure]]\nkind = 'bar'\nname = 'bar'\nx = 'exam.subject'\ny = 'exam.accuracy'\ngroup = 'sweep'\nerror = 'wilson'\n\
         [[compare]]\nclaim = 'b beats a'\nmetric = 'exam.accuracy'\na = \"sweep == 'b'\"\nb = \"sweep == 'a'\"\n\
         [[compare]]\nclaim = '8 beat 2'\nmetric = 'exam.accuracy'\n\
         a = \"sweep == 'b' and model.n_layers == 8\"\nb = \"model.n_layers == 2\"\npaired_by = ['seed']\n",
        &shared(),
    );
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    let csv = read("trials.csv");
    assert_eq!(csv.lines().count(), 10);
    assert!(
        csv.lines().nth(1).unwrap().contains(",a; b,1,2,") && csv.lines().nth(7).unwrap().contains(",b,1,8,")
    );
    assert_eq!(read("questions.csv").lines().count(), 901);
    assert_eq!(read("summary.csv").lines().count(), 4);
    // Sweep a: 31 to 33 at one depth and 41 to 43 at the other; b also has 51 to 53.
    let by_sweep = read("tables/by_sweep.md");
    assert!(by_sweep.contains("| a | 37.0 ± 2.5 |\n| b | **42.0 ± 2.5** |"), "{by_sweep}");
    let all = read("tables/all.md");
    assert!(all.contains("| 2 | 32.0 ± 2.5 | "), "{all}");
    let bar = read("figures/bar.csv");
    assert!(bar.contains("\na,law,36.9999") && bar.contains("\nb,law,42,"), "{bar}");
    let comparisons = read("comparisons.csv");
    assert!(comparisons.contains("a and b overlap: 6 results are on both sides"), "{comparisons}");
    assert!(comparisons.contains(",seed,none,3,3,0,0.52,0.32,0.2,"), "{comparisons}");
}

#[test]
fn equal_labels_of_other_configurations_are_other_settings() {
    let mut trials = shared();
    for trial in &mut trials {
        trial.config = "[model]\nd_model = 32".into();
    }
    for seed in [1, 2] {
        let mut wide = trial(seed, 2, 60, Status::Done);
        (wide.trial, wide.setting) = (Uuid::from_u128(9_000 + u128::from(seed)), Uuid::from_u128(9));
        (wide.sweeps, wide.config) = (vec!["c".into()], "[model]\nd_model = 64".into());
        trials.push(wide);
    }
    let questions = answers(&trials);
    let results = Results::new(&trials, &questions);
    let found: Vec<(String, usize)> =
        settings(&results).iter().map(|s| (s.label.to_string(), s.trials.len())).collect();
    let expected =
        [("n_layers=2 d_model=32", 3), ("n_layers=4", 3), ("n_layers=8", 3), ("n_layers=2 d_model=64", 2)];
    assert_eq!(found, expected.map(|(label, seeds)| (label.to_string(), seeds)));
    let dir = written_as("", &trials);
    let csv = std::fs::read_to_string(dir.path().join("trials.csv")).unwrap();
    assert!(csv.starts_with("trial,sweep,seed,model.n_layers,model.d_model,params,"), "{csv}");
    assert!(csv.lines().nth(4).unwrap().contains(",a; b,1,4,32,4000,"), "{csv}");
}

#[test]
fn favoured_letters_are_not_knowledge() {
    // Five seeds that always answer A and are right 320 of 1,200 times, each with an exact p of 0.18.
    let mut trials: Vec<TrialRecord> = (1..=5).map(|seed| trial(seed, 2, 320, Status::Done)).collect();
    trials.iter_mut().for_each(|t| t.exams[0].tally.questions = 1200);
    let mut questions = answers(&trials);
    for (i, question) in questions.iter_mut().enumerate() {
        let place = i % 1200;
        question.record.answer = if place < 320 { 'A' } else { ['B', 'C', 'D'][place % 3] };
        question.record.prediction = 'A';
        question.record.subject = ["law", "art", "history"][place % 3].into();
    }
    let dir = tempfile::tempdir().unwrap();
    write(&Experiment::for_sweep("s", &trials), &trials, &questions, &[], dir.path()).unwrap();
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    assert!(
        read("report.html").contains("Not distinguishable from guessing: n_layers=2 (26.7 %, p = 1.000).")
    );
    assert!(
        read("summary.csv").lines().nth(1).unwrap().contains(",1600,6000,1,1,"),
        "{}",
        read("summary.csv")
    );
    let p: f64 = read("trials.csv").lines().nth(1).unwrap().split(',').nth(16).unwrap().parse().unwrap();
    assert!((p - 0.182_500_3).abs() < 1e-6, "{p}");
}
