//! Answers to multiple-choice questions: calibration, agreement, and probabilities without the prior of letters.

use super::StatsError;
use serde::Serialize;

/// How well confidences match accuracies.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Expected calibration error: the mean over answers of |accuracy - confidence| of their bin.
    pub ece: f64,
    /// Bins of equal width from 0 to 1, without the empty ones.
    pub bins: Vec<Reliability>,
}

/// A bin of a reliability diagram: answers whose confidence is above `low` and at most `high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reliability {
    /// Lower end, exclusive.
    pub low: f64,
    /// Upper end, inclusive.
    pub high: f64,
    /// Number of answers.
    pub n: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// Share of correct ones.
    pub accuracy: f64,
}

/// Returns the expected calibration error and its bins (Guo et al. 2017, "On Calibration of Modern Neural Networks",
/// section 2 and equation 3). Each answer has a confidence from 0 to 1 and whether it is correct; 0 is in the first bin.
///
/// # Errors
/// If there are no answers or no bins, if the slices differ in length, or if a confidence is not finite.
pub fn calibration(confidences: &[f64], right: &[bool], bins: usize) -> Result<Calibration, StatsError> {
    StatsError::require_at_least("calibration", "answers", right.len(), 1)?;
    StatsError::require_at_least("calibration", "bins", bins, 1)?;
    StatsError::require_equal_length("confidences", confidences.len(), right.len())?;
    StatsError::require_finite("confidence", confidences)?;
    let bin_of = |confidence: f64| ((confidence * bins as f64).ceil() as usize).clamp(1, bins) - 1;
    let mut found = vec![];
    for bin in 0..bins {
        let inside: Vec<usize> = (0..right.len()).filter(|&i| bin_of(confidences[i]) == bin).collect();
        if inside.is_empty() {
            continue;
        }
        found.push(Reliability {
            low: bin as f64 / bins as f64,
            high: (bin + 1) as f64 / bins as f64,
            n: inside.len(),
            confidence: mean_of(inside.iter().map(|&i| confidences[i])),
            accuracy: mean_of(inside.iter().map(|&i| f64::from(u8::from(right[i])))),
        });
    }
    let n = right.len() as f64;
    let ece = found.iter().map(|bin| bin.n as f64 / n * (bin.accuracy - bin.confidence).abs()).sum();
    Ok(Calibration { ece, bins: found })
}

/// Agreement of two models' answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Number of questions.
    pub n: usize,
    /// Share of equal answers.
    pub equal: f64,
    /// Cohen's kappa: `(equal - expected) / (1 - expected)`, where `expected` is the agreement by chance, given how often
    /// each model gives each answer (Cohen 1960); NaN if both give one and the same answer to all questions.
    pub kappa: f64,
}

/// Returns the share of equal answers and Cohen's kappa of two series of answers to the same questions.
///
/// # Errors
/// If there are no answers, or if the slices differ in length.
pub fn agreement(a: &[u8], b: &[u8]) -> Result<Agreement, StatsError> {
    StatsError::require_at_least("agreement", "questions", a.len(), 1)?;
    StatsError::require_equal_length("answers", b.len(), a.len())?;
    let n = a.len() as f64;
    let mut counts = [[0.0; 2]; 256];
    for (&a, &b) in a.iter().zip(b) {
        counts[usize::from(a)][0] += 1.0;
        counts[usize::from(b)][1] += 1.0;
    }
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / n;
    let expected: f64 = counts.iter().map(|[a, b]| a * b / (n * n)).sum();
    Ok(Agreement { n: a.len(), equal, kappa: (equal - expected) / (1.0 - expected) })
}

