//! Iso-FLOP curves: the size with the lowest loss for each compute budget, and how it grows with the budget.

use super::{Fit, FitKind, fit};
use crate::{Estimate, StatsError, t_quantile};

/// The size with the lowest loss under a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimum {
    /// The optimal size, in the unit of the sizes given.
    pub size: f64,
    /// Loss at that size by the parabola, or as measured if the budget has a single run.
    pub loss: f64,
    /// The size with its interval; `None` if there are at most three points, which leave no residual to estimate it from.
    pub interval: Option<Estimate>,
    /// Coefficient of the parabola: the loss rises by this times `ln(size / optimum)^2`; `None` if the budget has a single
    /// run, taken as its optimum.
    pub curvature: Option<f64>,
}

impl Optimum {
    /// Loss at another size by the parabola; `None` without one.
    pub fn loss_at(&self, size: f64) -> Option<f64> {
        Some(self.loss + self.curvature? * (size / self.size).ln().powi(2))
    }
}

/// One compute budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Budget {
    /// Its compute in FLOPs: the geometric mean over its runs.
    pub flops: f64,
    /// Indices of its runs, in ascending order of compute.
    pub runs: Vec<usize>,
    /// Its optimum, or why it has none.
    pub optimum: Result<Optimum, StatsError>,
}

/// Optima of several budgets.
#[derive(Debug, Clone, PartialEq)]
pub struct IsoFlop {
    /// The budgets, in ascending order.
    pub budgets: Vec<Budget>,
    /// `size = a C^b` fitted to the optima by least squares in logarithms.
    pub law: Fit,
    /// Whether every budget has a single run, taken as its optimum, so that no parabola was fitted.
    pub is_given: bool,
}

/// A run belongs to a budget if its compute is at most this share above that of the budget's smallest run: training takes
/// whole steps.
const SAME: f64 = 0.1;

/// Fits a parabola of the loss over the logarithm of the size to the runs of each budget, and a power law to their
/// minima (Hoffmann et al. 2022, approach 2). If every budget has a single run, that run is taken as its optimum.
///
/// A budget with too few runs, or whose losses have no minimum within its sizes, has no optimum and is left out of the
/// power law.
///
/// # Errors
/// If there are fewer than three budgets with an optimum, a number that is not above 0, columns of unequal length, or the
/// level is not between 0 and 1.
pub fn isoflop(flops: &[f64], size: &[f64], loss: &[f64], level: f64) -> Result<IsoFlop, StatsError> {
    let budgets = budgets(flops, size, loss, level)?;
    let is_given = budgets.iter().all(|budget| budget.runs.len() == 1);
    Ok(IsoFlop { law: growth(&budgets, level)?, budgets, is_given })
}

/// Fits the growth of the optimum with the budget: a power law through the optima of [`budgets`].
///
/// # Errors
/// If there are fewer than three budgets with an optimum, or the level is not between 0 and 1.
pub fn growth(budgets: &[Budget], level: f64) -> Result<Fit, StatsError> {
    let optima: Vec<(f64, f64)> =
        budgets.iter().filter_map(|b| Some((b.flops, b.optimum.as_ref().ok()?.size))).collect();
    StatsError::require_at_least("the growth of the optimum", "budgets with an optimum", optima.len(), 3)?;
    fit(FitKind::Power, &optima, level)
}

/// Groups runs into the budgets of [`isoflop`], in ascending order, each with its optimum or why it has none.
///
/// # Errors
/// If a number is not above 0, the columns differ in length, or the level is not between 0 and 1.
pub fn budgets(flops: &[f64], size: &[f64], loss: &[f64], level: f64) -> Result<Vec<Budget>, StatsError> {
    StatsError::require_share("the level", level)?;
    for (what, values) in [("a budget", flops), ("a size", size), ("a loss", loss)] {
        StatsError::require_equal_length("the columns", values.len(), flops.len())?;
        if let Some(&value) = values.iter().find(|value| !(**value > 0.0 && value.is_finite())) {
            return Err(StatsError::Value { what, value, expected: "a number above 0" });
        }
    }
    let mut order: Vec<usize> = (0..flops.len()).collect();
    order.sort_by(|&a, &b| flops[a].total_cmp(&flops[b]));
    let mut groups: Vec<Vec<usize>> = vec![];
    for run in order {
        match groups.last_mut() {
            Some(group) if flops[run] <= flops[group[0]] * (1.0 + SAME) => group.push(run),
            _ => groups.push(vec![run]),
        }
    }
    let is_given = groups.iter().all(|group| group.len() == 1);
    let of_group = |group: &Vec<usize>| {
        let points: Vec<(f64, f64)> = group.iter().map(|&i| (size[i], loss[i])).collect();
        let optimum = match points.as_slice() {
            [(size, loss)] if is_given => {
                Ok(Optimum { size: *size, loss: *loss, interval: None, curvature: None })
            }
            several => parabola(several, level),
        };
        let compute: Vec<f64> = group.iter().map(|&i| flops[i]).collect();
        Budget { flops: geometric_mean(&compute), runs: group.clone(), optimum }
    };
    Ok(groups.iter().map(of_group).collect())
}

