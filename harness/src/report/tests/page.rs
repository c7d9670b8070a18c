//! Tests of report.html.

use super::*;
use crate::records::{Sample, Trained};
use serde_json::{Value, json};

/// Writes the report of an experiment and returns its page.
fn page(file: &str, trials: &[TrialRecord], questions: &[TrialQuestion], origin: &Origin) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.toml");
    std::fs::write(&path, format!("sweeps = ['s']\n{file}")).unwrap();
    let experiment = Experiment::read_if_experiment(&path).unwrap().unwrap();
    super::super::write(&experiment, trials, questions, &[], origin, dir.path()).unwrap();
    std::fs::read_to_string(dir.path().join("report.html")).unwrap()
}

fn trials() -> Vec<TrialRecord> {
    let of = |(seed, n_layers, correct)| trial(seed, n_layers, correct, Status::Done);
    [(1, 2, 24), (2, 2, 26), (1, 4, 60), (2, 4, 64)].map(of).into()
}

const CLAIM: &str = "[[compare]]\nclaim = 'deep <b>beats</b> flat'\nmetric = 'exam.accuracy'\na = 'model.n_layers >= 4'\nb = 'model.n_layers <= 2'\n";

fn places(page: &str, wanted: &[&str]) -> Vec<usize> {
    wanted.iter().map(|text| page.find(text).unwrap_or_else(|| panic!("{text} is missing: {page}"))).collect()
}

