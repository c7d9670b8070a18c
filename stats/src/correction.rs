//! Corrections for several p-values of one family, which the caller defines before seeing the results.

/// Holm's step-down correction (Holm 1979), in the given order: controls the probability of any false claim in the
/// family under arbitrary dependence of the tests.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let order = ranked(p);
    let (mut adjusted, mut largest) = (vec![0.0; p.len()], 0.0f64);
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max((p[i] * (p.len() - rank) as f64).min(1.0));
        adjusted[i] = largest;
    }
    adjusted
}

/// Benjamini and Hochberg's step-up correction (1995), in the given order: controls the expected share of false claims
/// among those made, for tests that are independent or positively dependent (Benjamini & Yekutieli 2001).
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let order = ranked(p);
    let (mut adjusted, mut smallest) = (vec![0.0; p.len()], 1.0f64);
    for (rank, &i) in order.iter().enumerate().rev() {
        smallest = smallest.min(p[i] * p.len() as f64 / (rank + 1) as f64);
        adjusted[i] = smallest;
    }
    adjusted
}

/// Indices of the values in ascending order.
fn ranked(p: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    order
}

#[cfg(test)]
mod tests {
    use super::super::references::{cases, check_all, numbers};
    use super::*;

    #[test]
    fn corrections_agree_with_statsmodels() {
        for case in cases("corrections") {
            let p = numbers(&case["p"]);
            check_all(&holm(&p), &numbers(&case["holm"]), 1e-12);
            check_all(&benjamini_hochberg(&p), &numbers(&case["fdr_bh"]), 1e-12);
        }
    }

    #[test]
    fn holm_raises_and_keeps_order() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty() && benjamini_hochberg(&[]).is_empty());
    }
}
