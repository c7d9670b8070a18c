//! Tests of every feature of the grammar, with expectations computed by hand, and of every error with its exact text.
#![allow(clippy::unwrap_used)]

use super::{Overrides, Sweep, Trial};
use crate::config::ConfigErrors;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

mod length;
mod shipped;
mod solve;
mod tune;

fn with(set: &[&str]) -> Overrides {
    Overrides { set: set.iter().map(|&text| text.into()).collect(), ..Overrides::default() }
}

fn read(text: &str) -> anyhow::Result<Sweep> {
    Sweep::read_str("a.toml", &format!("name = \"a\"\n{text}"), &Overrides::default())
}

/// The trials of a file; its first line holds the name.
fn trials(text: &str) -> Vec<Trial> {
    read(text).unwrap().expand().unwrap()
}

/// The values of each trial's keys.
fn values(text: &str) -> Vec<Vec<Value>> {
    trials(text).into_iter().map(|trial| trial.keys.into_iter().map(|key| key.1).collect()).collect()
}

fn errors(text: &str) -> String {
    match read(text).and_then(|sweep| sweep.expand()) {
        Ok(trials) => panic!("{} trials", trials.len()),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_sweep_without_axes_is_one_trial() {
    let trials = trials("description = 'only one'\n[base]\nseed = 7\n");
    assert_eq!(trials.len(), 1);
    assert_eq!((trials[0].sweep.as_str(), trials[0].config.seed), ("a", 7));
    assert!(trials[0].keys.is_empty());
}

#[test]
fn axes_make_every_combination_the_first_slowest() {
    let text = "[axes]\nseed = [1, 2]\n\"model.n_layers\" = [4, 2, 8]\n";
    let expected = [[1, 4], [1, 2], [1, 8], [2, 4], [2, 2], [2, 8]];
    assert_eq!(values(text), expected.map(|pair| pair.map(Value::from).to_vec()));
    let trials = trials(text);
    assert_eq!((trials[3].config.seed, trials[3].config.model.n_layers), (2, 4));
    let keys: Vec<&str> = trials[0].keys.iter().map(|key| key.0.as_str()).collect();
    assert_eq!(keys, ["seed", "model.n_layers"]);
}

#[test]
fn keys_may_be_nested_tables() {
    assert_eq!(values("[axes.model]\nn_layers = [2]\n[axes.pretrain]\nlr = [1, 2e-3]\n").len(), 2);
    assert_eq!(values("[axes]\nmodel.n_layers = [2, 3]\n"), [[json!(2)], [json!(3)]]);
}

#[test]
fn zipped_keys_move_together() {
    let text = "[axes]\nseed = [1, 2]\n[[zip]]\n\"model.n_experts\" = [0, 4]\n\"model.top_k\" = [1, 2]\n";
    let expected = [[1, 0, 1], [1, 4, 2], [2, 0, 1], [2, 4, 2]];
    assert_eq!(values(text), expected.map(|row| row.map(Value::from).to_vec()));
}

#[test]
fn excluded_combinations_are_left_out() {
    let text =
        "[axes]\nseed = [1, 2]\n\"model.n_layers\" = [2, 4]\n[[exclude]]\nseed = 1\n\"model.n_layers\" = 4\n";
    let expected = [[1, 2], [2, 2], [2, 4]];
    assert_eq!(values(text), expected.map(|row| row.map(Value::from).to_vec()));
    // A key of the base counts as well, and a whole number equals the same float.
    let text =
        "[base]\n[base.pretrain]\nlr = 1\n[axes]\nseed = [1, 2]\n[[exclude]]\nseed = 1\npretrain.lr = 1.0\n";
    assert_eq!(values(text), [[json!(2)]]);
}

#[test]
fn lists_and_unset_are_values_of_an_axis() {
    let text = "[base.lora]\nenabled = true\n[axes]\n\"lora.targets\" = [['wq'], ['wq', 'wv']]\n\"model.hidden_dim\" = ['unset', 96]\n";
    let found = trials(text);
    assert_eq!(found.len(), 4);
    assert_eq!(found[3].config.lora.targets, ["wq", "wv"]);
    assert_eq!((found[0].config.model.hidden_dim, found[1].config.model.hidden_dim), (None, Some(96)));
}

/// 128 entries, of a given tokenizer; all sizes are small enough to count by hand.
const TINY: &str = "[base.tokenizer]\npath = 't'\n[base.model]\nvocab_size = 128\nn_heads = 2\nn_kv_heads = 1\nmultiple_of = 8\nn_layers = 1\n";

#[test]
fn samples_are_drawn_instead_of_combinations() {
    let text = "[axes]\nseed = [1, 2, 3]\n[sample]\ncount = 20\n\"pretrain.lr\" = { log_uniform = [1e-4, 1e-2] }\n\
                model.n_layers = { int_uniform = [2, 5] }\nsft.enabled = { choice = [true, false] }\n\
                pretrain.beta2 = { uniform = [0.9, 0.99] }\n";
    for method in ["", "method = 'random'\n", "method = 'halton'\n"] {
        let text = text.replace("count = 20\n", &format!("count = 20\n{method}"));
        let found = trials(&text);
        assert_eq!(found.len(), 20);
        assert_eq!(found, trials(&text));
        let range = |of: fn(&Trial) -> f64| {
            let values: Vec<f64> = found.iter().map(of).collect();
            (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max))
        };
        let (low, high) = range(|t| t.config.pretrain.training.lr);
        assert!((1e-4..3e-4).contains(&low) && (3e-3..=1e-2).contains(&high), "{low} {high}");
        assert_eq!(range(|t| t.config.model.n_layers as f64), (2.0, 5.0));
        assert_eq!(range(|t| t.config.seed as f64), (1.0, 3.0));
        let (low, high) = range(|t| t.config.pretrain.training.beta2);
        assert!(0.9 <= low && high <= 0.99);
        assert_eq!(found[0].keys.iter().map(|k| k.0.as_str()).next(), Some("seed"));
    }
    let other = text.replace("count = 20\n", "count = 20\nseed = 2\n");
    assert_ne!(trials(text), trials(&other));
    // A seed with a distribution is the trial's.
    let seeds = values("[sample]\ncount = 3\nseed = { choice = [7, 8, 9] }\n");
    assert!(seeds.iter().all(|seed| (7..=9).contains(&seed[0].as_u64().unwrap())));
}

#[test]
fn draws_are_different_and_respect_exclusions() {
    let text = "[axes]\nseed = [1, 2, 3]\n\"model.n_layers\" = [2, 4]\n[sample]\ncount = 5\n[[exclude]]\nseed = 2\n\"model.n_layers\" = 4\n";
    let mut found = values(text);
    found.sort_by_key(|row| (row[0].as_u64(), row[1].as_u64()));
    let expected = [[1, 2], [1, 4], [2, 2], [3, 2], [3, 4]];
    assert_eq!(found, expected.map(|row| row.map(Value::from).to_vec()));
    assert_eq!(
        errors(&text.replace("count = 5", "count = 6")),
        "a.toml:5: sample.count: is 6, but 600 draws gave 5 different trials only; expected fewer trials or wider ranges"
    );
}

#[test]
fn trials_are_named_by_what_they_are() {
    let ids = |text: &str| {
        trials(text).iter().map(|trial| crate::config::setting_key(&trial.config)).collect::<Vec<_>>()
    };
    assert_eq!(ids("[base]\nseed = 2\n"), ids("[base]\nseed = 2\nthreads = 3\n"));
    assert_ne!(ids("[base]\nseed = 2\n"), ids("[base]\nseed = 2\ndevice = 'cuda'\n"));
    assert_eq!(ids("[axes]\nseed = [1, 2]\n")[1], ids("[base]\nseed = 2\n[base.pretrain]\nlr = 0.001\n")[0]);
}

#[test]
fn overrides_win_over_the_base_but_not_silently_over_the_sweep() {
    let text = "name = 'a'\n[base]\nseed = 2\nthreads = 5\n[axes]\n\"model.n_layers\" = [2, 4]\n[solve]\n\"pretrain.tokens\" = { flops = 1e12 }\n";
    let mut overrides = with(&["seed=9"]);
    overrides.env = vec![("MINDSCALE_THREADS".into(), "1".into())];
    let trials = Sweep::read_str("a.toml", text, &overrides).unwrap().expand().unwrap();
    assert!(trials.iter().all(|trial| trial.config.seed == 9 && trial.config.threads == 1));
    overrides = with(&["model.n_layers=3", "pretrain.tokens=5"]);
    overrides.env = vec![("MINDSCALE_MODEL__N_LAYERS".into(), "1".into())];
    assert_eq!(
        Sweep::read_str("a.toml", text, &overrides).unwrap_err().to_string(),
        "--set model.n_layers=3: model.n_layers: is varied by the sweep, see a.toml:6; remove it here or change the file\n\
         --set pretrain.tokens=5: pretrain.tokens: is varied by the sweep, see a.toml:8; remove it here or change the file"
    );
}

#[test]
fn a_preset_lies_under_the_file() {
    let overrides = Overrides { preset: Some("minimind".into()), ..Overrides::default() };
    let text = "name = 'a'\n[base.model]\nn_layers = 16\n";
    let trials = Sweep::read_str("a.toml", text, &overrides).unwrap().expand().unwrap();
    assert_eq!((trials[0].config.model.d_model, trials[0].config.model.n_layers), (512, 16));
}

#[test]
fn a_file_may_name_its_preset() {
    let text = "name = 'a'\npreset = 'minimind'\n[base.model]\nn_layers = 16\n";
    let width = |overrides: &Overrides| {
        let trials = Sweep::read_str("a.toml", text, overrides).unwrap().expand().unwrap();
        (trials[0].config.model.d_model, trials[0].config.model.n_layers)
    };
    assert_eq!(width(&Overrides::default()), (512, 16));
    assert_eq!(width(&Overrides { preset: Some("small".into()), ..Overrides::default() }), (64, 16));
    assert_eq!(
        errors("preset = 'smal'\n"),
        "a.toml:2: preset: there is no \"smal\", expected \"minimind\" or \"small\"; did you mean small?"
    );
}

#[test]
fn all_errors_of_a_file_are_reported_together() {
    let text = "seed = 3\n[base.model]\nn_layer = 2\nn_heads = \"two\"\n[axes]\nseed = 3\n\"model.n_layers\" = []\n\
                \"dpo.loss\" = [\"sigmoid\", \"sigmod\"]\n[axis]\n[pretrain]\nlr = 1\nbatch_sise = 2\nbatch_size = 0\n";
    assert_eq!(
        errors(text),
        "a.toml:2: seed: belongs under [base], as in [base] seed = ..., or under [axes]\n\
         a.toml:4: model.n_layer: unknown key; did you mean model.n_layers?\n\
         a.toml:5: model.n_heads: is \"two\", expected a whole number of 1 to 65536\n\
         a.toml:7: seed: is 3, expected a list of the values to take in turn\n\
         a.toml:8: model.n_layers: is an empty list, expected the values to take in turn\n\
         a.toml:9: dpo.loss: is \"sigmod\", expected \"sigmoid\" or \"ipo\"; did you mean sigmoid?\n\
         a.toml:10: axis: unknown key; did you mean axes?\n\
         a.toml:11: pretrain: belongs under [base]: write [base.pretrain]; swept keys go under [axes]\n\
         a.toml:13: pretrain.batch_sise: unknown key; did you mean pretrain.batch_size?\n\
         a.toml:14: pretrain.batch_size: is 0, expected at least 1"
    );
}

#[test]
fn numbers_out_of_range_are_told_beside_values_of_the_wrong_kind() {
    let text = "[base.data]\nval_share = 'x'\n[base.pretrain]\nbatch_size = 0\nlr = -1\n[base.model]\nn_layers = 0\n\
                [axes]\n'model.n_layers' = [2, 5000]\n[tune]\nseeds = [11]\n'sft.lr' = [1e-3, -1e-3]\n";
    assert_eq!(
        errors(text),
        "a.toml:3: data.val_share: is 'x', expected a number of 0 or more and below 1\n\
         a.toml:5: pretrain.batch_size: is 0, expected at least 1\n\
         a.toml:6: pretrain.lr: is -1, expected a positive number\n\
         a.toml:10: model.n_layers: is 5000, expected at most 4096\n\
         a.toml:13: sft.lr: is -0.001, expected a positive number"
    );
}

#[test]
fn what_is_left_empty_is_told_where_its_part_was_asked_for() {
    assert_eq!(
        errors(
            "[base.data]\nsource = 'files'\npretrain = ['a.txt']\n[base.sft]\nenabled = true\n[base.exam]\nenabled = true\n"
        ),
        "a.toml:6: data.sft: is empty, expected files or globs, or sft.enabled = false\n\
         a.toml:3: data.dpo: is empty, expected files or globs, or dpo.enabled = false\n\
         a.toml:8: exam.sheets: is unset, expected a folder of sheets for data.source = \"files\", or exam.enabled = false"
    );
}

#[test]
fn sections_of_another_form_are_named() {
    let read = |text: &str| match Sweep::read_str("a.toml", text, &Overrides::default()) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    };
    assert_eq!(read(""), "a.toml: name: expected a name for the sweep, such as name = \"deep-vs-wide\"");
    assert_eq!(
        read("name = 'a/b'\n"),
        "a.toml:1: name: 'a/b' does not fit a file: expected no / \\ : * ? \" < > | in it, no dot at its beginning, no dot or space at its end"
    );
    assert_eq!(
        read("name = 'a'\nbase = 1\ndescription = 2\nzip = {}\nexclude = [3]\nqqqqqqqqqq = 1\n"),
        "a.toml:2: base: is 1, expected a table [base]\n\
         a.toml:3: description: is 2, expected text in quotes\n\
         a.toml:4: zip: is a table, expected tables, each under [[zip]]\n\
         a.toml:5: exclude: is 3, expected a table under [[exclude]]\n\
         a.toml:6: qqqqqqqqqq: unknown key, expected name, description, preset, base, axes, zip, solve, exclude, sample, tune, slurm"
    );
    assert!(read("name = \n").starts_with("a.toml:1: not valid TOML: "), "{}", read("name = \n"));
}

