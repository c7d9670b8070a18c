//! Exams through the command line: of a trained model, and as the last stage of a sweep.

use crate::common::{TINY, manifests, mindscale, only, stage_runs};
use crate::testing::shared;
use predicates::str::{contains, is_empty, starts_with};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const HEAD: &str = "id,question,A,B,C,D,answer\n";

/// Trains a model for a few steps and writes folders of sheets: `s` with two subjects and `dev` with one.
fn trained(dir: &Path) -> PathBuf {
    let sweep = format!("{TINY}[base.exam]\nenabled = false\n")
        .replace("vocab_size", "max_seq_len = 256\nvocab_size");
    fs::write(dir.join("tiny.toml"), sweep).unwrap();
    for (path, rows) in [
        ("s/art_val.csv", "0,谁画了它,甲,乙,丙,丁,A\n".to_string()),
        ("s/law_val.csv", format!("0,问,a,b,c,d,A\n1,{},a,b,c,d,B\n", "长".repeat(200))),
        ("dev/law_dev.csv", "0,一,a,b,c,d,B\n1,二,a,b,c,d,C\n".to_string()),
        ("dev/art_dev.csv", "0,三,a,b,c,d,B\n".to_string()),
    ] {
        fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        fs::write(dir.join(path), format!("{HEAD}{rows}")).unwrap();
    }
    mindscale(dir).args(["run", "tiny.toml"]).assert().success();
    only(&dir.join("runs"), "dpo")
}

