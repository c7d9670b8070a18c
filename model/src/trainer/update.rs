//! The update of weights: a rule for each parameter, and multipliers for groups of them.

use crate::Result;
use crate::backend::Backend;
use crate::layout::{Layout, Matrix};
use crate::optimizer::{AdamW, Muon};
use crate::spec::Role;
use std::ops::Range;

/// Which rule the matrices of blocks are updated by; embedding, head, router and norms always take AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// [`AdamW`].
    AdamW,
    /// [`Muon`].
    Muon,
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
            Role::Norm => Multipliers { weight_decay: 0.0, ..self.norm },
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

/// Parameters side by side that are updated alike.
#[derive(Debug, Clone, PartialEq)]
struct Span {
    range: Range<usize>,
    of: Multipliers,
}

/// Moments of the trained parameters, and who takes which rule.
pub(super) struct Optimizer<B: Backend> {
    config: OptimizerConfig,
    /// Parameters that AdamW updates.
    adamw: Vec<Span>,
    /// Matrices that Muon updates.
    muon: Vec<Matrix>,
    /// First and second moments; of a matrix of Muon's the first is its momentum and the second stays zero.
    pub moments: [B::Floats; 2],
}

impl<B: Backend> Optimizer<B> {
    /// For all weights of a model.
    ///
    /// # Errors
    /// Where the device has no room for the moments.
    pub fn of_model(backend: &B, layout: &Layout, config: OptimizerConfig) -> Result<Self> {
        let is_muon = |role| {
            !matches!(role, Role::Embedding | Role::Head | Role::Norm | Role::Router)
                && config.rule == Rule::Muon
        };
        let (mut adamw, mut muon): (Vec<Span>, _) = (vec![], vec![]);
        for param in &layout.params {
            let (range, of) = (param.range.clone(), config.groups.of(param.role));
            if let (true, &[d_out, d_in]) = (is_muon(param.role), param.shape.as_slice()) {
                muon.push(Matrix { range, d_out, d_in });
                continue;
            }
            match adamw.last_mut() {
                Some(last) if last.of == of && last.range.end == range.start => last.range.end = range.end,
                _ => adamw.push(Span { range, of }),
            }
        }
        Self::new(backend, layout.len(), config, adamw, muon)
    }

    /// For adapters, which are matrices of blocks.
    ///
    /// # Errors
    /// Where the device has no room for the moments.
    pub fn of_adapters(backend: &B, len: usize, config: OptimizerConfig) -> Result<Self> {
        Self::new(backend, len, config, vec![Span { range: 0..len, of: config.groups.hidden }], vec![])
    }

    fn new(
        backend: &B,
        len: usize,
        config: OptimizerConfig,
        adamw: Vec<Span>,
        muon: Vec<Matrix>,
    ) -> Result<Self> {
        Ok(Self { config, adamw, muon, moments: [backend.zeros(len)?, backend.zeros(len)?] })
    }

    /// One update, the `step`-th; returns the gradient norm before clipping.
    ///
    /// # Errors
    /// Where the device fails, as by running out of memory.
    pub fn update(
        &mut self,
        backend: &B,
        weights: &mut B::Weights,
        gradient: &B::Floats,
        step: u64,
        lr: f64,
    ) -> Result<f64> {
        let norm = backend.sum_of_squares(gradient)?.sqrt();
        let OptimizerConfig { beta1, beta2, eps, momentum, weight_decay, clip, groups, .. } = self.config;
        // torch.nn.utils.clip_grad_norm_ adds the same 1e-6.
        let grad_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        for Span { range, of } in &self.adamw {
            let (lr, weight_decay) = (lr * of.lr, weight_decay * of.weight_decay);
            let rule = AdamW { lr, beta1, beta2, eps, weight_decay, step, grad_scale };
            backend.adamw(weights, &mut self.moments, gradient, range.clone(), &rule)?;
        }
        if !self.muon.is_empty() {
            let (lr, weight_decay) = (lr * groups.hidden.lr, weight_decay * groups.hidden.weight_decay);
            let rule = Muon { lr, momentum, weight_decay, grad_scale };
            backend.muon(weights, &mut self.moments, gradient, &self.muon, &rule)?;
        }
        Ok(norm)
    }
}