#[test]
fn wrong_axes_are_named() {
    assert_eq!(errors("[axes]\nseed = [1, 2, 1]\n"), "a.toml:3: seed: has 1 twice, expected each value once");
    assert_eq!(
        errors("[[zip]]\nseed = [1, 2]\n\"model.n_layers\" = [1, 2, 3]\n"),
        "a.toml:4: model.n_layers: has 3 values, but seed has 2; expected as many"
    );
    assert_eq!(errors("[[zip]]\n"), "a.toml:2: zip: is empty, expected keys with lists of equal length");
    assert_eq!(
        errors("[[exclude]]\n"),
        "a.toml:2: exclude: is empty, expected keys and the values to leave out"
    );
    assert_eq!(
        errors("[axes]\nseed = [1]\n[[zip]]\nseed = [2]\n"),
        "a.toml:5: seed: varies in two ways, see a.toml:3; expected one"
    );
    assert_eq!(
        errors("[axes]\nseed = [1]\n[[exclude]]\nseed = 1\n"),
        "a.toml: exclude: leaves no trial, expected at least one"
    );
    let many = (0..400).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(
        errors(&format!("[axes]\nseed = [{many}]\nworld.seed = [{many}]\n")),
        "a.toml: axes: makes 160000 combinations, expected at most 100000; use [sample]"
    );
}

