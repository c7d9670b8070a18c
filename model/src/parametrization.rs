//! Transfer of hyperparameters from a base shape to other shapes: factors of the initial weights and the updates of each
//! group of weights. At the base shape every factor is one.
//!
//! The rules are those of Yang et al. 2022 ("Tensor Programs V", table 8, for Adam) and, for depth, of Dey et al. 2025
//! ("Don't be lazy: CompleteP enables compute-efficient deep transformers", table 1, alpha = 1), whose code
//! (EleutherAI/nanoGPT-mup, branch completep) treats epsilon and weight decay as this module does. With
//! `m = d_model / base_width`, `l = n_layers / base_depth` (1 under `mup`) and `h = head_dim / base_head_dim`:
//!
//! | weights | multiplier | initial | lr (AdamW) | lr (Muon) | epsilon |
//! |---|---|---|---|---|---|
//! | embedding, also if tied to the head | 1 | 1 | 1 | | 1 / m |
//! | head | 1 | 1 | 1 | | 1 / m |
//! | last norm | 1 / m: of the logits | 1 | 1 | | 1 / m |
//! | other norms | 1 | 1 | 1 | | 1 / (m l) |
//! | `wq`, or with `qk_norm` the norm over queries | 1 / sqrt(h): divides scores by `head_dim` instead of its root | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | `wo`, `w2` | 1 / l: of the residual branch | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | `wk`, `wv`, `w1`, `w3` | 1 | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | router | 1 / m | 1 | 1 | | 1 / (m l) |
//!
//! A router is an output layer: it maps the width to a number of experts that does not grow. An expert is treated like any
//! other feed-forward. Muon's updates have a root mean square of 0.2 at every shape, hence a spectral norm that grows as
//! the root of the width; `1 / sqrt(m)` compensates for this (Yang, Simon & Bernstein 2023, "A spectral condition for
//! feature learning", condition 1). `lr * weight_decay`, the decay of weights per step, is that of the base shape.
//!
//! *Multipliers are folded into the weights.* A weight `W` that is used as `c W` is drawn and stored as `c W`, with its
//! learning rate multiplied and its epsilon divided by `c`: this leaves the steps of Adam unchanged (Yang et al. 2022,
//! appendix J, symmetry of multiplier, initialization and learning rate) and, except for its epsilon, those of Muon.
//! Therefore forward passes, files and other programs are independent of the parametrization. The gradient of `c W` is
//! that of `W` divided by `c`; clipping uses the norm of the latter.

use crate::config::ModelConfig;
use crate::spec::Role;
use crate::trainer::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rules that transfer hyperparameters from the base shape to other shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parametrization {
    /// No transfer: every shape uses the hyperparameters of the configuration unchanged.
    Standard,
    /// Across widths: maximal update parametrization (Yang et al. 2022).
    Mup,
    /// Across widths and depths: `mup` combined with `alpha = 1` of Dey et al. 2025.
    Completep,
}

/// Factors of a group of weights relative to the base shape.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Factor of the initial weights, applied to weights drawn as at the base shape.
    pub init: f64,
    /// Factor of the learning rate.
    pub lr: f64,
    /// Factor of the weight decay.
    pub weight_decay: f64,
    /// Factor of AdamW's epsilon.
    pub eps: f64,
    /// Multiplier of the forward pass that is folded into the weights.
    pub multiplier: f64,
}

impl Scales {
    /// The factors at the base shape.
    pub const ONE: Self = Self { init: 1.0, lr: 1.0, weight_decay: 1.0, eps: 1.0, multiplier: 1.0 };

    /// Combines the factors of a row of the table, with the multiplier folded into the weights.
    fn folded(multiplier: f64, [init, lr, eps]: [f64; 3]) -> Self {
        let lr = multiplier * lr;
        Self { init: multiplier * init, lr, weight_decay: 1.0 / lr, eps: eps / multiplier, multiplier }
    }
}

/// Ratios of a shape to its base shape: `m`, `l` and `h` of the table.
#[derive(Debug, Clone, Copy)]
struct ShapeRatios {
    width: f64,
    depth: f64,
    head: f64,
}

impl ModelConfig {
    /// Returns the ratios to the base shape; `None` under `standard`.
    fn shape_ratios(&self) -> Option<ShapeRatios> {
        let over = |size: usize, base: Option<usize>| size as f64 / base.unwrap_or(size) as f64;
        let depth = match self.parametrization {
            Parametrization::Standard => return None,
            Parametrization::Mup => 1.0,
            Parametrization::Completep => over(self.n_layers, self.base_depth),
        };
        let (width, head) = (over(self.d_model, self.base_width), over(self.head_dim(), self.base_head_dim));
        Some(ShapeRatios { width, depth, head })
    }

    /// Returns the width and depth for which weights are drawn, before [`Scales::init`] applies: those of the base shape, if
    /// there is one.
    pub(crate) fn init_shape(&self) -> (usize, usize) {
        let (width, depth) =
            (self.base_width.unwrap_or(self.d_model), self.base_depth.unwrap_or(self.n_layers));
        match self.parametrization {
            Parametrization::Standard => (self.d_model, self.n_layers),
            Parametrization::Mup => (width, self.n_layers),
            Parametrization::Completep => (width, depth),
        }
    }

