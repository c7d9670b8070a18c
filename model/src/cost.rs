//! The cost of a model in floating-point operations: the single definition that solving, planning, records and benches use.
//!
//! Counted from the shape and the document lengths alone, as in appendix B of PaLM: matrix products with two operations
//! per multiply-add, for a mixture of experts only the experts that serve a token; causal attention at half of the
//! document's own length. Norms, activations, embedding look-ups, the optimizer and validation are not counted.
//! Operations count if the algorithm requires them, however it is implemented: recomputed activations do not count,
//! positions without loss pass through the head like the others, and products that can be skipped are not counted:
//!
//! | training of | operations |
//! |---|---|
//! | all weights | backward is twice the forward pass: one product for the gradient of the inputs, one for that of the weights |
//! | adapters | no gradient of the frozen weights: forward and backward are equal, attention's backward is twice its forward; the adapters' own products count three times |
//! | preferences | both answers, as for all weights, plus the reference model's forward pass |

pub mod roofline;
pub mod step;

use crate::config::ModelConfig;
use crate::lora::LoraConfig;

/// Floating-point operations of a document of `n` positions: `linear * n + quadratic * attention_pairs_x2(n)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Operations per position: products with weights.
    pub linear: f64,
    /// Operations per position and position of its document: attention, with the causal half already applied.
    pub quadratic: f64,
    /// Maximum number of positions that a query attends to; `None`: all.
    pub window: Option<usize>,
}

/// Twice the number of pairs of a query and a key that it sees in a document of `len` positions, with the diagonal
/// counted half: `len^2`, or with a sliding window `2 window len - window^2` for longer documents.
pub fn attention_pairs_x2(len: u64, window: Option<usize>) -> u64 {
    let seen = window.map_or(len, |window| len.min(window as u64));
    2 * seen * len - seen * seen
}

impl Cost {
    /// Cost of a forward pass.
    pub fn forward(model: &ModelConfig) -> Self {
        let spec = model.spec();
        // Scores and values: a multiply-add each per column and earlier position, of which there are n / 2 on average.
        let quadratic = 2.0 * (model.n_layers * spec.block.heads.width()) as f64;
        Self { linear: 2.0 * spec.products() as f64, quadratic, window: model.window }
    }

    /// Scales the products and attention.
    fn times(self, linear: f64, quadratic: f64) -> Self {
        Self { linear: linear * self.linear, quadratic: quadratic * self.quadratic, ..self }
    }

    /// Cost of a training step on all weights.
    pub fn training(model: &ModelConfig) -> Self {
        Self::forward(model).times(3.0, 3.0)
    }

    /// Cost of a training step on adapters.
    pub fn adapters(model: &ModelConfig, lora: &LoraConfig) -> Self {
        let widths: usize = lora.targets.iter().map(|target| projection_widths(model, target)).sum();
        let adapters = 2.0 * (model.n_layers * lora.rank * widths) as f64;
        let frozen = Self::forward(model).times(2.0, 3.0);
        Self { linear: frozen.linear + 3.0 * adapters, ..frozen }
    }

    /// Cost of a training step on preferences; the positions of both answers count.
    pub fn preferences(model: &ModelConfig) -> Self {
        Self::forward(model).times(4.0, 4.0)
    }

    /// Operations for documents with `positions` positions in total; `squares` is the sum of [`attention_pairs_x2`] over their lengths.
    pub fn of(&self, positions: u64, squares: u64) -> f64 {
        self.linear * positions as f64 + self.quadratic * squares as f64
    }

    /// Average operations per position in a document of `len` positions.
    pub fn per_token(&self, len: usize) -> f64 {
        self.linear + self.quadratic * attention_pairs_x2(len as u64, self.window) as f64 / len.max(1) as f64
    }
}

