//! The program through its command line.

use crate::common::{TINY, manifests, mindscale, stage_runs, two_seeds};
use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

#[test]
fn wrong_usage_exits_with_two() {
    let dir = tempfile::tempdir().unwrap();
    mindscale(dir.path()).arg("trian").assert().code(2).stderr(contains("unrecognized subcommand"));
    mindscale(dir.path()).args(["run"]).assert().code(2);
    mindscale(dir.path()).args(["run", "--help"]).assert().code(0).stdout(contains("Examples:"));
}

#[test]
fn bad_input_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = |text: &str, message: &'static str| {
        std::fs::write(dir.path().join("s.toml"), text).unwrap();
        mindscale(dir.path()).args(["run", "s.toml"]).assert().code(1).stderr(contains(message));
        assert!(!dir.path().join("runs").exists(), "nothing is started");
    };
    mindscale(dir.path())
        .args(["run", "none.toml"])
        .assert()
        .code(1)
        .stderr(contains("none.toml: cannot be read"));
    run(
        "name = \"s\"\n[base.model]\nn_layer = 2\n",
        "s.toml:3: model.n_layer: unknown key; did you mean model.n_layers?",
    );
    run("name = \"s\"\n[base.model]\nd_model = 30\n", "model.d_model: 30 is not divisible by n_heads = 4");
    run("", "name: expected a name for the sweep");
    if !cfg!(any(feature = "cuda", feature = "emulate")) {
        run(&format!("{TINY}[base]\ndevice = \"cuda\"\n"), "built without CUDA");
    }
    std::fs::write(dir.path().join("s.toml"), TINY).unwrap();
    mindscale(dir.path())
        .args(["run", "s.toml", "--executor", "slurm", "--time-limit", "1h"])
        .assert()
        .code(1)
        .stderr(contains("--time-limit and --memory-limit apply to the local executor only"));
    for (options, message) in [
        (
            ["--executor=slurm", "--retries=1"],
            "--jobs, --per-gpu and --retries apply to the local executor only",
        ),
        (["--executor=local", "--sbatch=--partition=gpu"], "--sbatch needs --executor slurm"),
    ] {
        mindscale(dir.path())
            .args(["run", "s.toml"])
            .args(options)
            .assert()
            .code(1)
            .stderr(contains(message));
    }
    mindscale(dir.path())
        .args(["exam", "nowhere", "--sheets", "nowhere", "--norm", "raw"])
        .assert()
        .code(1)
        .stderr(contains("--norm applies to --answer cloze or continuation only"));
    mindscale(dir.path())
        .args(["init", "mine", "--pretrain", "nope/*.txt"])
        .assert()
        .code(0)
        .stderr(contains("note: --pretrain: no file matches \"nope/*.txt\"; expected a file or a glob"));
    // As a shell expands text/*.toml.
    mindscale(dir.path()).args(["init", "two", "--pretrain", "s.toml", "s.toml"]).assert().code(0);
    let written = std::fs::read_to_string(dir.path().join("sweeps/two.toml")).unwrap();
    assert!(written.contains("[\"s.toml\", \"s.toml\"]"), "{written}");
    mindscale(dir.path())
        .args(["report", "s.toml"])
        .assert()
        .code(0)
        .stderr(contains("note: no trial has finished; run them with: mindscale run s.toml"));
    mindscale(dir.path())
        .args(["exam", "nowhere", "--sheets", "nowhere"])
        .assert()
        .code(1)
        .stderr(contains("nowhere: expected a folder of <subject>_val.csv sheets"));
}

#[test]
fn a_tokenizer_is_found_by_the_name_of_its_stage_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.txt"), "one two three").unwrap();
    for run in ["tokenizer-0a1b2c3d", "sft-0a1b2c3d", "sft-0a999999"] {
        let out = format!("runs/{run}/model");
        mindscale(dir.path())
            .args(["tokenizer", "train", "--vocab-size", "260", "--out", &out, "text.txt"])
            .assert()
            .code(0);
    }
    for given in
        ["tokenizer-0a1b", "sft-0a1b2c3d", "runs/sft-0a1b2c3d", "runs/sft-0a1b2c3d/model/tokenizer.json"]
    {
        mindscale(dir.path())
            .args(["tokenizer", "show", given])
            .assert()
            .code(0)
            .stdout(contains("260 entries"));
    }
    mindscale(dir.path()).args(["tokenizer", "decode", "tokenizer-0a", "67"]).assert().code(0).stdout("a\n");
    for (given, message) in [
        ("sft-0a", "sft-0a: matches 2 stage runs in runs: "),
        (
            "dpo-0a",
            "dpo-0a: neither a folder nor a stage run in runs; `mindscale status FILE` lists those of a sweep",
        ),
        ("none/tokenizer.json", "none/tokenizer.json: cannot be read: No such file"),
    ] {
        mindscale(dir.path()).args(["tokenizer", "show", given]).assert().code(1).stderr(contains(message));
    }
    mindscale(dir.path())
        .args(["tokenizer", "decode", "tokenizer-0a", "260"])
        .assert()
        .code(1)
        .stderr(contains("tokenizer-0a: the id 260 is not among its 260 entries"));
}

