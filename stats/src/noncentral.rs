//! The noncentral t distribution, which statrs lacks; used for effect sizes and power.

use super::{MANY, normal_cdf};
use statrs::function::gamma::ln_gamma;

/// Number of panels of an integral.
const PANELS: usize = 96;

/// Five-point Gauss-Legendre on -1 to 1: nodes and weights (Abramowitz & Stegun 1964, table 25.4).
const GAUSS: [(f64, f64); 5] = [
    (-0.906_179_845_938_664, 0.236_926_885_056_189_1),
    (-0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.0, 0.568_888_888_888_888_9),
    (0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.906_179_845_938_664, 0.236_926_885_056_189_1),
];

/// Probability that noncentral t with `df >= 1` degrees of freedom and noncentrality `delta` is at most `t`.
///
/// `T = (Z + delta) / S` with `S = sqrt(chi^2 / df)`, so the probability is the mean of `Phi(t S - delta)` over S (Johnson,
/// Kotz & Balakrishnan 1995, section 31.2), integrated to about 1e-10. With many degrees of freedom S is normal (Abramowitz &
/// Stegun 1964, 26.7.10).
pub fn noncentral_t_cdf(t: f64, df: f64, delta: f64) -> f64 {
    if df > MANY {
        return normal_cdf((t * (1.0 - 0.25 / df) - delta) / (1.0 + 0.5 * t * t / df).sqrt());
    }
    // The density is negligible further out: for one degree of freedom S is half-normal.
    let (spread, reach) = (1.0 / (2.0 * df).sqrt(), 12.0);
    let (low, high) = ((1.0 - reach * spread).max(0.0), 1.0 + reach * spread);
    let constant = 2f64.ln() + df / 2.0 * (df / 2.0).ln() - ln_gamma(df / 2.0);
    let density = |s: f64| (constant + (df - 1.0) * s.ln() - df * s * s / 2.0).exp();
    let integral = |from: f64, to: f64| -> f64 {
        let width = (to - from) / PANELS as f64;
        let panel = |i: usize| -> f64 {
            let middle = from + (i as f64 + 0.5) * width;
            let at = |(node, weight): &(f64, f64)| {
                let s = middle + node * width / 2.0;
                weight * density(s) * normal_cdf(t * s - delta)
            };
            GAUSS.iter().map(at).sum::<f64>() * width / 2.0
        };
        (0..PANELS).map(panel).sum()
    };
    // Phi rises within a few 1/t of delta/t, which may be a small part of the range.
    let (turn, width) = (delta / t, 8.0 / t.abs());
    let mut cuts = vec![low, high];
    cuts.extend([turn - width, turn + width].into_iter().filter(|cut| *cut > low && *cut < high));
    cuts.sort_by(f64::total_cmp);
    cuts.windows(2).map(|pair| integral(pair[0], pair[1])).sum::<f64>().clamp(0.0, 1.0)
}

/// The noncentrality for which noncentral t is at most `t` with probability `p`, found by bisection.
pub fn noncentrality(t: f64, df: f64, p: f64) -> f64 {
    // The probability decreases with the noncentrality.
    let mut step = 1.0 + t.abs();
    let (mut low, mut high) = (t, t);
    while noncentral_t_cdf(t, df, low) < p {
        low -= step;
        step *= 2.0;
    }
    step = 1.0 + t.abs();
    while noncentral_t_cdf(t, df, high) > p {
        high += step;
        step *= 2.0;
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if noncentral_t_cdf(t, df, middle) > p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check};
    use super::*;

    #[test]
    fn noncentral_t_agrees_with_scipy() {
        let mut n = 0;
        for case in cases("noncentral_t") {
            let [t, df, delta] = ["t", "df", "delta"].map(|key| case[key].as_f64().unwrap());
            check(&case, &["cdf"], &[noncentral_t_cdf(t, df, delta)], 1e-7);
            n += 1;
        }
        assert!(n >= 10);
    }

    #[test]
    fn many_degrees_of_freedom_agree_with_scipy() {
        // scipy.stats.nct.cdf(t, df, delta).
        for (t, df, delta, p) in [
            (1.96, 1e6, 2.8, 0.200_454_282_055_179_43),
            (3.0, 1.5e6, -1.0, 0.999_968_327_888_641_3),
            (30.0, 2e6, 31.0, 0.158_681_565_184_003_73),
            (1.96, 2e8, 2.8, 0.200_454_193_704_424_5),
        ] {
            let found = noncentral_t_cdf(t, df, delta);
            assert!((found / p - 1.0).abs() < 1e-9, "{found} instead of {p}");
        }
    }

    #[test]
    fn noncentrality_is_the_inverse() {
        for (t, df, p) in [(2.0, 4.0, 0.975), (-1.5, 1.0, 0.2), (0.0, 9.0, 0.025), (30.0, 2.0, 0.5)] {
            let found = noncentral_t_cdf(t, df, noncentrality(t, df, p));
            assert!((found - p).abs() < 1e-8, "{found} instead of {p}");
        }
    }
}
