//! Tests of lengths by measured time, and of every error with its exact text.

use super::{TINY, errors, read, trials};
use crate::sweep::cost::{costs, memory_mb};
use serde_json::{Value, json};
use std::fs;

/// A report as `mindscale report` writes it, of trials with 5168, 8272 and 14480 weights: the first took two exams, and the
/// stage runs of the last two have not finished.
const REPORT: &str = "\
trial,sweep,seed,pretrain.lr,model.n_layers,params,val_loss,stage,status,reason,run.pretrain,pretrain.tokens_per_second
9f0c,speeds,1,0.01,1,5168,2.5,pretrain,done,,pretrain-a,1000.5
9f0c,speeds,1,0.01,1,5168,2.5,pretrain,done,,pretrain-a,1000.5
1d77,speeds,2,0.02,1,5168,2.5,pretrain,done,,pretrain-b,2000
3e52,speeds,1,0.01,2,8272,2.25,pretrain,done,,pretrain-c,500.25
aa01,speeds,2,0.02,2,8272,,,failed,\"too long, stopped\",pretrain-d,
b3c8,speeds,1,0.01,4,14480,,,pending,,,
";

/// The placeholder for the file in messages.
const FILE: &str = "results/speeds/trials.csv";

const MEASURE: &str = "measure first, with a short run of all shapes of this sweep: docs/sweeps.md";

/// The result of a call with a sweep whose `FILE` has this text, and the path of the file.
fn with_report<T>(report: &str, sweep: &str, call: impl Fn(&str) -> T) -> (T, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trials.csv");
    fs::write(&path, report).unwrap();
    let path = path.to_string_lossy();
    (call(&sweep.replace(FILE, &path)), path.into_owned())
}

/// The errors of a sweep whose `FILE` has this text.
fn wrong(report: &str, sweep: &str) -> String {
    let (found, path) = with_report(report, sweep, errors);
    found.replace(&path, FILE)
}

/// A sweep of tiny models of width 16, with these sections before the constraint of 10 seconds for its pretraining.
fn timed(sections: &str) -> String {
    format!(
        "{TINY}d_model = 16\n{sections}[solve]\n\"pretrain.tokens\" = {{ seconds = 10, measured = \"{FILE}\" }}\n"
    )
}

/// The last key of each trial, which is the solved one.
fn solved(report: &str, sweep: &str) -> Vec<(String, Value)> {
    let of = |text: &str| trials(text).into_iter().filter_map(|mut trial| trial.keys.pop()).collect();
    with_report(report, sweep, of).0
}

fn tokens(report: &str, sweep: &str) -> Vec<u64> {
    solved(report, sweep).into_iter().map(|(_, value)| value.as_u64().unwrap()).collect()
}

#[test]
fn a_length_is_the_time_at_the_speed_of_the_shape() {
    // (1000.5 + 2000) / 2 and 500.25 tokens per second; each stage run counts once, whatever its seed and learning rate.
    let sweep = timed("[axes]\n\"model.n_layers\" = [1, 2]\n\"pretrain.lr\" = [0.01, 0.5]\nseed = [1, 7]\n");
    let expected = [15002, 5002].map(|tokens| vec![("pretrain.tokens".to_string(), json!(tokens)); 4]);
    assert_eq!(solved(REPORT, &sweep), expected.concat());
    let (made, _) = with_report(REPORT, &sweep, trials);
    let pretrain = &made[0].config.pretrain.training;
    assert_eq!((pretrain.flops, pretrain.tokens), (None, Some(15002)));
    // A bound as for any tokens, with what fills the last batch of 16 rows of 512.
    let row = &costs(&made[..1], |_| "1".into(), |_, _| None, memory_mb)[0];
    assert_eq!(row.keys.last().unwrap(), &("pretrain.tokens".into(), json!(15002)));
    assert!(row.tokens.unwrap() >= 15002 + 8191, "{row:?}");
    // Fractions of seconds work as well.
    assert_eq!(tokens(REPORT, &timed("").replace("= 10,", "= 0.5,")), [750]);
}

#[test]
fn a_length_follows_a_width_that_is_solved() {
    let report = "model.d_model,params,dpo.tokens_per_second\n20,7180,30\n16,5168,7\n";
    let sweep = format!(
        "{TINY}[solve]\n\"dpo.tokens\" = {{ seconds = 10, measured = \"{FILE}\" }}\n\"model.d_model\" = {{ params = 5168 }}\n"
    );
    assert_eq!(solved(report, &sweep), [("dpo.tokens".into(), json!(70))]);
}

