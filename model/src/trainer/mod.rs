//! Optimizer steps: accumulate the gradients of a batch, reduce them, update the weights.
//!
//! A batch is divided into a fixed number of lanes; lane `i` passes items `i, i + lanes, ...` through the whole model and
//! accumulates their gradient, a few items at a time, so that memory does not grow with the batch. [`reduce`] sums the
//! lanes in a fixed order, and [`update`] changes the weights. The result does not depend on which thread runs a lane, so
//! it is identical to the last bit for any number of threads. The threads are those of the rayon pool that the caller has
//! installed.

mod loss_scale;
pub mod reduce;
pub mod update;

use loss_scale::LossScale;
pub use reduce::{LocalReduce, Reduce};
pub use update::{Groups, Multipliers, OptimizerConfig, Rule};

use crate::backend::{Backend, Cpu, RouterStats, mix};
use crate::lora::Lora;
use crate::random::{Purpose, derived_seed};
use crate::tokens::{Ragged, Sequence};
use crate::transformer::{BatchInfo, Mode, Pass, Recompute, Transformer};
use crate::weights::finite;
use crate::{AuxLoss, Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use update::{Optimizer, Step};

/// Division of a batch into lanes, recomputation and seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneConfig {
    /// Number of lanes of a batch; it affects the result, unlike the number of threads.
    pub lanes: usize,
    /// Activations that the backward pass recomputes.
    pub recompute: Recompute,
    /// Seed of the run, from which that of dropout is derived.
    pub seed: u64,
}

/// State from which training resumes: arrays of f32 by name.
pub type State<'a> = Vec<(&'static str, Cow<'a, [f32]>)>;

/// A model in training, with its optimizer state and gradients.
pub struct Trainer<B: Backend = Cpu> {
    /// The model; its weights change with every step.
    pub transformer: Transformer<B>,
    lora: Option<Lora<B>>,
    optimizer: Optimizer<B>,
    recompute: Recompute,
    dropout_seed: u64,
    lanes: usize,
    reduce: Box<dyn Reduce<B>>,
    steps: u64,
    loss_scale: LossScale,
    /// Batches accumulated since the last step; makes dropout differ between them.
    passes: u64,
}

/// The norm of the gradient of a step before clipping: nothing waits for it before [`Self::read`].
pub struct GradNorm<B: Backend>(Norm<B>);

enum Norm<B: Backend> {
    Queued(B, B::GradScale),
    Read(f64),
}

impl<B: Backend> GradNorm<B> {
    /// Waits until the norm is on the host, and returns it.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(self) -> Result<f64> {
        match self.0 {
            Norm::Queued(backend, scale) => backend.grad_norm(scale),
            Norm::Read(norm) => Ok(norm),
        }
    }
}

impl<B: Backend> Trainer<B> {
    /// Creates a trainer of all weights, or only of the adapters if there are any.
    ///
    /// # Errors
    /// If the adapters belong to a model of another shape, or the device fails, for example by running out of memory.
    pub fn new(
        mut transformer: Transformer<B>,
        lora: Option<Lora<B>>,
        optimizer: OptimizerConfig,
        lane_config: LaneConfig,
    ) -> Result<Self> {
        let backend = transformer.backend.clone();
        let optimizer = match &lora {
            Some(lora) => Optimizer::of_adapters(&backend, &transformer.config, lora, optimizer)?,
            None => Optimizer::of_model(&backend, &transformer.config, &transformer.layout, optimizer)?,
        };
        if let Some(lora) = &lora {
            lora.merge_into(&mut transformer)?;
        }
        let lanes = if B::LANES { lane_config.lanes.max(1) } else { 1 };
        Ok(Self {
            lanes,
            reduce: Box::new(LocalReduce::new(lanes)),
            transformer,
            lora,
            optimizer,
            dropout_seed: derived_seed(lane_config.seed, Purpose::Dropout),
            recompute: lane_config.recompute,
            loss_scale: LossScale::new(backend.scales_loss()),
            steps: 0,
            passes: 0,
        })
    }

