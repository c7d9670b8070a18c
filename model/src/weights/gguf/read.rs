//! Reading of GGUF files: those that [`super::write`] creates, and others with the same architectures and layout.
//!
//! The tokenizer in the file, which is in llama.cpp's format, is ignored.

use super::Architecture;
use super::tensors::{NO_SINK, layout_of};
use crate::weights::Weights;
use crate::{Error, ModelConfig, Result};
use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Reads shape and weights; other number formats are converted to f32.
///
/// # Errors
/// If the file cannot be read, has another architecture, or its shape is not one that [`Architecture::of`] assigns to this
/// architecture; if its metadata require a computation that is not supported; if a tensor is missing, unknown, of a wrong size
/// or not finite.
pub fn read(path: &Path) -> Result<(ModelConfig, Weights)> {
    let fail = |problem: String| Error::file(path, problem);
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut file = BufReader::new(file);
    let content = Content::read(&mut file)
        .map_err(|e| fail(format!("not a readable GGUF file: {}", Error::from(e))))?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor =
            content.tensor(&mut file, name, &Device::Cpu).and_then(|tensor| tensor.dequantize(&Device::Cpu));
        let values = tensor.and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
        tensors.insert(
            name.clone(),
            values.map_err(|e| Error::weights(path, name, format!("cannot be read: {}", Error::from(e))))?,
        );
    }
    let metadata = Metadata { content: &content, path };
    let architecture = metadata.architecture()?;
    let config = metadata.config(architecture, &mut tensors)?;
    let weights = take(path, architecture, &config, tensors)?;
    Ok((config, weights))
}

/// The metadata of a file.
struct Metadata<'a> {
    content: &'a Content,
    path: &'a Path,
}