#[test]
fn a_trained_model_is_examined_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let model = trained(dir.path());
    let exam = |words: &[&str]| {
        let mut command = mindscale(dir.path());
        command.arg("exam").arg(&model).args(words);
        command
    };
    let scores = |words: &[&str]| -> (Vec<Value>, String) {
        let Output { stdout, stderr, .. } = exam(words).arg("--json").assert().success().get_output().clone();
        (serde_json::from_slice(&stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let lost = |score: &Value| {
        [&score["prompts_cut"], &score["prompts_with_fewer_shots"]].map(|v| v.as_u64().unwrap())
    };

    // The long question of law has more than 256 tokens.
    let (plain, notice) = scores(&["--sheets", "s", "--out", "plain.csv"]);
    assert_eq!(plain.iter().map(lost).collect::<Vec<_>>(), [[0, 0], [1, 0], [1, 0]]);
    assert_eq!(notice, "exam, law: 1 of 2 prompts cut to their last 256 tokens\n");
    let (_, notice) = scores(&["--sheets", "s", "--shots", "1", "--dev", "dev", "--out", "shots.csv"]);
    let fewer =
        "exam, law: 1 of 2 prompts with fewer shots, to fit 256 tokens: 0.5 shots per question, at least 0\n";
    assert!(notice.contains(fewer), "{notice}");
    exam(&["--sheets", "s", "--system", "", "--out", "silent.csv"]).assert().success();
    exam(&["--sheets", "s", "--rotate", "--out", "rotated.csv"]).assert().success();
    exam(&["--sheets", "s", "--answer", "cloze", "--out", "cloze.csv"]).assert().success();
    exam(&["--sheets", "s", "--answer", "cloze", "--norm", "pmi", "--out", "pmi.csv"]).assert().success();
    exam(&["--sheets", "s", "--answer", "continuation", "--out", "continuation.csv"]).assert().success();
    let answers = ["plain", "shots", "silent", "rotated", "cloze", "pmi", "continuation"]
        .map(|name| fs::read_to_string(dir.path().join(format!("{name}.csv"))).unwrap());
    for (i, one) in answers.iter().enumerate() {
        assert_eq!(one.lines().count(), 4);
        assert!(answers[..i].iter().all(|other| other != one), "what is shown or asked changes the answers");
    }

    let refused = |words: &[&str], code: i32, message: &'static str| {
        exam(words).assert().code(code).stdout(is_empty()).stderr(contains(message));
    };
    refused(
        &["--sheets", "s", "--shots", "2", "--dev", "dev"],
        1,
        "error: dev: too few solved questions for 2 shots: art has 1; ask for fewer",
    );
    refused(
        &["--sheets", "s", "--dev", "nowhere"],
        1,
        "error: nowhere: expected a folder of <subject>_dev.csv sheets",
    );
    refused(&["--sheets", "s", "--shots", "2"], 2, "--dev");
    refused(
        &["--sheets", "s", "--rotate", "--answer", "cloze"],
        1,
        "--rotate applies to --answer letter only",
    );

    // Several models are shown side by side, with the same results as alone; each model is named once.
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(model.join("model")).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let name = model.file_name().unwrap().to_str().unwrap().to_string();
    let base = only(&dir.path().join("runs"), "pretrain").display().to_string();
    let several = ["copy", &format!("base={base}"), "--sheets", "s"];
    let Output { stdout, stderr, .. } =
        exam(&several).args(["--json", "--out", "all.csv"]).assert().success().get_output().clone();
    let found: Value = serde_json::from_slice(&stdout).unwrap();
    let of = |i: usize| &found["models"][i];
    assert!(name.starts_with(of(0)["model"].as_str().unwrap()), "{found}");
    assert_eq!((&of(1)["model"], &of(2)["model"]), (&json!("copy"), &json!("base")));
    assert_eq!((&of(0)["scores"], &of(1)["scores"]), (&json!(plain), &json!(plain)));
    assert!(
        String::from_utf8(stderr)
            .unwrap()
            .contains("copy: exam, law: 1 of 2 prompts cut to their last 256 tokens")
    );
    let pairs = found["agreement"].as_array().unwrap();
    let ends = |pair: &Value| [pair["model_a"].clone(), pair["model_b"].clone()];
    assert_eq!(pairs.iter().map(ends).collect::<Vec<_>>()[2], [json!("copy"), json!("base")]);
    assert_eq!((&pairs[0]["equal"], &pairs[0]["n"]), (&json!(1.0), &json!(3)));
    let rows: Vec<csv::StringRecord> =
        csv::Reader::from_path(dir.path().join("all.csv")).unwrap().records().map(Result::unwrap).collect();
    let same = (0..3).filter(|&i| rows[i][7] == rows[6 + i][7]).count();
    assert!((pairs[1]["equal"].as_f64().unwrap() - same as f64 / 3.0).abs() < 1e-12, "{pairs:?}");
    assert_eq!((rows.len(), &rows[3][0], &rows[8][0]), (9, "copy", "base"));
    let notice =
        exam(&several).assert().success().stdout(contains("p (Holm)")).stdout(contains("equal answers (%)"));
    notice.stdout(contains(format!("base: {base}")));
    refused(&["copy", "copy", "--sheets", "s"], 1, "two models are called copy; name one as in other=");
    // Trials and stages are chosen from files; other models are taken as they are.
    refused(
        &["--sheets", "s", "--best", "val_loss"],
        1,
        "choose from a sweep or experiment file, but none is given",
    );
    let of_file = exam(&[]).args(["tiny.toml", "--sheets", "s", "--stage", "pretrain"]).assert().success();
    of_file.stdout(contains("p (Holm)"));

    // law is a subject of C-Eval; art is not.
    let total = plain.last().unwrap();
    assert_eq!(total["groups"][0]["group"], "humanities");
    let of = |i: usize| plain[i]["accuracy"].as_f64().unwrap();
    assert!((total["macro_accuracy"].as_f64().unwrap() - (of(0) + of(1)) / 2.0).abs() < 1e-12);
    let counts = total["confusion"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), 3);

    // The same questions as JSON, and one with three options.
    fs::create_dir(dir.path().join("j")).unwrap();
    let art = json!({"id": 0, "question": "谁画了它", "choices": ["甲", "乙", "丙", "丁"], "answer": 0});
    fs::write(dir.path().join("j/art_val.jsonl"), format!("{art}\n")).unwrap();
    exam(&["--sheets", "j", "--out", "json.csv"]).assert().success();
    let line =
        |name: &str| fs::read_to_string(dir.path().join(name)).unwrap().lines().nth(1).unwrap().to_string();
    // Common prefixes of prompts are evaluated once: among other questions, a prompt is evaluated in other pieces.
    for (as_json, as_csv) in line("json.csv").split(',').zip(line("plain.csv").split(',')).take(8) {
        match (as_json.parse::<f64>(), as_csv.parse::<f64>()) {
            (Ok(one), Ok(other)) => assert!((one - other).abs() <= 1e-5 * other, "{one} {other}"),
            _ => assert_eq!(as_json, as_csv),
        }
    }
    let three = json!({"question": "谁画了它", "choices": ["甲", "乙", "丙"], "answer": "C"});
    fs::write(dir.path().join("j/art_val.jsonl"), format!("{three}\n")).unwrap();
    let (found, _) = scores(&["--sheets", "j", "--rotate", "--out", "three.csv"]);
    assert!((found[1]["guessing"].as_f64().unwrap() - 1.0 / 3.0).abs() < 1e-12, "{found:?}");
    assert_eq!(line("three.csv").split(',').nth(5), Some(""), "there is no option D");
    fs::write(dir.path().join("s/law_val.csv"), format!("{HEAD}0,q,a,,c,d,A\n")).unwrap();
    refused(&["--sheets", "s", "--answer", "cloze"], 1, "error: s/law_val.csv:2: the option B is empty");
}

