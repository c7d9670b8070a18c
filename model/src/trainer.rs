//! Optimizer steps over a batch that is cut into lanes.
//!
//! A batch is cut into a fixed number of lanes; lane `i` takes items `i, i + lanes, ...` through the whole model
//! into its own gradient buffer, single-threaded. Lanes are summed in order. Which thread runs a lane does not
//! matter, so the result is the same to the last bit for any number of threads. The threads are those of the rayon
//! pool that the caller has installed. The plain form has a single lane. In either form a lane takes few items at a
//! time, so that memory does not grow with the batch.

use crate::lora::Lora;
use crate::ops::adamw::AdamW;
use crate::ops::dropout::mix;
use crate::ops::math;
use crate::random::{Purpose, derived_seed};
use crate::tokens::{Ragged, Sequence};
use crate::transformer::context::{with_slice, with_slice_mut};
use crate::transformer::{AuxShare, Form, Gradients, Mode, Pass, RouterStats, Transformer};
use crate::weights::{NamedTensors, finite};
use crate::{AuxLoss, Error, Result};
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// A lane takes items together until they reach this many positions: tall products, bounded memory.
pub const GROUP_POSITIONS: usize = 512;

/// Elements of one piece of the work over all parameters; fixed, so that sums keep their order.
const PIECE: usize = 1 << 16;

/// How weights are updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay on matrices; 0 is Adam.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 leaves gradients as they are.
    pub clip: f64,
}

/// How a batch is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneConfig {
    /// Lanes of a batch in the fused form; part of the result, unlike the threads.
    pub lanes: usize,
    /// Items that one pass takes at most in the plain form.
    pub micro_batch: usize,
    /// Compute activations again in the backward pass.
    pub recompute: bool,
    /// Seed of dropout.
    pub seed: u64,
}

/// A model in training: weights, moments, gradients.
pub struct Trainer {
    /// The model; its weights change with every step.
    pub transformer: Transformer,
    lora: Option<Lora>,
    optimizer: OptimizerConfig,
    lane_config: LaneConfig,
    dropout_seed: u64,
    /// First and second moments of the trained parameters.
    moments: [Tensor; 2],
    lanes: Vec<Arc<Gradients>>,
    steps: u64,
    /// Passes since the last step, so that dropout differs between accumulated batches.
    passes: u64,
}

