//! Tests of whole training stages: their length, and that they can be stopped and resumed at any step.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "emulate")]
mod gpu;

use super::trunk::{Branch, checkpoint_for, recorded_trunk};
use super::{LENGTH, TrainRequest, newest_checkpoint, run};
use crate::config::{Packing, Schedule, TrainStage, Training, TrialConfig};
use crate::data::store::tests::store_of;
use crate::data::{Kind, Tokenizer};
use crate::runs::manifest::Results;
use crate::system::on_threads;
use crate::track::Progress;
use anyhow::Result;
use model::inference::NextToken;
use model::{Cpu, ModelConfig, Transformer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Entries of the smallest tokenizer: three special tokens and every byte.
const VOCAB: usize = 259;

/// Writes a tokenizer and the stores of a training stage, with this number of documents of these lengths.
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

/// Requests a stop at the first progress update from `step` on.
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

/// Trains in `dir/<name>` until the first progress update from step `stop_at` on.
fn train(dir: &Path, name: &str, trial: &TrialConfig, stop_at: u64) -> Option<Results> {
    try_train(dir, name, trial, stop_at).unwrap()
}

fn try_train(dir: &Path, name: &str, trial: &TrialConfig, stop_at: u64) -> Result<Option<Results>> {
    try_stage(TrainStage::Pretrain, dir, name, trial, stop_at)
}

fn try_stage(
    stage: TrainStage,
    dir: &Path,
    name: &str,
    trial: &TrialConfig,
    stop_at: u64,
) -> Result<Option<Results>> {
    try_shared(stage, dir, name, trial, stop_at, (None, &[]))
}

/// Like [`try_stage`], with the stage run's trunk and its branches.
fn try_shared(
    stage: TrainStage,
    dir: &Path,
    name: &str,
    trial: &TrialConfig,
    stop_at: u64,
    (trunk, branches): (Option<(Uuid, &Path)>, &[Branch]),
) -> Result<Option<Results>> {
    let stop = AtomicBool::new(false);
    let (out, start) = (dir.join(name), dir.join("start"));
    fs::create_dir_all(&out).unwrap();
    let request = TrainRequest {
        stage,
        trial,
        tokenizer: &dir.join("tokenizer"),
        data: &dir.join("data"),
        start_from: start.exists().then_some(&start),
        out: &out,
        trunk,
        branches,
        stop: &stop,
        progress: &StopAt { step: stop_at, stop: &stop },
    };
    on_threads(2, || run(&request))
}

#[test]
fn a_branch_without_intact_checkpoints_resumes_from_its_trunk_or_counts_no_step_of_it() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    let of = |steps: u64| {
        let (schedule, batch_size, log_every) = (Schedule::Wsd, 4, 1);
        let steps = Some(steps);
        trial(Training { steps, schedule, decay_share: 0.5, batch_size, log_every, ..Training::default() })
    };
    let (long, short, uuid) = (of(40), of(12), Uuid::from_u128(7));
    let plain = train(dir.path(), "plain", &short, u64::MAX).unwrap();
    let branch = Branch { uuid, config: toml::to_string(&short).unwrap() };
    let (trunk, out) = (dir.path().join("trunk"), dir.path().join("branch"));
    let stage = TrainStage::Pretrain;
    try_shared(stage, dir.path(), "trunk", &long, u64::MAX, (None, &[branch])).unwrap().unwrap();
    // The schedule of twelve steps is constant in the first half of its eleven intervals: six steps.
    let left = checkpoint_for(uuid, &trunk);
    let go_on = |stop_at| {
        let shared = Some((uuid, trunk.as_path()));
        try_shared(stage, dir.path(), "branch", &short, stop_at, (shared, &[])).unwrap()
    };
    let newest = || newest_checkpoint(&out).unwrap().file_name().unwrap().to_string_lossy().into_owned();
    let damage = || {
        for entry in fs::read_dir(out.join("checkpoints")).unwrap() {
            fs::write(entry.unwrap().path(), "damaged").unwrap();
        }
    };
    assert_eq!(go_on(8), None);
    assert_eq!(newest(), "step-0000000008.ckpt");
    damage();
    assert_eq!(go_on(0), None);
    assert_eq!(newest(), "step-0000000007.ckpt");
    let finished = go_on(u64::MAX).unwrap();
    let of_trunk = finished.notices.iter().find(|notice| notice.reason.contains("its trunk")).unwrap();
    assert_eq!((of_trunk.count, of_trunk.of, super::trunk::adopted_share(&finished)), (6, 12, 0.5));
    // Without the trunk's checkpoint it takes all steps itself.
    damage();
    fs::remove_file(&left).unwrap();
    assert_eq!(recorded_trunk(&out), Some(trunk.clone()));
    assert_eq!(go_on(u64::MAX), Some(plain.clone()));
    assert_eq!(recorded_trunk(&out), None);
    // Nor with a damaged one, which is removed at the end.
    damage();
    fs::write(&left, "damaged").unwrap();
    assert_eq!(go_on(u64::MAX), Some(plain));
    assert!(recorded_trunk(&out).is_none() && left.exists());
    super::trunk::tidy(&out, uuid, Some(&trunk)).unwrap();
    assert!(!left.parent().unwrap().exists());
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
    // Every pass trains on every target of the data once, whatever the packing.
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
    assert_eq!(notices, ["pretrain: 2 of 2 batches repeat a row: a pass has 40 rows, and a batch takes 50"]);
}

