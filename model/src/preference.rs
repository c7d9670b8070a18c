//! Preference losses over pairs of answers, of which one is chosen and the other rejected.
//!
//! *Invariant:* the same function sums the log-probabilities of policy and reference, and one formula compares them, in
//! f64, so that equal models have a margin of exactly zero.

use crate::tokens::Sequence;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Preference loss: a function of `margin`, the difference of log-probabilities, chosen minus rejected, policy minus
/// reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// `-log sigmoid(beta * margin)` (Rafailov et al. 2023, eq. 7).
    Sigmoid,
    /// `(margin - 1 / (2 beta))^2` (Azar et al. 2023, eq. 17).
    Ipo,
}

impl PreferenceLoss {
    /// Returns the loss and its derivative with respect to the margin.
    fn at(self, margin: f64, beta: f64) -> (f64, f64) {
        match self {
            Self::Sigmoid => {
                let reward_margin = beta * margin;
                // log(1 + e^-r), computed without overflow.
                let loss = (-reward_margin).max(0.0) + (-reward_margin.abs()).exp().ln_1p();
                (loss, -beta / (1.0 + reward_margin.exp()))
            }
            Self::Ipo => {
                let off = margin - 0.5 / beta;
                (off.powi(2), 2.0 * off)
            }
        }
    }
}

/// Configuration of the preference loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DpoConfig {
    /// Strength of the regularisation towards the reference model.
    pub beta: f64,
    /// The loss.
    pub loss: PreferenceLoss,
    /// Whether to divide the log-probability of each answer by its length in tokens.
    pub length_normalised: bool,
}

/// Loss of one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairOutcome {
    /// Value of the loss.
    pub loss: f64,
    /// Derivative of the loss with respect to the margin.
    pub d_margin: f64,
    /// `beta` times the log-probability margin of the chosen over the rejected answer, relative to the reference.
    pub reward_margin: f64,
}

/// Losses of the pairs of one pass and their gradient.
pub struct DpoOutcome {
    /// Losses of the pairs, in order.
    pub pairs: Vec<PairOutcome>,
    /// Gradient of the sum of all losses with respect to the log-probability of each position, `(n,)`.
    pub d_log_probs: Vec<f32>,
}

/// Returns the divisor of the log-probability of an answer.
fn divisor(row: &Sequence, config: &DpoConfig) -> f64 {
    if config.length_normalised { f64::from(row.counted).max(1.0) } else { 1.0 }
}

/// Returns the log-probability of an answer, or its mean over the tokens if lengths are normalised.
///
/// `log_probs`: those of the positions of `row`, `(len,)`, zero outside the answer. Because a token that is certain also has
/// a log-probability of zero, the length is `row.counted`.
pub fn answer_log_prob(log_probs: &[f32], row: &Sequence, config: &DpoConfig) -> f64 {
    log_probs.iter().map(|&l| f64::from(l)).sum::<f64>() / divisor(row, config)
}

/// Computes the preference loss of one pair from the log-probabilities `[chosen, rejected]` under policy and reference.
pub fn pair_loss(policy: [f64; 2], reference: [f64; 2], config: &DpoConfig) -> PairOutcome {
    let margin = (policy[0] - policy[1]) - (reference[0] - reference[1]);
    let (loss, d_margin) = config.loss.at(margin, config.beta);
    PairOutcome { loss, d_margin, reward_margin: config.beta * margin }
}

