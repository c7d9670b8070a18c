//! Reports of trials of which none, or only some, took an exam.

use super::*;

fn report(trials: &[TrialRecord], part: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, format!("sweeps = ['s']\n{part}")).unwrap();
    let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
    write(&experiment, trials, &answers(trials), &[], dir.path()).unwrap();
    dir
}

fn trials() -> Vec<TrialRecord> {
    let mut trials = vec![];
    for (n_layers, bpb) in [(2, 1.5), (4, 1.25)] {
        for seed in [1, 2] {
            let mut trial = trial(seed, n_layers, 30, Status::Done);
            (trial.val_bpb, trial.val_loss) = (Some(bpb + 0.01 * seed as f64), Some(2.0 * bpb));
            trial.exams.clear();
            trials.push(trial);
        }
    }
    trials
}

const TABLE: &str =
    "[[table]]\nname = 't'\nrows = ['model.n_layers']\ncolumns = ['val.bpb', 'exam.accuracy']\n";

#[test]
fn without_exams_the_report_is_about_what_was_measured() {
    let dir = report(&trials(), TABLE);
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    // Seeds 1.26 and 1.27: mean 1.265, t95 = 12.706 * 0.005.
    let page = read("report.html");
    let headline = "No exam was taken. Settings by bits per byte of held-out text, lowest first: n_layers=4 1.265 ± 0.064 \
                    (2 seeds); n_layers=2 1.515 ± 0.064 (2 seeds). ± is the 95 % interval over seeds.";
    assert!(page.contains(headline), "{page}");
    for word in ["guess", "accuracy", "Accuracy", "questions"] {
        assert!(!page.contains(word), "{word}: {page}");
        for table in ["summary.md", "summary.tex", "t.md", "t.tex"] {
            assert!(!read(&format!("tables/{table}")).contains(word), "{word} in {table}");
        }
    }
    assert!(read("tables/t.md").contains("| 4 | **1.265 ± 0.064** |"), "{}", read("tables/t.md"));
    let summary = read("summary.csv");
    assert_eq!(
        summary.lines().nth(1).unwrap(),
        "n_layers=2,2,2000,2000,,,,,,,,3,0,1.5150000000000001,0.0635310236808735,,,,,",
        "{summary}"
    );
    for figure in ["bpb_params", "bpb_flops", "bpb_model_n_layers"] {
        assert!(dir.path().join(format!("figures/{figure}.png")).is_file(), "{figure}");
    }
    assert!(!read("trials.csv").contains("NaN"));
}

#[test]
fn where_some_sat_exams_the_others_have_no_score() {
    let mut trials = trials();
    for trial in &mut trials[..2] {
        let tally = Tally::of_four(90, 100);
        trial.exams.push(ExamScore { stage: "sft".into(), tally, ..ExamScore::default() });
    }
    // One of two seeds was examined.
    trials.push(TrialRecord { exams: trials[0].exams.clone(), ..trial(1, 8, 90, Status::Done) });
    trials.push(TrialRecord { exams: vec![], val_loss: Some(f64::NAN), ..trial(2, 8, 90, Status::Done) });
    let dir = report(&trials, TABLE);
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    let page = read("report.html");
    assert!(
        page.contains("Better than guessing: n_layers=2 (90.0 %, p &lt; 5e-8); n_layers=8 (90.0 %"),
        "{page}"
    );
    assert!(
        page.contains(
            "Settings without an exam by bits per byte of held-out text, lowest first: n_layers=4 1.265"
        ),
        "{page}"
    );
    let md = read("tables/summary.md");
    assert!(
        md.contains("| n_layers=4 | 2 | 4,000 | 4,000 | 2.500 ± 0.000 | 1.265 ± 0.064 | – | – | – |"),
        "{md}"
    );
    assert!(
        md.contains("| n_layers=8 | 2 | 8,000 | 8,000 | 2.500 (n=1) | 1.250 ± 0.000 | 100 | 90.0 (n=1) |"),
        "{md}"
    );
    for file in ["trials.csv", "summary.csv"] {
        assert!(!read(file).contains("NaN") && !read(file).contains("inf"), "{}", read(file));
    }
    let t = read("tables/t.md");
    assert!(t.contains("| 4 | – | 1.265 ± 0.064 | – |"), "{t}");
}
