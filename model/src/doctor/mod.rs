//! Checks on the current machine that a backend agrees with [`crate::reference`]: each operation separately, forward
//! and backward, then whole passes of a model.
//!
//! The inputs are a backend and a [`Case`], the output is a list of [`Check`]s. Tests run the same list over random
//! cases. *Invariant:* expected values come from the reference, in `f64` on the CPU.

mod attention;
mod experts;
mod layers;
mod passes;
mod updates;

use crate::backend::Backend;
use crate::layout::{Layout, Matrix};
use crate::random::{Purpose, stream};
use crate::tokens::{Ragged, Sequence};
use crate::{AuxLoss, ModelConfig, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::ops::Range;

/// A comparison of a backend's result with the expected one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// Name of the operation as in [`Backend`], or of the group that it belongs to.
    pub name: &'static str,
    /// Largest absolute deviation, relative to the largest absolute expected value.
    pub off: f64,
    /// Largest deviation that counts as rounding.
    pub bound: f64,
    /// Why nothing could be compared, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Check {
    /// Whether the deviation is within rounding.
    pub fn is_ok(&self) -> bool {
        self.problem.is_none() && self.off <= self.bound // false if the deviation is NaN
    }

    /// Deviation relative to the bound, at most 1; infinity if the check fails.
    fn badness(&self) -> f64 {
        match self.is_ok() {
            true => (self.off / self.bound.max(f64::MIN_POSITIVE)).min(1.0),
            false => f64::INFINITY,
        }
    }
}

/// Returns the worst check of each name, in the order in which the names first appear.
pub fn worst(checks: impl IntoIterator<Item = Check>) -> Vec<Check> {
    let mut worst: Vec<Check> = vec![];
    for check in checks {
        match worst.iter_mut().find(|known| known.name == check.name) {
            Some(known) if known.badness() < check.badness() => *known = check,
            Some(_) => {}
            None => worst.push(check),
        }
    }
    worst
}

