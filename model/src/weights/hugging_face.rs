//! Conversion from and to models of transformers: the equivalent architecture, its `config.json` and its tensors.
//!
//! [`config_json`] and [`write_hugging_face`] export; [`read_config`] and [`to_ours`] import. An exported model is imported
//! with identical bits. *Invariant:* both directions reject any model for which the two programs would compute different
//! results.

use super::names::{self, Convention};
use super::{NamedTensors, Weights, safetensors};
use crate::{Error, ModelConfig, Result, computed};
use candle_core::{DType, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// An architecture of transformers that is equivalent to some of our models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Dense, without a window.
    Llama,
    /// Dense, with a window, or with a width that is not divisible by the number of heads.
    Mistral,
    /// Dense, with normalised queries and keys.
    Qwen3,
    /// Mixture of experts, always with a gated shared expert.
    Qwen2Moe,
    /// Mixture of experts without a shared expert, with normalised queries and keys.
    Qwen3Moe,
}

use Architecture::{Llama, Mistral, Qwen2Moe, Qwen3, Qwen3Moe};

impl Architecture {
    /// All architectures, each with its `model_type` and its class.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 5] = [
        (Llama, "llama", "LlamaForCausalLM"),
        (Mistral, "mistral", "MistralForCausalLM"),
        (Qwen3, "qwen3", "Qwen3ForCausalLM"),
        (Qwen2Moe, "qwen2_moe", "Qwen2MoeForCausalLM"),
        (Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    ];

    /// Returns the architecture that is equivalent to a model.
    ///
    /// # Errors
    /// If there is none; the error states the reason.
    pub fn of(config: &ModelConfig) -> Result<Self> {
        match (config.is_moe(), config.qk_norm) {
            (false, true) => Ok(Qwen3),
            (false, false) => {
                let is_llama = config.window.is_none() && config.d_model.is_multiple_of(config.n_heads);
                Ok(if is_llama { Llama } else { Mistral })
            }
            (true, false) => Ok(Qwen2Moe),
            (true, true) if config.n_shared_experts == 0 => Ok(Qwen3Moe),
            (true, true) => Err(Error::Input(format!(
                "no architecture of transformers has both normalised queries and keys (model.qk_norm = true) and ungated \
                 shared experts (model.n_shared_experts = {}); one of the two can be exported",
                config.n_shared_experts
            ))),
        }
    }

    /// Returns the architecture of a `config.json` according to its `model_type` or, if that is missing, its class; `None` if
    /// it is not one of these.
    pub fn named(config: &Map<String, Value>) -> Option<Self> {
        let model_type = config.get("model_type").filter(|value| !value.is_null());
        let class = || config.get("architectures").and_then(|classes| classes.get(0));
        let found = match model_type {
            Some(name) => Self::ALL.iter().find(|(_, known, _)| name == known),
            None => Self::ALL.iter().find(|(.., known)| class().is_some_and(|class| class == known)),
        };
        found.map(|(architecture, ..)| *architecture)
    }

    /// Returns the name of the class in transformers.
    pub fn class(self) -> &'static str {
        Self::ALL.iter().find(|(one, ..)| *one == self).map_or("", |(.., class)| class)
    }

    fn convention(self, config: &ModelConfig) -> Convention {
        // A gate with zero weights multiplies the shared expert by sigmoid(0) = 1/2, which the factor 2 cancels.
        Convention { halves: true, shared_expert: 2.0, head_dim: config.head_dim() }
    }
}

/// Ids of the tokens that mark the beginning and the end of a text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// Id of the token that begins a text, if there is one.
    pub bos: Option<u32>,
    /// Id of the token that ends a text, if there is one.
    pub eos: Option<u32>,
}

/// Returns the `config.json` of a model for transformers.
///
/// # Errors
/// Same as [`Architecture::of`].
pub fn config_json(config: &ModelConfig, ends: Ends) -> Result<Value> {
    let architecture = Architecture::of(config)?;
    let model_type = Architecture::ALL.iter().find(|(one, ..)| *one == architecture).map(|(_, name, _)| name);
    let mut json = json!({
        "architectures": [architecture.class()],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ffn_dim(),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim(),
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        // transformers before version 5 reads the first, later versions read the second.
        "rope_theta": config.rope_theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": config.rope_theta },
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": 0.02,
        "use_cache": true,
        "bos_token_id": ends.bos,
        "eos_token_id": ends.eos,
        "dtype": "float32",
        "torch_dtype": "float32",
    });
    let mut add = |more: Value| {
        if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
            json.extend(more);
        }
    };
    match (architecture, config.window) {
        (Llama | Qwen3, None) => add(json!({ "attention_bias": false })),
        (Mistral, window) => add(json!({ "sliding_window": window })),
        (Qwen2Moe | Qwen3Moe, None) => {}
        (_, Some(window)) => {
            add(json!({ "use_sliding_window": true, "sliding_window": window }));
            if architecture != Qwen3Moe {
                let layers = vec!["sliding_attention"; config.n_layers];
                add(json!({ "layer_types": layers, "max_window_layers": 0 }));
            }
        }
    }
    if config.is_moe() {
        add(json!({
            "num_experts": config.n_experts,
            "num_experts_per_tok": config.top_k,
            "norm_topk_prob": config.top_k > 1,
            "moe_intermediate_size": config.expert_dim(),
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "router_aux_loss_coef": config.aux_loss_alpha,
        }));
    }
    if architecture == Qwen2Moe {
        add(json!({
            "shared_expert_intermediate_size": shared_size(config),
            "n_shared_experts": config.n_shared_experts, // our own key: 0 if the shared expert is only a placeholder
            "qkv_bias": true,
        }));
    }
    Ok(json)
}

