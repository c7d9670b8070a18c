//! Update of the weights: a rule for each parameter, and multipliers for groups of parameters.

use crate::backend::Backend;
use crate::layout::{Layout, Matrix};
use crate::lora::Lora;
use crate::optimizer::{AdamW, Clipping, Muon};
use crate::parametrization::Scales;
use crate::spec::Role;
use crate::{ModelConfig, Result};
use std::ops::Range;

/// Update rule of the matrices in the blocks; embedding, head, routers, norms and adapters always use AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Updates by [`AdamW`].
    AdamW,
    /// Updates by [`Muon`].
    Muon,
}

impl Rule {
    /// Returns the rule of parameters with a role, given the rule of the matrices in the blocks.
    pub(crate) fn of(self, role: Role) -> Self {
        let is_outer = matches!(role, Role::Embedding | Role::Head | Role::Router);
        if is_outer || role.is_norm() { Self::AdamW } else { self }
    }
}

/// Multipliers of the hyperparameters of a group of parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// Multiplier of the learning rate.
    pub lr: f64,
    /// Multiplier of the weight decay.
    pub weight_decay: f64,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { lr: 1.0, weight_decay: 1.0 }
    }
}

/// Multipliers of each group of parameters; the groups follow from the roles (Yang et al. 2022, "Tensor Programs V", table 3).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Groups {
    /// Group of the token embedding, tied or not.
    pub embedding: Multipliers,
    /// Group of the matrices in the blocks, including routers, and of adapters.
    pub hidden: Multipliers,
    /// Group of an untied head.
    pub head: Multipliers,
    /// Group of the scales of norms; these have no weight decay.
    pub norm: Multipliers,
}

impl Groups {
    fn of(&self, role: Role) -> Multipliers {
        match role {
            Role::Embedding => self.embedding,
            Role::Head => self.head,
            role if role.is_norm() => Multipliers { weight_decay: 0.0, ..self.norm },
            _ => self.hidden,
        }
    }
}

/// Configuration of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Update rule of the matrices in the blocks.
    pub rule: Rule,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Epsilon, added to the root of the second moment.
    pub eps: f64,
    /// Decay rate of Muon's momentum.
    pub momentum: f64,
    /// Decoupled weight decay, not applied to norms; 0 turns AdamW into Adam.
    pub weight_decay: f64,
    /// Gradient norm above which gradients are clipped; 0 disables clipping.
    pub clip: f64,
    /// Multipliers for groups of parameters.
    pub groups: Groups,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::AdamW,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            momentum: 0.95,
            weight_decay: 0.1,
            clip: 1.0,
            groups: Groups::default(),
        }
    }
}

/// Factors of the hyperparameters of some parameters: those of their group times those of the parametrization.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Factors {
    lr: f64,
    weight_decay: f64,
    eps: f64,
}

impl Factors {
    fn of(group: Multipliers, scales: &Scales) -> Self {
        Self {
            lr: group.lr * scales.lr,
            weight_decay: group.weight_decay * scales.weight_decay,
            eps: scales.eps,
        }
    }
}

/// Ranges of parameters, each with a value; adjacent ranges with equal values are merged.
#[derive(Debug, Clone, PartialEq)]
struct Spans<T>(Vec<(Range<usize>, T)>);

impl<T: PartialEq> Spans<T> {
    fn push(&mut self, range: Range<usize>, of: T) {
        match self.0.last_mut() {
            Some((last, same)) if *same == of && last.end == range.start => last.end = range.end,
            _ => self.0.push((range, of)),
        }
    }
}

/// Properties of a step that its update depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Number of the step, counted from 1.
    pub number: u64,
    /// Learning rate of the step.
    pub lr: f64,
}

/// Moments of the trained parameters and the assignment of rules to them.
pub(super) struct Optimizer<B: Backend> {
    config: OptimizerConfig,
    /// Ranges of the parameters that AdamW updates.
    adamw: Spans<Factors>,
    /// Matrices that Muon updates, grouped by equal factors, in the order of the layout.
    muon: Vec<(Factors, Vec<Matrix>)>,
    /// Factors of the gradients in their norm; see [`crate::parametrization`].
    multipliers: Spans<f64>,
    /// First and second moments; for a matrix updated by Muon, the first is the momentum and the second stays zero.
    pub moments: [B::Floats; 2],
}