/// Floating-point operations of documents with these numbers of ids, by hand: width 4, one layer with query, key and value
/// 4x8, output 4x4 and feed-forward 3 times 4x4, the head 259x4; attention of width 4 in scores and values, over half of
/// the positions on average.
fn by_hand(documents: impl Iterator<Item = usize>) -> f64 {
    let products = (32 + 16 + 48 + 4 * VOCAB) as f64;
    let of = |n: f64| 3.0 * 2.0 * n * (products + 2.0 * 4.0 * n / 2.0);
    documents.map(|ids| of(ids as f64 - 1.0)).sum()
}

#[test]
fn operations_are_those_of_the_documents_whatever_row_they_are_in() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 30, 10..=60);
    let store = crate::data::Store::open(&dir.path().join("data/train")).unwrap();
    let expected = by_hand((0..store.len()).map(|document| store.document_len(document)));
    for packing in [Packing::Single, Packing::Separated] {
        let training = Training { packing, seq_len: 128, batch_size: 4, ..Training::default() };
        let results = train(dir.path(), &format!("{packing:?}"), &trial(training), u64::MAX).unwrap();
        assert!((results.flops / expected - 1.0).abs() < 1e-12, "{} {expected}", results.flops);
    }
}

#[test]
fn a_stage_as_long_as_its_operations_ends_within_half_a_step_of_them() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 30, 10..=60);
    for (flops, seq_len) in [(3e6, 128), (2.7e7, 128), (8.1e6, 61)] {
        let training = Training { flops: Some(flops), seq_len, batch_size: 3, ..Training::default() };
        let trial = trial(training);
        let name = format!("{flops}");
        let whole = train(dir.path(), &name, &trial, u64::MAX).unwrap();
        // Three rows of at most seq_len positions.
        let step = by_hand([seq_len + 1; 3].into_iter());
        assert!((whole.flops - flops).abs() <= step / 2.0, "{} of {flops}, steps of {step}", whole.flops);
        let name = format!("{flops} stopped");
        let stopped = train(dir.path(), &name, &trial, whole.steps / 2);
        assert_eq!(stopped.unwrap_or_else(|| train(dir.path(), &name, &trial, u64::MAX).unwrap()), whole);
        // The forecast without training gives the same.
        let data = super::Objective::new(TrainStage::Pretrain, &trial, &dir.path().join("data")).unwrap();
        let length = super::length(TrainStage::Pretrain, &trial, &data, &mut 1e9).unwrap();
        assert_eq!((length.steps, length.tokens), (whole.steps, whole.tokens));
        assert!((length.flops / whole.flops - 1.0).abs() < 1e-12);
        assert_eq!(super::length(TrainStage::Pretrain, &trial, &data, &mut 2.0), None);
    }
}

