//! Reports of a small set of synthetic trials.
#![allow(clippy::unwrap_used)]

mod check;
mod compare;
mod condition;
mod experiment;
mod figures;
mod kinds;
mod laws;
mod page;
mod shared_trials;
mod tables;
mod unexamined;

use super::*;
use crate::records::{ExamScore, ExaminedWeights, Notice, StageRecord, Status, Tally};

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
        val_sets: vec![],
        capacity_bits: None,
        exams: vec![ExamScore {
            stage: "sft".into(),
            tally: Tally::of_four(correct, 100),
            ..ExamScore::default()
        }],
        wall_seconds: 1.5,
        peak_rss_mb: 10.0,
        status,
        reason: (status == Status::Failed).then(|| "sft: <loss> is NaN & gone".into()),
        samples: vec![],
        stages: vec![StageRecord {
            stage: "pretrain".into(),
            dir: "/nonexistent".into(),
            record: "/nonexistent".into(),
            keys: [("x".to_string(), "<b>".into())].into(),
            ..StageRecord::default()
        }],
        notices: vec![Notice {
            place: "sft".into(),
            reason: "rows left out: empty".into(),
            count: 1200,
            of: 3400,
        }],
        config: "seed = 1\n[model]\nx = \"<b>\"".into(),
    }
}

/// Writes a report without an origin.
pub(super) fn write(
    experiment: &Experiment,
    trials: &[TrialRecord],
    questions: &[TrialQuestion],
    tunings: &[TuningRecord],
    out: &Path,
) -> Result<()> {
    super::write(experiment, trials, questions, tunings, &Origin::default(), out)
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
    write(&Experiment::for_sweep("s", &trials), &trials, &answers(&trials), &[], dir.path()).unwrap();
    (dir, trials)
}

/// Answers to every exam: the correct letters cycle, and a wrong answer is the next letter.
fn answers(trials: &[TrialRecord]) -> Vec<TrialQuestion> {
    let letter = |i: u64| char::from(b'A' + (i % 4) as u8);
    let of = |trial: &TrialRecord| -> Vec<TrialQuestion> {
        let exams = trial.exams.iter().flat_map(|exam| (0..exam.tally.questions).map(move |id| (exam, id)));
        let answer = |(exam, id): (&ExamScore, u64)| TrialQuestion {
            trial: trial.trial,
            stage: exam.stage.clone(),
            taken: exam.taken,
            record: QuestionRecord {
                subject: "law".into(),
                id: id.to_string(),
                probabilities: vec![0.5, 0.25, 0.125, 1e-130],
                prediction: letter(if id < exam.tally.correct { id } else { id + 1 }),
                answer: letter(id),
                contaminated: None,
                options: vec![],
            },
        };
        exams.map(answer).collect()
    };
    trials.iter().flat_map(of).collect()
}

/// Asserts that a CSV file has the `wanted` lines, cell by cell; numbers that are not whole to a relative error of 1e-7.
fn assert_csv(path: &Path, wanted: &[&str]) {
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), wanted.len(), "{text}");
    for (line, want) in text.lines().zip(wanted) {
        let (cells, wanted): (Vec<&str>, Vec<&str>) = (line.split(',').collect(), want.split(',').collect());
        assert_eq!(cells.len(), wanted.len(), "{line}");
        for (cell, want) in cells.iter().zip(&wanted) {
            let is_equal = match (cell.parse::<f64>(), want.parse::<f64>()) {
                (Ok(got), Ok(want)) if want.fract() != 0.0 => (got / want - 1.0).abs() < 1e-7,
                _ => cell == want,
            };
            assert!(is_equal, "{cell} instead of {want} in {line}");
        }
    }
}

