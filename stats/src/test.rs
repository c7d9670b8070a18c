//! Exact tests: of counts by the binomial distribution, and of values over seeds by randomisation.

use super::resample::below;
use super::{StatsError, TestResult};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{Binomial, Discrete, DiscreteCDF};

/// Maximum number of outcomes of a randomisation that are enumerated; of more, [`DRAWS`] are drawn.
const MAX_COUNTED: u64 = 1 << 17;

/// Number of random outcomes of a randomisation test: the standard error of a p near 0.05 is 0.0007.
const DRAWS: u64 = 99_999;

/// The seed of the draws.
const SEED: u64 = 1;

/// Exact two-sided binomial test that the share of correct answers is `p0`: the probability of all outcomes that are no
/// likelier than the one observed, as in R and SciPy. NaN if `p0` is not a probability or `correct` exceeds `n`.
///
/// Assumes independent answers, which those of several seeds to the same questions are not: see [`super::guessing`].
pub fn binomial_p(correct: u64, n: u64, p0: f64) -> f64 {
    let Ok(binomial) = Binomial::new(p0, n) else { return f64::NAN };
    if correct > n {
        return f64::NAN;
    }
    // Equal probabilities count; the slack absorbs rounding (R and SciPy allow the same).
    let limit = binomial.pmf(correct) * (1.0 + 1e-7);
    (0..=n).map(|k| binomial.pmf(k)).filter(|p| *p <= limit).sum::<f64>().min(1.0)
}

/// Exact p of the null hypothesis that the share of correct answers differs from `p0` by `margin` or more: the larger p of
/// the one-sided binomial tests that it is `p0 - margin` at most and `p0 + margin` at least (Schuirmann 1987).
///
/// Assumes independent answers, as [`binomial_p`].
///
/// # Errors
/// If there are more correct answers than questions, or unless `p0 - margin` and `p0 + margin` are between 0 and 1 and the
/// margin is above 0.
pub fn binomial_equivalence(correct: u64, n: u64, p0: f64, margin: f64) -> Result<f64, StatsError> {
    if correct > n {
        let (what, expected) = ("the number of correct answers", "at most the number of questions");
        return Err(StatsError::Value { what, value: correct as f64, expected });
    }
    let (low, high) = (p0 - margin, p0 + margin);
    let binomials = match margin > 0.0 && low > 0.0 && high < 1.0 {
        true => Binomial::new(low, n).ok().zip(Binomial::new(high, n).ok()),
        false => None,
    };
    let Some((low, high)) = binomials else {
        let expected = "above 0 and smaller than the distance from chance to 0 and to 1";
        return Err(StatsError::Value { what: "the margin", value: margin, expected });
    };
    let above = if correct == 0 { 1.0 } else { low.sf(correct - 1) };
    Ok(above.max(high.cdf(correct)))
}

/// Exact test of McNemar (1947; exact by Cochran 1950) that two models are equally often correct on the same questions,
/// of which only the first answers `only_a` correctly and only the second `only_b`: two-sided binomial test of the
/// questions on which they disagree. p is 1 if they never do.
///
/// Assumes independent questions. The statistic is `only_a`, n the number of disagreements.
pub fn mcnemar(only_a: u64, only_b: u64) -> TestResult {
    let n = only_a + only_b;
    let p = if n == 0 { 1.0 } else { binomial_p(only_a, n, 0.5) };
    TestResult { statistic: only_a as f64, df: None, p, n: n as usize }
}

/// Smallest two-sided p that a sign-flip test of `n` differences allows: `2^(1 - n)`.
pub fn smallest_sign_flip_p(n: usize) -> f64 {
    2.0 * 0.5f64.powi(n.min(2000) as i32)
}

/// Smallest two-sided p that a permutation test of two samples allows: one of all ways to choose them, or two if they are
/// of equal size and can be swapped.
pub fn smallest_permutation_p(a: usize, b: usize) -> f64 {
    if a == b { 2.0 / ways(a + b, a) } else { 1.0 / ways(a + b, a) }
}

