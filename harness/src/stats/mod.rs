//! Intervals and tests over recorded results; plain numbers in, plain numbers out.

mod fit;
mod guessing;

pub use fit::{Fit, FitKind, digits3, fit};
pub use guessing::{Answered, PERMUTATIONS, Randomised, guessing};

use statrs::distribution::{Binomial, ContinuousCDF, Discrete, Normal, StudentsT};

/// Two-sided 95 % in standard deviations.
fn z95() -> f64 {
    Normal::standard().inverse_cdf(0.975)
}

/// Wilson's 95 % interval of a share (Wilson 1927).
pub fn wilson95(correct: u64, n: u64) -> (f64, f64) {
    wilson95_of_share(correct as f64 / n as f64, n)
}

/// The same of a share of `n`, which may be a mean of several shares.
pub fn wilson95_of_share(share: f64, n: u64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z) = (n as f64, share, z95());
    let centre = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// Exact two-sided binomial test: the probability of all outcomes no likelier than the one seen.
pub fn binomial_p(correct: u64, n: u64, p0: f64) -> f64 {
    let Ok(binomial) = Binomial::new(p0, n) else { return f64::NAN };
    // Equal probabilities are meant to count; rounding must not hide them (R and SciPy allow the same slack).
    let limit = binomial.pmf(correct) * (1.0 + 1e-7);
    (0..=n).map(|k| binomial.pmf(k)).filter(|p| *p <= limit).sum::<f64>().min(1.0)
}

/// Mean, standard deviation and half-width of the 95 % interval by Student's t.
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

/// The spread of some values; `None` for none.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    if n < 2 {
        return Some(Spread { n, mean, sd: None, t95: None });
    }
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64).sqrt();
    let t = StudentsT::new(0.0, 1.0, (n - 1) as f64).map(|t| t.inverse_cdf(0.975)).ok();
    Some(Spread { n, mean, sd: Some(sd), t95: t.map(|t| t * sd / (n as f64).sqrt()) })
}

/// A comparison of means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Difference of means, the first minus the second.
    pub difference: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// Two-sided p of no difference.
    pub p: f64,
}

/// Paired t-test; `None` for fewer than two pairs.
pub fn paired_t(pairs: &[(f64, f64)]) -> Option<Comparison> {
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
    let spread = spread(&differences)?;
    let error = spread.sd? / (spread.n as f64).sqrt();
    t_comparison(spread.mean, error, (spread.n - 1) as f64)
}

/// Welch's t-test of two independent samples; `None` for fewer than two values on a side.
pub fn welch_t(a: &[f64], b: &[f64]) -> Option<Comparison> {
    let (a, b) = (spread(a)?, spread(b)?);
    let (va, vb) = (a.sd?.powi(2) / a.n as f64, b.sd?.powi(2) / b.n as f64);
    let freedom = (va + vb).powi(2) / (va.powi(2) / (a.n - 1) as f64 + vb.powi(2) / (b.n - 1) as f64);
    t_comparison(a.mean - b.mean, (va + vb).sqrt(), freedom)
}

fn t_comparison(difference: f64, error: f64, freedom: f64) -> Option<Comparison> {
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
    let half = t.inverse_cdf(0.975) * error;
    let p = if error > 0.0 {
        2.0 * t.cdf(-(difference / error).abs())
    } else {
        f64::from(u8::from(difference == 0.0))
    };
    Some(Comparison { difference, interval: (difference - half, difference + half), p })
}

/// Holm's correction of several p-values (Holm 1979), in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut largest) = (vec![0.0; p.len()], 0.0f64);
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((p[i] * (p.len() - rank) as f64).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-6 * want.abs().max(1e-3), "{got} instead of {want}");
    }

    #[test]
    fn wilson_follows_the_formula() {
        // Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
        let (low, high) = wilson95(81, 263);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
        let (low, high) = wilson95(0, 20);
        assert!(low.abs() < 1e-9 && (high - 0.1611).abs() < 5e-5, "{low} {high}");
    }

    #[test]
    fn binomial_tests_are_exact() {
        // By hand: n = 3, p = 1/4: probabilities 27, 27, 9, 1 of 64.
        close(binomial_p(3, 3, 0.25), 1.0 / 64.0);
        close(binomial_p(2, 3, 0.25), 10.0 / 64.0);
        close(binomial_p(0, 3, 0.25), 1.0);
        // Fisher's tea: 8 of 8 at one half.
        close(binomial_p(8, 8, 0.5), 2.0 / 256.0);
    }

    #[test]
    fn t_intervals_follow_the_tables() {
        // Student's t at 0.975: 4.302653 with 2 degrees of freedom, 12.706205 with 1.
        let found = spread(&[1.0, 2.0, 3.0]).map(|s| (s.mean, s.sd, s.t95));
        let (mean, sd, t95) = found.unwrap_or_default();
        close(mean, 2.0);
        close(sd.unwrap_or_default(), 1.0);
        close(t95.unwrap_or_default(), 4.302_652_7 / 3f64.sqrt());
        assert_eq!(spread(&[1.0]).and_then(|s| s.t95), None);
        // Differences 1 and 3: mean 2, error 1, t = 2 with 1 degree: p = 1 - 2 atan(2) / pi.
        let paired = paired_t(&[(2.0, 1.0), (5.0, 2.0)]).map(|c| (c.difference, c.p, c.interval.1));
        let (difference, p, high) = paired.unwrap_or_default();
        close(difference, 2.0);
        close(p, 1.0 - 2.0 * 2f64.atan() / std::f64::consts::PI);
        close(high, 2.0 + 12.706_204_7);
    }

    #[test]
    fn welch_equals_student_for_equal_spreads() {
        // Means 2 and 5, both with standard deviation 1 and n = 3: t = -3 / sqrt(2/3), 4 degrees of freedom.
        let welch = welch_t(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]);
        close(welch.map_or(0.0, |w| w.p), 0.021_311_64);
    }

    #[test]
    fn holm_raises_and_keeps_order() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
