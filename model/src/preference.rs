//! Losses over pairs of answers, one preferred to the other, in ordinary candle operations.

use crate::Result;
use candle_core::{DType, Tensor};

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

/// What one pass over pairs yields.
pub struct DpoOutcome {
    /// Loss of each pair, `(pairs,)`, part of the graph.
    pub losses: Tensor,
    /// `beta` times the margin of the chosen over the rejected answer, relative to the reference.
    pub reward_margins: Vec<f32>,
}

/// The preference loss of each pair.
///
/// Sigmoid: `-log sigmoid(beta * margin)` (Rafailov et al. 2023, eq. 7); IPO: `(margin - 1 / (2 beta))^2`
/// (Azar et al. 2023, eq. 17), where `margin` is the difference of log-probabilities, chosen minus rejected,
/// policy minus reference.
///
/// `log_probs`: `(n,)`, zero outside answers; `rows`: offsets of the answers, chosen and rejected in turn,
/// `(2 pairs + 1,)`; `references`: the reference's log-probability of each answer, `(2 pairs,)`, already
/// normalised where lengths are.
pub fn dpo_loss(
    log_probs: &Tensor,
    rows: &[usize],
    references: &[f32],
    config: &DpoConfig,
) -> Result<DpoOutcome> {
    let (pairs, device) = (rows.len() / 2, log_probs.device());
    let nonzero = if config.length_normalised {
        log_probs.ne(0.0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?
    } else {
        vec![]
    };
    // One row per pair: +1 over the chosen answer, -1 over the rejected one, divided by length where asked.
    let mut signs = vec![0.0f32; pairs * log_probs.elem_count()];
    for (pair, signs) in signs.chunks_exact_mut(log_probs.elem_count()).enumerate() {
        for (row, sign) in [(2 * pair, 1.0), (2 * pair + 1, -1.0)] {
            let span = rows[row]..rows[row + 1];
            let length = if config.length_normalised {
                nonzero[span.clone()].iter().sum::<f32>().max(1.0)
            } else {
                1.0
            };
            signs[span].fill(sign / length);
        }
    }
    let signs = Tensor::from_vec(signs, (pairs, log_probs.elem_count()), device)?;
    let reference: Vec<f32> = references.chunks_exact(2).map(|r| r[0] - r[1]).collect();
    let margins = (signs.matmul(&log_probs.unsqueeze(1)?)?.squeeze(1)? - Tensor::new(reference, device)?)?;
    let losses = if config.ipo {
        (&margins - 1.0 / (2.0 * config.beta))?.sqr()?
    } else {
        softplus(&(&margins * -config.beta)?)?
    };
    let reward_margins = (margins.detach() * config.beta)?.to_vec1::<f32>()?;
    Ok(DpoOutcome { losses, reward_margins })
}

/// `log(1 + e^x)` without overflow: `max(x, 0) + log(1 + e^-|x|)`.
fn softplus(x: &Tensor) -> Result<Tensor> {
    Ok((x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn outcome(log_probs: [f32; 4], config: DpoConfig) -> (f32, f32) {
        let log_probs = Tensor::new(&log_probs, &Device::Cpu).unwrap();
        let outcome = dpo_loss(&log_probs, &[0, 2, 4], &[-3.0, -3.5], &config).unwrap();
        (outcome.losses.to_vec1::<f32>().unwrap()[0], outcome.reward_margins[0])
    }

    #[test]
    fn losses_follow_the_papers() {
        // Chosen -1 - 1.5, rejected -2 - 2: margin (-2.5 + 4) - (-3 + 3.5) = 1.
        let log_probs = [-1.0, -1.5, -2.0, -2.0];
        let sigmoid = DpoConfig { beta: 0.5, ipo: false, length_normalised: false };
        let (loss, margin) = outcome(log_probs, sigmoid);
        assert!((margin - 0.5).abs() < 1e-6);
        assert!((loss - (1.0 + (-0.5f32).exp()).ln()).abs() < 1e-6);
        let (loss, _) = outcome(log_probs, DpoConfig { ipo: true, ..sigmoid });
        assert!(loss.abs() < 1e-6, "margin 1 equals 1 / (2 beta)");
        // Means -1.25 and -2 against references that are taken as they are: 0.75 - 0.5 = 0.25.
        let (_, margin) = outcome(log_probs, DpoConfig { length_normalised: true, ..sigmoid });
        assert!((margin - 0.125).abs() < 1e-6);
    }

    #[test]
    fn large_margins_do_not_overflow() {
        let config = DpoConfig { beta: 1.0, ipo: false, length_normalised: false };
        assert!(outcome([-500.0, 0.0, 0.0, 0.0], config).0.is_finite());
    }
}
