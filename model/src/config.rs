//! The shape of a model: its keys, their validation, and the exact number of weights.

use crate::parametrization::Parametrization;
use crate::section;
use crate::section::{Range, Table, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::OnceLock;
use thiserror::Error;

/// Distribution of the initial weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// MiniMind v1: normal with standard deviation 0.02, `wo` and `w3` 0.02 / sqrt(2 n_layers); router Kaiming-uniform.
    Minimind,
    /// Normal with standard deviation 1 / sqrt(d_model); `wo` and `w2` divided by sqrt(2 n_layers).
    Width,
}

/// Set of tokens over which the router's load balance is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuxLoss {
    /// Each sequence separately, then averaged over sequences (MiniMind's `seq_aux = True`).
    Sequence,
    /// Over all rows of an optimizer step; an additional forward pass counts their routes first.
    Batch,
}

section! {
    /// The shape of a transformer: MiniMind v1 with every dimension configurable.
    pub struct ModelConfig {
        /// Width of the residual stream.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub d_model: usize = 128,
        /// Number of blocks, each an attention layer and a feed-forward layer.
        #[schemars(range(min = 1, max = 1 << 12))]
        pub n_layers: usize = 4,
        /// Number of query heads; unless `head_dim` is set, it must divide `d_model` into heads of even size.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub n_heads: usize = 4,
        /// Number of key-value heads, each shared by `n_heads / n_kv_heads` query heads.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub n_kv_heads: usize = 2,
        /// Width of a head; unset: `d_model / n_heads`.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub head_dim: Option<usize> = None,
        /// Normalise the queries and keys of each head before the rotary embedding (Dehghani et al. 2023, section 2).
        pub qk_norm: bool = false,
        /// Attention window: number of most recent positions that a query attends to, including its own; unset: its whole
        /// document up to its own position.
        #[schemars(range(min = 1, max = 1 << 24))]
        pub window: Option<usize> = None,
        /// Number of entries in the vocabulary; also the vocabulary size of a tokenizer that is trained.
        #[schemars(range(min = 4, max = 1 << 24))]
        pub vocab_size: usize = 6400,
        /// Whether the output head shares the weights of the token embedding, as in MiniMind, or has its own matrix.
        pub tie_embeddings: bool = true,
        /// Hidden size of the feed-forward; unset: `multiple_of * ceil(int(8 d_model / 3) / multiple_of)`.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub hidden_dim: Option<usize> = None,
        /// Divisor of the derived hidden size, which is rounded up to a multiple of this value.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub multiple_of: usize = 64,
        /// Longest sequence that the model is meant for, in tokens; longer exam prompts drop shots, then their beginning.
        #[schemars(range(min = 1, max = 1 << 24))]
        pub max_seq_len: usize = 512,
        /// Epsilon of RMSNorm.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub norm_eps: f64 = 1e-5,
        /// Base of the rotary position frequencies.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub rope_theta: f64 = 10000.0,
        /// Dropout rate during training, on the embedding, the attention probabilities and both residual branches.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub dropout: f64 = 0.0,
        /// Initial distribution of the weights: `minimind` (exactly that of v1) or `width`.
        pub init: Init = Init::Width,
        /// How the learning rate and the other hyperparameters transfer from the base shape to this one: `standard`, not
        /// at all; `mup`, across widths (Yang et al. 2022); `completep`, across widths and depths (Dey et al. 2025). At
        /// the base shape all three are equal. docs/parametrization.md lists every factor.
        pub parametrization: Parametrization = Parametrization::Standard,
        /// `d_model` of the base shape of `mup` and `completep`, at which the hyperparameters were tuned. The total width of
        /// the heads and the hidden size of the feed-forward should grow in proportion to `d_model`.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub base_width: Option<usize> = None,
        /// Width of a head of the base shape: the common head width if the number of heads grows with `d_model`;
        /// `base_width / n_heads` if the heads grow instead.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub base_head_dim: Option<usize> = None,
        /// `n_layers` of the base shape of `completep`.
        #[schemars(range(min = 1, max = 1 << 12))]
        pub base_depth: Option<usize> = None,
        /// Multiplier of the initial weights of the token embedding.
        #[schemars(range(min = 0))]
        pub embedding_init: f64 = 1.0,
        /// Multiplier of the initial weights of the matrices in the blocks.
        #[schemars(range(min = 0))]
        pub hidden_init: f64 = 1.0,
        /// Multiplier of the initial weights of the output head, if it is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_init: f64 = 1.0,
        /// Number of routed experts per feed-forward layer; 0 gives a dense model.
        #[schemars(range(max = 1 << 12))]
        pub n_experts: usize = 0,
        /// Number of routed experts per token; if above 1, their router weights are renormalised to sum to one.
        #[schemars(range(max = 1 << 12))]
        pub top_k: usize = 2,
        /// Number of shared experts, which process every token in addition to the routed ones.
        #[schemars(range(max = 1 << 12))]
        pub n_shared_experts: usize = 1,
        /// Hidden size of each expert; unset: the same as that of a dense feed-forward.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub expert_hidden_dim: Option<usize> = None,
        /// Weight of the router's load-balancing loss; 0 disables it.
        #[schemars(range(min = 0))]
        pub aux_loss_alpha: f64 = 0.01,
        /// Tokens over which load balance is measured: `sequence`, or `batch`, all rows of an optimizer step. `batch` needs
        /// an additional forward pass, a third of the work of a step, which operation counts exclude.
        pub aux_loss_per: AuxLoss = AuxLoss::Sequence,
    }
}

