//! The shape of a model: its keys, their validation, and its exact numbers of weights.

use crate::section;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How weights are drawn before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// MiniMind v1: normal 0.02; `wo` and `w3` 0.02 / sqrt(2 n_layers); router Kaiming-uniform.
    Minimind,
    /// Normal with standard deviation 1 / sqrt(d_model); `wo` and `w2` divided by sqrt(2 n_layers).
    Width,
}

/// Over which tokens the router's balance is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        pub d_model: usize = 128,
        /// Number of blocks, each attention and feed-forward.
        pub n_layers: usize = 4,
        /// Query heads; `d_model` must be divisible by it, into an even head size, unless `head_dim` says another.
        pub n_heads: usize = 4,
        /// Key-value heads, each shared by `n_heads / n_kv_heads` query heads.
        pub n_kv_heads: usize = 2,
        /// Width of a head; unset: `d_model / n_heads`.
        pub head_dim: Option<usize> = None,
        /// Normalise queries and keys head by head before they are rotated (Dehghani et al. 2023, section 2).
        pub qk_norm: bool = false,
        /// Last positions that a query attends to, its own among them; unset: all of its document.
        pub window: Option<usize> = None,
        /// Entries of the vocabulary; also the size of a tokenizer that is trained.
        pub vocab_size: usize = 6400,
        /// Whether the head is the token embedding, as in MiniMind, or a matrix of its own.
        pub tie_embeddings: bool = true,
        /// Hidden size of the feed-forward; unset: `multiple_of * ceil(int(8 d_model / 3) / multiple_of)`.
        pub hidden_dim: Option<usize> = None,
        /// The derived hidden size is rounded up to a multiple of this.
        pub multiple_of: usize = 64,
        /// Longest sequence in tokens that the model is meant for; exam prompts lose shots, then their beginning, to fit.
        pub max_seq_len: usize = 512,
        /// Epsilon of RMSNorm.
        pub norm_eps: f64 = 1e-5,
        /// Base of the rotary position frequencies.
        pub rope_theta: f64 = 10000.0,
        /// Dropout on the embedding, attention probabilities and both residual branches while training.
        pub dropout: f64 = 0.0,
        /// How weights are drawn: `minimind` (exactly v1's) or `width`.
        pub init: Init = Init::Width,
        /// Multiplier of the initial token embedding.
        pub embedding_init: f64 = 1.0,
        /// Multiplier of the initial matrices of blocks.
        pub hidden_init: f64 = 1.0,
        /// Multiplier of the initial head, where it is not tied to the embedding.
        pub head_init: f64 = 1.0,
        /// Routed experts per feed-forward; 0 is a dense model.
        pub n_experts: usize = 0,
        /// Routed experts that each token passes through, their weights renormalised to sum to one.
        pub top_k: usize = 2,
        /// Experts that every token passes through, beside the routed ones.
        pub n_shared_experts: usize = 1,
        /// Hidden size of each expert; unset: that of the dense feed-forward.
        pub expert_hidden_dim: Option<usize> = None,
        /// Weight of the router's balancing loss; 0 leaves it out.
        pub aux_loss_alpha: f64 = 0.01,
        /// Tokens over which balance is measured: `sequence`, or `batch`, all rows of an optimizer step. `batch` takes
        /// one forward pass more, a third of a step's work; counts of operations leave it out.
        pub aux_loss_per: AuxLoss = AuxLoss::Sequence,
    }
}

/// Largest values of the keys that multiply into sizes, so that no count of weights or operations overflows.
pub const LARGEST: [(&str, usize); 14] = [
    ("d_model", 1 << 16),
    ("n_layers", 1 << 12),
    ("n_heads", 1 << 16),
    ("n_kv_heads", 1 << 16),
    ("vocab_size", 1 << 24),
    ("hidden_dim", 1 << 20),
    ("multiple_of", 1 << 20),
    ("max_seq_len", 1 << 24),
    ("n_experts", 1 << 12),
    ("top_k", 1 << 12),
    ("n_shared_experts", 1 << 12),
    ("expert_hidden_dim", 1 << 20),
    ("head_dim", 1 << 16),
    ("window", 1 << 24),
];

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
    /// The keys that multiply into sizes and are too large to count with, each with what is wrong.
    pub fn out_of_bounds(&self) -> Vec<ShapeError> {
        let values = [
            self.d_model,
            self.n_layers,
            self.n_heads,
            self.n_kv_heads,
            self.vocab_size,
            self.hidden_dim.unwrap_or(0),
            self.multiple_of,
            self.max_seq_len,
            self.n_experts,
            self.top_k,
            self.n_shared_experts,
            self.expert_hidden_dim.unwrap_or(0),
            self.head_dim.unwrap_or(0),
            self.window.unwrap_or(0),
        ];
        let sizes = LARGEST.into_iter().zip(values).filter(|((_, most), value)| value > most);
        let problem = |((key, most), value): ((&'static str, usize), usize)| ShapeError {
            key,
            problem: format!("is {value}, expected at most {most}"),
            at_odds: &[],
        };
        sizes.map(problem).collect()
    }

    /// Checks that the shape can be built; the first problem found is returned.
    pub fn validate(&self) -> Result<(), ShapeError> {
        let fail = |key, problem: String| Err(ShapeError { key, problem, at_odds: &[] });
        let at_odds = |key, with, problem: String| Err(ShapeError { key, problem, at_odds: with });
        if let Some(error) = self.out_of_bounds().into_iter().next() {
            return Err(error);
        }
        for (key, value) in [
            ("d_model", self.d_model),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("multiple_of", self.multiple_of),
            ("max_seq_len", self.max_seq_len),
            ("hidden_dim", self.hidden_dim.unwrap_or(1)),
            ("expert_hidden_dim", self.expert_hidden_dim.unwrap_or(1)),
            ("head_dim", self.head_dim.unwrap_or(1)),
            ("window", self.window.unwrap_or(1)),
        ] {
            if value == 0 {
                return fail(key, "is 0, expected at least 1".into());
            }
        }
        if self.vocab_size < 4 {
            return fail("vocab_size", format!("is {}, expected at least 4", self.vocab_size));
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
        if !(0.0..1.0).contains(&self.dropout) {
            return fail("dropout", format!("is {}, expected 0 or more and below 1", self.dropout));
        }
        for (key, value) in [("norm_eps", self.norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return fail(key, format!("is {value}, expected a positive number"));
            }
        }
        let multipliers = [
            ("embedding_init", self.embedding_init),
            ("hidden_init", self.hidden_init),
            ("head_init", self.head_init),
        ];
        for (key, value) in multipliers {
            if !(value.is_finite() && value >= 0.0) {
                return fail(key, format!("is {value}, expected 0 or more"));
            }
        }
        if !(self.aux_loss_alpha.is_finite() && self.aux_loss_alpha >= 0.0) {
            return fail("aux_loss_alpha", format!("is {}, expected 0 or more", self.aux_loss_alpha));
        }
        Ok(())
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
        // A head size of its own frees the width from the heads.
        let free = ModelConfig { d_model: 130, head_dim: Some(16), ..ModelConfig::default() };
        assert!(free.validate().is_ok());
    }
}