#[test]
fn an_experiment_is_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), two_seeds()).unwrap();
    let run = |part: &str, message: &'static str| {
        std::fs::write(dir.path().join("x.toml"), format!("sweeps = [\"tiny.toml\"]\n{part}")).unwrap();
        mindscale(dir.path()).args(["run", "x.toml"]).assert().code(1).stderr(contains(message));
        assert!(!dir.path().join("runs").exists(), "nothing is started");
    };
    run("[[figure]]\nkynd = \"line\"\n", "x.toml:3: figure.kynd: unknown key; did you mean kind?");
    run(
        "[[table]]\nrows = [\"seed\"]\ncolumns = [\"exam.acuracy\"]\n",
        "x.toml:4: table.columns: there is no \"exam.acuracy\"; did you mean exam.accuracy?",
    );
    run(
        "[[table]]\nrows = [\"sweep\"]\ncolumns = [\"val.bpb\"]\nwhere = \"seed == 7\"\n",
        "x.toml:5: table.where: \"seed == 7\" holds for none of the 2 trials",
    );
}

#[test]
fn a_sweep_runs_once_and_a_missing_part_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), two_seeds()).unwrap();
    let run = || {
        let mut command = mindscale(dir.path());
        command.args(["run", "tiny.toml"]);
        command.assert()
    };
    // Tokenizer and data are shared; each seed has three training stages and an exam.
    run().code(0).stdout(contains("10 stage runs done here, 0 already done"));
    run().code(0).stdout(contains("all 2 trials are finished"));
    let trials = std::fs::read_to_string(dir.path().join("results/tiny/trials.csv")).unwrap();
    assert_eq!(trials.lines().count(), 3);
    assert!(trials.lines().skip(1).all(|l| l.contains(",done,")), "{trials}");
    mindscale(dir.path())
        .args(["status", "tiny.toml"])
        .assert()
        .code(0)
        .stdout(contains("2 done, 0 running, 0 failed"));
    let text = mindscale(dir.path()).args(["plan", "tiny.toml", "--json"]).output().unwrap().stdout;
    let plan: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(plan["stages"].as_array().unwrap().len(), 10);
    assert!(plan["stages"].as_array().unwrap().iter().all(|s| s["state"] == "done"));
}

#[test]
fn a_switch_without_effect_is_reported_by_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let notice = "note: exam.rotate = true has no effect, as only exam.answer = \"letter\" rotates options";
    for (axes, is_noted) in [("[\"cloze\"]", true), ("[\"letter\", \"cloze\"]", false)] {
        let text = format!("{TINY}[base.exam]\nrotate = true\n[axes]\n\"exam.answer\" = {axes}\n");
        std::fs::write(dir.path().join("s.toml"), text).unwrap();
        let plan = mindscale(dir.path()).args(["plan", "s.toml"]).assert().code(0);
        let notes = String::from_utf8_lossy(&plan.get_output().stderr).into_owned();
        assert_eq!(notes.contains(notice), is_noted, "{notes}");
    }
}

#[test]
fn a_failed_trial_leaves_the_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{TINY}[axes]\n\"dpo.lr\" = [1e-4, 1e30]\n");
    std::fs::write(
        dir.path().join("s.toml"),
        text.replace("[base.dpo]\nsteps = 2", "[base.dpo]\nsteps = 20"),
    )
    .unwrap();
    mindscale(dir.path()).args(["run", "s.toml"]).assert().code(1).stdout(contains("failed: dpo-"));
    let trials = std::fs::read_to_string(dir.path().join("results/tiny/trials.csv")).unwrap();
    assert_eq!(trials.matches(",done,").count(), 1, "{trials}");
    assert!(trials.contains("lower dpo.lr"), "{trials}");
}

