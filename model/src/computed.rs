//! Detection of `config.json` keys that require a computation which is not supported here.
//!
//! [`super::folder`] reads MiniMind's own keys; Hugging Face's keys, which may appear in the same file, are checked for
//! values that would change the outputs of the model. Keys that do not affect outputs are ignored.

use serde_json::{Map, Value};

/// Constraint on the value of a key, if the key is present and not `null`.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Absent,
    Flag(bool),
    Number(f64),
    OneOf(&'static [&'static str]),
}

use Expected::{Absent, Flag, Number, OneOf};

const SILU: Expected = OneOf(&["silu", "swish"]);

/// Keys of Hugging Face's configurations with the values that the model of this project implements.
const KEYS: [(&str, Expected); 40] = [
    ("model_type", OneOf(&["minimind", "llama", "mistral", "qwen3", "qwen2_moe", "qwen3_moe"])),
    ("quantization_config", Absent),
    ("is_encoder_decoder", Flag(false)),
    ("add_cross_attention", Flag(false)),
    ("hidden_act", SILU),
    ("hidden_activation", SILU),
    ("activation_function", SILU),
    ("rope_scaling", Absent),
    ("partial_rotary_factor", Number(1.0)),
    ("rotary_pct", Number(1.0)),
    ("alibi", Flag(false)),
    ("attention_bias", Flag(false)),
    ("attention_out_bias", Flag(false)),
    ("add_qkv_bias", Flag(false)),
    ("qkv_bias", Flag(false)),
    ("mlp_bias", Flag(false)),
    ("lm_head_bias", Flag(false)),
    ("use_bias", Flag(false)),
    ("bias", Flag(false)),
    ("use_qk_norm", Flag(false)),
    ("qk_layernorm", Flag(false)),
    ("use_parallel_residual", Flag(false)),
    ("parallel_attn", Flag(false)),
    ("attention_dropout", Number(0.0)),
    ("attn_logit_softcapping", Absent),
    ("final_logit_softcapping", Absent),
    ("query_pre_attn_scalar", Absent),
    ("attention_multiplier", Absent),
    ("embedding_multiplier", Number(1.0)),
    ("residual_multiplier", Number(1.0)),
    ("logits_scaling", Number(1.0)),
    ("logit_scale", Number(1.0)),
    ("scale_emb", Number(1.0)),
    ("pretraining_tp", Number(1.0)),
    ("n_group", Number(1.0)),
    ("topk_group", Number(1.0)),
    ("routed_scaling_factor", Number(1.0)),
    ("first_k_dense_replace", Number(0.0)),
    ("moe_layer_freq", Number(1.0)),
    ("mlp_only_layers", Absent),
];

/// Names of MiniMind's model class.
const ARCHITECTURES: [&str; 2] = ["Transformer", "MiniMindLM"];

impl Expected {
    fn allows(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => true,
            (Absent, Value::Array(items)) => items.is_empty(),
            (Absent, Value::Object(fields)) => fields.is_empty(),
            (Absent, Value::Bool(says)) => !says,
            (Absent, _) => false,
            (Flag(only), value) => value.as_bool() == Some(only),
            (Number(only), value) => value.as_f64() == Some(only),
            (OneOf(words), value) => value.as_str().is_some_and(|word| words.contains(&word)),
        }
    }

    fn shown(self) -> String {
        match self {
            Absent => "no value".into(),
            Flag(only) => only.to_string(),
            Number(only) => only.to_string(),
            OneOf(words) => words.join(" or "),
        }
    }
}

