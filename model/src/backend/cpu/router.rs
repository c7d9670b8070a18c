//! The router of a mixture of experts: softmax scores, selection of the best `top_k`, and the balancing loss.
//!
//! Follows `MoEGate` of MiniMind v1; the balancing loss is that of Switch Transformers (Fedus et al. 2021, eq. 4), over
//! a sequence or over all tokens (DeepSeek-MoE, eq. 12-14).

use super::Buffer;
use super::math;
use crate::backend::{Balancing, RouterStats};
use std::ops::Range;

/// The assignment of tokens to experts, with the weight of each.
pub struct Routes {
    /// Softmax scores, `(n, n_experts)`.
    pub scores: Vec<f32>,
    /// Experts of each token, best first, `(n, top_k)`.
    pub experts: Vec<u32>,
    /// Weights of these experts, `(n, top_k)`: the scores, renormalized if `top_k > 1`.
    pub weights: Vec<f32>,
    /// Number of routed experts.
    pub n_experts: usize,
    /// Number of experts per token.
    pub top_k: usize,
    /// The rows grouped by expert, `(n top_k,)`: each entry is an index into `experts`, that is, token times `top_k` plus slot.
    pub order: Vec<u32>,
    /// Start of each expert's rows in `order`, and the end of the last: `(n_experts + 1,)`.
    pub offsets: Vec<usize>,
}

/// The non-empty spans.
fn filled(balancing: &Balancing) -> impl Iterator<Item = Range<usize>> + '_ {
    balancing.spans.windows(2).filter(|s| s[1] > s[0]).map(|s| s[0]..s[1])
}

/// Added to a sum of scores to keep it from being zero, as MiniMind v1 does.
const TINY: f32 = 1e-20;

impl Routes {
    /// Routes from the logits, `(n, n_experts)`; equal scores prefer the lower expert index.
    pub fn new(mut logits: Vec<f32>, n_experts: usize, top_k: usize) -> Self {
        let n = logits.len() / n_experts;
        let (mut experts, mut weights) = (Vec::with_capacity(n * top_k), Vec::with_capacity(n * top_k));
        for row in logits.chunks_exact_mut(n_experts) {
            let max = math::max(row);
            let sum = math::exp_shifted_sum(row, max);
            math::scale(row, 1.0 / sum);
            let first = experts.len();
            for _ in 0..top_k {
                let free = (0..n_experts).filter(|&e| !experts[first..].contains(&(e as u32)));
                let best = free.reduce(|best, e| if row[e] > row[best] { e } else { best }).unwrap_or(0);
                experts.push(best as u32);
            }
            let chosen = experts[first..].iter().map(|&e| row[e as usize]);
            let total = if top_k > 1 { chosen.clone().sum::<f32>() + TINY } else { 1.0 };
            weights.extend(chosen.map(|s| s / total));
        }
        let mut offsets = vec![0; n_experts + 1];
        experts.iter().for_each(|&e| offsets[e as usize + 1] += 1);
        (0..n_experts).for_each(|e| offsets[e + 1] += offsets[e]);
        let (mut next, mut order) = (offsets.clone(), vec![0; experts.len()]);
        for (place, &e) in (0..).zip(&experts) {
            order[next[e as usize]] = place;
            next[e as usize] += 1;
        }
        Self { scores: logits, experts, weights, n_experts, top_k, order, offsets }
    }

    /// Row range of each expert.
    pub fn groups(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.offsets.windows(2).map(|rows| rows[0]..rows[1])
    }

