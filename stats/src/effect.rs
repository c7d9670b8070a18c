//! Effect sizes with their intervals.

use super::mean::moments;
use super::noncentral::noncentrality;
use super::{Estimate, StatsError, normal_quantile};
use statrs::function::gamma::ln_gamma;

/// Hedges' g: the difference of the means of two independent samples in units of their pooled standard deviation,
/// corrected for small samples (Hedges 1981, equations 6e and 4), with the exact interval by the noncentral t distribution
/// (Steiger & Fouladi 1997) under the same correction.
///
/// Assumes normal values with equal variance on both sides.
///
/// # Errors
/// If there are fewer than two values on a side, a value that is not finite, the values do not vary, or the level is not
/// between 0 and 1.
pub fn hedges_g(a: &[f64], b: &[f64], level: f64) -> Result<Estimate, StatsError> {
    StatsError::require_finite("a value", a)?;
    StatsError::require_finite("a value", b)?;
    StatsError::require_at_least("Hedges' g", "values", a.len().min(b.len()), 2)?;
    let (na, nb) = (a.len() as f64, b.len() as f64);
    let ((mean_a, var_a), (mean_b, var_b)) = (moments(a), moments(b));
    let df = na + nb - 2.0;
    let sd = (((na - 1.0) * var_a + (nb - 1.0) * var_b) / df).sqrt();
    let size = a.iter().chain(b).fold(0.0f64, |size, value| size.max(value.abs()));
    standardised(mean_a - mean_b, sd, size, df, 1.0 / na + 1.0 / nb, a.len() + b.len(), level)
}

/// The mean of differences in units of their standard deviation (Cohen's d_z; Lakens 2013, equation 6), with the same
/// correction and interval as [`hedges_g`] for `n - 1` degrees of freedom.
///
/// Assumes normal differences.
///
/// # Errors
/// If there are fewer than three differences, one that is not finite, the differences do not vary, or the level is not
/// between 0 and 1.
pub fn hedges_g_of_pairs(differences: &[f64], level: f64) -> Result<Estimate, StatsError> {
    StatsError::require_finite("a difference", differences)?;
    StatsError::require_at_least("Hedges' g of pairs", "pairs", differences.len(), 3)?;
    let n = differences.len() as f64;
    let (mean, variance) = moments(differences);
    let size = differences.iter().fold(0.0f64, |size, value| size.max(value.abs()));
    standardised(mean, variance.sqrt(), size, n - 1.0, 1.0 / n, differences.len(), level)
}

/// A standardised mean with its interval. `share` is the variance of the mean relative to that of one value; `size` is the
/// largest absolute value, to recognise a standard deviation that is only rounding.
fn standardised(
    mean: f64,
    sd: f64,
    size: f64,
    df: f64,
    share: f64,
    n: usize,
    level: f64,
) -> Result<Estimate, StatsError> {
    StatsError::require_share("the level", level)?;
    if sd <= 1e-9 * size {
        return Err(StatsError::NoVariance);
    }
    let (unit, tail) = (share.sqrt(), (1.0 - level) / 2.0);
    let t = mean / sd / unit;
    let correction = small_sample(df);
    let bound = |p: f64| correction * unit * noncentrality(t, df, p);
    let (low, high) = (bound(1.0 - tail), bound(tail));
    Ok(Estimate { value: correction * mean / sd, low, high, level, n, df: Some(df) })
}

/// The factor that makes a standardised difference unbiased (Hedges 1981, equation 6e).
fn small_sample(df: f64) -> f64 {
    (ln_gamma(df / 2.0) - ln_gamma((df - 1.0) / 2.0)).exp() / (df / 2.0).sqrt()
}

/// Cohen's h: the difference of two independent shares on the variance-stabilising scale,
/// `2 asin sqrt(a) - 2 asin sqrt(b)` (Cohen 1988, equation 6.2.1), with the normal interval on that scale. Each share is
/// given as numbers of correct answers and of questions.
///
/// # Errors
/// If there are no questions, more correct answers than questions, or the level is not between 0 and 1.
pub fn cohens_h(a: (u64, u64), b: (u64, u64), level: f64) -> Result<Estimate, StatsError> {
    StatsError::require_share("the level", level)?;
    for (correct, n) in [a, b] {
        StatsError::require_at_least("Cohen's h", "questions", n as usize, 1)?;
        if correct > n {
            let (what, expected) = ("the number of correct answers", "at most the number of questions");
            return Err(StatsError::Value { what, value: correct as f64, expected });
        }
    }
    let angle = |(correct, n): (u64, u64)| 2.0 * (correct as f64 / n as f64).sqrt().asin();
    let value = angle(a) - angle(b);
    let half = normal_quantile(0.5 + level / 2.0) * (1.0 / a.1 as f64 + 1.0 / b.1 as f64).sqrt();
    let n = (a.1 + b.1) as usize;
    Ok(Estimate { value, low: value - half, high: value + half, level, n, df: None })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, numbers, whole};
    use super::*;

    #[test]
    fn standardised_differences_agree_with_scipy() {
        for case in cases("hedges_g") {
            let found = hedges_g(&numbers(&case["a"]), &numbers(&case["b"]), 0.95).unwrap();
            check(&case, &["value", "low", "high"], &[found.value, found.low, found.high], 1e-6);
        }
        for case in cases("hedges_g_of_pairs") {
            let found = hedges_g_of_pairs(&numbers(&case["differences"]), 0.95).unwrap();
            check(&case, &["value", "low", "high"], &[found.value, found.low, found.high], 1e-6);
        }
    }

    #[test]
    fn cohens_h_agrees_with_statsmodels() {
        for case in cases("cohens_h") {
            let [a, n, b, m] = ["a", "n_a", "b", "n_b"].map(|key| whole(&case[key]));
            let found = cohens_h((a, n), (b, m), 0.95).unwrap();
            check(&case, &["value", "low", "high"], &[found.value, found.low, found.high], 1e-9);
        }
    }

    #[test]
    fn effects_without_spread_are_refused() {
        assert_eq!(hedges_g(&[1.0, 1.0], &[2.0, 2.0], 0.95), Err(StatsError::NoVariance));
        assert!(hedges_g(&[1.0], &[2.0, 3.0], 0.95).is_err());
        assert!(hedges_g_of_pairs(&[1.0, 2.0], 0.95).is_err());
        assert!(cohens_h((2, 1), (1, 1), 0.95).is_err());
    }
}