/// Sum of the input and output widths of a layer's projections of this name that one token passes through.
fn projection_widths(model: &ModelConfig, target: &str) -> usize {
    let params = model.spec().block.params();
    let named = params.iter().filter(|param| param.name.rsplit('.').next() == Some(target));
    named.map(|param| param.active_len() / param.shape[0] + param.active_len() / param.shape[1]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ModelConfig { n_experts: 3, top_k: 2, n_shared_experts: 1, expert_hidden_dim: Some(5), ..dense() }
    }

    #[test]
    fn a_dense_model_is_counted_by_hand() {
        // Per layer: query 4x4, key and value 4x2 each, output 4x4, feed-forward 3 of 4x6; the head 10x4.
        let products = 2 * (16 + 8 + 8 + 16 + 72) + 40;
        // Scores and values of 8 positions: 4 multiply-adds each for 4 earlier positions, half of 8.
        let attention = 2 * (2 * 4 * 4);
        let forward = Cost::forward(&dense());
        assert_eq!(forward.per_token(8), f64::from(2 * (products + attention)));
        assert_eq!(forward.of(8, 64), 8.0 * forward.per_token(8));
        assert_eq!(Cost::training(&dense()).of(8, 64), 3.0 * forward.of(8, 64));
        assert_eq!(Cost::preferences(&dense()).of(8, 64), 4.0 * forward.of(8, 64));
        // Two documents of four positions have half as many attention pairs.
        assert_eq!(forward.of(8, 2 * 16), f64::from(8 * 2 * (products + attention / 2)));
    }

    #[test]
    fn of_a_mixture_the_experts_of_a_token_count() {
        // The router 3x4, two routed experts and a shared one, each three matrices of 4x5.
        let products = 2 * (16 + 8 + 8 + 16 + 12 + 3 * 60) + 40;
        assert_eq!(Cost::forward(&moe()).linear, f64::from(2 * products));
        let more = ModelConfig { n_experts: 9, ..moe() };
        // Only the router grows.
        assert_eq!(Cost::forward(&more).linear, f64::from(2 * (products + 2 * 6 * 4)));
    }

    #[test]
    fn a_window_counts_the_pairs_that_are_seen() {
        for (len, window) in [(1u64, 1usize), (7, 3), (7, 7), (7, 9), (40, 13)] {
            let pairs: u64 = (0..len).map(|query| (query + 1).min(window as u64)).sum();
            assert_eq!(attention_pairs_x2(len, Some(window)) + (window as u64).min(len), 2 * pairs);
        }
        assert_eq!([None, Some(8), Some(2)].map(|window| attention_pairs_x2(8, window)), [64, 64, 28]);
        let slides = ModelConfig { window: Some(2), ..dense() };
        let (forward, whole) = (Cost::forward(&slides), Cost::forward(&dense()));
        assert_eq!(forward.linear, whole.linear);
        assert_eq!(forward.per_token(8), forward.linear + forward.quadratic * 28.0 / 8.0);
    }

    #[test]
    fn adapters_need_no_gradient_of_frozen_weights() {
        let lora = |targets: &[&str]| LoraConfig {
            rank: 3,
            alpha: 1.0,
            targets: targets.iter().map(|&target| target.into()).collect(),
        };
        for model in [dense(), moe()] {
            let forward = Cost::forward(&model);
            let none = Cost::adapters(&model, &lora(&[]));
            assert_eq!((none.linear, none.quadratic), (2.0 * forward.linear, 3.0 * forward.quadratic));
            let own = |targets: &[&str]| Cost::adapters(&model, &lora(targets)).linear - none.linear;
            // Two layers; A is 3x4 and B 4x3, or 2x3 for key and value; forward plus twice backward, two operations each.
            assert_eq!(own(&["wq"]), f64::from(2 * 3 * 2 * (12 + 12)));
            assert_eq!(own(&["wk", "wv"]), f64::from(2 * 3 * 2 * 2 * (12 + 6)));
            let (experts, width) = if model.is_moe() { (3, 5) } else { (1, 6) };
            assert_eq!(own(&["w2"]), f64::from(2 * 3 * 2 * experts * (3 * width + 12)));
        }
        // Two shared experts are one expert of twice the width.
        let own = |shared: usize| {
            let model = ModelConfig { n_shared_experts: shared, ..moe() };
            Cost::adapters(&model, &lora(&["w1"])).linear - Cost::adapters(&model, &lora(&[])).linear
        };
        assert_eq!(own(2) - own(1), f64::from(2 * 3 * 2 * 3 * 5));
        assert_eq!(own(1) - own(0), f64::from(2 * 3 * 2 * (3 * 5 + 12)));
    }
}
