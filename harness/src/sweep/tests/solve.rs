//! Tests of solved keys, and of every error with its exact text.

use super::{TINY, errors, trials, values};
use serde_json::{Value, json};

#[test]
fn width_is_solved_for_a_number_of_weights() {
    // At d_model 16 the feed-forward is 48 wide: 128*16 + 16*(2*16+16) + 3*16*48 + 3*16 = 5168 weights;
    // at 20 it is 56: 2560 + 20*(40+20) + 3*20*56 + 60 = 7180; at 12 it is 32: 1536 + 432 + 1152 + 36 = 3156.
    for (goal, width) in [(5168, 16), (5100, 16), (7100, 20), (3200, 12)] {
        let text = format!("{TINY}[solve]\n\"model.d_model\" = {{ params = {goal} }}\n");
        assert_eq!(values(&text), [[json!(width)]]);
    }
    // Multiples of 8 that two heads of even size divide: 8, 16, 24.
    let text =
        format!("{TINY}[solve]\nmodel.d_model = {{ params = 7100, multiple_of = 8, tolerance = 0.3 }}\n");
    assert_eq!(trials(&text)[0].config.model.d_model, 16);
}

#[test]
fn depth_and_hidden_sizes_are_solved_as_well() {
    let base = format!("{TINY}d_model = 16\n");
    // 2048 + 16 outside the blocks, 768 + 2304 + 32 = 3104 in each block.
    let text = format!("{base}[solve]\n\"model.n_layers\" = {{ params = {} }}\n", 2064 + 5 * 3104);
    assert_eq!(values(&text), [[json!(5)]]);
    // 2048 + 16 + 768 + 32 = 2864 without the feed-forward, 48 for each hidden unit.
    let text =
        format!("{base}[solve]\n\"model.hidden_dim\" = {{ params = {}, tolerance = 0 }}\n", 2864 + 48 * 77);
    assert_eq!(values(&text), [[json!(77)]]);
    // A token passes three experts, two routed and one shared: 3 * 48 for each hidden unit, and a router of 64.
    let text = format!(
        "{base}n_experts = 4\n[solve]\n\"model.expert_hidden_dim\" = {{ active_params = {} }}\n",
        2864 + 64 + 3 * 48 * 10
    );
    assert_eq!(values(&text), [[json!(10)]]);
}

#[test]
fn heads_and_weights_without_the_embedding_are_solved_as_well() {
    // Two query heads, one of keys and one of values, at d_model 16: 16 * 6 for each unit of the head dimension. Apart from
    // the embedding's 2048, the feed-forward has 2304 and the norms have 3 * 16.
    let base = format!("{TINY}d_model = 16\n");
    let text = format!(
        "{base}[solve]\n\"model.head_dim\" = {{ non_embedding_params = {}, tolerance = 0 }}\n",
        2304 + 48 + 96 * 12
    );
    assert_eq!(values(&text), [[json!(12)]]);
    let text = format!("{base}[solve]\n\"model.head_dim\" = {{ params = {} }}\n", 2048 + 2304 + 48 + 96 * 30);
    assert_eq!(values(&text), [[json!(30)]]);
    // A head dimension of its own leaves the width free: 128 of the embedding, 48 of attention, 144 of the feed-forward
    // and 3 of norms for each unit of width.
    let text = format!(
        "{base}head_dim = 8\n[solve]\n\"model.d_model\" = {{ params = {}, tolerance = 0 }}\n",
        323 * 17
    )
    .replace("d_model = 16\n", "");
    assert_eq!(values(&text), [[json!(17)]]);
    // At d_model 16, 5168 with the embedding's 2048.
    let text = format!("{TINY}[solve]\n\"model.d_model\" = {{ non_embedding_params = 3120 }}\n");
    assert_eq!(values(&text), [[json!(16)]]);
    assert_eq!(
        errors(&format!("{base}[solve]\n\"model.vocab_size\" = {{ non_embedding_params = 3120 }}\n")),
        "a.toml:12: model.vocab_size: has no effect on non_embedding_params, expected another size"
    );
}

#[test]
fn a_length_is_solved_for_a_number_of_operations() {
    let text = format!(
        "{TINY}[base.pretrain]\nseq_len = 8\ntokens = 7\n[solve]\n\"pretrain.tokens\" = {{ flops = 1e9 }}\n\"model.d_model\" = {{ params = 5168 }}\n"
    );
    let trial = &trials(&text)[0];
    let pretrain = &trial.config.pretrain.training;
    assert_eq!((pretrain.flops, pretrain.tokens), (Some(1e9), None));
    // The shape is solved first, since the cost depends on it; the tokens depend on the data.
    assert_eq!(trial.keys, [("model.d_model".into(), json!(16)), ("pretrain.tokens".into(), Value::Null)]);
    assert_eq!(
        errors("[base.sft]\nflops = 1e9\n[solve]\nsft.tokens = { flops = 2e9 }\n"),
        "a.toml:5: sft.tokens: sft.flops = 1e9 is set as well; set sft.flops = \"unset\""
    );
}

