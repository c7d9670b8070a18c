//! Tests of `[tune]`: its candidates, and every error with its exact text.

use super::{errors, trials, with};
use crate::config::TrainStage;
use crate::sweep::{Part, Sweep, Trial};
use serde_json::{Value, json};

const BASE: &str =
    "[base.pretrain]\nsteps = 100\nwarmup_steps = 5\n[axes]\nseed = [1, 2]\n\"model.n_layers\" = [2, 4]\n";

/// A candidate: name of its group, indices of its value and its rung, and its keys.
type Tried = (String, usize, usize, Vec<(String, Value)>);

fn candidates(trials: &[Trial]) -> Vec<Tried> {
    let of = |trial: &Trial| match &trial.part {
        Some(Part::Candidate { tuning, value, rung }) => {
            Some((tuning.of.clone(), *value, *rung, trial.keys.clone()))
        }
        _ => None,
    };
    trials.iter().filter_map(of).collect()
}

#[test]
fn a_grid_tries_every_value_for_every_setting() {
    let found = trials(&format!("{BASE}[tune]\nseeds = [7, 8]\n\"pretrain.lr\" = [1e-3, 2e-3, 4e-3]\n"));
    assert_eq!(found.len(), 2 * 3 * 2 + 4);
    let tried = candidates(&found);
    let key = |key: &str, value: Value| (key.to_string(), value);
    let keys = |lr: f64, seed: u64, layers: u64| {
        vec![key("model.n_layers", json!(layers)), key("pretrain.lr", json!(lr)), key("seed", json!(seed))]
    };
    assert_eq!(tried[0], ("model.n_layers = 2".into(), 0, 0, keys(1e-3, 7, 2)));
    assert_eq!(tried[1], ("model.n_layers = 2".into(), 0, 0, keys(1e-3, 8, 2)));
    assert_eq!(tried[11], ("model.n_layers = 4".into(), 2, 0, keys(4e-3, 8, 4)));
    let last = &found[15];
    assert_eq!((last.config.seed, last.config.model.n_layers), (2, 4));
    // The tuned key has no value yet, and its first one in the configuration.
    assert_eq!(last.keys[2], key("pretrain.lr", Value::Null));
    assert_eq!(last.config.pretrain.training.lr, 1e-3);
    let Some(Part::Tuned { tuning, chosen: None }) = &last.part else { panic!("{:?}", last.part) };
    assert_eq!((tuning.of.as_str(), tuning.stage), ("model.n_layers = 4", TrainStage::Pretrain));
    assert_eq!((tuning.rungs.as_slice(), tuning.trials()), (&[3][..], 6));
    let chosen = last.with_choice(Some(2)).unwrap();
    assert_eq!((chosen.config.pretrain.training.lr, &chosen.keys[2].1), (4e-3, &json!(4e-3)));
    assert_eq!(chosen.with_choice(None).unwrap(), *last);
}

#[test]
fn rungs_of_halving_are_shorter_the_earlier_they_are() {
    let text = format!(
        "{BASE}[tune]\nseeds = [7]\nmethod = \"halving\"\n\"pretrain.lr\" = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]\n"
    );
    let found = trials(&text);
    let steps: Vec<(usize, Option<u64>)> = found
        .iter()
        .filter_map(|trial| match trial.part {
            Some(Part::Candidate { value: 0, rung, .. }) => {
                Some((rung, trial.config.pretrain.training.steps))
            }
            _ => None,
        })
        .take(3)
        .collect();
    assert_eq!(steps, [(0, Some(25)), (1, Some(50)), (2, Some(100))]);
    let tuning = found[0].part.as_ref().unwrap().tuning();
    assert_eq!((tuning.rungs.as_slice(), tuning.trials()), (&[5, 3, 2][..], 10));
    assert_eq!(found[0].keys.last().unwrap(), &("pretrain.steps".to_string(), json!(25)));
    // A rung with one value would decide nothing.
    let few = trials(&text.replace("3e-3, 4e-3, 5e-3", "3e-3"));
    assert_eq!(few[0].part.as_ref().unwrap().tuning().rungs, [3, 2]);
    // Shares of tokens and of epochs.
    let tokens = trials(
        &text.replace("steps = 100", "tokens = 1_000_001").replace("method", "rungs = 2\nkeep = 0.3\nmethod"),
    );
    assert_eq!(tokens[0].config.pretrain.training.tokens, Some(300_000));
    let epochs = trials(&text.replace("steps = 100", "epochs = 0.1"));
    assert_eq!(epochs[0].config.pretrain.training.epochs, 0.025);
}

