//! The terminal commands `chat`, `generate` and `compare`.

use crate::common::server::Running;
use crate::common::tiny::folder;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn mindscale(words: &[&str], input: &str) -> (i32, String, String) {
    let mut command = assert_cmd::Command::cargo_bin("mindscale").unwrap();
    let output = command.args(words).write_stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_chat_in_the_terminal_follows_its_commands() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 4);
    let path = dir.path().to_str().unwrap();
    let saved = dir.path().join("talk.json");
    let input = format!(
        "/set temperature 0\n/set temprature 1\n/set top-p 7\n/nowhere\n你\\\n好\n\"\"\"one\ntwo\"\"\"\n/save {0}\n/reset\n/system 系统\n/save {0}.md\n/quit\nnever read\n",
        saved.display()
    );
    let (code, answers, messages) = mindscale(&["chat", path, "--max-tokens", "8"], &input);
    assert_eq!(code, 0, "{messages}");
    for problem in [
        "did you mean temperature?",
        "top_p is 7, expected",
        "there is no command /nowhere",
        "4 turns written to",
    ] {
        assert!(messages.contains(problem), "{problem}: {messages}");
    }
    let talk: Value = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    let said: Vec<&str> =
        talk["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!((said[0], said[2]), ("你\n好", "one\ntwo"));
    assert_eq!(answers, format!("{}\n{}\n", said[1], said[3]));
    assert_eq!(fs::read_to_string(saved.with_extension("json.md")).unwrap(), "**system**\n\n系统\n");
    // A conversation that exceeds the context length loses its first turns, with a notice.
    let long: String = (0..12).map(|i| format!("{i} {}\n", "天空".repeat(10))).collect();
    let long = format!("{long}/save {}\n", saved.display());
    let (code, answers, messages) =
        mindscale(&["chat", path, "--max-tokens", "8", "--system", "系统"], &long);
    assert!(
        code == 0
            && answers.lines().count() >= 12
            && messages.contains("turns are forgotten: the context of the model is 256 tokens")
            && messages.contains("25 turns written to"),
        "{messages}"
    );
    let talk: Value = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    assert!(
        talk["messages"][1]["content"].as_str().unwrap().starts_with("0 天空"),
        "the first turns are saved"
    );
}

#[test]
fn answers_differ_after_turns_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 4);
    let path = dir.path().to_str().unwrap();
    // Two such questions exceed the context length, so that each answer depends on its question and its random stream.
    let question = "7".repeat(180);
    let usual = ["--max-tokens", "8", "--temperature", "1.5", "--top-k", "0"];
    let (code, answers, messages) =
        mindscale(&[&["chat", path], &usual[..]].concat(), &format!("{question}\n").repeat(3));
    assert!(code == 0 && messages.matches("2 turns are forgotten").count() == 2, "{messages}");
    let words = ["generate", path, "--chat", "--prompt", &question, "-n", "3"];
    let (_, texts, _) = mindscale(&[&words, &usual[..]].concat(), "");
    let texts = (1..4).fold(texts, |texts, n| texts.replace(&format!("--- prompt 1, text {n}\n"), ""));
    assert_eq!(answers, texts, "as `generate` draws several texts");
}

/// A program in a pseudo-terminal, by util-linux's `script`.
struct Terminal {
    program: Child,
    keyboard: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts the program; `None` where there is no such `script`.
    fn start(words: &str) -> Option<Self> {
        let is_there =
            Command::new("script").arg("--version").output().is_ok_and(|shown| shown.status.success());
        if !is_there {
            return None;
        }
        let command = format!("exec {} {words}", env!("CARGO_BIN_EXE_mindscale"));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let mut program = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keyboard, mut shown) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(vec![]));
        let own = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(len @ 1..) = shown.read(&mut bytes) {
                own.lock().unwrap().extend(&bytes[..len]);
            }
        });
        Some(Self { program, keyboard, screen })
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits until the screen shows what is expected.
    fn wait_for(&self, is_shown: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let screen = String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned();
            if is_shown(&screen) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{screen}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the end and returns the exit code.
    fn end(mut self) -> Option<i32> {
        self.program.wait().unwrap().code()
    }
}

