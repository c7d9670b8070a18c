//! Conversion from and to llama.cpp's GGUF files, which contain shape, weights and tokenizer.
//!
//! [`Architecture::of`] selects the llama.cpp architecture that is equivalent to a model, according to `src/models/*.cpp` of
//! October 2026. *Invariant:* a model without an equivalent architecture is rejected.

mod read;
mod tensors;

pub use read::read;

use super::Weights;
use crate::{Error, ModelConfig, Result};
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use std::io::Cursor;

/// Maximum number of layers, and of experts, in llama.cpp.
const MAX_LAYERS_OR_EXPERTS: usize = 512;

/// Number format of matrices in the file; norms and routers are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Single precision, unchanged.
    F32,
    /// Half precision.
    F16,
    /// Eight bits per value, and one scale for every 32 values of a row.
    Q8_0,
}

impl Precision {
    /// Returns the name of the format, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    fn dtype(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::Q8_0 => GgmlDType::Q8_0,
        }
    }

    /// Returns the value of llama.cpp's `enum llama_ftype`.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }
}

/// An architecture of llama.cpp that is equivalent to some of our models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Dense, without a window.
    Llama,
    /// Dense, with a window; its attention sinks and multipliers can be set to have no effect.
    GraniteSwa,
    /// Dense, with normalised queries and keys.
    Qwen3,
    /// Experts with weights renormalised over those of a token; ungated shared experts or none.
    Ernie45Moe,
    /// Experts with weights that are not renormalised; ungated shared experts.
    BailingMoe,
    /// Experts with renormalised weights; no shared experts; normalised queries and keys.
    Qwen3Moe,
    /// Experts with weights that are renormalised or not; ungated shared experts; normalised queries and keys.
    BailingMoe2,
}

use Architecture::{BailingMoe, BailingMoe2, Ernie45Moe, GraniteSwa, Llama, Qwen3, Qwen3Moe};

impl Architecture {
    /// All architectures.
    const ALL: [Self; 7] = [Llama, GraniteSwa, Qwen3, Ernie45Moe, BailingMoe, Qwen3Moe, BailingMoe2];

    /// Returns the architecture that is equivalent to a model.
    ///
    /// # Errors
    /// If there is none; the error states the reason.
    pub fn of(config: &ModelConfig) -> Result<Self> {
        let fail = |problem: String| Err(Error::Input(format!("no architecture of llama.cpp has {problem}")));
        if config.n_layers > MAX_LAYERS_OR_EXPERTS || config.n_experts > MAX_LAYERS_OR_EXPERTS {
            let (layers, experts) = (config.n_layers, config.n_experts);
            return fail(format!(
                "{layers} layers and {experts} experts, expected at most {MAX_LAYERS_OR_EXPERTS}"
            ));
        }
        let is_plain = config.top_k > 1 && config.n_shared_experts == 0;
        match (config.is_moe(), config.qk_norm, config.window) {
            (false, false, None) => Ok(Llama),
            (false, false, Some(_)) => Ok(GraniteSwa),
            (false, true, None) => Ok(Qwen3),
            (true, false, None) => Ok(if config.top_k > 1 { Ernie45Moe } else { BailingMoe }),
            (true, true, None) if is_plain => Ok(Qwen3Moe),
            (true, true, None) if config.heads().width() == config.d_model => Ok(BailingMoe2),
            (true, true, None) => fail(format!(
                "shared experts or a single expert per token together with normalised queries and keys (model.qk_norm), unless \
                 all heads together are as wide as the model; here they are {} and it is {}",
                config.heads().width(),
                config.d_model
            )),
            (false, true, Some(_)) => fail(
                "a window in every layer (model.window) and normalised queries and keys (model.qk_norm)"
                    .into(),
            ),
            (true, _, Some(_)) => {
                fail("a window in every layer (model.window) and experts (model.n_experts)".into())
            }
        }
    }

    /// Returns llama.cpp's name of the architecture.
    pub fn name(self) -> &'static str {
        match self {
            Llama => "llama",
            GraniteSwa => "granite_swa",
            Qwen3 => "qwen3",
            Ernie45Moe => "ernie4_5-moe",
            BailingMoe => "bailingmoe",
            Qwen3Moe => "qwen3moe",
            BailingMoe2 => "bailingmoe2",
        }
    }

    /// Returns whether rotary positions pair the halves of a head (`LLAMA_ROPE_TYPE_NEOX`) instead of neighbours.
    fn turns_halves(self) -> bool {
        matches!(self, Qwen3 | Qwen3Moe | BailingMoe2)
    }

    /// Returns whether the architecture always has a head and a shared expert; if the model lacks them, a copy of the embedding
    /// is written as head and zeros as expert.
    fn requires_head_and_shared_expert(self) -> bool {
        matches!(self, BailingMoe | BailingMoe2)
    }
}

/// Type of a token in llama.cpp (`enum llama_token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// An ordinary piece of text.
    Normal = 1,
    /// A control token, which never represents text.
    Control = 3,
    /// A user-defined token, which represents a piece of text that is never split.
    Added = 4,
    /// An unused entry of the vocabulary, which no text produces.
    Unused = 5,
}

