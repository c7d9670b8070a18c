//! Least-squares fits of one number over another.

use crate::{Estimate, StatsError, t_quantile};

/// The form of the fitted curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FitKind {
    /// `y = a x^b`, as a line in log x and log y.
    Power,
    /// `y = a + b x`.
    Linear,
    /// `y = a + b ln x`.
    Log,
}

/// A fitted curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// Its form.
    pub kind: FitKind,
    /// `a` of the form.
    pub a: f64,
    /// `b` of the form, the slope or exponent, with its interval by Student's t with `n - 2` degrees of freedom.
    pub b: Estimate,
    /// Share of the variance explained, in the coordinates of the fit: of log y for a power law.
    pub r2: f64,
    /// Number of points.
    pub n: usize,
    /// Mean of `x` and sum of its squared deviations, in the coordinates of the fit.
    pub x: (f64, f64),
    /// Residual standard deviation about the line, in the coordinates of the fit.
    pub residual: f64,
}

/// Minimum number of points: two always lie on a line.
const FEWEST: usize = 3;

/// Deviations below this share of the mean are attributed to rounding.
const ROUNDING: f64 = 1e-12;

/// Fits a curve by least squares: a power law in the logarithms of both, [`FitKind::Log`] in that of `x`.
///
/// Assumes errors of equal variance in these coordinates; the interval of `b` is valid for normal ones.
///
/// # Errors
/// If there are fewer than three points, a single value of `x` or of `y`, a number that is not finite, too large or lacks
/// a required logarithm, or the level is not between 0 and 1.
pub fn fit(kind: FitKind, points: &[(f64, f64)], level: f64) -> Result<Fit, StatsError> {
    let straight = |&(x, y): &(f64, f64)| match kind {
        FitKind::Power => (x.ln(), y.ln()),
        FitKind::Linear => (x, y),
        FitKind::Log => (x.ln(), y),
    };
    let points: Vec<(f64, f64)> = points.iter().map(straight).collect();
    let n = points.len();
    StatsError::require_share("the level", level)?;
    StatsError::require_at_least("a fit", "points", n, FEWEST)?;
    if points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return Err(StatsError::Undetermined("a number is not finite, or has no logarithm".into()));
    }
    StatsError::require_finite("a number", &points.iter().flat_map(|&(x, y)| [x, y]).collect::<Vec<_>>())?;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n as f64;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| f(p.0 - x_mean, p.1 - y_mean)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    let is_one = |squares: f64, mean: f64| squares <= n as f64 * (ROUNDING * mean).powi(2);
    if is_one(xx, x_mean) {
        return Err(StatsError::Undetermined("all points have one x".into()));
    }
    if is_one(yy, y_mean) {
        let problem = "all points have one y, so R2 and an interval of the slope are undefined";
        return Err(StatsError::Undetermined(problem.into()));
    }
    let b = xy / xx;
    let a = y_mean - b * x_mean;
    let left = (yy - b * xy).max(0.0);
    let df = (n - 2) as f64;
    let half = t_quantile(0.5 + level / 2.0, df) * (left / df / xx).sqrt();
    Ok(Fit {
        kind,
        a: if kind == FitKind::Power { a.exp() } else { a },
        b: Estimate { value: b, low: b - half, high: b + half, level, n, df: Some(df) },
        r2: 1.0 - left / yy,
        n,
        x: (x_mean, xx),
        residual: (left / df).sqrt(),
    })
}

impl Fit {
    /// Value of the curve at `x`.
    pub fn at(&self, x: f64) -> f64 {
        match self.kind {
            FitKind::Power => self.a * x.powf(self.b.value),
            FitKind::Linear => self.a + self.b.value * x,
            FitKind::Log => self.a + self.b.value * x.ln(),
        }
    }

    /// Confidence band of the mean at `x` (Draper & Smith 1998, section 1.4), computed in the coordinates of the fit.
    pub fn band(&self, x: f64, level: f64) -> (f64, f64) {
        let at = if self.kind == FitKind::Linear { x } else { x.ln() };
        let n = self.n as f64;
        let share = 1.0 / n + (at - self.x.0).powi(2) / self.x.1;
        let half = t_quantile(0.5 + level / 2.0, n - 2.0) * self.residual * share.sqrt();
        let y = self.at(x);
        match self.kind {
            FitKind::Power => (y * (-half).exp(), y * half.exp()),
            _ => (y - half, y + half),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9 * want.abs().max(1.0), "{got} instead of {want}");
    }