#[test]
fn keys_typed_ahead_in_a_terminal_are_read_and_broken_ones_left_out() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 4);
    let saved = dir.path().join("talk.json");
    let Some(mut terminal) = Terminal::start(&format!("chat {} --max-tokens 8", dir.path().display())) else {
        return;
    };
    terminal.wait_for(|screen| screen.contains("> "));
    terminal.type_keys(b"a\xff\r");
    terminal.wait_for(|screen| screen.contains("note: a line that is not UTF-8 text is left out"));
    terminal.type_keys(format!("one \\\rtwo\r/save {}\r/quit\r", saved.display()).as_bytes());
    assert_eq!(terminal.end(), Some(0));
    let talk: Value = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    assert_eq!(talk["messages"][0]["content"], "one \ntwo");
}

#[test]
fn ctrl_c_ends_an_answer_and_not_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 4);
    // A context that takes hours to fill.
    let config = dir.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["max_seq_len"] = 200_000.into();
    fs::write(&config, json.to_string()).unwrap();
    let saved = dir.path().join("talk.json");
    let words = format!("chat {} --max-tokens 100000 --temperature 0", dir.path().display());
    let Some(mut terminal) = Terminal::start(&words) else {
        return;
    };
    terminal.wait_for(|screen| screen.contains("> "));
    terminal.type_keys("天空\r".as_bytes());
    terminal.wait_for(|screen| screen.len() > 2000);
    terminal.type_keys(format!("\x03/save {}\r/quit\r", saved.display()).as_bytes());
    assert_eq!(terminal.end(), Some(0));
    let talk: Value = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    assert_eq!(talk["messages"].as_array().unwrap().len(), 2);
    assert!(talk["messages"][1]["content"].as_str().unwrap().len() > 1000);
}

