//! Property tests: whatever the text, it is read or refused.

use super::*;
use proptest::prelude::*;

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