/// Geometric mean of sorted numbers; for equal ones exactly their value.
fn geometric_mean(sorted: &[f64]) -> f64 {
    match sorted {
        [first, .., last] if first < last => {
            (sorted.iter().map(|value| value.ln()).sum::<f64>() / sorted.len() as f64).exp()
        }
        _ => sorted[0],
    }
}

/// The minimum of `loss = c0 + c1 u + c2 u^2` in `u = ln size`, with its interval by the delta method.
fn parabola(points: &[(f64, f64)], level: f64) -> Result<Optimum, StatsError> {
    let n = points.len();
    StatsError::require_at_least("a parabola", "runs of a budget", n, 3)?;
    let logs: Vec<f64> = points.iter().map(|p| p.0.ln()).collect();
    let middle = logs.iter().sum::<f64>() / n as f64;
    let scale = logs.iter().fold(0.0f64, |scale, log| scale.max((log - middle).abs()));
    let undetermined = |text: &str| StatsError::Undetermined(text.into());
    if scale < 1e-9 {
        return Err(undetermined("all runs of the budget have one size"));
    }
    let u: Vec<f64> = logs.iter().map(|log| (log - middle) / scale).collect();
    // Normal equations of the three coefficients.
    let moment = |k: i32| u.iter().map(|u| u.powi(k)).sum::<f64>();
    let with = |k: i32| u.iter().zip(points).map(|(u, p)| u.powi(k) * p.1).sum::<f64>();
    let matrix = [
        [moment(0), moment(1), moment(2)],
        [moment(1), moment(2), moment(3)],
        [moment(2), moment(3), moment(4)],
    ];
    let inverse =
        inverse(matrix).ok_or_else(|| undetermined("the runs of the budget have fewer than three sizes"))?;
    let right = [with(0), with(1), with(2)];
    let [c0, c1, c2] = [0, 1, 2].map(|i| (0..3).map(|j| inverse[i][j] * right[j]).sum::<f64>());
    let left: f64 = u.iter().zip(points).map(|(u, p)| (p.1 - c0 - c1 * u - c2 * u * u).powi(2)).sum();
    if c2 <= 0.0 {
        return Err(undetermined("the losses of the budget have no minimum"));
    }
    let lowest = -c1 / (2.0 * c2);
    let ends = u.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), u| (l.min(*u), h.max(*u)));
    if lowest < ends.0 || lowest > ends.1 {
        return Err(undetermined("the minimum of the parabola lies outside the sizes that were run"));
    }
    let size = |u: f64| (middle + scale * u).exp();
    let interval = (n > 3).then(|| {
        let df = (n - 3) as f64;
        // Derivatives of lowest = -c1 / (2 c2) with respect to c1 and c2.
        let (by1, by2) = (-1.0 / (2.0 * c2), c1 / (2.0 * c2 * c2));
        let shape = by1 * by1 * inverse[1][1] + 2.0 * by1 * by2 * inverse[1][2] + by2 * by2 * inverse[2][2];
        let half = t_quantile(0.5 + level / 2.0, df) * (left / df * shape).sqrt();
        let (low, high) = (size(lowest - half), size(lowest + half));
        Estimate { value: size(lowest), low, high, level, n, df: Some(df) }
    });
    let curvature = Some(c2 / (scale * scale));
    Ok(Optimum { size: size(lowest), loss: c0 - c1 * c1 / (4.0 * c2), interval, curvature })
}