#[test]
fn prompts_come_from_files_and_from_the_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 4);
    let path = dir.path().to_str().unwrap();
    let file = dir.path().join("prompts.jsonl");
    fs::write(&file, "{\"prompt\": \"天空\"}\n{\"prompt\": \"ab\"}\n").unwrap();
    let usual = ["generate", path, "--json"];
    let rows = |more: &[&str], input: &str| -> Vec<Value> {
        let (code, text, messages) = mindscale(&[&usual, more, &["--max-tokens", "9"]].concat(), input);
        assert_eq!(code, 0, "{messages}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let many = rows(&["--prompts", file.to_str().unwrap(), "-n", "3", "--log-probs", "2"], "");
    let places: Vec<_> = many.iter().map(|row| (row["prompt"].as_u64(), row["choice"].as_u64())).collect();
    let want: Vec<_> =
        (0..2).flat_map(|prompt| (0..3).map(move |choice| (Some(prompt), Some(choice)))).collect();
    assert_eq!(places, want);
    let one = rows(&["--prompt", "-"], "ab\n");
    assert_eq!(one[0]["text"], many[3]["text"]);
    assert_eq!(many[3]["log_probs"].as_array().unwrap().len(), 9);
    assert_eq!(many[3]["log_probs"][0]["top"].as_array().unwrap().len(), 2);
    let file = dir.path().join("prompts.json");
    fs::write(&file, "\u{feff}[\"天空\", {\"prompt\": \"ab\"}]").unwrap();
    let listed = rows(&["--prompts", file.to_str().unwrap()], "");
    assert_eq!((&listed[0]["text"], &listed[1]["text"]), (&many[0]["text"], &many[3]["text"]));
    // The printed text equals the text in the JSON output.
    let (_, text, _) = mindscale(&["generate", path, "--max-tokens", "9", "--prompt", "ab"], "");
    assert_eq!(text, format!("{}\n", one[0]["text"].as_str().unwrap()));
    let stop: String = one[0]["text"].as_str().unwrap().chars().skip(2).take(1).collect();
    let cut = rows(&["--prompt", "ab", "--stop", &stop], "");
    assert!(!cut[0]["text"].as_str().unwrap().contains(&stop) && cut[0]["stopped"] == true);
    for (options, problem) in [
        (
            &["--prompt", "a", "--temperature", "-1"][..],
            "expected 0 (the likeliest token) or more, such as 0.7",
        ),
        (&["--prompt", "a", "--top-p", "2"], "expected above 0 and at most 1"),
        (&["--prompt", "a", "--min-p", "hot"], "expected a number"),
        (&["--prompt", "a", "-n", "0"], "0 is not in 1..=1024"),
        (&["--prompt", "a", "-n", "-1"], "-1 is not in 1..=1024"),
        (
            &["--prompt", "a", "--max-tokens", "-5"],
            "'-5' for '--max-tokens <N>': expected a whole number of 0",
        ),
        (&["--prompt", "a", "--seed", "-1"], "'-1' for '--seed <S>': expected a whole number of 0 or more"),
        (&["--prompt", "a", "--trained", "64"], "--rope-scaling <SCALING>"),
        (&["--prompt", "a", "--stop", ""], "at least one character"),
        (&["--prompt", "a", "--prompts", "b"], "cannot be used with"),
        (&[], "--prompt <TEXT>|--prompts <FILE>"),
    ] {
        let (code, _, messages) = mindscale(&[&usual, options].concat(), "");
        assert!(code == 2 && messages.contains(problem), "{options:?}: {messages}");
    }
}

#[test]
fn answers_are_put_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (one, two, prompts) = (at("one"), at("two"), at("prompts.txt"));
    folder(one.as_ref(), 1);
    folder(two.as_ref(), 2);
    fs::write(&prompts, "天空是\na</s>b\n").unwrap();
    let named = format!("second={two}");
    let usual = ["compare", &one, &named, "--prompts", &prompts, "--max-tokens", "12"];
    let (code, text, messages) = mindscale(&usual, "");
    assert!(
        code == 0 && text.starts_with("# Answers side by side\n") && messages.is_empty(),
        "{text}{messages}"
    );
    for part in
        ["| A | one |", "| B | second |", "max_tokens 12, temperature 0.7", "## 2. a\\</s>b", "**B** · "]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let files = ["new/a.md", "new/a.html", "new/a.csv", "new/a.json"].map(at);
    let out: Vec<&str> = files.iter().flat_map(|file| ["--out", file]).collect();
    let (code, text_again, messages) = mindscale(&[&usual, &out[..]].concat(), "");
    assert!(
        code == 0 && text_again.is_empty() && messages.matches("answers written to ").count() == 4,
        "{messages}"
    );
    let read = |file: &str| fs::read_to_string(file).unwrap();
    assert_eq!(read(&files[0]), text, "one seed, one text");
    let (_, json, _) = mindscale(&[&usual, &["--json"][..]].concat(), "");
    assert_eq!(read(&files[3]), json);
    let json: Value = serde_json::from_str(&json).unwrap();
    let of_generate = ["generate", &one, "--chat", "--prompt", "天空是", "--max-tokens", "12"];
    let answer = json["prompts"][0]["answers"][0]["text"].as_str().unwrap();
    assert_eq!(mindscale(&of_generate, "").1, format!("{answer}\n"), "as `generate --chat` has it");
    assert_eq!(
        read(&files[2]).lines().next().unwrap(),
        "prompt_number,prompt,model,stage,form,answer,finish_reason,tokens,score"
    );
    // MiniMind's questions, greedily, without a chat template.
    let (code, text, messages) = mindscale(
        &["compare", &one, "--temperature", "0", "--form", "continuation", "--max-tokens", "2"],
        "",
    );
    assert!(
        code == 0 && text.contains("## 1. 你叫什么名字") && text.contains("| continuation |"),
        "{text}{messages}"
    );
}

