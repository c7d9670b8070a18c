//! Tests that the sweeps shipped with the program have the trials that they describe.

use super::{Overrides, Sweep, Trial};
use std::path::Path;

#[test]
fn shapes_of_deep_against_wide_have_equal_parameters() {
    for (name, params, tolerance, count) in
        [("1m", 1e6, 0.02, 20), ("250k", 250e3, 0.04, 21), ("hops", 200e3, 0.03, 12)]
    {
        let path = format!("{}/../sweeps/deep_vs_wide_{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let trials = Sweep::read(Path::new(&path), &Overrides::default()).unwrap().expand().unwrap();
        let study: Vec<&Trial> = trials.iter().filter(|trial| !trial.is_candidate()).collect();
        assert_eq!(study.len(), count, "{name}");
        for model in study.iter().map(|trial| &trial.config.model) {
            let has = model.params() as f64;
            assert!((has / params - 1.0).abs() <= tolerance, "{name}: {has}");
        }
        let widths = study.iter().take(4).map(|trial| trial.config.model.d_model);
        assert!(widths.clone().is_sorted_by(|wide, thin| wide > thin), "{name}: {widths:?}");
    }
}

#[test]
fn sweeps_of_probes_waste_no_words_and_repeat_no_sequence() {
    let sweeps = [
        ("hops", 12),
        ("recall", 6),
        ("recall_widths", 27),
        ("recall_heads", 18),
        ("capacity", 18),
        ("hops_published", 75),
    ];
    for (name, count) in sweeps {
        let path = format!("{}/../sweeps/probe_{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let trials = Sweep::read(Path::new(&path), &Overrides::default()).unwrap().expand().unwrap();
        assert_eq!(trials.iter().filter(|trial| !trial.is_candidate()).count(), count, "{name}");
        for config in trials.iter().map(|trial| &trial.config) {
            let (probe, training) = (config.probe().unwrap(), &config.pretrain.training);
            let entries = (probe.entries)(config);
            assert!((entries..entries + 8).contains(&config.model.vocab_size), "{name}: {entries}");
            assert!((probe.row_tokens)(config) <= training.seq_len, "{name}");
            let rows = if probe.name == "hops" { config.hops.rows } else { config.recall.rows };
            let trained = training.steps.map(|steps| steps * training.batch_size as u64);
            // The published table has models that read few sequences many times.
            let repeats = name == "hops_published" && [1_000, 3_000, 10_000].contains(&rows);
            assert!(
                repeats || trained.is_none_or(|trained| trained <= rows),
                "{name}: {trained:?} of {rows}"
            );
        }
    }
}
