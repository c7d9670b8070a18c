//! The operations of a step, as [`crate::transformer`] and [`crate::trainer`] execute them; the input of a
//! [`super::roofline`].
//!
//! Unlike [`Cost`](super::Cost), which counts what the algorithm requires, this counts what is executed: recomputed
//! activations, attention's fifth backward product, and the logits that preferences compute twice.

use crate::config::ModelConfig;
use crate::optimizer::Muon;
use crate::spec::Heads;
use crate::trainer::Rule;
use crate::transformer::Recompute;
use std::collections::BTreeMap;

/// One operation on a group of positions; sizes are in elements.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// `batch` products of `(m, k)` by `(k, n)`.
    Product {
        /// Number of products that are computed together.
        batch: f64,
        /// Rows of the result.
        m: f64,
        /// Inner dimension.
        k: f64,
        /// Columns of the result.
        n: f64,
    },
    /// Causal attention within documents, forward (two products) or backward (five).
    Attention {
        /// Number of positions.
        positions: f64,
        /// Number of pairs of a query and a key that it sees, per head.
        pairs: f64,
        /// Number and width of the heads.
        heads: Heads,
        /// Whether it is the backward pass.
        backward: bool,
    },
    /// An element-wise or row-wise pass over activations.
    Pass {
        /// Number of rows that require a reduction.
        rows: f64,
        /// Elements read and written.
        numbers: f64,
        /// Number of exponentials.
        exponentials: f64,
    },
    /// A pass over all weights, moments or gradients, which are always f32.
    Weights {
        /// Elements read and written.
        numbers: f64,
    },
}

/// Operations, each with its number of executions.
pub type Operations = Vec<(f64, Operation)>;

/// What a step trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// All weights.
    Weights,
    /// Adapters: the gradients of all weights are computed and converted to those of the adapters.
    Adapters,
    /// All weights, on preferences: two answers per item, and the reference model's forward pass.
    Preferences,
    /// Nothing: a forward pass of which only the last positions reach the head.
    Nothing,
}

/// Rows that pass through a model together, each one document with loss on every position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Number of rows.
    pub rows: f64,
    /// Positions per row.
    pub len: usize,
}

impl Group {
    fn positions(self) -> f64 {
        self.rows * self.len as f64
    }
}

/// The operations of one group's pass through the model: forward, and backward if something is trained.
pub fn group(model: &ModelConfig, group: Group, trained: Trained, recompute: Recompute) -> Operations {
    let pass = Pass { model, group, n: group.positions(), d: model.d_model as f64, heads: model.heads() };
    let layers = model.n_layers as f64;
    let mut all = vec![(1.0, moves(2.0 * pass.n * pass.d))]; // the embedding
    let mut block = [pass.attend(), pass.residual(), pass.feed_forward()].concat();
    if trained != Trained::Nothing {
        match recompute {
            Recompute::None => {}
            Recompute::Activations => block.extend([pass.attend(), pass.feed_forward_again()].concat()),
            Recompute::Blocks => {
                block.extend([pass.attend(), pass.residual(), pass.feed_forward_again()].concat());
            }
        }
        block.extend([pass.feed_forward_backward(), pass.attention_backward()].concat());
        all.push((1.0, moves(3.0 * pass.n * pass.d)));
    }
    all.extend(block.into_iter().map(|operation| (layers, operation)));
    all.extend(pass.head(trained).into_iter().map(|operation| (1.0, operation)));
    if trained == Trained::Preferences {
        let reference = [pass.attend(), pass.residual(), pass.feed_forward()].concat();
        all.extend(reference.into_iter().map(|operation| (layers, operation)));
        all.extend(pass.logits().into_iter().map(|operation| (1.0, operation)));
    }
    all
}

