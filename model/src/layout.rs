//! Position of every parameter in the flat buffer that holds the weights of a model.
//!
//! Names and shapes are those of [`crate::spec`]. Projections of the same input are adjacent (`wq wk wv`, `w1 w3`), so
//! that each group is computed as one matrix product.

use crate::config::ModelConfig;
use crate::spec::{Copies, FeedForwardSpec, ModelSpec, ParamSpec, Role};
use std::ops::Range;

/// One parameter with its position in the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in files, which is MiniMind's, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// `(out, in)` for matrices, `(width,)` for norms.
    pub shape: Vec<usize>,
    /// Role of the parameter in the model.
    pub role: Role,
    /// Range of its elements in the flat buffer.
    pub range: Range<usize>,
}

/// The weights of a linear layer: one matrix, or several with the same input, stacked vertically.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Range of its elements in the flat buffer, in row-major order.
    pub range: Range<usize>,
    /// Width of the output.
    pub d_out: usize,
    /// Width of the input.
    pub d_in: usize,
}

/// A gated feed-forward: that of a dense model, or one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedForwardLayout {
    /// `w1` stacked on `w3`: `(2 hidden, d_model)`.
    pub w13: Matrix,
    /// `w2`: `(d_model, hidden)`.
    pub w2: Matrix,
    /// Hidden size.
    pub hidden: usize,
}

/// Routed experts, consecutive in the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertsLayout {
    /// The router: `(n_experts, d_model)`.
    pub router: Matrix,
    /// `w1` stacked on `w3` of each expert: `(2 hidden, d_model)`.
    pub w13: Vec<Matrix>,
    /// `w2` of each expert: `(d_model, hidden)`.
    pub w2: Vec<Matrix>,
    /// Hidden size of one expert.
    pub hidden: usize,
    /// Number of experts per token.
    pub top_k: usize,
}

impl ExpertsLayout {
    /// Iterates over the experts as feed-forwards.
    pub fn each(&self) -> impl Iterator<Item = FeedForwardLayout> + '_ {
        self.w13.iter().zip(&self.w2).map(|(w13, w2)| FeedForwardLayout {
            w13: w13.clone(),
            w2: w2.clone(),
            hidden: self.hidden,
        })
    }
}

/// The parameters of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLayout {
    /// Scale of the norm before attention: `(d_model,)`.
    pub attention_norm: Range<usize>,
    /// `wq`, `wk` and `wv`, stacked in this order: `((n_heads + 2 n_kv_heads) head_dim, d_model)`.
    pub wqkv: Matrix,
    /// `wo`: `(d_model, n_heads head_dim)`.
    pub wo: Matrix,
    /// Scales of the norms of queries and of keys, `(head_dim,)` each; `None` without `qk_norm`.
    pub qk_norms: Option<[Range<usize>; 2]>,
    /// Scale of the norm before the feed-forward: `(d_model,)`.
    pub ffn_norm: Range<usize>,
    /// Feed-forward that processes every token: that of a dense model, or the shared experts combined; `None` if a mixture
    /// has no shared experts.
    pub dense: Option<FeedForwardLayout>,
    /// The routed experts; `None` for a dense model.
    pub experts: Option<ExpertsLayout>,
}

impl BlockLayout {
    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let dense = self.dense.iter().flat_map(|dense| [&dense.w13, &dense.w2]);
        let experts = self.experts.iter().flat_map(|of| of.w13.iter().chain(&of.w2).chain([&of.router]));
        [&self.wqkv, &self.wo].into_iter().chain(dense).chain(experts)
    }
}

/// The layout of all parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All parameters in the order of the flat buffer.
    pub params: Vec<Param>,
    /// Token embedding: `(vocab_size, d_model)`.
    pub embedding: Matrix,
    /// Layout of each block, first to last.
    pub blocks: Vec<BlockLayout>,
    /// Scale of the last norm: `(d_model,)`.
    pub norm: Range<usize>,
    /// Output head: `(vocab_size, d_model)`; the same range as the embedding if the two are tied.
    pub head: Matrix,
}

