//! Export of models to other programs and import back, through the command line.

use crate::common::{TINY, mindscale, only};
use harness::data::Tokenizer;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A small model folder in the format that the program writes.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/references/model")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn weights(dir: &Path) -> Vec<u32> {
    model::folder::read(dir).unwrap().1.flat.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_model_goes_out_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| mindscale(dir.path()).args(words).assert();
    let from = reference();
    let from = from.to_str().unwrap();
    run(&["export", from, "--to", "hf", "--out", "hf"])
        .success()
        .stdout(contains("LlamaForCausalLM, 9,040 parameters in hf"));
    run(&["import", "hf", "back"]).success().stdout(contains("parameters in back"));
    assert_eq!(weights(&dir.path().join("back")), weights(&reference()));
    run(&["export", from, "--to", "pth", "--out", "pth"]).success();
    // A single file without its config.json; the tokenizer is given.
    fs::rename(dir.path().join("pth/model.pth"), dir.path().join("lone.pth")).unwrap();
    run(&["import", "lone.pth", "lone"]).code(1).stderr(contains("16 query heads; --n-heads says how many"));
    run(&["import", "lone.pth", "lone", "--n-heads", "4"])
        .code(1)
        .stderr(contains("holds no tokenizer.json"));
    run(&["import", "lone.pth", "lone", "--n-heads", "4", "--tokenizer", from]).success();
    assert_eq!(weights(&dir.path().join("lone")), weights(&reference()));
    run(&["export", from, "--to", "gguf", "--type", "f32", "--out", "gguf"])
        .success()
        .stdout(contains("llama of llama.cpp, 9,040 parameters in gguf"));
    assert_eq!(names(&dir.path().join("gguf")), ["README.md", "generation_config.json", "model-f32.gguf"]);
    run(&["import", "gguf/model-f32.gguf", "of-gguf"]).code(1).stderr(contains("holds no tokenizer.json"));
    run(&["import", "gguf/model-f32.gguf", "of-gguf", "--tokenizer", from]).success();
    assert_eq!(weights(&dir.path().join("of-gguf")), weights(&reference()));
    let quantised = run(&["export", from, "--to", "gguf", "--type", "q8_0", "--out", "q8"]);
    quantised.code(1).stderr(contains("has rows of 16 values, but q8_0 requires a multiple of 32"));
    run(&["export", from, "--to", "hf", "--type", "f16", "--out", "x"])
        .code(1)
        .stderr(contains("--type applies to --to gguf"));
    // Existing outputs are not overwritten.
    run(&["export", from, "--to", "hf", "--out", "hf"]).code(1).stderr(contains("hf: exists already"));
    run(&["import", "hf", "back"]).code(1).stderr(contains("back: exists already"));
    let folder = ["README.md", "config.json", "generation_config.json", "model.safetensors"];
    let tokenizer = ["tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&dir.path().join("hf")), [&folder[..], &tokenizer].concat());
    let read = |name: &str| fs::read_to_string(dir.path().join("hf").join(name)).unwrap();
    let config: Value = serde_json::from_str(&read("config.json")).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForCausalLM");
    assert_eq!([&config["bos_token_id"], &config["eos_token_id"]], [1, 2]);
    assert!(read("tokenizer_config.json").contains("chat_template"));
    assert!(read("README.md").contains("No record was found next to the exported model"));
    // The program accepts such a folder wherever it takes a model.
    run(&["generate", "hf", "--prompt", "他", "--max-tokens", "2", "--json"]).success();
    assert_eq!(names(dir.path()), ["back", "gguf", "hf", "lone", "lone.pth", "of-gguf", "pth"]);
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| mindscale(dir.path()).args(words).assert();
    fs::create_dir(dir.path().join("odd")).unwrap();
    for name in names(&reference()) {
        fs::copy(reference().join(&name), dir.path().join("odd").join(&name)).unwrap();
    }
    let config = dir.path().join("odd/config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["sliding_window"] = 5.into();
    fs::write(&config, json.to_string()).unwrap();
    run(&["export", "odd", "--to", "pth", "--out", "out"])
        .code(1)
        .stderr(contains("odd: MiniMind v1 does not support a window (model.window)"));
    run(&["export", "odd", "--to", "zip", "--out", "out"]).code(2).stderr(contains("possible values: hf"));
    json["vocab_size"] = 100.into();
    fs::write(&config, json.to_string()).unwrap();
    run(&["export", "odd", "--to", "hf", "--out", "out"]).code(1).stderr(contains("has shape [320, 16]"));
    run(&["import", "odd", "out"]).code(1).stderr(contains("expected [100, 16]"));
    fs::write(dir.path().join("odd/model.safetensors"), b"no weights").unwrap();
    run(&["import", "odd", "out"]).code(1).stderr(contains("not a readable safetensors file"));
    fs::write(dir.path().join("a.pth"), b"no weights").unwrap();
    run(&["import", "a.pth", "out"]).code(1).stderr(contains("not a readable PyTorch file"));
    // Candle's errors come without a backtrace.
    fs::write(dir.path().join("a.gguf"), b"no weights").unwrap();
    let damaged = mindscale(dir.path()).env("RUST_BACKTRACE", "1").args(["import", "a.gguf", "out"]).assert();
    let stderr = String::from_utf8(damaged.code(1).get_output().stderr.clone()).unwrap();
    assert!(stderr.contains("a.gguf: not a readable GGUF file: ") && stderr.lines().count() == 1, "{stderr}");
    let texts = (0..60).map(|i| format!("{i} {}", i * i));
    Tokenizer::train(texts, 330).unwrap().save(&dir.path().join("other")).unwrap();
    let from = reference();
    run(&["import", from.to_str().unwrap(), "out", "--tokenizer", "other"])
        .code(1)
        .stderr(contains("other: the tokenizer has 330 entries and the model 320; expected the model's own"));
    run(&["import", "nowhere", "out"]).code(1).stderr(contains("nowhere"));
    assert_eq!(names(dir.path()), ["a.gguf", "a.pth", "odd", "other"]);
}

#[test]
fn the_card_of_a_stage_run_tells_what_it_is_and_what_it_scored() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tiny.toml"), TINY).unwrap();
    mindscale(dir.path()).args(["run", "tiny.toml"]).assert().success();
    let run = only(&dir.path().join("runs"), "dpo");
    mindscale(dir.path()).arg("export").arg(&run).args(["--to", "hf", "--out", "tiny"]).assert().success();
    let card = fs::read_to_string(dir.path().join("tiny/README.md")).unwrap();
    for part in [
        "# tiny\n",
        "\n| pretrain | ",
        "\n| sft | ",
        "\n| dpo | ",
        "built-in world",
        "[pretrain]\n",
        "d_model = 16\n",
    ] {
        assert!(card.contains(part), "{part:?} in\n{card}");
    }
    let trials = fs::read_to_string(dir.path().join("results/tiny/trials.csv")).unwrap();
    let mut trials = csv::Reader::from_reader(trials.as_bytes());
    let names = trials.headers().unwrap().clone();
    let row = trials.records().next().unwrap().unwrap();
    let column = |name: &str| row[names.iter().position(|known| known == name).unwrap()].to_owned();
    let score = format!("* {} of {} questions right: ", column("exam_correct"), column("exam_questions"));
    assert!(card.contains(&score), "{score:?} in\n{card}");
}