/// The reason why a shape cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("model.{key}: {problem}")]
pub struct ShapeError {
    /// Name of the invalid key.
    pub key: &'static str,
    /// Description of the problem and what was expected.
    pub problem: String,
    /// Other keys with which the value conflicts.
    pub conflicts_with: &'static [&'static str],
}

impl ModelConfig {
    /// Returns an error for every key whose number is outside its range. The upper limits are low enough that no count of
    /// weights or operations overflows.
    pub fn out_of_range(&self) -> Vec<ShapeError> {
        static RANGES: OnceLock<Vec<(String, Option<Range>)>> = OnceLock::new();
        let ranges = RANGES.get_or_init(|| {
            let schema = schema_of::<Self>();
            let keys = schema["properties"].as_object().into_iter().flatten();
            keys.map(|(key, schema)| (key.clone(), Range::of(schema))).collect()
        });
        let mut values = Vec::with_capacity(ranges.len());
        self.put(&mut values);
        let problem = |((key, range), value): (&'static (String, Option<Range>), &Value)| {
            Some(ShapeError { key, problem: range.as_ref()?.problem(value)?, conflicts_with: &[] })
        };
        ranges.iter().zip(&values).filter_map(problem).collect()
    }

    /// Checks that the shape can be built.
    ///
    /// # Errors
    /// Returns the first problem found: the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let fail = |key, problem: String| Err(ShapeError { key, problem, conflicts_with: &[] });
        let conflicts_with =
            |key, with, problem: String| Err(ShapeError { key, problem, conflicts_with: with });
        if let Some(error) = self.out_of_range().into_iter().next() {
            return Err(error);
        }
        if let Some(head_dim) = self.head_dim.filter(|head_dim| !head_dim.is_multiple_of(2)) {
            return fail("head_dim", format!("is {head_dim}, but rotary positions need an even head size"));
        }
        if self.head_dim.is_none() && !self.d_model.is_multiple_of(self.n_heads) {
            return conflicts_with(
                "d_model",
                &["n_heads"],
                format!("{} is not divisible by n_heads = {}", self.d_model, self.n_heads),
            );
        }
        if !self.head_dim().is_multiple_of(2) {
            return conflicts_with(
                "n_heads",
                &["d_model"],
                format!(
                    "d_model / n_heads = {} is odd, but rotary positions need an even head size",
                    self.head_dim()
                ),
            );
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return conflicts_with(
                "n_kv_heads",
                &["n_heads"],
                format!("n_heads = {} is not divisible by {}", self.n_heads, self.n_kv_heads),
            );
        }
        if self.is_moe() && !(1..=self.n_experts).contains(&self.top_k) {
            let problem = format!("is {}, expected 1 to n_experts = {}", self.top_k, self.n_experts);
            return conflicts_with("top_k", &["n_experts"], problem);
        }
        if let Some(key) =
            self.base_keys().into_iter().find_map(|(key, value)| value.is_none().then_some(key))
        {
            let problem = "is unset, but this model.parametrization requires it: the size of the base shape, at which hyperparameters were tuned";
            return conflicts_with(key, &["parametrization"], problem.into());
        }
        Ok(())
    }

    /// Returns the keys of the base shape that the parametrization requires, with their values.
    fn base_keys(&self) -> Vec<(&'static str, Option<usize>)> {
        let keys = [
            ("base_width", self.base_width),
            ("base_head_dim", self.base_head_dim),
            ("base_depth", self.base_depth),
        ];
        let count = match self.parametrization {
            Parametrization::Standard => 0,
            Parametrization::Mup => 2,
            Parametrization::Completep => 3,
        };
        keys[..count].to_vec()
    }

    /// Returns whether the feed-forward is a mixture of experts.
    pub fn is_moe(&self) -> bool {
        self.n_experts > 0
    }

    /// Returns the width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.d_model / self.n_heads)
    }

    /// Returns the hidden size of the dense feed-forward (MiniMind v1, `FeedForward.__init__`).
    pub fn ffn_dim(&self) -> usize {
        self.hidden_dim
            .unwrap_or_else(|| (8 * self.d_model / 3).div_ceil(self.multiple_of) * self.multiple_of)
    }

    /// Returns the hidden size of one expert.
    pub fn expert_dim(&self) -> usize {
        self.expert_hidden_dim.unwrap_or_else(|| self.ffn_dim())
    }

    /// Returns the number of weights; a tied head is counted once.
    pub fn params(&self) -> usize {
        self.spec().params()
    }

    /// Returns the number of weights without the token embedding and without an untied head, as counted by Kaplan et al. 2020.
    pub fn non_embedding_params(&self) -> usize {
        let outer = self.vocab_size * self.d_model;
        self.params() - if self.tie_embeddings { outer } else { 2 * outer }
    }

    /// Returns the number of weights that one token uses: of the routed experts only `top_k`.
    pub fn active_params(&self) -> usize {
        self.spec().active_params()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimind_26m() -> ModelConfig {
        ModelConfig { d_model: 512, n_layers: 8, n_heads: 16, n_kv_heads: 8, ..ModelConfig::default() }
    }

    #[test]
    fn hidden_sizes_follow_minimind() {
        // Source: MINIMIND_V1, quirk 19.
        for (d_model, hidden) in [(64, 192), (96, 256), (128, 384), (256, 704), (512, 1408), (768, 2048)] {
            let config = ModelConfig { d_model, ..ModelConfig::default() };
            assert_eq!(config.ffn_dim(), hidden);
        }
    }

    #[test]
    fn parameter_counts_follow_minimind() {
        assert_eq!(minimind_26m().params(), 26_878_464);
        let of_vocabulary = 6400 * 512;
        assert_eq!(minimind_26m().non_embedding_params(), 26_878_464 - of_vocabulary);
        let untied = ModelConfig { tie_embeddings: false, ..minimind_26m() };
        assert_eq!(untied.non_embedding_params(), untied.params() - 2 * of_vocabulary);
        let moe = ModelConfig { n_experts: 4, ..minimind_26m() };
        assert_eq!(moe.params(), 26_878_464 + 8 * (4 * 3 * 512 * 1408 + 4 * 512));
        assert_eq!(moe.active_params(), 26_878_464 + 8 * (2 * 3 * 512 * 1408 + 4 * 512));
    }

    #[test]
    fn impossible_shapes_name_their_key() {
        let bad = |change: fn(&mut ModelConfig)| {
            let mut config = ModelConfig::default();
            change(&mut config);
            config.validate().expect_err("an impossible shape").key
        };
        assert_eq!(bad(|c| c.d_model = 130), "d_model");
        assert_eq!(bad(|c| c.n_kv_heads = 3), "n_kv_heads");
        assert_eq!(bad(|c| (c.d_model, c.n_heads, c.n_kv_heads) = (12, 4, 4)), "n_heads");
        assert_eq!(bad(|c| (c.n_experts, c.top_k) = (4, 5)), "top_k");
        assert_eq!(bad(|c| c.n_layers = 0), "n_layers");
        assert_eq!(bad(|c| c.head_dim = Some(7)), "head_dim");
        assert_eq!(bad(|c| c.window = Some(0)), "window");
        assert_eq!(bad(|c| c.hidden_dim = Some(0)), "hidden_dim");
        assert_eq!(bad(|c| (c.n_experts, c.expert_hidden_dim) = (2, Some(0))), "expert_hidden_dim");
        assert!(ModelConfig::default().validate().is_ok());
        assert_eq!(bad(|c| c.parametrization = Parametrization::Mup), "base_width");
        let without_depth = |c: &mut ModelConfig| {
            c.parametrization = Parametrization::Completep;
            (c.base_width, c.base_head_dim) = (Some(64), Some(32));
        };
        assert_eq!(bad(without_depth), "base_depth");
        // With an explicit head size, n_heads need not divide d_model.
        let free = ModelConfig { d_model: 130, head_dim: Some(16), ..ModelConfig::default() };
        assert!(free.validate().is_ok());
    }
}