/// Removes the prior of letters from the probabilities of options: those of each question, as shares of their sum, are
/// divided by their means over all questions, which are of one subject, and normalised to sum to 1 again.
///
/// Dividing the observed distribution by a prior of the letters follows PriDe (Zheng et al. 2024, "Large Language
/// Models Are Not Robust Multiple Choice Selectors"), which estimates the prior by permuting the options of some questions.
/// Estimating it from the answers to all questions, without their key, follows Batch Calibration (Zhou et al. 2024, "Batch
/// Calibration: Rethinking Calibration for In-Context Learning and Prompt Engineering"), which shifts scores by their
/// means instead. All questions have the same number of options; one whose probabilities are all 0 is left as it is.
pub fn without_prior(questions: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let of_sum: Vec<Vec<f64>> = questions.iter().map(|of| shares(of)).collect();
    let options = of_sum.first().map_or(0, Vec::len);
    let prior: Vec<f64> = (0..options).map(|i| mean_of(of_sum.iter().map(|of| of[i]))).collect();
    let free = |of: &Vec<f64>| {
        let over = |(p, prior): (&f64, &f64)| if *prior > 0.0 { p / prior } else { 0.0 };
        shares(&of.iter().zip(&prior).map(over).collect::<Vec<_>>())
    };
    of_sum.iter().map(free).collect()
}

/// Returns numbers as shares of their sum, or unchanged if it is 0.
pub fn shares(of: &[f64]) -> Vec<f64> {
    let sum: f64 = of.iter().sum();
    of.iter().map(|p| if sum > 0.0 { p / sum } else { *p }).collect()
}

fn mean_of(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, check_all, numbers, whole};
    use super::*;

    #[test]
    fn agreement_is_that_of_statsmodels() {
        for case in cases("cohens_kappa") {
            let of = |name: &str| case[name].as_str().unwrap().as_bytes().to_vec();
            let found = agreement(&of("a"), &of("b")).unwrap();
            check(&case, &["equal", "kappa"], &[found.equal, found.kappa], 1e-12);
        }
        assert!(agreement(b"AAA", b"AAA").unwrap().kappa.is_nan());
        assert!(agreement(b"", b"").is_err() && agreement(b"A", b"AB").is_err());
    }

    #[test]
    fn calibration_is_that_of_numpy() {
        for case in cases("calibration") {
            let right: Vec<bool> = numbers(&case["right"]).iter().map(|right| *right == 1.0).collect();
            let found =
                calibration(&numbers(&case["confidences"]), &right, whole(&case["bins"]) as usize).unwrap();
            check(&case, &["ece"], &[found.ece], 1e-12);
            for (name, of) in [
                ("confidence", found.bins.iter().map(|bin| bin.confidence).collect::<Vec<_>>()),
                ("accuracy", found.bins.iter().map(|bin| bin.accuracy).collect()),
                ("n", found.bins.iter().map(|bin| bin.n as f64).collect()),
            ] {
                check_all(&of, &numbers(&case[name]), 1e-12);
            }
        }
        // By hand: two answers at 0.9, one of them correct; one at 0.3, wrong.
        let found = calibration(&[0.9, 0.9, 0.3], &[true, false, false], 10).unwrap();
        assert!((found.ece - (2.0 * 0.4 + 0.3) / 3.0).abs() < 1e-12);
        assert!(calibration(&[], &[], 10).is_err() && calibration(&[0.5], &[], 10).is_err());
        assert!(calibration(&[f64::NAN], &[true], 10).is_err());
    }

    #[test]
    fn a_prior_is_divided_out() {
        // By hand: the shares are (0.8, 0.2) and (0.6, 0.4), with mean (0.7, 0.3).
        let found = without_prior(&[vec![0.4, 0.1], vec![0.3, 0.2]]);
        let first = [0.8 / 0.7, 0.2 / 0.3];
        let sum = first[0] + first[1];
        assert!((found[0][0] - first[0] / sum).abs() < 1e-12 && (found[0][1] - first[1] / sum).abs() < 1e-12);
        // Both prefer A; the second does so less than average, and comes to prefer B.
        assert!(found[1][1] > found[1][0] && found[0][0] > found[0][1]);
        assert_eq!(without_prior(&[vec![0.0, 0.0]]), [[0.0, 0.0]]);
    }
}
