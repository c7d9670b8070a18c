//! Where every parameter lies in the one flat buffer that holds a model's weights.
//!
//! Names and shapes are MiniMind's. Layers that read the same input lie side by side (`wq wk wv`, `w1 w3`), so
//! that they are one matrix product.

use crate::config::ModelConfig;
use std::ops::Range;

/// One parameter: its name in files, its shape, its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// MiniMind's name, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// `(out, in)` for matrices, `(d_model,)` for norms.
    pub shape: Vec<usize>,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
}

/// A gated feed-forward: one of a dense model, or one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedForwardRange {
    /// `w1` above `w3`: `(2 hidden, d_model)`.
    pub w13: Range<usize>,
    /// `(d_model, hidden)`.
    pub w2: Range<usize>,
    /// Hidden size.
    pub hidden: usize,
}

/// The feed-forward half of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedForwardLayout {
    /// One feed-forward.
    Dense(FeedForwardRange),
    /// Routed experts and, if any, the shared experts as one wide feed-forward.
    Moe {
        /// The router: `(n_experts, d_model)`.
        gate: Range<usize>,
        /// The routed experts.
        experts: Vec<FeedForwardRange>,
        /// Shared experts side by side: hidden size `n_shared_experts * expert_dim`.
        shared: Option<FeedForwardRange>,
    },
}

/// The parameters of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLayout {
    /// `(d_model,)`.
    pub attention_norm: Range<usize>,
    /// `wq` above `wk` above `wv`: `((n_heads + 2 n_kv_heads) head_dim, d_model)`.
    pub wqkv: Range<usize>,
    /// `(d_model, n_heads head_dim)`.
    pub wo: Range<usize>,
    /// `(d_model,)`.
    pub ffn_norm: Range<usize>,
    /// The feed-forward.
    pub feed_forward: FeedForwardLayout,
}

/// All parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Every parameter in the order of the flat buffer.
    pub params: Vec<Param>,
    /// `(vocab_size, d_model)`; also the head.
    pub embedding: Range<usize>,
    /// The blocks.
    pub blocks: Vec<BlockLayout>,
    /// The last norm, `(d_model,)`.
    pub norm: Range<usize>,
}

#[derive(Default)]
struct Builder {
    params: Vec<Param>,
    len: usize,
}

impl Builder {
    fn add(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.params.push(Param { name, shape: shape.to_vec(), range: range.clone() });
        range
    }

    fn feed_forward(&mut self, prefix: &str, d: usize, hidden: usize) -> FeedForwardRange {
        let w1 = self.add(format!("{prefix}.w1.weight"), &[hidden, d]);
        let w3 = self.add(format!("{prefix}.w3.weight"), &[hidden, d]);
        let w2 = self.add(format!("{prefix}.w2.weight"), &[d, hidden]);
        FeedForwardRange { w13: w1.start..w3.end, w2, hidden }
    }
}

impl Layout {
    /// The layout of a shape, which must be valid.
    pub fn new(config: &ModelConfig) -> Self {
        let (d, head_dim) = (config.d_model, config.head_dim());
        let mut b = Builder::default();
        let embedding = b.add("tok_embeddings.weight".into(), &[config.vocab_size, d]);
        let blocks = (0..config.n_layers).map(|i| {
            let attention_norm = b.add(format!("layers.{i}.attention_norm.weight"), &[d]);
            let wq = b.add(format!("layers.{i}.attention.wq.weight"), &[config.n_heads * head_dim, d]);
            b.add(format!("layers.{i}.attention.wk.weight"), &[config.n_kv_heads * head_dim, d]);
            let wv = b.add(format!("layers.{i}.attention.wv.weight"), &[config.n_kv_heads * head_dim, d]);
            let wo = b.add(format!("layers.{i}.attention.wo.weight"), &[d, config.n_heads * head_dim]);
            let ffn_norm = b.add(format!("layers.{i}.ffn_norm.weight"), &[d]);
            let prefix = format!("layers.{i}.feed_forward");
            let feed_forward = if config.is_moe() {
                let hidden = config.expert_dim();
                let gate = b.add(format!("{prefix}.gate.weight"), &[config.n_experts, d]);
                let experts = (0..config.n_experts)
                    .map(|e| b.feed_forward(&format!("{prefix}.experts.{e}"), d, hidden))
                    .collect();
                let shared = (config.n_shared_experts > 0).then(|| {
                    b.feed_forward(&format!("{prefix}.shared_experts"), d, config.n_shared_experts * hidden)
                });
                FeedForwardLayout::Moe { gate, experts, shared }
            } else {
                FeedForwardLayout::Dense(b.feed_forward(&prefix, d, config.ffn_dim()))
            };
            BlockLayout { attention_norm, wqkv: wq.start..wv.end, wo, ffn_norm, feed_forward }
        });
        let blocks = blocks.collect();
        let norm = b.add("norm.weight".into(), &[d]);
        Self { params: b.params, embedding, blocks, norm }
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.norm.end
    }

    /// Whether there are no weights; a valid shape always has some.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_dense_and_counts_what_the_configuration_counts() {
        for n_experts in [0, 3] {
            for n_shared_experts in [0, 1, 2] {
                let config = ModelConfig {
                    n_experts,
                    n_shared_experts,
                    expert_hidden_dim: Some(24),
                    ..Default::default()
                };
                let layout = Layout::new(&config);
                assert_eq!(layout.len(), config.params());
                let mut end = 0;
                for param in &layout.params {
                    assert_eq!(param.range.start, end);
                    end = param.range.end;
                }
                assert_eq!(end, layout.len());
            }
        }
    }
}
