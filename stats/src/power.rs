//! Power of a design before anything is run: the smallest difference that it is likely to detect; and how well a metric
//! distinguishes models.

use super::components::{QUESTIONS, SEEDS};
use super::mean::moments;
use super::noncentral::noncentral_t_cdf;
use super::{Components, StatsError, normal_quantile, t_quantile};

/// Required significance level and power of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerTarget {
    /// Two-sided significance level of the test.
    pub alpha: f64,
    /// Probability that it rejects if the difference exists.
    pub power: f64,
}

impl Default for PowerTarget {
    /// 5 % and 80 %, as Cohen (1988) proposed.
    fn default() -> Self {
        Self { alpha: 0.05, power: 0.8 }
    }
}

impl PowerTarget {
    fn check(&self) -> Result<(), StatsError> {
        StatsError::require_share("alpha", self.alpha)?;
        StatsError::require_share("the power", self.power)?;
        // A test rejects with probability alpha without any difference.
        if self.power <= self.alpha {
            let expected = "a number above the significance level";
            return Err(StatsError::Value { what: "the power", value: self.power, expected });
        }
        Ok(())
    }
}

/// Probability that a two-sided t-test at `alpha` with `df` degrees of freedom rejects if the difference is `delta`
/// standard errors, by the noncentral t distribution (Cohen 1988, chapter 2).
pub fn power(delta: f64, df: f64, alpha: f64) -> f64 {
    let t = t_quantile(1.0 - alpha / 2.0, df);
    1.0 - noncentral_t_cdf(t, df, delta) + noncentral_t_cdf(-t, df, delta)
}

/// The smallest difference that a t-test detects with the required power if its standard error is `error` with
/// `df` degrees of freedom: the minimum detectable difference (Bloom 1995).
///
/// # Errors
/// If there is fewer than one degree of freedom, the error is not above 0, the level or the power is not between 0 and 1, or
/// the power is not above the level.
pub fn detectable(error: f64, df: f64, target: PowerTarget) -> Result<f64, StatsError> {
    target.check()?;
    if !(error > 0.0 && error.is_finite()) {
        return Err(StatsError::Value {
            what: "the standard error",
            value: error,
            expected: "a number above 0",
        });
    }
    if df.is_nan() || df < 1.0 {
        return Err(StatsError::Value { what: "degrees of freedom", value: df, expected: "1 or more" });
    }
    let (mut low, mut high) = (0.0, 4.0);
    while power(high, df, target.alpha) < target.power {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if power(middle, df, target.alpha) < target.power { low = middle } else { high = middle }
    }
    Ok(0.5 * (low + high) * error)
}

/// The smallest difference between two settings of `seeds` each that Welch's t-test detects, if values have the
/// standard deviation `sd` between seeds on both sides.
///
/// # Errors
/// If there are fewer than two seeds, and as [`detectable`].
pub fn detectable_by_seeds(sd: f64, seeds: usize, target: PowerTarget) -> Result<f64, StatsError> {
    StatsError::require_at_least("a comparison of seeds", "seeds", seeds, 2)?;
    let n = seeds as f64;
    detectable(sd * (2.0 / n).sqrt(), 2.0 * n - 2.0, target)
}

/// The smallest mean difference that a paired t-test detects over `pairs` whose differences have the standard deviation `sd`.
///
/// # Errors
/// If there are fewer than two pairs, and as [`detectable`].
pub fn detectable_by_pairs(sd: f64, pairs: usize, target: PowerTarget) -> Result<f64, StatsError> {
    StatsError::require_at_least("a comparison of pairs", "pairs", pairs, 2)?;
    let n = pairs as f64;
    detectable(sd / n.sqrt(), n - 1.0, target)
}

/// The smallest difference, for other seeds and other questions, that a study of `seeds` and `questions` detects if the
/// differences of paired seeds have the given components, such as those of a pilot (Miller 2024, section 5, with seeds).
///
/// # Errors
/// If there are fewer than four seeds or questions, for which [`Components::mean`] refuses the test, and as [`detectable`].
pub fn detectable_crossed(
    differences: &Components,
    seeds: usize,
    questions: usize,
    target: PowerTarget,
) -> Result<f64, StatsError> {
    let method = "a comparison by seeds and questions";
    StatsError::require_at_least(method, "seeds", seeds, SEEDS)?;
    StatsError::require_at_least(method, "questions", questions, QUESTIONS)?;
    let [seed, question, rest] = differences.variance_with(seeds, questions);
    let (ds, dq) = (seeds as f64 - 1.0, questions as f64 - 1.0);
    let variance = seed + question + rest;
    let spread = (seed + rest).powi(2) / ds + (question + rest).powi(2) / dq + rest.powi(2) / (ds * dq);
    let df = (variance.powi(2) / spread).max(ds.min(dq));
    detectable(variance.sqrt(), df, target)
}