#[test]
fn a_warm_up_longer_than_the_stage_is_refused_when_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    let training = Training { packing: Packing::Single, warmup_steps: 4, ..Training::default() };
    let refused = try_train(dir.path(), "warm", &trial(training), u64::MAX).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "pretrain.warmup_steps is 4, expected at most the stage's 3 steps: pretrain.lr would never be reached"
    );
}

#[test]
fn weights_that_are_not_finite_are_never_written() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    // Loss and gradient of the only step are finite. The first rate overflows the weights themselves; the second makes them
    // so large that the model's probabilities are not finite.
    for (name, lr, problem) in [
        ("infinite", 1e39, "tensor tok_embeddings.weight: 1036 of 1036 values are NaN or infinite"),
        ("large", 1e18, "the model's probabilities are not finite"),
    ] {
        let training =
            Training { steps: Some(1), lr, keep_every: 1, packing: Packing::Single, ..Training::default() };
        let error = try_train(dir.path(), name, &trial(training), u64::MAX).unwrap_err();
        let message = format!("{error:#}");
        let asked = format!("step 1: training diverged; lower pretrain.lr (now {lr:e})");
        assert!(message.starts_with(&asked) && message.contains(problem), "{message}");
        assert!(!dir.path().join(name).join("model").exists());
        assert!(!dir.path().join(name).join("checkpoints").exists());
    }
}

#[test]
fn a_store_whose_bytes_have_changed_is_not_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 20, 5..=9);
    let trial = trial(Training { steps: Some(1), ..Training::default() });
    train(dir.path(), "sound", &trial, u64::MAX).unwrap();
    let tokens = dir.path().join("data/train/tokens.bin");
    let mut bytes = fs::read(&tokens).unwrap();
    bytes[2] ^= 1;
    fs::write(&tokens, bytes).unwrap();
    let error = format!("{:#}", try_train(dir.path(), "damaged", &trial, u64::MAX).unwrap_err());
    assert!(error.contains("tokens.bin: its SHA-256 is not that of store.json"), "{error}");
}

/// The summed loss of a trained model on those tokens of held-out documents for whose positions `is_learned` is true, and
/// their number.
fn held_out_loss(dir: &Path, is_learned: impl Fn(usize) -> bool) -> (f64, f64) {
    let model = Transformer::load(&dir.join("run/model"), &Cpu).unwrap();
    let store = crate::data::Store::open(&dir.join("data/val")).unwrap();
    let (mut loss, mut targets) = (0.0, 0.0);
    for ids in (0..store.len()).map(|document| store.document(document)) {
        for end in (1..ids.len()).filter(|&end| is_learned(end)) {
            let asked = NextToken { prompt: &ids[..end], ids: &ids[end..=end] };
            loss -= model.next_token_probabilities(&[asked]).unwrap()[0][0].ln();
            targets += 1.0;
        }
    }
    (loss, targets)
}

#[test]
fn validation_is_the_loss_and_the_bits_of_held_out_texts() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=30);
    let results = train(dir.path(), "run", &trial(Training::default()), u64::MAX).unwrap();
    let (loss, targets) = held_out_loss(dir.path(), |_| true);
    let (val_loss, val_bpb) = (results.val_loss.unwrap(), results.val_bpb.unwrap());
    assert!((val_loss - loss / targets).abs() < 1e-5, "{val_loss} instead of {}", loss / targets);
    // Every token that is not special stands for three bytes.
    let bits = loss / 2f64.ln() / (3.0 * targets);
    assert!((val_bpb - bits).abs() < 1e-5, "{val_bpb} instead of {bits}");
}