#[test]
fn comparisons_that_cannot_be_made_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (one, bare, empty) = (at("one"), at("bare"), at("empty.txt"));
    folder(one.as_ref(), 1);
    folder(bare.as_ref(), 2);
    fs::remove_file(at("bare/tokenizer.json")).unwrap();
    fs::write(&empty, "\n\n").unwrap();
    let same = format!("{one}/../one");
    for (words, expected, problem) in [
        (&[][..], 2, "<MODEL>..."),
        (&["nowhere"], 1, "nowhere: neither a folder nor a stage run in runs"),
        (&[&bare], 1, "tokenizer.json"),
        (&[&one, &same], 1, "is named twice, the second time as"),
        (&[&one, "--prompts", "none.txt"], 1, "none.txt: cannot be read"),
        (&[&one, "--prompts", &empty], 1, "empty.txt: holds no prompt, expected at least one"),
        (&[&one, "--out", "a.docx"], 2, "a.docx: expected a name that ends in .md, .html, .csv or .json"),
        (&[&one, "--temperature", "-1"], 2, "expected 0 (the likeliest token) or more"),
        (&[&one, "--judge", "http://a/v1"], 2, "--judge-model <NAME>"),
        (
            &[&one, "--judge", "http://a/v1", "--judge-model", "j"],
            1,
            "a judge compares models: name two or more",
        ),
        (
            &[&one, "--judge", "a/v1", "--judge-model", "j"],
            1,
            "a/v1: is not a URL, expected the base URL of a server",
        ),
    ] {
        let (code, text, messages) = mindscale(&[&["compare"], words].concat(), "");
        assert!(
            code == expected && messages.contains(problem) && text.is_empty(),
            "{words:?}: {code} {messages}"
        );
    }
}

#[test]
fn a_model_of_ours_may_judge_and_its_babble_is_no_verdict() {
    let server = Running::usual();
    let dir = tempfile::tempdir().unwrap();
    let [one, two, prompts] =
        ["one", "two", "prompts.txt"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    folder(one.as_ref(), 1);
    folder(two.as_ref(), 2);
    fs::write(&prompts, "天\n").unwrap();
    let url = format!("http://{}/v1", server.address);
    let words = [
        "compare",
        &one,
        &two,
        "--prompts",
        &prompts,
        "--max-tokens",
        "4",
        "--form",
        "continuation",
        "--json",
    ];
    let judge = |model: &str| {
        let (code, text, messages) =
            mindscale(&[&words[..], &["--judge", &url, "--judge-model", model]].concat(), "");
        (code, serde_json::from_str::<Value>(&text).unwrap()["judge"].clone(), messages)
    };
    // The prompt exceeds the context of the tiny model.
    let (code, found, messages) = judge("tiny");
    assert!(
        code == 1 && messages.contains("2 of 2 judgements have no verdict; 2 × status 400: the prompt has"),
        "{messages}"
    );
    assert_eq!(
        (&found["valid"], &found["failed"], &found["agreement"]),
        (&0.into(), &2.into(), &Value::Null)
    );
    let (code, found, messages) = judge("nowhere");
    assert!(code == 1 && messages.contains("status 404: there is no model \"nowhere\" here"), "{messages}");
    assert_eq!(found["planned"], 2);
}

#[test]
fn perplexity_counts_conversations_among_texts() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path(), 1);
    let path = dir.path().to_str().unwrap();
    let text = dir.path().join("talk.jsonl");
    let row = |i: u32| {
        let turns = serde_json::json!([
            { "role": "user", "content": format!("天空 {i}") }, { "role": "assistant", "content": "是蓝色的" }]);
        serde_json::json!({ "messages": turns }).to_string() + "\n"
    };
    fs::write(&text, (0..40).map(row).collect::<String>()).unwrap();
    let words = [
        "perplexity",
        path,
        "--text",
        text.to_str().unwrap(),
        text.to_str().unwrap(),
        "--lengths",
        "16,32",
        "--trained",
        "32",
        "--json",
    ];
    let (code, found, messages) = mindscale(&words, "");
    assert_eq!(code, 0, "{messages}");
    assert!(messages.contains("note: --text: 1 of 2 names are duplicates"), "{messages}");
    let found: Value = serde_json::from_str(&found).unwrap();
    assert!(found.as_array().unwrap().len() == 2 && found[0]["tokens"].as_u64().unwrap() > 100, "{found}");
}