#[test]
fn wrong_samples_are_named() {
    let sample = |text: &str| errors(&format!("[sample]\n{text}\n"));
    assert_eq!(sample("seed = 1"), "a.toml:2: sample.count: missing, expected the number of trials");
    assert_eq!(
        sample("count = 0\nseed = 'x'\nmethod = 'sobol'"),
        "a.toml:3: sample.count: is 0, expected a number of trials from 1 to 100000\n\
         a.toml:4: sample.seed: is 'x', expected a whole number of 0 or more\n\
         a.toml:5: sample.method: is 'sobol', expected \"random\" or \"halton\""
    );
    assert_eq!(
        sample("cuont = 3\ncount = 1\nqqqqqqqq = 2"),
        "a.toml:3: cuont: unknown key; did you mean count?\n\
         a.toml:5: qqqqqqqq: unknown key; docs/configuration.md lists every key"
    );
    let key = |text: &str| {
        let message = sample(&format!("count = 1\n{text}"));
        message.strip_prefix("a.toml:4: ").map(Into::into).unwrap_or(message)
    };
    let expected = "expected one of uniform, log_uniform, int_uniform, choice with its range or list";
    assert_eq!(key("pretrain.lr = 3"), format!("pretrain.lr: is 3, {expected}"));
    assert_eq!(key("pretrain.lr = {}"), format!("pretrain.lr: {expected}"));
    assert_eq!(
        key("pretrain.lr = { log_unifrm = [1, 2] }"),
        format!("pretrain.lr: log_unifrm is unknown, {expected}; did you mean log_uniform?")
    );
    assert_eq!(
        key("pretrain.lr = { log_uniform = [0, 1] }"),
        "pretrain.lr: log_uniform is [0, 1], expected [lowest, highest] above 0, the smaller number first"
    );
    assert_eq!(
        key("pretrain.lr = { uniform = [1, 1] }"),
        "pretrain.lr: uniform is [1, 1], expected [lowest, highest], the smaller number first"
    );
    assert_eq!(
        key("model.n_layers = { uniform = [-1, 1] }"),
        "model.n_layers: uniform is [-1, 1], expected [lowest, highest] of 0 or more, the smaller number first"
    );
    assert_eq!(
        key("model.n_layers = { int_uniform = [1.5, 2] }"),
        "model.n_layers: int_uniform is [1.5, 2], expected [lowest, highest] of whole numbers, the smaller number first"
    );
    assert_eq!(
        key("dpo.loss = { uniform = [0, 1] }"),
        "dpo.loss: uniform draws numbers, but the key holds \"sigmoid\" or \"ipo\"; use choice"
    );
    assert_eq!(key("dpo.loss = { choice = [] }"), "dpo.loss: choice expected a list of values");
    assert_eq!(key("dpo.loss = { choice = ['x'] }"), "dpo.loss: is 'x', expected \"sigmoid\" or \"ipo\"");
}