#[test]
fn tables_hold_the_numbers() {
    let (dir, trials) = written();
    // Single exams: scipy 1.17, binomtest(k, 100, 0.25) and its proportion_ci(method="wilson").
    assert_csv(
        &dir.path().join("trials.csv"),
        &[
            "trial,sweep,seed,model.n_layers,params,active_params,train_tokens,train_flops,val_loss,val_bpb,stage,\
             exam_correct,exam_questions,exam_accuracy,exam_low,exam_high,exam_p_guess,wall_seconds,peak_rss_mb,\
             status,reason,at,averaged,exam_tokens,exam_contaminated,exam_correct_clean,exam_questions_clean,exam_accuracy_clean,\
             exam_macro_accuracy,exam_log_prob,exam_accuracy_without_prior,exam_ece,run.pretrain",
            "00000000-0000-0000-0000-000000000066,s,1,2,2000,2000,10,2000000000,2.5,1.25,sft,\
             24,100,0.24,0.16691325556948777,0.3323233634981448,0.908200308233164,1.5,10,done,,1,1,0,,,,,\
             0.24,-75.87373629314646,0.25,0.17857142857142852,nonexistent",
            "00000000-0000-0000-0000-0000000000ca,s,2,2,2000,2000,10,2000000000,2.5,1.25,sft,\
             26,100,0.26,0.18404698464748132,0.3537098944918718,0.8176085071474697,1.5,10,done,,1,1,0,,,,,\
             0.26,-75.87373629314646,0.25,0.16571428571428565,nonexistent",
            "00000000-0000-0000-0000-000000000068,s,1,4,4000,4000,10,4000000000,2.5,1.25,sft,\
             60,100,0.6,0.5020025867910618,0.6905987135675411,1.3268346743587464e-13,1.5,10,done,,1,1,0,,,,,\
             0.6,-75.87373629314646,0.25,0.3500000000000001,nonexistent",
            "00000000-0000-0000-0000-0000000000cc,s,2,4,4000,4000,10,4000000000,2.5,1.25,sft,\
             64,100,0.64,0.5423540245160874,0.7272877959859567,2.2601471726567073e-16,1.5,10,done,,1,1,0,,,,,\
             0.64,-75.87373629314646,0.25,0.3900000000000001,nonexistent",
            "00000000-0000-0000-0000-000000000130,s,3,4,4000,4000,10,4000000000,2.5,1.25,sft,\
             0,100,0,0,0.03699349820698568,4.53403685974026e-13,1.5,10,failed,sft: <loss> is NaN & gone,1,1,0,,,,,\
             0,-75.87373629314646,0.25,0.24999999999999994,nonexistent",
        ],
    );
    let heads = std::fs::read_to_string(dir.path().join("trials.csv")).unwrap();
    for column in heads.lines().next().unwrap().split(',') {
        assert!(columns::docs::tells_of(column), "docs/columns.md says nothing of {column}");
    }
    // Mean and standard deviation of 0.24 and 0.26, and of 0.60 and 0.64; t95 is 12.7062 sd / sqrt(2). One setting scores
    // exactly chance, the other more than with any of 9,999 shuffled keys; p is corrected for two settings.
    assert_csv(
        &dir.path().join("summary.csv"),
        &[
            "setting,seeds,params,active_params,accuracy_mean,accuracy_sd,accuracy_t95,exam_correct,exam_questions,\
             exam_p_guess,exam_p_holm,val_loss_mean,val_loss_t95,val_bpb_mean,val_bpb_t95,questions,shuffled_keys,\
             shuffled_accuracy,accuracy_clean_mean,accuracy_clean_t95",
            "n_layers=2,2,2000,2000,0.25,0.01414213562373,0.12706204736175,50,200,1,1,2.5,0,1.25,0,100,9999,0.25,,",
            "n_layers=4,2,4000,4000,0.62,0.02828427124746,0.25412409472349,124,200,0.0001,0.0002,2.5,0,1.25,0,100,\
             9999,0.25,,",
        ],
    );
    let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
    // The first trial's answers, 24 of them correct, then those of the next; failed trials are included.
    let questions = read("questions.csv");
    let questions: Vec<&str> = questions.lines().collect();
    assert_eq!(questions.len(), 1 + trials.len() * 100);
    let of = |i: usize| format!("{},sft,law,", trials[i].trial);
    assert_eq!(
        questions[0],
        "trial,stage,subject,id,p_a,p_b,p_c,p_d,prediction,answer,contaminated,at,averaged,answer_log_prob,prediction_without_prior"
    );
    // All questions have the same probabilities: without the prior all options are equal, and the first one wins.
    let p = "0.5,0.25,0.125,1e-130";
    let [of_a, of_d] = [0.5f64, 1e-130].map(|p| crate::track::csv_number(p.ln()));
    assert_eq!(questions[24], format!("{}23,{p},D,D,,1,1,{of_d},A", of(0)));
    assert_eq!(questions[25], format!("{}24,{p},B,A,,1,1,{of_a},A", of(0)));
    assert_eq!(questions[101], format!("{}0,{p},A,A,,1,1,{of_a},A", of(1)));
    // By hand: the seeds of a setting differ in the two questions that only one answers correctly; kappa is
    // (0.98 - e) / (1 - e), where e is the expected share of equal letters by chance.
    let agreement = read("agreement.csv");
    let agreement: Vec<&str> = agreement.lines().collect();
    assert_eq!(agreement[0], "setting_a,setting_b,pairs,questions,equal,kappa");
    assert!(agreement[1].starts_with("n_layers=2,n_layers=2,1,100,0.98,0.97"), "{}", agreement[1]);
    assert!(agreement[2].starts_with("n_layers=2,n_layers=4,4,100,0.63,"), "{}", agreement[2]);
    assert_eq!(agreement.len(), 4);
    assert_eq!(
        read("tables/summary.md"),
        "**Settings, means over seeds**\n\n\
         | setting | seeds | parameters | active | validation loss | bits per byte | questions | accuracy (%) | p of guessing (Holm) |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n\
         | n_layers=2 | 2 | 2,000 | 2,000 | 2.500 ± 0.000 | 1.250 ± 0.000 | 100 | 25.0 ± 12.7 | 1.000 |\n\
         | n_layers=4 | 2 | 4,000 | 4,000 | 2.500 ± 0.000 | 1.250 ± 0.000 | 100 | 62.0 ± 25.4 | < 0.0002 |\n\
         \n± 95 % interval over seeds (Student's t). p of guessing: Fisher's randomisation test, corrected by Holm over \
         the settings.\n"
    );
    // Calibration errors are 0.17857 and 0.16571; of the two seeds' 200 answers, 51 are A, 13 of them where A is correct.
    assert_eq!(
        read("tables/answer_analysis.md").lines().nth(4).unwrap(),
        "| n_layers=2 | 2 | 100 | 25.0 ± 12.7 | 1 | 25.0 ± 12.7 | −75.874 ± 0.000 | 25.0 ± 0.0 | 0.172 ± 0.082 |"
    );
    assert_eq!(
        read("tables/answer_groups.md").lines().skip(4).take(2).collect::<Vec<_>>(),
        [
            "| n_layers=2 | humanities | 2 | 100 | 25.0 ± 12.7 | 1 | 25.0 ± 12.7 |",
            "| n_layers=4 | humanities | 2 | 100 | 62.0 ± 25.4 | 1 | 62.0 ± 25.4 |",
        ]
    );
    assert_eq!(
        read("tables/answer_letters.md").lines().skip(4).take(4).collect::<Vec<_>>(),
        [
            "| n_layers=2 | A | 200 | 25.5 | 25.0 | 26.0 (n=50) |",
            "| n_layers=2 | B | 200 | 25.0 | 25.0 | 26.0 (n=50) |",
            "| n_layers=2 | C | 200 | 24.5 | 25.0 | 24.0 (n=50) |",
            "| n_layers=2 | D | 200 | 25.0 | 25.0 | 24.0 (n=50) |",
        ]
    );
    let tex = read("tables/summary.tex");
    assert_eq!(
        tex.lines().skip_while(|line| *line != "\\midrule").collect::<Vec<_>>(),
        [
            "\\midrule",
            "n\\_layers=2 & 2 & 2,000 & 2,000 & 2.500 $\\pm$ 0.000 & 1.250 $\\pm$ 0.000 & 100 & 25.0 $\\pm$ 12.7 & 1.000 \\\\",
            "n\\_layers=4 & 2 & 4,000 & 4,000 & 2.500 $\\pm$ 0.000 & 1.250 $\\pm$ 0.000 & 100 & 62.0 $\\pm$ 25.4 & $<$ 0.0002 \\\\",
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    );
}

#[test]
fn pairs_of_exams_of_several_lengths_have_their_mean_length() {
    let mut trials: Vec<TrialRecord> = (1..=4).map(|seed| trial(seed, 2, 20, Status::Done)).collect();
    trials[2..].iter_mut().for_each(|trial| trial.exams[0].tally = Tally::of_four(20, 50));
    let questions = answers(&trials);
    let results = Results::new(&trials, &questions);
    let csv = agreement::agreement_csv(&summary::settings(&results)).unwrap();
    // Two pairs, one of 100 questions and one of 50.
    let csv = String::from_utf8(csv).unwrap();
    let cells: Vec<&str> = csv.lines().nth(1).unwrap().split(',').collect();
    assert_eq!(cells[2..5], ["2", "75", "1"], "{csv}");
}

#[test]
fn the_page_is_honest_whole_and_alone() {
    let (dir, _) = written();
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("Better than guessing: n_layers=4 (62.0 %, p &lt; 0.0002)."), "{page}");
    assert!(page.contains("Not distinguishable from guessing: n_layers=2 (25.0 %, p = 1.000)"));
    assert!(page.contains("randomisation test") && page.contains("Holm over 2 settings."));
    assert!(page.contains("sft: &lt;loss&gt; is NaN &amp; gone"));
    assert!(
        page.contains(
            "<td>humanities</td><td>2</td><td>100</td><td><span>25.0</span> <span>± 12.7</span></td>"
        )
    );
    assert!(page.contains("x = &quot;&lt;b&gt;&quot;"));
    assert!(page.contains("<li>sft: 1,200 of 3,400 rows left out: empty <small>(5 trials)</small></li>"));
    assert!(
        !page.contains("http://")
            || page.matches("http://").count() == page.matches("http://www.w3.org/").count()
    );
    assert!(!page.contains("https://") && !page.contains("src=") && !page.contains("@import"));
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
    write(&Experiment::for_sweep("s", &[]), &[pending], &[], &[], dir.path()).unwrap();
    assert!(
        std::fs::read_to_string(dir.path().join("report.html")).unwrap().contains("No trial has finished.")
    );
}