/// The operations of the update once per step, all in f32: the norm of the gradient, the update rule of each parameter,
/// and zeroing the gradient.
pub fn update(model: &ModelConfig, rule: Rule) -> Operations {
    let weights = model.params() as f64;
    let mut all = vec![(1.0, Operation::Weights { numbers: weights })];
    let mut by_adamw = weights;
    let mut alike: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for param in model.spec().block.params() {
        let (Rule::Muon, &[d_out, d_in]) = (rule.of(param.role), param.shape.as_slice()) else { continue };
        by_adamw -= (model.n_layers * param.len()) as f64;
        *alike.entry((d_out, d_in)).or_default() += model.n_layers * param.len() / (d_out * d_in);
    }
    all.extend(alike.into_iter().flat_map(|((d_out, d_in), count)| muon(count as f64, d_out, d_in)));
    all.extend([by_adamw * 7.0, weights].map(|numbers| (1.0, Operation::Weights { numbers })));
    all
}

/// [`Muon`]'s update of `count` matrices of one shape: momentum and its norm, the products of the polynomial, and the step.
fn muon(count: f64, d_out: usize, d_in: usize) -> Operations {
    let (small, large) = (d_out.min(d_in) as f64, d_out.max(d_in) as f64);
    let numbers = |each: f64| Operation::Weights { numbers: count * each };
    let product = |m, k, n| Operation::Product { batch: count, m, k, n };
    let (size, rounds) = (small * large, Muon::ITERATIONS as f64);
    vec![
        (1.0, numbers(4.0 * size)),
        (1.0, numbers(3.0 * size)),
        (rounds, product(small, large, small)),
        (rounds, product(small, small, small)),
        (rounds, product(small, small, large)),
        (rounds, numbers(3.0 * (size + small * small))),
        (1.0, numbers(3.0 * size)),
    ]
}

/// Adds the gradient of a lane to the sum of the previous ones.
pub fn lane_sum(weights: f64) -> Operation {
    Operation::Weights { numbers: 4.0 * weights }
}

/// Elements that a position keeps for the backward pass, over all blocks.
pub fn kept(model: &ModelConfig, recompute: Recompute) -> f64 {
    let (activations, states) = (block_activations(model) as f64, model.d_model as f64);
    let layers = model.n_layers as f64;
    match recompute {
        Recompute::None => layers * (2.0 * states + activations),
        Recompute::Activations => layers * 2.0 * states + activations,
        Recompute::Blocks => layers * states + states + activations,
    }
}

/// Elements that a position keeps per block in addition to the states between its halves: the result of attention,
/// queries, keys and values, and the input of the activation.
pub fn block_activations(model: &ModelConfig) -> usize {
    model.heads().width() + model.heads().qkv_width() + 2 * hidden(model)
}

/// Hidden elements that a position passes through in one block.
pub fn hidden(model: &ModelConfig) -> usize {
    match model.is_moe() {
        true => (model.top_k + model.n_shared_experts) * model.expert_dim(),
        false => model.ffn_dim(),
    }
}

/// Number of pairs of a query and a key that it sees in a document of `len` positions.
pub fn pairs(len: usize, window: Option<usize>) -> f64 {
    let seen = window.map_or(len, |window| window.min(len)) as f64;
    seen * (seen + 1.0) / 2.0 + (len as f64 - seen) * seen
}

fn product(m: f64, k: f64, n: f64) -> Operation {
    Operation::Product { batch: 1.0, m, k, n }
}

/// A pass without row reductions or exponentials.
fn moves(numbers: f64) -> Operation {
    Operation::Pass { rows: 0.0, numbers, exponentials: 0.0 }
}

/// A norm of `n` rows, forward or recomputed: reads and writes them.
fn norm(n: f64, d: f64) -> Operation {
    Operation::Pass { rows: 0.3 * n, numbers: 2.0 * n * d, exponentials: 0.0 }
}

/// The backward pass of a norm: reads three rows and adds to one of them.
fn norm_backward(n: f64, d: f64) -> Operation {
    Operation::Pass { rows: n, numbers: 4.0 * n * d, exponentials: 0.0 }
}

/// The two products of a linear layer's backward pass: the gradients of its input and of its weight.
fn linear_backward(n: f64, d_in: f64, d_out: f64) -> [Operation; 2] {
    [product(n, d_out, d_in), product(d_out, n, d_in)]
}

struct Pass<'a> {
    model: &'a ModelConfig,
    group: Group,
    n: f64,
    d: f64,
    heads: Heads,
}