#[test]
fn impossible_trials_are_named_with_the_trials_they_are_in() {
    let text = "[base.model]\nd_model = 128\n[base.pretrain]\nlr = -1\n[axes]\nseed = [1, 2]\n\"model.n_heads\" = [4, 6, 0]\n";
    assert_eq!(
        errors(text),
        "a.toml:5: pretrain.lr: is -1, expected a positive number\n\
         a.toml:3: model.d_model: 128 is not divisible by n_heads = 6 (in 2 of 6 trials, first where seed = 1, model.n_heads = 6)\n\
         a.toml:8: model.n_heads: is 0, expected at least 1 (in 2 of 6 trials, first where seed = 1, model.n_heads = 0)"
    );
    assert_eq!(
        errors("[axes]\n\"model.n_layers\" = [2, 9000]\n"),
        "a.toml:3: model.n_layers: is 9000, expected at most 4096 (where model.n_layers = 9000)"
    );
}

#[test]
fn trials_that_are_one_setting_are_refused_with_the_reason() {
    assert_eq!(
        errors("[axes]\nseed = [1, 2]\nthreads = [1, 2]\n"),
        "a.toml:4: threads: has no effect, as results do not depend on the number of threads: \
         trials 1 (seed = 1, threads = 1) and 2 (seed = 1, threads = 2) are one setting, and 1 more pairs; \
         vary it only where it has one, with [[zip]] or [[exclude]]"
    );
    assert_eq!(
        errors("[[zip]]\nseed = [1, 2, 1]\n"),
        "a.toml: trials 1 (seed = 1) and 3 (seed = 1) are one setting, expected each once"
    );
    let world = "";
    let files = "[base]\nexam.enabled = false\ntokenizer.path = 't'\n[base.data]\nsource = 'files'\npretrain = ['a']\n\
                 sft = ['b']\ndpo = ['c']\n[base.lora]\nenabled = true\n";
    for (base, key, values, reason) in [
        (world, "model.top_k", "[1, 2]", "model.n_experts = 0 is a dense model"),
        (world, "model.aux_loss_alpha", "[0.0, 0.1]", "model.n_experts = 0 is a dense model"),
        (world, "model.hidden_dim", "['unset', 384]", "the effective width of the feed-forward is 384"),
        (world, "model.multiple_of", "[64, 128]", "the effective width of the feed-forward is 384"),
        (world, "pretrain.decay_share", "[0.1, 0.2]", "only pretrain.schedule = \"wsd\" has a decay phase"),
        (
            world,
            "dpo.packing",
            "['single', 'separated']",
            "preference pairs are never packed, and validation uses all of them",
        ),
        (world, "sft.log_every", "[1, 2]", "it sets how the stage is monitored and recorded"),
        (world, "lora.rank", "[8, 16]", "lora.enabled = false leaves the stage out"),
        (world, "data.max_rows", "[8, 16]", "data.source = \"world\" is not read from files"),
        (world, "exam.dev_sheets", "['a', 'b']", "exam.shots = 0 shows no solved question"),
        (world, "exam.after", "[[], ['dpo']]", "the exam is taken after dpo in any case"),
        (world, "device", "['cuda', 'cuda:1']", "results are the same on every cuda device"),
        (world, "slurm.partition", "['a', 'b']", "it sets where a trial runs"),
        ("[base.model]\nn_experts = 4\n", "model.hidden_dim", "[64, 96]", ""),
        ("[base.sft]\nsteps = 3\n", "sft.epochs", "[1, 2]", "sft.steps = 3 sets the length of the stage"),
        ("[base.sft]\ntokens = 30\n", "sft.epochs", "[1, 2]", "sft.tokens = 30 sets the length of the stage"),
        (
            "[base.sft]\nschedule = 'constant'\n",
            "sft.min_lr_ratio",
            "[0, 1]",
            "sft.schedule = \"constant\" never falls",
        ),
        (
            "[base.sft]\noptimizer = 'adam'\n",
            "sft.weight_decay",
            "[0, 1]",
            "sft.optimizer = \"adam\" decays no weights",
        ),
        ("[base.data]\nval_share = 0\n", "sft.val_tokens", "[8, 9]", "data.val_share = 0 holds nothing out"),
        (
            "[base.sft]\nweight_decay = 0\n",
            "sft.embedding_decay",
            "[1, 2]",
            "sft.weight_decay = 0 decays no weights",
        ),
        (
            "[base.sft]\nhidden_lr = 0\n",
            "sft.hidden_decay",
            "[1, 2]",
            "sft.hidden_lr = 0 leaves these weights as they are",
        ),
        (
            "[base.sft]\nembedding_decay = 0\nhidden_decay = 0\n",
            "sft.weight_decay",
            "[0.1, 0.2]",
            "its multipliers are all 0",
        ),
        (
            "[base.lora]\nenabled = true\n",
            "lora.norm_lr",
            "[1, 2]",
            "adapters take only the multipliers of the matrices in the blocks",
        ),
        (world, "model.window", "['unset', 512]", "no row or prompt is longer than 512 positions"),
        (
            "[base.pretrain]\nseq_len = 64\n[base.sft]\nenabled = false\n[base.dpo]\nseq_len = 96\n[base.exam]\nenabled = false\n",
            "model.window",
            "[96, 128]",
            "no row is longer than 96 positions",
        ),
        (
            world,
            "world.practice",
            "[{ one_hop = 1, reading = 0.2 }, { one_hop = 10, two_hop = 0, reading = 2 }]",
            "its weights are relative to their sum",
        ),
        ("[base.world]\npractice = { one_hop = 1 }\n", "world.practice.two_hop", "[1, 2]", ""),
        (world, "exam.samples", "[0, 2]", "it sets what is recorded, not the score"),
        (
            world,
            "data.special_tokens_in_text",
            "[true, false]",
            "the texts of the built-in world spell no special token",
        ),
        (
            files,
            "tokenizer.train_chars",
            "[8, 9]",
            "tokenizer.path names a tokenizer that is trained already",
        ),
        (files, "world.people", "[8, 9]", "data.source = \"files\" has no world"),
        (files, "data.lora", "[[], ['b']]", "data.sft is used if it is empty"),
        (files, "exam.answer", "['letter', 'cloze']", "exam.enabled = false leaves the exam out"),
    ] {
        let text = format!("{base}[axes]\n\"{key}\" = {values}\n");
        match reason {
            // Each expert is as wide as the feed-forward unless its own width is set; another weight changes the mix.
            "" => assert_eq!(trials(&text).len(), 2),
            _ => {
                let line = 3 + base.lines().count();
                let expected = format!("a.toml:{line}: {key}: has no effect, as {reason}");
                assert!(errors(&text).starts_with(&expected), "{}", errors(&text));
            }
        }
    }
}

