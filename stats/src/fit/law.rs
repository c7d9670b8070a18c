//! Laws of loss: `L = E + A N^-alpha`, and `L = E + A N^-alpha + B D^-beta` (Hoffmann et al. 2022, equation 2).

use super::minimize::minimize;
use crate::resample::{Draws, below, quantile};
use crate::{Estimate, StatsError, normal_cdf, t_quantile};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Huber's delta: residuals of `ln L` up to this size have quadratic loss, larger ones linear loss (Huber 1964; Hoffmann
/// et al. 2022, appendix D.3).
const HUBER: f64 = 1e-3;

/// Grid of starts: `ln E` (Hoffmann et al. 2022, appendix D.3; Besiroglu et al. 2024, section 2).
const STARTS_E: [f64; 5] = [-1.0, -0.5, 0.0, 0.5, 1.0];
/// Grid of starts: `ln A` and `ln B`.
const STARTS_A: [f64; 6] = [0.0, 5.0, 10.0, 15.0, 20.0, 25.0];
/// Grid of starts: `alpha` and `beta`.
const STARTS_ALPHA: [f64; 5] = [0.0, 0.5, 1.0, 1.5, 2.0];

/// Number of starts that are minimised: this many of the best, and up to as many more spread over the others.
const DOWNHILL: usize = 40;

/// Level of the test that each term improves the fit.
const ALPHA: f64 = 0.05;

/// Residuals of `ln L` up to this size count as none: 0.0001 % of the loss.
const EXACT: f64 = 1e-6;

/// A term of a law that decreases with a quantity `x`: `A x^-alpha`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Term {
    /// The coefficient `A`.
    pub a: f64,
    /// The exponent `alpha`.
    pub alpha: f64,
}

/// A law of loss over one or two quantities.
#[derive(Debug, Clone, PartialEq)]
pub struct Law {
    /// `E`, the irreducible loss that remains however large the quantities become.
    pub e: f64,
    /// The decreasing terms, one for each quantity: parameters and, if there is a second, tokens.
    pub terms: Vec<Term>,
}

impl Law {
    /// Predicted loss at the sizes `x`, one for each term.
    pub fn at(&self, x: &[f64]) -> f64 {
        self.e + self.terms.iter().zip(x).map(|(term, x)| term.a * x.powf(-term.alpha)).sum::<f64>()
    }

    /// Exponent with which the optimal size of the first term grows with compute `C ~ N D`: `N ~ C^exponent` (Hoffmann et
    /// al. 2022, equation 4); `None` with one term, or if the loss does not fall with both.
    pub fn exponent(&self) -> Option<f64> {
        match self.terms.as_slice() {
            [n, d] if n.alpha > 0.0 && d.alpha > 0.0 => Some(ratio(self)),
            _ => None,
        }
    }
}

/// `beta / (alpha + beta)` of a law with two terms.
fn ratio(law: &Law) -> f64 {
    law.terms[1].alpha / (law.terms[0].alpha + law.terms[1].alpha)
}

/// A fitted law with its intervals.
#[derive(Debug, Clone, PartialEq)]
pub struct LawFit {
    /// The law with the best parameters.
    pub law: Law,
    /// `E`, the irreducible loss.
    pub e: Estimate,
    /// `A` and `alpha`, and with a second term `B` and `beta`.
    pub terms: Vec<(Estimate, Estimate)>,
    /// The exponent of the optimal size, [`Law::exponent`].
    pub exponent: Option<Estimate>,
    /// Sum of the Huber losses of the residuals of `ln L`.
    pub objective: f64,
    /// Root-mean-square residual of `ln L`.
    pub rms: f64,
}

impl LawFit {
    /// Indices of the terms that do not decrease: the loss rises with their size.
    pub fn rising(&self) -> impl Iterator<Item = usize> {
        (0..self.law.terms.len()).filter(|&k| self.law.terms[k].alpha <= 0.0)
    }
}

/// How well a law fitted to the smaller runs predicts the losses of the larger ones.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// The law fitted to the smaller runs.
    pub law: Law,
    /// Number of runs that it was fitted to.
    pub fitted: usize,
    /// Number of runs held out: those with most compute.
    pub held: usize,
    /// Root mean square of `ln (predicted / measured)` over the held-out runs.
    pub rms: f64,
    /// Mean of the same: above 0 if the law predicts too high losses.
    pub bias: f64,
}

