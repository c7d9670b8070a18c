//! Means with their standard errors and degrees of freedom: the t family, from which intervals, tests and equivalence
//! tests all follow.

use super::{Estimate, StatsError, TestResult, t_quantile, t_tail};

/// The arithmetic mean; NaN for an empty slice.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// A mean, or a difference of means, for which `(value - truth) / error` follows Student's t.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of the error; fractional if they are approximated.
    pub df: f64,
    /// Number of units that it rests on: values, pairs or clusters; of two samples both together.
    pub n: usize,
}

/// The result of an equivalence test: whether a mean is within a margin of 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Equivalence {
    /// The interval at level `1 - 2 alpha`, which lies within the margin if the means are equivalent.
    pub interval: Estimate,
    /// The test that the mean is above `-margin`.
    pub above: TestResult,
    /// The test that the mean is below `margin`.
    pub below: TestResult,
    /// The larger of both p-values, of the null hypothesis of no equivalence.
    pub p: f64,
}

/// Differences below this share of the values' size are attributed to rounding.
const ROUNDING: f64 = 1e-9;

impl Mean {
    /// The mean of independent values (Student 1908): `n - 1` degrees of freedom.
    ///
    /// Assumes values from one normal distribution, or a large sample.
    ///
    /// # Errors
    /// If there are fewer than two values, one that is not finite, or the values do not vary.
    pub fn of(values: &[f64]) -> Result<Self, StatsError> {
        let size = values.iter().fold(0.0f64, |size, value| size.max(value.abs()));
        Self::of_size("t", "values", values, size)
    }

    /// The mean of the differences `a - b` of pairs: what both values of a pair share cancels.
    ///
    /// Assumes independent pairs whose differences are normal, or a large sample.
    ///
    /// # Errors
    /// As [`Mean::of`], and if the slices differ in length.
    pub fn of_pairs(a: &[f64], b: &[f64]) -> Result<Self, StatsError> {
        StatsError::require_equal_length("b", b.len(), a.len())?;
        let size = a.iter().chain(b).fold(0.0f64, |size, value| size.max(value.abs()));
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        Self::of_size("paired t", "pairs", &differences, size)
    }

    fn of_size(
        method: &'static str,
        units: &'static str,
        values: &[f64],
        size: f64,
    ) -> Result<Self, StatsError> {
        StatsError::require_finite("a value", values)?;
        StatsError::require_at_least(method, units, values.len(), 2)?;
        let n = values.len() as f64;
        let (value, variance) = moments(values);
        if variance.sqrt() <= ROUNDING * size {
            return Err(StatsError::NoVariance);
        }
        Ok(Self { value, error: (variance / n).sqrt(), df: n - 1.0, n: values.len() })
    }

    /// The difference of the means of two independent samples, `a - b`, whose variances may differ (Welch 1947), with
    /// the degrees of freedom of Satterthwaite (1946).
    ///
    /// # Errors
    /// If there are fewer than two values on a side, two against more (for which the test rejects up to twice as often as its
    /// level says), a value that is not finite, or neither side varies.
    pub fn of_difference(a: &[f64], b: &[f64]) -> Result<Self, StatsError> {
        StatsError::require_finite("a value", a)?;
        StatsError::require_finite("a value", b)?;
        let (fewer, more) = (a.len().min(b.len()), a.len().max(b.len()));
        StatsError::require_at_least("Welch's t", "values", fewer, 2)?;
        if more > fewer {
            StatsError::require_at_least("Welch's t against a larger sample", "values", fewer, 3)?;
        }
        let size = a.iter().chain(b).fold(0.0f64, |size, value| size.max(value.abs()));
        let ((mean_a, a_variance), (mean_b, b_variance)) = (moments(a), moments(b));
        let (na, nb) = (a.len() as f64, b.len() as f64);
        let (va, vb) = (a_variance / na, b_variance / nb);
        if (va + vb).sqrt() <= ROUNDING * size {
            return Err(StatsError::NoVariance);
        }
        Ok(Self {
            value: mean_a - mean_b,
            error: (va + vb).sqrt(),
            df: (va + vb).powi(2) / (va.powi(2) / (na - 1.0) + vb.powi(2) / (nb - 1.0)),
            n: a.len() + b.len(),
        })
    }

