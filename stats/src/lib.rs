//! Intervals, tests and fits over recorded results: numbers in, numbers out, no formatting.
//!
//! Functions take slices and return an [`Estimate`], a [`TestResult`], or a [`StatsError`] that says why there is none.
//! Most questions about seeds, pairs and subjects are answered by a [`Mean`], a number with its standard error and degrees
//! of freedom, from which interval, test and equivalence follow. Every function names its source and its assumptions;
//! `scripts/stats_references.py` computes the reference values of the tests.

mod choice;
mod components;
mod correction;
mod effect;
mod error;
mod fit;
mod guessing;
mod interval;
mod mean;
mod noncentral;
mod power;
#[cfg(test)]
mod references;
mod resample;
#[cfg(test)]
mod simulations;
mod test;
#[cfg(test)]
#[path = "../../harness/src/testing.rs"]
mod testing;

pub use choice::{Agreement, Calibration, Reliability, agreement, calibration, shares, without_prior};
pub use components::{Components, crossed_difference, differences};
pub use correction::{benjamini_hochberg, holm};
pub use effect::{cohens_h, hedges_g, hedges_g_of_pairs};
pub use error::StatsError;
pub use fit::{
    Budget, Fit, FitKind, HeldOut, IsoFlop, Law, LawFit, Optimum, Term, budgets, fit, fit_law, growth,
    held_out, isoflop,
};
pub use guessing::{Answered, OPTIONS, PERMUTATIONS, Randomised, guessing};
pub use interval::{
    clopper_pearson, difference_of_paired_shares, difference_of_shares, wilson, wilson_of_share, wilson95,
};
pub use mean::{Equivalence, Mean, Spread, mean, p_of_equal_pairs, spread};
pub use power::{
    PowerTarget, SignalToNoise, detectable, detectable_by_pairs, detectable_by_questions,
    detectable_by_seeds, detectable_crossed, power, signal_to_noise,
};
pub use resample::{DRAWS, Draws, bootstrap, cluster_bootstrap, paired_bootstrap, pigeonhole_bootstrap};
pub use test::{
    binomial_equivalence, binomial_p, mcnemar, permutation, sign_flip, smallest_permutation_p,
    smallest_sign_flip_p,
};

use serde::Serialize;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};
use std::collections::BTreeMap;

/// A point estimate with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The point estimate.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Confidence level of the interval, such as 0.95.
    pub level: f64,
    /// Number of units that it rests on.
    pub n: usize,
    /// Degrees of freedom of its standard error; `None` if it has none.
    pub df: Option<f64>,
}

/// The result of a test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TestResult {
    /// The test statistic, as defined by the test's documentation.
    pub statistic: f64,
    /// Degrees of freedom; `None` if the test has none.
    pub df: Option<f64>,
    /// Two-sided p, unless the test is documented as one-sided.
    pub p: f64,
    /// Number of units that it rests on.
    pub n: usize,
}

/// Degrees of freedom above which Student's t is computed from the normal distribution; the library does not converge.
const MANY: f64 = 1e5;

/// Quantile of Student's t at `p`; NaN unless `df` is above 0. Of many degrees of freedom by the expansion of Fisher & Cornish
/// (1960; Abramowitz & Stegun 1964, 26.7.5).
fn t_quantile(p: f64, df: f64) -> f64 {
    if df > MANY {
        let z = normal_quantile(p);
        let second = (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / 96.0;
        return z + (z.powi(3) + z) / 4.0 / df + second / df / df;
    }
    StudentsT::new(0.0, 1.0, df).map_or(f64::NAN, |t| t.inverse_cdf(p))
}

/// Probability that Student's t exceeds `t`, accurate in the tail.
fn t_tail(t: f64, df: f64) -> f64 {
    StudentsT::new(0.0, 1.0, df).map_or(f64::NAN, |distribution| distribution.cdf(-t))
}

/// Quantile of the standard normal distribution at `p`.
fn normal_quantile(p: f64) -> f64 {
    Normal::standard().inverse_cdf(p)
}

/// Probability that a standard normal variable is at most `z`.
fn normal_cdf(z: f64) -> f64 {
    Normal::standard().cdf(z)
}

/// Groups values by cluster, in ascending order of the clusters' numbers.
fn by_cluster(values: &[f64], clusters: &[usize]) -> Vec<Vec<f64>> {
    let mut groups: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    values.iter().zip(clusters).for_each(|(value, cluster)| groups.entry(*cluster).or_default().push(*value));
    groups.into_values().collect()
}
