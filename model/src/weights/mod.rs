//! A model's weights: one flat buffer, drawn at random or read from files.

pub mod gguf;
pub mod hugging_face;
mod init;
pub mod minimind;
mod names;
mod pickle;
mod pth;
mod safetensors;
mod shards;

use crate::layout::{Layout, Param};
use crate::{Error, ModelConfig, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use hugging_face::write_hugging_face;
pub use pth::read_pth;
pub use safetensors::{read_safetensors, write_safetensors};
pub(crate) use shards::INDEX;
pub use shards::read_shards;

/// Tensors by name, in MiniMind's layout `(out, in)`.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// All weights of a model, on the host.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Where each parameter lies.
    pub layout: Arc<Layout>,
    /// Every weight: `(layout.len(),)`.
    pub flat: Vec<f32>,
}

impl Weights {
    /// Weights drawn as `config.init` says.
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let layout = Arc::new(Layout::new(config));
        Self { flat: init::draw(config, &layout, seed), layout }
    }

    /// Weights taken from named tensors; `source` names where they come from in errors.
    ///
    /// `output.weight`, MiniMind's second name of the tied embedding, must then equal `tok_embeddings.weight`.
    ///
    /// # Errors
    /// Where a tensor is missing, of another shape or type, not finite, or one too many.
    pub fn from_tensors(config: &ModelConfig, tensors: NamedTensors, source: &Path) -> Result<Self> {
        Self::collect(config, tensors, source, str::to_owned, |_, values| values)
    }

    /// As [`Weights::from_tensors`], where tensors have other names and their numbers lie otherwise.
    fn collect(
        config: &ModelConfig,
        mut tensors: NamedTensors,
        source: &Path,
        named: impl Fn(&str) -> String,
        to_ours: impl Fn(&Param, Vec<f32>) -> Vec<f32>,
    ) -> Result<Self> {
        let layout = Arc::new(Layout::new(config));
        let fail = |tensor: &str, problem: String| Error::weights(source, tensor, problem);
        let head = named("output.weight");
        let output = if config.tie_embeddings { tensors.remove(&head) } else { None };
        let mut flat = Vec::with_capacity(layout.len());
        for param in &layout.params {
            let name = named(&param.name);
            let tensor = tensors
                .remove(&name)
                .ok_or_else(|| fail(&name, format!("missing, expected shape {:?}", param.shape)))?;
            flat.extend(to_ours(param, checked(&tensor, param).map_err(|problem| fail(&name, problem))?));
        }
        if let Some(name) = tensors.keys().next() {
            return Err(fail(name, "not a tensor of this shape of model".into()));
        }
        if let Some(output) = output {
            let embedding = &layout.params[0];
            let output = checked(&output, embedding).map_err(|problem| fail(&head, problem))?;
            if output != flat[embedding.range.clone()] {
                let problem = format!(
                    "differs from {}, but this model ties the two; is tie_word_embeddings false?",
                    named(&embedding.name)
                );
                return Err(fail(&head, problem));
            }
        }
        Ok(Self { layout, flat })
    }
}

impl Layout {
    /// Fails where a weight, one of `flat`, is NaN or infinite.
    ///
    /// # Errors
    /// Names the first parameter with such values.
    pub fn check_finite(&self, flat: &[f32]) -> Result<()> {
        for param in &self.params {
            finite(&flat[param.range.clone()])
                .map_err(|problem| Error::Input(format!("tensor {}: {problem}", param.name)))?;
        }
        Ok(())
    }
}

/// Tells of values that are NaN or infinite.
pub(crate) fn finite(values: &[f32]) -> std::result::Result<(), String> {
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} values are NaN or infinite, expected finite numbers", values.len())),
    }
}

/// The values of a tensor that has the expected shape, a floating-point type and finite values.
fn checked(tensor: &Tensor, param: &Param) -> std::result::Result<Vec<f32>, String> {
    if tensor.dims() != param.shape {
        return Err(format!("has shape {:?}, expected {:?}", tensor.dims(), param.shape));
    }
    if !tensor.dtype().is_float() {
        return Err(format!("has type {}, expected a floating-point type", tensor.dtype().as_str()));
    }
    let values = tensor
        .to_dtype(candle_core::DType::F32)
        .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
        .map_err(|e| format!("cannot be read: {e}"))?;
    finite(&values)?;
    Ok(values)
}