/// Returns the hidden size of the shared expert that Qwen2-MoE always has; if a model has none, that of a zero placeholder.
fn shared_size(config: &ModelConfig) -> usize {
    config.expert_dim() * config.n_shared_experts.max(1)
}

/// Returns names and shapes of the tensors that Qwen2-MoE has in each layer but our model has not, all zero: the biases of
/// queries, keys and values, the gate of the shared expert, and that expert itself if the model has none.
fn zeros(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (d, heads, size) = (config.d_model, config.heads(), shared_size(config));
    let mut found = vec![];
    for layer in 0..config.n_layers {
        let mut add = |name: &str, shape: &[usize]| {
            found.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
        };
        for (name, width) in [("q", heads.width()), ("k", heads.kv_width()), ("v", heads.kv_width())] {
            add(&format!("self_attn.{name}_proj.bias"), &[width]);
        }
        add("mlp.shared_expert_gate.weight", &[1, d]);
        if config.n_shared_experts == 0 {
            for (name, shape) in [("gate", [size, d]), ("up", [size, d]), ("down", [d, size])] {
                add(&format!("mlp.shared_expert.{name}_proj.weight"), &shape);
            }
        }
    }
    found
}

/// Returns the contents of a `model.safetensors` for transformers.
///
/// # Errors
/// Same as [`Architecture::of`]; also if a weight is not finite.
pub fn write_hugging_face(config: &ModelConfig, weights: &Weights) -> Result<Vec<u8>> {
    let architecture = Architecture::of(config)?;
    let convention = architecture.convention(config);
    let Weights { layout, flat } = weights;
    layout.check_finite(flat)?;
    let mut tensors = vec![];
    for param in &layout.params {
        let name = names::hugging_face(&param.name);
        let values = convention.to_theirs(param, &flat[param.range.clone()]);
        super::finite(&values).map_err(|problem| Error::Input(format!("tensor {name}: {problem}")))?;
        tensors.push((name, param.shape.clone(), values));
    }
    if architecture == Qwen2Moe {
        let zeros = zeros(config).into_iter();
        tensors.extend(zeros.map(|(name, shape)| (name, shape.clone(), vec![0.0; shape.iter().product()])));
    }
    safetensors::serialize(tensors.iter().map(|(name, shape, values)| (name, shape, values.as_slice())), true)
}