/// Computes the preference loss of each pair of a pass.
///
/// `log_probs`: `(n,)`, zero outside answers; `rows`: the answers of the pass, chosen and rejected alternating;
/// `references`: [`answer_log_prob`] of both answers of each pair under the reference.
pub fn dpo_loss(
    log_probs: &[f32],
    rows: &[&Sequence],
    references: &[[f64; 2]],
    config: &DpoConfig,
) -> DpoOutcome {
    let (mut pairs, mut d_log_probs) = (vec![], Vec::with_capacity(log_probs.len()));
    for (answers, reference) in rows.as_chunks::<2>().0.iter().zip(references) {
        let mut start = d_log_probs.len();
        let policy = answers.map(|row| {
            let span = start..start + row.len();
            start = span.end;
            answer_log_prob(&log_probs[span], row, config)
        });
        let outcome = pair_loss(policy, *reference, config);
        for (row, sign) in answers.iter().zip([1.0, -1.0]) {
            let d_log_prob = sign * outcome.d_margin / divisor(row, config);
            d_log_probs.resize(d_log_probs.len() + row.len(), d_log_prob as f32);
        }
        pairs.push(outcome);
    }
    DpoOutcome { pairs, d_log_probs }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGMOID: DpoConfig =
        DpoConfig { beta: 0.5, loss: PreferenceLoss::Sigmoid, length_normalised: false };

    /// An answer that fills its row.
    fn answer(len: usize) -> Sequence {
        Sequence { weights: vec![1.0; len], counted: len as f32, ..Sequence::document(&vec![0; len]) }
    }

    fn outcome(log_probs: [f32; 4], config: DpoConfig) -> PairOutcome {
        let rows = [&answer(2), &answer(2)];
        dpo_loss(&log_probs, &rows, &[[-3.0, -3.5]], &config).pairs[0]
    }

    #[test]
    fn losses_follow_the_papers() {
        // Chosen -1 - 1.5, rejected -2 - 2: margin (-2.5 + 4) - (-3 + 3.5) = 1.
        let log_probs = [-1.0, -1.5, -2.0, -2.0];
        let sigmoid = outcome(log_probs, SIGMOID);
        assert_eq!(sigmoid.reward_margin, 0.5);
        assert!((sigmoid.loss - (1.0 + (-0.5f64).exp()).ln()).abs() < 1e-15);
        // Margin 1 equals 1 / (2 beta).
        assert_eq!(outcome(log_probs, DpoConfig { loss: PreferenceLoss::Ipo, ..SIGMOID }).loss, 0.0);
        // The means are -1.25 and -2; the references are not divided again: 0.75 - 0.5 = 0.25.
        let normalised = outcome(log_probs, DpoConfig { length_normalised: true, ..SIGMOID });
        assert_eq!(normalised.reward_margin, 0.125);
    }

    #[test]
    fn a_certain_token_counts_in_the_length() {
        let config = DpoConfig { length_normalised: true, ..SIGMOID };
        assert_eq!(answer_log_prob(&[-3.0, 0.0, 0.0], &answer(3), &config), -1.0);
        // Means -0.5 and -2.
        assert_eq!(outcome([-1.0, 0.0, -2.0, -2.0], config).reward_margin, 0.5 * (1.5 - 0.5));
    }

    #[test]
    fn large_margins_do_not_overflow() {
        let config = DpoConfig { beta: 1.0, ..SIGMOID };
        for far in [-5000.0, 5000.0] {
            let far = outcome([far, 0.0, 0.0, 0.0], config);
            assert!(far.loss.is_finite() && far.d_margin.is_finite(), "{far:?}");
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (chosen, rejected) = ([&answer(3), &answer(1)], [&answer(2), &answer(4)]);
        let rows = [chosen[0], rejected[0], chosen[1], rejected[1]];
        let references = [[-2.0, -2.5], [-1.0, -3.0]];
        let at = [-0.5f32, 0.0, -1.5, -2.0, -0.25, -1.0, -0.5, -0.75, 0.0, -3.0];
        let both =
            [PreferenceLoss::Sigmoid, PreferenceLoss::Ipo].map(|loss| [false, true].map(|each| (loss, each)));
        for (loss, length_normalised) in both.into_iter().flatten() {
            let config = DpoConfig { beta: 0.3, loss, length_normalised };
            let losses = |log_probs: &[f32]| dpo_loss(log_probs, &rows, &references, &config);
            let gradient = losses(&at).d_log_probs;
            for i in 0..at.len() {
                let moved = |by: f32| {
                    let mut log_probs = at;
                    log_probs[i] += by;
                    losses(&log_probs).pairs.iter().map(|pair| pair.loss).sum::<f64>()
                };
                let h = 1.0 / 64.0; // exact in f32
                let want = (moved(h) - moved(-h)) / f64::from(2.0 * h);
                let off = (f64::from(gradient[i]) - want).abs();
                assert!(off < 1e-5, "{config:?} {i}: {} instead of {want}", gradient[i]);
            }
        }
    }
}