/// The input of the checks.
#[derive(Debug, Clone)]
pub struct Case {
    /// Configuration of the model.
    pub config: ModelConfig,
    /// Lengths of the documents in each row.
    pub rows: Vec<Vec<u32>>,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Case {
    /// Returns cases that together cover every operation and every variant of a model; checking them takes some seconds.
    pub fn usual() -> Vec<Self> {
        let dense = ModelConfig {
            d_model: 96,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            hidden_dim: Some(72),
            vocab_size: 300,
            ..ModelConfig::default()
        };
        let experts =
            ModelConfig { n_experts: 4, aux_loss_per: AuxLoss::Batch, qk_norm: true, ..dense.clone() };
        let variant = ModelConfig {
            head_dim: Some(10),
            qk_norm: true,
            tie_embeddings: false,
            window: Some(20),
            dropout: 0.1,
            ..dense.clone()
        };
        let single =
            ModelConfig { n_experts: 3, top_k: 1, n_shared_experts: 0, dropout: 0.1, ..dense.clone() };
        let case = |config| Self { config, rows: vec![vec![71, 9], vec![33]], seed: 1 };
        let mut cases: Vec<Self> = [experts, variant, single, dense].map(case).into();
        // Kernels for GPUs differ by the width of heads, and by that of the rows that are normalized; the longer document
        // exceeds a tile of attention.
        let rows = || vec![vec![131], vec![2]];
        cases.extend(
            [(400, 96), (102, 128)].map(|(d_model, head_dim)| Self::one_head(d_model, head_dim, rows())),
        );
        cases
    }

    /// Returns a case with one layer of one head.
    pub fn one_head(d_model: usize, head_dim: usize, rows: Vec<Vec<u32>>) -> Self {
        let config = ModelConfig {
            d_model,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: Some(head_dim),
            hidden_dim: Some(8),
            vocab_size: 20,
            ..ModelConfig::default()
        };
        Self { config, rows, seed: 1 }
    }

    /// The documents of the case with random tokens; every third position carries no loss.
    fn batch(&self) -> Ragged {
        let mut numbers = stream(self.seed, Purpose::Order, 0);
        let mut ids = |n: u32| -> Vec<u32> {
            (0..n).map(|_| numbers.random_range(0..self.config.vocab_size as u32)).collect()
        };
        let rows = self.rows.iter().map(|lengths| {
            let n = lengths.iter().sum();
            let weights: Vec<f32> = (0..n).map(|i| if i % 3 == 1 { 0.0 } else { 1.0 }).collect();
            let counted = weights.iter().sum();
            Sequence { ids: ids(n), targets: ids(n), weights, documents: lengths.clone(), counted }
        });
        Ragged::new(&rows.collect::<Vec<Sequence>>())
    }
}

/// A named group of checks.
type Part<B> = (&'static str, fn(&mut Probe<B>) -> Result<()>);

/// Compares every operation of a backend with the reference.
pub fn checks<B: Backend>(backend: &B, case: &Case) -> Vec<Check> {
    let mut checks = vec![];
    let parts: [Part<B>; 5] = [
        ("layers", layers::check),
        ("attention", attention::check),
        ("experts", experts::check),
        ("updates", updates::check),
        ("passes", passes::check),
    ];
    for (name, check) in parts {
        let outcome = Probe::new(backend, case).and_then(|mut probe| {
            let outcome = check(&mut probe);
            checks.append(&mut probe.checks);
            outcome
        });
        if let Err(error) = outcome {
            checks.push(Check { name, off: f64::NAN, bound: 0.0, problem: Some(error.to_string()) });
        }
    }
    checks
}

/// Bound for operations that only move values.
const EXACT: f64 = 0.0;

/// Bound for sums of some hundred f32 products.
const ROUNDING: f64 = 3e-6;

/// Maximum number of successive roundings of activations within one operation.
const ROUNDINGS: f64 = 4.0;

/// Minimum distance between the scores of experts at which rounding cannot change their order.
const MIN_MARGIN: f64 = 1e-5;

/// Maximum number of draws to find scores that far apart.
const MAX_DRAWS: usize = 100;

fn ambiguous_routing() -> crate::Error {
    crate::Error::Input(format!(
        "no unambiguous routing: in each of {MAX_DRAWS} draws, some token has two experts whose scores differ by \
         less than {MIN_MARGIN}; use shorter rows"
    ))
}

/// State that the checks of a group share.
struct Probe<'a, B: Backend> {
    backend: &'a B,
    config: &'a ModelConfig,
    case: &'a Case,
    layout: Layout,
    /// Random weights in [-1, 1).
    weights: Vec<f32>,
    /// The same weights on the backend.
    w: B::Weights,
    batch: Ragged,
    numbers: ChaCha8Rng,
    checks: Vec<Check>,
}

impl<'a, B: Backend> Probe<'a, B> {
    fn new(backend: &'a B, case: &'a Case) -> Result<Self> {
        case.config.validate()?;
        let layout = Layout::new(&case.config);
        let mut numbers = stream(case.seed, Purpose::Weights, 0);
        let weights = draw(backend, &mut numbers, layout.len())?;
        let w = backend.weights(weights.clone())?;
        let batch = case.batch();
        let config = &case.config;
        Ok(Self { backend, config, case, layout, weights, w, batch, numbers, checks: vec![] })
    }

    /// Number of positions of the batch.
    fn n(&self) -> usize {
        self.batch.len()
    }

    /// Random values in [-1, 1) that the backend's activation type represents exactly.
    fn draw(&mut self, len: usize) -> Result<Vec<f32>> {
        draw(self.backend, &mut self.numbers, len)
    }

    /// Random initial gradients of all weights, to which an operation adds.
    fn some_gradients(&mut self) -> Result<(Vec<f32>, B::Floats)> {
        let start = self.draw(self.layout.len())?;
        Ok((start.clone(), self.backend.floats(start)?))
    }

    /// A range of the weights as a variable.
    fn param(&self, range: &Range<usize>, shape: impl Into<Shape>) -> CandleResult<Var> {
        variable(&self.weights[range.clone()], shape)
    }

    /// The weights of a matrix as a variable, `(d_out, d_in)`.
    fn matrix(&self, m: &Matrix) -> CandleResult<Var> {
        self.param(&m.range, (m.d_out, m.d_in))
    }

    fn compare(&mut self, name: &'static str, bound: f64, got: &[f32], want: &Tensor) -> Result<()> {
        let want = want.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        // Activations are rounded along the way; operations that only move values do not round.
        let bound = if bound == EXACT { EXACT } else { bound.max(ROUNDINGS * self.backend.rounding()) };
        let off = if got.len() == want.len() { deviation(got, &want) } else { f64::NAN };
        let problem =
            (got.len() != want.len()).then(|| format!("{} values, expected {}", got.len(), want.len()));
        self.checks.push(Check { name, off, bound, problem });
        Ok(())
    }