    /// The mean of values in clusters, such as of questions in subjects, where the clusters are the independent units:
    /// standard error from each cluster's sum of residuals (Liang & Zeger 1986; Miller 2024, section 2.2), its square times
    /// `G / (G - 1)` for `G` clusters, with `G - 1` degrees of freedom (Cameron & Miller 2015, section VI.B).
    ///
    /// `clusters` holds an arbitrary number for the cluster of each value. With clusters of equal size this is Student's t of
    /// their means. The more sizes differ, the smaller is the effective number of clusters, `G* = (sum w)^2 / sum w^2` for
    /// sizes `w`.
    ///
    /// # Errors
    /// As [`Mean::of`], and if the slices differ in length, or if `G*` is below half the number of clusters, which would make
    /// the interval too narrow.
    pub fn of_clusters(values: &[f64], clusters: &[usize]) -> Result<Self, StatsError> {
        StatsError::require_equal_length("clusters", clusters.len(), values.len())?;
        StatsError::require_finite("a value", values)?;
        let groups = super::by_cluster(values, clusters);
        let g = groups.len();
        StatsError::require_at_least("t over clusters", "clusters", g, 2)?;
        let n = values.len() as f64;
        let squares: f64 = groups.iter().map(|group| (group.len() as f64).powi(2)).sum();
        let counting = n * n / squares;
        if counting < g as f64 / 2.0 {
            let least = g.div_ceil(2);
            let method = "t over clusters whose sizes differ so much";
            return Err(StatsError::TooFew {
                method,
                units: "clusters that count",
                n: counting as usize,
                least,
            });
        }
        let value = values.iter().sum::<f64>() / n;
        let sums = groups.iter().map(|group| group.iter().map(|v| v - value).sum::<f64>().powi(2));
        let g = g as f64;
        let error = (sums.sum::<f64>() * g / (g - 1.0)).sqrt() / n;
        let size = values.iter().fold(0.0f64, |size, value| size.max(value.abs()));
        if error <= ROUNDING * size {
            return Err(StatsError::NoVariance);
        }
        Ok(Self { value, error, df: g - 1.0, n: groups.len() })
    }

    /// The confidence interval at a level such as 0.95.
    pub fn interval(&self, level: f64) -> Estimate {
        let half = t_quantile(0.5 + level / 2.0, self.df) * self.error;
        let Self { value, df, n, .. } = *self;
        Estimate { value, low: value - half, high: value + half, level, n, df: Some(df) }
    }

    /// The two-sided test that the mean is `null`.
    pub fn test(&self, null: f64) -> TestResult {
        let t = (self.value - null) / self.error;
        TestResult {
            statistic: t,
            df: Some(self.df),
            p: (2.0 * t_tail(t.abs(), self.df)).min(1.0),
            n: self.n,
        }
    }

    /// Two one-sided tests that the mean lies within `margin` of 0 (Schuirmann 1987), at the level `alpha`: equivalent
    /// if `p <= alpha`, that is, if the interval at `1 - 2 alpha` lies within the margin.
    ///
    /// The margin is the largest difference that would not matter, and is chosen before the results are seen.
    ///
    /// # Errors
    /// If the margin is not above 0 or `alpha` is not between 0 and 0.5.
    pub fn equivalence(&self, margin: f64, alpha: f64) -> Result<Equivalence, StatsError> {
        if !(margin > 0.0 && margin.is_finite()) {
            return Err(StatsError::Value {
                what: "the margin",
                value: margin,
                expected: "a number above 0",
            });
        }
        if !(alpha > 0.0 && alpha < 0.5) {
            return Err(StatsError::Value { what: "alpha", value: alpha, expected: "between 0 and 0.5" });
        }
        let one_sided = |distance: f64| {
            let t = distance / self.error;
            TestResult { statistic: t, df: Some(self.df), p: t_tail(t, self.df), n: self.n }
        };
        let above = one_sided(self.value + margin);
        let mut below = one_sided(margin - self.value);
        below.statistic = -below.statistic;
        let interval = self.interval(1.0 - 2.0 * alpha);
        Ok(Equivalence { interval, above, below, p: above.p.max(below.p) })
    }
}