impl Metadata<'_> {
    fn fail<T>(&self, problem: String) -> Result<T> {
        Err(Error::file(self.path, problem))
    }

    fn architecture(&self) -> Result<Architecture> {
        let name = match self.content.metadata.get("general.architecture") {
            Some(Value::String(name)) => name.as_str(),
            _ => "",
        };
        let found = Architecture::ALL.into_iter().find(|known| known.name() == name);
        let names = Architecture::ALL.map(Architecture::name).join(", ");
        found.map_or_else(
            || self.fail(format!("general.architecture is {name:?}, expected one of {names}")),
            Ok,
        )
    }

    fn value(&self, architecture: Architecture, key: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{key}", architecture.name()))
    }

    /// Reads the shape, which must be one that the architecture is equivalent to. Removes the placeholders from the tensors: the
    /// copy of a tied embedding, zero shared experts and ineffective attention sinks.
    fn config(
        &self,
        architecture: Architecture,
        tensors: &mut HashMap<String, Vec<f32>>,
    ) -> Result<ModelConfig> {
        let maybe = |key: &str| {
            self.value(architecture, key).and_then(|value| value.to_u32().ok()).map(|v| v as usize)
        };
        let number = |key: &str| match maybe(key) {
            Some(number) => Ok(number),
            None => self.fail(format!("{}.{key}: missing, expected a number", architecture.name())),
        };
        let real = |key: &str| match self.value(architecture, key) {
            // Use the shortest decimal of the f32: 1e-5 instead of 9.99999975e-6.
            Some(Value::F32(value)) => Ok(value.to_string().parse::<f64>().unwrap_or(f64::from(*value))),
            _ => self.fail(format!("{}.{key}: missing, expected an f32", architecture.name())),
        };
        let (d_model, n_heads) = (number("embedding_length")?, number("attention.head_count")?);
        let head_dim = maybe("attention.key_length").unwrap_or(d_model / n_heads.max(1));
        let experts = maybe("expert_count").unwrap_or(0);
        let embedding = tensors.get("token_embd.weight");
        let vocab_size = embedding.map_or(0, |values| values.len() / d_model.max(1));
        let is_tied = tensors.get("output.weight").is_none_or(|head| Some(head) == embedding);
        if is_tied {
            tensors.remove("output.weight");
        }
        let mut config = ModelConfig {
            d_model,
            n_heads,
            n_layers: number("block_count")?,
            n_kv_heads: number("attention.head_count_kv")?,
            head_dim: Some(head_dim).filter(|width| width * n_heads != d_model),
            qk_norm: tensors.contains_key("blk.0.attn_q_norm.weight"),
            tie_embeddings: is_tied,
            vocab_size,
            max_seq_len: number("context_length")?,
            norm_eps: real("attention.layer_norm_rms_epsilon")?,
            rope_theta: real("rope.freq_base")?,
            window: maybe("attention.sliding_window"),
            n_experts: experts,
            ..ModelConfig::default()
        };
        if experts == 0 {
            config.hidden_dim = Some(number("feed_forward_length")?);
        } else {
            let size = number("expert_feed_forward_length")?;
            config.expert_hidden_dim = Some(size);
            config.top_k = number("expert_used_count")?;
            tensors
                .retain(|name, values| !name.contains("_shexp.") || values.iter().any(|&value| value != 0.0));
            let shared = tensors.get("blk.0.ffn_gate_shexp.weight").map_or(0, Vec::len);
            config.n_shared_experts = shared / (size * d_model).max(1);
        }
        tensors.retain(|name, values| {
            !name.ends_with(".attn_sinks.weight") || values.iter().any(|&sink| sink > NO_SINK)
        });
        config.validate().map_err(|e| Error::file(self.path, e.to_string()))?;
        match Architecture::of(&config) {
            Ok(known) if known == architecture => self.check_computation(architecture, &config)?,
            _ => {
                return self.fail(format!(
                    "the metadata describe a variant of {} that is not supported",
                    architecture.name()
                ));
            }
        }
        Ok(config)
    }

    /// Rejects metadata that require a computation that is not supported. An absent key has llama.cpp's default.
    fn check_computation(&self, architecture: Architecture, config: &ModelConfig) -> Result<()> {
        let found = |key: &str| self.value(architecture, key);
        let refuse = |key: &str, expected: &str| {
            let name = architecture.name();
            let found = found(key).map_or_else(|| "missing".into(), shown);
            self.fail(format!("{name}.{key} is {found}, which is not supported, expected {expected}"))
        };
        let check = |key: &str, allowed: &[f64]| match found(key) {
            Some(value) if as_f64(value).is_none_or(|number| !allowed.contains(&number)) => {
                let allowed: Vec<String> = allowed.iter().map(f64::to_string).collect();
                refuse(key, &allowed.join(" or "))
            }
            _ => Ok(()),
        };
        for (key, allowed) in NEUTRAL {
            check(key, allowed)?;
        }
        if found("attention.causal").is_some_and(|value| !matches!(value, Value::Bool(true))) {
            return refuse("attention.causal", "true");
        }
        let head_dim = config.head_dim() as f64;
        check("rope.dimension_count", &[head_dim])?;
        check("attention.value_length", &[head_dim])?;
        check("attention.scale", &[0.0, f64::from((1.0 / head_dim.sqrt()) as f32)])?;
        match found("rope.scaling.type") {
            Some(Value::String(kind)) if kind == "none" => {}
            Some(Value::String(kind)) if kind != "linear" => {
                return refuse("rope.scaling.type", "none, or linear with a factor of 1");
            }
            _ => {
                check("rope.scaling.factor", &[0.0, 1.0])?;
                check("rope.scale_linear", &[0.0, 1.0])?;
            }
        }
        if config.window.is_some() {
            let is_set = |layer: &Value| match layer {
                Value::Bool(flag) => *flag,
                number => as_f64(number).is_some_and(|number| number != 0.0),
            };
            // Without a pattern of rotary positions every layer has them.
            for (key, is_optional) in
                [("attention.sliding_window_pattern", false), ("attention.rope_pattern", true)]
            {
                let is_all = match found(key) {
                    Some(Value::Array(layers)) => {
                        layers.len() == config.n_layers && layers.iter().all(is_set)
                    }
                    found => found.is_none() && is_optional,
                };
                if !is_all {
                    return refuse(key, &format!("true for each of {} layers", config.n_layers));
                }
            }
        }
        if config.is_moe() {
            let (key, expected) = ("expert_weights_norm", config.top_k > 1);
            let is_expected = match found(key) {
                Some(value) => matches!(value, Value::Bool(norm) if *norm == expected),
                // llama.cpp renormalises regardless of the key, or only if it is set.
                None => !(expected && architecture.requires_head_and_shared_expert()),
            };
            if !is_expected {
                return refuse(key, &format!("{expected} for {} experts per token", config.top_k));
            }
        }
        Ok(())
    }
}