impl Trainer {
    /// Trains all weights, or the adapters if there are any.
    pub fn new(
        transformer: Transformer,
        lora: Option<Lora>,
        optimizer: OptimizerConfig,
        lane_config: LaneConfig,
    ) -> Result<Self> {
        let (len, device) = (transformer.weights.layout.len(), transformer.device().clone());
        let trained = lora.as_ref().map_or(len, |l| l.flat.elem_count());
        let zeros = || Tensor::zeros(trained, DType::F32, &device);
        let lanes = if transformer.form() == Form::Fused { lane_config.lanes.max(1) } else { 1 };
        if let Some(lora) = &lora {
            lora.merge_into(&transformer.weights)?;
        }
        Ok(Self {
            moments: [zeros()?, zeros()?],
            lanes: (0..lanes).map(|_| Gradients::zeros(len, &device)).collect(),
            transformer,
            lora,
            optimizer,
            dropout_seed: derived_seed(lane_config.seed, Purpose::Dropout),
            lane_config,
            steps: 0,
            passes: 0,
        })
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The adapters, where they are what is trained.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Takes a batch through the model and adds its gradient.
    ///
    /// `rows` names the sequences of an item. `work` gets a pass over some items and runs it forward and backward; its
    /// results come back in a fixed order. The batch is what the routers are balanced over with
    /// `aux_loss_per = "batch"`: their loads are then counted first, in a forward pass more.
    pub fn accumulate<T: Sync, S: Send>(
        &mut self,
        items: &[T],
        rows: impl Fn(&T) -> Vec<&Sequence> + Sync,
        work: impl Fn(&Pass, &[&T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let seed = mix(self.dropout_seed ^ mix(self.steps) ^ mix(self.passes.wrapping_mul(0x9e37)));
        self.passes += 1;
        let mut aux = AuxShare::of(items.iter().flat_map(&rows));
        let config = &self.transformer.config;
        if config.is_moe() && config.aux_loss_alpha > 0.0 && config.aux_loss_per == AuxLoss::Batch {
            let count = |pass: &Pass, _: &[&T]| {
                pass.hidden()?;
                Ok(pass.router_stats())
            };
            let mode = |dropout_seed, _: &Arc<Gradients>| Mode::Route { dropout_seed };
            aux.loads = Some(Arc::new(loads(&self.each_pass(items, &rows, seed, mode, count)?)));
        }
        let mode = |dropout_seed, gradients: &Arc<Gradients>| Mode::Train {
            gradients: gradients.clone(),
            dropout_seed,
            aux: aux.clone(),
            recompute: self.lane_config.recompute,
        };
        self.each_pass(items, &rows, seed, mode, work)
    }

    /// Works on a batch pass by pass, each with its own stream of dropout.
    fn each_pass<T: Sync, S: Send>(
        &self,
        items: &[T],
        rows: &(impl Fn(&T) -> Vec<&Sequence> + Sync),
        seed: u64,
        mode: impl Fn(u64, &Arc<Gradients>) -> Mode + Sync,
        work: impl Fn(&Pass, &[&T]) -> Result<S> + Sync,
    ) -> Result<Vec<S>> {
        let lanes = self.lanes.len();
        let run_lane = |(lane, gradients): (usize, &Arc<Gradients>)| -> Result<Vec<S>> {
            let items: Vec<&T> = items.iter().skip(lane).step_by(lanes).collect();
            let groups = match self.transformer.form() {
                Form::Fused => {
                    let positions = |item: &&T| rows(item).iter().map(|row| row.len()).sum();
                    groups(&items, positions, GROUP_POSITIONS)
                }
                Form::Plain => groups(&items, |_| 1, self.lane_config.micro_batch.max(1)),
            };
            let results = groups.into_iter().enumerate().map(|(group, items)| {
                let place = (lane as u64) << 32 | group as u64;
                let batch = Ragged::new(items.iter().flat_map(|item| rows(item)));
                let pass = self.transformer.pass(batch, mode(mix(seed ^ mix(place)), gradients))?;
                work(&pass, items)
            });
            results.collect()
        };
        let results: Vec<Result<Vec<S>>> = self.lanes.par_iter().enumerate().map(run_lane).collect();
        let results: Vec<Vec<S>> = results.into_iter().collect::<Result<_>>()?;
        Ok(results.into_iter().flatten().collect())
    }

    /// One optimizer step with what was accumulated; returns the gradient norm before clipping.
    ///
    /// Gradients are zero afterwards.
    pub fn step(&mut self, lr: f64) -> Result<f64> {
        let norm = if self.transformer.device().is_cpu() {
            self.step_on_host(lr)?
        } else {
            self.step_on_device(lr)?
        };
        if let Some(lora) = &self.lora {
            lora.merge_into(&self.transformer.weights)?;
        }
        self.passes = 0;
        Ok(norm)
    }

    fn step_on_host(&mut self, lr: f64) -> Result<f64> {
        let mut guards: Vec<_> = self.lanes.iter().map(|l| l.host()).collect();
        let (first, rest) = guards.split_at_mut(1);
        let sum: &mut [f32] = &mut first[0];
        let rest: Vec<&[f32]> = rest.iter().map(|lane| lane.as_slice()).collect();
        sum.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| {
            for lane in &rest {
                math::add_assign(piece, &lane[i * PIECE..][..piece.len()]);
            }
        });
        let adapters = match &self.lora {
            Some(lora) => {
                let flat = Tensor::from_slice(sum, sum.len(), self.transformer.device())?;
                Some(lora.pull_back(&flat)?.to_vec1::<f32>()?)
            }
            None => None,
        };
        let gradient: &[f32] = adapters.as_deref().unwrap_or(sum);
        let squares: Vec<f64> = gradient.par_chunks(PIECE).map(math::sum_of_squares).collect();
        let norm = squares.iter().sum::<f64>().sqrt();
        self.steps += 1;
        let adam = self.update(lr, norm);
        let trained = self.lora.as_ref().map_or(&self.transformer.weights.flat, |l| &l.flat);
        let spans = self.spans();
        let [m, v] = &self.moments;
        with_slice_mut(trained, |w| {
            with_slice_mut(m, |m| {
                with_slice_mut(v, |v| {
                    for (span, decays) in spans {
                        let adam =
                            AdamW { weight_decay: if decays { adam.weight_decay } else { 0.0 }, ..adam };
                        let pieces = w[span.clone()]
                            .par_chunks_mut(PIECE)
                            .zip(m[span.clone()].par_chunks_mut(PIECE))
                            .zip(v[span.clone()].par_chunks_mut(PIECE))
                            .zip(gradient[span].par_chunks(PIECE));
                        pieces.for_each(|(((w, m), v), g)| adam.update(w, m, v, g));
                    }
                })
            })
        })???;
        let mut lanes: Vec<&mut [f32]> = guards.iter_mut().map(|g| g.as_mut_slice()).collect();
        lanes.par_iter_mut().for_each(|lane| lane.fill(0.0));
        Ok(norm)
    }

    fn step_on_device(&mut self, lr: f64) -> Result<f64> {
        let weights = &self.transformer.weights;
        let gradient = match self.lanes[0].take_device() {
            Some(gradient) => gradient,
            None => weights.flat.zeros_like()?,
        };
        let gradient = match &self.lora {
            Some(lora) => lora.pull_back(&gradient)?,
            None => gradient,
        };
        let norm = f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
        self.steps += 1;
        let adam = self.update(lr, norm);
        let trained = self.lora.as_ref().map_or(&weights.flat, |l| &l.flat);
        let [m, v] = &self.moments;
        for (span, decays) in self.spans() {
            let adam = AdamW { weight_decay: if decays { adam.weight_decay } else { 0.0 }, ..adam };
            let part = |t: &Tensor| t.narrow(0, span.start, span.len());
            let (w_new, m_new, v_new) =
                adam.plain(&part(trained)?, &part(m)?, &part(v)?, &part(&gradient)?)?;
            trained.slice_set(&w_new, 0, span.start)?;
            m.slice_set(&m_new, 0, span.start)?;
            v.slice_set(&v_new, 0, span.start)?;
        }
        Ok(norm)
    }

    fn update(&self, lr: f64, norm: f64) -> AdamW {
        let OptimizerConfig { beta1, beta2, eps, weight_decay, clip } = self.optimizer;
        // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
        let grad_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        AdamW { lr, beta1, beta2, eps, weight_decay, step: self.steps, grad_scale }
    }

    /// The trained parameters in spans that decay or do not: norms do not.
    fn spans(&self) -> Vec<(std::ops::Range<usize>, bool)> {
        if let Some(lora) = &self.lora {
            return vec![(0..lora.flat.elem_count(), true)];
        }
        let mut spans: Vec<(std::ops::Range<usize>, bool)> = vec![];
        for param in &self.transformer.weights.layout.params {
            let decays = param.shape.len() > 1;
            match spans.last_mut() {
                Some((span, last)) if *last == decays => span.end = param.range.end,
                _ => spans.push((param.range.clone(), decays)),
            }
        }
        spans
    }

    /// All that [`Self::restore`] needs to go on as if never stopped: weights, moments, adapters.
    pub fn state(&self) -> Result<NamedTensors> {
        let mut state = NamedTensors::new();
        let mut put = |name: &str, tensor: &Tensor| -> Result<()> {
            state.insert(name.into(), tensor.to_device(&candle_core::Device::Cpu)?);
            Ok(())
        };
        put("weights", &self.transformer.weights.flat)?;
        put("first_moment", &self.moments[0])?;
        put("second_moment", &self.moments[1])?;
        if let Some(lora) = &self.lora {
            put("adapters", &lora.flat)?;
        }
        Ok(state)
    }

    /// Takes over a state saved after `steps` steps.
    pub fn restore(&mut self, state: &NamedTensors, steps: u64) -> Result<()> {
        let mut targets = vec![
            ("weights", &self.transformer.weights.flat),
            ("first_moment", &self.moments[0]),
            ("second_moment", &self.moments[1]),
        ];
        if let Some(lora) = &self.lora {
            targets.push(("adapters", &lora.flat));
        }
        for (name, target) in targets {
            let saved =
                state.get(name).ok_or_else(|| Error::Input(format!("the saved state lacks {name}")))?;
            if saved.dims() != target.dims() {
                let problem =
                    format!("the saved {name} has shape {:?}, expected {:?}", saved.dims(), target.dims());
                return Err(Error::Input(problem));
            }
            target.slice_set(&saved.to_device(target.device())?, 0, 0)?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Fails where a weight, an adapter or a moment is NaN or infinite: an update can overflow though loss and gradient
    /// do not.
    ///
    /// # Errors
    /// Names what is not finite.
    pub fn check_finite(&self) -> Result<()> {
        self.transformer.weights.check_finite()?;
        let [first, second] = &self.moments;
        let adapters = self.lora.as_ref().map(|lora| ("the adapters", &lora.flat));
        let moments = [("the first moments", first), ("the second moments", second)];
        for (name, tensor) in adapters.into_iter().chain(moments) {
            with_slice(&tensor.to_device(&candle_core::Device::Cpu)?, finite)?
                .map_err(|problem| Error::Input(format!("{name}: {problem}")))?;
        }
        Ok(())
    }

    /// The summed gradient of every weight, `(weights,)`, before a step; for tests and inspection on a CPU.
    pub fn gradient(&self) -> Vec<f32> {
        let mut sum = self.lanes[0].host().clone();
        for lane in &self.lanes[1..] {
            math::add_assign(&mut sum, &lane.host());
        }
        sum
    }
}

/// Each expert's share of its load times their number, layer by layer, over passes that make up a batch.
fn loads(passes: &[Vec<RouterStats>]) -> Vec<Vec<f32>> {
    let mut sums: Vec<RouterStats> = vec![];
    for pass in passes {
        sums.resize(pass.len(), RouterStats::default());
        sums.iter_mut().zip(pass).for_each(|(sum, layer)| sum.merge(layer));
    }
    let share = |layer: &RouterStats| {
        let all = layer.load.iter().sum::<u64>().max(1) as f64;
        layer.load.iter().map(|&of| (of as f64 * layer.load.len() as f64 / all) as f32).collect()
    };
    sums.iter().map(share).collect()
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
