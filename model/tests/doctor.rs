//! Every backend computes the same results as the reference, for many shapes.

use model::backend::{Backend, Cpu, Portable};
use model::doctor::{Case, checks, worst};
use model::{AuxLoss, ModelConfig};
use proptest::prelude::*;

/// Asserts that all checks of a backend succeed; the message contains the deviations of those that fail.
fn assert_well<B: Backend>(backend: &B, case: &Case) {
    let checks = worst(checks(backend, case));
    let failed: Vec<_> = checks.iter().filter(|check| !check.is_ok()).collect();
    assert!(failed.is_empty(), "{backend:?}, {case:?}:\n{failed:#?}");
}

/// Returns the backend of candle's tensors on the CPU.
fn portable() -> Portable {
    Portable(candle_core::Device::Cpu)
}

fn cases() -> impl Strategy<Value = Case> {
    let heads = (1usize..3, 1usize..4, 1usize..5, prop::option::of(1usize..5));
    let feed_forward = (1usize..40, 0usize..4, 1usize..3, 0usize..3);
    let variants = (any::<[bool; 3]>(), prop::option::of(1usize..100), prop::sample::select(vec![0.0, 0.3]));
    let lengths = prop::collection::vec(1u32..90, 1..4);
    (heads, 1usize..3, feed_forward, variants, lengths, 0u64..1000).prop_map(
        |(
            (n_kv_heads, repeats, half, own_half),
            n_layers,
            (hidden, n_experts, top_k, n_shared_experts),
            ([qk_norm, tie_embeddings, per_batch], window, dropout),
            lengths,
            seed,
        )| Case {
            config: ModelConfig {
                d_model: 2 * half * n_kv_heads * repeats,
                n_heads: n_kv_heads * repeats,
                n_kv_heads,
                head_dim: own_half.map(|half| 2 * half),
                qk_norm,
                window,
                tie_embeddings,
                n_layers,
                hidden_dim: Some(hidden),
                vocab_size: 50,
                n_experts,
                top_k: n_experts.clamp(1, top_k),
                n_shared_experts,
                aux_loss_per: if per_batch { AuxLoss::Batch } else { AuxLoss::Sequence },
                dropout,
                ..ModelConfig::default()
            },
            rows: vec![lengths, vec![5]],
            seed,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_processor_computes_what_the_reference_computes(case in cases()) {
        assert_well(&Cpu, &case);
    }

    #[test]
    fn the_portable_backend_computes_what_the_reference_computes(case in cases()) {
        assert_well(&portable(), &case);
    }
}

#[test]
fn the_usual_cases_are_well() {
    for case in Case::usual() {
        assert_well(&Cpu, &case);
        assert_well(&portable(), &case);
    }
}

/// Kernels for GPUs: on the first one of this machine with the feature `cuda`, otherwise run as emulated threads.
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod gpu {
    use super::*;
    use model::backend::{Cuda, Precision};

    /// [`assert_well`] in this precision, if there is a GPU.
    fn assert_well_in(precision: Precision, case: &Case) {
        if let Some(gpu) = Cuda::for_tests(precision).unwrap() {
            assert_well(&gpu, case);
        }
    }

    /// Names of the checks of whole passes, in which random models amplify the rounding of 16-bit numbers without bound.
    const PASSES: [&str; 7] = [
        "loss",
        "balancing loss",
        "gradient of the loss",
        "gradient of log-probabilities",
        "states",
        "log-probabilities",
        "logits",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_gpu_computes_what_the_reference_computes(
            case in cases(),
            precision in prop::sample::select(Precision::ALL.to_vec()),
        ) {
            let Some(gpu) = Cuda::for_tests(precision).unwrap() else { return Ok(()) };
            let mut checks = worst(checks(&gpu, &case));
            checks.retain(|check| precision == Precision::F32 || !PASSES.contains(&check.name));
            let failed: Vec<_> = checks.iter().filter(|check| !check.is_ok()).collect();
            prop_assert!(failed.is_empty(), "{}, {:?}:\n{:#?}", precision, case, failed);
        }
    }

    #[test]
    fn the_usual_cases_are_well() {
        for (case, precision) in Case::usual().iter().flat_map(|case| Precision::ALL.map(|p| (case, p))) {
            assert_well_in(precision, case);
        }
    }

    /// Norms take different code paths depending on the row length, and on whether it is a multiple of 16 bytes.
    #[test]
    fn rows_of_every_width_are_well() {
        let single = [6, 34, 102, 136, 300, 330, 392, 520, 772].map(|width| (width, Precision::F32));
        let narrow = [34, 102, 136, 330, 600, 1032, 2056].map(|width| (width, Precision::Bf16));
        for (d_model, precision) in single.into_iter().chain(narrow) {
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
            assert_well_in(precision, &Case { config, rows: vec![vec![5, 1], vec![30]], seed: 3 });
        }
    }

    /// Attention of a single position processes its keys in chunks of 256.
    #[test]
    fn many_keys_are_attended_in_heads_of_every_width() {
        for (head_dim, window, precision, document) in [
            (16, None, Precision::F32, 530),
            (40, Some(270), Precision::F16, 530),
            (128, None, Precision::Bf16, 90),
        ] {
            let mut case = Case::one_head(16, head_dim, vec![vec![document], vec![1, 2]]);
            case.config.window = window;
            assert_well_in(precision, &case);
        }
    }
}
