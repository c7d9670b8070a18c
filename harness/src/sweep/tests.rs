//! The grammar and its errors.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Overrides;
use proptest::prelude::*;

fn expand_with(text: &str, overrides: &Overrides) -> Result<Vec<Trial>, String> {
    let sweep = Sweep::read_str("s.toml", text, overrides).map_err(|e| format!("{e:#}"))?;
    sweep.expand().map_err(|e| format!("{e:#}"))
}

fn expand(text: &str) -> Result<Vec<Trial>, String> {
    expand_with(text, &Overrides::default())
}

fn set(values: &[&str]) -> Overrides {
    Overrides { set: values.iter().map(|s| s.to_string()).collect(), ..Overrides::default() }
}

#[test]
fn axes_combine_zips_move_together_and_some_are_left_out() {
    let trials = expand(
        r#"
        name = "s"
        [base]
        seed = 7
        [base.pretrain]
        lr = 2e-3
        [axes]
        "model.n_layers" = [2, 4, 8]
        [[zip]]
        "model.n_experts" = [0, 4]
        "model.top_k" = [2, 1]
        [[exclude]]
        "model.n_layers" = 8
        "model.n_experts" = 4
    "#,
    )
    .unwrap();
    let shapes: Vec<_> = trials
        .iter()
        .map(|t| (t.config.model.n_layers, t.config.model.n_experts, t.config.model.top_k))
        .collect();
    assert_eq!(shapes, [(2, 0, 2), (2, 4, 1), (4, 0, 2), (4, 4, 1), (8, 0, 2)]);
    assert!(trials.iter().all(|t| t.config.seed == 7 && t.config.pretrain.training.lr == 2e-3));
    // Defaults of a stage stay its own.
    assert_eq!(trials[0].config.dpo.training.lr, 4e-5);
    assert_eq!(trials[1].keys[1], ("model.n_experts".into(), serde_json::json!(4)));
}

#[test]
fn constraints_are_solved_per_trial() {
    let trials = expand(
        r#"
        name = "s"
        [base.model]
        vocab_size = 1000
        [axes]
        "model.n_layers" = [2, 8]
        [solve]
        "model.d_model" = { params = 1_000_000, multiple_of = 8, tolerance = 0.1 }
        "pretrain.tokens" = { flops = 1e13 }
    "#,
    )
    .unwrap();
    for trial in &trials {
        let params = trial.config.model.params() as f64;
        assert!((params / 1e6 - 1.0).abs() <= 0.1, "{params}");
        let flops = trial.config.pretrain.training.tokens.unwrap() as f64
            * trial.config.model.train_flops_per_token(512);
        assert!((flops / 1e13 - 1.0).abs() < 1e-6);
        assert_eq!(trial.keys[1].0, "model.d_model");
    }
    let error =
        expand("name = \"s\"\n[solve]\n\"model.d_model\" = { params = 1000, multiple_of = 64 }").unwrap_err();
    assert!(
        error.contains("no multiple of 64 gives 1000 parameters within 0.02; the nearest, 64"),
        "{error}"
    );
}

#[test]
fn samples_are_drawn_by_seed_within_bounds() {
    let text = |method: &str| {
        format!(
            "name = \"s\"\n[sample]\ncount = 20\nmethod = \"{method}\"\n\"pretrain.lr\" = {{ log_uniform = [1e-4, 1e-2] }}\n\"model.n_layers\" = {{ int_uniform = [1, 3] }}"
        )
    };
    for method in ["random", "halton"] {
        let trials = expand(&text(method)).unwrap();
        assert_eq!(trials.len(), 20);
        let rates: Vec<f64> = trials.iter().map(|t| t.config.pretrain.training.lr).collect();
        assert!(rates.iter().all(|r| (1e-4..=1e-2).contains(r)));
        let low = rates.iter().filter(|r| **r < 1e-3).count();
        assert!((5..=15).contains(&low), "{method}: {low} of 20 in the lower decade");
        assert!(trials.iter().all(|t| (1..=3).contains(&t.config.model.n_layers)));
        let again: Vec<f64> =
            expand(&text(method)).unwrap().iter().map(|t| t.config.pretrain.training.lr).collect();
        assert_eq!(rates, again);
    }
}

#[test]
fn layers_win_in_their_order() {
    let text = "name = \"s\"\npreset = \"minimind\"\n[base.model]\nn_layers = 3\n[base.sft]\nenabled = false\n[base.dpo]\nenabled = false";
    let mut overrides = set(&["model.n_kv_heads=4", "exam.system=问"]);
    overrides.env = vec![
        ("MINDSCALE_MODEL__N_KV_HEADS".into(), "2".into()),
        ("MINDSCALE_PRETRAIN__LR".into(), "1e-2".into()),
    ];
    let config = &expand_with(text, &overrides).unwrap()[0].config;
    assert_eq!((config.model.d_model, config.model.n_layers, config.model.n_kv_heads), (512, 3, 4));
    assert_eq!(config.pretrain.training.lr, 1e-2);
    assert_eq!(config.exam.system, "问");
}

#[test]
fn errors_say_where_what_and_what_instead() {
    let error = |text: &str| expand(text).unwrap_err();
    let unknown = error("name = \"s\"\n[base.model]\nn_layer = 3\n[axes]\n\"pretrain.lrr\" = [1]\n");
    assert_eq!(
        unknown,
        "s.toml:3: model.n_layer: unknown key; did you mean model.n_layers?\ns.toml:5: pretrain.lrr: unknown key; did you mean pretrain.lr?"
    );
    let kind = error("name = \"s\"\n[base.model]\nd_model = \"wide\"\n");
    assert!(
        kind.starts_with("s.toml:3: model.d_model: ") && kind.contains("usize") || kind.contains("unsigned"),
        "{kind}"
    );
    let variant = error("name = \"s\"\n[base.model]\ninit = \"xavier\"\n");
    assert!(variant.contains("s.toml:3") && variant.contains("minimind"), "{variant}");
    let shape = error("name = \"s\"\n[axes]\n\"model.d_model\" = [128, 130]\n");
    assert_eq!(shape, "s.toml (model.d_model = 130): model.d_model: 130 is not divisible by n_heads = 4");
    assert!(error("[base]\nseed = 1").contains("name: expected a name"));
    assert!(error("name = \"s\"\nbass = 1").contains("s.toml:2: bass: unknown key; did you mean base?"));
    assert!(error("name = ").starts_with("s.toml:1: "));
    let zip = error("name = \"s\"\n[[zip]]\n\"model.n_experts\" = [0, 4]\n\"model.top_k\" = [2]\n");
    assert_eq!(zip, "s.toml:4: model.top_k: has 1 values, the keys beside it have 2");
    assert!(error("name = \"s\"\n[axes]\nseed = [1, 1]").contains("the same trial occurs twice"));
    let swept = expand_with("name = \"s\"\n[axes]\nseed = [1, 2]", &set(&["seed=3"])).unwrap_err();
    assert!(swept.starts_with("--set seed=3: seed: is swept by s.toml"), "{swept}");
    let files = error("name = \"s\"\n[base.data]\nsource = \"files\"\n");
    assert!(files.contains("data.pretrain: names no files, but pretrain is enabled"), "{files}");
    assert!(
        expand_with("name = \"s\"", &set(&["modl.d_model=3"]))
            .unwrap_err()
            .contains("did you mean model.d_model?")
    );
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "(name|base|axes|solve|sample|zip|\\[|\\]|=|\"|\n|model|d_model|[0-9]|\\{|\\}|,| ){0,30}") {
        let _ = expand(&text);
    }
}