#[test]
fn rows_agree_in_all_that_tells_a_speed_and_in_nothing_else() {
    let report = "model.dropout,model.hidden_dim,model.tie_embeddings,pretrain.optimizer,sft.batch_size,lora.targets,pretrain.tokens_per_second\n\
                  0,,true,adamw,99,x,1\n0.0,64,true,adamw,99,x,2\n0.5,,true,adamw,99,x,3\n0.0,64,false,muon,99,x,4\n";
    let text = |model: &str, optimizer: &str| {
        timed(&format!("{model}\n[base.pretrain]\noptimizer = '{optimizer}'\n[axes]\nsft.batch_size = [8]\n"))
    };
    for (model, optimizer, expected) in [
        ("", "adamw", 10),
        ("hidden_dim = 64", "adamw", 20),
        ("dropout = 0.5", "adamw", 30),
        ("hidden_dim = 64\ntie_embeddings = false", "muon", 40),
    ] {
        assert_eq!(tokens(report, &text(model, optimizer)), [expected], "{model}");
    }
    assert_eq!(
        wrong(report, &text("hidden_dim = 64", "muon")),
        format!(
            "a.toml:17: pretrain.tokens: {FILE} has no row with model.dropout = 0.0, model.hidden_dim = 64, \
             model.tie_embeddings = true, pretrain.optimizer = muon; {MEASURE}"
        )
    );
    assert_eq!(
        wrong(report, &text("hidden_dim = 32", "adamw")),
        format!("a.toml:17: pretrain.tokens: {FILE} has no model.hidden_dim = 32, only unset, 64; {MEASURE}")
    );
}

#[test]
fn shapes_without_a_speed_are_named() {
    let depths = |depths: &str| timed(&format!("[axes]\n\"model.n_layers\" = {depths}\n"));
    assert_eq!(
        wrong(REPORT, &depths("[1, 3]")),
        format!(
            "a.toml:14: pretrain.tokens: {FILE} has no model.n_layers = 3, only 1, 2, 4; {MEASURE} (where model.n_layers = 3)"
        )
    );
    assert_eq!(
        wrong(REPORT, &depths("[4]")),
        format!(
            "a.toml:14: pretrain.tokens: {FILE} has no pretrain.tokens_per_second for model.n_layers = 4, \
             params = 14480, as no such stage run has finished; finish that run"
        )
    );
    // A key set in the base only is noticed by the number of weights: 128 more embeddings of 16.
    assert_eq!(
        wrong(REPORT, &timed("").replace("vocab_size = 128", "vocab_size = 256")),
        format!("a.toml:12: pretrain.tokens: {FILE} has no params = 7216, only 5168, 8272, 14480; {MEASURE}")
    );
    let many = "params,pretrain.tokens_per_second\n1,1\n2,1\n3,1\n4,1\n5,1\n5,1\n6,1\n";
    assert!(wrong(many, &timed("")).contains("has no params = 5168, only 1, 2, 3, 4, 5, ...; "));
}

#[test]
fn shapes_that_would_share_a_speed_are_refused() {
    let sections = "[axes]\npretrain.seq_len = [64, 128]\nmodel.n_heads = [2, 4]\npretrain.lr = [1, 2]\nsft.seq_len = [8, 16]\n";
    assert_eq!(
        wrong(REPORT, &timed(sections)),
        format!(
            "a.toml:17: pretrain.tokens: {FILE} has no column model.n_heads, pretrain.seq_len, which this sweep varies, \
             so that shapes would share a speed; {MEASURE}"
        )
    );
    // A solved size varies, too, and so does a drawn one.
    let sweep = timed("") + "\"model.d_model\" = { params = 5168 }\n";
    assert!(wrong(REPORT, &sweep).contains(" has no column model.d_model, which this sweep varies"));
    let sweep = timed("[sample]\ncount = 1\npretrain.batch_size = { int_uniform = [1, 2] }\n");
    assert!(wrong(REPORT, &sweep).contains(" has no column pretrain.batch_size, which this sweep varies"));
}