#[test]
fn a_weight_is_found_in_its_table() {
    let told = "has no effect, as its weights are relative to their sum: trials 1 (world.practice.two_hop = 1.0) and 2";
    let found = errors("[axes]\n\"world.practice.two_hop\" = [1, 2]\n");
    assert!(found.starts_with(&format!("a.toml:3: world.practice: {told}")), "{found}");
    let sources = "{ web = ['a'], books = ['b'] }";
    let mixed = |stages: &str, web: &str| {
        let base =
            format!("[base.data]\nsource = 'files'\npretrain = {sources}\nmix = {{ books = 1 }}\n{stages}");
        format!("[base]\nexam.enabled = false\n{base}[axes]\n\"data.mix.web\" = {web}\n")
    };
    let only = "[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n";
    assert_eq!(trials(&mixed(only, "[1, 2]")).len(), 2);
    let text =
        mixed(only, "[1, 2]").replace("\"data.mix.web\"", "\"data.mix.books\" = [1, 2]\n\"data.mix.web\"");
    let found = errors(&text);
    let told = "data.mix: has no effect, as the stages mix their sources in the same proportions: trials 1 \
                (data.mix.books = 1.0, data.mix.web = 1.0) and 4 (data.mix.books = 2.0, data.mix.web = 2.0)";
    assert!(found.contains(told), "{found}");
}