/// A byte-level BPE tokenizer.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Text, in the byte-level alphabet, and type of every entry of the model's vocabulary.
    pub tokens: Vec<(String, TokenKind)>,
    /// Merges in the order in which they were learned, each as two tokens separated by a space.
    pub merges: Vec<String>,
    /// Name of the rule that splits text before merging, as in llama.cpp's `llama-vocab.cpp`.
    pub pre: &'static str,
    /// Id of the token that begins a text and precedes every prompt, if there is one.
    pub bos: Option<u32>,
    /// Id of the token that ends a text, if there is one.
    pub eos: Option<u32>,
    /// Chat template in Jinja, if there is one.
    pub chat_template: Option<String>,
}

/// Returns the contents of a GGUF file; `name` is the name of the model that programs display.
///
/// # Errors
/// Same as [`Architecture::of`]; also if a weight is not finite or too large for the precision, or the row length is not a
/// multiple of its block size.
pub fn write(
    name: &str,
    config: &ModelConfig,
    weights: &Weights,
    precision: Precision,
    vocabulary: &Vocabulary,
) -> Result<Vec<u8>> {
    let architecture = Architecture::of(config)?;
    let metadata = metadata(name, architecture, config, precision, vocabulary);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors = tensors::all(architecture, config, weights)?;
    let tensors = tensors.into_iter().map(|tensor| Ok((tensor.name.clone(), tensor.quantized(precision)?)));
    let tensors: Vec<(String, QTensor)> = tensors.collect::<Result<_>>()?;
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Cursor::new(vec![]);
    gguf_file::write(&mut out, &metadata, &tensors)?;
    Ok(out.into_inner())
}

fn metadata(
    name: &str,
    architecture: Architecture,
    config: &ModelConfig,
    precision: Precision,
    vocabulary: &Vocabulary,
) -> Vec<(String, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let number = |number: usize| Value::U32(u32::try_from(number).unwrap_or(u32::MAX));
    let texts = |all: &mut dyn Iterator<Item = &String>| Value::Array(all.map(|one| text(one)).collect());
    let mut found = vec![
        ("general.architecture".to_owned(), text(architecture.name())),
        ("general.name".to_owned(), text(name)),
        ("general.file_type".to_owned(), Value::U32(precision.file_type())),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let mut add = |key: &str, value: Value| found.push((format!("{}.{key}", architecture.name()), value));
    let heads = config.heads();
    for (key, value) in [
        ("vocab_size", config.vocab_size),
        ("context_length", config.max_seq_len),
        ("embedding_length", config.d_model),
        ("block_count", config.n_layers),
        ("feed_forward_length", config.ffn_dim()),
        ("attention.head_count", heads.n_heads),
        ("attention.head_count_kv", heads.n_kv_heads),
        ("attention.key_length", heads.head_dim),
        ("attention.value_length", heads.head_dim),
        ("rope.dimension_count", heads.head_dim),
    ] {
        add(key, number(value));
    }
    add("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps as f32));
    add("rope.freq_base", Value::F32(config.rope_theta as f32));
    if let Some(window) = config.window {
        add("attention.sliding_window", number(window));
        add("attention.sliding_window_pattern", Value::Array(vec![Value::Bool(true); config.n_layers]));
        add("logit_scale", Value::F32(1.0));
    }
    if config.is_moe() {
        let (size, shared) = (config.expert_dim(), config.n_shared_experts);
        add("expert_count", number(config.n_experts));
        add("expert_used_count", number(config.top_k));
        add("expert_feed_forward_length", number(size));
        add("leading_dense_block_count", Value::U32(0));
        if architecture == Ernie45Moe {
            add("expert_shared_feed_forward_length", number(shared * size));
            add("interleave_moe_layer_step", Value::U32(1));
        }
        if architecture.requires_head_and_shared_expert() {
            add("expert_shared_count", number(shared.max(1)));
            add("expert_weights_scale", Value::F32(1.0));
            add("expert_weights_norm", Value::Bool(config.top_k > 1));
            add("expert_gating_func", Value::U32(1)); // softmax
        }
    }

    let mut add = |key: &str, value: Value| found.push((format!("tokenizer.{key}"), value));
    let kinds = vocabulary.tokens.iter().map(|(_, kind)| Value::I32(*kind as i32));
    add("ggml.model", text("gpt2"));
    add("ggml.pre", text(vocabulary.pre));
    add("ggml.tokens", texts(&mut vocabulary.tokens.iter().map(|(token, _)| token)));
    add("ggml.token_type", Value::Array(kinds.collect()));
    add("ggml.merges", texts(&mut vocabulary.merges.iter()));
    for (key, id) in [("bos", vocabulary.bos), ("eos", vocabulary.eos)] {
        if let Some(id) = id {
            add(&format!("ggml.{key}_token_id"), Value::U32(id));
        }
    }
    add("ggml.add_bos_token", Value::Bool(vocabulary.bos.is_some()));
    add("ggml.add_eos_token", Value::Bool(false));
    if let Some(template) = &vocabulary.chat_template {
        add("chat_template", text(template));
    }
    found
}