impl Layout {
    /// Iterates over the matrices of all linear layers.
    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.blocks.iter().flat_map(BlockLayout::matrices).chain([&self.head])
    }

    /// Computes the layout of a shape, which must be valid.
    pub fn new(config: &ModelConfig) -> Self {
        let spec = config.spec();
        let mut params = vec![];
        place(&mut params, "", &[spec.embedding()]);
        let block = spec.block.params();
        let blocks = (0..spec.n_layers).map(|layer| {
            let first = params.len();
            place(&mut params, &format!("layers.{layer}."), &block);
            block_layout(&spec, &Named { prefix: format!("layers.{layer}."), params: &params[first..] })
        });
        let blocks = blocks.collect();
        place(&mut params, "", &spec.tail());
        let whole = Named { prefix: String::new(), params: &params };
        let embedding = whole.matrix("tok_embeddings", "tok_embeddings");
        let head = if spec.tied { embedding.clone() } else { whole.matrix("output", "output") };
        let norm = whole.range("norm");
        Self { embedding, blocks, norm, head, params }
    }

    /// Returns the number of weights.
    pub fn len(&self) -> usize {
        self.params.last().map_or(0, |param| param.range.end)
    }

    /// Returns whether there are no weights; never the case for a valid shape.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the parameter with the given name.
    pub fn find(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }
}

/// Places parameters after those already placed; those of experts expert by expert.
fn place(params: &mut Vec<Param>, prefix: &str, specs: &[ParamSpec]) {
    let mut add = |spec: &ParamSpec, name: String| {
        let start = params.last().map_or(0, |last| last.range.end);
        let range = start..start + spec.shape.iter().product::<usize>();
        let name = format!("{prefix}{name}.weight");
        params.push(Param { name, shape: spec.shape.clone(), role: spec.role, range });
    };
    for run in specs.chunk_by(|a, b| a.copies == b.copies) {
        match run[0].copies {
            Copies::One => run.iter().for_each(|spec| add(spec, spec.name.into())),
            Copies::Experts { count, .. } => {
                for expert in 0..count {
                    run.iter().for_each(|spec| add(spec, spec.name.replace("{}", &expert.to_string())));
                }
            }
        }
    }
}

/// Lookup by name among placed parameters.
struct Named<'a> {
    prefix: String,
    params: &'a [Param],
}

impl Named<'_> {
    fn param(&self, name: &str) -> &Param {
        let whole = |param: &&Param| {
            let inner = param.name.strip_prefix(self.prefix.as_str());
            inner.and_then(|inner| inner.strip_suffix(".weight")) == Some(name)
        };
        self.params.iter().find(whole).expect("a parameter that the specification lists")
    }

    fn range(&self, name: &str) -> Range<usize> {
        self.param(name).range.clone()
    }

    /// Returns the parameters from `first` to `last`, which are adjacent, as one matrix.
    fn matrix(&self, first: &str, last: &str) -> Matrix {
        let (first, last) = (self.param(first), self.param(last));
        let range = first.range.start..last.range.end;
        let d_in = first.shape[1];
        Matrix { d_out: range.len() / d_in, d_in, range }
    }

    fn feed_forward(&self, prefix: &str) -> FeedForwardLayout {
        let part = |name: &str| format!("feed_forward.{prefix}{name}");
        let w2 = self.matrix(&part("w2"), &part("w2"));
        FeedForwardLayout { w13: self.matrix(&part("w1"), &part("w3")), hidden: w2.d_in, w2 }
    }
}

fn block_layout(spec: &ModelSpec, named: &Named) -> BlockLayout {
    let (dense, experts) = match spec.block.feed_forward {
        FeedForwardSpec::Dense { .. } => (Some(named.feed_forward("")), None),
        FeedForwardSpec::Moe { n_experts, top_k, hidden, shared_hidden } => {
            let all = (0..n_experts).map(|expert| named.feed_forward(&format!("experts.{expert}.")));
            let (w13, w2) = all.map(|expert| (expert.w13, expert.w2)).unzip();
            let router = named.matrix("feed_forward.gate", "feed_forward.gate");
            let experts = ExpertsLayout { router, w13, w2, hidden, top_k };
            ((shared_hidden > 0).then(|| named.feed_forward("shared_experts.")), Some(experts))
        }
    };
    BlockLayout {
        attention_norm: named.range("attention_norm"),
        wqkv: named.matrix("attention.wq", "attention.wv"),
        wo: named.matrix("attention.wo", "attention.wo"),
        qk_norms: spec
            .block
            .qk_norm
            .then(|| ["attention.q_norm", "attention.k_norm"].map(|name| named.range(name))),
        ffn_norm: named.range("ffn_norm"),
        dense,
        experts,
    }
}
