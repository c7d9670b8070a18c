//! Low-rank adapters (Hu et al. 2021): `W + (alpha / rank) B A` on chosen projections.
//!
//! An adapter is another parametrization of a weight, so the model needs no change: it always runs with the merged
//! weight, and the chain rule turns the gradient of the merged weight into those of `A` and `B`.

use crate::backend::{Adapter, Backend, Cpu};
use crate::layout::Matrix;
use crate::random::{self, Purpose};
use crate::spec::Role;
use crate::transformer::Transformer;
use crate::weights::NamedTensors;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand_distr::{Distribution, Uniform};

/// Projections that can carry an adapter.
pub const TARGETS: [&str; 7] = ["wq", "wk", "wv", "wo", "w1", "w2", "w3"];

/// Configuration of the adapters: the projections that get one, their rank and their scale.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of `A` and `B`.
    pub rank: usize,
    /// Numerator of `alpha / rank`, by which the product `B A` is scaled.
    pub alpha: f64,
    /// Names of the projections that get an adapter, each one of [`TARGETS`].
    pub targets: Vec<String>,
}

/// The adapters of a model, with a copy of the frozen weights that they add to.
#[derive(Debug)]
pub struct Lora<B: Backend = Cpu> {
    config: LoraConfig,
    /// Names of the weights that carry an adapter, without `.weight`.
    names: Vec<String>,
    /// The adapters, each with the role of the weight that carries it.
    adapters: Vec<(Role, Adapter)>,
    /// The trained parameters: every `A` and `B`.
    pub(crate) weights: B::Weights,
    /// The frozen weights that carry adapters, in the order of the adapters.
    base: B::Floats,
    len: usize,
}

impl<B: Backend> Lora<B> {
    /// Creates adapters with `A` drawn Kaiming-uniform (a = sqrt 5, as in peft) and `B` zero, which leave the model unchanged.
    ///
    /// # Errors
    /// If the rank is 0, a target is not a projection, or the device fails.
    pub fn new(model: &Transformer<B>, config: &LoraConfig, seed: u64) -> Result<Self> {
        if config.rank == 0 {
            return Err(Error::Input("lora.rank is 0, expected at least 1".into()));
        }
        if let Some(target) = config.targets.iter().find(|t| !TARGETS.contains(&t.as_str())) {
            return Err(Error::Input(format!(
                "lora.targets: {target} is not a projection, expected some of {TARGETS:?}"
            )));
        }
        let carries = |name: &str| {
            let projection = name.strip_suffix(".weight").and_then(|n| n.rsplit('.').next());
            projection.is_some_and(|p| config.targets.iter().any(|t| t == p))
        };
        let (mut names, mut adapters, mut len, mut frozen) = (vec![], vec![], 0, vec![]);
        let (flat, rank) = (model.flat()?, config.rank);
        for param in model.layout.params.iter().filter(|p| carries(&p.name)) {
            let &[d_out, d_in] = param.shape.as_slice() else { continue };
            let a = Matrix { range: len..len + rank * d_in, d_out: rank, d_in };
            let b = Matrix { range: a.range.end..a.range.end + d_out * rank, d_out, d_in: rank };
            len = b.range.end;
            let base = frozen.len()..frozen.len() + param.range.len();
            frozen.extend_from_slice(&flat[param.range.clone()]);
            let weight = Matrix { range: param.range.clone(), d_out, d_in };
            adapters.push((param.role, Adapter { weight, base, a, b }));
            names.push(param.name.trim_end_matches(".weight").to_owned());
        }
        let mut rng = random::stream(seed, Purpose::Adapters, 0);
        let mut flat = vec![0.0f32; len];
        for (_, Adapter { a, .. }) in &adapters {
            let bound = 1.0 / (a.d_in as f32).sqrt();
            let uniform = Uniform::new(-bound, bound).map_err(|e| Error::Input(e.to_string()))?;
            flat[a.range.clone()].iter_mut().for_each(|v| *v = uniform.sample(&mut rng));
        }
        let (weights, base) = (model.backend.weights(flat)?, model.backend.floats(frozen)?);
        Ok(Self { config: config.clone(), names, adapters, weights, base, len })
    }