/// Fits a law to losses at sizes `x`, a slice for each term, as Hoffmann et al. (2022): minimises the Huber loss of the
/// residuals of `ln L` by L-BFGS from a grid of starts; intervals are by bootstrap over the points (Besiroglu et al. 2024),
/// expanded for few points (Hesterberg 2015).
///
/// Sizes and losses are scaled by their geometric means, so that their units have no effect.
///
/// A term that does not improve the fit is not determined: its coefficient and exponent could have any value, and `E` would
/// include a part of it or not. Each term is tested by the F test of the law with and without it (level 0.05), in which
/// the Huber losses take the place of the squared residuals; for residuals much larger than delta it is conservative.
///
/// # Errors
/// If there are fewer than twice as many points as parameters to fit, a size or a loss that is not above 0, a quantity
/// with fewer than three distinct values, or two quantities whose logarithms are collinear; if a term is not determined,
/// or an interval not finite; also if there are fewer than 100 draws or the level is not between 0 and 1.
pub fn fit_law(x: &[&[f64]], loss: &[f64], level: f64, draws: Draws) -> Result<LawFit, StatsError> {
    StatsError::require_share("the level", level)?;
    StatsError::require_at_least("a bootstrap", "draws", draws.count as usize, 100)?;
    let points = Points::of(x, loss)?;
    let all: Vec<usize> = (0..loss.len()).collect();
    let (best, objective) = points.best(&all);
    points.require_every_term(&all, objective)?;
    let law = points.law(&best);
    let resampled = points.resampled(&best, draws);
    let parameters = 1 + 2 * x.len();
    let interval = |value: f64, of: &dyn Fn(&Law) -> f64| {
        let mut values: Vec<f64> = resampled.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        let (n, df) = (loss.len() as f64, (loss.len() - parameters) as f64);
        let tail = normal_cdf(-(n / df).sqrt() * t_quantile(0.5 + level / 2.0, df));
        let (low, high) = (quantile(&values, tail), quantile(&values, 1.0 - tail));
        Estimate { value, low, high, level, n: loss.len(), df: Some(df) }
    };
    let term = |k: usize| {
        let Term { a, alpha } = law.terms[k];
        (interval(a, &|law| law.terms[k].a), interval(alpha, &|law| law.terms[k].alpha))
    };
    let e = interval(law.e, &|law| law.e);
    let terms: Vec<(Estimate, Estimate)> = (0..x.len()).map(term).collect();
    let exponent = law.exponent().map(|value| interval(value, &ratio));
    let has_ends = |of: &Estimate| of.low.is_finite() && of.high.is_finite();
    if !terms.iter().flat_map(|(a, alpha)| [a, alpha]).chain([&e]).chain(&exponent).all(has_ends) {
        let problem = "laws of resampled points have parameters beyond all bounds".into();
        return Err(StatsError::Undetermined(problem));
    }
    Ok(LawFit { e, terms, exponent, objective, rms: points.errors(&law, &all).0, law })
}

/// Fits a law to all but the `share` of points with most compute (the product of their sizes), and tests it on these.
///
/// # Errors
/// As [`fit_law`] for the points that are fitted, and if no point is held out or the share is not between 0 and 1.
pub fn held_out(x: &[&[f64]], loss: &[f64], share: f64) -> Result<HeldOut, StatsError> {
    StatsError::require_share("the share of points held out", share)?;
    let points = Points::of(x, loss)?;
    let compute = |i: &usize| -> f64 { x.iter().map(|x| x[*i].ln()).sum() };
    let mut order: Vec<usize> = (0..loss.len()).collect();
    order.sort_by(|a, b| compute(a).total_cmp(&compute(b)));
    let held = (share * loss.len() as f64).round() as usize;
    StatsError::require_at_least("a test on larger runs", "points held out", held, 1)?;
    let (fitted, held) = order.split_at(loss.len() - held);
    let pick = |values: &[f64]| -> Vec<f64> { fitted.iter().map(|&i| values[i]).collect() };
    let picked: Vec<Vec<f64>> = x.iter().map(|x| pick(x)).collect();
    let sizes: Vec<&[f64]> = picked.iter().map(Vec::as_slice).collect();
    let smaller_loss = pick(loss);
    let smaller = Points::of(&sizes, &smaller_loss)?;
    let law = smaller.law(&smaller.best(&(0..fitted.len()).collect::<Vec<_>>()).0);
    let (rms, bias) = points.errors(&law, held);
    Ok(HeldOut { law, fitted: fitted.len(), held: held.len(), rms, bias })
}