/// The keys of a `config.json` of transformers that determine a shape.
#[derive(Debug, Deserialize)]
struct ConfigFile {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<Rope>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<usize>,
    #[serde(alias = "num_local_experts")]
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    #[serde(default)]
    norm_topk_prob: bool,
    moe_intermediate_size: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    n_shared_experts: Option<usize>,
    decoder_sparse_step: Option<usize>,
    router_aux_loss_coef: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Rope {
    rope_theta: Option<f64>,
}

/// Reads the shape from the `config.json` of an architecture; errors mention `path`.
///
/// # Errors
/// If a key is missing or has the wrong type, or requires a computation that is not supported.
pub fn read_config(
    architecture: Architecture,
    keys: &Map<String, Value>,
    path: &Path,
) -> Result<ModelConfig> {
    let fail = |problem: String| Error::file(path, problem);
    let expected = format!("expected the keys of transformers' {}", architecture.class());
    let file: ConfigFile = serde_json::from_value(Value::Object(keys.clone()))
        .map_err(|error| fail(format!("{error}; {expected}")))?;
    let theta = file.rope_parameters.as_ref().and_then(|rope| rope.rope_theta).or(file.rope_theta);
    let theta = theta.unwrap_or(10000.0);
    let slides = match architecture {
        Llama => false,
        Mistral => keys.get("sliding_window").is_none_or(Value::is_number),
        Qwen3 | Qwen2Moe | Qwen3Moe => file.use_sliding_window,
    };
    let window = match keys.get("sliding_window").and_then(Value::as_u64) {
        Some(window) => window as usize,
        None => 4096, // transformers' default
    };

    // Check all other keys, under the names that `computed` expects.
    let mut others = keys.clone();
    for key in ["model_type", "architectures", "qkv_bias"] {
        others.remove(key); // the import checks that biases are zero
    }
    others.extend([
        ("norm_eps".to_owned(), json!(file.rms_norm_eps)),
        ("rope_theta".to_owned(), json!(theta)),
        ("use_sliding_window".to_owned(), json!(slides)),
        ("sliding_window".to_owned(), json!(window)),
    ]);
    let mut problems = computed::unsupported_settings(&others);
    let has_layers = keys.get("layer_types").is_some_and(|layers| !layers.is_null());
    if slides && !has_layers && matches!(architecture, Qwen3 | Qwen2Moe) {
        let is_all = architecture == Qwen3 && file.max_window_layers == Some(0);
        if !is_all {
            problems.push("use_sliding_window is true without layer_types, expected a sliding_attention for every layer".into());
        }
    }

    let head_dim = match (file.head_dim, architecture) {
        (None, Qwen3) => Some(128), // transformers' default
        (head_dim, _) => head_dim,
    };
    let mut config = ModelConfig {
        d_model: file.hidden_size,
        n_layers: file.num_hidden_layers,
        n_heads: file.num_attention_heads,
        n_kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
        // Leave the head size unset if it equals the derived one.
        head_dim: head_dim
            .filter(|head_dim| head_dim.checked_mul(file.num_attention_heads) != Some(file.hidden_size)),
        qk_norm: matches!(architecture, Qwen3 | Qwen3Moe),
        window: slides.then_some(window),
        vocab_size: file.vocab_size,
        tie_embeddings: file.tie_word_embeddings,
        hidden_dim: Some(file.intermediate_size),
        max_seq_len: file.max_position_embeddings,
        norm_eps: file.rms_norm_eps,
        rope_theta: theta,
        ..ModelConfig::default()
    };
    if matches!(architecture, Qwen2Moe | Qwen3Moe) {
        let Some([experts, top_k, size]) =
            all([file.num_experts, file.num_experts_per_tok, file.moe_intermediate_size])
        else {
            let keys = "num_experts, num_experts_per_tok and moe_intermediate_size";
            return Err(fail(format!("lacks one of {keys}; {expected}")));
        };
        (config.n_experts, config.top_k, config.expert_hidden_dim) = (experts, top_k, Some(size));
        config.aux_loss_alpha = file.router_aux_loss_coef.unwrap_or(0.001);
        config.n_shared_experts = 0;
        if file.norm_topk_prob != (top_k > 1) {
            let only = if top_k > 1 { "true for more than one expert" } else { "false for one expert" };
            problems.push(format!(
                "norm_topk_prob is {}, which is not supported, expected {only} per token",
                file.norm_topk_prob
            ));
        }
        if file.decoder_sparse_step.is_some_and(|step| step != 1) {
            problems.push("decoder_sparse_step is not 1, expected 1: experts in every layer".into());
        }
        if architecture == Qwen2Moe {
            let shared = file.shared_expert_intermediate_size.unwrap_or(5632); // transformers' default
            let count =
                file.n_shared_experts.or((size > 0 && shared.is_multiple_of(size)).then(|| shared / size));
            config.n_shared_experts = count.unwrap_or(0);
            if count.and_then(|count| size.checked_mul(count.max(1))) != Some(shared) {
                problems.push(format!(
                    "shared_expert_intermediate_size is {shared}, expected a multiple of moe_intermediate_size = {size}"
                ));
            }
        }
        if experts == 0 {
            problems.push("num_experts is 0, expected at least 1".into());
        }
    }
    if !problems.is_empty() {
        return Err(fail(problems.join("; ")));
    }
    config.validate().map_err(|error| fail(error.to_string()))?;
    Ok(config)
}

fn all<const N: usize>(values: [Option<usize>; N]) -> Option<[usize; N]> {
    values.iter().all(Option::is_some).then(|| values.map(Option::unwrap_or_default))
}

/// Converts tensors with transformers' names to weights; `source` is their file, for errors.
///
/// # Errors
/// If a tensor is missing or unknown, has a wrong shape or type, contains values that are not finite, or is not zero where it
/// must be.
pub fn to_ours(
    architecture: Architecture,
    config: &ModelConfig,
    mut tensors: NamedTensors,
    source: &Path,
) -> Result<Weights> {
    // Old files contain tables of rotary frequencies, which follow from the shape.
    tensors.retain(|name, _| !name.ends_with(".rotary_emb.inv_freq"));
    if architecture == Qwen2Moe {
        for (name, shape) in zeros(config) {
            // Tensors that must be zero may be missing.
            let Some(tensor) = tensors.remove(&name) else { continue };
            check_zero(&tensor, &shape).map_err(|problem| Error::weights(source, &name, problem))?;
        }
    }
    let convention = architecture.convention(config);
    Weights::collect(config, tensors, source, names::hugging_face, |param, values| {
        convention.to_ours(param, &values)
    })
}

/// Checks that a tensor has the expected shape and is zero, and so has no effect.
fn check_zero(tensor: &Tensor, shape: &[usize]) -> std::result::Result<(), String> {
    if tensor.dims() != shape {
        return Err(format!("has shape {:?}, expected {shape:?}", tensor.dims()));
    }
    let values = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
    let values = values.map_err(|error| format!("cannot be read: {}", Error::from(error)))?;
    match values.iter().all(|&value| value == 0.0) {
        true => Ok(()),
        false => Err("is not zero, expected zeros: the model has no such parameter".into()),
    }
}