/// Inverse of a symmetric matrix by its cofactors; `None` if it is singular.
fn inverse(m: [[f64; 3]; 3]) -> Option<[[f64; 3]; 3]> {
    let minor = |i: usize, j: usize| {
        let (r, c) = ([(i + 1) % 3, (i + 2) % 3], [(j + 1) % 3, (j + 2) % 3]);
        m[r[0]][c[0]] * m[r[1]][c[1]] - m[r[0]][c[1]] * m[r[1]][c[0]]
    };
    let determinant: f64 = (0..3).map(|j| m[0][j] * minor(0, j)).sum();
    let size = m[0][0] * m[1][1] * m[2][2];
    (determinant.abs() > 1e-12 * size.abs())
        .then(|| [0, 1, 2].map(|i| [0, 1, 2].map(|j| minor(j, i) / determinant)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::references::{cases, check, numbers};
    use crate::testing::shared;

    #[test]
    fn published_optima_have_the_published_exponents() {
        let Some(path) = shared("references/iso_flop.csv") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
        // Least squares in logarithms; nanochat's log gives 0.54, 0.49, 0.37 and 0.50.
        for (counting, params, tokens) in [("kaplan", 0.524, 0.479), ("chinchilla", 0.366, 0.490)] {
            let of = |column: usize| -> Vec<f64> {
                let own = rows.iter().filter(|row| row[0] == counting);
                own.map(|row| row[column].parse().unwrap()).collect()
            };
            for (column, expected) in [(2, params), (3, tokens)] {
                let found = isoflop(&of(1), &of(column), &of(4), 0.95).unwrap();
                assert!(found.is_given && found.budgets.len() == 4);
                let b = found.law.b.value;
                assert!((b - expected).abs() < 1e-3, "{counting}, column {column}: {b}");
            }
        }
    }

    #[test]
    fn parabolas_agree_with_numpy() {
        for case in cases("parabola") {
            let points: Vec<(f64, f64)> =
                numbers(&case["size"]).into_iter().zip(numbers(&case["loss"])).collect();
            let found = parabola(&points, 0.95).unwrap();
            let interval = found.interval.unwrap();
            let found = [found.size, found.loss, interval.low, interval.high];
            check(&case, &["lowest", "least", "low", "high"], &found, 1e-6);
        }
    }

    #[test]
    fn runs_of_nearly_one_budget_are_one() {
        let found = budgets(&[1e15, 1.02e15, 3e15, 0.99e15], &[4.0, 2.0, 8.0, 1.0], &[1.0; 4], 0.95).unwrap();
        assert_eq!(found.iter().map(|b| b.runs.clone()).collect::<Vec<_>>(), [vec![3, 0, 1], vec![2]]);
        // The cube root of 0.99 * 1 * 1.02.
        assert!((found[0].flops / 1.003_256e15 - 1.0).abs() < 1e-6 && found[1].flops == 3e15, "{found:?}");
    }

    #[test]
    fn a_budget_does_not_grow_from_run_to_run() {
        // Neighbours differ by less than 10 %, the ends by 18 %.
        let found = budgets(&[1e15, 1.09e15, 1.18e15], &[1.0, 2.0, 4.0], &[1.0; 3], 0.95).unwrap();
        assert_eq!(found.iter().map(|b| b.runs.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![2]]);
    }

    #[test]
    fn runs_of_several_budgets_have_their_growth() {
        let (mut flops, mut size, mut loss) = (vec![], vec![], vec![]);
        for c in [1e15f64, 1e16, 1e17, 1e18] {
            let best = 0.1 * c.powf(0.5);
            for factor in [0.25, 0.5, 1.0, 2.0, 4.0f64] {
                flops.push(c * (1.0 + 1e-5 * factor));
                size.push(best * factor);
                loss.push(3.0 - 0.05 * c.ln() + 0.02 * factor.ln().powi(2));
            }
        }
        // The loss of the largest budget falls up to its last size, so this budget no longer counts.
        loss[15..].iter_mut().enumerate().for_each(|(i, loss)| *loss = 2.0 - 0.05 * i as f64);
        let found = isoflop(&flops, &size, &loss, 0.95).unwrap();
        assert!((found.law.b.value - 0.5).abs() < 1e-4 && !found.is_given, "{found:?}");
        assert_eq!(found.budgets.iter().map(|b| b.runs.len()).collect::<Vec<_>>(), [5; 4]);
        let left_out = found.budgets[3].optimum.as_ref().unwrap_err().to_string();
        assert!(left_out.contains("no minimum") || left_out.contains("outside"), "{left_out}");
        assert!(isoflop(&flops[..10], &size[..10], &loss[..10], 0.95).is_err());
    }

    #[test]
    fn too_few_sizes_are_no_parabola() {
        assert!(parabola(&[(1.0, 3.0), (2.0, 2.0)], 0.95).is_err());
        assert!(parabola(&[(1.0, 3.0), (2.0, 2.0), (2.0, 2.1), (1.0, 3.1)], 0.95).is_err());
        assert!(parabola(&[(1.0, 1.0), (2.0, 2.0), (4.0, 1.0)], 0.95).is_err());
        let three = parabola(&[(1.0, 1.0), (2.0, 0.5), (4.0, 1.0)], 0.95).unwrap();
        assert!((three.size - 2.0).abs() < 1e-12 && three.interval.is_none());
        // A parabola of three points passes through them.
        for (size, loss) in [(1.0, 1.0), (2.0, 0.5), (4.0, 1.0)] {
            assert!((three.loss_at(size).unwrap() - loss).abs() < 1e-12);
        }
    }
}