#[test]
fn validation_of_conversations_is_the_loss_of_their_answers() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 1, 9..=9);
    // The answer is everything after the 5.
    let chats: Vec<Vec<u32>> = (0..30).map(|i| vec![10 + i, 11, 12, 5, 20 + i, 21, 2]).collect();
    let chats: Vec<&[u32]> = chats.iter().map(Vec::as_slice).collect();
    for side in ["train", "val"] {
        let folder = dir.path().join("data").join(side);
        fs::remove_dir_all(&folder).unwrap();
        store_of(&folder, Kind::Conversations, VOCAB, &chats);
    }
    let trial = trial(Training::default());
    let results = try_stage(TrainStage::Sft, dir.path(), "run", &trial, u64::MAX).unwrap().unwrap();
    let (loss, targets) = held_out_loss(dir.path(), |end| end > 3);
    assert_eq!((targets, results.val_bpb), (90.0, None));
    let val_loss = results.val_loss.unwrap();
    assert!((val_loss - loss / targets).abs() < 1e-5, "{val_loss} instead of {}", loss / targets);
}

#[test]
fn the_best_checkpoint_and_every_third_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    // At this rate the loss soon rises.
    let training = Training {
        steps: Some(10),
        lr: 0.3,
        schedule: Schedule::Constant,
        packing: Packing::Single,
        keep_every: 3,
        keep_best: true,
        val_every_tokens: 1,
        ..Training::default()
    };
    train(dir.path(), "run", &trial(training), u64::MAX).unwrap();
    let run = dir.path().join("run");
    let files = fs::read_dir(run.join("checkpoints")).unwrap();
    let mut files: Vec<String> =
        files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["best.ckpt", "step-0000000003.ckpt", "step-0000000006.ckpt", "step-0000000009.ckpt"]);
    let mut metrics = csv::Reader::from_path(run.join("metrics.csv")).unwrap();
    let rows = metrics.deserialize::<BTreeMap<String, String>>().map(|row| row.unwrap());
    let validations: Vec<(u64, f64)> = rows
        .filter(|row| row["split"] == "val")
        .map(|row| (row["step"].parse().unwrap(), row["loss"].parse().unwrap()))
        .collect();
    assert_eq!(validations.len(), 10);
    let (step, loss) = *validations.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(step < 10, "{validations:?}");
    // After the checksum and the length.
    let best = fs::read(run.join("checkpoints/best.ckpt")).unwrap();
    let length = u64::from_le_bytes(best[32..40].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&best[40..40 + length]).unwrap();
    assert_eq!(about["step"], step);
    assert!((about["best_val"].as_f64().unwrap() - loss).abs() < 1e-6, "{about} {validations:?}");
}

/// Rewrites one side of the store with named sources, each with its number of documents and of ids per document.
fn write_sources(dir: &Path, side: &str, sources: [(&str, usize, usize); 2]) {
    use crate::data::store::{Document, StoreHead, StoreWriter};
    let head = StoreHead {
        kind: Kind::Pretrain,
        token_bytes: vec![1; VOCAB],
        marker: vec![],
        tokenizer: "hand-made".into(),
    };
    let folder = dir.join("data").join(side);
    fs::remove_dir_all(&folder).unwrap();
    let mut writer = StoreWriter::create(&folder, head).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    for (name, documents, len) in sources {
        writer.begin(name);
        for _ in 0..documents {
            let ids = (0..len).map(|_| random.random_range(3..VOCAB as u32)).collect();
            writer.push(&Document { ids, bytes: len, ..Document::default() }).unwrap();
        }
    }
    writer.finish().unwrap();
}