    fn compare_buffer(
        &mut self,
        name: &'static str,
        bound: f64,
        got: &B::Buffer,
        want: &Tensor,
    ) -> Result<()> {
        let got = self.backend.read_buffer(got)?;
        self.compare(name, bound, &got, want)
    }

    fn compare_floats(
        &mut self,
        name: &'static str,
        bound: f64,
        got: &B::Floats,
        want: &Tensor,
    ) -> Result<()> {
        let backend = self.backend;
        self.compare(name, bound, &backend.read(got)?, want)
    }

    /// Compares gradients that started at `start` and to which `parts` were added.
    fn compare_gradients(
        &mut self,
        name: &'static str,
        start: &[f32],
        got: &B::Floats,
        parts: &[(&Range<usize>, &Tensor)],
    ) -> Result<()> {
        let mut want: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        for (range, part) in parts {
            let part = part.flatten_all()?.to_vec1::<f64>()?;
            want[(*range).clone()].iter_mut().zip(part).for_each(|(want, part)| *want += part);
        }
        self.compare_floats(name, ROUNDING, got, &Tensor::new(want, &Device::Cpu)?)
    }
}

fn draw<B: Backend>(backend: &B, numbers: &mut ChaCha8Rng, len: usize) -> Result<Vec<f32>> {
    let drawn: Vec<f32> = (0..len).map(|_| numbers.random_range(-1.0..1.0)).collect();
    backend.read_buffer(&backend.buffer(&drawn, len)?)
}

/// The largest absolute difference relative to the largest absolute expected value; NaN if any value is NaN.
fn deviation(got: &[f32], want: &[f64]) -> f64 {
    let largest = |numbers: &mut dyn Iterator<Item = f64>| {
        numbers.fold(0.0f64, |most, x| if x.is_nan() || most.is_nan() { f64::NAN } else { most.max(x.abs()) })
    };
    let off = largest(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - want));
    if off == 0.0 { 0.0 } else { off / largest(&mut want.iter().copied()) }
}

fn tensor(values: &[f32], shape: impl Into<Shape>) -> CandleResult<Tensor> {
    Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)
}

fn variable(values: &[f32], shape: impl Into<Shape>) -> CandleResult<Var> {
    Var::from_tensor(&tensor(values, shape)?)
}

/// Gradients with respect to all variables.
struct Gradients(GradStore);

impl Gradients {
    /// The gradients of a scalar.
    fn of(scalar: &Tensor) -> CandleResult<Self> {
        scalar.backward().map(Self)
    }

    /// The gradients of `sum of y dy`.
    fn through(y: &Tensor, dy: &Tensor) -> CandleResult<Self> {
        Self::of(&(y * dy)?.sum_all()?)
    }

    fn by(&self, variable: &Var) -> CandleResult<Tensor> {
        self.0
            .get(variable.as_tensor())
            .map_or_else(|| variable.zeros_like(), |gradient| Ok(gradient.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &'static str, off: f64, problem: Option<&str>) -> Check {
        Check { name, off, bound: 1e-6, problem: problem.map(Into::into) }
    }

    #[test]
    fn what_is_not_a_number_or_could_not_be_compared_is_off() {
        assert!(check("a", 1e-6, None).is_ok());
        let bad = [check("a", 2e-6, None), check("a", f64::NAN, None), check("a", 0.0, Some("no device"))];
        assert!(bad.iter().all(|check| !check.is_ok()));
        assert_eq!(deviation(&[1.0, 2.5], &[1.0, 2.0]), 0.25);
        for (got, want) in [(f32::NAN, 1.0), (1.0, f64::NAN), (f32::INFINITY, f64::INFINITY)] {
            assert!(deviation(&[got, 0.0], &[want, 0.0]).is_nan());
        }
    }

    #[test]
    fn the_worst_of_each_name_is_reported() {
        let all = [
            check("a", 1e-7, None),
            check("b", 1e-9, None),
            check("a", f64::NAN, None),
            check("a", 3.0, None),
        ];
        let worst = worst(all);
        assert_eq!(worst.iter().map(|check| check.name).collect::<Vec<_>>(), ["a", "b"]);
        assert!(worst[0].off.is_nan() && worst[1].is_ok());
    }
}