#[test]
fn keys_may_vary_where_they_have_an_effect() {
    let letters = "[base.exam]\nanswer = 'cloze'\n";
    for (base, key, values) in [
        ("[base.sft]\nweight_decay = 0.1\n", "sft.embedding_decay", "[1, 2]"),
        ("[base.sft]\nembedding_decay = 0\n", "sft.weight_decay", "[0.1, 0.2]"),
        ("[base.lora]\nenabled = true\n", "lora.hidden_lr", "[1, 2]"),
        ("", "model.window", "[511, 512]"),
        // The texts of options may be longer than the rows.
        (letters, "model.window", "[512, 513]"),
        ("", "world.practice", "[{ one_hop = 1, two_hop = 1 }, { one_hop = 4, two_hop = 1 }]"),
        // Another tokenizer may have special tokens that the world spells.
        ("[base]\ntokenizer.path = 't'\n", "data.special_tokens_in_text", "[true, false]"),
        // At the base shape both train the same model, beside which the others of a grid stand.
        (
            "[base.model]\nbase_width = 128\nbase_head_dim = 32\n",
            "model.parametrization",
            "['standard', 'mup']",
        ),
    ] {
        assert_eq!(trials(&format!("{base}[axes]\n\"{key}\" = {values}\n")).len(), 2, "{key}");
    }
    let experts = "\"model.n_experts\" = [0, 4]\n";
    assert_eq!(trials(&format!("[[zip]]\n{experts}\"model.top_k\" = [0, 2]\n")).len(), 2);
    assert_eq!(trials("[axes]\ndevice = ['cpu', 'cuda']\n").len(), 2);
    // A full grid contains the dense model twice.
    let grid = format!("[axes]\n{experts}\"model.top_k\" = [1, 2]\n");
    assert!(errors(&grid).starts_with("a.toml:4: model.top_k: has no effect, as model.n_experts = 0"));
    let left_out = "[[exclude]]\n\"model.n_experts\" = 0\n\"model.top_k\" = 1\n";
    assert_eq!(trials(&format!("{grid}{left_out}")).len(), 3);
    // A draw of a setting that was drawn before is repeated.
    let drawn = "model.n_experts = { choice = [0, 4] }\nmodel.top_k = { choice = [1, 2, 3] }\n";
    assert_eq!(trials(&format!("[sample]\ncount = 4\n{drawn}")).len(), 4);
    assert!(errors(&format!("[sample]\ncount = 5\n{drawn}")).contains("draws gave 4 different trials only"));
}