#[test]
fn mixed_sources_that_are_stopped_are_the_same_training_and_have_losses_of_their_own() {
    use crate::config::Sources;
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 1, 9..=9);
    write_sources(dir.path(), "train", [("books", 9, 60), ("web", 70, 12)]);
    write_sources(dir.path(), "val", [("code", 3, 30), ("wiki", 5, 9)]);
    let training = Training {
        steps: Some(120),
        batch_size: 3,
        seq_len: 64,
        packing: Packing::Separated,
        lanes: 2,
        val_every_tokens: 3000,
        log_every: 5,
        ..Training::default()
    };
    let mut trial = trial(training);
    let files = |name: &str| (name.to_string(), vec!["f".to_string()]);
    trial.data.pretrain = Sources::Named([files("books"), files("web")].into());
    trial.data.mix = [("books".to_string(), 3.0), ("web".to_string(), 1.0)].into();
    let undisturbed = train(dir.path(), "undisturbed", &trial, u64::MAX).unwrap();
    for stop_at in [10, 50, 55, 100] {
        assert_eq!(train(dir.path(), "stopped", &trial, stop_at), None);
    }
    assert_eq!(train(dir.path(), "stopped", &trial, u64::MAX).unwrap(), undisturbed);
    let file = |run: &str, name: &str| fs::read(dir.path().join(run).join(name)).unwrap();
    assert!(file("undisturbed", "model/model.safetensors") == file("stopped", "model/model.safetensors"));
    let rows = |run: &str| -> Vec<(String, String, String)> {
        let mut csv = csv::Reader::from_path(dir.path().join(run).join("metrics.csv")).unwrap();
        let rows = csv.records().map(|row| row.unwrap());
        rows.map(|row| (row[0].to_string(), row[2].to_string(), row[3].to_string())).collect()
    };
    assert_eq!(rows("undisturbed"), rows("stopped"));
    // Books are 540 of 1,380 tokens, and three quarters of what is trained on.
    let [books, web] = undisturbed.sources.as_slice() else { panic!("{:?}", undisturbed.sources) };
    assert_eq!(books.tokens + web.tokens, undisturbed.tokens);
    assert!((books.tokens as f64 / undisturbed.tokens as f64 - 0.75).abs() < 0.02, "{books:?} {web:?}");
    assert!((books.passes - books.tokens as f64 / 531.0).abs() < 1e-12, "{books:?}");
    let notices: Vec<String> = undisturbed.notices.iter().map(ToString::to_string).collect();
    assert!(
        notices[0].ends_with(&format!("target tokens are of books, in {:.2} passes over it", books.passes)),
        "{notices:?}"
    );
    // The total is the mean of the sets over their target tokens: 3 x 29 and 5 x 8.
    let [code, wiki] = undisturbed.val_sets.as_slice() else { panic!("{:?}", undisturbed.val_sets) };
    let whole = (code.loss * 87.0 + wiki.loss * 40.0) / 127.0;
    assert!((undisturbed.val_loss.unwrap() - whole).abs() < 1e-12);
    let bits =
        |set: &crate::records::SetLoss, targets: f64| set.loss * targets / std::f64::consts::LN_2 / targets;
    assert!((code.bpb.unwrap() - bits(code, 87.0)).abs() < 1e-12);
    // The loss of a step is the mean of its sources' losses over their target tokens.
    let mut both_told = 0;
    for step in rows("stopped").chunk_by(|a, b| a.0 == b.0) {
        let loss =
            |split: &str| step.iter().find(|row| row.1 == split).map(|row| row.2.parse::<f64>().unwrap());
        let Some(all) = loss("train") else { continue };
        match (loss("train:books"), loss("train:web")) {
            (Some(books), Some(web)) => {
                both_told += 1;
                assert!((books.min(web)..=books.max(web)).contains(&all), "{step:?}");
            }
            (one, other) => assert!((one.or(other).unwrap() - all).abs() < 1e-6, "{step:?}"),
        }
    }
    assert!(both_told > 10, "{both_told}");
    let splits = rows("stopped").into_iter().map(|row| row.1);
    let splits: Vec<String> = splits.filter(|split| !split.starts_with("train")).collect();
    assert!(
        splits.len() > 6 && splits.chunks(3).all(|all| all == ["val", "val:code", "val:wiki"]),
        "{splits:?}"
    );
}