/// The JSON that a command prints.
fn json(command: &mut Command) -> serde_json::Value {
    let output = command.assert().code(0).get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

#[test]
fn a_trained_model_writes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tiny.toml"), format!("{TINY}[axes]\nseed = [1]\n")).unwrap();
    mindscale(dir.path()).args(["run", "tiny.toml"]).assert().code(0);
    let mut folders = std::fs::read_dir(dir.path().join("runs")).unwrap().map(|e| e.unwrap().path());
    let model = folders.find(|p| p.file_name().unwrap().to_string_lossy().starts_with("sft-")).unwrap();
    let generate = |more: &[&str]| {
        let mut command = mindscale(dir.path());
        command.arg("generate").arg(&model).args(["--prompt", "你好", "--max-tokens", "12"]).args(more);
        command
    };
    let found = json(&mut generate(&["--json", "--chat", "--seed", "3"]));
    assert!(found["tokens"].as_u64().unwrap() <= 12);
    assert!(found["tokens_per_second"].as_f64().unwrap() >= 0.0);
    // The streamed text is the same, followed by a newline.
    let streamed = generate(&["--chat", "--seed", "3"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8(streamed).unwrap(), format!("{}\n", found["text"].as_str().unwrap()));
    generate(&["--top-p", "2"])
        .assert()
        .code(2)
        .stderr(contains("top_p is 2, expected above 0 and at most 1"));
    generate(&["--temperature", "-1"])
        .assert()
        .code(2)
        .stderr(contains("the temperature is -1, expected 0 (the likeliest token) or more"));
    // By the printed name as well as by the folder.
    let short = &model.file_name().unwrap().to_string_lossy()[.."sft-cedd4909".len()].to_owned();
    let mut by_name = mindscale(dir.path());
    by_name.args([
        "generate",
        short,
        "--prompt",
        "你好",
        "--max-tokens",
        "12",
        "--json",
        "--chat",
        "--seed",
        "3",
    ]);
    assert_eq!(json(&mut by_name)["text"], found["text"]);
}

#[test]
fn a_bench_is_one_line_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let bench = |case: &str, more: &[&str]| {
        let mut command = mindscale(dir.path());
        let shape = ["--d-model", "16", "--n-layers", "1", "--vocab-size", "300", "--seq-len", "8"];
        command.args(["bench", case]).args(shape).args(["--batch-size", "2", "--steps", "2"]).args(more);
        command
    };
    for case in ["train", "exam", "generate", "tokenize"] {
        let command = &mut bench(case, &["--threads", "1"]);
        let found = json(command);
        assert_eq!(found["case"], case);
        assert!(found["tokens_per_second"]["median"].as_f64().unwrap() > 0.0, "{found}");
        command.assert().stderr(contains("note: these figures hold for this machine"));
    }
    bench("train", &["--n-heads", "3"])
        .assert()
        .code(1)
        .stderr(contains("model.d_model: 16 is not divisible"));
    bench("train", &["--lanes", "0"]).assert().code(1).stderr(contains("--lanes is 0, expected at least 1"));
}

#[test]
fn what_is_not_referred_to_can_be_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("both.toml"), two_seeds()).unwrap();
    std::fs::write(dir.path().join("one.toml"), format!("{TINY}[axes]\nseed = [1]\n")).unwrap();
    mindscale(dir.path()).args(["run", "both.toml"]).assert().code(0);
    let gc = |args: &[&str]| {
        let mut command = mindscale(dir.path());
        command.arg("gc").args(args);
        command.assert().code(0)
    };
    gc(&["both.toml"]).stdout(contains("runs: nothing to remove"));
    // Stage runs that results refer to are kept.
    gc(&["one.toml"]).stdout(contains("kept: 4 stage runs that only results/tiny/record.json refers to"));
    std::fs::remove_dir_all(dir.path().join("results/tiny")).unwrap();
    // The three training stages and the exam of the second seed.
    gc(&["one.toml"]).stdout(contains("4 stage runs").and(contains("can be removed with --delete")));
    gc(&["one.toml", "--json"]).stdout(contains("\"removed\":[]"));
    gc(&["one.toml", "--delete"]).stdout(contains("removed 4 stage runs"));
    gc(&["one.toml"]).stdout(contains("nothing to remove"));
    mindscale(dir.path()).args(["status", "one.toml", "--watch"]).assert().code(0).stdout(contains("1 done"));
    mindscale(dir.path())
        .args(["run", "both.toml"])
        .assert()
        .code(0)
        .stdout(contains("4 stage runs done here"));
}

