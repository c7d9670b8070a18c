//! Reports of a small set of made-up trials.
#![allow(clippy::unwrap_used)]

mod compare;
mod condition;
mod experiment;
mod figures;
mod shared_trials;
mod unexamined;

use super::*;
use crate::records::{ExamScore, Notice, StageRecord, Status};

pub(super) fn trial(seed: u64, n_layers: u64, correct: u64, status: Status) -> TrialRecord {
    TrialRecord {
        trial: Uuid::from_u128(u128::from(seed * 100 + n_layers)),
        setting: Uuid::from_u128(u128::from(n_layers)),
        sweeps: vec!["s".into()],
        seed,
        keys: vec![("model.n_layers".into(), n_layers.into()), ("seed".into(), seed.into())],
        params: 1000 * n_layers,
        active_params: 1000 * n_layers,
        train_tokens: 10,
        train_flops: 1e9 * n_layers as f64,
        val_loss: Some(2.5),
        val_bpb: Some(1.25),
        exams: vec![ExamScore { stage: "sft".into(), correct, questions: 100 }],
        wall_seconds: 1.5,
        peak_rss_mb: 10.0,
        status,
        reason: (status == Status::Failed).then(|| "sft: <loss> is NaN & gone".into()),
        stages: vec![StageRecord { stage: "pretrain".into(), dir: "/nonexistent".into() }],
        notices: vec![Notice {
            place: "sft".into(),
            reason: "rows left out: empty".into(),
            count: 1200,
            of: 3400,
        }],
        config: "seed = 1\n[model]\nx = \"<b>\"".into(),
    }
}

fn written() -> (tempfile::TempDir, Vec<TrialRecord>) {
    let trials = vec![
        trial(1, 2, 24, Status::Done),
        trial(2, 2, 26, Status::Done),
        trial(1, 4, 60, Status::Done),
        trial(2, 4, 64, Status::Done),
        trial(3, 4, 0, Status::Failed),
    ];
    let dir = tempfile::tempdir().unwrap();
    write(&Experiment::for_sweep("s", &trials), &trials, &answers(&trials), dir.path()).unwrap();
    (dir, trials)
}

/// The answers to every exam: the right letters go round, and what is wrong is the next one.
fn answers(trials: &[TrialRecord]) -> Vec<TrialQuestion> {
    let letter = |i: u64| char::from(b'A' + (i % 4) as u8);
    let of = |trial: &TrialRecord| -> Vec<TrialQuestion> {
        let exams = trial.exams.iter().flat_map(|exam| (0..exam.questions).map(move |id| (exam, id)));
        let answer = |(exam, id): (&ExamScore, u64)| TrialQuestion {
            trial: trial.trial,
            stage: exam.stage.clone(),
            record: QuestionRecord {
                subject: "law".into(),
                id: id.to_string(),
                probabilities: [0.5, 0.25, 0.125, 1e-130],
                prediction: letter(if id < exam.correct { id } else { id + 1 }),
                answer: letter(id),
            },
        };
        exams.map(answer).collect()
    };
    trials.iter().flat_map(of).collect()
}

#[test]
fn tables_hold_the_numbers() {
    let (dir, trials) = written();
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    let csv = read("trials.csv");
    let mut lines = csv.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("trial,sweep,seed,model.n_layers,params,active_params,train_tokens")
    );
    let want = format!("{},s,1,2,2000,2000,10,2000000000,2.5,1.25,sft,24,100,0.24,", trials[0].trial);
    assert!(lines.next().unwrap().starts_with(&want));
    assert!(csv.lines().last().unwrap().ends_with(",failed,sft: <loss> is NaN & gone"));
    let questions = format!("{},sft,law,0,0.5,0.25,0.125,1e-130,A,A", trials[0].trial);
    assert_eq!(read("questions.csv").lines().nth(1).unwrap(), questions);
    // Seeds 24 and 26 of 100: mean 25, t95 = 12.706 * sqrt(2) / sqrt(2).
    let md = read("tables/summary.md");
    assert!(
        md.contains(
            "| n_layers=2 | 2 | 2,000 | 2,000 | 2.500 ± 0.000 | 1.250 ± 0.000 | 100 | 25.0 ± 12.7 | 1.000 |"
        ),
        "{md}"
    );
    assert!(read("tables/summary.tex").contains("n\\_layers=2 & 2 & 2,000"));
    assert!(md.contains(" | 100 | 62.0 ± 25.4 | < 0.0002 |"), "{md}");
    // No shuffled key of 9,999 comes near; two settings are corrected for.
    let summary = read("summary.csv");
    let row = summary.lines().nth(2).unwrap();
    assert!(row.starts_with("n_layers=4,2,4000,4000,0.62,0.02828427124746"), "{row}");
    assert!(row.contains(",124,200,0.0001,0.0002,2.5,0,1.25,0,") && row.ends_with(",100,9999,0.25"), "{row}");
    // The exact p of each exam by itself: scipy.stats.binomtest(64, 100, 0.25).
    let p: f64 = csv.lines().nth(4).unwrap().split(',').nth(16).unwrap().parse().unwrap();
    assert!((p / 2.260_147e-16 - 1.0).abs() < 1e-3, "{p}");
}

#[test]
fn the_page_is_honest_whole_and_alone() {
    let (dir, _) = written();
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Better than guessing: n_layers=4 (62.0 %, p &lt; 0.0002)."), "{page}");
    assert!(page.contains("Not distinguishable from guessing: n_layers=2 (25.0 %, p = 1.000)"));
    assert!(page.contains("randomisation test") && page.contains("Holm over 2 settings."));
    assert!(page.contains("sft: &lt;loss&gt; is NaN &amp; gone"));
    assert!(page.contains("x = &quot;&lt;b&gt;&quot;"));
    assert!(page.contains("<li>sft: 1,200 of 3,400 rows left out: empty <small>(5 trials)</small></li>"));
    assert!(
        !page.contains("http://")
            || page.matches("http://").count() == page.matches("http://www.w3.org/").count()
    );
    assert!(!page.contains("https://") && !page.contains("<script"));
    for figure in ["accuracy_params", "accuracy_model_n_layers", "accuracy_flops"] {
        assert!(dir.path().join(format!("figures/{figure}.svg")).is_file());
        assert!(dir.path().join(format!("figures/{figure}.png")).is_file());
    }
}

#[test]
fn nothing_finished_is_a_report_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut pending = trial(1, 2, 0, Status::Pending);
    pending.exams.clear();
    write(&Experiment::for_sweep("s", &[]), &[pending], &[], dir.path()).unwrap();
    assert!(
        std::fs::read_to_string(dir.path().join("report.html")).unwrap().contains("No trial has finished.")
    );
}