/// Keys with the values for which llama.cpp computes what this project computes; many of its factors are unset at 0.
const NEUTRAL: [(&str, &[f64]); 12] = [
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("rope.scaling.attn_factor", &[1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_gating_func", &[1.0]), // softmax
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("interleave_moe_layer_step", &[1.0]),
];

/// Returns a metadata value as a number; `None` if it is of another type.
fn as_f64(value: &Value) -> Option<f64> {
    match *value {
        Value::U8(number) => Some(f64::from(number)),
        Value::I8(number) => Some(f64::from(number)),
        Value::U16(number) => Some(f64::from(number)),
        Value::I16(number) => Some(f64::from(number)),
        Value::U32(number) => Some(f64::from(number)),
        Value::I32(number) => Some(f64::from(number)),
        Value::U64(number) => Some(number as f64),
        Value::I64(number) => Some(number as f64),
        Value::F32(number) => Some(f64::from(number)),
        Value::F64(number) => Some(number),
        Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

/// Returns a metadata value as text for an error, shortened to 80 characters.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::F32(number) => number.to_string(),
        Value::Array(items) => {
            // Enough items to reach the limit.
            let items: Vec<String> = items.iter().take(80).map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        other => as_f64(other).map_or_else(|| format!("{other:?}"), |number| number.to_string()),
    };
    match text.chars().count() {
        0..=80 => text,
        _ => text.chars().take(77).chain("...".chars()).collect(),
    }
}

/// Extracts the weights from the tensors, some of which hold several parameters.
fn take(
    path: &Path,
    architecture: Architecture,
    config: &ModelConfig,
    mut tensors: HashMap<String, Vec<f32>>,
) -> Result<Weights> {
    let mut weights = Weights::random(config, 0);
    let layout = weights.layout.clone();
    let (convention, places) = layout_of(architecture, config, &layout);
    let mut taken: HashMap<&str, usize> = HashMap::new();
    for (param, name) in layout.params.iter().zip(&places) {
        let length = param.range.len();
        let begin = taken.entry(name).or_default();
        let tensor = tensors.get(name).map(Vec::as_slice).unwrap_or_default();
        let Some(values) = tensor.get(*begin..*begin + length) else {
            let problem = format!("has {} numbers, expected at least {}", tensor.len(), *begin + length);
            return Err(Error::weights(path, name, problem));
        };
        crate::weights::finite(values).map_err(|problem| Error::weights(path, name, problem))?;
        weights.flat[param.range.clone()].copy_from_slice(&convention.to_ours(param, values));
        *begin += length;
    }
    for (name, length) in taken {
        let found = tensors.remove(name).map_or(0, |values| values.len());
        if found != length {
            return Err(Error::weights(path, name, format!("has {found} numbers, expected {length}")));
        }
    }
    match tensors.into_keys().next() {
        Some(name) => {
            Err(Error::weights(path, &name, "unexpected: a model of this shape has no such tensor".into()))
        }
        None => Ok(weights),
    }
}
