//! Models as transformers has them: the architecture that computes the same, its `config.json`, its tensors.
//!
//! Out: [`config_json`] and [`write_hugging_face`]; in: [`read_config`] and [`to_ours`]. What goes out comes in again
//! with equal bits. *Invariant:* whatever an architecture would compute otherwise is refused, in both directions.

use super::names::{self, Convention};
use super::{NamedTensors, Weights, safetensors};
use crate::{Error, ModelConfig, Result, computed};
use candle_core::{DType, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// An architecture of transformers that computes what some of our models compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Dense.
    Llama,
    /// Dense, with a window, or with heads into which the width does not divide.
    Mistral,
    /// Dense, queries and keys normalised.
    Qwen3,
    /// A mixture of experts with a gated shared one, always there.
    Qwen2Moe,
    /// A mixture of experts without a shared one, queries and keys normalised.
    Qwen3Moe,
}

use Architecture::{Llama, Mistral, Qwen2Moe, Qwen3, Qwen3Moe};

impl Architecture {
    /// All of them, each with its `model_type` and its class.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 5] = [
        (Llama, "llama", "LlamaForCausalLM"),
        (Mistral, "mistral", "MistralForCausalLM"),
        (Qwen3, "qwen3", "Qwen3ForCausalLM"),
        (Qwen2Moe, "qwen2_moe", "Qwen2MoeForCausalLM"),
        (Qwen3Moe, "qwen3_moe", "Qwen3MoeForCausalLM"),
    ];

    /// The one that computes a model.
    ///
    /// # Errors
    /// Where there is none, with the reason.
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

    /// That of a `config.json`, by its `model_type`, or where it has none by its class.
    pub fn named(config: &Map<String, Value>) -> Option<Self> {
        let model_type = config.get("model_type").filter(|value| !value.is_null());
        let class = || config.get("architectures").and_then(|classes| classes.get(0));
        let found = match model_type {
            Some(name) => Self::ALL.iter().find(|(_, known, _)| name == known),
            None => Self::ALL.iter().find(|(.., known)| class().is_some_and(|class| class == known)),
        };
        found.map(|(architecture, ..)| *architecture)
    }

    /// Its class.
    pub fn class(self) -> &'static str {
        Self::ALL.iter().find(|(one, ..)| *one == self).map_or("", |(.., class)| class)
    }

    fn convention(self, config: &ModelConfig) -> Convention {
        // A gate of zero weights opens to sigmoid(0) = 1/2.
        Convention { halves: true, shared_expert: 2.0, head_dim: config.head_dim() }
    }
}

/// Ids of the tokens that begin and end a text.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ends {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends one.
    pub eos: Option<u32>,
}

/// The `config.json` of a model.
///
/// # Errors
/// As [`Architecture::of`].
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
        // The first is that of transformers before 5, the second of those since.
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
            "n_shared_experts": config.n_shared_experts, // ours: 0 where the shared expert is there for the form
            "qkv_bias": true,
        }));
    }
    Ok(json)
}

/// Hidden size of the shared expert that Qwen2-MoE always has; where a model has none, of one that says nothing.
fn shared_size(config: &ModelConfig) -> usize {
    config.expert_dim() * config.n_shared_experts.max(1)
}

/// What Qwen2-MoE has in each layer and a model of ours has not, by transformers' names, all of it zero: biases of
/// queries, keys and values, the gate of the shared expert, and that expert where a model has none.
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

/// The bytes of a `model.safetensors` that transformers loads.
///
/// # Errors
/// As [`Architecture::of`], and where a weight is not finite.
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

/// The keys of a `config.json` of transformers that a shape follows from.
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

/// The shape that a `config.json` of an architecture describes; `path` is named in errors.
///
/// # Errors
/// Where a key is missing, is none, or asks for what is not computed here.
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

    // Whatever else is asked for, by the keys under which it is looked through.
    let mut others = keys.clone();
    for key in ["model_type", "architectures", "qkv_bias"] {
        others.remove(key); // biases are held to be zero as they are read
    }
    others.extend([
        ("norm_eps".to_owned(), json!(file.rms_norm_eps)),
        ("rope_theta".to_owned(), json!(theta)),
        ("use_sliding_window".to_owned(), json!(slides)),
        ("sliding_window".to_owned(), json!(window)),
    ]);
    let mut problems = computed::problems(&others);
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
        // A head size that follows from the width anyway is left to follow from it.
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
                "norm_topk_prob is {}, which is not computed here, expected {only} of a token",
                file.norm_topk_prob
            ));
        }
        if file.decoder_sparse_step.is_some_and(|step| step != 1) {
            problems.push("decoder_sparse_step is not 1, but here every layer has experts".into());
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

/// The weights in tensors by transformers' names; `source` is the file that they are from.
///
/// # Errors
/// Where a tensor is missing, of another shape or type, not finite or one too many, and where what must be zero is not.
pub fn to_ours(
    architecture: Architecture,
    config: &ModelConfig,
    mut tensors: NamedTensors,
    source: &Path,
) -> Result<Weights> {
    // Tables of angles, which old files hold, follow from the shape.
    tensors.retain(|name, _| !name.ends_with(".rotary_emb.inv_freq"));
    if architecture == Qwen2Moe {
        for (name, shape) in zeros(config) {
            // Biases may be missing altogether.
            let Some(tensor) = tensors.remove(&name) else { continue };
            check_zero(&tensor, &shape).map_err(|problem| Error::weights(source, &name, problem))?;
        }
    }
    let convention = architecture.convention(config);
    Weights::collect(config, tensors, source, names::hugging_face, |param, values| {
        convention.to_ours(param, &values)
    })
}

/// Fails where a tensor is of another shape, or has an effect.
fn check_zero(tensor: &Tensor, shape: &[usize]) -> std::result::Result<(), String> {
    if tensor.dims() != shape {
        return Err(format!("has shape {:?}, expected {shape:?}", tensor.dims()));
    }
    let values = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
    let values = values.map_err(|error| format!("cannot be read: {error}"))?;
    match values.iter().all(|&value| value == 0.0) {
        true => Ok(()),
        false => Err("is not zero, and what it computes is not computed here".into()),
    }
}