    /// Returns the number of parameters in all adapters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no projection carries an adapter.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Iterates over the adapters, each with the role of the weight that carries it.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = (Role, &Adapter)> {
        self.adapters.iter().map(|(role, adapter)| (*role, adapter))
    }

    /// Iterates over both matrices of every adapter, with their names in peft's files without its prefix.
    fn parts(&self) -> impl Iterator<Item = (String, &Matrix)> + '_ {
        self.names.iter().zip(&self.adapters).flat_map(|(name, (_, adapter))| {
            [(format!("{name}.lora_A.weight"), &adapter.a), (format!("{name}.lora_B.weight"), &adapter.b)]
        })
    }

    /// Loads `A` and `B` from tensors with peft's names, `<prefix><weight>.lora_A.weight` and `.lora_B.weight`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape, or the device fails.
    pub fn load(&mut self, tensors: &NamedTensors, backend: &B) -> Result<()> {
        let mut flat = Vec::with_capacity(self.len);
        for (suffix, m) in self.parts() {
            let tensor = tensors.iter().find(|(n, _)| n.ends_with(&suffix)).map(|(_, t)| t);
            let tensor = tensor.ok_or_else(|| Error::Input(format!("adapter tensor {suffix} is missing")))?;
            if tensor.dims2().ok() != Some((m.d_out, m.d_in)) {
                let (dims, expected) = (tensor.dims(), (m.d_out, m.d_in));
                return Err(Error::Input(format!(
                    "adapter tensor {suffix} has shape {dims:?}, expected {expected:?}"
                )));
            }
            flat.extend(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        self.weights = backend.weights(flat)?;
        Ok(())
    }

    /// Returns all adapters by their names in peft's files.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn tensors(&self, backend: &B) -> Result<NamedTensors> {
        self.named(&backend.read_weights(&self.weights)?)
    }

    /// Splits a flat buffer with a value per parameter, such as the gradient, into tensors by their names in peft's files.
    ///
    /// # Errors
    /// If candle cannot create a tensor.
    pub fn named(&self, flat: &[f32]) -> Result<NamedTensors> {
        let tensor = |(name, m): (String, &Matrix)| {
            let values = Tensor::from_slice(&flat[m.range.clone()], (m.d_out, m.d_in), &Device::Cpu)?;
            Ok((format!("base_model.model.{name}"), values))
        };
        self.parts().map(tensor).collect()
    }

    /// Writes `W + (alpha / rank) B A` into the model's weights.
    ///
    /// # Errors
    /// If the adapters belong to a model of another shape, or the device fails, for example by running out of memory.
    pub fn merge_into(&self, model: &mut Transformer<B>) -> Result<()> {
        for (name, (_, Adapter { weight, .. })) in self.names.iter().zip(&self.adapters) {
            let (name, shape) = (format!("{name}.weight"), [weight.d_out, weight.d_in]);
            let found = model.layout.find(&name);
            if found.is_none_or(|param| param.shape != shape || param.range != weight.range) {
                return Err(Error::Input(format!(
                    "the adapters belong to a model of another shape: {name} differs or is missing here"
                )));
            }
        }
        self.merge(model)
    }

    /// Does the work of [`Self::merge_into`] for a model that is known to fit.
    pub(crate) fn merge(&self, model: &mut Transformer<B>) -> Result<()> {
        for (_, adapter) in &self.adapters {
            let Transformer { backend, weights, .. } = model;
            backend.adapt(weights, &self.base, &self.weights, adapter, self.scale())?;
        }
        Ok(())
    }

    /// Computes the gradient of every `A` and `B` from that of all merged weights, `(weights,)`, by the chain rule.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn pull_back(&self, backend: &B, gradient: &B::Floats) -> Result<B::Floats> {
        let mut grads = backend.zeros(self.len)?;
        for (_, adapter) in &self.adapters {
            backend.adapt_backward(&mut grads, gradient, &self.weights, adapter, self.scale())?;
        }
        Ok(grads)
    }

    fn scale(&self) -> f64 {
        self.config.alpha / self.config.rank as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    #[test]
    fn adapters_of_another_model_are_refused() -> Result<()> {
        let shape =
            ModelConfig { d_model: 16, n_layers: 2, n_heads: 2, vocab_size: 11, ..ModelConfig::default() };
        let config = LoraConfig { rank: 2, alpha: 2.0, targets: vec!["wq".into()] };
        let lora = Lora::new(&Transformer::new(&shape, 1, &Cpu)?, &config, 1)?;
        lora.merge_into(&mut Transformer::new(&shape, 2, &Cpu)?)?;
        for (other, layer) in [
            (ModelConfig { d_model: 24, ..shape.clone() }, 0),
            (ModelConfig { vocab_size: 13, ..shape.clone() }, 0),
            (ModelConfig { n_layers: 1, ..shape.clone() }, 1),
        ] {
            let mut model = Transformer::new(&other, 1, &Cpu)?;
            let error = lora.merge_into(&mut model).err().map(|error| error.to_string());
            let expected = format!(
                "the adapters belong to a model of another shape: layers.{layer}.attention.wq.weight differs or is missing here"
            );
            assert_eq!(error, Some(expected));
        }
        Ok(())
    }
}