/// The smallest difference of accuracy that McNemar's test of two single models detects over `questions`, if they
/// disagree on a share `disagreement` of them (Connor 1987, equation 2.1, which is slightly optimistic for the exact
/// test).
///
/// # Errors
/// If the required power is not reached even when one model wins every disagreement, or if a number is not a valid share.
pub fn detectable_by_questions(
    disagreement: f64,
    questions: usize,
    target: PowerTarget,
) -> Result<f64, StatsError> {
    target.check()?;
    if !(disagreement > 0.0 && disagreement <= 1.0) {
        let expected = "a share above 0";
        return Err(StatsError::Value { what: "the share of disagreements", value: disagreement, expected });
    }
    let (z, power) = (normal_quantile(1.0 - target.alpha / 2.0), normal_quantile(target.power));
    let n = questions as f64;
    let detects =
        |d: f64| d * n.sqrt() >= z * disagreement.sqrt() + power * (disagreement - d * d).max(0.0).sqrt();
    if !detects(disagreement) {
        let least = (z * z / disagreement).ceil() as usize;
        let method = "McNemar's test with so few disagreements";
        return Err(StatsError::TooFew { method, units: "questions", n: questions, least });
    }
    let (mut low, mut high) = (0.0, disagreement);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if detects(middle) { high = middle } else { low = middle }
    }
    Ok(high)
}

/// How well a metric distinguishes models.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SignalToNoise {
    /// Largest difference of two models' means, divided by the mean of all: the relative dispersion.
    pub signal: f64,
    /// Standard deviation of one model's scores, divided by the same mean.
    pub noise: f64,
    /// Signal over noise: of two metrics, the one with the higher ratio agrees more often with the decisions of larger runs.
    pub ratio: f64,
}