#[test]
fn the_loss_of_a_step_is_reported_by_source() {
    use super::{Objective, next_tokens, optimizer};
    use crate::config::Sources;
    use model::{LaneConfig, Recompute, Sequence, Trainer};
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 1, 9..=9);
    write_sources(dir.path(), "train", [("books", 9, 60), ("web", 70, 12)]);
    let mut trial =
        trial(Training { seq_len: 64, packing: Packing::Separated, lanes: 2, ..Training::default() });
    let files = |name: &str| (name.to_string(), vec!["f".to_string()]);
    trial.data.pretrain = Sources::Named([files("books"), files("web")].into());
    let data = Objective::new(TrainStage::Pretrain, &trial, &dir.path().join("data")).unwrap();
    let Objective::Tokens { mut batches, .. } = data else { panic!("text") };
    let rows = batches.next_rows(15);
    let lanes = LaneConfig { lanes: 2, recompute: Recompute::None, seed: 1 };
    let model = Transformer::new(&trial.model, 1, &Cpu).unwrap();
    let mut trainer = Trainer::new(model, None, optimizer(&trial.pretrain.training), lanes).unwrap();
    let sums = next_tokens(&mut trainer, &rows).unwrap().read().unwrap();
    // Documents of books are recognized by their length.
    let sequences: Vec<Sequence> = rows.into_iter().map(|row| row.sequence).collect();
    let mut expected = [(0.0, 0.0); 2];
    for (row, log_probs) in sequences.iter().zip(trainer.transformer.token_log_probs(&sequences).unwrap()) {
        let mut log_probs = log_probs.into_iter();
        for &len in &row.documents {
            let source = usize::from(len != 59);
            expected[source].0 -= log_probs.by_ref().take(len as usize).map(f64::from).sum::<f64>();
            expected[source].1 += f64::from(len);
        }
    }
    assert!(sums.sources.len() == 2 && expected.iter().all(|of| of.1 > 50.0), "{expected:?}");
    for (found, expected) in sums.sources.iter().zip(expected) {
        assert_eq!(found.1, expected.1);
        assert!((found.0 / expected.0 - 1.0).abs() < 1e-6, "{found:?} {expected:?}");
    }
    let all = sums.sources.iter().map(|of| of.0).sum::<f64>();
    assert!((all / sums.loss - 1.0).abs() < 1e-6, "{all} {}", sums.loss);
}

#[test]
fn weights_on_the_way_are_the_same_however_often_training_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 40, 9..=9);
    let training = Training {
        steps: Some(12),
        batch_size: 4,
        log_every: 1,
        val_every_tokens: 64,
        keep_best: true,
        ..Training::default()
    };
    let mut trial = trial(training);
    (trial.sft.training.enabled, trial.dpo.training.enabled) = (false, false);
    let plain = train(dir.path(), "plain", &trial, u64::MAX).unwrap();
    trial.exam.at = vec![0.25, 0.5, 0.75, 1.0];
    assert_eq!(train(dir.path(), "kept", &trial, u64::MAX).unwrap(), plain);
    // Stopped at the step of a snapshot, right after one, and elsewhere.
    for stop_at in [3, 4, 6, 8] {
        assert_eq!(train(dir.path(), "stopped", &trial, stop_at), None);
    }
    // A killed process leaves an incomplete snapshot that no checkpoint includes.
    fs::create_dir_all(dir.path().join("stopped/snapshots/0.75")).unwrap();
    fs::write(dir.path().join("stopped/snapshots/0.75/model.safetensors"), "half").unwrap();
    assert_eq!(train(dir.path(), "stopped", &trial, u64::MAX).unwrap(), plain);
    let file = |run: &str, name: &str| fs::read(dir.path().join(run).join(name)).unwrap();
    for share in ["0.25", "0.5", "0.75"] {
        for name in ["model.safetensors", "config.json", "tokenizer.json", "snapshot.json"] {
            let name = format!("snapshots/{share}/{name}");
            assert!(file("kept", &name) == file("stopped", &name), "{name}");
        }
    }
    let name = "model/model.safetensors";
    assert!(file("kept", name) == file("plain", name) && file("kept", name) == file("stopped", name));
    let about: super::snapshot::Snapshot =
        serde_json::from_slice(&file("kept", "snapshots/0.5/snapshot.json")).unwrap();
    assert_eq!((about.step, about.tokens), (6, plain.tokens / 2));
    assert!(!dir.path().join("plain/snapshots").exists() && !dir.path().join("kept/snapshots/1").exists());
}
