//! Perplexity of the same tokens after contexts of several lengths: how a model uses contexts longer than those it was
//! trained with, and how ways of scaling its rotary positions affect this.

use anyhow::{Result, ensure};
use model::{Backend, RopeScaling, Sequence, Transformer};
use serde::Serialize;
use stats::{Mean, StatsError};

/// Plan of a measurement.
#[derive(Debug, Clone)]
pub struct LengthPlan {
    /// Context lengths in tokens, ascending.
    pub lengths: Vec<usize>,
    /// Scalings of the rotary positions.
    pub scalings: Vec<RopeScaling>,
    /// Number of positions that the model was trained with.
    pub trained: usize,
    /// Maximum number of windows.
    pub windows: usize,
}

/// Loss after contexts of one length.
#[derive(Debug, Clone, Serialize)]
pub struct LengthLoss {
    /// Scaling of the rotary positions.
    pub scaling: String,
    /// Context length in tokens, up to and including the token before the last target.
    pub length: usize,
    /// Number of windows, the units of the interval.
    pub windows: usize,
    /// Number of predicted tokens.
    pub tokens: usize,
    /// Mean loss in nats per token.
    pub loss: f64,
    /// 95 % interval of the loss by Student's t over windows, assumed independent; `None` for fewer than two windows or if
    /// their losses do not vary.
    pub interval: Option<(f64, f64)>,
}

impl LengthLoss {
    /// Returns `exp` of the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Measures a model on the text `ids`, split into windows of the longest context. In each window all contexts end at its
/// end and predict the same tokens: as many as half of the shortest context.
///
/// # Errors
/// If the text is shorter than the longest context, or the model has no finite results.
pub fn loss_by_length<B: Backend>(
    mut model: Transformer<B>,
    ids: &[u32],
    plan: &LengthPlan,
) -> Result<Vec<LengthLoss>> {
    let (Some(&shortest), Some(&longest)) = (plan.lengths.first(), plan.lengths.last()) else {
        return Ok(vec![]);
    };
    ensure!(shortest >= 2, "a context of {shortest} tokens, expected at least 2");
    ensure!(
        ids.len() > longest,
        "the text has {} tokens, expected at least {} for a context of {longest}",
        ids.len(),
        longest + 1
    );
    let targets = shortest / 2;
    // The last token of a window is only a target.
    let count = ((ids.len() - 1) / longest).min(plan.windows);
    let windows: Vec<&[u32]> = (0..count).map(|i| &ids[i * longest..=(i + 1) * longest]).collect();
    let mut found = vec![];
    for &scaling in &plan.scalings {
        model = model.with_rope_scaling(scaling, plan.trained);
        for &length in &plan.lengths {
            let sequences: Vec<Sequence> =
                windows.iter().map(|window| last_of(&window[longest - length..], targets)).collect();
            let losses: Vec<f64> = model
                .token_log_probs(&sequences)?
                .iter()
                .map(|values| -values.iter().map(|&value| f64::from(value)).sum::<f64>() / targets as f64)
                .collect();
            let interval = match Mean::of(&losses) {
                Ok(mean) => Some(mean.interval(0.95)),
                Err(StatsError::NoVariance) => None,
                Err(_) if losses.len() < 2 => None,
                Err(error) => return Err(error.into()),
            };
            found.push(LengthLoss {
                scaling: scaling.to_string(),
                length,
                windows: windows.len(),
                tokens: windows.len() * targets,
                loss: losses.iter().sum::<f64>() / losses.len() as f64,
                interval: interval.map(|interval| (interval.low, interval.high)),
            });
        }
    }
    Ok(found)
}

/// Makes a sequence of a window, in which only the last `targets` targets carry loss.
fn last_of(window: &[u32], targets: usize) -> Sequence {
    let n = window.len() - 1;
    Sequence {
        ids: window[..n].to_vec(),
        targets: window[1..].to_vec(),
        weights: (0..n).map(|i| if i < n - targets { 0.0 } else { 1.0 }).collect(),
        documents: vec![n as u32],
        counted: targets as f32,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use model::{Cpu, ModelConfig};

    fn model() -> Transformer {
        let config = ModelConfig {
            d_model: 16,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            hidden_dim: Some(24),
            vocab_size: 30,
            max_seq_len: 16,
            ..ModelConfig::default()
        };
        Transformer::new(&config, 3, &Cpu).unwrap()
    }

    fn plan(lengths: &[usize], scalings: &[RopeScaling]) -> LengthPlan {
        LengthPlan { lengths: lengths.into(), scalings: scalings.into(), trained: 16, windows: 3 }
    }

    fn ids(n: u32) -> Vec<u32> {
        (0..n).map(|i| (i * i + 3 * i) % 29).collect()
    }

    #[test]
    fn the_same_tokens_are_predicted_at_every_length() {
        let ids = ids(200);
        let found = loss_by_length(model(), &ids, &plan(&[8, 32], &[RopeScaling::Unscaled])).unwrap();
        assert_eq!(
            found.iter().map(|l| (l.length, l.windows, l.tokens)).collect::<Vec<_>>(),
            [(8, 3, 12), (32, 3, 12)]
        );
        // By hand: in windows of 32 tokens, the last 4 of the last 8 targets count.
        let mut losses = vec![];
        for window in 0..3 {
            let end = 32 * (window + 1);
            let sequence = last_of(&ids[end - 8..=end], 8);
            let values = model().token_log_probs(&[sequence]).unwrap();
            losses.push(-values[0][4..].iter().map(|&v| f64::from(v)).sum::<f64>() / 4.0);
        }
        let mean = losses.iter().sum::<f64>() / 3.0;
        assert!((found[0].loss - mean).abs() < 1e-6, "{} {mean}", found[0].loss);
        let (low, high) = found[0].interval.unwrap();
        assert!(low < mean && mean < high);
    }

    #[test]
    fn scalings_change_what_positions_mean_and_only_that() {
        let scalings = [
            RopeScaling::Unscaled,
            RopeScaling::Linear(2.0),
            RopeScaling::Ntk(2.0),
            RopeScaling::Yarn(2.0),
            RopeScaling::Unscaled,
        ];
        let found = loss_by_length(model(), &ids(100), &plan(&[32], &scalings)).unwrap();
        let losses: Vec<f64> = found.iter().map(|l| l.loss).collect();
        assert_eq!(losses[0], losses[4]);
        assert!((1..4).all(|i| losses[i] != losses[0] && (losses[i] - losses[0]).abs() < 1.0), "{losses:?}");
    }

    #[test]
    fn a_text_that_is_too_short_is_refused() {
        let error = loss_by_length(model(), &ids(32), &plan(&[32], &[RopeScaling::Unscaled])).unwrap_err();
        assert_eq!(error.to_string(), "the text has 32 tokens, expected at least 33 for a context of 32");
    }
}
