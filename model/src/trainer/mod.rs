//! Optimizer steps: accumulate the gradients of a batch, reduce them, update the weights.
//!
//! A batch is cut into a fixed number of lanes; lane `i` takes items `i, i + lanes, ...` through the whole model into
//! a gradient of its own, a few at a time, so that memory does not grow with the batch. [`reduce`] sums the lanes in
//! order, wherever they were computed, and [`update`] changes the weights. Which thread runs a lane does not matter, so
//! the result is the same to the last bit for any number of threads. The threads are those of the rayon pool that the
//! caller has installed.

mod loss_scale;
pub mod reduce;
pub mod update;

use loss_scale::LossScale;
pub use reduce::{Here, Reduce};
pub use update::{Groups, Multipliers, OptimizerConfig, Rule};

use crate::backend::{Backend, Cpu, RouterStats, mix};
use crate::lora::Lora;
use crate::random::{Purpose, derived_seed};
use crate::tokens::{Ragged, Sequence};
use crate::transformer::{AuxShare, Mode, Pass, Recompute, Transformer};
use crate::weights::finite;
use crate::{AuxLoss, Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use update::{Optimizer, Step};

/// How a batch is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneConfig {
    /// Lanes of a batch; part of the result, unlike the threads.
    pub lanes: usize,
    /// What is computed again in the backward pass.
    pub recompute: Recompute,
    /// Seed of dropout.
    pub seed: u64,
}

/// What a training goes on from, by name: numbers of f32.
pub type State<'a> = Vec<(&'static str, Cow<'a, [f32]>)>;

/// A model in training: weights, moments, gradients.
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
    /// Passes since the last step, so that dropout differs between accumulated batches.
    passes: u64,
}

impl<B: Backend> Trainer<B> {
    /// Trains all weights, or the adapters if there are any.
    ///
    /// # Errors
    /// Where the device has no room for the moments, or adapters are not of this model.
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
            reduce: Box::new(Here::new(lanes)),
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

    /// Optimizer steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps that changed nothing, as their gradient overflowed the numbers of the device.
    pub fn skipped_steps(&self) -> u64 {
        self.loss_scale.skipped()
    }

    /// The adapters, where they are what is trained.
    pub fn lora(&self) -> Option<&Lora<B>> {
        self.lora.as_ref()
    }

    /// Takes a batch through the model and adds its gradient.
    ///
    /// `rows` names the sequences of an item. `work` gets a pass over some items and the gradient to add to; its
    /// results come back in a fixed order. The batch is what the routers are balanced over with
    /// `aux_loss_per = "batch"`: their loads are then counted first, in a forward pass more.
    ///
    /// # Errors
    /// What `work` fails with; where a token is outside the vocabulary; where the device fails.
    pub fn accumulate<T: Sync, S: Send>(
        &mut self,
        items: &[T],
        rows: impl Fn(&T) -> Vec<&Sequence> + Sync,
        work: impl Fn(&Pass<B>, &mut B::Floats, &[&T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let seed = mix(self.dropout_seed ^ mix(self.steps) ^ mix(self.passes.wrapping_mul(0x9e37)));
        self.passes += 1;
        let mut aux = AuxShare::of(items.iter().flat_map(&rows));
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

    /// Works on a batch pass by pass, each with its own stream of dropout.
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
                true => reduce.lend(backend, transformer.layout.len())?,
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
                reduce.take(backend, lane, gradients)?;
            }
            Ok(results)
        };
        let results = in_order(reduce.lanes(), run_lane).into_iter().collect::<Result<Vec<Vec<S>>>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    /// One optimizer step with what was accumulated; returns the gradient norm before clipping.
    ///
    /// Gradients are zero afterwards. A step whose gradient overflowed is skipped where a smaller scale of the loss can
    /// help, and counts as a step: see [`Self::skipped_steps`].
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn step(&mut self, lr: f64) -> Result<f64> {
        let backend = &self.transformer.backend.clone();
        let sum = match self.reduce.sum(backend)? {
            Some(sum) => sum,
            None => backend.zeros(self.transformer.layout.len())?,
        };
        self.steps += 1;
        let pulled_back = self.lora.as_ref().map(|lora| lora.pull_back(backend, &sum)).transpose()?;
        let gradient = pulled_back.as_ref().unwrap_or(&sum);
        let scale = f64::from(self.loss_scale.value());
        let norm = self.optimizer.norm(backend, gradient)? / scale;
        if !self.loss_scale.hear(norm) {
            let step = Step { number: self.steps, lr, norm, scale };
            match &mut self.lora {
                Some(lora) => {
                    self.optimizer.update(backend, &mut lora.weights, gradient, step)?;
                    lora.merge_into(&mut self.transformer)?;
                }
                None => self.optimizer.update(backend, &mut self.transformer.weights, gradient, step)?,
            }
        }
        self.reduce.give_back(backend, sum)?;
        self.passes = 0;
        Ok(norm)
    }

    /// All that [`Self::restore`] needs to go on as if never stopped, by name: weights, moments, adapters.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
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

    /// Takes over a state saved after `steps` steps.
    ///
    /// # Errors
    /// Where a part is missing or of another length.
    pub fn restore(&mut self, mut state: BTreeMap<String, Vec<f32>>, steps: u64) -> Result<()> {
        let sizes: Vec<(&str, usize)> =
            self.state()?.iter().map(|(name, part)| (*name, part.len())).collect();
        let mut parts = sizes.into_iter().map(|(name, len)| {
            let saved =
                state.remove(name).ok_or_else(|| Error::Input(format!("the saved state lacks {name}")))?;
            if saved.len() == len {
                return Ok(saved);
            }
            Err(Error::Input(format!("the saved {name} has {} numbers, expected {len}", saved.len())))
        });
        let backend = self.transformer.backend.clone();
        let mut next = || parts.next().unwrap_or_else(|| Ok(vec![]));
        self.transformer.weights = backend.weights(next()?)?;
        self.optimizer.moments = [backend.floats(next()?)?, backend.floats(next()?)?];
        if let Some(lora) = &mut self.lora {
            lora.weights = backend.weights(next()?)?;
        }
        self.loss_scale = LossScale::from_state(&next()?);
        self.steps = steps;
        Ok(())
    }

    /// Fails where a weight, an adapter or a moment is NaN or infinite: an update can overflow though loss and gradient
    /// do not.
    ///
    /// # Errors
    /// Names what is not finite.
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

    /// Takes out the summed gradient of every weight, `(weights,)`, instead of a step; for tests and inspection.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn take_gradient(&mut self) -> Result<Vec<f32>> {
        let backend = &self.transformer.backend;
        match self.reduce.sum(backend)? {
            Some(sum) => Ok(backend.read(&sum)?.into_owned()),
            None => Ok(vec![0.0; self.transformer.layout.len()]),
        }
    }
}

/// Runs lanes on the current threads, each thread taking the next one, so that those before it are done or under way.
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

/// Each expert's share of its load times their number, layer by layer, over passes that make up a batch.
fn loads(passes: &[Vec<RouterStats>]) -> Vec<Vec<f32>> {
    let share = |layer: &RouterStats| {
        let all = layer.load.iter().sum::<u64>().max(1) as f64;
        layer.load.iter().map(|&of| (of as f64 * layer.load.len() as f64 / all) as f32).collect()
    };
    RouterStats::sum(passes).iter().map(share).collect()
}

/// Cuts items into runs of at most `limit` positions, at least one item each.
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