    /// Returns the number of optimizer steps, including skipped ones.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Returns the number of steps that left the weights unchanged because their gradient overflowed in half precision.
    pub fn skipped_steps(&self) -> u64 {
        self.loss_scale.skipped()
    }

    /// Returns the adapters, if these are trained instead of the weights.
    pub fn lora(&self) -> Option<&Lora<B>> {
        self.lora.as_ref()
    }

    /// Passes a batch through the model and accumulates its gradient.
    ///
    /// `rows` returns the sequences of an item. `work` receives a pass over some items and the gradient to add to; its
    /// results are returned in a fixed order. With `aux_loss_per = "batch"`, routers are balanced over this batch: an
    /// additional forward pass first counts their loads.
    ///
    /// # Errors
    /// If `work` fails, a token is outside the vocabulary, or the device fails.
    pub fn accumulate<T: Sync, S: Send>(
        &mut self,
        items: &[T],
        rows: impl Fn(&T) -> Vec<&Sequence> + Sync,
        work: impl Fn(&Pass<B>, &mut B::Floats, &[&T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let seed = mix(self.dropout_seed ^ mix(self.steps) ^ mix(self.passes.wrapping_mul(0x9e37)));
        self.passes += 1;
        let mut aux = BatchInfo::of(items.iter().flat_map(&rows));
        let config = &self.transformer.config;
        if config.is_moe() && config.aux_loss_alpha > 0.0 && config.aux_loss_per == AuxLoss::Batch {
            let mode = |dropout_seed| Mode::Route { dropout_seed: Some(dropout_seed) };
            let count = |pass: &Pass<B>, _: &mut B::Floats, _: &[&T]| pass.routes_of(&pass.forward()?.1);
            aux.loads = Some(Arc::new(loads(&self.each_pass(items, &rows, seed, mode, count)?)));
        }
        let (recompute, loss_scale) = (self.recompute, self.loss_scale.value());
        let mode = |dropout_seed| Mode::Train { dropout_seed, aux: aux.clone(), recompute, loss_scale };
        self.each_pass(items, &rows, seed, mode, work)
    }

    /// Divides a batch into passes and calls `work` for each; every pass has its own dropout stream.
    fn each_pass<T: Sync, S: Send>(
        &mut self,
        items: &[T],
        rows: &(impl Fn(&T) -> Vec<&Sequence> + Sync),
        seed: u64,
        mode: impl Fn(u64) -> Mode + Sync,
        work: impl Fn(&Pass<B>, &mut B::Floats, &[&T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let Self { transformer, reduce, lanes, .. } = self;
        let (backend, lanes) = (&transformer.backend, *lanes);
        let learns = matches!(mode(seed), Mode::Train { .. });
        let run_lane = |lane: usize| -> Result<Vec<S>> {
            let mut gradients = match learns {
                true => reduce.zeroed(backend, transformer.layout.len())?,
                false => backend.zeros(0)?,
            };
            let items: Vec<&T> = items.iter().skip(lane).step_by(lanes).collect();
            let positions = |item: &&T| rows(item).iter().map(|row| row.len()).sum();
            let groups = groups(&items, positions, B::GROUP_POSITIONS);
            let results = groups.into_iter().enumerate().map(|(group, items)| {
                let place = (lane as u64) << 32 | group as u64;
                let batch = Ragged::new(items.iter().flat_map(|item| rows(item)));
                let pass = transformer.pass(batch, mode(mix(seed ^ mix(place))))?;
                work(&pass, &mut gradients, items)
            });
            let results = results.collect::<Result<_>>()?;
            if learns {
                reduce.submit(backend, lane, gradients)?;
            }
            Ok(results)
        };
        let results = in_order(reduce.lanes(), run_lane).into_iter().collect::<Result<Vec<Vec<S>>>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Performs one optimizer step with the accumulated gradient and returns its norm before clipping.
    ///
    /// Gradients are zero afterwards. A step whose gradient is not finite changes nothing, but counts as a step; one whose
    /// gradient overflowed in half precision, where a smaller loss scale helps, is among [`Self::skipped_steps`]. Waits for
    /// the device only if the loss is scaled.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn step(&mut self, lr: f64) -> Result<GradNorm<B>> {
        let backend = &self.transformer.backend.clone();
        let sum = match self.reduce.take_sum(backend)? {
            Some(sum) => sum,
            None => backend.zeros(self.transformer.layout.len())?,
        };
        self.steps += 1;
        let pulled_back = self.lora.as_ref().map(|lora| lora.pull_back(backend, &sum)).transpose()?;
        let gradient = pulled_back.as_ref().unwrap_or(&sum);
        let scale = self.optimizer.grad_scale(backend, gradient, f64::from(self.loss_scale.value()))?;
        let step = Step { number: self.steps, lr };
        match &mut self.lora {
            Some(lora) => {
                self.optimizer.update(backend, &mut lora.weights, gradient, &scale, step)?;
                lora.merge(&mut self.transformer)?;
            }
            None => {
                self.optimizer.update(backend, &mut self.transformer.weights, gradient, &scale, step)?;
            }
        }
        self.reduce.recycle(backend, sum)?;
        self.passes = 0;
        if !self.loss_scale.is_dynamic() {
            return Ok(GradNorm(Norm::Queued(backend.clone(), scale)));
        }
        // The next pass needs the loss scale that follows from this norm.
        let norm = backend.grad_norm(scale)?;
        self.loss_scale.update(norm);
        Ok(GradNorm(Norm::Read(norm)))
    }

    /// Returns the state that [`Self::restore`] needs to resume exactly, by name: weights, moments, adapters, loss scale.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn state(&self) -> Result<State<'_>> {
        let backend = &self.transformer.backend;
        let [first, second] = &self.optimizer.moments;
        let mut state = vec![
            ("weights", self.transformer.flat()?),
            ("first_moment", backend.read(first)?),
            ("second_moment", backend.read(second)?),
        ];
        if let Some(lora) = &self.lora {
            state.push(("adapters", backend.read_weights(&lora.weights)?));
        }
        state.extend(self.loss_scale.state().map(|scale| ("loss_scale", Cow::Owned(scale.to_vec()))));
        Ok(state)
    }

    /// Restores a state that was saved after `steps` steps.
    ///
    /// # Errors
    /// If a part is missing or has another length, in which case nothing was changed; or if the device fails.
    pub fn restore(&mut self, mut state: BTreeMap<String, Vec<f32>>, steps: u64) -> Result<()> {
        let sizes: Vec<(&str, usize)> =
            self.state()?.iter().map(|(name, part)| (*name, part.len())).collect();
        let parts = sizes.into_iter().map(|(name, len)| {
            let saved =
                state.remove(name).ok_or_else(|| Error::Input(format!("the saved state lacks {name}")))?;
            if saved.len() == len {
                return Ok(saved);
            }
            Err(Error::Input(format!("the saved {name} has {} numbers, expected {len}", saved.len())))
        });
        let mut parts = parts.collect::<Result<Vec<_>>>()?.into_iter();
        let backend = self.transformer.backend.clone();
        let mut next = || parts.next().unwrap_or_default();
        self.transformer.weights = backend.weights(next())?;
        self.optimizer.moments = [backend.floats(next())?, backend.floats(next())?];
        if let Some(lora) = &mut self.lora {
            lora.weights = backend.weights(next())?;
        }
        self.loss_scale = LossScale::from_state(&next());
        self.steps = steps;
        Ok(())
    }

    /// Checks that all weights, adapters and moments are finite: an update can overflow even if loss and gradient do not.
    ///
    /// # Errors
    /// If a value is NaN or infinite; the error names the array. Also if the device fails.
    pub fn check_finite(&self) -> Result<()> {
        for (name, numbers) in self.state()? {
            match name {
                "weights" => self.transformer.layout.check_finite(&numbers)?,
                _ => finite(&numbers)
                    .map_err(|problem| Error::Input(format!("the {}s: {problem}", name.replace('_', " "))))?,
            }
        }
        Ok(())
    }

    /// Removes and returns the accumulated gradient of all weights, `(weights,)`, instead of a step; for tests and inspection.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn take_gradient(&mut self) -> Result<Vec<f32>> {
        let backend = &self.transformer.backend;
        match self.reduce.take_sum(backend)? {
            Some(sum) => Ok(backend.read(&sum)?.into_owned()),
            None => Ok(vec![0.0; self.transformer.layout.len()]),
        }
    }
}

/// Runs lanes on the current threads. Each thread takes the next lane, so that all earlier lanes are finished or running.
fn in_order<R: Send>(lanes: Range<usize>, run: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(lanes.start);
    let take = |_| {
        let lane = next.fetch_add(1, Ordering::Relaxed);
        lanes.contains(&lane).then(|| (lane, run(lane)))
    };
    let threads = rayon::current_num_threads().min(lanes.len());
    let work = |thread: usize| std::iter::repeat(thread).map_while(take);
    let mut done: Vec<(usize, R)> = (0..threads).into_par_iter().flat_map_iter(work).collect();
    done.sort_unstable_by_key(|(lane, _)| *lane);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Returns the share of tokens of each expert times the number of experts, for each layer, over the passes of a batch.
fn loads(passes: &[Vec<RouterStats>]) -> Vec<Vec<f32>> {
    let share = |layer: &RouterStats| {
        let all = layer.load.iter().sum::<u64>().max(1) as f64;
        layer.load.iter().map(|&of| (of as f64 * layer.load.len() as f64 / all) as f32).collect()
    };
    RouterStats::sum(passes).iter().map(share).collect()
}

/// Divides items into consecutive groups of at most `limit` positions, but at least one item each.
pub fn groups<T>(items: &[T], positions: impl Fn(&T) -> usize, limit: usize) -> Vec<&[T]> {
    let (mut groups, mut start, mut filled) = (vec![], 0, 0usize);
    for (i, item) in items.iter().enumerate() {
        let len = positions(item);
        if i > start && filled.saturating_add(len) > limit {
            groups.push(&items[start..i]);
            (start, filled) = (i, 0);
        }
        filled += len;
    }
    if start < items.len() {
        groups.push(&items[start..]);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

    #[test]
    fn a_state_that_does_not_fit_changes_nothing() -> Result<()> {
        let config =
            ModelConfig { d_model: 16, n_layers: 1, n_heads: 2, vocab_size: 11, ..ModelConfig::default() };
        let lanes = LaneConfig { lanes: 1, recompute: Recompute::None, seed: 1 };
        let trainer = |seed| -> Result<Trainer> {
            Trainer::new(Transformer::new(&config, seed, &Cpu)?, None, OptimizerConfig::default(), lanes)
        };
        let (saved, mut other) = (trainer(1)?, trainer(2)?);
        let before = other.transformer.flat()?.into_owned();
        let parts = saved.state()?.into_iter();
        let state: BTreeMap<String, Vec<f32>> =
            parts.map(|(name, part)| (name.to_owned(), part.into_owned())).collect();
        let mut damaged = state.clone();
        damaged.insert("second_moment".into(), vec![]);
        assert!(other.restore(damaged, 3).is_err());
        assert!(*other.transformer.flat()? == before[..] && other.steps() == 0);
        other.restore(state, 3)?;
        assert!(other.transformer.flat()? == saved.transformer.flat()? && other.steps() == 3);
        Ok(())
    }
}
