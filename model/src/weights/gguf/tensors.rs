//! The tensors of a GGUF file: ours under llama.cpp's names, the experts of a layer in one, and what an architecture
//! wants beside.

use super::{Architecture, Precision};
use crate::layout::{Layout, Param};
use crate::weights::names::{self, Convention};
use crate::weights::{Weights, finite};
use crate::{Error, ModelConfig, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

/// A sink that takes no share of any attention.
pub const NO_SINK: f32 = -1e30;

/// The largest number of half precision.
const LARGEST_F16: f32 = 65504.0;

/// A tensor before it is quantised.
pub struct Plain {
    /// llama.cpp's name.
    pub name: String,
    /// The last dimension is that of rows.
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Plain {
    fn new(name: String, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name, shape: shape.to_vec(), values }
    }

    /// In the precision of its file.
    pub fn quantized(self, precision: Precision) -> Result<QTensor> {
        let Self { name, shape, values } = self;
        let is_exact = shape.len() < 2 || name.contains(".ffn_gate_inp.");
        let dtype = if is_exact { GgmlDType::F32 } else { precision.dtype() };
        let fail = |problem: String| Err(Error::Input(format!("tensor {name}: {problem}")));
        let width = shape[shape.len() - 1];
        if !width.is_multiple_of(dtype.block_size()) {
            return fail(format!(
                "its rows have {width} numbers, and q8_0 takes multiples of {}; --type f16 takes any",
                dtype.block_size()
            ));
        }
        if let (GgmlDType::F16, Some(value)) = (dtype, values.iter().find(|value| value.abs() > LARGEST_F16))
        {
            return fail(format!("holds {value}, too large for f16; --type f32 takes any"));
        }
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, dtype)?)
    }
}

/// How numbers lie in the files of an architecture, and the tensor in which each parameter lies, in the layout's order.
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

/// All tensors of a model.
pub fn all(architecture: Architecture, config: &ModelConfig, weights: &Weights) -> Result<Vec<Plain>> {
    let Weights { layout, flat } = weights;
    layout.check_finite(flat)?;
    let (convention, names) = layout_of(architecture, config, layout);
    let (mut found, mut places) = (Vec::<Plain>::new(), HashMap::<String, usize>::new());
    for (param, name) in layout.params.iter().zip(names) {
        let values = convention.to_theirs(param, &flat[param.range.clone()]);
        debug_assert!(finite(&values).is_ok());
        let is_expert = param.name.contains(".experts.");
        // What has one name in common lies one above the other: the rows of queries, keys and values, or experts.
        match places.get(&name) {
            Some(&place) => {
                found[place].values.extend(values);
                found[place].shape[0] += if is_expert { 1 } else { param.shape[0] };
            }
            None => {
                places.insert(name.clone(), found.len());
                let above = if is_expert { vec![1] } else { vec![] };
                found.push(Plain::new(name, &[above, param.shape.clone()].concat(), values));
            }
        }
    }
    if architecture == Architecture::GraniteSwa {
        for layer in 0..config.n_layers {
            let name = format!("blk.{layer}.attn_sinks.weight");
            found.push(Plain::new(name, &[config.n_heads], vec![NO_SINK; config.n_heads]));
        }
    }
    if architecture.wants_all() {
        add_missing(config, weights, &mut found);
    }
    Ok(found)
}

/// The head and the shared expert that an architecture always has, where a model has none of its own.
fn add_missing(config: &ModelConfig, weights: &Weights, found: &mut Vec<Plain>) {
    if config.tie_embeddings {
        let embedding = &weights.layout.params[0];
        let values = weights.flat[embedding.range.clone()].to_vec();
        found.push(Plain::new("output.weight".into(), &embedding.shape, values));
    }
    if config.n_shared_experts == 0 {
        let (d, size) = (config.d_model, config.expert_dim());
        for layer in 0..config.n_layers {
            for (name, shape) in [("gate", [size, d]), ("up", [size, d]), ("down", [d, size])] {
                let name = format!("blk.{layer}.ffn_{name}_shexp.weight");
                found.push(Plain::new(name, &shape, vec![0.0; size * d]));
            }
        }
    }
}
