//! Named sources, their mixture as an axis, and validation files, through the command line.

use crate::common::{manifests, mindscale, only, stage_runs};
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::Path;

const SWEEP: &str = r#"
name = "mixed"
[base]
data.source = "files"
data.pretrain = { web = ["web.jsonl"], books = ["books.txt"] }
data.mix = { web = 1.0, books = 1.0 }
data.pretrain_val = { wiki = ["wiki.jsonl"], code = ["code.txt"] }
exam.enabled = false
sft.enabled = false
dpo.enabled = false
[base.model]
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 1
vocab_size = 300
[base.pretrain]
steps = 12
batch_size = 4
seq_len = 64
[axes]
"data.mix.web" = [1.0, 3.0]
"#;

const EXPERIMENT: &str = r#"
sweeps = ["mixed.toml"]
[[figure]]
kind = "line"
x = "data.mix.web"
y = "val_bpb.wiki"
name = "by_mix"
[[figure]]
kind = "loss"
split = "sets"
name = "sets"
[[figure]]
kind = "loss"
split = "sources"
name = "sources"
[[table]]
rows = ["data.mix.web"]
columns = ["val.loss.code", "val_bpb.wiki"]
"#;

fn write_files(dir: &Path) {
    let line = |word: &str, i: usize| format!("{{\"text\": \"{word} {i}: {}\"}}\n", word.repeat(1 + i % 5));
    let lines = |word: &str, n: usize| (0..n).map(|i| line(word, i)).collect::<String>();
    fs::write(dir.join("web.jsonl"), lines("web", 90)).unwrap();
    fs::write(
        dir.join("books.txt"),
        (0..12).map(|i| format!("book {i} {}\n\n", "long ".repeat(30))).collect::<String>(),
    )
    .unwrap();
    // Two of the rows are in the training data as well.
    fs::write(dir.join("wiki.jsonl"), lines("wiki", 20) + &lines("web", 2)).unwrap();
    fs::write(dir.join("code.txt"), "let x = 1;\n\nlet y = 2;\n").unwrap();
    fs::write(dir.join("mixed.toml"), SWEEP).unwrap();
    fs::write(dir.join("asked.toml"), EXPERIMENT).unwrap();
}

#[test]
fn a_mix_is_an_axis_and_every_set_has_its_losses() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    mindscale(dir).args(["run", "asked.toml"]).assert().code(0).stderr(contains(
        "pretrain, held out (wiki): 2 of 22 validation rows also occur in the training rows",
    ));
    let mut csv = csv::Reader::from_path(dir.join("results/asked/trials.csv")).unwrap();
    let headers = csv.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    let cell =
        |row: usize, name: &str| rows[row][headers.iter().position(|h| h == name).unwrap()].to_string();
    assert_eq!((cell(0, "data.mix.web"), cell(1, "data.mix.web")), ("1.0".into(), "3.0".into()));
    for name in ["val_loss.wiki", "val_loss.code", "val_bpb.wiki", "val_bpb.code"] {
        let values = [0, 1].map(|row| cell(row, name).parse::<f64>().unwrap());
        assert!(values[0] > 0.0 && values[0] != values[1], "{name} {values:?}");
    }
    // Both trials share the data stage; their training stages differ in the mixture only.
    let runs = manifests(&dir.join("runs"));
    only(&dir.join("runs"), "data");
    let trained: Vec<_> = runs.iter().filter(|(name, _)| name.starts_with("pretrain-")).collect();
    assert_eq!(trained.len(), 2);
    let mut shares: Vec<f64> = trained
        .iter()
        .map(|(_, manifest)| {
            let sources = manifest["results"]["sources"].as_array().unwrap();
            let tokens: Vec<f64> = sources.iter().map(|s| s["tokens"].as_f64().unwrap()).collect();
            assert_eq!(
                (sources[0]["name"].as_str(), sources[1]["name"].as_str()),
                (Some("books"), Some("web"))
            );
            tokens[1] / (tokens[0] + tokens[1])
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    assert!((shares[0] - 0.5).abs() < 0.05 && (shares[1] - 0.75).abs() < 0.05, "{shares:?}");
    for (name, curves) in [("by_mix", &[][..]), ("sets", &["code", "wiki"]), ("sources", &["books", "web"])] {
        let svg = fs::read_to_string(dir.join(format!("results/asked/figures/{name}.svg"))).unwrap();
        assert!(!svg.contains("NaN") && curves.iter().all(|curve| svg.contains(curve)), "{name}");
    }
    // Proportional weights are the same training.
    let same =
        SWEEP.replace("web = 1.0, books = 1.0", "web = 1.0, books = 2.0").replace("[1.0, 3.0]", "[2.0]");
    fs::write(dir.join("same.toml"), same).unwrap();
    mindscale(dir).args(["run", "same.toml"]).assert().code(0);
    assert_eq!(manifests(&dir.join("runs")).len(), runs.len());
}

#[test]
fn what_is_not_read_or_learnt_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    let row = |question: &str| format!("{{\"q\": \"{question}\", \"a\": \"yes\"}}\n");
    let long = row(&"why ".repeat(60));
    fs::write(dir.join("sft.jsonl"), row("one") + &long + &row("two") + &row("three")).unwrap();
    fs::write(dir.join("sft_val.jsonl"), long.repeat(2)).unwrap();
    let head = SWEEP.split("data.mix").next().unwrap().replace(", books = [\"books.txt\"]", "");
    let sweep = format!(
        "{head}data.sft = [\"sft.jsonl\"]\ndata.sft_val = [\"sft_val.jsonl\"]\ndata.max_rows = 3\nexam.enabled = false\n\
         dpo.enabled = false\n[base.sft]\nsteps = 2\nbatch_size = 2\nseq_len = 64\n[base.model]{}",
        SWEEP.split("[base.model]").nth(1).unwrap().split("[axes]").next().unwrap()
    );
    fs::write(dir.join("cut.toml"), sweep).unwrap();
    let unread =
        "sft: 1 of 2 files not read to their end: data.max_rows = 3, 5 rows read (the first: sft.jsonl)";
    mindscale(dir).args(["run", "cut.toml"]).assert().code(0).stderr(
        contains(unread)
            .and(contains("sft: 1 of 3 rows left out: nothing left to learn within seq_len = 64 tokens"))
            .and(contains("sft, held out: 0 of 2 rows left: there is no validation loss")),
    );
    let on_question =
        "sft: 1 of 3 rows have loss on a question whose answer is not within seq_len = 64 tokens";
    mindscale(dir)
        .args(["run", "cut.toml", "--set", "data.rows=minimind"])
        .assert()
        .code(0)
        .stderr(contains(unread).and(contains(on_question)));
    let report = fs::read_to_string(dir.join("results/mixed/report.html")).unwrap();
    assert!(report.contains(on_question) && report.contains("files not read to their end"));
}