    /// Returns the factors of the weights with a role that are updated by a rule.
    pub fn scales(&self, role: Role, rule: Rule) -> Scales {
        let Some(ShapeRatios { width, depth, head }) = self.shape_ratios() else { return Scales::ONE };
        let attention = 1.0 / head.sqrt();
        let (outer, inner) = (1.0 / width, 1.0 / (width * depth));
        let hidden = |multiplier: f64| {
            let lr = if rule == Rule::Muon { 1.0 / width.sqrt() } else { 1.0 / width };
            Scales::folded(multiplier, [1.0 / width.sqrt(), lr, inner])
        };
        match role {
            Role::Embedding | Role::Head => Scales::folded(1.0, [1.0, 1.0, outer]),
            Role::LastNorm => Scales::folded(1.0 / width, [1.0, 1.0, outer]),
            Role::QueryNorm => Scales::folded(attention, [1.0, 1.0, inner]),
            Role::Norm => Scales::folded(1.0, [1.0, 1.0, inner]),
            Role::Query if !self.qk_norm => hidden(attention),
            Role::AttentionOutput | Role::Down => hidden(1.0 / depth),
            Role::Query | Role::KeyValue | Role::Gate | Role::Up => hidden(1.0),
            Role::Router => Scales::folded(1.0 / width, [1.0, 1.0, inner]),
        }
    }

    /// Returns the factors of an adapter of weights with a role: those of `A` and those of `B`.
    ///
    /// `A` maps the width to the rank and `B` the rank to the width, so that only the learning rate of `A` decreases with
    /// the width (Hayou et al. 2024, "LoRA+"). The multiplier of the weights is folded into `B`.
    pub fn adapter_scales(&self, role: Role) -> [Scales; 2] {
        let Some(ShapeRatios { width, depth, .. }) = self.shape_ratios() else { return [Scales::ONE; 2] };
        let multiplier = self.scales(role, Rule::AdamW).multiplier;
        [
            Scales::folded(1.0, [1.0, 1.0 / width, 1.0 / depth]),
            Scales::folded(multiplier, [1.0, 1.0, 1.0 / (width * depth)]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 12] = [
        Role::Embedding,
        Role::Head,
        Role::Norm,
        Role::LastNorm,
        Role::QueryNorm,
        Role::Query,
        Role::KeyValue,
        Role::AttentionOutput,
        Role::Gate,
        Role::Up,
        Role::Down,
        Role::Router,
    ];

    /// Four times as wide as its base shape, twice as deep, with heads four times as large.
    fn grown(parametrization: Parametrization) -> ModelConfig {
        ModelConfig {
            d_model: 128,
            n_layers: 4,
            n_heads: 2,
            n_kv_heads: 1,
            parametrization,
            base_width: Some(32),
            base_depth: Some(2),
            base_head_dim: Some(16),
            ..ModelConfig::default()
        }
    }

    #[test]
    fn the_base_shape_is_the_standard_one() {
        for parametrization in [Parametrization::Standard, Parametrization::Mup, Parametrization::Completep] {
            let grown = grown(parametrization);
            let base = ModelConfig { d_model: 32, n_layers: 2, ..grown.clone() };
            let shapes =
                if parametrization == Parametrization::Standard { vec![base, grown] } else { vec![base] };
            for config in shapes {
                assert_eq!(config.init_shape(), (config.d_model, config.n_layers));
                for role in ROLES {
                    let scales = [Rule::AdamW, Rule::Muon].map(|rule| config.scales(role, rule));
                    assert_eq!(scales, [Scales::ONE; 2], "{parametrization:?}, {role:?}");
                    assert_eq!(config.adapter_scales(role), [Scales::ONE; 2]);
                }
            }
        }
    }

    /// Table 3 of Yang et al., the form without multipliers: for hidden matrices the initial deviation scales as
    /// 1 / sqrt(fan-in) and Adam's learning rate as 1 / fan-in, for outputs both as 1 / fan-in, for inputs neither scales.
    #[test]
    fn widths_follow_table_3() {
        let config = grown(Parametrization::Mup);
        let of = |role| {
            let scales = config.scales(role, Rule::AdamW);
            (scales.init, scales.lr, scales.weight_decay)
        };
        assert_eq!(of(Role::Embedding), (1.0, 1.0, 1.0));
        assert_eq!(of(Role::KeyValue), (0.5, 0.25, 4.0));
        assert_eq!(of(Role::Down), (0.5, 0.25, 4.0));
        assert_eq!(of(Role::Router), (0.25, 0.25, 4.0));
        // The last norm divides the logits by the width; attention scores are divided by another root of the head size.
        assert_eq!(of(Role::LastNorm), (0.25, 0.25, 4.0));
        assert_eq!(of(Role::Query), (0.25, 0.125, 8.0));
        assert_eq!(config.scales(Role::KeyValue, Rule::Muon).lr, 0.5);
        let normed = ModelConfig { qk_norm: true, ..config };
        assert_eq!(normed.scales(Role::QueryNorm, Rule::AdamW).init, 0.5);
        assert_eq!(normed.scales(Role::Query, Rule::AdamW).init, 0.5);
    }

    #[test]
    fn depths_scale_residual_branches_and_epsilon() {
        let (wide, deep) = (grown(Parametrization::Mup), grown(Parametrization::Completep));
        for role in ROLES {
            let [wide, deep] = [&wide, &deep].map(|config| config.scales(role, Rule::AdamW));
            let branch = if matches!(role, Role::AttentionOutput | Role::Down) { 0.5 } else { 1.0 };
            assert_eq!((deep.init, deep.lr), (branch * wide.init, branch * wide.lr), "{role:?}");
            let is_outer = matches!(role, Role::Embedding | Role::Head | Role::LastNorm);
            // A multiplier folded into the weights makes gradients and epsilon larger.
            let eps = if is_outer { 1.0 } else { 0.5 / branch };
            assert_eq!(deep.eps, eps * wide.eps, "{role:?}");
        }
        assert_eq!((wide.init_shape(), deep.init_shape()), ((32, 4), (32, 2)));
    }
}
