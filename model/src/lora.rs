//! Low-rank adapters (Hu et al. 2021): `W + (alpha / rank) B A` on chosen projections.
//!
//! An adapter is a second way to write a weight, so the model needs no change: it always runs with the merged
//! weight, and the gradient of the merged weight is carried over to `A` and `B` by the chain rule.

use crate::ops::gemm::{Mat, matmul};
use crate::random::{self, Purpose};
use crate::transformer::context::with_slice;
use crate::weights::{NamedTensors, Weights};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rand_distr::{Distribution, Uniform};
use std::ops::Range;

/// Projections that can carry an adapter.
pub const TARGETS: [&str; 7] = ["wq", "wk", "wv", "wo", "w1", "w2", "w3"];

/// Which projections get an adapter, and how strong.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of `A` and `B`.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Names of projections, of [`TARGETS`].
    pub targets: Vec<String>,
}

/// The adapter of one weight.
#[derive(Debug, Clone)]
struct Adapter {
    /// Name of the weight.
    name: String,
    /// `W` in the model's flat buffer, `(out, in)`.
    weight: Range<usize>,
    /// `A` in the adapters' flat buffer, `(rank, in)`.
    a: Range<usize>,
    /// `B` in the adapters' flat buffer, `(out, rank)`.
    b: Range<usize>,
    d_out: usize,
    d_in: usize,
}

/// The adapters of a model, beside the frozen weights they add to.
#[derive(Debug, Clone)]
pub struct Lora {
    config: LoraConfig,
    adapters: Vec<Adapter>,
    /// Every `A` and `B`: the trained parameters.
    pub flat: Tensor,
    /// The frozen weights that carry adapters, in the order of the adapters.
    base: Vec<Tensor>,
}

impl Lora {
    /// Fresh adapters: `A` Kaiming-uniform (a = sqrt 5, as peft draws it), `B` zero, so that nothing changes yet.
    pub fn new(weights: &Weights, config: &LoraConfig, seed: u64) -> Result<Self> {
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
        let (mut adapters, mut len) = (vec![], 0);
        for param in weights.layout.params.iter().filter(|p| p.shape.len() == 2 && carries(&p.name)) {
            let (d_out, d_in) = (param.shape[0], param.shape[1]);
            let a = len..len + config.rank * d_in;
            let b = a.end..a.end + d_out * config.rank;
            len = b.end;
            adapters.push(Adapter {
                name: param.name.clone(),
                weight: param.range.clone(),
                a,
                b,
                d_out,
                d_in,
            });
        }
        let mut rng = random::stream(seed, Purpose::Adapters, 0);
        let mut flat = vec![0.0f32; len];
        for adapter in &adapters {
            let bound = 1.0 / (adapter.d_in as f32).sqrt();
            let uniform = Uniform::new(-bound, bound).map_err(|e| Error::Input(e.to_string()))?;
            flat[adapter.a.clone()].iter_mut().for_each(|v| *v = uniform.sample(&mut rng));
        }
        let flat = Tensor::from_vec(flat, len, weights.flat.device())?;
        let base = adapters.iter().map(|a| weight(&weights.flat, a)?.copy());
        let base = base.collect::<candle_core::Result<_>>()?;
        Ok(Self { config: config.clone(), adapters, flat, base })
    }

    /// Takes `A` and `B` from named tensors `<prefix><weight>.lora_A.weight` and `.lora_B.weight`, peft's names.
    pub fn load(&mut self, tensors: &NamedTensors) -> Result<()> {
        let mut parts = vec![];
        for adapter in &self.adapters {
            let name = adapter.name.trim_end_matches(".weight");
            for (part, shape) in
                [("lora_A", (self.config.rank, adapter.d_in)), ("lora_B", (adapter.d_out, self.config.rank))]
            {
                let suffix = format!("{name}.{part}.weight");
                let tensor = tensors.iter().find(|(n, _)| n.ends_with(&suffix)).map(|(_, t)| t);
                let tensor =
                    tensor.ok_or_else(|| Error::Input(format!("adapter tensor {suffix} is missing")))?;
                if tensor.dims2().ok() != Some(shape) {
                    let dims = tensor.dims();
                    return Err(Error::Input(format!(
                        "adapter tensor {suffix} has shape {dims:?}, expected {shape:?}"
                    )));
                }
                parts.push(tensor.to_dtype(DType::F32)?.flatten_all()?);
            }
        }
        self.flat = Tensor::cat(&parts, 0)?.to_device(self.flat.device())?;
        Ok(())
    }

    /// All adapters by peft's names, in host memory.
    pub fn tensors(&self) -> Result<NamedTensors> {
        let mut all = NamedTensors::new();
        for adapter in &self.adapters {
            let name = adapter.name.trim_end_matches(".weight");
            let (a, b) = self.matrices(adapter)?;
            all.insert(format!("base_model.model.{name}.lora_A.weight"), a.to_device(&Device::Cpu)?);
            all.insert(format!("base_model.model.{name}.lora_B.weight"), b.to_device(&Device::Cpu)?);
        }
        Ok(all)
    }

    /// Writes `W + (alpha / rank) B A` into the model's weights.
    pub fn merge_into(&self, weights: &Weights) -> Result<()> {
        for (adapter, base) in self.adapters.iter().zip(&self.base) {
            let (a, b) = self.matrices(adapter)?;
            let merged = (base + (product(&b, &a)? * self.scale())?)?;
            weights.flat.slice_set(&merged.flatten_all()?, 0, adapter.weight.start)?;
        }
        Ok(())
    }

    /// The gradient of every `A` and `B` from that of every weight, `(weights,)`: the chain rule of the merge.
    pub fn pull_back(&self, gradient: &Tensor) -> Result<Tensor> {
        let mut parts = vec![];
        for adapter in &self.adapters {
            let dw = (weight(gradient, adapter)? * self.scale())?;
            let (a, b) = self.matrices(adapter)?;
            parts.push(product(&b.t()?, &dw)?.flatten_all()?);
            parts.push(product(&dw, &a.t()?)?.flatten_all()?);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn scale(&self) -> f64 {
        self.config.alpha / self.config.rank as f64
    }

    fn matrices(&self, adapter: &Adapter) -> Result<(Tensor, Tensor)> {
        let part = |range: &Range<usize>, rows: usize| {
            self.flat.narrow(0, range.start, range.len())?.reshape((rows, range.len() / rows))
        };
        Ok((part(&adapter.a, self.config.rank)?, part(&adapter.b, adapter.d_out)?))
    }
}

/// `a b`; on a CPU with the same bits on every machine.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.device().is_cpu() {
        return Ok(a.matmul(b)?);
    }
    let ((m, k), n) = (a.dims2()?, b.dim(1)?);
    let mut out = vec![0.0; m * n];
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    with_slice(&a, |a| {
        with_slice(&b, |b| matmul(&mut out, n, Mat::new(a, m, k), Mat::new(b, k, n), false))
    })??;
    Ok(Tensor::from_vec(out, (m, n), &Device::Cpu)?)
}

fn weight(flat: &Tensor, adapter: &Adapter) -> candle_core::Result<Tensor> {
    flat.narrow(0, adapter.weight.start, adapter.weight.len())?.reshape((adapter.d_out, adapter.d_in))
}