#[test]
fn solving_is_done_for_each_trial() {
    let text = format!(
        "{TINY}[axes]\n\"model.n_heads\" = [2, 4]\n[solve]\n\"model.d_model\" = {{ params = 5168, tolerance = 0.5 }}\n"
    );
    // Multiples of 4 and of 8; with four heads, the one key head and the one value head are half as wide.
    assert_eq!(values(&text), [[json!(2), json!(16)], [json!(4), json!(16)]]);
}

#[test]
fn wrong_constraints_are_named() {
    let solve = |text: &str| errors(&format!("[solve]\n{text}\n"));
    assert_eq!(
        solve("model.n_heads = { params = 1 }"),
        "a.toml:3: model.n_heads: cannot be solved, expected model.d_model, model.n_layers, model.head_dim, \
         model.hidden_dim, model.expert_hidden_dim, model.vocab_size or the tokens of a stage"
    );
    assert_eq!(
        solve("model.d_modle = { params = 1 }"),
        "a.toml:3: model.d_modle: unknown key; did you mean model.d_model?"
    );
    let shape = "{ params = N }, { active_params = N } or { non_embedding_params = N }, with multiple_of and tolerance as needed";
    assert_eq!(solve("model.d_model = 5"), format!("a.toml:3: model.d_model: is 5, expected {shape}"));
    assert_eq!(
        solve("model.d_model = { flops = 1e9 }"),
        format!("a.toml:3: model.d_model: flops does not belong here, expected {shape}")
    );
    assert_eq!(
        solve("model.d_model = { param = 1e9 }"),
        format!(
            "a.toml:3: model.d_model: param does not belong here, expected {shape}; did you mean params?"
        )
    );
    assert_eq!(
        solve("model.d_model = { multiple_of = 8 }"),
        format!("a.toml:3: model.d_model: has 0 constraints, expected {shape}")
    );
    assert_eq!(
        solve("model.d_model = { params = -1 }"),
        "a.toml:3: model.d_model: params is -1, expected a number of 1 or more"
    );
    assert_eq!(
        solve("model.d_model = { params = 1, multiple_of = 0 }"),
        "a.toml:3: model.d_model: multiple_of is 0, expected a whole number of 1 to 1048576"
    );
    assert_eq!(
        solve("model.d_model = { params = 1, tolerance = 3 }"),
        "a.toml:3: model.d_model: tolerance is 3, expected a share of 0 or more and below 1"
    );
    assert_eq!(
        solve("model.d_model = { params = 1e6 }\nmodel.n_layers = { params = 1e6 }"),
        "a.toml:4: model.n_layers: model.d_model is solved for a number of weights already, expected one such key"
    );
    assert_eq!(
        errors("[solve]\nmodel.d_model = { params = 1e6 }\n[[exclude]]\nmodel.d_model = 64\n"),
        "a.toml:5: model.d_model: is solved, expected a key that is set before solving"
    );
    assert_eq!(
        errors("[base.sft]\nenabled = false\n[solve]\nsft.tokens = { flops = 1e9 }\n"),
        "a.toml:5: sft.tokens: the stage is disabled; set sft.enabled = true"
    );
    assert_eq!(
        errors("[base.sft]\nsteps = 3\n[solve]\nsft.tokens = { flops = 1e9 }\n"),
        "a.toml:5: sft.tokens: sft.steps = 3 would take precedence; set sft.steps = \"unset\""
    );
    assert_eq!(
        errors("[solve]\nmodel.expert_hidden_dim = { params = 1e9 }\n"),
        "a.toml:3: model.expert_hidden_dim: has no effect on a dense model, expected model.n_experts of 1 or more"
    );
}

#[test]
fn a_constraint_without_a_solution_names_the_nearest() {
    // As computed above: 5168 at 16, 7180 at 20.
    let solve = |goal: u64, more: &str| {
        errors(&format!("{TINY}[solve]\nmodel.d_model = {{ params = {goal}{more} }}\n"))
    };
    assert_eq!(
        solve(6000, ", multiple_of = 4"),
        "a.toml:11: model.d_model: no multiple of 4 gives params = 6000 within 2 %; the nearest, 16, gives 5168, 13.9 % fewer"
    );
    assert_eq!(
        solve(6400, ", tolerance = 0.121"),
        "a.toml:11: model.d_model: no multiple of 4 (of multiple_of = 1 and of 2 n_heads = 4) gives params = 6400 \
         within 12.1 %; the nearest, 20, gives 7180, 12.2 % more"
    );
    assert_eq!(
        errors("[solve]\npretrain.tokens = { flops = 1 }\n").split(" gives").next(),
        Some("a.toml:3: pretrain.tokens: flops = 1e0")
    );
}