/// Exact p of the null hypothesis that scores from 0 to 1 differ by `margin` or more on average, if none of `n` independent
/// pairs differs: a mean difference of `margin` takes a share `margin` of all pairs that differ, so that `n` equal pairs
/// have at most the probability `(1 - margin)^n`. It takes the place of [`Mean::equivalence`] where nothing varies.
pub fn p_of_equal_pairs(n: usize, margin: f64) -> f64 {
    (1.0 - margin).max(0.0).powf(n as f64)
}

/// Mean, and sample variance with denominator `n - 1`.
pub(super) fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

/// Mean, standard deviation and half-width of the 95 % interval by Student's t, if there are enough values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Number of values.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample; `None` for fewer than two values.
    pub sd: Option<f64>,
    /// Half-width of the interval of the mean; `None` for fewer than two values.
    pub t95: Option<f64>,
}

/// Computes the spread of values; `None` without any. Unlike [`Mean::of`], it accepts a single value and equal values.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let n = values.len();
    match n {
        0 => None,
        1 => Some(Spread { n, mean: values[0], sd: None, t95: None }),
        // Rounding would give equal values a mean beside them.
        _ if values.iter().all(|value| *value == values[0]) => {
            Some(Spread { n, mean: values[0], sd: Some(0.0), t95: Some(0.0) })
        }
        _ => {
            let (mean, variance) = moments(values);
            let sd = variance.sqrt();
            let half = t_quantile(0.975, (n - 1) as f64) * sd / (n as f64).sqrt();
            Some(Spread { n, mean, sd: Some(sd), t95: Some(half) })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, numbers};
    use super::*;

    #[test]
    fn t_tests_agree_with_scipy() {
        let of = |case: &serde_json::Value, mean: Mean| {
            let (interval, test) = (mean.interval(0.95), mean.test(case["null"].as_f64().unwrap_or(0.0)));
            let found = [test.statistic, mean.df, test.p, interval.low, interval.high];
            check(case, &["t", "df", "p", "low", "high"], &found, 1e-7);
        };
        let mut n = 0;
        for case in cases("one_sample_t") {
            of(&case, Mean::of(&numbers(&case["values"])).unwrap());
            n += 1;
        }
        for case in cases("paired_t") {
            of(&case, Mean::of_pairs(&numbers(&case["a"]), &numbers(&case["b"])).unwrap());
            n += 1;
        }
        for case in cases("welch_t") {
            of(&case, Mean::of_difference(&numbers(&case["a"]), &numbers(&case["b"])).unwrap());
            n += 1;
        }
        assert!(n >= 9);
    }

    #[test]
    fn clusters_agree_with_statsmodels() {
        for case in cases("clustered_mean") {
            let clusters: Vec<usize> = numbers(&case["clusters"]).into_iter().map(|c| c as usize).collect();
            let mean = Mean::of_clusters(&numbers(&case["values"]), &clusters).unwrap();
            let interval = mean.interval(0.95);
            let found = [mean.value, mean.error, interval.low, interval.high];
            check(&case, &["value", "error", "low", "high"], &found, 1e-7);
        }
    }

    #[test]
    fn equivalence_agrees_with_statsmodels() {
        for case in cases("tost") {
            let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
            let mean = match case["paired"].as_bool() {
                Some(true) => Mean::of_pairs(&a, &b),
                _ => Mean::of_difference(&a, &b),
            };
            let margin = case["margin"].as_f64().unwrap();
            let found = mean.unwrap().equivalence(margin, 0.05).unwrap();
            let numbers =
                [found.p, found.above.statistic, found.above.p, found.below.statistic, found.below.p];
            check(&case, &["p", "t_above", "p_above", "t_below", "p_below"], &numbers, 1e-7);
            let is_within = found.interval.low > -margin && found.interval.high < margin;
            assert_eq!(found.p < 0.05, is_within);
        }
    }

    #[test]
    fn equal_pairs_bound_the_difference() {
        // SciPy 1.17: binom.cdf(0, 240, 0.05) and binom.cdf(0, 10, 0.3).
        assert!((p_of_equal_pairs(240, 0.05) / 4.504_693_733e-6 - 1.0).abs() < 1e-9);
        assert!((p_of_equal_pairs(10, 0.3) - 0.028_247_524_9).abs() < 1e-9);
        assert_eq!(p_of_equal_pairs(3, 2.0), 0.0);
    }

    #[test]
    fn clusters_of_one_size_are_students_t_of_their_means() {
        let values = [0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let found = Mean::of_clusters(&values, &[7, 7, 2, 2, 9, 9]).unwrap();
        let of_means = Mean::of(&[0.5, 1.0, 0.0]).unwrap();
        assert!((found.error - of_means.error).abs() < 1e-12 && found.df == of_means.df);
    }

    #[test]
    fn what_says_nothing_is_refused() {
        let few = Mean::of(&[1.0]).unwrap_err();
        assert_eq!(few.to_string(), "too few values: n=1, t needs 2");
        assert_eq!(Mean::of(&[2.0, 2.0, 2.0]), Err(StatsError::NoVariance));
        // Equal up to rounding.
        assert_eq!(Mean::of_pairs(&[0.3, 0.4, 0.5], &[0.2, 0.3 + 1e-16, 0.4]), Err(StatsError::NoVariance));
        let uneven = Mean::of_difference(&[1.0, 2.0], &[1.0, 2.0, 4.0]).unwrap_err().to_string();
        assert_eq!(uneven, "too few values: n=2, Welch's t against a larger sample needs 3");
        assert!(Mean::of(&[1.0, f64::NAN]).is_err());
        // Squares of these are infinite.
        let large = Mean::of(&[1e300, 2e300, -1e300]);
        assert_eq!(large, Err(StatsError::TooLarge { what: "a value", value: 1e300 }));
        assert!(Mean::of_pairs(&[1.0, 2.0], &[1.0]).is_err());
        // With nearly all questions in one subject, there is no sample of subjects.
        let lopsided: Vec<usize> = (0..100).map(|i| if i < 95 { 0 } else { i }).collect();
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 3 == 0)).collect();
        assert!(matches!(Mean::of_clusters(&values, &lopsided), Err(StatsError::TooFew { .. })));
        let mean = Mean::of(&[1.0, 2.0, 4.0]).unwrap();
        assert!(mean.equivalence(0.0, 0.05).is_err() && mean.equivalence(1.0, 0.6).is_err());
    }

    #[test]
    fn the_spread_of_little_is_told_as_far_as_it_goes() {
        let found = spread(&[1.0, 2.0, 3.0]).unwrap();
        // Student's t at 0.975 with 2 degrees of freedom is 4.302653.
        assert_eq!((found.mean, found.sd), (2.0, Some(1.0)));
        assert!((found.t95.unwrap() - 4.302_652_7 / 3f64.sqrt()).abs() < 1e-6);
        assert_eq!(spread(&[1.0]), Some(Spread { n: 1, mean: 1.0, sd: None, t95: None }));
        assert_eq!(spread(&[2.0, 2.0]).and_then(|s| s.t95), Some(0.0));
        let equal = spread(&[0.003; 3]).unwrap();
        assert_eq!((equal.mean, equal.sd, equal.t95), (0.003, Some(0.0), Some(0.0)));
        assert_eq!(spread(&[]), None);
    }
}