#[test]
fn files_without_speeds_are_named() {
    let solve = |report: &str| {
        let found = wrong(report, &timed(""));
        found.strip_prefix("a.toml:12: pretrain.tokens: measured: ").map(Into::into).unwrap_or(found)
    };
    let expected = "expected the trials.csv of a report of trials with pretrain";
    let missing = |only: &str| format!("{FILE} has no column pretrain.tokens_per_second{only}; {expected}");
    assert_eq!(solve(""), missing(""));
    assert_eq!(solve("params,tokens_per_second\n1,2\n"), missing(""));
    assert_eq!(
        solve("sft.tokens_per_second,params,dpo.tokens_per_second\n1,2,3\n"),
        missing(", only sft.tokens_per_second, dpo.tokens_per_second")
    );
    assert_eq!(solve("params,pretrain.tokens_per_second\n"), format!("{FILE} has no rows; {MEASURE}"));
    for speed in ["fast", "0", "-3", "NaN", "inf", "1e999"] {
        assert_eq!(
            solve(&format!("params,pretrain.tokens_per_second\n5168,2\n5168,{speed}\n")),
            format!(
                "{FILE}:3: pretrain.tokens_per_second is \"{speed}\", expected a number above 0, or nothing where there is none"
            )
        );
    }
    let saved_by_excel = solve("params,pretrain.tokens_per_second\r\n5168,2\r\n5168,fast\r\n");
    assert!(saved_by_excel.starts_with(&format!("{FILE}:3: ")), "{saved_by_excel}");
    assert_eq!(
        solve("params,pretrain.tokens_per_second\n5168\n"),
        format!(
            "{FILE}: CSV error: record 1 (line: 2, byte: 34): found record with 1 fields, but the previous record has 2 fields"
        )
    );
    assert_eq!(
        errors("[solve]\npretrain.tokens = { seconds = 1, measured = 'nowhere/trials.csv' }\n"),
        format!(
            "a.toml:3: pretrain.tokens: measured: nowhere/trials.csv: No such file or directory (os error 2), \
             expected the trials.csv of a report; {MEASURE}"
        )
    );
    // Bytes that are not UTF-8.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(&path, b"params,pretrain.tokens_per_second\n\xff,1\n").unwrap();
    let sweep = timed("").replace(FILE, &path.to_string_lossy());
    assert!(read(&sweep).unwrap_err().to_string().contains("valid UTF-8"));
}

#[test]
fn wrong_lengths_are_named() {
    let expected = "{ flops = OPERATIONS } or { seconds = SECONDS, measured = \"results/NAME/trials.csv\" }";
    let solve = |table: &str| {
        let found = errors(&format!("[solve]\nsft.tokens = {table}\n"));
        found.strip_prefix("a.toml:3: sft.tokens: ").map(Into::into).unwrap_or(found)
    };
    for (table, problem) in [
        ("5", format!("is 5, expected {expected}")),
        ("{}", format!("has 0 constraints, expected {expected}")),
        ("{ seconds = 5 }", format!("has seconds without measured, expected {expected}")),
        ("{ measured = 'a' }", format!("has measured without seconds, expected {expected}")),
        ("{ seconds = 5, flops = 1e9 }", format!("has flops and a time, expected {expected}")),
        (
            "{ second = 5 }",
            format!("second does not belong here, expected {expected}; did you mean seconds?"),
        ),
        ("{ params = 5 }", format!("params does not belong here, expected {expected}")),
        ("{ seconds = 0 }", "seconds is 0, expected a number above 0".into()),
        ("{ seconds = inf }", "seconds is inf, expected a number above 0".into()),
        ("{ seconds = '5s' }", "seconds is '5s', expected a number above 0".into()),
        ("{ measured = 5 }", "measured is 5, expected the trials.csv of a report, in quotes".into()),
        ("{ flops = 0.5 }", "flops is 0.5, expected a number of 1 or more".into()),
    ] {
        assert_eq!(solve(table), problem, "{table}");
    }
    for (seconds, comes_to) in [
        ("1e-6", "0.000001 at 1500.25 tokens/s gives 1.50e-3"),
        ("1e12", "1000000000000 at 1500.25 tokens/s gives 1.50e15"),
    ] {
        assert_eq!(
            wrong(REPORT, &timed("").replace("= 10,", &format!("= {seconds},"))),
            format!("a.toml:12: pretrain.tokens: seconds = {comes_to} tokens, expected 1 to 1e15")
        );
    }
    for (key, problem) in [
        ("enabled = false", "the stage is disabled; set pretrain.enabled = true"),
        ("steps = 3", "pretrain.steps = 3 would take precedence; set pretrain.steps = \"unset\""),
        ("flops = 1e9", "pretrain.flops = 1e9 is set as well; set pretrain.flops = \"unset\""),
    ] {
        let found = wrong(REPORT, &timed(&format!("[base.pretrain]\n{key}\n")));
        assert_eq!(found, format!("a.toml:14: pretrain.tokens: {problem}"));
    }
}
