//! Tests of every feature of the grammar, with expectations computed by hand.
#![allow(clippy::unwrap_used)]

use super::{Overrides, Sweep, Trial};
use crate::config::load;
use serde_json::{Value, json};

mod any_text;
mod errors;
mod length;
mod one_setting;
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
fn a_conflict_with_a_preset_names_the_line_of_the_user() {
    assert_eq!(
        errors("preset = 'small'\n[base.model]\nd_model = 1844\n"),
        "a.toml:4: model.n_heads: d_model / n_heads = 461 is odd, but rotary positions need an even head size"
    );
    let set = |set: &str| {
        load(&Overrides { preset: Some("small".into()), set: vec![set.into()], ..Overrides::default() })
    };
    assert_eq!(
        set("model.d_model=1844").unwrap_err().to_string(),
        "--set model.d_model=1844: model.n_heads: d_model / n_heads = 461 is odd, but rotary positions need an even head size"
    );
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
