//! The router of a mixture of experts: softmax scores, the best `top_k`, the balancing loss.
//!
//! MiniMind v1's `MoEGate`; the balancing loss is that of Switch Transformers (Fedus et al. 2021, eq. 4) over a
//! sequence or over all tokens (DeepSeek-MoE, eq. 12-14).

use super::math;
use candle_core::{D, Result, Tensor};
use std::ops::Range;

/// Which experts every token goes to, and with which weight.
pub struct Routes {
    /// Softmax scores, `(n, experts)`.
    pub scores: Vec<f32>,
    /// Experts of each token, best first, `(n, top_k)`.
    pub experts: Vec<u32>,
    /// Their weights, `(n, top_k)`: renormalised scores where `top_k > 1`.
    pub weights: Vec<f32>,
    /// Routed experts.
    pub n_experts: usize,
    /// Experts of a token.
    pub top_k: usize,
}

/// Over which tokens the router is balanced, and how strongly.
#[derive(Debug, Clone, Default)]
pub struct Balancing {
    /// Offsets of spans of tokens, each with a balance of its own.
    pub spans: Vec<usize>,
    /// Weight of each span's balance.
    pub weight: f32,
    /// Where the spans are parts of a larger batch that is balanced as a whole: each expert's share of its load times
    /// their number, `(experts,)`. Loads carry no gradient, so that the parts then sum to the balance of the whole.
    pub load: Option<Vec<f32>>,
}

impl Balancing {
    /// The offsets of spans that hold a token.
    fn filled(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.spans.windows(2).filter(|s| s[1] > s[0]).map(|s| s[0]..s[1])
    }
}

/// Keeps a sum of scores from being zero, as v1 does.
const TINY: f32 = 1e-20;

impl Routes {
    /// From router logits `(n, experts)`; equal scores prefer the lower expert.
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
        Self { scores: logits, experts, weights, n_experts, top_k }
    }

    /// The tokens of each expert as `(token, slot)`, in order.
    pub fn by_expert(&self) -> Vec<Vec<(usize, usize)>> {
        let mut groups = vec![Vec::new(); self.n_experts];
        for (token, chosen) in self.experts.chunks_exact(self.top_k).enumerate() {
            for (slot, &expert) in chosen.iter().enumerate() {
                groups[expert as usize].push((token, slot));
            }
        }
        groups
    }

    /// Tokens that each expert got, `(experts,)`.
    pub fn load(&self) -> Vec<u64> {
        let mut load = vec![0; self.n_experts];
        for &e in &self.experts {
            load[e as usize] += 1;
        }
        load
    }

    /// Sum over tokens of the entropy of their scores, in nats.
    pub fn entropy_sum(&self) -> f64 {
        self.scores.iter().filter(|&&s| s > 0.0).map(|&s| -f64::from(s) * f64::from(s).ln()).sum()
    }

    /// Each expert's share of a span's load times their number, `(experts,)`, or that of the batch it is a part of.
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

    /// The balance of a span of tokens; 1 is perfect.
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
    pub fn aux_loss(&self, balancing: &Balancing) -> f32 {
        balancing.filled().map(|span| balancing.weight * self.balance(span, balancing)).sum()
    }

    /// The gradient of the logits `(n, experts)`, from that of the weights `(n, top_k)` and the balancing loss.
    pub fn backward(&self, dweights: &[f32], balancing: &Balancing) -> Vec<f32> {
        let (e, k) = (self.n_experts, self.top_k);
        let mut grad = vec![0.0f32; self.scores.len()];
        let rows = grad.chunks_exact_mut(e).zip(self.scores.chunks_exact(e));
        let chosen = self.experts.chunks_exact(k).zip(self.weights.chunks_exact(k));
        for (((grad, scores), (experts, weights)), dw) in rows.zip(chosen).zip(dweights.chunks_exact(k)) {
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
        for span in balancing.filled().filter(|_| balancing.weight != 0.0) {
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

/// The plain form of the weights: `(n, experts)`, zero for experts that a token does not visit.
///
/// Which experts are visited is read off `routes`, as it carries no gradient.
pub fn plain_weights(logits: &Tensor, routes: &Routes) -> Result<(Tensor, Tensor)> {
    let scores = candle_nn::ops::softmax(logits, D::Minus1)?; // (n, experts)
    let mut visited = vec![0.0f32; routes.scores.len()];
    for (row, experts) in
        visited.chunks_exact_mut(routes.n_experts).zip(routes.experts.chunks_exact(routes.top_k))
    {
        for &e in experts {
            row[e as usize] = 1.0;
        }
    }
    let visited = Tensor::from_vec(visited, scores.shape(), scores.device())?;
    let chosen = (&scores * visited)?;
    let weights = if routes.top_k > 1 {
        chosen.broadcast_div(&(chosen.sum_keepdim(D::Minus1)? + f64::from(TINY))?)?
    } else {
        chosen
    };
    Ok((weights, scores))
}

/// The plain form of the balancing loss, a scalar.
pub fn plain_aux_loss(scores: &Tensor, routes: &Routes, balancing: &Balancing) -> Result<Tensor> {
    let mut total = Tensor::zeros((), scores.dtype(), scores.device())?;
    for span in balancing.filled() {
        let load = Tensor::new(routes.share(span.clone(), balancing), scores.device())?;
        let mean = scores.narrow(0, span.start, span.len())?.mean(0)?;
        total = (total + ((mean * load)?.sum_all()? * f64::from(balancing.weight))?)?;
    }
    Ok(total)
}