/// `scripts/make_references.py` computes the expected answers with PyTorch and Hugging Face's tokenizer.
#[test]
fn answers_are_those_of_pytorch() {
    let (dir, written) =
        (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references"));
    let file: Value = serde_json::from_slice(&fs::read(written.join("answers.json")).unwrap()).unwrap();
    let ways = file["ways"].as_object().unwrap();
    assert_eq!(ways.len(), 10);
    for (way, wanted) in ways {
        let mut command = mindscale(&written);
        command.args(["exam", "model", "--sheets", "sheets", "--dev", "dev", "--json"]);
        command.args(["--answer", wanted["answer"].as_str().unwrap()]);
        command.args(["--shots", &wanted["shots"].to_string()]);
        if let Some(norm) = wanted["norm"].as_str() {
            command.args(["--norm", norm]);
        }
        if wanted["rotate"] == true {
            command.arg("--rotate");
        }
        let out = dir.path().join(way);
        let done = command.arg("--out").arg(&out).assert().code(0);
        let scores: Vec<Value> = serde_json::from_slice(&done.get_output().stdout).unwrap();

        let wanted = wanted["answers"].as_array().unwrap();
        let rows: Vec<csv::StringRecord> =
            csv::Reader::from_path(out).unwrap().records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), wanted.len());
        for (row, want) in rows.iter().zip(wanted) {
            let text = |key: &str| want[key].as_str().unwrap();
            assert_eq!([&row[0], &row[1]], [text("subject"), text("id")], "{way}");
            assert_eq!([&row[6], &row[7]], [text("prediction"), text("answer")], "{way} {row:?}");
            for (place, want) in want["probabilities"].as_array().unwrap().iter().enumerate() {
                let (got, want) = (row[2 + place].parse::<f64>().unwrap(), want.as_f64().unwrap());
                assert!((got / want - 1.0).abs() < 1e-4, "{way} {row:?}: {got} instead of {want}");
            }
        }
        for score in &scores {
            let count = |is: &dyn Fn(&Value) -> bool| {
                let subject =
                    |want: &&Value| [&want["subject"], &json!("total")].contains(&&score["subject"]);
                json!(wanted.iter().filter(subject).filter(|want| is(want)).count())
            };
            assert_eq!(score["questions"], count(&|_| true), "{way}");
            assert_eq!(score["correct"], count(&|want| want["prediction"] == want["answer"]), "{way}");
            assert_eq!(score["prompts_cut"], count(&|want| want["cut"] == true), "{way}");
            let fewer = count(&|want| want["fewer_shots"] == true);
            assert_eq!(score["prompts_with_fewer_shots"], fewer, "{way}");
        }
        assert_eq!(scores.len(), 3);
    }
}

#[test]
fn a_sweep_asks_as_the_verb_does() {
    let dir = tempfile::tempdir().unwrap();
    let model = trained(dir.path());
    let ways = "[axes]\n\"exam.answer\" = [\"letter\", \"cloze\"]\n\"exam.shots\" = [0, 1]\n[base.exam]\nsheets = \"s\"\n\
         dev_sheets = \"dev\"\n";
    let sweep = fs::read_to_string(dir.path().join("tiny.toml")).unwrap();
    let sweep = format!("{}{ways}", sweep.split("[base.exam]").next().unwrap());
    fs::write(dir.path().join("ways.toml"), sweep.replace("\"tiny\"", "\"ways\"")).unwrap();
    // All four exams use the model that already exists.
    let done = "4 stage runs done here, 5 already done";
    mindscale(dir.path()).args(["run", "ways.toml"]).assert().code(0).stdout(contains(done));
    let mut exams = stage_runs(&dir.path().join("runs"));
    exams.retain(|run| run.file_name().unwrap().to_string_lossy().starts_with("exam-"));
    let mut seen = vec![];
    for exam in exams {
        let config: toml::Table = fs::read_to_string(exam.join("config.toml")).unwrap().parse().unwrap();
        let (answer, shots) =
            (config["exam"]["answer"].as_str().unwrap(), config["exam"]["shots"].to_string());
        let out = dir.path().join("alone.csv");
        let mut command = mindscale(dir.path());
        command.arg("exam").arg(&model).args(["--sheets", "s", "--dev", "dev"]);
        command.args(["--answer", answer, "--shots", &shots]).arg("--out").arg(&out).assert().code(0);
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        // The command does not know the training data, so it cannot mark contaminated questions.
        let found = read(exam.join("questions.csv")).replace(",false,", ",,");
        assert_eq!(found, read(out), "{answer}, {shots} shots");
        seen.push((answer.to_owned(), shots));
    }
    seen.sort();
    let want = [("cloze", "0"), ("cloze", "1"), ("letter", "0"), ("letter", "1")];
    assert_eq!(seen, want.map(|(answer, shots)| (answer.to_owned(), shots.to_owned())));
    let trials = fs::read_to_string(dir.path().join("results/ways/trials.csv")).unwrap();
    assert_eq!(trials.matches(",done,").count(), 4, "{trials}");
}

