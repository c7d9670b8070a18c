//! The CUDA backend on the emulated card, in every precision.
#![cfg(feature = "emulate")]
#![allow(clippy::unwrap_used)]

use model::backend::{Cuda, Precision};
use model::doctor::{Case, checks, worst};

fn assert_well(precision: Precision, case: &Case) {
    let checks = worst(checks(&Cuda::emulated(precision), case));
    let failed: Vec<_> = checks.iter().filter(|check| !check.is_ok()).collect();
    assert!(failed.is_empty(), "{precision}, {case:?}:\n{failed:#?}");
}

#[test]
fn the_usual_cases_are_well() {
    for case in Case::usual() {
        for precision in Precision::ALL {
            assert_well(precision, &case);
        }
    }
}