#[test]
fn lengths_and_sizes_that_do_not_fit_are_told_where_they_were_set() {
    assert_eq!(
        errors("[base.model]\nmax_seq_len = 128\n[base.sft]\nseq_len = 256\n[base.dpo]\nenabled = false\n"),
        "a.toml:3: pretrain.seq_len: is 512, expected at most model.max_seq_len = 128\n\
         a.toml:5: sft.seq_len: is 256, expected at most model.max_seq_len = 128"
    );
    assert_eq!(
        errors("[base.pretrain]\nsteps = 3\nwarmup_steps = 4\n"),
        "a.toml:4: pretrain.warmup_steps: is 4, expected at most pretrain.steps = 3: pretrain.lr would never be reached"
    );
    assert_eq!(
        errors("[base.model]\nvocab_size = 258\n"),
        "a.toml:3: model.vocab_size: is 258, expected at least 259 for a tokenizer that is trained: 256 bytes and 3 special tokens"
    );
    assert_eq!(trials("[base]\ntokenizer.path = 't'\nmodel.vocab_size = 258\n").len(), 1);
    assert_eq!(
        errors("[base.model]\nn_experts = 2\nexpert_hidden_dim = 0\n"),
        "a.toml:4: model.expert_hidden_dim: is 0, expected at least 1"
    );
    // The width is the default: the error is at the conflicting key that was set.
    assert_eq!(
        errors("[base.model]\nn_heads = 3\n"),
        "a.toml:3: model.d_model: 128 is not divisible by n_heads = 3"
    );
}

/// The number of trials, or the error, of a sweep among the shared cases; `None` if the cases are not available.
fn case(path: &str) -> Option<Result<usize, String>> {
    let path = crate::testing::shared(&format!("cases/{path}"))?;
    let found = Sweep::read(&path, &Overrides::default()).and_then(|sweep| sweep.expand());
    let name = format!("{}/", path.parent().unwrap().display());
    Some(found.map(|trials| trials.len()).map_err(|error| error.to_string().replace(&name, "")))
}