/// Describes every setting of a `config.json` that is not supported, with its key and value.
pub(crate) fn unsupported_settings(config: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let mut refuse = |key: &str, value: &Value, expected: &str| {
        let mut value = value.to_string();
        if value.chars().count() > 80 {
            value = value.chars().take(77).chain("...".chars()).collect();
        }
        found.push(format!("{key} is {value}, which is not supported, expected {expected}"));
    };
    for (key, expected) in KEYS {
        if let Some(value) = config.get(key).filter(|value| !expected.allows(value)) {
            refuse(key, value, &expected.shown());
        }
    }
    let given = |key: &str| config.get(key).filter(|value| !value.is_null());
    let number = |key: &str| config.get(key).and_then(Value::as_f64);
    let names = |value: &Value, known: &[&str]| {
        value.as_array().is_some_and(|names| {
            names.iter().all(|name| name.as_str().is_some_and(|name| known.contains(&name)))
        })
    };
    if let Some(value) = given("architectures").filter(|value| !names(value, &ARCHITECTURES)) {
        refuse("architectures", value, &ARCHITECTURES.join(" or "));
    }
    // Either all layers share one window or none has a window.
    let slides = config.get("sliding_window").is_some_and(|window| window.is_number())
        && config.get("use_sliding_window") != Some(&Value::Bool(false));
    let layers = if slides { "sliding_attention" } else { "full_attention" };
    if let Some(value) = given("layer_types").filter(|value| !names(value, &[layers])) {
        refuse("layer_types", value, &format!("{layers} only"));
    }
    if let Some(value) = given("rms_norm_eps")
        && value.as_f64() != Some(number("norm_eps").unwrap_or(1e-5))
    {
        refuse("rms_norm_eps", value, "norm_eps");
    }
    if let Some(value) = given("rope_parameters") {
        let inner = |key: &str| value.get(key).filter(|value| !value.is_null());
        let is_plain = inner("rope_type").is_none_or(|kind| kind.as_str() == Some("default"));
        let theta = number("rope_theta").unwrap_or(10000.0);
        let is_same = inner("rope_theta").is_none_or(|value| value.as_f64() == Some(theta));
        let is_whole = inner("partial_rotary_factor").is_none_or(|value| value.as_f64() == Some(1.0));
        if !(is_plain && is_same && is_whole) {
            refuse("rope_parameters", value, "rope_type default with the config's rope_theta");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &str) -> String {
        let config: Map<String, Value> = serde_json::from_str(config).unwrap_or_default();
        unsupported_settings(&config).join("; ")
    }

    #[test]
    fn what_is_not_computed_is_refused_with_key_and_value() {
        for (config, expected) in [
            (
                r#"{"rope_scaling": {"type": "linear", "factor": 2.0}}"#,
                r#"rope_scaling is {"type":"linear","factor":2.0}, which is not supported, expected no value"#,
            ),
            (
                r#"{"hidden_act": "gelu"}"#,
                r#"hidden_act is "gelu", which is not supported, expected silu or swish"#,
            ),
            (
                r#"{"attention_bias": true, "mlp_bias": true}"#,
                "attention_bias is true, which is not supported, expected false; mlp_bias is true",
            ),
            (r#"{"architectures": ["LlamaForCausalLM"]}"#, r#"architectures is ["LlamaForCausalLM"]"#),
            (r#"{"model_type": "qwen2"}"#, r#"model_type is "qwen2""#),
            (r#"{"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0}}"#, "rope_parameters is {"),
            (r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}"#, "rope_parameters is {"),
            (r#"{"rms_norm_eps": 1e-6}"#, "rms_norm_eps is 1e-6"),
            (r#"{"layer_types": ["full_attention", "sliding_attention"]}"#, "layer_types is ["),
            (
                r#"{"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}"#,
                "layer_types is [",
            ),
        ] {
            let found = refused(config);
            assert!(found.starts_with(expected), "{found}\nwhere expected\n{expected}");
        }
    }

    #[test]
    fn what_changes_no_answer_is_left_alone() {
        for config in [
            r#"{"rope_scaling": null, "hidden_act": "silu", "sliding_window": null, "tie_word_embeddings": true}"#,
            r#"{"use_sliding_window": false, "sliding_window": 32768}"#,
            r#"{"architectures": ["Transformer"], "model_type": "minimind", "torch_dtype": "float16", "top_k": 50}"#,
            r#"{"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 500000}}"#,
            r#"{"sliding_window": 64, "layer_types": ["sliding_attention"], "tie_word_embeddings": false}"#,
            r#"{"dim": 64, "n_heads": 4, "head_dim": 16, "norm_eps": 1e-6, "rms_norm_eps": 1e-6}"#,
            r#"{"mlp_only_layers": [], "pretraining_tp": 1, "attention_dropout": 0.0}"#,
        ] {
            assert_eq!(refused(config), "", "{config}");
        }
    }
}
