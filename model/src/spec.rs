//! The parameters of a model: the single description from which layout, counts, operations, initial weights and names derive.
//!
//! A [`ModelSpec`] lists the parameters of one block and those outside the blocks. A variant of the architecture adds
//! its parameters here; all code that iterates over parameters then includes them.

use crate::config::ModelConfig;

/// Role of a parameter; determines its initial weights, weight decay, optimizer group and parametrization factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The token embedding, which is also the output head if the two are tied.
    Embedding,
    /// An output head that is not tied to the embedding.
    Head,
    /// The scale of a norm other than [`Self::LastNorm`] and [`Self::QueryNorm`].
    Norm,
    /// The scale of the norm before the head.
    LastNorm,
    /// The scale of the norm over queries.
    QueryNorm,
    /// `wq`, the query projection.
    Query,
    /// `wk` and `wv`, the key and value projections.
    KeyValue,
    /// `wo`, which writes to the residual stream.
    AttentionOutput,
    /// `w1`, whose output passes through the activation function.
    Gate,
    /// `w3`, whose output is multiplied by the gate.
    Up,
    /// `w2`, which writes to the residual stream.
    Down,
    /// The router of a mixture of experts.
    Router,
}

impl Role {
    /// Returns whether the parameter is the scale of a norm.
    pub fn is_norm(self) -> bool {
        matches!(self, Self::Norm | Self::LastNorm | Self::QueryNorm)
    }
}

/// Number of copies of a parameter in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// A single copy, used by every token.
    One,
    /// One copy per routed expert, `{}` in the name standing for its index; a token uses `active` of them.
    Experts {
        /// Number of routed experts.
        count: usize,
        /// Number of experts per token.
        active: usize,
    },
}

/// A parameter that is not yet placed in the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// MiniMind's name without `layers.N.` and `.weight`, such as `attention.wq`.
    pub name: &'static str,
    /// `(out, in)` for matrices, `(width,)` for norms.
    pub shape: Vec<usize>,
    /// Role of the parameter in the model.
    pub role: Role,
    /// Copies of the parameter in a block.
    pub copies: Copies,
}

impl ParamSpec {
    fn new(name: &'static str, shape: &[usize], role: Role) -> Self {
        Self { name, shape: shape.to_vec(), role, copies: Copies::One }
    }

    /// Returns the number of weights in all copies.
    pub fn len(&self) -> usize {
        self.size() * if let Copies::Experts { count, .. } = self.copies { count } else { 1 }
    }

    /// Returns whether there are no weights; never the case for a valid shape.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of weights that one token uses.
    pub fn active_len(&self) -> usize {
        self.size() * if let Copies::Experts { active, .. } = self.copies { active } else { 1 }
    }

    /// Returns whether it is a matrix that multiplies the state of a token, and so contributes floating-point operations.
    pub fn is_product(&self) -> bool {
        self.shape.len() == 2 && self.role != Role::Embedding
    }

