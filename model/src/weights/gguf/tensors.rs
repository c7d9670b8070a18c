//! The tensors of a GGUF file: our parameters under llama.cpp's names, with the experts of a layer in one tensor, and
//! additional tensors that an architecture requires.

use super::{Architecture, Precision};
use crate::layout::{Layout, Param};
use crate::weights::names::{self, Convention};
use crate::weights::{Weights, finite};
use crate::{Error, ModelConfig, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// Logit of an attention sink so low that the sink has no effect.
pub const NO_SINK: f32 = -1e30;

/// Largest finite number in half precision.
const LARGEST_F16: f32 = 65504.0;

/// A tensor before quantisation.
pub struct F32Tensor {
    /// Name of the tensor in llama.cpp.
    pub name: String,
    /// Shape of the tensor; the last dimension is the row length.
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl F32Tensor {
    fn new(name: String, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name, shape: shape.to_vec(), values }
    }

    /// Converts the tensor to the precision of the file.
    pub fn quantized(self, precision: Precision) -> Result<QTensor> {
        let Self { name, shape, values } = self;
        let is_exact = shape.len() < 2 || name.contains(".ffn_gate_inp.");
        let dtype = if is_exact { GgmlDType::F32 } else { precision.dtype() };
        let fail = |problem: String| Err(Error::Input(format!("tensor {name}: {problem}")));
        let width = shape[shape.len() - 1];
        if !width.is_multiple_of(dtype.block_size()) {
            return fail(format!(
                "has rows of {width} values, but q8_0 requires a multiple of {}; use --type f16",
                dtype.block_size()
            ));
        }
        if let (GgmlDType::F16, Some(value)) = (dtype, values.iter().find(|value| value.abs() > LARGEST_F16))
        {
            return fail(format!("contains {value}, too large for f16; use --type f32"));
        }
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?)
    }
}

/// Returns the layout convention of an architecture, and the name of the tensor that contains each parameter, in the order of
/// our layout.
pub fn layout_of(
    architecture: Architecture,
    config: &ModelConfig,
    layout: &Layout,
) -> (Convention, Vec<String>) {
    let halves = architecture.turns_halves();
    let name = |param: &Param| {
        let name = names::gguf(&param.name);
        match architecture == Architecture::BailingMoe2 {
            true => [".attn_q.", ".attn_k.", ".attn_v."]
                .iter()
                .fold(name, |n, part| n.replace(part, ".attn_qkv.")),
            false => name,
        }
    };
    (
        Convention { halves, shared_expert: 1.0, head_dim: config.head_dim() },
        layout.params.iter().map(name).collect(),
    )
}

/// Creates all tensors of a model.
pub fn all(architecture: Architecture, config: &ModelConfig, weights: &Weights) -> Result<Vec<F32Tensor>> {
    let Weights { layout, flat } = weights;
    layout.check_finite(flat)?;
    let (convention, names) = layout_of(architecture, config, layout);
    let (mut found, mut places) = (Vec::<F32Tensor>::new(), HashMap::<String, usize>::new());
    for (param, name) in layout.params.iter().zip(names) {
        let values = convention.to_theirs(param, &flat[param.range.clone()]);
        debug_assert!(finite(&values).is_ok());
        let is_expert = param.name.contains(".experts.");
        // Parameters with the same name are stacked: the rows of queries, keys and values, or experts.
        match places.get(&name) {
            Some(&place) => {
                found[place].values.extend(values);
                found[place].shape[0] += if is_expert { 1 } else { param.shape[0] };
            }
            None => {
                places.insert(name.clone(), found.len());
                let above = if is_expert { vec![1] } else { vec![] };
                found.push(F32Tensor::new(name, &[above, param.shape.clone()].concat(), values));
            }
        }
    }
    if architecture == Architecture::GraniteSwa {
        for layer in 0..config.n_layers {
            let name = format!("blk.{layer}.attn_sinks.weight");
            found.push(F32Tensor::new(name, &[config.n_heads], vec![NO_SINK; config.n_heads]));
        }
    }
    if architecture.requires_head_and_shared_expert() {
        add_missing(config, weights, &mut found);
    }
    Ok(found)
}

/// Adds the head and the shared experts that an architecture always has, if the model lacks them.
fn add_missing(config: &ModelConfig, weights: &Weights, found: &mut Vec<F32Tensor>) {
    if config.tie_embeddings {
        let embedding = &weights.layout.params[0];
        let values = weights.flat[embedding.range.clone()].to_vec();
        found.push(F32Tensor::new("output.weight".into(), &embedding.shape, values));
    }
    if config.n_shared_experts == 0 {
        let (d, size) = (config.d_model, config.expert_dim());
        for layer in 0..config.n_layers {
            for (name, shape) in [("gate", [size, d]), ("up", [size, d]), ("down", [d, size])] {
                let name = format!("blk.{layer}.ffn_{name}_shexp.weight");
                found.push(F32Tensor::new(name, &shape, vec![0.0; size * d]));
            }
        }
    }
}