#[test]
fn shots_and_sheets_are_checked_before_anything_is_trained() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(shots), Some(sheets)) = (shared("cases/19_shots"), shared("cases/16_sheets")) else { return };
    let path = |of: &Path, name: &str| of.join(name).display().to_string();
    let sweep = |keys: &[(&str, String)]| {
        let keys = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect::<String>();
        fs::write(dir.path().join("t.toml"), format!("{TINY}[base.exam]\n{keys}")).unwrap();
    };
    let refused = |message: &str| {
        for verb in ["plan", "run"] {
            let error = starts_with(format!("error: sweep tiny, trial 1: {message}"));
            mindscale(dir.path()).args([verb, "t.toml"]).assert().code(1).stderr(error);
            assert!(!dir.path().join("runs").exists(), "nothing is started");
        }
    };
    let asked = path(&shots, "s");
    let named =
        |name: &str, path: &str| (if name == "s" { "sheets" } else { "dev_sheets" }, format!("{path:?}"));
    sweep(&[named("s", &asked), named("dev", &path(&shots, "dev")), ("shots", "5".into())]);
    let dev = path(&shots, "dev");
    refused(&format!(
        "exam.shots: {dev}: too few solved questions for 5 shots: art has no dev sheet, law has 2; ask for fewer"
    ));
    sweep(&[named("s", &asked), named("dev", "nope")]);
    refused("exam.dev_sheets: nope: expected a folder of <subject>_dev.csv sheets");
    let unclosed = path(&sheets, "unclosed");
    sweep(&[named("s", &unclosed)]);
    refused(&format!("exam.sheets: {unclosed}/law_val.csv:3: a quoted cell is never closed"));
}

