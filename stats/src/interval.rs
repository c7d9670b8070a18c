//! Confidence intervals of shares and of their differences.

use super::{Estimate, StatsError, normal_quantile};
use statrs::distribution::{Beta, ContinuousCDF};

/// Wilson's interval of a share (Wilson 1927): always within 0 to 1, with coverage near its level on average for any
/// number of independent answers.
///
/// # Errors
/// If there are more correct answers than questions, no questions, or the level is not between 0 and 1.
pub fn wilson(correct: u64, n: u64, level: f64) -> Result<Estimate, StatsError> {
    checked(correct, n, level)?;
    let (low, high) = wilson_of_share(correct as f64 / n as f64, n, level);
    Ok(Estimate { value: correct as f64 / n as f64, low, high, level, n: n as usize, df: None })
}

/// Wilson's 95 % interval of a share; 0 to 1 without questions.
pub fn wilson95(correct: u64, n: u64) -> (f64, f64) {
    wilson_of_share(correct as f64 / n as f64, n, 0.95)
}

/// Wilson's interval of a share of `n` questions, which may be a mean of several shares; 0 to 1 without questions.
pub fn wilson_of_share(share: f64, n: u64, level: f64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z) = (n as f64, share, normal_quantile(0.5 + level / 2.0));
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// The exact interval of a share (Clopper & Pearson 1934): its coverage is at least its level for every true share, at
/// the cost of greater width.
///
/// # Errors
/// As [`wilson`].
pub fn clopper_pearson(correct: u64, n: u64, level: f64) -> Result<Estimate, StatsError> {
    checked(correct, n, level)?;
    let (k, m, tail) = (correct as f64, n as f64, (1.0 - level) / 2.0);
    let quantile = |a: f64, b: f64, p: f64| Beta::new(a, b).map_or(f64::NAN, |beta| beta.inverse_cdf(p));
    let low = if correct == 0 { 0.0 } else { quantile(k, m - k + 1.0, tail) };
    let high = if correct == n { 1.0 } else { quantile(k + 1.0, m - k, 1.0 - tail) };
    Ok(Estimate { value: k / m, low, high, level, n: n as usize, df: None })
}

/// The interval of a difference of two independent shares, `a - b`, each given as numbers of correct answers and of
/// questions: Newcombe's hybrid of both Wilson intervals (Newcombe 1998, method 10).
///
/// # Errors
/// As [`wilson`].
pub fn difference_of_shares(a: (u64, u64), b: (u64, u64), level: f64) -> Result<Estimate, StatsError> {
    let (first, second) = (wilson(a.0, a.1, level)?, wilson(b.0, b.1, level)?);
    let value = first.value - second.value;
    let half = |x: f64, y: f64| x.hypot(y);
    Ok(Estimate {
        value,
        low: value - half(first.value - first.low, second.high - second.value),
        high: value + half(first.high - first.value, second.value - second.low),
        level,
        n: (a.1 + b.1) as usize,
        df: None,
    })
}

/// The interval of a difference of shares over the same `n` questions, of which only the first model answers `only_a`
/// correctly and only the second `only_b`: Wald's with half a question added to each of the four outcomes (Bonett & Price
/// 2012; among those that Fagerland, Lydersen & Laake 2014 recommend).
///
/// # Errors
/// If `only_a + only_b` exceeds `n`, there are no questions, or the level is not between 0 and 1.
pub fn difference_of_paired_shares(
    only_a: u64,
    only_b: u64,
    n: u64,
    level: f64,
) -> Result<Estimate, StatsError> {
    checked(only_a.saturating_add(only_b), n, level)?;
    let of = |count: u64| (count as f64 + 1.0) / (n as f64 + 2.0);
    let (p, q) = (of(only_a), of(only_b));
    let half = normal_quantile(0.5 + level / 2.0) * ((p + q - (p - q).powi(2)) / (n as f64 + 2.0)).sqrt();
    let (low, high) = ((p - q - half).max(-1.0), (p - q + half).min(1.0));
    let value = (only_a as f64 - only_b as f64) / n as f64;
    Ok(Estimate { value, low, high, level, n: n as usize, df: None })
}

fn checked(correct: u64, n: u64, level: f64) -> Result<(), StatsError> {
    StatsError::require_at_least("an interval of a share", "questions", n as usize, 1)?;
    StatsError::require_share("the level", level)?;
    if correct > n {
        let expected = "at most the number of questions";
        return Err(StatsError::Value {
            what: "the number of correct answers",
            value: correct as f64,
            expected,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, whole};
    use super::*;

    #[test]
    fn intervals_of_shares_agree_with_statsmodels() {
        for (name, tolerance) in [("wilson", 1e-12), ("clopper_pearson", 1e-9)] {
            for case in cases(name) {
                let [correct, n] = ["correct", "n"].map(|key| whole(&case[key]));
                let level = case["level"].as_f64().unwrap();
                let of = if name == "wilson" { wilson } else { clopper_pearson };
                let found = of(correct, n, level).unwrap();
                check(&case, &["low", "high"], &[found.low, found.high], tolerance);
            }
        }
    }

    #[test]
    fn differences_agree_with_statsmodels() {
        for case in cases("newcombe") {
            let [a, n, b, m] = ["a", "n_a", "b", "n_b"].map(|key| whole(&case[key]));
            let found = difference_of_shares((a, n), (b, m), 0.95).unwrap();
            check(&case, &["low", "high"], &[found.low, found.high], 1e-9);
        }
    }

    #[test]
    fn paired_differences_follow_the_formula() {
        // Of 100, 15 are correct by a alone and 5 by b alone: p = 16 / 102, q = 6 / 102.
        let found = difference_of_paired_shares(15, 5, 100, 0.95).unwrap();
        let half = 1.959_963_984_540_054 * ((22.0 / 102.0 - (10.0f64 / 102.0).powi(2)) / 102.0).sqrt();
        assert_eq!(found.value, 0.1);
        assert!((found.low - (10.0 / 102.0 - half)).abs() < 1e-12);
        assert!((found.high - (10.0 / 102.0 + half)).abs() < 1e-12);
        // A model against itself: no difference, and still an interval of positive width.
        let same = difference_of_paired_shares(0, 0, 100, 0.95).unwrap();
        assert!(same.value == 0.0 && same.low < 0.0 && (same.low + same.high).abs() < 1e-12);
    }

    #[test]
    fn wilson_follows_the_published_table() {
        // Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
        let (low, high) = wilson95(81, 263);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
        let (low, high) = wilson95(0, 20);
        assert!(low.abs() < 1e-9 && (high - 0.1611).abs() < 5e-5, "{low} {high}");
        assert_eq!(wilson95(0, 0), (0.0, 1.0));
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert!(wilson(3, 2, 0.95).is_err() && wilson(0, 0, 0.95).is_err() && wilson(1, 2, 1.0).is_err());
        assert!(clopper_pearson(3, 2, 0.95).is_err());
        assert!(difference_of_paired_shares(3, 3, 5, 0.95).is_err());
    }
}