/// Computes the signal-to-noise ratio of a metric (Heineman et al. 2025, section 3) from several scores of each model, of
/// its last checkpoints or of its seeds; the models' variances are pooled.
///
/// # Errors
/// If there are fewer than two models, fewer than two scores of one, a score that is not finite, no
/// model's scores vary, or their mean is 0.
pub fn signal_to_noise(models: &[Vec<f64>]) -> Result<SignalToNoise, StatsError> {
    StatsError::require_at_least("signal-to-noise", "models", models.len(), 2)?;
    for scores in models {
        StatsError::require_at_least("signal-to-noise", "scores of a model", scores.len(), 2)?;
        StatsError::require_finite("a score", scores)?;
    }
    let each: Vec<(f64, f64, f64)> = models
        .iter()
        .map(|scores| {
            let (mean, variance) = moments(scores);
            (mean, variance, scores.len() as f64 - 1.0)
        })
        .collect();
    let mean = each.iter().map(|(mean, ..)| mean).sum::<f64>() / each.len() as f64;
    let df: f64 = each.iter().map(|(_, _, df)| df).sum();
    let sd = (each.iter().map(|(_, variance, df)| variance * df).sum::<f64>() / df).sqrt();
    let ends = each.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), m| (l.min(m.0), h.max(m.0)));
    if sd <= 1e-9 * mean.abs() {
        return Err(StatsError::NoVariance);
    }
    if mean.abs() <= 1e-9 * sd {
        let what = "the mean of all scores";
        return Err(StatsError::Value { what, value: mean, expected: "a number other than 0" });
    }
    let range = ends.1 - ends.0;
    Ok(SignalToNoise { signal: range / mean.abs(), noise: sd / mean.abs(), ratio: range / sd })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check};
    use super::*;

    #[test]
    fn detectable_differences_agree_with_statsmodels() {
        for case in cases("power") {
            let (n, sd) = (case["n"].as_u64().unwrap() as usize, case["sd"].as_f64().unwrap());
            let target = PowerTarget {
                alpha: case["alpha"].as_f64().unwrap(),
                power: case["power"].as_f64().unwrap(),
            };
            let found = match case["paired"].as_bool().unwrap() {
                true => detectable_by_pairs(sd, n, target),
                false => detectable_by_seeds(sd, n, target),
            };
            check(&case, &["detectable"], &[found.unwrap()], 1e-6);
        }
    }

    #[test]
    fn power_is_the_level_without_a_difference() {
        for df in [1.0, 4.0, 30.0] {
            assert!((power(0.0, df, 0.05) - 0.05).abs() < 1e-8);
        }
    }

    #[test]
    fn many_seeds_are_planned_at_once() {
        // scipy.stats.t.ppf.
        for (p, df, t) in [
            (0.975, 1.5e5, 1.959_979_799_807_034_5),
            (0.975, 1e6, 1.959_966_356_814_107),
            (0.9, 2e6, 1.281_551_988_837_126_7),
            (0.975, 2e12, 1.959_963_984_541_240_2),
        ] {
            let found = t_quantile(p, df);
            assert!((found / t - 1.0).abs() < 1e-10, "{found} instead of {t}");
        }
        // 0.01 sqrt(2 / n) times the root of scipy.stats.nct.sf(t, df, x) + nct.cdf(-t, df, x) = 0.8.
        for (seeds, expected) in [
            (100_000, 1.252_911_480_388_501_7e-4),
            (1_000_000, 3.962_036_861_794_487e-5),
            (100_000_000, 3.962_034_978_317_049e-6),
        ] {
            let found = detectable_by_seeds(0.01, seeds, PowerTarget::default()).unwrap();
            assert!((found / expected - 1.0).abs() < 1e-7, "{found} instead of {expected}");
        }
    }

    #[test]
    fn more_seeds_help_until_the_questions_are_what_is_not_known() {
        // Differences of paired seeds: questions that are hard for one setting alone, and almost no variation between seeds.
        let table: Vec<Vec<f64>> = (0..5)
            .map(|s| (0..40).map(|q| f64::from(q % 4) / 10.0 + 0.001 * f64::from(s * q % 7)).collect())
            .collect();
        let found = Components::of(&table).unwrap();
        let of =
            |seeds, questions| detectable_crossed(&found, seeds, questions, PowerTarget::default()).unwrap();
        assert!(of(50, 40) > 0.97 * of(5, 40), "{} {}", of(50, 40), of(5, 40));
        assert!(of(5, 160) < 0.55 * of(5, 40));
        // By normal quantiles 2.8 standard errors of the questions' part alone, a little more by t.
        let error = (found.question / 40.0).sqrt();
        assert!((2.8..3.0).contains(&(of(5, 40) / error)), "{}", of(5, 40) / error);
    }

    #[test]
    fn disagreements_bound_what_questions_can_show() {
        // Connor's formula for the number of questions, at the difference found.
        let d = detectable_by_questions(0.3, 1346, PowerTarget::default()).unwrap();
        let n = (1.959_963_985 * 0.3f64.sqrt() + 0.841_621_234 * (0.3 - d * d).sqrt()).powi(2) / (d * d);
        assert!((n - 1346.0).abs() < 0.01, "{n}");
        let few = detectable_by_questions(0.1, 20, PowerTarget::default()).unwrap_err();
        assert!(matches!(few, StatsError::TooFew { n: 20, least: 39, .. }), "{few}");
        assert!(detectable_by_questions(0.0, 20, PowerTarget::default()).is_err());
    }

    #[test]
    fn a_metric_with_signal_is_told_from_one_without() {
        let found = signal_to_noise(&[vec![1.0, 3.0], vec![4.0, 6.0], vec![9.0, 11.0]]).unwrap();
        // Means 2, 5 and 10; each variance is 2.
        assert!((found.signal - 8.0 / (17.0 / 3.0)).abs() < 1e-12);
        assert!((found.ratio - 8.0 / 2f64.sqrt()).abs() < 1e-12);
        assert!((found.signal / found.noise - found.ratio).abs() < 1e-12);
        assert!(signal_to_noise(&[vec![1.0, 1.0], vec![2.0, 2.0]]).is_err());
        assert!(signal_to_noise(&[vec![1.0, 2.0]]).is_err());
        // Relative to a mean of 0, neither part is defined.
        let zero = signal_to_noise(&[vec![1.0, 3.0], vec![-1.0, -3.0]]).unwrap_err();
        assert!(matches!(zero, StatsError::Value { .. }), "{zero}");
    }

    #[test]
    fn what_cannot_be_planned_is_refused() {
        let target = PowerTarget::default();
        assert!(detectable_by_seeds(1.0, 1, target).is_err());
        assert!(detectable(0.0, 4.0, target).is_err() && detectable(1.0, 0.5, target).is_err());
        assert!(detectable(1.0, 4.0, PowerTarget { power: 1.0, ..target }).is_err());
        let low = detectable_by_seeds(1.0, 5, PowerTarget { power: 0.05, ..target }).unwrap_err();
        assert_eq!(low.to_string(), "the power is 0.05, expected a number above the significance level");
        let pilot = Components::of(&[vec![1.0, 3.0], vec![2.0, 6.0]]).unwrap();
        assert!(
            detectable_crossed(&pilot, 3, 40, target).is_err()
                && detectable_crossed(&pilot, 4, 40, target).is_ok()
        );
    }
}
