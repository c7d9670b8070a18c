//! Losses over pairs of answers, one preferred to the other.
//!
//! *Invariant:* the answers of policy and reference are summed by one function and compared by one formula, in f64,
//! so that equal models have a margin of exactly zero.

use crate::tokens::Sequence;

/// The choice of loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DpoConfig {
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// The squared loss of IPO instead of the sigmoid.
    pub ipo: bool,
    /// Divide each answer's log-probability by its length.
    pub length_normalised: bool,
}

/// What one pair comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairOutcome {
    /// The loss.
    pub loss: f64,
    /// Its derivative by the margin.
    pub slope: f64,
    /// `beta` times the margin of the chosen over the rejected answer, relative to the reference.
    pub reward_margin: f64,
}

/// What one pass over pairs yields.
pub struct DpoOutcome {
    /// The pairs, in order.
    pub pairs: Vec<PairOutcome>,
    /// The gradient of the sum of all losses by the log-probability of each position, `(n,)`.
    pub slopes: Vec<f32>,
}

/// What an answer's log-probability is divided by.
fn divisor(row: &Sequence, config: &DpoConfig) -> f64 {
    if config.length_normalised { f64::from(row.counted).max(1.0) } else { 1.0 }
}

/// The log-probability of an answer; the mean over its tokens where lengths are normalised.
///
/// `log_probs`: those of the positions of `row`, `(len,)`, zero outside the answer. A token that is certain has a
/// log-probability of zero as well: the length is what `row` counts.
pub fn answer_log_prob(log_probs: &[f32], row: &Sequence, config: &DpoConfig) -> f64 {
    log_probs.iter().map(|&l| f64::from(l)).sum::<f64>() / divisor(row, config)
}

/// The preference loss of one pair, from the log-probabilities of its chosen and its rejected answer.
///
/// Sigmoid: `-log sigmoid(beta * margin)` (Rafailov et al. 2023, eq. 7); IPO: `(margin - 1 / (2 beta))^2`
/// (Azar et al. 2023, eq. 17), where `margin` is the difference of log-probabilities, chosen minus rejected,
/// policy minus reference.
pub fn pair_loss(policy: [f64; 2], reference: [f64; 2], config: &DpoConfig) -> PairOutcome {
    let margin = (policy[0] - policy[1]) - (reference[0] - reference[1]);
    let reward_margin = config.beta * margin;
    let (loss, slope) = if config.ipo {
        let off = margin - 0.5 / config.beta;
        (off.powi(2), 2.0 * off)
    } else {
        // log(1 + e^-r) without overflow.
        let loss = (-reward_margin).max(0.0) + (-reward_margin.abs()).exp().ln_1p();
        (loss, -config.beta / (1.0 + reward_margin.exp()))
    };
    PairOutcome { loss, slope, reward_margin }
}

/// The preference loss of each pair of a pass.
///
/// `log_probs`: `(n,)`, zero outside answers; `rows`: the answers of the pass, chosen and rejected in turn;
/// `references`: the reference's [`answer_log_prob`] of both answers of each pair.
pub fn dpo_loss(
    log_probs: &[f32],
    rows: &[&Sequence],
    references: &[[f64; 2]],
    config: &DpoConfig,
) -> DpoOutcome {
    let (mut pairs, mut slopes) = (vec![], Vec::with_capacity(log_probs.len()));
    for (answers, reference) in rows.as_chunks::<2>().0.iter().zip(references) {
        let mut start = slopes.len();
        let policy = answers.map(|row| {
            let span = start..start + row.len();
            start = span.end;
            answer_log_prob(&log_probs[span], row, config)
        });
        let outcome = pair_loss(policy, *reference, config);
        for (row, sign) in answers.iter().zip([1.0, -1.0]) {
            let slope = sign * outcome.slope / divisor(row, config);
            slopes.resize(slopes.len() + row.len(), slope as f32);
        }
        pairs.push(outcome);
    }
    DpoOutcome { pairs, slopes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGMOID: DpoConfig = DpoConfig { beta: 0.5, ipo: false, length_normalised: false };

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
        assert_eq!(outcome(log_probs, DpoConfig { ipo: true, ..SIGMOID }).loss, 0.0);
        // Means -1.25 and -2 against references that are taken as they are: 0.75 - 0.5 = 0.25.
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
            assert!(far.loss.is_finite() && far.slope.is_finite(), "{far:?}");
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        let (chosen, rejected) = ([&answer(3), &answer(1)], [&answer(2), &answer(4)]);
        let rows = [chosen[0], rejected[0], chosen[1], rejected[1]];
        let references = [[-2.0, -2.5], [-1.0, -3.0]];
        let at = [-0.5f32, 0.0, -1.5, -2.0, -0.25, -1.0, -0.5, -0.75, 0.0, -3.0];
        for (ipo, length_normalised) in [(false, false), (false, true), (true, false), (true, true)] {
            let config = DpoConfig { beta: 0.3, ipo, length_normalised };
            let losses = |log_probs: &[f32]| dpo_loss(log_probs, &rows, &references, &config);
            let gradient = losses(&at).slopes;
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
