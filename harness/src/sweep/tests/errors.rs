//! Errors of sweep files, with their exact text.

use super::*;
use crate::config::ConfigErrors;
use std::path::Path;

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
fn numbers_out_of_range_are_reported_beside_values_of_the_wrong_kind() {
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
fn what_is_left_empty_is_reported_where_its_part_was_asked_for() {
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
fn lengths_and_sizes_that_do_not_fit_are_reported_where_they_were_set() {
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
fn shared_cases_are_reported_before_anything_starts() {
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