#[test]
fn a_rung_shorter_than_its_warm_up_is_refused() {
    let text = format!(
        "{BASE}[tune]\nseeds = [7]\nmethod = \"halving\"\n\"pretrain.lr\" = [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]\n"
    );
    // Of 100 steps the rungs train 25, 50 and 100.
    assert_eq!(candidates(&trials(&text.replace("warmup_steps = 5", "warmup_steps = 25"))).len(), 2 * 3 * 5);
    let problems = errors(&text.replace("warmup_steps = 5", "warmup_steps = 26"));
    assert!(problems.starts_with("a.toml:4: pretrain.warmup_steps: is 26"), "{problems}");
    assert!(problems.contains("; rung 1 of 3 trains a part of the length only"), "{problems}");
}

#[test]
fn settings_that_differ_in_what_at_sets_share_a_value() {
    let more = "\"pretrain.steps\" = [100, 400]\n[tune]\nseeds = [7]\n\"pretrain.lr\" = [1e-3, 2e-3]\n";
    let each =
        trials(&format!("{BASE}{more}").replace("[base.pretrain]\nsteps = 100\n", "[base.pretrain]\n"));
    assert_eq!(candidates(&each).len(), 2 * 2 * 2);
    let at = "at = { \"pretrain.steps\" = 50, \"pretrain.decay_share\" = 0.4 }\n";
    let shared = trials(
        &format!("{BASE}{more}{at}")
            .replace("[base.pretrain]\nsteps = 100\n", "[base.pretrain]\nschedule = \"wsd\"\n"),
    );
    let tried = candidates(&shared);
    assert_eq!(
        tried.iter().map(|tried| tried.0.as_str()).collect::<Vec<_>>(),
        ["model.n_layers = 2", "model.n_layers = 2", "model.n_layers = 4", "model.n_layers = 4"]
    );
    let training = &shared[0].config.pretrain.training;
    assert_eq!((training.steps, training.decay_share), (Some(50), 0.4));
    // The trials of the study have their own.
    assert_eq!(shared.last().unwrap().config.pretrain.training.decay_share, 0.2);
}

#[test]
fn another_stage_decides_where_the_file_says() {
    let text = |more: &str| format!("{BASE}[tune]\nseeds = [7]\n{more}");
    let stage = |more: &str| trials(&text(more))[0].part.as_ref().unwrap().tuning().stage;
    assert_eq!(stage("\"sft.lr\" = [1e-3, 2e-3]\n"), TrainStage::Sft);
    assert_eq!(stage("stage = \"sft\"\n\"model.dropout\" = [0.0, 0.1]\n"), TrainStage::Sft);
    let first = &trials(&text("\"sft.lr\" = [1e-3, 2e-3]\n"))[0];
    assert_eq!((first.is_candidate(), first.until()), (true, Some(TrainStage::Sft)));
    assert_eq!(
        first.stages().map(|(stage, _)| stage).collect::<Vec<_>>(),
        [TrainStage::Pretrain, TrainStage::Sft]
    );
}

#[test]
fn solved_keys_follow_from_what_is_tried() {
    let text = "[axes]\nseed = [1]\n[solve]\n\"model.d_model\" = { params = 1_000_000, tolerance = 0.2 }\n[tune]\nseeds = [7]\n\"model.n_layers\" = [2, 8]\n";
    let found = trials(text);
    let shape = |trial: &Trial| (trial.config.model.n_layers, trial.config.model.params() as f64 / 1e6);
    let [(2, a), (8, b)] = [shape(&found[0]), shape(&found[1])] else { panic!() };
    assert!((a - 1.0).abs() < 0.2 && (b - 1.0).abs() < 0.2, "{a} {b}");
}