/// Sign-flip test (Fisher 1935) that differences are symmetric about 0: p is the share of all sign assignments for
/// which the mean is at least as far from 0 as observed, on either side. With more than 17 differences, signs are drawn,
/// and p is `(1 + hits) / (1 + draws)` (Phipson & Smyth 2010).
///
/// Assumes only that each difference is symmetric about 0 if there is no effect, as it is for exchangeable pairs. The
/// statistic is the mean difference.
///
/// # Errors
/// If there are too few differences to reach the level whatever their values (five cannot go below 0.0625), one that is
/// not finite, or the level is not between 0 and 1.
pub fn sign_flip(differences: &[f64], level: f64) -> Result<TestResult, StatsError> {
    let n = differences.len();
    StatsError::require_finite("a difference", differences)?;
    reachable("the sign-flip test", format!("{n} pairs"), smallest_sign_flip_p(n), level)?;
    let size: f64 = differences.iter().map(|d| d.abs()).sum();
    let seen = differences.iter().sum::<f64>();
    // Equal sums count; the slack absorbs rounding.
    let limit = seen.abs() - 1e-12 * size;
    let flipped = |signs: u64| -> f64 {
        let signed = |(i, d): (usize, &f64)| if signs >> (i % 64) & 1 == 1 { -d } else { *d };
        differences.iter().enumerate().map(signed).sum()
    };
    let p = if n < 64 && 1u64 << n <= MAX_COUNTED {
        let all = 1u64 << n;
        (0..all).filter(|&signs| flipped(signs).abs() >= limit).count() as f64 / all as f64
    } else {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let mut draw =
            || -> f64 { differences.chunks(64).map(|chunk| signed_sum(chunk, random.next_u64())).sum() };
        let hits = (0..DRAWS).filter(|_| draw().abs() >= limit).count();
        (1 + hits) as f64 / (1 + DRAWS) as f64
    };
    Ok(TestResult { statistic: seen / n as f64, df: None, p, n })
}

fn signed_sum(values: &[f64], signs: u64) -> f64 {
    values.iter().enumerate().map(|(i, v)| if signs >> i & 1 == 1 { -v } else { *v }).sum()
}

/// Permutation test (Pitman 1937) that two independent samples come from one distribution: p is the share of all ways to
/// assign the values to the samples for which the means are at least as far apart as observed, on either side. If there
/// are more than 131,072 ways, they are drawn, and p is `(1 + hits) / (1 + draws)`.
///
/// Assumes that the values are exchangeable if there is no effect: if the variances of the samples differ, it tests that
/// too. The statistic is the difference of the means, `a - b`.
///
/// # Errors
/// If there are too few values to reach the level whatever they are (three against three cannot go below 0.1), one that
/// is not finite, or the level is not between 0 and 1.
pub fn permutation(a: &[f64], b: &[f64], level: f64) -> Result<TestResult, StatsError> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    StatsError::require_finite("a value", &all)?;
    let smallest = smallest_permutation_p(a.len(), b.len());
    reachable("the permutation test", format!("{} against {} values", a.len(), b.len()), smallest, level)?;
    let (n, k) = (all.len(), a.len());
    let total: f64 = all.iter().sum();
    let difference = |sum: f64| sum / k as f64 - (total - sum) / (n - k) as f64;
    let seen = difference(a.iter().sum());
    let size = all.iter().fold(0.0f64, |size, value| size.max(value.abs()));
    let limit = seen.abs() - 1e-12 * size;
    let p = if ways(n, k) <= MAX_COUNTED as f64 {
        let (mut hits, mut count) = (0u64, 0u64);
        let mut chosen: Vec<usize> = (0..k).collect();
        loop {
            count += 1;
            hits += u64::from(difference(chosen.iter().map(|&i| all[i]).sum()).abs() >= limit);
            if !next_choice(&mut chosen, n) {
                break;
            }
        }
        hits as f64 / count as f64
    } else {
        let (mut random, mut values) = (ChaCha8Rng::seed_from_u64(SEED), all);
        let mut draw = || {
            // A partial shuffle, of the first k places only.
            (0..k).for_each(|i| values.swap(i, i + below(&mut random, n - i)));
            difference(values[..k].iter().sum()).abs()
        };
        let hits = (0..DRAWS).filter(|_| draw() >= limit).count();
        (1 + hits) as f64 / (1 + DRAWS) as f64
    };
    Ok(TestResult { statistic: seen, df: None, p, n })
}

