//! Bootstraps: how a mean varies when its units are resampled.
//!
//! Intervals are Hesterberg's expanded percentiles (2015, section 5.3): with `n` units, the plain percentiles of a mean
//! are too narrow by `sqrt((n - 1) / n)` and by the normal quantile in place of Student's.

use super::{Estimate, StatsError, by_cluster, normal_cdf, t_quantile};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Number of draws in reports: the ends of an interval vary by about 1 % of its width from seed to seed.
pub const DRAWS: u32 = 10_000;

/// Minimum number of units to resample: with eight subjects, the nominal 95 % interval covers 92.9 %.
const UNITS: usize = 10;

/// Number and seed of the draws of a bootstrap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draws {
    /// Number of draws.
    pub count: u32,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for Draws {
    fn default() -> Self {
        Self { count: DRAWS, seed: 1 }
    }
}

/// Bootstraps the mean of independent values (Efron 1979).
///
/// # Errors
/// If there are fewer than ten values or 100 draws, a value that is not finite, values that do not vary, or a level that
/// is not between 0 and 1.
pub fn bootstrap(values: &[f64], level: f64, draws: Draws) -> Result<Estimate, StatsError> {
    let clusters: Vec<usize> = (0..values.len()).collect();
    resampled("the bootstrap", "values", values, &clusters, level, draws)
}

/// Bootstraps the mean of the differences `a - b` of pairs, such as of two models' scores on a question.
///
/// # Errors
/// As [`bootstrap`], and if the slices differ in length.
pub fn paired_bootstrap(a: &[f64], b: &[f64], level: f64, draws: Draws) -> Result<Estimate, StatsError> {
    StatsError::require_equal_length("b", b.len(), a.len())?;
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    bootstrap(&differences, level, draws)
}

/// Bootstraps the mean of values in clusters, such as of questions in subjects: whole clusters are resampled (Davison &
/// Hinkley 1997, section 3.8), and each of their values counts.
///
/// # Errors
/// As [`bootstrap`] for the number of clusters, and if the slices differ in length.
pub fn cluster_bootstrap(
    values: &[f64],
    clusters: &[usize],
    level: f64,
    draws: Draws,
) -> Result<Estimate, StatsError> {
    StatsError::require_equal_length("clusters", clusters.len(), values.len())?;
    resampled("the cluster bootstrap", "clusters", values, clusters, level, draws)
}

fn resampled(
    method: &'static str,
    units: &'static str,
    values: &[f64],
    clusters: &[usize],
    level: f64,
    draws: Draws,
) -> Result<Estimate, StatsError> {
    StatsError::require_finite("a value", values)?;
    let groups: Vec<(f64, f64)> = by_cluster(values, clusters)
        .into_iter()
        .map(|group| (group.iter().sum(), group.len() as f64))
        .collect();
    let n = groups.len();
    StatsError::require_at_least(method, units, n, UNITS)?;
    let mut random = ChaCha8Rng::seed_from_u64(draws.seed);
    let mut draw = || {
        let add = |(sum, size): (f64, f64), _| {
            let group = groups[below(&mut random, n)];
            (sum + group.0, size + group.1)
        };
        let (sum, size) = (0..n).fold((0.0, 0.0), add);
        sum / size
    };
    let means: Vec<f64> = (0..draws.count).map(|_| draw()).collect();
    percentiles(values.iter().sum::<f64>() / values.len() as f64, means, n, level)
}

/// Bootstraps the mean of a complete table of many seeds (rows) and many questions (columns): rows and columns are
/// resampled independently (the pigeonhole bootstrap, Owen 2007), as if other seeds had answered other questions.
///
/// Its variance counts that of single answers up to three times (Owen 2007, theorem 3), so the interval is too wide if
/// that variance dominates, and never much too narrow.
///
/// # Errors
/// If there are fewer than ten seeds or questions or 100 draws, rows of different lengths, a score that is not finite,
/// nothing varies, or the level is not between 0 and 1.
pub fn pigeonhole_bootstrap(table: &[Vec<f64>], level: f64, draws: Draws) -> Result<Estimate, StatsError> {
    let method = "the pigeonhole bootstrap";
    StatsError::require_at_least(method, "seeds", table.len(), UNITS)?;
    let (seeds, questions) = (table.len(), table[0].len());
    StatsError::require_at_least(method, "questions", questions, UNITS)?;
    for row in table {
        StatsError::require_equal_length("a seed's answers", row.len(), questions)?;
        StatsError::require_finite("a score", row)?;
    }
    let mut random = ChaCha8Rng::seed_from_u64(draws.seed);
    let mut draw = || {
        let mut times = vec![0.0; questions];
        (0..questions).for_each(|_| times[below(&mut random, questions)] += 1.0);
        let row = |_| -> f64 {
            let row = &table[below(&mut random, seeds)];
            row.iter().zip(&times).map(|(score, times)| score * times).sum()
        };
        (0..seeds).map(row).sum::<f64>() / (seeds * questions) as f64
    };
    let means: Vec<f64> = (0..draws.count).map(|_| draw()).collect();
    let all = table.iter().flatten().sum::<f64>() / (seeds * questions) as f64;
    percentiles(all, means, seeds.min(questions), level)
}

