//! Least-squares fits of one number over another.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The curve that is fitted.
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
    /// `b` of the form: the slope or the exponent.
    pub b: f64,
    /// Half-width of the 95 % interval of `b` by Student's t with `n - 2` degrees of freedom.
    pub b_t95: f64,
    /// Share of the variance explained, where the line was fitted: in log y for a power law.
    pub r2: f64,
    /// Number of points.
    pub n: usize,
}

/// Fewest points of a fit: two lie on a line whatever they are.
const FEWEST: usize = 3;

/// Fits a curve; `None` for fewer than three points, for one value of `x` only, and where a logarithm has no value.
pub fn fit(kind: FitKind, points: &[(f64, f64)]) -> Option<Fit> {
    let straight = |&(x, y): &(f64, f64)| match kind {
        FitKind::Power => (x.ln(), y.ln()),
        FitKind::Linear => (x, y),
        FitKind::Log => (x.ln(), y),
    };
    let points: Vec<(f64, f64)> = points.iter().map(straight).collect();
    let n = points.len();
    if n < FEWEST || points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
        return None;
    }
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n as f64;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|p| f(p.0 - x_mean, p.1 - y_mean)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    if xx <= 0.0 {
        return None;
    }
    let b = xy / xx;
    let a = y_mean - b * x_mean;
    let left = (yy - b * xy).max(0.0);
    let freedom = (n - 2) as f64;
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.975);
    Some(Fit {
        kind,
        a: if kind == FitKind::Power { a.exp() } else { a },
        b,
        b_t95: t * (left / freedom / xx).sqrt(),
        r2: if yy > 0.0 { 1.0 - left / yy } else { 1.0 },
        n,
    })
}

impl Fit {
    /// The curve at `x`.
    pub fn at(&self, x: f64) -> f64 {
        match self.kind {
            FitKind::Power => self.a * x.powf(self.b),
            FitKind::Linear => self.a + self.b * x,
            FitKind::Log => self.a + self.b * x.ln(),
        }
    }

    /// The equation in three digits: `y = 12.3 x^-0.076`.
    pub fn equation(&self) -> String {
        let sign = if self.b < 0.0 { '−' } else { '+' };
        let (a, b) = (digits3(self.a), digits3(self.b.abs()));
        match self.kind {
            FitKind::Power => format!("y = {a} x^{}{b}", if self.b < 0.0 { "−" } else { "" }),
            FitKind::Linear => format!("y = {a} {sign} {b} x"),
            FitKind::Log => format!("y = {a} {sign} {b} ln x"),
        }
    }
}

/// Three significant digits: `12.3`, `0.00123`, `4.56e-7`.
pub fn digits3(x: f64) -> String {
    let text = if x == 0.0 || !x.is_finite() {
        x.to_string()
    } else {
        let size = x.abs().log10().floor() as i32;
        match size {
            -4..=5 => format!("{x:.*}", (2 - size).max(0) as usize),
            _ => format!("{x:.2e}"),
        }
    };
    text.replacen('-', "−", usize::from(x < 0.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-9 * want.abs().max(1.0), "{got} instead of {want}");
    }

    #[test]
    fn a_line_is_found_as_by_hand() {
        // x - 2 = -1, 0, 1; y - 3 = -2, 1, 1: b = 3 / 2, left = 6 - 4.5, r2 = 0.75.
        let fit = fit(FitKind::Linear, &[(1.0, 1.0), (2.0, 4.0), (3.0, 4.0)]).unwrap();
        close(fit.b, 1.5);
        close(fit.a, 0.0);
        close(fit.r2, 0.75);
        // t at 0.975 with one degree of freedom is 12.7062047; the error of b is sqrt(1.5 / 1 / 2).
        assert!((fit.b_t95 - 12.706_204_7 * 0.75f64.sqrt()).abs() < 1e-5);
        close(fit.at(4.0), 6.0);
    }

    #[test]
    fn a_power_law_is_a_line_in_logarithms() {
        let points = [1.0, 2.0, 4.0, 8.0].map(|x: f64| (x, 3.0 * x.powf(-0.5)));
        let fit = fit(FitKind::Power, &points).unwrap();
        close(fit.a, 3.0);
        close(fit.b, -0.5);
        close(fit.r2, 1.0);
        assert_eq!(fit.equation(), "y = 3.00 x^−0.500");
    }

    #[test]
    fn logarithms_grow_by_the_natural_one() {
        let points = [1.0, 10.0, 100.0].map(|x: f64| (x, 2.0 - 0.25 * x.ln()));
        let fit = fit(FitKind::Log, &points).unwrap();
        close(fit.a, 2.0);
        close(fit.b, -0.25);
        assert_eq!(fit.equation(), "y = 2.00 − 0.250 ln x");
    }

    #[test]
    fn fits_agree_with_scipy() {
        let points = [(1e5, 4.1), (3e5, 3.6), (1e6, 3.05), (3e6, 2.75)];
        // r = scipy.stats.linregress(log(x), log(y)): exp(intercept), slope, rvalue ** 2, stderr * t.ppf(0.975, 2).
        let power = fit(FitKind::Power, &points).unwrap();
        close(power.a, 16.217_705_881_429_193);
        close(power.b, -0.119_683_269_355_441_9);
        close(power.r2, 0.995_296_466_858_354_7);
        assert!((power.b_t95 - 0.025_031_715_528_939_9).abs() < 1e-8);
        // The same of linregress(log(x), y).
        let log = fit(FitKind::Log, &points).unwrap();
        close(log.a, 8.707_836_397_168_181);
        close(log.b, -0.403_589_257_058_786_73);
        assert!((log.b_t95 - 0.132_317_496_987_405_7).abs() < 1e-7);
    }

    #[test]
    fn what_cannot_be_fitted_is_not() {
        assert_eq!(fit(FitKind::Linear, &[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(fit(FitKind::Linear, &[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(fit(FitKind::Power, &[(1.0, 1.0), (2.0, 0.0), (3.0, 3.0)]), None);
        assert_eq!(fit(FitKind::Log, &[(0.0, 1.0), (2.0, 0.0), (3.0, 3.0)]), None);
    }

    #[test]
    fn three_digits_are_shown() {
        assert_eq!([12.34, 0.001_234, -5.0, 123_456.0].map(digits3), ["12.3", "0.00123", "−5.00", "123456"]);
        assert_eq!(digits3(4.56e-7), "4.56e-7");
    }
}
