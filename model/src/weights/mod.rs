//! Weights of a model: one flat buffer, drawn at random or read from files.

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

/// Tensors by name; matrices have the layout `(out, in)`.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// All weights of a model, on the host.
#[derive(Debug, Clone)]
pub struct Weights {
    /// Position of each parameter in `flat`.
    pub layout: Arc<Layout>,
    /// All weights: `(layout.len(),)`.
    pub flat: Vec<f32>,
}

impl Weights {
    /// Draws weights from the distribution of `config.init`.
    pub fn random(config: &ModelConfig, seed: u64) -> Self {
        let layout = Arc::new(Layout::new(config));
        Self { flat: init::draw(config, &layout, seed), layout }
    }

    /// Collects weights from named tensors; errors mention `source` as their origin.
    ///
    /// If the embedding is tied, `output.weight`, MiniMind's second name for it, may be present but must equal
    /// `tok_embeddings.weight`.
    ///
    /// # Errors
    /// If a tensor is missing or unknown, has a wrong shape or type, or contains values that are not finite.
    pub fn from_tensors(config: &ModelConfig, tensors: NamedTensors, source: &Path) -> Result<Self> {
        Self::collect(config, tensors, source, str::to_owned, |_, values| values)
    }

    /// Does the work of [`Weights::from_tensors`]; `named` maps names to those of the file, and `to_ours` converts values from
    /// the layout of the file.
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
            return Err(fail(name, "unexpected: a model of this shape has no such tensor".into()));
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
    /// Checks that all weights in `flat` are finite.
    ///
    /// # Errors
    /// If a weight is NaN or infinite; the error names the first such parameter.
    pub fn check_finite(&self, flat: &[f32]) -> Result<()> {
        for param in &self.params {
            finite(&flat[param.range.clone()])
                .map_err(|problem| Error::Input(format!("tensor {}: {problem}", param.name)))?;
        }
        Ok(())
    }
}

/// Checks that all values are finite; the error states how many are not.
pub(crate) fn finite(values: &[f32]) -> std::result::Result<(), String> {
    match values.iter().filter(|value| !value.is_finite()).count() {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} values are NaN or infinite, expected finite numbers", values.len())),
    }
}

/// Returns the values of a tensor after checking for the expected shape, a floating-point type and finite values.
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
        .map_err(|e| format!("cannot be read: {}", Error::from(e)))?;
    finite(&values)?;
    Ok(values)
}
