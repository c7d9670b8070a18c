//! The shape of a model: its keys, their validation, and its exact numbers of weights.

use crate::parametrization::Parametrization;
use crate::section;
use crate::section::{Range, schema_of};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::OnceLock;
use thiserror::Error;

/// How weights are drawn before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// MiniMind v1: normal 0.02; `wo` and `w3` 0.02 / sqrt(2 n_layers); router Kaiming-uniform.
    Minimind,
    /// Normal with standard deviation 1 / sqrt(d_model); `wo` and `w2` divided by sqrt(2 n_layers).
    Width,
}

/// Over which tokens the router's balance is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuxLoss {
    /// Per sequence, then averaged (MiniMind's `seq_aux = True`).
    Sequence,
    /// Over all rows of an optimizer step, whose routes are counted first.
    Batch,
}

section! {
    /// The shape of a transformer: MiniMind v1 with every dimension free.
    pub struct ModelConfig {
        /// Width of the residual stream.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub d_model: usize = 128,
        /// Number of blocks, each attention and feed-forward.
        #[schemars(range(min = 1, max = 1 << 12))]
        pub n_layers: usize = 4,
        /// Query heads; `d_model` must be divisible by it, into an even head size, unless `head_dim` says another.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub n_heads: usize = 4,
        /// Key-value heads, each shared by `n_heads / n_kv_heads` query heads.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub n_kv_heads: usize = 2,
        /// Width of a head; unset: `d_model / n_heads`.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub head_dim: Option<usize> = None,
        /// Normalise queries and keys head by head before they are rotated (Dehghani et al. 2023, section 2).
        pub qk_norm: bool = false,
        /// Last positions that a query attends to, its own among them; unset: all of its document.
        #[schemars(range(min = 1, max = 1 << 24))]
        pub window: Option<usize> = None,
        /// Entries of the vocabulary; also the size of a tokenizer that is trained.
        #[schemars(range(min = 4, max = 1 << 24))]
        pub vocab_size: usize = 6400,
        /// Whether the head is the token embedding, as in MiniMind, or a matrix of its own.
        pub tie_embeddings: bool = true,
        /// Hidden size of the feed-forward; unset: `multiple_of * ceil(int(8 d_model / 3) / multiple_of)`.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub hidden_dim: Option<usize> = None,
        /// The derived hidden size is rounded up to a multiple of this.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub multiple_of: usize = 64,
        /// Longest sequence in tokens that the model is meant for; exam prompts lose shots, then their beginning, to fit.
        #[schemars(range(min = 1, max = 1 << 24))]
        pub max_seq_len: usize = 512,
        /// Epsilon of RMSNorm.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub norm_eps: f64 = 1e-5,
        /// Base of the rotary position frequencies.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub rope_theta: f64 = 10000.0,
        /// Dropout on the embedding, attention probabilities and both residual branches while training.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        pub dropout: f64 = 0.0,
        /// How weights are drawn: `minimind` (exactly v1's) or `width`.
        pub init: Init = Init::Width,
        /// How the learning rate and the other hyperparameters of the base shape carry over to this one: `standard`, not
        /// at all; `mup`, over widths (Yang et al. 2022); `completep`, over widths and depths (Dey et al. 2025). At the
        /// base shape all three are the same. docs/parametrization.md has every factor.
        pub parametrization: Parametrization = Parametrization::Standard,
        /// Width of the base shape of `mup` and `completep`: that for which the hyperparameters were found. Heads together,
        /// and the feed-forward, are to grow as the width does.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub base_width: Option<usize> = None,
        /// Width of a head of the base shape: that of every shape where heads become more, and `base_width` over `n_heads`
        /// where they become larger.
        #[schemars(range(min = 1, max = 1 << 16))]
        pub base_head_dim: Option<usize> = None,
        /// Blocks of the base shape of `completep`.
        #[schemars(range(min = 1, max = 1 << 12))]
        pub base_depth: Option<usize> = None,
        /// Multiplier of the initial token embedding.
        #[schemars(range(min = 0))]
        pub embedding_init: f64 = 1.0,
        /// Multiplier of the initial matrices of blocks.
        #[schemars(range(min = 0))]
        pub hidden_init: f64 = 1.0,
        /// Multiplier of the initial head, where it is not tied to the embedding.
        #[schemars(range(min = 0))]
        pub head_init: f64 = 1.0,
        /// Routed experts per feed-forward; 0 is a dense model.
        #[schemars(range(max = 1 << 12))]
        pub n_experts: usize = 0,
        /// Routed experts that each token passes through, their weights renormalised to sum to one.
        #[schemars(range(max = 1 << 12))]
        pub top_k: usize = 2,
        /// Experts that every token passes through, beside the routed ones.
        #[schemars(range(max = 1 << 12))]
        pub n_shared_experts: usize = 1,
        /// Hidden size of each expert; unset: that of the dense feed-forward.
        #[schemars(range(min = 1, max = 1 << 20))]
        pub expert_hidden_dim: Option<usize> = None,
        /// Weight of the router's balancing loss; 0 leaves it out.
        #[schemars(range(min = 0))]
        pub aux_loss_alpha: f64 = 0.01,
        /// Tokens over which balance is measured: `sequence`, or `batch`, all rows of an optimizer step. `batch` takes
        /// one forward pass more, a third of a step's work; counts of operations leave it out.
        pub aux_loss_per: AuxLoss = AuxLoss::Sequence,
    }
}

