//! Where every parameter lies in the one flat buffer that holds a model's weights.
//!
//! Names and shapes are those of [`crate::spec`]. Layers that read the same input lie side by side (`wq wk wv`,
//! `w1 w3`), so that they are one matrix product.

use crate::config::ModelConfig;
use crate::spec::{Copies, FeedForwardSpec, ModelSpec, ParamSpec, Role};
use std::ops::Range;

/// One parameter: its name in files, its shape, its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// MiniMind's name, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// `(out, in)` for matrices, `(width,)` for norms.
    pub shape: Vec<usize>,
    /// What it does.
    pub role: Role,
    /// Elements of the flat buffer.
    pub range: Range<usize>,
}

/// The weights of a linear layer: one matrix, or several with the same input, one above the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Elements of the flat buffer, row after row.
    pub range: Range<usize>,
    /// Width of the result.
    pub d_out: usize,
    /// Width of the input.
    pub d_in: usize,
}

/// A gated feed-forward: one of a dense model, or one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedForwardLayout {
    /// `w1` above `w3`: `(2 hidden, d_model)`.
    pub w13: Matrix,
    /// `(d_model, hidden)`.
    pub w2: Matrix,
    /// Hidden size.
    pub hidden: usize,
}

/// Routed experts, one after the other in the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpertsLayout {
    /// The router: `(n_experts, d_model)`.
    pub router: Matrix,
    /// `w1` above `w3` of each.
    pub w13: Vec<Matrix>,
    /// `w2` of each.
    pub w2: Vec<Matrix>,
    /// Hidden size.
    pub hidden: usize,
    /// Experts of a token.
    pub top_k: usize,
}

impl ExpertsLayout {
    /// Expert by expert.
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
    /// `(d_model,)`.
    pub attention_norm: Range<usize>,
    /// `wq` above `wk` above `wv`: `((n_heads + 2 n_kv_heads) head_dim, d_model)`.
    pub wqkv: Matrix,
    /// `(d_model, n_heads head_dim)`.
    pub wo: Matrix,
    /// Norms of queries and of keys, `(head_dim,)` each.
    pub qk_norms: Option<[Range<usize>; 2]>,
    /// `(d_model,)`.
    pub ffn_norm: Range<usize>,
    /// The feed-forward that every token passes through: that of a dense model, or the shared experts as one.
    pub dense: Option<FeedForwardLayout>,
    /// The routed experts.
    pub experts: Option<ExpertsLayout>,
}

/// All parameters of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Every parameter in the order of the flat buffer.
    pub params: Vec<Param>,
    /// `(vocab_size, d_model)`.
    pub embedding: Matrix,
    /// The blocks.
    pub blocks: Vec<BlockLayout>,
    /// The last norm, `(d_model,)`.
    pub norm: Range<usize>,
    /// `(vocab_size, d_model)`: the embedding where the two are tied.
    pub head: Matrix,
}

impl Layout {
    /// The layout of a shape, which must be valid.
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

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.params.last().map_or(0, |param| param.range.end)
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

/// Gives parameters their places after those that have one, experts one by one.
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

/// Parameters that have their places, by name.
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

    /// From one parameter to another, as one matrix.
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