#[test]
fn claims_come_first_and_every_section_has_its_line_of_the_contents() {
    let mut trials = trials();
    trials.push(trial(3, 4, 0, Status::Failed));
    let page = page(CLAIM, &trials, &answers(&trials), &Origin::default());
    let ids =
        ["claims", "findings", "figures", "tables", "subjects", "analysis", "trials", "reproduce", "reading"];
    let heads: Vec<String> = ids.iter().map(|id| format!("<h2 id=\"{id}\">")).collect();
    let found = places(&page, &heads.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(found.is_sorted(), "{found:?}");
    for id in ids {
        assert_eq!(page.matches(&format!("<li><a href=\"#{id}\">")).count(), 1, "{id}");
    }
    // No trial has samples.
    assert!(!page.contains("id=\"answers\""));
    // 62.0 - 25.0, by Welch's test with standard errors of 2 and 1.
    for text in [
        "<dt>effect (a − b)</dt><dd>37.0</dd>",
        "<dt>n</dt><dd>2 and 2 seeds</dd>",
        "</span> supported</span> deep &lt;b&gt;beats&lt;&#x2f;b&gt; flat</h3>",
        "62.0 where <code>model.n_layers &gt;= 4</code>",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(page.contains("<li>n_layers=4 seed 3: failed: sft: &lt;loss&gt; is NaN &amp; gone</li>"));
}

#[test]
fn the_protocol_stands_behind_the_claims() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("protocol.md");
    std::fs::write(&file, "H1: deep <i>beats</i> flat.\n").unwrap();
    let asked = format!("protocol = '{}'\n{CLAIM}", file.display());
    let written = page(&asked, &trials(), &[], &Origin::default());
    let found = places(&written, &["<h2 id=\"claims\">", "<h2 id=\"protocol\">", "<h2 id=\"findings\">"]);
    assert!(found.is_sorted(), "{found:?}");
    places(&written, &["(<code>protocol.md</code>)", "<p>H1: deep &lt;i&gt;beats&lt;/i&gt; flat.</p>"]);
    std::fs::write(&file, b"H1: \xff").unwrap();
    places(&page(&asked, &trials(), &[], &Origin::default()), &["</code> is not UTF-8 text.</p>"]);
    std::fs::remove_file(&file).unwrap();
    places(&page(&asked, &trials(), &[], &Origin::default()), &["</code> was not found.</p>"]);
}

#[test]
fn the_detectable_difference_stands_beside_the_effect() {
    let trials: Vec<TrialRecord> = [(1, 2, 20), (2, 2, 24), (3, 2, 28), (1, 4, 30), (2, 4, 31), (3, 4, 38)]
        .map(|(seed, n_layers, correct)| trial(seed, n_layers, correct, Status::Done))
        .into();
    let paired = format!("{CLAIM}paired_by = ['seed']\n");
    let page = page(&paired, &trials, &[], &Origin::default());
    // Differences 10, 7 and 10: sd sqrt(3), standard error 1; t with 2 degrees of freedom at 97.5 % is 4.303. statsmodels 0.15:
    // TTestPower().solve_power(nobs=3, alpha=0.05, power=0.8) = 3.264 sd.
    let found = places(
        &page,
        &[
            "<dd>9.0</dd>",
            "<dd>4.7 to 13.3</dd>",
            "<dd>3 paired seeds</dd>",
            "<dt>detectable</dt><dd>5.7</dd>",
        ],
    );
    assert!(found.is_sorted(), "{found:?}");
}

#[test]
fn a_study_at_chance_says_so() {
    let mut trials = trials();
    trials.truncate(2);
    let warning = "<b>At chance.</b>";
    assert!(page("", &trials, &answers(&trials), &Origin::default()).contains(warning));
    let trials = self::trials();
    assert!(!page("", &trials, &answers(&trials), &Origin::default()).contains(warning));
}

#[test]
fn markup_in_what_is_shown_is_text() {
    let evil = "</script><script>alert(1)</script>";
    let sample = |text: &str| Sample {
        prompt: format!("who? {evil}"),
        right: Some(evil.into()),
        text: text.into(),
        is_cut: true,
    };
    let mut trials = trials();
    for trial in &mut trials {
        trial.keys.push(("tokenizer.path".into(), evil.into()));
        trial.notices[0].reason = evil.into();
        trial.stages[0].dir = evil.into();
        trial.samples = vec![sample(evil)];
        trial.stages[0].keys = [(evil.to_string(), evil.into())].into();
    }
    trials.push(TrialRecord { reason: Some(evil.into()), ..trial(3, 4, 0, Status::Failed) });
    let mut questions = answers(&trials);
    questions.iter_mut().for_each(|question| question.record.subject = evil.into());
    let origin = Origin { file: evil.into(), run: evil.into(), ..Origin::default() };
    let file = format!(
        "title = '{evil}'\nquestion = '{evil}'\n[[table]]\nname = 't'\ntitle = '{evil}'\nrows = ['tokenizer.path']\ncolumns = ['val.bpb']\n"
    );
    let page = page(&file, &trials, &questions, &origin);
    assert!(!page.contains("<script>alert"), "{}", &page[page.find("<script>alert").unwrap() - 400..]);
    assert!(page.matches("&lt;script&gt;alert(1)").count() > 20);
    // Only the scripts of the page itself.
    assert_eq!((page.matches("<script>").count(), page.matches("</script>").count()), (2, 2));
}

#[test]
fn heads_of_subjects_are_printed_upright_where_they_are_long() {
    let mut trials = trials();
    let upright = "class=\"sortable subjects t1 upright\"";
    let has_upright =
        |trials: &[TrialRecord]| page("", trials, &answers(trials), &Origin::default()).contains(upright);
    assert!(!has_upright(&trials));
    trials.iter_mut().for_each(|trial| trial.keys.push(("tokenizer.path".into(), "x".repeat(50).into())));
    assert!(has_upright(&trials));
}

#[test]
fn subjects_stand_in_their_groups_with_both_averages() {
    let trials = trials();
    let mut questions = answers(&trials);
    // A quarter of the questions for each subject: three subjects in different groups, and one in none.
    for question in &mut questions {
        question.record.subject = match question.record.id.parse::<u64>().unwrap() % 4 {
            0 => "law",
            1 => "marxism",
            2 => "college_physics",
            _ => "gardening",
        }
        .into();
    }
    let page = page("", &trials, &questions, &Origin::default());
    let heads =
        ["STEM", "social science", "humanities", "other subjects"].map(|head| format!("{head}: 1 subject"));
    let found =
        places(&page, &heads.map(|head| format!("<span>{head}</span>")).each_ref().map(String::as_str));
    assert!(found.is_sorted(), "{found:?}");
    // Law has questions 0, 4, ...: with the first 24 right it has 6 right, with 26 it has 7; 13 of 50 is hardly above
    // chance. With 60 and 64 right it has 15 and 16 of 25: 62 %, half of the way from a quarter to all.
    assert!(
        page.contains(
            "<th scope=\"row\">law</th><td>25</td><td class=\"h1\">26</td><td class=\"h5\">62</td>"
        ),
        "{page}"
    );
    // Micro and macro averages are equal, as all subjects have the same size: 124 of 200.
    for (head, of) in [("micro average", "100"), ("macro average", "")] {
        let row = format!("<th scope=\"row\">{head}</th><td>{of}</td><td>25</td><td class=\"h5\">62</td>");
        assert!(page.contains(&row), "{row}: {page}");
    }
}

#[test]
fn answers_stand_side_by_side_prompt_by_prompt() {
    let mut trials = trials();
    for (i, trial) in trials.iter_mut().enumerate() {
        let sample = |place: usize| Sample {
            prompt: format!("prompt {place}"),
            right: (place == 0).then(|| "right".into()),
            text: if place == 1 { String::new() } else { format!("text\u{b} {place}\nof {i}") },
            is_cut: place == 2,
        };
        // The last one comes from an earlier version without samples.
        trial.samples = if i == 3 { vec![] } else { (0..5).map(sample).collect() };
    }
    let page = page("", &trials, &[], &Origin::default());
    // Four prompts in the first table, one in the second; three trials in each.
    assert!(page.contains("Answers (1 of 2)") && page.contains("Answers (2 of 2)"));
    assert_eq!(page.matches("<th scope=\"col\" class=\"prompt\">").count(), 5);
    assert!(page.contains("prompt 0 <small>right: right</small>"));
    let row = "<tr><th scope=\"row\">n_layers=2</th><td>2</td><td>text\u{fffd} 0 ↵ of 1</td><td><i>nothing</i></td>\
               <td>text\u{fffd} 2 ↵ of 1…</td>";
    assert!(page.contains(row), "{page}");
    assert_eq!((page.matches("<td>text").count(), page.matches("…</td>").count()), (12, 3));
}

#[test]
fn a_trial_says_where_it_is_what_it_cost_and_how_to_repeat_it() {
    let config = "seed = 2\n[model]\nn_layers = 3\n[pretrain]\nlr = 0.5\n";
    let stage = |name: &str, flops: f64| StageRecord {
        stage: name.into(),
        dir: format!("runs/{name}-cedd4909-0000-5000-8000-000000000000").into(),
        record: "/nonexistent".into(),
        status: "done".into(),
        trained: (flops > 0.0).then(|| Trained { tokens: 1234, flops, ..Trained::default() }),
        wall_seconds: 61.0,
        peak_rss_mb: 99.6,
        program: "mindscale 1.2.3 (commit abc)".into(),
        machine: "host, cpu, 2 threads".into(),
        started: "2026-01-01T00:00:00Z".into(),
        ended: Some("2026-01-01T00:01:01Z".into()),
        keys: [("model.window".to_string(), Value::Null), (format!("{name}.x"), json!([0.5]))].into(),
    };
    let stages = vec![stage("pretrain", 1e15), stage("exam", 0.0)];
    let trial = TrialRecord { config: config.into(), stages, ..trial(2, 3, 30, Status::Done) };
    let origin = Origin {
        file: "x y.toml".into(),
        layers: "--set model.n_layers=3".into(),
        run: "mindscale run 'x y.toml'".into(),
        report: "mindscale report 'x y.toml'".into(),
        ..Origin::default()
    };
    let page = page("", &[trial], &[], &origin);
    for text in [
        "overridden by <code>--set model.n_layers=3</code></p>\n</header>",
        "<pre class=\"keys\"><span>model.n_layers = 3</span><span>pretrain.lr = 0.5</span></pre>",
        "<pre><span>exam.x = [0.5]</span><span>model.window = unset</span><span>pretrain.x = [0.5]</span></pre>",
        "repeat: <code>mindscale run &#x27;x y.toml&#x27; --only &quot;trial == &#x27;00000000-0000-0000-0000-0000000000cb&#x27;&quot;</code>",
        "<code>mindscale generate pretrain-cedd4909 --prompt '…'</code>",
        "<code>runs&#x2f;pretrain-cedd4909-0000-5000-8000-000000000000</code></td><td>done</td><td>1,234</td><td>1e15</td><td>61 s</td><td>100</td>",
        "<td>–</td><td>–</td><td>61 s</td>",
        "<dd>mindscale 1.2.3 (commit abc)<br></dd>",
        "<dd>host, cpu, 2 threads<br></dd>",
        "2026-01-01T00:00:00Z to 2026-01-01T00:01:01Z; 2 min in 2 stage runs, 1e15 floating-point operations",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
}