/// Copies of a gated feed-forward layer in a block, and the rows that pass through each.
struct Gated {
    copies: f64,
    rows: f64,
    hidden: f64,
}

impl Pass<'_> {
    fn attention(&self, backward: bool) -> Operation {
        let pairs = self.group.rows * pairs(self.group.len, self.model.window);
        Operation::Attention { positions: self.n, pairs, heads: self.heads, backward }
    }

    /// Norm, `wqkv`, norms of queries and keys if the model has them, rotation, attention.
    fn attend(&self) -> Vec<Operation> {
        let (n, d, qkv) = (self.n, self.d, self.heads.qkv_width() as f64);
        let mut all = vec![norm(n, d), product(n, d, qkv)];
        if self.model.qk_norm {
            let heads = (self.heads.n_heads + self.heads.n_kv_heads) as f64;
            all.push(moves(2.0 * n * qkv));
            all.push(norm(n * heads, self.heads.head_dim as f64));
        }
        all.extend([moves(2.0 * n * qkv), self.attention(false)]);
        all
    }

    fn residual(&self) -> Vec<Operation> {
        vec![moves(2.0 * self.n * self.d), product(self.n, self.heads.width() as f64, self.d)]
    }

    fn attention_backward(&self) -> Vec<Operation> {
        let (n, d) = (self.n, self.d);
        let (width, qkv) = (self.heads.width() as f64, self.heads.qkv_width() as f64);
        let mut all = linear_backward(n, width, d).to_vec();
        all.extend([self.attention(true), moves(2.0 * n * qkv)]);
        if self.model.qk_norm {
            let heads = (self.heads.n_heads + self.heads.n_kv_heads) as f64;
            all.push(norm_backward(n * heads, self.heads.head_dim as f64));
        }
        all.push(norm(n, d));
        all.extend(linear_backward(n, d, qkv));
        all.push(norm_backward(n, d));
        all
    }

    /// The feed-forward layer that every token passes through, and the experts, each with its share of the rows.
    fn gated(&self) -> (Option<Gated>, Option<Gated>) {
        let model = self.model;
        if !model.is_moe() {
            return (Some(Gated { copies: 1.0, rows: self.n, hidden: model.ffn_dim() as f64 }), None);
        }
        let hidden = model.expert_dim() as f64;
        let shared = model.n_shared_experts as f64;
        let rows = self.n * model.top_k as f64 / model.n_experts as f64;
        let dense = (shared > 0.0).then_some(Gated { copies: 1.0, rows: self.n, hidden: shared * hidden });
        (dense, Some(Gated { copies: model.n_experts as f64, rows, hidden }))
    }

    fn feed_forward(&self) -> Vec<Operation> {
        let (n, d) = (self.n, self.d);
        let mut all = vec![norm(n, d), moves(2.0 * n * d)];
        let (dense, experts) = self.gated();
        for of in dense.iter().chain(&experts) {
            all.extend(of.each(product(of.rows, d, 2.0 * of.hidden)));
            all.push(of.activation(3.0, 2.0));
            all.extend(of.each(product(of.rows, of.hidden, d)));
        }
        if let Some(of) = &experts {
            // The router with its softmax, and moving rows to their experts and back.
            all.extend(self.router());
            all.extend([moves(2.0 * of.all() * d), moves(3.0 * of.all() * d)]);
        }
        all
    }

    fn router(&self) -> [Operation; 2] {
        let experts = self.model.n_experts as f64;
        let (rows, numbers) = (4.0 * self.n, 4.0 * self.n * experts);
        [product(self.n, self.d, experts), Operation::Pass { rows, numbers, exponentials: self.n * experts }]
    }

    /// Recomputes the norm and the first products.
    fn feed_forward_again(&self) -> Vec<Operation> {
        let mut all = vec![norm(self.n, self.d)];
        let (dense, experts) = self.gated();
        for of in dense.iter().chain(&experts) {
            all.extend(of.each(product(of.rows, self.d, 2.0 * of.hidden)));
        }
        all.extend(experts.map(|of| moves(2.0 * of.all() * self.d)));
        all
    }

    fn feed_forward_backward(&self) -> Vec<Operation> {
        let (n, d) = (self.n, self.d);
        let mut all = vec![norm(n, d)];
        let (dense, experts) = self.gated();
        if dense.is_none() {
            all.push(moves(n * d));
        }
        for of in dense.iter().chain(&experts) {
            let [into, weight] = linear_backward(of.rows, of.hidden, d);
            all.extend(of.each(into));
            all.push(of.activation(6.0, 3.0));
            all.extend(of.each(weight));
            for operation in linear_backward(of.rows, d, 2.0 * of.hidden) {
                all.extend(of.each(operation));
            }
        }
        if let Some(of) = &experts {
            let experts = self.model.n_experts as f64;
            // Moving rows and their gradients to the experts, and the gradients of the rows back; the backward pass of the router.
            all.extend([moves(2.0 * of.all() * d), moves(2.0 * of.all() * d), moves(3.0 * of.all() * d)]);
            all.push(Operation::Pass { rows: 2.0 * n, numbers: 4.0 * n * experts, exponentials: 0.0 });
            all.extend(linear_backward(n, d, experts));
        }
        all.push(norm_backward(n, d));
        all
    }

    /// Last norm, logits and their exponentials.
    fn logits(&self) -> Vec<Operation> {
        let (n, d, vocab) = (self.n, self.d, self.model.vocab_size as f64);
        let softmax = Operation::Pass { rows: n, numbers: 3.0 * n * vocab, exponentials: n * vocab };
        vec![moves(2.0 * n * d), norm(n, d), product(n, d, vocab), softmax]
    }

    fn head(&self, trained: Trained) -> Vec<Operation> {
        let (n, d, vocab) = (self.n, self.d, self.model.vocab_size as f64);
        if trained == Trained::Nothing {
            let rows = self.group.rows;
            return vec![norm(rows, d), product(rows, d, vocab), moves(3.0 * rows * vocab)];
        }
        let mut all = self.logits();
        if trained == Trained::Preferences {
            all.extend(self.logits());
        }
        all.extend(linear_backward(n, d, vocab));
        all.extend([moves(4.0 * n * d), norm_backward(n, d), moves(3.0 * n * d)]);
        all
    }
}