    /// The token of every row, grouped by expert.
    pub fn tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().map(|&place| place as usize / self.top_k)
    }

    /// Weights of the rows, grouped by expert: `(n top_k,)`.
    pub fn row_weights(&self) -> Buffer {
        let mut weights = Buffer::dirty(self.order.len());
        for (weight, &place) in weights.iter_mut().zip(&self.order) {
            *weight = self.weights[place as usize];
        }
        weights
    }

    /// Statistics of the router.
    pub fn stats(&self, balancing: &Balancing) -> RouterStats {
        RouterStats {
            load: self.offsets.windows(2).map(|rows| (rows[1] - rows[0]) as u64).collect(),
            entropy_sum: self.entropy_sum(),
            tokens: (self.experts.len() / self.top_k) as u64,
            aux_loss: f64::from(self.aux_loss(balancing)),
        }
    }

    /// Sum over tokens of the entropy of the router scores, in nats.
    fn entropy_sum(&self) -> f64 {
        self.scores.iter().filter(|&&s| s > 0.0).map(|&s| -f64::from(s) * f64::from(s).ln()).sum()
    }

    /// Each expert's fraction of the routed tokens times the number of experts, `(n_experts,)`: that of the span, or of
    /// the whole batch if `balancing.load` gives it.
    fn share(&self, span: Range<usize>, balancing: &Balancing) -> Vec<f32> {
        if let Some(load) = &balancing.load {
            return load.clone();
        }
        let (e, k, n) = (self.n_experts, self.top_k, span.len());
        let mut load = vec![0.0f32; e];
        for &expert in &self.experts[span.start * k..span.end * k] {
            load[expert as usize] += e as f32 / (n * k) as f32;
        }
        load
    }

    /// The balancing loss of a span before its weight; 1 is perfect balance.
    fn balance(&self, span: Range<usize>, balancing: &Balancing) -> f32 {
        let (e, n) = (self.n_experts, span.len());
        let load = self.share(span.clone(), balancing);
        let mut mean = vec![0.0f32; e];
        for scores in self.scores[span.start * e..span.end * e].chunks_exact(e) {
            math::add_scaled(&mut mean, 1.0 / n as f32, scores);
        }
        load.iter().zip(&mean).map(|(l, p)| l * p).sum()
    }

    /// The balancing loss: the sum over spans of `weight * balance`.
    fn aux_loss(&self, balancing: &Balancing) -> f32 {
        filled(balancing).map(|span| balancing.weight * self.balance(span, balancing)).sum()
    }

    /// The gradient of the logits, `(n, n_experts)`, from the gradients of the row weights, grouped by expert,
    /// `(n top_k,)`, and of the balancing loss.
    pub fn backward(&self, dweights: &[f32], balancing: &Balancing) -> Buffer {
        let (e, k) = (self.n_experts, self.top_k);
        let mut by_token = Buffer::dirty(dweights.len()); // (n, top_k)
        for (dw, &place) in dweights.iter().zip(&self.order) {
            by_token[place as usize] = *dw;
        }
        let mut grad = Buffer::zeros(self.scores.len());
        let rows = grad.chunks_exact_mut(e).zip(self.scores.chunks_exact(e));
        let chosen = self.experts.chunks_exact(k).zip(self.weights.chunks_exact(k));
        for (((grad, scores), (experts, weights)), dw) in rows.zip(chosen).zip(by_token.chunks_exact(k)) {
            let (total, mean) = if k > 1 {
                let total = experts.iter().map(|&x| scores[x as usize]).sum::<f32>() + TINY;
                (total, dw.iter().zip(weights).map(|(d, w)| d * w).sum::<f32>())
            } else {
                (1.0, 0.0)
            };
            for (&expert, d) in experts.iter().zip(dw) {
                grad[expert as usize] += (d - mean) / total;
            }
        }
        for span in filled(balancing).filter(|_| balancing.weight != 0.0) {
            let load = self.share(span.clone(), balancing);
            let weight = balancing.weight / span.len() as f32;
            for grad in grad[span.start * e..span.end * e].chunks_exact_mut(e) {
                math::add_scaled(grad, weight, &load);
            }
        }
        for (grad, scores) in grad.chunks_exact_mut(e).zip(self.scores.chunks_exact(e)) {
            let inner: f32 = grad.iter().zip(scores).map(|(g, s)| g * s).sum();
            for (g, s) in grad.iter_mut().zip(scores) {
                *g = s * (*g - inner);
            }
        }
        grad
    }
}