#[test]
fn shared_cases_are_told_before_anything_starts() {
    for (path, expected) in [
        ("28_config/device.toml", Ok(2)),
        ("28_config/slurm.toml", Ok(1)),
        ("28_config/eh0.toml", Err("eh0.toml:14: model.expert_hidden_dim: is 0, expected at least 1")),
        (
            "28_config/warm.toml",
            Err("warm.toml:24: pretrain.warmup_steps: is 100000, expected at most pretrain.steps = 3"),
        ),
        (
            "12_tokenizer_limits/v200.toml",
            Err("v200.toml:12: model.vocab_size: is 200, expected at least 259"),
        ),
        (
            "22b_same_setting_twice/t0.toml",
            Err("t0.toml:30: model.top_k: has no effect, as model.n_experts = 0"),
        ),
        ("22b_same_setting_twice/t1.toml", Err("t1.toml:30: model.aux_loss_alpha: has no effect")),
        ("22b_same_setting_twice/t2.toml", Err("t2.toml:30: pretrain.decay_share: has no effect")),
        (
            "22b_same_setting_twice/t3.toml",
            Err("t3.toml:30: exam.dev_sheets: has no effect, as exam.shots = 0"),
        ),
        (
            "22b_same_setting_twice/t4.toml",
            Err("t4.toml:30: exam.after: has no effect, as the exam is taken after pretrain"),
        ),
    ] {
        match (case(path), expected) {
            (None, _) => return,
            (Some(Ok(found)), Ok(expected)) => assert_eq!(found, expected, "{path}"),
            (Some(Err(found)), Err(expected)) => assert!(found.starts_with(expected), "{found}"),
            (found, expected) => panic!("{path}: {found:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn slurm_is_a_table_of_the_sweep_as_of_its_base() {
    for place in ["slurm", "base.slurm"] {
        let found = trials(&format!("[{place}]\npartition = 'gpu'\nat_once = 2\n"));
        assert_eq!(found[0].config.slurm.partition.as_deref(), Some("gpu"));
        assert_eq!(found[0].config.slurm.at_once, Some(2));
    }
    assert_eq!(
        errors("[slurm]\npartitoin = 'gpu'\n[base.slurm]\n"),
        "a.toml:3: slurm.partitoin: unknown key; did you mean slurm.partition?"
    );
    assert_eq!(
        errors("[slurm]\ntime = '1:00'\n[base.slurm]\ntime = '2:00'\n"),
        "a.toml:5: slurm.time: set a second time, after a.toml:3"
    );
}

#[test]
fn many_errors_are_counted() {
    let layers = (5000..5100).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let message = errors(&format!("[axes]\n\"model.n_layers\" = [{layers}]\n"));
    assert_eq!(message.lines().count(), 21);
    assert!(message.ends_with("\nand 80 more"));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    let read = |path: &Path| format!("{:#}", Sweep::read(path, &Overrides::default()).unwrap_err());
    assert!(read(&path).contains("a.toml: cannot be read: No such file"), "{}", read(&path));
    std::fs::write(&path, b"name = 'a'\n# \xff\n").unwrap();
    assert!(read(&path).ends_with("a.toml:2: not UTF-8, expected a TOML file saved as UTF-8"));
    std::fs::write(&path, "name = 'a'\n").unwrap();
    assert!(Sweep::read(&path, &Overrides::default()).is_ok());
    let broken = Sweep::read_str("a", "nam = 1", &Overrides::default()).unwrap_err();
    assert_eq!(broken.downcast_ref::<ConfigErrors>().unwrap().errors.len(), 2);
}

fn arbitrary_sweep() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "name",
        "base",
        "axes",
        "zip",
        "solve",
        "exclude",
        "sample",
        "model",
        "d_model",
        "model.n_layers",
        "seed",
        "pretrain.lr",
        "pretrain.tokens",
        "lora.targets",
        "params",
        "flops",
        "count",
        "multiple_of",
        "log_uniform",
        "choice",
        "int_uniform",
        "tolerance",
        "a",
        "\"\"",
        "'x.y'",
        "-1",
        "0",
        "1e400",
        "nan",
        "3",
        "1_000",
        "0x10",
        "99999999999999999999",
        "true",
        "'cpu'",
        "1979-05-27",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        "= ",
        ",",
        ".",
        "\n",
        "\n[",
        "]\n",
        " = [",
        "# 中文\n",
        "\"",
        "\u{0}",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_text_is_read_or_refused(text in arbitrary_sweep()) {
        if let Ok(sweep) = Sweep::read_str("a.toml", &text, &Overrides::default()) {
            let _ = sweep.expand();
        }
    }

    #[test]
    fn any_characters_are_read_or_refused(text in "(name = \"a\"\n)?\\PC*") {
        let _ = Sweep::read_str("a.toml", &text, &Overrides::default());
    }

    #[test]
    fn any_shape_is_solved_or_refused(
        key in prop::sample::select(vec!["d_model", "n_layers", "n_heads", "n_experts", "hidden_dim", "multiple_of"]),
        value in any::<i64>(),
        goal in 1.0f64..1e30,
        solved in prop::sample::select(vec!["d_model", "n_layers", "hidden_dim", "expert_hidden_dim", "vocab_size"]),
        multiple_of in 1u64..100_000,
    ) {
        let text = format!(
            "[base.model]\n{key} = {value}\n[solve]\nmodel.{solved} = {{ params = {goal}, multiple_of = {multiple_of} }}\npretrain.tokens = {{ flops = {goal} }}\n"
        );
        if let Ok(sweep) = read(&text) {
            let _ = sweep.expand();
        }
    }
}
