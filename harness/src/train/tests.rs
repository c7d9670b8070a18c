//! Training stages as wholes: their length, and that they may be stopped and resumed at any step.
#![allow(clippy::unwrap_used)]

use super::{LENGTH, TrainRequest, run};
use crate::config::{Packing, TrainStage, Training, TrialConfig};
use crate::data::store::tests::store_of;
use crate::data::{Kind, Tokenizer};
use crate::run::manifest::Results;
use crate::threads::on_threads;
use crate::track::Progress;
use model::ModelConfig;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries of the smallest tokenizer: three special tokens and every byte.
const VOCAB: usize = 259;

/// A tokenizer and the stores of a training stage, with so many documents of these lengths.
fn prepared(dir: &Path, documents: usize, lengths: std::ops::RangeInclusive<usize>) {
    Tokenizer::train(std::iter::once("ab".to_owned()), VOCAB).unwrap().save(&dir.join("tokenizer")).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut document = |_| -> Vec<u32> {
        let len = random.random_range(lengths.clone());
        (0..len).map(|_| random.random_range(3..VOCAB as u32)).collect()
    };
    for (side, count) in [("train", documents), ("val", 2)] {
        let documents: Vec<Vec<u32>> = (0..count).map(&mut document).collect();
        let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        store_of(&dir.join("data").join(side), Kind::Pretrain, VOCAB, &documents);
    }
}

fn trial(training: Training) -> TrialConfig {
    let mut trial = TrialConfig {
        model: ModelConfig {
            d_model: 4,
            n_layers: 1,
            n_heads: 2,
            n_kv_heads: 1,
            hidden_dim: Some(4),
            vocab_size: VOCAB,
            ..ModelConfig::default()
        },
        ..TrialConfig::default()
    };
    trial.pretrain.training = training;
    trial
}

/// Sets the wish to stop once a step is told.
struct StopAt<'a> {
    step: u64,
    stop: &'a AtomicBool,
}

impl Progress for StopAt<'_> {
    fn start(&self, _label: &str, _total: u64, _unit: &str) {}
    fn update(&self, done: u64, _message: &str) {
        self.stop.fetch_or(done >= self.step, Ordering::SeqCst);
    }
    fn finish(&self, _message: &str) {}
}

/// Trains in `dir/<name>` until the first step from `stop_at` on that is told.
fn train(dir: &Path, name: &str, trial: &TrialConfig, stop_at: u64) -> Option<Results> {
    let stop = AtomicBool::new(false);
    let out = dir.join(name);
    fs::create_dir_all(&out).unwrap();
    let request = TrainRequest {
        stage: TrainStage::Pretrain,
        trial,
        tokenizer: &dir.join("tokenizer"),
        data: &dir.join("data"),
        start_from: None,
        out: &out,
        stop: &stop,
        progress: &StopAt { step: stop_at, stop: &stop },
    };
    on_threads(2, || run(&request)).unwrap()
}

#[test]
fn packed_passes_that_are_stopped_six_times_are_the_same_training() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 400, 10..=120);
    let training = Training {
        epochs: 60.0,
        batch_size: 4,
        seq_len: 160,
        packing: Packing::Separated,
        lanes: 2,
        log_every: 25,
        ..Training::default()
    };
    let trial = trial(training);
    let undisturbed = train(dir.path(), "undisturbed", &trial, u64::MAX).unwrap();
    for stop_at in [400, 850, 1300, 1750, 2200, 2650] {
        assert_eq!(train(dir.path(), "stopped", &trial, stop_at), None);
    }
    let stopped = train(dir.path(), "stopped", &trial, u64::MAX).unwrap();
    assert_eq!(stopped, undisturbed);
    // Every pass trains every target of the data once, whatever its packing.
    assert_eq!(undisturbed.passes, 60.0);
    assert_eq!(undisturbed.tokens % 60, 0);
    let file = |run: &str, name: &str| fs::read(dir.path().join(run).join(name)).unwrap();
    for name in ["model/model.safetensors", LENGTH] {
        assert!(file("undisturbed", name) == file("stopped", name), "{name}");
    }
    assert_eq!(String::from_utf8(file("stopped", LENGTH)).unwrap(), undisturbed.steps.to_string());
    eprintln!("{} steps", undisturbed.steps);
}

#[test]
fn one_pass_over_forty_rows_trains_forty_rows() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    let one = Training { packing: Packing::Single, ..Training::default() };
    let results = train(dir.path(), "one", &trial(one.clone()), u64::MAX).unwrap();
    assert_eq!((results.steps, results.tokens, results.passes), (3, 40 * 8, 1.0));
    assert_eq!(results.notices, []);
    let few = Training { steps: Some(2), batch_size: 50, ..one };
    let results = train(dir.path(), "few", &trial(few), u64::MAX).unwrap();
    assert_eq!((results.steps, results.tokens, results.passes), (2, 100 * 8, 2.5));
    let notices: Vec<String> = results.notices.iter().map(ToString::to_string).collect();
    assert_eq!(notices, ["pretrain: 2 of 2 batches repeat a row: there are 40 rows, and a batch takes 50"]);
}