#[test]
fn figures_of_nothing_are_drawn_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    let figures = ["line", "bar", "scatter"]
        .map(|kind| format!("[[figure]]\nkind = '{kind}'\nx = 'model.n_layers'\ny = 'exam.accuracy'\n"));
    let heatmap = "[[figure]]\nkind = 'heatmap'\nx = 'model.n_layers'\ny = 'seed'\nvalue = 'val.bpb'\n";
    std::fs::write(&path, format!("sweeps = ['s']\n{}{heatmap}", figures.concat())).unwrap();
    let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
    write(&experiment, &[trial(1, 2, 0, Status::Failed)], &[], &[], dir.path()).unwrap();
    let drawn = std::fs::read_dir(dir.path().join("figures")).unwrap();
    assert_eq!(drawn.filter(|file| file.as_ref().unwrap().path().extension().unwrap() == "svg").count(), 4);
}

#[test]
fn exams_on_the_way_count_where_they_are_asked_for() {
    let exam = |stage: &str, (at, averaged), tokens, correct| {
        let (stage, run) = (stage.to_owned(), String::new());
        ExamScore {
            stage,
            taken: ExaminedWeights { at, averaged },
            tokens,
            run,
            tally: Tally::of_four(correct, 100),
            contaminated: None,
            routing: vec![],
        }
    };
    let mut trial = trial(1, 2, 50, Status::Done);
    trial.exams = vec![
        exam("pretrain", (0.5, 1), 5, 10),
        exam("pretrain", (1.0, 1), 10, 20),
        exam("sft", (0.5, 1), 15, 30),
        exam("sft", (1.0, 1), 20, 40),
        exam("sft", (1.0, 2), 20, 50),
    ];
    let trials = [trial];
    let results = Results::new(&trials, &[]);
    let correct = |names: &[&str]| -> Vec<u64> {
        let columns: Vec<Column> = names.iter().map(|name| Column::find(name).unwrap()).collect();
        results.observations(&columns).iter().map(|o| o.score.as_ref().unwrap().tally.correct).collect()
    };
    assert_eq!(correct(&[]), [40]);
    assert_eq!(correct(&["exam.stage"]), [20, 40]);
    assert_eq!(correct(&["exam.tokens"]), [30, 40]);
    assert_eq!(correct(&["at", "exam.stage"]), [10, 20, 30, 40]);
    assert_eq!(correct(&["averaged"]), [40, 50]);
    assert_eq!(trials[0].last_exam().unwrap().tally.correct, 40);
    let after = trials[0].exams.iter().map(ExamScore::after).collect::<Vec<_>>();
    assert_eq!(after[2..], ["sft, at 50 %", "sft", "sft, mean of 2 up to 100 %"]);
}