    fn half(fit: &Fit) -> f64 {
        fit.b.high - fit.b.value
    }

    #[test]
    fn a_line_is_found_as_by_hand() {
        // x - 2 = -1, 0, 1; y - 3 = -2, 1, 1: b = 3 / 2, residual sum of squares = 6 - 4.5, r2 = 0.75.
        let fit = fit(FitKind::Linear, &[(1.0, 1.0), (2.0, 4.0), (3.0, 4.0)], 0.95).unwrap();
        close(fit.b.value, 1.5);
        close(fit.a, 0.0);
        close(fit.r2, 0.75);
        // t at 0.975 with one degree of freedom is 12.7062047; the standard error of b is sqrt(1.5 / 1 / 2).
        assert!((half(&fit) - 12.706_204_7 * 0.75f64.sqrt()).abs() < 1e-5);
        close(fit.at(4.0), 6.0);
        // At the mean of x the standard error is that of a mean of three, sqrt(1.5 / 3); at x = 3, one away, sqrt(1.5 (1/3 + 1/2)).
        for (x, error) in [(2.0, 0.5f64.sqrt()), (3.0, 1.25f64.sqrt())] {
            let (low, high) = fit.band(x, 0.95);
            assert!((high - low - 2.0 * 12.706_204_7 * error).abs() < 1e-5, "{x}: {low} {high}");
            close((low + high) / 2.0, fit.at(x));
        }
    }

    #[test]
    fn a_power_law_is_a_line_in_logarithms() {
        let points = [1.0, 2.0, 4.0, 8.0].map(|x: f64| (x, 3.0 * x.powf(-0.5)));
        let fit = fit(FitKind::Power, &points, 0.95).unwrap();
        close(fit.a, 3.0);
        close(fit.b.value, -0.5);
        close(fit.r2, 1.0);
    }

    #[test]
    fn logarithms_grow_by_the_natural_one() {
        let points = [1.0, 10.0, 100.0].map(|x: f64| (x, 2.0 - 0.25 * x.ln()));
        let fit = fit(FitKind::Log, &points, 0.95).unwrap();
        close(fit.a, 2.0);
        close(fit.b.value, -0.25);
    }

    #[test]
    fn fits_agree_with_scipy() {
        let points = [(1e5, 4.1), (3e5, 3.6), (1e6, 3.05), (3e6, 2.75)];
        // r = scipy.stats.linregress(log(x), log(y)): exp(intercept), slope, rvalue ** 2, stderr * t.ppf(0.975, 2).
        let power = fit(FitKind::Power, &points, 0.95).unwrap();
        close(power.a, 16.217_705_881_429_193);
        close(power.b.value, -0.119_683_269_355_441_9);
        close(power.r2, 0.995_296_466_858_354_7);
        assert!((half(&power) - 0.025_031_715_528_939_9).abs() < 1e-8);
        // The same of linregress(log(x), y).
        let log = fit(FitKind::Log, &points, 0.95).unwrap();
        close(log.a, 8.707_836_397_168_181);
        close(log.b.value, -0.403_589_257_058_786_73);
        assert!((half(&log) - 0.132_317_496_987_405_7).abs() < 1e-7);
    }

    #[test]
    fn what_cannot_be_fitted_is_not() {
        assert!(fit(FitKind::Linear, &[(1.0, 1.0), (2.0, 2.0)], 0.95).is_err());
        assert!(fit(FitKind::Linear, &[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], 0.95).is_err());
        // Also where the mean of equal numbers is rounded.
        let problem = |points: &[(f64, f64)]| fit(FitKind::Linear, points, 0.95).unwrap_err().to_string();
        let message = "the points do not determine the fit: all points have one y, so R2 and an interval of the slope are undefined";
        for y in [2.0, 0.1, 0.0] {
            assert_eq!(problem(&[1.0, 2.0, 3.0].map(|x| (x, y))), message);
        }
        assert!(problem(&[1.0, 2.0, 3.0].map(|y| (0.1, y))).ends_with("all points have one x"));
        let message = "a number is 1e300, expected at most 1e150 in size, as variances are made of squares";
        assert_eq!(problem(&[(1.0, 1.0), (2.0, 1e300), (3.0, 4.0)]), message);
        assert!(fit(FitKind::Power, &[(1.0, 1.0), (2.0, 0.0), (3.0, 3.0)], 0.95).is_err());
        assert!(fit(FitKind::Log, &[(0.0, 1.0), (2.0, 0.0), (3.0, 3.0)], 0.95).is_err());
    }
}