    fn size(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Sizes of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Number of query heads.
    pub n_heads: usize,
    /// Number of key-value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Returns the number of query heads per key-value head.
    pub fn repeats(self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Returns the total width of all query heads.
    pub fn width(self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Returns the total width of all key heads, which is also that of all value heads.
    pub fn kv_width(self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Returns the total width of queries, keys and values.
    pub fn qkv_width(self) -> usize {
        self.width() + 2 * self.kv_width()
    }
}

/// The feed-forward half of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardSpec {
    /// A single feed-forward.
    Dense {
        /// Hidden size.
        hidden: usize,
    },
    /// Routed experts, and shared experts combined into one wide feed-forward.
    Moe {
        /// Number of routed experts.
        n_experts: usize,
        /// Number of experts per token.
        top_k: usize,
        /// Hidden size of one expert.
        hidden: usize,
        /// Total hidden size of all shared experts; 0 if there are none.
        shared_hidden: usize,
    },
}

/// One block: attention and feed-forward, each preceded by a norm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Sizes of the attention.
    pub heads: Heads,
    /// Whether the queries and keys of each head are normalised.
    pub qk_norm: bool,
    /// Number of most recent positions that a query attends to, including its own; `None`: all of its document.
    pub window: Option<usize>,
    /// The feed-forward half.
    pub feed_forward: FeedForwardSpec,
}

impl BlockSpec {
    /// Returns the parameters of a block in the order of the flat buffer; consecutive ones of experts are laid out expert by
    /// expert.
    pub fn params(&self) -> Vec<ParamSpec> {
        let (d, heads) = (self.d_model, self.heads);
        let mut params = vec![
            ParamSpec::new("attention_norm", &[d], Role::Norm),
            ParamSpec::new("attention.wq", &[heads.width(), d], Role::Query),
            ParamSpec::new("attention.wk", &[heads.kv_width(), d], Role::KeyValue),
            ParamSpec::new("attention.wv", &[heads.kv_width(), d], Role::KeyValue),
            ParamSpec::new("attention.wo", &[d, heads.width()], Role::AttentionOutput),
        ];
        if self.qk_norm {
            params.push(ParamSpec::new("attention.q_norm", &[heads.head_dim], Role::QueryNorm));
            params.push(ParamSpec::new("attention.k_norm", &[heads.head_dim], Role::Norm));
        }
        params.push(ParamSpec::new("ffn_norm", &[d], Role::Norm));
        match self.feed_forward {
            FeedForwardSpec::Dense { hidden } => {
                let names = ["feed_forward.w1", "feed_forward.w3", "feed_forward.w2"];
                params.extend(gated(names, d, hidden));
            }
            FeedForwardSpec::Moe { n_experts, top_k, hidden, shared_hidden } => {
                params.push(ParamSpec::new("feed_forward.gate", &[n_experts, d], Role::Router));
                let names = [
                    "feed_forward.experts.{}.w1",
                    "feed_forward.experts.{}.w3",
                    "feed_forward.experts.{}.w2",
                ];
                let copies = Copies::Experts { count: n_experts, active: top_k };
                params.extend(gated(names, d, hidden).map(|param| ParamSpec { copies, ..param }));
                if shared_hidden > 0 {
                    let names = [
                        "feed_forward.shared_experts.w1",
                        "feed_forward.shared_experts.w3",
                        "feed_forward.shared_experts.w2",
                    ];
                    params.extend(gated(names, d, shared_hidden));
                }
            }
        }
        params
    }
}

/// Returns `w1`, `w3` and `w2` of a gated feed-forward under the given names.
fn gated(names: [&'static str; 3], d: usize, hidden: usize) -> [ParamSpec; 3] {
    [
        ParamSpec::new(names[0], &[hidden, d], Role::Gate),
        ParamSpec::new(names[1], &[hidden, d], Role::Up),
        ParamSpec::new(names[2], &[d, hidden], Role::Down),
    ]
}

/// The parameters of a whole model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Number of entries in the vocabulary.
    pub vocab_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Specification of every block.
    pub block: BlockSpec,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

impl ModelSpec {
    /// Returns the embedding, which precedes the blocks.
    pub fn embedding(&self) -> ParamSpec {
        ParamSpec::new("tok_embeddings", &[self.vocab_size, self.block.d_model], Role::Embedding)
    }

    /// Returns the parameters that follow the blocks: the last norm and, unless it is tied, the head.
    pub fn tail(&self) -> Vec<ParamSpec> {
        let mut tail = vec![ParamSpec::new("norm", &[self.block.d_model], Role::LastNorm)];
        if !self.tied {
            tail.push(ParamSpec::new("output", &[self.vocab_size, self.block.d_model], Role::Head));
        }
        tail
    }

    /// Sums `of` over all parameters of the model.
    fn sum(&self, of: impl Fn(&ParamSpec) -> usize) -> usize {
        let block: usize = self.block.params().iter().map(&of).sum();
        of(&self.embedding()) + self.n_layers * block + self.tail().iter().map(&of).sum::<usize>()
    }

    /// Returns the number of weights; a tied head is counted once.
    pub fn params(&self) -> usize {
        self.sum(ParamSpec::len)
    }

    /// Returns the number of weights that one token uses: of the routed experts only `top_k`.
    pub fn active_params(&self) -> usize {
        self.sum(ParamSpec::active_len)
    }

    /// Returns the number of multiply-adds with weights per token, including the head but not the embedding lookup.
    pub fn products(&self) -> usize {
        let tied_head = if self.tied { self.embedding().len() } else { 0 };
        tied_head + self.sum(|param| if param.is_product() { param.active_len() } else { 0 })
    }
}

impl ModelConfig {
    /// Returns the sizes of the attention.
    pub fn heads(&self) -> Heads {
        Heads { n_heads: self.n_heads, n_kv_heads: self.n_kv_heads, head_dim: self.head_dim() }
    }

    /// Returns the parameters of a model of this shape.
    pub fn spec(&self) -> ModelSpec {
        let feed_forward = match self.is_moe() {
            false => FeedForwardSpec::Dense { hidden: self.ffn_dim() },
            true => FeedForwardSpec::Moe {
                n_experts: self.n_experts,
                top_k: self.top_k,
                hidden: self.expert_dim(),
                shared_hidden: self.n_shared_experts * self.expert_dim(),
            },
        };
        let block = BlockSpec {
            d_model: self.d_model,
            heads: self.heads(),
            qk_norm: self.qk_norm,
            window: self.window,
            feed_forward,
        };
        ModelSpec { vocab_size: self.vocab_size, n_layers: self.n_layers, block, tied: self.tie_embeddings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;
    use proptest::prelude::*;

    /// Shapes that vary every key which affects the parameters.
    fn shapes() -> impl Strategy<Value = ModelConfig> {
        let heads = (1usize..4, 1usize..4, prop::option::of(1usize..5));
        let experts = (0usize..5, 1usize..3, 0usize..3, prop::option::of(1usize..9));
        (1usize..4, heads, experts, any::<[bool; 2]>(), prop::option::of(1usize..20)).prop_map(
            |(
                n_layers,
                (kv, repeats, half),
                (n_experts, top_k, n_shared_experts, hidden),
                [a, b],
                window,
            )| {
                ModelConfig {
                    d_model: 4 * kv * repeats,
                    n_layers,
                    n_heads: kv * repeats,
                    n_kv_heads: kv,
                    head_dim: half.map(|half| 2 * half),
                    qk_norm: a,
                    tie_embeddings: b,
                    window,
                    vocab_size: 11,
                    hidden_dim: hidden,
                    multiple_of: 8,
                    n_experts,
                    top_k: top_k.min(n_experts.max(1)),
                    n_shared_experts,
                    ..ModelConfig::default()
                }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn layout_counts_and_names_agree(config in shapes()) {
            prop_assert!(config.validate().is_ok());
            let (spec, layout) = (config.spec(), Layout::new(&config));
            prop_assert_eq!(layout.len(), spec.params());
            let mut end = 0;
            for param in &layout.params {
                prop_assert_eq!(param.range.start, end);
                prop_assert_eq!(param.range.len(), param.shape.iter().product::<usize>());
                prop_assert_eq!(layout.find(&param.name), Some(param));
                end = param.range.end;
            }
            let idle = |param: &&crate::layout::Param| {
                let expert = param.name.split("experts.").nth(1).and_then(|rest| rest.split('.').next());
                expert.and_then(|number| number.parse::<usize>().ok()).is_some_and(|number| number >= config.top_k)
            };
            let unused: usize = layout.params.iter().filter(idle).map(|param| param.range.len()).sum();
            prop_assert_eq!(spec.active_params(), spec.params() - unused);
            // Multiply-adds: all active weights except the scales of norms and an embedding that is only looked up.
            let of = |role| -> usize {
                layout.params.iter().filter(|param| param.role == role).map(|param| param.range.len()).sum()
            };
            let looked_up = if config.tie_embeddings { 0 } else { of(Role::Embedding) };
            let norms: usize = [Role::Norm, Role::LastNorm, Role::QueryNorm].into_iter().map(of).sum();
            prop_assert_eq!(spec.products(), spec.active_params() - norms - looked_up);
        }

        #[test]
        fn the_matrices_of_a_layout_are_those_of_the_specification(config in shapes()) {
            let (layout, heads, d) = (Layout::new(&config), config.heads(), config.d_model);
            prop_assert_eq!(layout.head == layout.embedding, config.tie_embeddings);
            for matrix in [&layout.embedding, &layout.head] {
                prop_assert_eq!((matrix.d_out, matrix.d_in), (config.vocab_size, d));
            }
            for block in &layout.blocks {
                prop_assert_eq!((block.wqkv.d_out, block.wqkv.d_in), (heads.qkv_width(), d));
                prop_assert_eq!((block.wo.d_out, block.wo.d_in), (d, heads.width()));
                prop_assert_eq!(block.qk_norms.is_some(), config.qk_norm);
                prop_assert_eq!(block.dense.is_some(), !config.is_moe() || config.n_shared_experts > 0);
                let experts = block.experts.iter().flat_map(|experts| experts.each());
                for part in experts.chain(block.dense.clone()) {
                    prop_assert_eq!((part.w13.d_out, part.w13.d_in), (2 * part.hidden, d));
                    prop_assert_eq!((part.w2.d_out, part.w2.d_in), (d, part.hidden));
                }
            }
        }
    }
}