/// Advances to the next combination of indices below `n`, in lexicographic order; returns `false` after the last.
fn next_choice(chosen: &mut [usize], n: usize) -> bool {
    let k = chosen.len();
    let Some(i) = (0..k).rev().find(|&i| chosen[i] < n - k + i) else { return false };
    chosen[i] += 1;
    (i + 1..k).for_each(|j| chosen[j] = chosen[j - 1] + 1);
    true
}

/// Number of ways to choose `k` of `n`.
fn ways(n: usize, k: usize) -> f64 {
    (1..=k.min(n - k)).map(|i| (n - i + 1) as f64 / i as f64).product::<f64>().round()
}

fn reachable(method: &'static str, n: String, smallest: f64, level: f64) -> Result<(), StatsError> {
    StatsError::require_share("the level", level)?;
    if smallest > level { Err(StatsError::OutOfReach { method, n, smallest, level }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, numbers, whole};
    use super::*;

    #[test]
    fn tests_of_counts_agree_with_scipy() {
        for case in cases("binomial") {
            let [correct, n] = ["correct", "n"].map(|key| whole(&case[key]));
            check(&case, &["p"], &[binomial_p(correct, n, case["p0"].as_f64().unwrap())], 1e-9);
        }
        for case in cases("mcnemar") {
            let [a, b] = ["only_a", "only_b"].map(|key| whole(&case[key]));
            check(&case, &["p"], &[mcnemar(a, b).p], 1e-9);
        }
    }

    #[test]
    fn randomisations_agree_with_scipy() {
        for case in cases("sign_flip") {
            let found = sign_flip(&numbers(&case["differences"]), 0.5).unwrap();
            check(&case, &["statistic", "p"], &[found.statistic, found.p], 1e-12);
        }
        for case in cases("permutation") {
            let found = permutation(&numbers(&case["a"]), &numbers(&case["b"]), 0.5).unwrap();
            check(&case, &["statistic", "p"], &[found.statistic, found.p], 1e-12);
        }
    }

    #[test]
    fn draws_come_near_to_every_outcome_counted() {
        // Twenty differences: exact by counting sums in units of a tenth over all 2^20 signs.
        let tenths: Vec<i64> =
            (0..20).map(|i| [7, -3, 4, 9, -5, 2, 6, -1, 8, 1][i % 10] + i as i64 / 10).collect();
        let mut ways = std::collections::BTreeMap::from([(0i64, 1.0)]);
        for d in &tenths {
            let mut next = std::collections::BTreeMap::new();
            for (sum, count) in &ways {
                *next.entry(sum + d).or_insert(0.0) += count / 2.0;
                *next.entry(sum - d).or_insert(0.0) += count / 2.0;
            }
            ways = next;
        }
        let seen: i64 = tenths.iter().sum();
        let exact: f64 = ways.iter().filter(|(sum, _)| sum.abs() >= seen.abs()).map(|(_, p)| p).sum();
        let differences: Vec<f64> = tenths.iter().map(|d| *d as f64 / 10.0).collect();
        let found = sign_flip(&differences, 0.05).unwrap();
        assert!((found.p - exact).abs() < 4.0 * (exact * (1.0 - exact) / 1e5).sqrt(), "{} {exact}", found.p);
        // Eleven against eleven: more ways than are enumerated. Both samples are nearly normal, so the p of the t-test is close.
        let sample =
            |shift: f64| -> Vec<f64> { (0..11).map(|i| f64::from(i * 7 % 11) / 10.0 + shift).collect() };
        let (a, b) = (sample(0.25), sample(0.0));
        let (drawn, t) =
            (permutation(&a, &b, 0.05).unwrap().p, super::super::Mean::of_difference(&a, &b).unwrap());
        assert!((drawn - t.test(0.0).p).abs() < 0.02, "{drawn} {}", t.test(0.0).p);
    }

    #[test]
    fn equivalence_to_chance_agrees_with_scipy() {
        // SciPy 1.17: max(binom.sf(k - 1, n, p0 - margin), binom.cdf(k, n, p0 + margin)).
        for (k, n, p0, margin, p) in [
            (340, 1346, 0.25, 0.05, 6.595_791_439_567_637e-5),
            (316, 1346, 0.25, 0.03, 0.101_770_103_467_705_6),
            (5, 10, 0.25, 0.1, 0.905_065_919_826_757_9),
            (0, 30, 0.2, 0.1, 1.0),
        ] {
            let found = binomial_equivalence(k, n, p0, margin).unwrap();
            assert!((found / p - 1.0).abs() < 1e-9, "{k} of {n}: {found}");
        }
        for (correct, margin) in [(3, 0.25), (3, 0.0), (3, f64::NAN), (11, 0.1)] {
            assert!(binomial_equivalence(correct, 10, 0.25, margin).is_err());
        }
    }

    #[test]
    fn a_model_against_itself_does_not_differ() {
        assert_eq!(mcnemar(0, 0), TestResult { statistic: 0.0, df: None, p: 1.0, n: 0 });
        assert_eq!(sign_flip(&[0.0; 6], 0.05).unwrap().p, 1.0);
        assert_eq!(permutation(&[1.0; 4], &[1.0; 4], 0.05).unwrap().p, 1.0);
    }

    #[test]
    fn too_few_seeds_are_told_what_they_cannot_reach() {
        let refused = sign_flip(&[1.0, 2.0, 3.0, 2.5, 1.5], 0.05).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "p of the sign-flip test with 5 pairs cannot go below 0.0625, so no outcome can be significant at the \
             level 0.05"
        );
        // Six differences of one sign: 2 of 64.
        assert_eq!(sign_flip(&[1.0, 2.0, 3.0, 2.5, 1.5, 0.1], 0.05).unwrap().p, 2.0 / 64.0);
        assert!(matches!(permutation(&[1.0; 3], &[2.0; 3], 0.05), Err(StatsError::OutOfReach { .. })));
        assert_eq!(permutation(&[1.0, 1.1, 1.2, 1.3], &[2.0, 2.1, 2.2, 2.3], 0.05).unwrap().p, 2.0 / 70.0);
        assert_eq!(smallest_permutation_p(2, 5), 1.0 / 21.0);
        assert!(sign_flip(&[], 0.05).is_err() && permutation(&[], &[1.0], 0.05).is_err());
    }

    #[test]
    fn binomial_tests_are_exact() {
        // By hand: n = 3, p = 1/4 has probabilities 27, 27, 9 and 1 of 64; and Fisher's tea, 8 of 8 at one half.
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}");
        close(binomial_p(3, 3, 0.25), 1.0 / 64.0);
        close(binomial_p(2, 3, 0.25), 10.0 / 64.0);
        close(binomial_p(0, 3, 0.25), 1.0);
        close(binomial_p(8, 8, 0.5), 2.0 / 256.0);
    }

    #[test]
    fn the_published_scores_of_minimind_are_guessing() {
        // C-Eval's 1,346 questions: 316 (26M), 344 (26M by its summary), 351 (108M).
        for correct in [316, 344, 351] {
            let p = binomial_p(correct, 1346, 0.25);
            assert!(p > 0.15, "{correct}: {p}");
        }
    }
}