#[test]
fn what_does_not_fit_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    for (set, expected) in [
        (
            "data.mix.wbe=1",
            "--set data.mix.wbe=1: data.mix.wbe: is the weight of no source; did you mean web?",
        ),
        ("data.mix.books=-1", "--set data.mix.books=-1: data.mix.books: is -1, expected 0 or more"),
        (
            "data.pretrain_val={ wiki = [\"none.txt\"] }",
            "data.pretrain_val.wiki: no file matches \"none.txt\"; expected a file or a glob",
        ),
        ("data.pretrain_val={ wiki = [] }", "data.pretrain_val: wiki is empty, expected files or globs"),
        (
            "data.pretrain_val={ wiki = \"a\" }",
            "data.pretrain_val: holds wiki = \"a\", expected a list of texts in quotes, or a table of such lists by name",
        ),
    ] {
        mindscale(dir).args(["plan", "mixed.toml", "--set", set]).assert().code(1).stderr(contains(expected));
    }
    fs::write(dir.join("empty.txt"), "\n\n").unwrap();
    mindscale(dir)
        .args(["run", "mixed.toml", "--set", "data.pretrain_val=empty.txt"])
        .assert()
        .code(1)
        .stderr(contains("empty.txt: has no row of pretraining text"));
}

#[test]
fn exam_questions_in_training_text_are_listed_and_left_out_of_a_second_score() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_files(dir);
    let words = |start: usize| (start..start + 20).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ");
    // Of five questions the first occurs in web, the second in books, the third in no training text.
    let rows: String =
        (0..5).map(|i| format!("{i},What is {}?,one,two,three,four,A\n", words(100 * i))).collect();
    fs::create_dir(dir.join("s")).unwrap();
    fs::write(dir.join("s/law_val.csv"), format!("id,question,A,B,C,D,answer\n{rows}6,Why?,a,b,c,d,B\n"))
        .unwrap();
    let add = |file: &str, text: String| {
        let before = fs::read_to_string(dir.join(file)).unwrap();
        fs::write(dir.join(file), before + &text).unwrap();
    };
    let line = |start: usize| format!("{{\"text\": \"so: {}\"}}\n", words(start).to_uppercase());
    add("web.jsonl", line(3) + &line(4));
    add("books.txt", format!("he says {} and goes\n", words(105)));
    add("wiki.jsonl", line(200));
    let sheets = ["--set", "exam.enabled=true", "--set", "exam.sheets=s"];
    let run =
        |more: &[&str]| mindscale(dir).args(["run", "mixed.toml"]).args(sheets).args(more).assert().code(0);
    run(&[])
        .stderr(contains("exam: 2 of 6 questions share 13 words in a row with training text of pretrain"))
        .stderr(contains("exam: 1 of 6 questions have fewer than 8 words, too few to search for"));
    let found = stage_runs(&dir.join("runs")).into_iter().find(|run| run.join("contamination.csv").exists());
    assert_eq!(
        fs::read_to_string(found.unwrap().join("contamination.csv")).unwrap(),
        "subject,id,stage,source,file,texts\nlaw,0,pretrain,web,web.jsonl,2\nlaw,1,pretrain,books,books.txt,1\n"
    );
    let column = |file: &str, name: &str| -> Vec<String> {
        let mut csv = csv::Reader::from_path(dir.join("results/mixed").join(file)).unwrap();
        let column = csv.headers().unwrap().iter().position(|h| h == name).unwrap();
        csv.records().map(|row| row.unwrap()[column].to_string()).collect()
    };
    let contaminated = column("questions.csv", "contaminated");
    assert_eq!(contaminated[..6], ["true", "true", "false", "false", "false", "false"]);
    for trial in 0..2 {
        let of = |name: &str| column("trials.csv", name)[trial].clone();
        assert_eq!((of("exam_contaminated"), of("exam_questions_clean")), ("2".into(), "4".into()));
        let (right, answer) = (column("questions.csv", "prediction"), column("questions.csv", "answer"));
        let clean = (6 * trial + 2..6 * trial + 6).filter(|&i| right[i] == answer[i]).count();
        assert_eq!(of("exam_correct_clean"), clean.to_string());
        assert_eq!(of("exam_accuracy_clean").parse::<f64>().unwrap(), clean as f64 / 4.0);
    }
    let summary = fs::read_to_string(dir.join("results/mixed/tables/summary.md")).unwrap();
    assert!(summary.contains("| accuracy, clean (%) |"), "{summary}");
    assert_eq!(column("summary.csv", "accuracy_clean_mean"), column("trials.csv", "exam_accuracy_clean"));
    // Both trials share one search, and later exams of the same data reuse it: for snapshots, for averaged weights and
    // for the end of a stage, all rows of the stage count.
    let data = only(&dir.join("runs"), "data");
    let kept: Vec<_> = fs::read_dir(data.join("contamination")).unwrap().map(|f| f.unwrap().path()).collect();
    let kept: Vec<_> = kept.iter().filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    let once = fs::read_to_string(kept[0]).unwrap();
    fs::write(kept[0], once.replace("\"texts\":2", "\"texts\":7")).unwrap();
    run(&["--set", "exam.at=[0.25, 0.5, 1.0]", "--set", "exam.average_last=2"]);
    let exams: Vec<_> = stage_runs(&dir.join("runs"))
        .into_iter()
        .filter(|run| run.join("contamination.csv").exists())
        .collect();
    // For each of two trials: its first exam, then one at each share and one of the averaged weights.
    assert_eq!(exams.len(), 2 + 2 * 4);
    let met = |run: &Path| fs::read_to_string(run.join("contamination.csv")).unwrap();
    assert_eq!(exams.iter().filter(|run| met(run).contains("law,0,pretrain,web,web.jsonl,7\n")).count(), 8);
    let (trials, answers) = (column("trials.csv", "trial"), column("questions.csv", "trial"));
    let takens =
        |file: &str| column(file, "at").into_iter().zip(column(file, "averaged")).collect::<Vec<_>>();
    let (of_trials, of_answers) = (takens("trials.csv"), takens("questions.csv"));
    let (right, answer) = (column("questions.csv", "prediction"), column("questions.csv", "answer"));
    let contaminated = column("questions.csv", "contaminated");
    assert_eq!((trials.len(), answers.len()), (8, 48));
    for row in 0..8 {
        let of = |name: &str| column("trials.csv", name)[row].clone();
        let clean = (0..48).filter(|&i| answers[i] == trials[row] && of_answers[i] == of_trials[row]);
        let clean: Vec<usize> = clean.filter(|&i| contaminated[i] == "false").collect();
        let correct = clean.iter().filter(|&&i| right[i] == answer[i]).count();
        assert_eq!((of("exam_contaminated"), clean.len()), ("2".into(), 4), "{:?}", of_trials[row]);
        assert_eq!(of("exam_correct_clean"), correct.to_string(), "{:?}", of_trials[row]);
    }
    // A source of weight 0 is not trained on, and nothing is searched without an exam that requires it.
    let alone = SWEEP.replace("books = 1.0 }", "books = 0 }").replace("[1.0, 3.0]", "[1.0]");
    fs::write(dir.join("alone.toml"), alone.replace("\"mixed\"", "\"alone\"")).unwrap();
    mindscale(dir)
        .args(["run", "alone.toml"])
        .args(sheets)
        .assert()
        .code(0)
        .stderr(contains("exam: 1 of 6 questions share 13 words in a row with training text of pretrain"));
    let asked = run(&["--set", "exam.contamination=false", "--results", "third"]);
    asked.stderr(contains("share 13 words").not());
    mindscale(dir)
        .args([
            "data",
            "contamination",
            "--sheets",
            "s",
            "--kind",
            "pretrain",
            "--text",
            "web.jsonl",
            "*.txt",
        ])
        .assert()
        .code(0)
        .stdout(contains("2 of 6 questions (33.33 %) appear in the text; 1 too short to check"));
}