/// Percentile interval of a mean from its draws, expanded for `n` units.
fn percentiles(value: f64, mut means: Vec<f64>, n: usize, level: f64) -> Result<Estimate, StatsError> {
    StatsError::require_share("the level", level)?;
    StatsError::require_at_least("a bootstrap", "draws", means.len(), 100)?;
    means.sort_by(f64::total_cmp);
    let expansion = (n as f64 / (n as f64 - 1.0)).sqrt();
    let tail = normal_cdf(-expansion * t_quantile(0.5 + level / 2.0, n as f64 - 1.0));
    let (low, high) = (quantile(&means, tail), quantile(&means, 1.0 - tail));
    if high - low <= 1e-9 * value.abs() {
        return Err(StatsError::NoVariance);
    }
    Ok(Estimate { value, low, high, level, n, df: None })
}

/// Quantile of sorted values, linearly interpolated (Hyndman & Fan 1996, type 7).
pub(super) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

/// Random integer below `n`, identical on every machine; the bias is less than one in a million for every `n` below 4,000.
pub(super) fn below(random: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(random.next_u32()) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Mean;
    use super::*;

    /// Deterministic values that are nearly normal: quantiles.
    fn normal(n: usize) -> Vec<f64> {
        (0..n).map(|i| super::super::normal_quantile((i as f64 + 0.5) / n as f64)).collect()
    }

    #[test]
    fn expanded_percentiles_are_near_students_t() {
        for n in [10, 12, 50] {
            let values = normal(n);
            let found = bootstrap(&values, 0.95, Draws { count: 40_000, seed: 3 }).unwrap();
            let t = Mean::of(&values).unwrap().interval(0.95);
            let share = (found.high - found.low) / (t.high - t.low);
            assert!((share - 1.0).abs() < 0.05, "{n}: {share}");
        }
    }

    #[test]
    fn equal_seeds_and_values_give_equal_intervals() {
        let values = normal(20);
        let of = |seed| bootstrap(&values, 0.95, Draws { count: 500, seed }).unwrap();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        let twice: Vec<f64> = values.iter().map(|v| 2.0 * v).collect();
        assert_eq!(paired_bootstrap(&twice, &values, 0.95, Draws { count: 500, seed: 1 }).unwrap(), of(1));
    }

    #[test]
    fn clusters_are_drawn_whole() {
        // Ten subjects of thirty equal answers each carry no more information than ten values.
        let of_subjects = normal(10);
        let values: Vec<f64> = of_subjects.iter().flat_map(|v| [*v; 30]).collect();
        let clusters: Vec<usize> = (0..300).map(|i| i / 30).collect();
        let found = cluster_bootstrap(&values, &clusters, 0.95, Draws::default()).unwrap();
        let t = Mean::of(&of_subjects).unwrap().interval(0.95);
        assert_eq!(found.n, 10);
        assert!(((found.high - found.low) / (t.high - t.low) - 1.0).abs() < 0.05, "{found:?} {t:?}");
    }

    #[test]
    fn the_pigeonhole_counts_seeds_and_questions() {
        // Seed and question effects alone: the variance of the mean is the sum of both.
        let (seeds, questions) = (normal(30), normal(40));
        let table: Vec<Vec<f64>> =
            seeds.iter().map(|s| questions.iter().map(|q| s + 2.0 * q).collect()).collect();
        let found = pigeonhole_bootstrap(&table, 0.95, Draws { count: 4_000, seed: 5 }).unwrap();
        let mean = super::super::Components::of(&table).unwrap().mean().unwrap().interval(0.95);
        let share = (found.high - found.low) / (mean.high - mean.low);
        assert!((share - 1.0).abs() < 0.06, "{share}");
    }

    #[test]
    fn too_few_units_are_refused() {
        let refused = cluster_bootstrap(&[1.0, 2.0, 3.0, 4.0], &[0, 0, 1, 1], 0.95, Draws::default());
        assert_eq!(refused.unwrap_err().to_string(), "too few clusters: n=2, the cluster bootstrap needs 10");
        assert_eq!(bootstrap(&[1.0; 12], 0.95, Draws::default()), Err(StatsError::NoVariance));
        assert!(pigeonhole_bootstrap(&vec![vec![1.0; 9]; 3], 0.95, Draws::default()).is_err());
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|p| quantile(&[1.0, 2.0, 4.0], p)), [1.0, 1.5, 2.0, 4.0]);
    }
}
