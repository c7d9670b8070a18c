//! GGUF files back into models: those that [`super::write`] writes, and others of the same architectures and layout.
//!
//! The tokenizer in the file is left alone: it is in llama.cpp's form.

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

/// Reads shape and weights; f16 and q8_0 become f32.
///
/// # Errors
/// Where the file cannot be read, is of another architecture, or holds what that does not compute here.
pub fn read(path: &Path) -> Result<(ModelConfig, Weights)> {
    let fail = |problem: String| Error::file(path, problem);
    let file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut file = BufReader::new(file);
    let content = Content::read(&mut file).map_err(|e| fail(format!("not a readable GGUF file: {e}")))?;
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor =
            content.tensor(&mut file, name, &Device::Cpu).and_then(|tensor| tensor.dequantize(&Device::Cpu));
        let values = tensor.and_then(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
        tensors.insert(
            name.clone(),
            values.map_err(|e| Error::weights(path, name, format!("cannot be read: {e}")))?,
        );
    }
    let about = About { content: &content, path };
    let architecture = about.architecture()?;
    let config = about.config(architecture, &mut tensors)?;
    let weights = take(path, architecture, &config, tensors)?;
    Ok((config, weights))
}

/// The metadata of a file.
struct About<'a> {
    content: &'a Content,
    path: &'a Path,
}

impl About<'_> {
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

    /// The shape, which must be one that the architecture computes; takes what is written beside a model that has none
    /// of its own out of the tensors.
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
            // The shortest decimal that is this f32: 1e-5 and not 9.99999975e-6.
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
            Ok(known) if known == architecture => Ok(config),
            _ => self.fail(format!("{} of another kind than is computed here", architecture.name())),
        }
    }
}

/// The weights, part by part out of the tensors in which they lie.
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
        Some(name) => Err(Error::weights(path, &name, "not a tensor of this shape of model".into())),
        None => Ok(weights),
    }
}
