//! The CUDA backend on the emulated card, in every precision.
#![cfg(feature = "emulate")]
#![allow(clippy::unwrap_used)]

use model::ModelConfig;
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

/// Norms go other ways for rows of every length.
#[test]
fn rows_of_every_width_are_well() {
    for (d_model, precision) in [6, 34, 136, 330, 520, 772]
        .map(|width| (width, Precision::F32))
        .into_iter()
        .chain([34, 136, 330, 1032, 2056].map(|width| (width, Precision::Bf16)))
    {
        let config = ModelConfig {
            d_model,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: Some(10),
            hidden_dim: Some(9),
            vocab_size: 20,
            ..ModelConfig::default()
        };
        let case = Case { config, rows: vec![vec![5, 1], vec![30]], seed: 3 };
        assert_well(precision, &case);
    }
}