impl Gated {
    /// Number of rows of all copies.
    fn all(&self) -> f64 {
        self.copies * self.rows
    }

    fn each(&self, operation: Operation) -> impl Iterator<Item = Operation> {
        std::iter::repeat_n(operation, self.copies as usize)
    }

    /// SwiGLU over the rows of all copies, with this many elements and exponentials per hidden element. A logistic
    /// function counts as two exponentials: one, and a division, which takes as long.
    fn activation(&self, numbers: f64, exponentials: f64) -> Operation {
        let hidden = self.all() * self.hidden;
        Operation::Pass { rows: 0.0, numbers: numbers * hidden, exponentials: exponentials * hidden }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Cost;

    fn dense() -> ModelConfig {
        ModelConfig {
            d_model: 4,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            vocab_size: 10,
            hidden_dim: Some(6),
            ..ModelConfig::default()
        }
    }

    fn moe() -> ModelConfig {
        ModelConfig { n_experts: 4, top_k: 2, n_shared_experts: 1, expert_hidden_dim: Some(5), ..dense() }
    }

    /// Multiply-adds of products with weights, and attention pairs times the number of attention products.
    fn counted(operations: &Operations) -> (f64, f64) {
        operations.iter().fold((0.0, 0.0), |(products, attention), (count, operation)| match *operation {
            Operation::Product { batch, m, k, n } => (products + count * batch * m * k * n, attention),
            Operation::Attention { pairs, backward, .. } => {
                (products, attention + count * pairs * if backward { 5.0 } else { 2.0 })
            }
            _ => (products, attention),
        })
    }

    #[test]
    fn products_are_those_of_the_count_of_operations() {
        let rows = Group { rows: 3.0, len: 8 };
        for model in [dense(), moe()] {
            let (products, attention) = counted(&group(&model, rows, Trained::Weights, Recompute::None));
            // Equal to the definition of cost, except for the fifth product of attention's backward pass.
            assert_eq!(2.0 * products, 24.0 * Cost::training(&model).linear);
            assert_eq!(attention, 2.0 * 3.0 * 36.0 * (2.0 + 5.0));
            let (again, of_attention) =
                counted(&group(&model, rows, Trained::Weights, Recompute::Activations));
            // wqkv of 4x8, and w1 and w3 of all feed-forward layers that a token passes through.
            let hidden = if model.is_moe() { 3.0 * 5.0 } else { 6.0 };
            assert_eq!(again - products, 2.0 * 24.0 * (32.0 + 8.0 * hidden));
            assert_eq!(of_attention - attention, 2.0 * 3.0 * 36.0 * 2.0);
            let (blocks, _) = counted(&group(&model, rows, Trained::Weights, Recompute::Blocks));
            assert_eq!(blocks - again, 2.0 * 24.0 * 16.0); // wo of 4x4
            // The reference model's forward pass, and the logits a second time.
            let (preferences, _) = counted(&group(&model, rows, Trained::Preferences, Recompute::None));
            let forward = Cost::forward(&model).linear / 2.0;
            assert_eq!(preferences - products, 24.0 * (forward + 40.0));
            // Only the last position of each row reaches the head.
            let (nothing, _) = counted(&group(&model, rows, Trained::Nothing, Recompute::None));
            assert_eq!(nothing, 24.0 * (forward - 40.0) + 3.0 * 40.0);
        }
    }

    #[test]
    fn muon_multiplies_the_matrices_of_blocks_and_leaves_the_rest_to_adamw() {
        let numbers = |operations: &Operations| {
            let of = |(count, operation): &(f64, Operation)| match operation {
                Operation::Weights { numbers } => count * numbers,
                _ => 0.0,
            };
            operations.iter().map(of).sum::<f64>()
        };
        for model in [dense(), moe()] {
            let weights = model.params() as f64;
            let adamw = update(&model, Rule::AdamW);
            assert_eq!((counted(&adamw), numbers(&adamw)), ((0.0, 0.0), 9.0 * weights));
            // In a block: wq and wo of 4x4, wk and wv of 2x4, and w1, w3 and w2 of each feed-forward layer, with one side of 4.
            let (of_one, copies) = if model.is_moe() { (5.0, 4.0 + 1.0) } else { (6.0, 1.0) };
            let of = |small: f64, large: f64| 2.0 * small * small * large + small * small * small;
            let products = 2.0 * of(4.0, 4.0) + 2.0 * of(2.0, 4.0) + copies * 3.0 * of(4.0, of_one);
            let muon = update(&model, Rule::Muon);
            assert_eq!(counted(&muon).0, 2.0 * 5.0 * products);
            let (matrices, squares) = (48.0 + copies * 12.0 * of_one, 2.0 * 16.0 + 2.0 * 4.0 + copies * 48.0);
            let moved = 2.0 * (10.0 * matrices + 15.0 * (matrices + squares));
            assert_eq!(numbers(&muon), 2.0 * weights + 7.0 * (weights - 2.0 * matrices) + moved);
        }
    }

    #[test]
    fn pairs_are_those_that_are_seen() {
        for (len, window) in [(1, None), (7, None), (7, Some(1)), (7, Some(3)), (7, Some(9))] {
            let seen = (0..len).map(|query| (query + 1).min(window.unwrap_or(len))).sum::<usize>();
            assert_eq!(pairs(len, window), seen as f64);
        }
    }

    #[test]
    fn what_is_kept_follows_what_is_computed_again() {
        // Attention's result 4, queries, keys and values 8, input of the activation 12; two states of 4 between halves.
        let kept = [Recompute::None, Recompute::Activations, Recompute::Blocks].map(|r| kept(&dense(), r));
        assert_eq!(kept, [2.0 * 32.0, 2.0 * 8.0 + 24.0, 2.0 * 4.0 + 4.0 + 24.0]);
        assert_eq!(hidden(&moe()), 15);
    }
}