impl<B: Backend> Optimizer<B> {
    /// Creates the optimizer of all weights of a model.
    ///
    /// # Errors
    /// If the device runs out of memory.
    pub fn of_model(
        backend: &B,
        model: &ModelConfig,
        layout: &Layout,
        config: OptimizerConfig,
    ) -> Result<Self> {
        let mut found = Self::new(backend, layout.len(), config)?;
        for param in &layout.params {
            let rule = config.rule.of(param.role);
            let scales = model.scales(param.role, rule);
            let (range, factors) = (param.range.clone(), Factors::of(config.groups.of(param.role), &scales));
            found.multipliers.push(range.clone(), scales.multiplier);
            let (Rule::Muon, &[d_out, d_in]) = (rule, param.shape.as_slice()) else {
                found.adamw.push(range, factors);
                continue;
            };
            let matrix = Matrix { range, d_out, d_in };
            match found.muon.iter_mut().find(|(same, _)| *same == factors) {
                Some((_, matrices)) => matrices.push(matrix),
                None => found.muon.push((factors, vec![matrix])),
            }
        }
        Ok(found)
    }

    /// Creates the optimizer of adapters. They always use [`AdamW`]: Muon orthogonalises the update of a whole weight, of which
    /// `A` and `B` are only factors.
    ///
    /// # Errors
    /// If the device runs out of memory.
    pub fn of_adapters(
        backend: &B,
        model: &ModelConfig,
        lora: &Lora<B>,
        config: OptimizerConfig,
    ) -> Result<Self> {
        let mut found = Self::new(backend, lora.len(), config)?;
        for (role, adapter) in lora.adapters() {
            for (part, scales) in [&adapter.a, &adapter.b].into_iter().zip(model.adapter_scales(role)) {
                found.multipliers.push(part.range.clone(), scales.multiplier);
                found.adamw.push(part.range.clone(), Factors::of(config.groups.hidden, &scales));
            }
        }
        Ok(found)
    }

    fn new(backend: &B, len: usize, config: OptimizerConfig) -> Result<Self> {
        let moments = [backend.zeros(len)?, backend.zeros(len)?];
        Ok(Self { config, adamw: Spans(vec![]), muon: vec![], multipliers: Spans(vec![]), moments })
    }

    /// Computes the norm of a gradient and its scale in [`Self::update`]; the gradient still contains the loss scale.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn grad_scale(&self, backend: &B, gradient: &B::Floats, loss_scale: f64) -> Result<B::GradScale> {
        let clipping = Clipping { max_norm: self.config.clip, loss_scale };
        backend.grad_scale(gradient, &self.multipliers.0, &clipping)
    }

    /// Updates the weights; changes nothing if the gradient is not finite.
    ///
    /// # Errors
    /// If the device fails, for example by running out of memory.
    pub fn update(
        &mut self,
        backend: &B,
        weights: &mut B::Weights,
        gradient: &B::Floats,
        scale: &B::GradScale,
        Step { number: step, lr }: Step,
    ) -> Result<()> {
        let OptimizerConfig { beta1, beta2, eps, momentum, weight_decay, .. } = self.config;
        for (range, of) in &self.adamw.0 {
            let (lr, weight_decay, eps) = (lr * of.lr, weight_decay * of.weight_decay, eps * of.eps);
            let rule = AdamW { lr, beta1, beta2, eps, weight_decay, step };
            backend.adamw(weights, &mut self.moments, gradient, scale, range.clone(), &rule)?;
        }
        for (of, matrices) in &self.muon {
            let (lr, weight_decay) = (lr * of.lr, weight_decay * of.weight_decay);
            let rule = Muon { lr, momentum, weight_decay };
            backend.muon(weights, &mut self.moments, gradient, scale, matrices, &rule)?;
        }
        Ok(())
    }
}