/// A shape that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("model.{key}: {problem}")]
pub struct ShapeError {
    /// The key at fault.
    pub key: &'static str,
    /// What is wrong and what was expected.
    pub problem: String,
    /// Keys that it is at odds with.
    pub at_odds: &'static [&'static str],
}

impl ModelConfig {
    /// The keys whose numbers lie outside their ranges, each with what is wrong. The largest sizes are such that no count
    /// of weights or operations overflows.
    pub fn out_of_range(&self) -> Vec<ShapeError> {
        static RANGES: OnceLock<Vec<(String, Range)>> = OnceLock::new();
        let ranges = RANGES.get_or_init(|| {
            let schema = schema_of::<Self>();
            let keys = schema["properties"].as_object().into_iter().flatten();
            keys.filter_map(|(key, schema)| Some((key.clone(), Range::of(schema)?))).collect()
        });
        let values = json!(self);
        let problem = |(key, range): &'static (String, Range)| {
            Some(ShapeError { key, problem: range.problem(&values[key])?, at_odds: &[] })
        };
        ranges.iter().filter_map(problem).collect()
    }

    /// Checks that the shape can be built; the first problem found is returned.
    ///
    /// # Errors
    /// The first key found whose value cannot be, with what was expected.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let fail = |key, problem: String| Err(ShapeError { key, problem, at_odds: &[] });
        let at_odds = |key, with, problem: String| Err(ShapeError { key, problem, at_odds: with });
        if let Some(error) = self.out_of_range().into_iter().next() {
            return Err(error);
        }
        if let Some(head_dim) = self.head_dim.filter(|head_dim| !head_dim.is_multiple_of(2)) {
            return fail("head_dim", format!("is {head_dim}, but rotary positions need an even head size"));
        }
        if self.head_dim.is_none() && !self.d_model.is_multiple_of(self.n_heads) {
            return at_odds(
                "d_model",
                &["n_heads"],
                format!("{} is not divisible by n_heads = {}", self.d_model, self.n_heads),
            );
        }
        if !self.head_dim().is_multiple_of(2) {
            return at_odds(
                "n_heads",
                &["d_model"],
                format!(
                    "d_model / n_heads = {} is odd, but rotary positions need an even head size",
                    self.head_dim()
                ),
            );
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return at_odds(
                "n_kv_heads",
                &["n_heads"],
                format!("n_heads = {} is not divisible by {}", self.n_heads, self.n_kv_heads),
            );
        }
        if self.is_moe() && !(1..=self.n_experts).contains(&self.top_k) {
            let problem = format!("is {}, expected 1 to n_experts = {}", self.top_k, self.n_experts);
            return at_odds("top_k", &["n_experts"], problem);
        }
        if let Some(key) =
            self.base_keys().into_iter().find_map(|(key, value)| value.is_none().then_some(key))
        {
            let problem = "is unset, but model.parametrization relates shapes to a base shape, at which it is \"standard\"";
            return at_odds(key, &["parametrization"], problem.into());
        }
        Ok(())
    }

    /// The keys of the base shape that the parametrization goes by.
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

    /// Whether the feed-forward is a mixture of experts.
    pub fn is_moe(&self) -> bool {
        self.n_experts > 0
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.d_model / self.n_heads)
    }

    /// Hidden size of the dense feed-forward (MiniMind v1, `FeedForward.__init__`).
    pub fn ffn_dim(&self) -> usize {
        self.hidden_dim
            .unwrap_or_else(|| (8 * self.d_model / 3).div_ceil(self.multiple_of) * self.multiple_of)
    }

    /// Hidden size of one expert.
    pub fn expert_dim(&self) -> usize {
        self.expert_hidden_dim.unwrap_or_else(|| self.ffn_dim())
    }

    /// Number of weights, a tied head counted once.
    pub fn params(&self) -> usize {
        self.spec().params()
    }

    /// Number of weights without the token embedding and a head of its own: what Kaplan et al. 2020 count.
    pub fn non_embedding_params(&self) -> usize {
        let outer = self.vocab_size * self.d_model;
        self.params() - if self.tie_embeddings { outer } else { 2 * outer }
    }

    /// Number of weights that one token passes through: `top_k` of the routed experts.
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
        // MINIMIND_V1, quirk 19.
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
        // A head size of its own frees the width from the heads.
        let free = ModelConfig { d_model: 130, head_dim: Some(16), ..ModelConfig::default() };
        assert!(free.validate().is_ok());
    }
}
