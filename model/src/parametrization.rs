//! How hyperparameters found at one shape serve others: what initial weights and updates of each group of weights are
//! multiplied by. At the base shape every multiplier is one.
//!
//! The rules are those of Yang et al. 2022 ("Tensor Programs V", table 8, for Adam) and, for depth, of Dey et al. 2025
//! ("Don't be lazy: CompleteP enables compute-efficient deep transformers", table 1, alpha = 1), whose code
//! (EleutherAI/nanoGPT-mup, branch completep) has epsilon and weight decay as they are here. With
//! `m = d_model / base_width`, `l = n_layers / base_depth` (1 under `mup`) and `h = head_dim / base_head_dim`:
//!
//! | weights | multiplier | initial | lr (AdamW) | lr (Muon) | epsilon |
//! |---|---|---|---|---|---|
//! | embedding, also where it is the head | 1 | 1 | 1 | | 1 / m |
//! | head | 1 | 1 | 1 | | 1 / m |
//! | last norm | 1 / m: the logits' | 1 | 1 | | 1 / m |
//! | other norms | 1 | 1 | 1 | | 1 / (m l) |
//! | `wq`, or with `qk_norm` the norm of queries | 1 / sqrt(h): scores over `head_dim`, not its root | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | `wo`, `w2` | 1 / l: the residual branch's | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | `wk`, `wv`, `w1`, `w3` | 1 | 1 / sqrt(m) | 1 / m | 1 / sqrt(m) | 1 / (m l) |
//! | router | 1 / m | 1 | 1 | | 1 / (m l) |
//!
//! A router is an output layer: from the width to a number of experts that does not grow. An expert is a feed-forward
//! like any other. Muon's updates have the root mean square 0.2 whatever the shape, hence a spectral norm that grows as
//! the root of the width; `1 / sqrt(m)` keeps it (Yang, Simon & Bernstein 2023, "A spectral condition for feature
//! learning", condition 1). `lr * weight_decay`, by which a step decays weights, is that of the base shape.
//!
//! *Multipliers are held by the weights.* A weight `W` that is used as `c W` is drawn and kept as `c W`, its learning
//! rate times `c` and its epsilon over `c`: that changes no step of Adam (Yang et al. 2022, appendix J, symmetry of
//! multiplier, initialization and learning rate) nor, its epsilon aside, of Muon. So a forward pass, a file or another
//! program need not know of any of this. Gradients are smaller by `c` than those of `W`; clipping takes the norm of
//! the latter.

use crate::config::ModelConfig;
use crate::spec::Role;
use crate::trainer::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which rules carry hyperparameters from the base shape to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parametrization {
    /// None: every shape is drawn and updated as the configuration says.
    Standard,
    /// Over widths: maximal update parametrization (Yang et al. 2022).
    Mup,
    /// Over widths and depths: the same, and `alpha = 1` of Dey et al. 2025.
    Completep,
}

/// What is done otherwise with a group of weights than at the base shape: a factor each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// Of the initial weights that the base shape has.
    pub init: f64,
    /// Of the learning rate.
    pub lr: f64,
    /// Of the weight decay.
    pub weight_decay: f64,
    /// Of AdamW's epsilon.
    pub eps: f64,
    /// What the weights hold of a forward pass that would multiply by it.
    pub multiplier: f64,
}

impl Scales {
    /// As at the base shape.
    pub const ONE: Self = Self { init: 1.0, lr: 1.0, weight_decay: 1.0, eps: 1.0, multiplier: 1.0 };

    /// The factors of a row of the table, the multiplier held by the weights.
    fn holding(multiplier: f64, [init, lr, eps]: [f64; 3]) -> Self {
        let lr = multiplier * lr;
        Self { init: multiplier * init, lr, weight_decay: 1.0 / lr, eps: eps / multiplier, multiplier }
    }
}

/// A shape over its base: `m`, `l` and `h` of the table.
#[derive(Debug, Clone, Copy)]
struct Growth {
    width: f64,
    depth: f64,
    head: f64,
}

