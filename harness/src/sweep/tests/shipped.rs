//! Tests that the sweeps shipped with the program have the trials that they describe.

use super::{Overrides, Sweep, Trial};
use crate::testing::shared;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
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

/// Every setting of the published errors is a setting of the sweep, with the same data and the same training.
#[test]
fn the_published_sweep_has_the_settings_of_the_published_table() {
    let Some(path) = shared("references/hop_induction.csv") else { return };
    let mut published: BTreeMap<(usize, usize, String), BTreeSet<usize>> = BTreeMap::new();
    for row in csv::Reader::from_path(path).unwrap().into_records().map(Result::unwrap) {
        let setting = (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2].to_string());
        published.entry(setting).or_default().insert(row[3].parse().unwrap());
    }
    let path = format!("{}/../sweeps/probe_hops_published.toml", env!("CARGO_MANIFEST_DIR"));
    let mut ours: BTreeMap<(usize, usize, String), BTreeSet<u64>> = BTreeMap::new();
    for trial in Sweep::read(Path::new(&path), &Overrides::default()).unwrap().expand().unwrap() {
        let (model, hops, training) =
            (&trial.config.model, &trial.config.hops, &trial.config.pretrain.training);
        assert_eq!((model.d_model, hops.length, hops.hops), (128, 100, 16));
        assert_eq!((training.lr, training.batch_size, training.steps), (1e-4, 32, Some(100_000)));
        let read = if hops.rows == 3_200_000 { "fresh".into() } else { hops.rows.to_string() };
        ours.entry((model.n_layers, model.n_heads, read)).or_default().insert(trial.config.seed);
    }
    assert_eq!(published.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    assert!(published.values().all(|hops| *hops == (0..=16).collect()));
    assert!(ours.values().all(|seeds| seeds.len() == 3));
}

#[test]
fn shipped_studies_have_three_seeds_or_more() {
    for entry in fs::read_dir(format!("{}/../sweeps", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // The smoke test only shows that everything works; `local.toml` is no sweep.
        if name == "smoke" || name.ends_with("local") {
            continue;
        }
        let sweep: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let seeds = sweep["axes"]["seed"].as_array().unwrap();
        assert!(seeds.len() >= 3, "{name}");
        let tuned_with = sweep.get("tune").and_then(|tune| tune["seeds"].as_array());
        assert!(tuned_with.is_none_or(|with| with.iter().all(|seed| !seeds.contains(seed))), "{name}");
    }
}