#[test]
fn shots_of_the_built_in_world_change_the_prompts() {
    let Some(case) = shared("cases/19_shots/world.toml") else { return };
    let dir = tempfile::tempdir().unwrap();
    let sweep = fs::read_to_string(case).unwrap().replace("max_seq_len = 128", "max_seq_len = 1024");
    fs::write(dir.path().join("t.toml"), sweep).unwrap();
    mindscale(dir.path()).args(["run", "t.toml"]).assert().success();
    let mut exams = stage_runs(&dir.path().join("runs"));
    exams.retain(|run| run.file_name().unwrap().to_string_lossy().starts_with("exam-"));
    let answers: Vec<String> =
        exams.iter().map(|run| fs::read_to_string(run.join("questions.csv")).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    for (zero, five) in answers[0].lines().zip(answers[1].lines()).skip(1) {
        assert_ne!(zero, five, "five solved questions change every probability");
    }
}

#[test]
fn prompts_that_are_cut_are_reported_on_the_console_in_the_manifest_and_in_the_report() {
    let Some(case) = shared("cases/17_long_prompt") else { return };
    let dir = tempfile::tempdir().unwrap();
    let sheets = case.join("s").display().to_string();
    fs::write(dir.path().join("t.toml"), format!("{TINY}[base.exam]\nsheets = {sheets:?}\n")).unwrap();
    let notice = "exam, law: 1 of 1 prompts cut to their last 512 tokens";
    mindscale(dir.path()).args(["run", "t.toml"]).assert().success().stderr(contains(notice));
    let all = manifests(&dir.path().join("runs"));
    let notices =
        all.iter().find(|(name, _)| name.starts_with("exam-")).unwrap().1["results"]["notices"].clone();
    assert_eq!(
        notices,
        json!([{ "place": "exam, law", "reason": "prompts cut to their last 512 tokens", "count": 1, "of": 1 }])
    );
    let exam = only(&dir.path().join("runs"), "exam");
    assert!(fs::read_to_string(exam.join("log.txt")).unwrap().contains(notice));
    let report = fs::read_to_string(dir.path().join("results/tiny/report.html")).unwrap();
    assert!(report.contains("prompts cut to their last 512 tokens"));
}

#[test]
fn letters_are_asked_for_as_they_follow_the_prompt() {
    let Some(case) = shared("cases/15_letter_ids") else { return };
    let dir = tempfile::tempdir().unwrap();
    let sweep = fs::read_to_string(case.join("t.toml")).unwrap();
    let sweep =
        [("path = \"pfx\"", "pfx"), ("sheets = \"s\"", "s")].iter().fold(sweep, |sweep, (line, name)| {
            sweep.replace(
                line,
                &line.replace(&format!("{name}\""), &format!("{}\"", case.join(name).display())),
            )
        });
    let sweep = ["pre", "sft", "dpo"].iter().fold(sweep, |sweep, name| {
        let name = format!("{name}.jsonl");
        sweep.replace(&name, &case.join(&name).display().to_string())
    });
    fs::write(dir.path().join("t.toml"), sweep).unwrap();
    mindscale(dir.path()).args(["run", "t.toml"]).assert().success();
    let exam = only(&dir.path().join("runs"), "exam");
    let scores: Value = serde_json::from_slice(&fs::read(exam.join("scores.json")).unwrap()).unwrap();
    assert_eq!((&scores[1]["correct"], &scores[1]["questions"]), (&json!(20), &json!(20)));
}

#[test]
fn exams_on_the_way_are_rows_and_learning_curves() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = format!(
        "{TINY}[base.exam]\nat = [0.5, 1.0]\naverage_last = 2\nafter = ['pretrain', 'dpo']\n[axes]\nseed = [1, 2]\n"
    );
    fs::write(dir.path().join("t.toml"), sweep).unwrap();
    fs::write(
        dir.path().join("x.toml"),
        "title = 'x'\nsweeps = ['t.toml']\n[[figure]]\nkind = 'line'\nname = 'curve'\nx = 'exam.tokens'\ny = 'exam.accuracy'\n\
         [[table]]\nname = 'ways'\nrows = ['exam.stage', 'at', 'averaged']\ncolumns = ['exam.accuracy']\n",
    )
    .unwrap();
    mindscale(dir.path()).args(["run", "x.toml"]).assert().success();
    let mut reader = csv::Reader::from_path(dir.path().join("results/x/trials.csv")).unwrap();
    let rows: Vec<std::collections::BTreeMap<String, String>> =
        reader.deserialize().map(Result::unwrap).collect();
    let ways: Vec<[&str; 4]> =
        rows.iter().map(|row| ["seed", "stage", "at", "averaged"].map(|name| row[name].as_str())).collect();
    let of = |seed| {
        let way = move |stage, at, averaged| [seed, stage, at, averaged];
        ["pretrain", "dpo"]
            .map(|stage| [way(stage, "0.5", "1"), way(stage, "1", "1"), way(stage, "1", "2")])
            .concat()
    };
    assert_eq!(ways, [of("1"), of("2")].concat());
    let tokens: Vec<u64> = rows.iter().map(|row| row["exam_tokens"].parse().unwrap()).collect();
    assert!(
        tokens[0] < tokens[1] && tokens[1] == tokens[2] && tokens[2] < tokens[3] && tokens[3] < tokens[4]
    );
    assert_eq!(rows[4]["exam_tokens"], rows[4]["train_tokens"]);
    let curve = fs::read_to_string(dir.path().join("results/x/figures/curve.csv")).unwrap();
    assert!(curve.lines().count() > 2, "{curve}");
    let table = fs::read_to_string(dir.path().join("results/x/tables/ways.md")).unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with('|')).count(), 2 + 6, "{table}");
    // A snapshot is a model like any other.
    let runs = stage_runs(&dir.path().join("runs"));
    let run = runs.iter().find(|run| run.file_name().unwrap().to_string_lossy().starts_with("dpo-")).unwrap();
    let kept = run.join("snapshots/0.5").display().to_string();
    mindscale(dir.path()).args(["generate", &kept, "--prompt", "他", "--max-tokens", "2"]).assert().success();
}