impl ModelConfig {
    /// `None` where shapes are not related.
    fn growth(&self) -> Option<Growth> {
        let over = |size: usize, base: Option<usize>| size as f64 / base.unwrap_or(size) as f64;
        let depth = match self.parametrization {
            Parametrization::Standard => return None,
            Parametrization::Mup => 1.0,
            Parametrization::Completep => over(self.n_layers, self.base_depth),
        };
        let (width, head) = (over(self.d_model, self.base_width), over(self.head_dim(), self.base_head_dim));
        Some(Growth { width, depth, head })
    }

    /// Width and depth by which weights are drawn, before [`Scales::init`]: those of the base shape, where there is one.
    pub(crate) fn drawn_as(&self) -> (usize, usize) {
        let (width, depth) =
            (self.base_width.unwrap_or(self.d_model), self.base_depth.unwrap_or(self.n_layers));
        match self.parametrization {
            Parametrization::Standard => (self.d_model, self.n_layers),
            Parametrization::Mup => (width, self.n_layers),
            Parametrization::Completep => (width, depth),
        }
    }

    /// The factors of a group of weights that are updated by a rule.
    pub fn scales(&self, role: Role, rule: Rule) -> Scales {
        let Some(Growth { width, depth, head }) = self.growth() else { return Scales::ONE };
        let attention = 1.0 / head.sqrt();
        let (outer, inner) = (1.0 / width, 1.0 / (width * depth));
        let hidden = |multiplier: f64| {
            let lr = if rule == Rule::Muon { 1.0 / width.sqrt() } else { 1.0 / width };
            Scales::holding(multiplier, [1.0 / width.sqrt(), lr, inner])
        };
        match role {
            Role::Embedding | Role::Head => Scales::holding(1.0, [1.0, 1.0, outer]),
            Role::LastNorm => Scales::holding(1.0 / width, [1.0, 1.0, outer]),
            Role::QueryNorm => Scales::holding(attention, [1.0, 1.0, inner]),
            Role::Norm => Scales::holding(1.0, [1.0, 1.0, inner]),
            Role::Query if !self.qk_norm => hidden(attention),
            Role::AttentionOutput | Role::Down => hidden(1.0 / depth),
            Role::Query | Role::KeyValue | Role::Gate | Role::Up => hidden(1.0),
            Role::Router => Scales::holding(1.0 / width, [1.0, 1.0, inner]),
        }
    }

    /// The factors of an adapter of such weights, its `A` and its `B`.
    ///
    /// `A` leads from the width to the rank and `B` from the rank to the width, so that only the learning rate of `A`
    /// falls with the width (Hayou et al. 2024, "LoRA+"). What the weights hold, `B` holds.
    pub fn adapter_scales(&self, role: Role) -> [Scales; 2] {
        let Some(Growth { width, depth, .. }) = self.growth() else { return [Scales::ONE; 2] };
        let multiplier = self.scales(role, Rule::AdamW).multiplier;
        [
            Scales::holding(1.0, [1.0, 1.0 / width, 1.0 / depth]),
            Scales::holding(multiplier, [1.0, 1.0, 1.0 / (width * depth)]),
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

    /// Four times as wide as its base, twice as deep, with heads of four times the size.
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
                assert_eq!(config.drawn_as(), (config.d_model, config.n_layers));
                for role in ROLES {
                    let scales = [Rule::AdamW, Rule::Muon].map(|rule| config.scales(role, rule));
                    assert_eq!(scales, [Scales::ONE; 2], "{parametrization:?}, {role:?}");
                    assert_eq!(config.adapter_scales(role), [Scales::ONE; 2]);
                }
            }
        }
    }

    /// The table of Yang et al. in the form without multipliers (table 3): of a hidden matrix the initial deviation is
    /// over sqrt(fan-in) and Adam's rate over fan-in, of an output both are over fan-in, of an input neither is.
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
        // Logits over the width, by the last norm; scores of attention over a root of the head's size more.
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
            // Of what is held by the weights, gradients and epsilon are larger.
            let eps = if is_outer { 1.0 } else { 0.5 / branch };
            assert_eq!(deep.eps, eps * wide.eps, "{role:?}");
        }
        assert_eq!((wide.drawn_as(), deep.drawn_as()), ((32, 4), (32, 2)));
    }
}