#[test]
fn mistakes_are_reported_with_their_places() {
    let tune = |text: &str| errors(&format!("{BASE}[tune]\n{text}"));
    let lr = "\"pretrain.lr\" = [1e-3, 2e-3]\n";
    assert_eq!(
        tune(lr),
        "a.toml:8: tune.seeds: missing, expected seeds that no trial of the study has, such as seeds = [101]"
    );
    assert_eq!(
        tune(&format!("seeds = [2]\n{lr}")),
        "a.toml:9: tune.seeds: has 2, a seed of the study, expected seeds that no trial of the study has"
    );
    assert_eq!(
        tune(&format!("seeds = [7, 7]\n{lr}")),
        "a.toml:9: tune.seeds: is [7, 7], expected a list of different seeds, such as [101]"
    );
    assert_eq!(
        tune("seeds = [7]\n"),
        "a.toml:8: tune: has 0 keys to tune, expected one with the values to try, such as \"pretrain.lr\" = [1e-3, 2e-3, 4e-3]"
    );
    assert_eq!(
        tune("seeds = [7]\n\"pretrain.lr\" = [1e-3]\n"),
        "a.toml:10: pretrain.lr: has one value, expected at least two to choose from"
    );
    assert_eq!(
        tune("seeds = [7]\n\"pretrain.lr\" = [1e-3, 1e-3]\n"),
        "a.toml:10: pretrain.lr: has a value twice, expected each once"
    );
    assert!(
        tune("seeds = [7]\n\"pretrain.ls\" = [1e-3, 2e-3]\n")
            .starts_with("a.toml:10: pretrain.ls: unknown key; did you mean")
    );
    assert_eq!(
        tune(&format!("seeds = [7]\nmethods = \"grid\"\n{lr}")),
        "a.toml:10: tune.methods: unknown key; did you mean method?"
    );
    assert_eq!(
        tune(&format!("seeds = [7]\nmethod = \"random\"\n{lr}")),
        "a.toml:10: tune.method: is \"random\", expected \"grid\" or \"halving\""
    );
    assert_eq!(
        tune(&format!("seeds = [7]\nrungs = 2\n{lr}")),
        "a.toml:10: tune.rungs: is for method = \"halving\" only"
    );
    assert_eq!(
        tune(&format!("seeds = [7]\nmethod = \"halving\"\nkeep = 1.5\n{lr}")),
        "a.toml:11: tune.keep: is 1.5, expected a share above 0 and below 1"
    );
    assert_eq!(
        tune("seeds = [7]\n\"model.n_layers\" = [2, 3]\n"),
        "a.toml:10: model.n_layers: varies in two ways, see a.toml:7; expected one"
    );
    assert_eq!(
        tune("seeds = [7]\n\"seed\" = [5, 6]\n"),
        "a.toml:10: tune.seed: unknown key; did you mean seeds?"
    );
    assert_eq!(
        tune(&format!("seeds = [7]\nstage = \"lora\"\n{lr}")),
        "a.toml:11: pretrain.lr: is chosen by the validation loss of lora, and there is none, as lora.enabled is false"
    );
    assert!(
        tune("seeds = [7]\n\"model.top_k\" = [1, 2]\n")
            .starts_with("a.toml:10: model.top_k: has no effect, as")
    );
    // One of these values is that of no window; the other has an effect.
    let windows = format!("{BASE}[tune]\nseeds = [7]\n\"model.window\" = [64, 512]\n");
    assert_eq!(candidates(&trials(&windows)).len(), 4);
    assert!(
        tune("seeds = [7]\n\"pretrain.lr\" = [1e-3, -1.0]\n").starts_with("a.toml:10: pretrain.lr: is -1")
    );
}

#[test]
fn a_key_that_is_set_from_outside_is_not_tuned() {
    let text = format!("name = \"a\"\n{BASE}[tune]\nseeds = [7]\n\"pretrain.lr\" = [1e-3, 2e-3]\n");
    let error = Sweep::read_str("a.toml", &text, &with(&["pretrain.lr=1e-2"])).unwrap_err().to_string();
    assert_eq!(
        error,
        "--set pretrain.lr=1e-2: pretrain.lr: is varied by the sweep, see a.toml:10; remove it here or change the file"
    );
}