/// Points in logarithms, each quantity centred on its mean.
struct Points<'a> {
    x: &'a [&'a [f64]],
    loss: &'a [f64],
    /// `ln x` of each quantity minus its mean, by point.
    log_x: Vec<Vec<f64>>,
    /// `ln L` minus its mean.
    log_loss: Vec<f64>,
    means: Vec<f64>,
    loss_mean: f64,
}

impl<'a> Points<'a> {
    fn of(x: &'a [&'a [f64]], loss: &'a [f64]) -> Result<Self, StatsError> {
        let least = 2 * (1 + 2 * x.len());
        StatsError::require_at_least("a law of loss", "points", loss.len(), least)?;
        for (what, values) in x.iter().map(|x| ("a size", *x)).chain([("a loss", loss)]) {
            StatsError::require_equal_length("sizes", values.len(), loss.len())?;
            if let Some(&value) = values.iter().find(|value| !(**value > 0.0 && value.is_finite())) {
                return Err(StatsError::Value { what, value, expected: "a number above 0" });
            }
        }
        let centred = |values: &[f64]| -> (f64, Vec<f64>) {
            let logs: Vec<f64> = values.iter().map(|value| value.ln()).collect();
            let mean = logs.iter().sum::<f64>() / logs.len() as f64;
            (mean, logs.iter().map(|log| log - mean).collect())
        };
        let (loss_mean, log_loss) = centred(loss);
        let (means, of_quantity): (Vec<f64>, Vec<Vec<f64>>) = x.iter().map(|x| centred(x)).unzip();
        for (k, logs) in of_quantity.iter().enumerate() {
            let mut values = logs.clone();
            values.sort_by(f64::total_cmp);
            values.dedup_by(|a, b| (*a - *b).abs() < 1e-6);
            if values.len() < 3 {
                let problem =
                    format!("the number of different values is {}, expected 3 or more", values.len());
                return Err(StatsError::UndeterminedSize { size: k, problem });
            }
        }
        if let [n, d] = of_quantity.as_slice() {
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let r = dot(n, d) / (dot(n, n) * dot(d, d)).sqrt();
            if r.abs() > 0.999 {
                let problem = format!("the sizes grow together, correlation {r:.4} of their logarithms");
                return Err(StatsError::Undetermined(problem));
            }
        }
        let log_x = (0..loss.len()).map(|i| of_quantity.iter().map(|logs| logs[i]).collect()).collect();
        Ok(Self { x, loss, log_x, log_loss, means, loss_mean })
    }

    /// Sum of the Huber losses over the `chosen` points, and its gradient; `p` is `ln E`, then `ln A` and `alpha` of each term.
    fn objective(&self, chosen: &[usize], p: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        let mut sum = 0.0;
        let mut parts = [0.0; 3];
        for &i in chosen {
            let x = &self.log_x[i];
            parts[0] = p[0];
            x.iter().enumerate().for_each(|(k, x)| parts[k + 1] = p[2 * k + 1] - p[2 * k + 2] * x);
            let parts = &mut parts[..=x.len()];
            let largest = parts.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
            parts.iter_mut().for_each(|part| *part = (*part - largest).exp());
            let total: f64 = parts.iter().sum();
            let residual = largest + total.ln() - self.log_loss[i];
            let is_small = residual.abs() <= HUBER;
            sum += match is_small {
                true => 0.5 * residual * residual,
                false => HUBER * (residual.abs() - 0.5 * HUBER),
            };
            let slope = if is_small { residual } else { HUBER * residual.signum() } / total;
            gradient[0] += slope * parts[0];
            for (k, x) in x.iter().enumerate() {
                gradient[2 * k + 1] += slope * parts[k + 1];
                gradient[2 * k + 2] -= slope * parts[k + 1] * x;
            }
        }
        // Scaled so that a residual of 1 has a loss of about 1, which suits the tolerances of the search.
        let unit = 1.0 / HUBER;
        gradient.iter_mut().for_each(|g| *g *= unit);
        sum * unit
    }

    /// The best parameters over all starts, and the unscaled objective.
    fn best(&self, chosen: &[usize]) -> (Vec<f64>, f64) {
        let f = |p: &[f64], g: &mut [f64]| self.objective(chosen, p, g);
        let mut scratch = vec![0.0; 1 + 2 * self.x.len()];
        let mut ranked: Vec<(f64, Vec<f64>)> =
            self.starts().into_iter().map(|start| (f(&start, &mut scratch), start)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let others = ranked.len().saturating_sub(DOWNHILL).div_ceil(DOWNHILL).max(1);
        let later = ranked.iter().skip(DOWNHILL).step_by(others);
        let starts: Vec<&Vec<f64>> =
            ranked.iter().take(DOWNHILL).chain(later).map(|(_, start)| start).collect();
        let found: Vec<_> = starts.par_iter().map(|start| minimize(&f, start)).collect();
        let best = found.into_iter().min_by(|a, b| a.value.total_cmp(&b.value));
        best.map_or((scratch, f64::NAN), |best| (best.at, best.value * HUBER))
    }

    /// Returns an error unless every term improves the fit to all points, whose Huber loss is `objective`.
    fn require_every_term(&self, all: &[usize], objective: f64) -> Result<(), StatsError> {
        let n = all.len() as f64;
        let exact = 0.5 * n * EXACT * EXACT;
        for left_out in 0..self.x.len() {
            let others: Vec<&[f64]> =
                (0..self.x.len()).filter(|&k| k != left_out).map(|k| self.x[k]).collect();
            let without = Points::of(&others, self.loss)?.best(all).1;
            // The upper tail of F with 2 and df degrees of freedom, at (without / objective - 1) df / 2.
            let df = n - 1.0 - 2.0 * self.x.len() as f64;
            let p = ((objective + exact) / (without + exact)).powf(df / 2.0).min(1.0);
            if p.is_nan() || p > ALPHA {
                let problem = format!(
                    "a law without it fits the losses as well (p = {p:.2}); leave it out, or measure over a wider range of it"
                );
                return Err(StatsError::UndeterminedSize { size: left_out, problem });
            }
        }
        Ok(())
    }

    /// The grid of starts, converted to units of the geometric means.
    fn starts(&self) -> Vec<Vec<f64>> {
        let mut starts: Vec<Vec<f64>> = STARTS_E.iter().map(|e| vec![e - self.loss_mean]).collect();
        for mean in &self.means {
            let with = |start: &Vec<f64>| -> Vec<Vec<f64>> {
                let pairs = STARTS_A.iter().flat_map(|a| STARTS_ALPHA.iter().map(move |alpha| (*a, *alpha)));
                pairs
                    .map(|(a, alpha)| {
                        [start.as_slice(), &[a - self.loss_mean - alpha * mean, alpha]].concat()
                    })
                    .collect()
            };
            starts = starts.iter().flat_map(with).collect();
        }
        starts
    }

    /// The law with parameters `p`, converted to the units of the points.
    fn law(&self, p: &[f64]) -> Law {
        let term = |(k, mean): (usize, &f64)| {
            let (a, alpha) = (p[2 * k + 1], p[2 * k + 2]);
            Term { a: (a + self.loss_mean + alpha * mean).exp(), alpha }
        };
        Law { e: (p[0] + self.loss_mean).exp(), terms: self.means.iter().enumerate().map(term).collect() }
    }

    /// Laws of bootstrap samples, each minimised from the best fit to all points.
    fn resampled(&self, best: &[f64], draws: Draws) -> Vec<Law> {
        let n = self.loss.len();
        let mut random = ChaCha8Rng::seed_from_u64(draws.seed);
        let least = 2 + 2 * self.x.len();
        let mut draw = || loop {
            let chosen: Vec<usize> = (0..n).map(|_| below(&mut random, n)).collect();
            let mut different = chosen.clone();
            different.sort_unstable();
            different.dedup();
            // Fewer distinct points would lie on a curve whatever their values.
            if different.len() >= least {
                return chosen;
            }
        };
        let samples: Vec<Vec<usize>> = (0..draws.count).map(|_| draw()).collect();
        let law = |chosen: &Vec<usize>| {
            let f = |p: &[f64], g: &mut [f64]| self.objective(chosen, p, g);
            self.law(&minimize(&f, best).at)
        };
        samples.par_iter().map(law).collect()
    }

    /// Root mean square and mean of `ln (predicted / measured)` over the `chosen` points.
    fn errors(&self, law: &Law, chosen: &[usize]) -> (f64, f64) {
        let error = |&i: &usize| {
            let x: Vec<f64> = self.x.iter().map(|x| x[i]).collect();
            (law.at(&x) / self.loss[i]).ln()
        };
        let errors: Vec<f64> = chosen.iter().map(error).collect();
        let n = errors.len() as f64;
        ((errors.iter().map(|e| e * e).sum::<f64>() / n).sqrt(), errors.iter().sum::<f64>() / n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::references::{cases, check, numbers};

    const DRAWS: Draws = Draws { count: 100, seed: 1 };

    /// Sizes, tokens and losses of runs that follow a law up to deterministic noise.
    fn runs(noise: f64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (mut n, mut d, mut loss) = (vec![], vec![], vec![]);
        let law =
            Law { e: 1.8, terms: vec![Term { a: 480.0, alpha: 0.35 }, Term { a: 2100.0, alpha: 0.37 }] };
        for i in 0..7 {
            for j in 0..6 {
                let (size, tokens) = (1e7 * 2.5f64.powi(i), 2e8 * 3f64.powi(j));
                let wobble = noise * (f64::from((i * 31 + j * 17) % 13) - 6.0);
                n.push(size);
                d.push(tokens);
                loss.push(law.at(&[size, tokens]) * wobble.exp());
            }
        }
        (n, d, loss)
    }

    #[test]
    fn a_law_without_noise_is_found_again() {
        let (n, d, loss) = runs(0.0);
        let found = fit_law(&[&n, &d], &loss, 0.95, DRAWS).unwrap();
        let [size, tokens] = found.law.terms[..] else { panic!() };
        let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-3, "{found}");
        close(found.law.e, 1.8);
        close(size.a, 480.0);
        close(size.alpha, 0.35);
        close(tokens.a, 2100.0);
        close(tokens.alpha, 0.37);
        close(found.exponent.unwrap().value, 0.37 / 0.72);
        // Other units change only A and B.
        let millions: Vec<f64> = n.iter().map(|n| n / 1e6).collect();
        let again = fit_law(&[&millions, &d], &loss, 0.95, DRAWS).unwrap();
        close(again.law.terms[0].alpha, 0.35);
        close(again.law.terms[0].a, 480.0 / 1e6f64.powf(0.35));
    }

    #[test]
    fn the_fit_agrees_with_scipy() {
        for case in cases("law") {
            let (n, d, loss) = (numbers(&case["n"]), numbers(&case["d"]), numbers(&case["loss"]));
            let found = fit_law(&[&n, &d], &loss, 0.95, DRAWS).unwrap();
            let [size, tokens] = found.law.terms[..] else { panic!() };
            let names = ["E", "A", "alpha", "B", "beta"];
            check(&case, &names, &[found.law.e, size.a, size.alpha, tokens.a, tokens.alpha], 1e-4);
            check(&case, &["objective"], &[found.objective], 1e-8);
        }
    }

    #[test]
    fn one_quantity_has_its_law_too() {
        let n: Vec<f64> = (0..12).map(|i| 1e5 * 2f64.powi(i)).collect();
        let loss: Vec<f64> = n.iter().map(|n| 2.0 + 30.0 * n.powf(-0.3)).collect();
        let found = fit_law(&[&n], &loss, 0.95, DRAWS).unwrap();
        assert!((found.law.e - 2.0).abs() < 1e-3 && found.exponent.is_none(), "{found:?}");
        assert!((found.law.terms[0].alpha - 0.3).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn intervals_hold_the_law_and_larger_runs_are_reported() {
        let (n, d, loss) = runs(0.001);
        let found = fit_law(&[&n, &d], &loss, 0.95, DRAWS).unwrap();
        for (estimate, truth) in [(found.e, 1.8), (found.terms[0].1, 0.35), (found.terms[1].1, 0.37)] {
            assert!(estimate.low < truth && truth < estimate.high, "{estimate:?} {truth}");
            assert!(estimate.low < estimate.value && estimate.value < estimate.high, "{estimate:?}");
        }
        let held = held_out(&[&n, &d], &loss, 0.2).unwrap();
        assert_eq!((held.fitted, held.held), (34, 8));
        assert!(held.rms < 0.01 && held.bias.abs() <= held.rms, "{held:?}");
    }

    #[test]
    fn what_points_do_not_determine_is_reported() {
        let (n, _, loss) = runs(0.0);
        let along: Vec<f64> = n.iter().map(|n| 20.0 * n).collect();
        let problem = |x: &[&[f64]], loss: &[f64]| fit_law(x, loss, 0.95, DRAWS).unwrap_err().to_string();
        assert!(problem(&[&n, &along], &loss).contains("the sizes grow together"));
        assert!(problem(&[&n[..5]], &loss[..5]).contains("too few points: n=5, a law of loss needs 6"));
        assert!(problem(&[&[1e6; 8]], &loss[..8]).contains("size 1: the number of different values is 1"));
        let named = fit_law(&[&[1e6; 8]], &loss[..8], 0.95, DRAWS).unwrap_err().naming(&["params"]);
        assert_eq!(
            named,
            "the points do not determine the fit: params: the number of different values is 1, expected 3 or more"
        );
        assert!(problem(&[&n], &vec![-1.0; n.len()]).contains("a loss is -1, expected a number above 0"));
    }

    #[test]
    fn a_term_that_does_not_matter_is_not_determined() {
        let problem = |x: &[&[f64]], loss: &[f64]| fit_law(x, loss, 0.95, DRAWS).unwrap_err().to_string();
        let (n, d, both) = runs(0.002);
        // E, B and beta have no values if D does not matter: E = 1.7 and E = 0.6 with B = 1.1, beta = 0 are one law.
        for noise in [0.0, 0.002] {
            let wobble = |i: usize| noise * (((i * 31) % 13) as f64 - 6.0);
            let loss: Vec<f64> =
                n.iter().enumerate().map(|(i, n)| (1.7 + 400.0 * n.powf(-0.34)) * wobble(i).exp()).collect();
            assert!(problem(&[&n, &d], &loss).contains("size 2: a law without it fits the losses as well"));
            assert!(problem(&[&d, &n], &loss).contains("size 1: a law without it fits the losses as well"));
            assert!(fit_law(&[&n], &loss, 0.95, DRAWS).is_ok());
        }
        let flat = vec![2.0; n.len()];
        assert!(
            problem(&[&n], &flat).contains("size 1: a law without it fits the losses as well (p = 1.00)")
        );
        assert!(fit_law(&[&n, &d], &both, 0.95, DRAWS).is_ok());
    }

    #[test]
    fn noise_is_no_law() {
        use rand::Rng;
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let (n, d, _) = runs(0.0);
        let fits = |random: &mut ChaCha8Rng| {
            let loss: Vec<f64> = n[..24].iter().map(|_| 3.0 + 0.1 * random.random_range(-1.0..1.0)).collect();
            fit_law(&[&n[..24], &d[..24]], &loss, 0.95, DRAWS).is_ok()
        };
        assert_eq!((0..8).filter(|_| fits(&mut random)).count(), 0);
    }

    #[test]
    fn a_loss_that_rises_has_an_exponent_below_0_and_no_best_size() {
        let (n, d, _) = runs(0.0);
        let loss: Vec<f64> =
            n.iter().zip(&d).map(|(n, d)| 1.0 + 0.01 * n.powf(0.2) + 90.0 * d.powf(-0.25)).collect();
        let found = fit_law(&[&n, &d], &loss, 0.95, DRAWS).unwrap();
        assert!((found.law.terms[0].alpha + 0.2).abs() < 1e-3, "{found:?}");
        assert_eq!((found.exponent, found.rising().collect::<Vec<_>>()), (None, vec![0]));
    }

    #[test]
    fn gradients_are_those_of_the_objective() {
        let (n, d, loss) = runs(0.01);
        let sizes: [&[f64]; 2] = [&n, &d];
        let points = Points::of(&sizes, &loss).unwrap();
        let all: Vec<usize> = (0..loss.len()).collect();
        let p = [-0.3, -1.0, 0.4, -1.2, 0.3];
        let (mut gradient, mut scratch) = ([0.0; 5], [0.0; 5]);
        points.objective(&all, &p, &mut gradient);
        for i in 0..5 {
            let mut at = |h: f64| {
                let mut moved = p;
                moved[i] += h;
                points.objective(&all, &moved, &mut scratch)
            };
            let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
            assert!(
                (slope - gradient[i]).abs() < 1e-4 * slope.abs().max(1.0),
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }
}
