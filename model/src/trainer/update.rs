//! The update of weights: a rule for each parameter, and multipliers for groups of them.

use crate::backend::Backend;
use crate::layout::{Layout, Matrix};
use crate::lora::Lora;
use crate::optimizer::{AdamW, Muon};
use crate::parametrization::Scales;
use crate::spec::Role;
use crate::{ModelConfig, Result};
use std::ops::Range;

/// Which rule the matrices of blocks are updated by; embedding, head, router, norms and adapters always take AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// [`AdamW`].
    AdamW,
    /// [`Muon`].
    Muon,
}

impl Rule {
    /// The rule of parameters that do this, where the matrices of blocks have this one.
    pub(crate) fn of(self, role: Role) -> Self {
        let is_outer = matches!(role, Role::Embedding | Role::Head | Role::Router);
        if is_outer || role.is_norm() { Self::AdamW } else { self }
    }
}

/// What a group of parameters does otherwise than the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// Of the learning rate.
    pub lr: f64,
    /// Of the weight decay.
    pub weight_decay: f64,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { lr: 1.0, weight_decay: 1.0 }
    }
}

/// The groups of parameters, by what they do in a model (Yang et al. 2022, "Tensor Programs V", table 3).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Groups {
    /// The token embedding, tied or not.
    pub embedding: Multipliers,
    /// The matrices of blocks, routers among them.
    pub hidden: Multipliers,
    /// The head that is not tied.
    pub head: Multipliers,
    /// The scales of norms, which never decay.
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

/// How weights are updated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule of matrices.
    pub rule: Rule,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of Muon's momentum.
    pub momentum: f64,
    /// Decoupled weight decay; norms are left alone; 0 is Adam.
    pub weight_decay: f64,
    /// Largest gradient norm; 0 leaves gradients as they are.
    pub clip: f64,
    /// Multipliers of groups.
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

/// What the rule of some parameters is multiplied by: by their group, and by the parametrization of the model.
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

/// Places of parameters, with something that they have in common; what lies side by side is one.
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

/// What an update needs to know of its step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Its number, from 1.
    pub number: u64,
    /// The learning rate.
    pub lr: f64,
    /// The norm of the gradient, without the scale.
    pub norm: f64,
    /// What the gradient was multiplied by.
    pub scale: f64,
}

/// Moments of the trained parameters, and who takes which rule.
pub(super) struct Optimizer<B: Backend> {
    config: OptimizerConfig,
    /// Parameters that AdamW updates.
    adamw: Spans<Factors>,
    /// Matrices that Muon updates, in the order of the layout.
    muon: Vec<(Factors, Vec<Matrix>)>,
    /// What gradients are multiplied by in their norm: see [`crate::parametrization`].
    multipliers: Spans<f64>,
    /// First and second moments; of a matrix of Muon's the first is its momentum and the second stays zero.
    pub moments: [B::Floats; 2],
}

impl<B: Backend> Optimizer<B> {
    /// For all weights of a model.
    ///
    /// # Errors
    /// Where the device has no room for the moments.
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

    /// For adapters. They always take [`AdamW`]: Muon makes the update of a whole weight orthogonal, which neither factor is.
    ///
    /// # Errors
    /// Where the device has no room for the moments.
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

    /// The norm of a gradient. This waits for the device.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn norm(&self, backend: &B, gradient: &B::Floats) -> Result<f64> {
        let mut squares = 0.0;
        for (range, multiplier) in &self.multipliers.0 {
            squares += multiplier.powi(2) * backend.sum_of_squares(gradient, range.clone())?;
        }
        Ok(squares.sqrt())
    }

    /// One update.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn update(
        &mut self,
        backend: &B,
        weights: &mut B::Weights,
        gradient: &B::Floats,
        Step { number: step, lr, norm, scale }: Step,
    ) -> Result<()> {
        let OptimizerConfig { beta1, beta2, eps, momentum, weight_decay, clip, .. } = self.config;
        // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
        let grad_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 } / scale;
        for (range, of) in &self.adamw.0 {
            let (lr, weight_decay, eps) = (lr * of.lr, weight_decay * of.weight_decay, eps * of.eps);
            let rule = AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale };
            backend.adamw(weights, &mut self.moments, gradient, range.clone(), &rule)?;
        }
        for (of, matrices) in &self.muon {
            let (lr, weight_decay) = (lr * of.lr, weight_decay * of.weight_decay);
            let rule = Muon { lr, momentum, weight_decay, grad_scale };
            backend.muon(weights, &mut self.moments, gradient, matrices, &rule)?;
        }
        Ok(())
    }
}