#[test]
fn a_stage_costs_what_was_solved_for_and_the_plan_tells_it_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    let budgets = [("sft", 3e8), ("lora", 2e8), ("dpo", 8e8)];
    let solved = budgets.map(|(stage, flops)| format!("\"{stage}.tokens\" = {{ flops = {flops:e} }}\n"));
    let text = TINY.replace("steps = 2\n", "log_every = 1\n") + "[base.lora]\nenabled = true\nseq_len = 64\n";
    let text = format!("{text}[base.exam]\nenabled = false\n[solve]\n{}", solved.concat());
    std::fs::write(dir.path().join("tiny.toml"), text).unwrap();
    let planned = || -> serde_json::Value {
        let output = mindscale(dir.path()).args(["plan", "tiny.toml", "--json"]).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["trials"][0].clone()
    };
    let before = planned();
    assert_eq!(before["exact"], false);
    assert!(before["keys"]["sft.tokens"].as_str().unwrap().starts_with("<= "), "{before}");
    mindscale(dir.path()).args(["run", "tiny.toml"]).assert().code(0);

    let manifests = manifests(&dir.path().join("runs"));
    let results = |stage: &str| {
        let of_stage = manifests.iter().find(|(name, _)| name.starts_with(&format!("{stage}-")));
        of_stage.unwrap().1["results"].clone()
    };
    for (stage, budget) in budgets {
        let (flops, steps) =
            (results(stage)["flops"].as_f64().unwrap(), results(stage)["steps"].as_f64().unwrap());
        // Steps differ in length; none is twice the mean.
        assert!((flops - budget).abs() < flops / steps, "{stage}: {flops} of {budget} in {steps} steps");
        assert!(steps >= 2.0);
    }
    // With only the data stage left, the plan is the same.
    let whole = planned();
    assert_eq!((whole["exact"].as_bool(), whole["open"].as_array().unwrap().len()), (Some(true), 0));
    for dir in stage_runs(&dir.path().join("runs")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("data-") && !name.starts_with("tokenizer-") {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
    let again = planned();
    for key in ["exact", "keys", "tokens"] {
        assert_eq!(again[key], whole[key]);
    }
    let flops = |row: &serde_json::Value| row["flops"].as_f64().unwrap();
    assert!((flops(&again) / flops(&whole) - 1.0).abs() < 1e-9);

    let trials = dir.path().join("results/tiny/trials.csv");
    let mut reader = csv::Reader::from_path(trials).unwrap();
    let heads = reader.headers().unwrap().clone();
    let row = reader.records().next().unwrap().unwrap();
    let cell = |name: &str| row[heads.iter().position(|head| head == name).unwrap()].to_string();
    for (stage, _) in budgets {
        assert_eq!(cell(&format!("{stage}.tokens")), results(stage)["tokens"].to_string());
    }
    let all: f64 =
        ["pretrain", "sft", "lora", "dpo"].map(|s| results(s)["flops"].as_f64().unwrap()).iter().sum();
    assert!((cell("train_flops").parse::<f64>().unwrap() / all - 1.0).abs() < 1e-12);
}

#[test]
fn the_doctor_tells_of_the_machine_and_finds_it_well() {
    let dir = tempfile::tempdir().unwrap();
    let output = mindscale(dir.path()).arg("doctor").assert().code(0).get_output().stdout.clone();
    let output = String::from_utf8(output).unwrap();
    for part in
        ["cpu ", "memory ", "GFLOP/s", "disk ", "attention_backward", "gradient of the loss", "checks passed"]
    {
        assert!(output.contains(part), "{part} in {output}");
    }
    assert!(!output.contains("FAILED"), "{output}");
    assert!(!dir.path().join("runs").exists(), "nothing is left behind");
    let json = mindscale(dir.path()).args(["doctor", "--json"]).assert().code(0).get_output().stdout.clone();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["devices"][0]["device"], "cpu");
    assert!(json["devices"][0]["checks"].as_array().unwrap().len() > 40);
    assert!(json["machine"]["matrix_gflops"].as_f64().unwrap() > 0.0);
}

#[test]
fn contamination_tells_what_was_not_looked_through() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("s")).unwrap();
    let sheet =
        "id,question,A,B,C,D,answer\n0,which of the words in this sheet stand in no text at all,a,b,c,d,A\n";
    std::fs::write(dir.path().join("s/law_val.csv"), sheet).unwrap();
    std::fs::write(
        dir.path().join("a.jsonl"),
        "{\"text\": \"a\"}\n{\"text\": \n{\"text\": \"b\", \"x\": 1}\n",
    )
    .unwrap();
    let look = |more: &[&str]| {
        let mut command = mindscale(dir.path());
        command.args(["data", "contamination", "--sheets", "s", "--kind", "pretrain"]);
        command.args(["--skip-bad-rows", "--ignore-unknown-keys", "--text", "a.jsonl", "./a.jsonl"]);
        command.args(more).assert().code(0)
    };
    let expected = [
        "--text: 1 of 2 names are duplicates",
        "--text: 1 of 3 rows left out: cannot be read (the first: a.jsonl:2: ",
        "--text: 1 of 3 rows have a key \"x\" that is not used",
    ];
    let shown = look(&[]).get_output().clone();
    let as_json = look(&["--json"]).get_output().clone();
    for notice in expected {
        assert!(String::from_utf8_lossy(&shown.stdout).contains(notice), "{shown:?}");
        assert!(String::from_utf8_lossy(&as_json.stderr).contains(&format!("note: {notice}")), "{as_json:?}");
    }
    let found: serde_json::Value = serde_json::from_slice(&as_json.stdout).unwrap();
    assert_eq!(found["questions"], 1);
}
