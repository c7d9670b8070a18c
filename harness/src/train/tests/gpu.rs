//! Training on the emulated GPU: compared with the CPU and with half precision, steps whose gradient overflows, resuming,
//! and steps that are queued before the results of the step before are read.

use super::*;
use crate::data::TrainRow;
use crate::train::{next_tokens, optimizer};
use model::backend::{Cuda, Memory};
use model::{Device, LaneConfig, Precision, Recompute, Sequence, Trainer};

/// [`trial`] on the emulated GPU.
fn on_gpu(precision: Precision, training: Training) -> TrialConfig {
    TrialConfig { device: Device::Cuda(None), precision, ..trial(training) }
}

/// A training of single rows, four a step, that records every step.
fn steps(steps: u64, lr: f64) -> Training {
    let (batch_size, packing) = (4, Packing::Single);
    Training { steps: Some(steps), batch_size, lr, packing, log_every: 1, ..Training::default() }
}

/// `metrics.csv` without the columns of times: step, split, loss and gradient norm.
fn metrics(run: &Path) -> Vec<(u64, String, f64, Option<f64>)> {
    let mut csv = csv::Reader::from_path(run.join("metrics.csv")).unwrap();
    let rows = csv.deserialize::<BTreeMap<String, String>>().map(|row| row.unwrap());
    let row = |row: BTreeMap<String, String>| {
        let number = |name: &str| row[name].parse().ok();
        (row["step"].parse().unwrap(), row["split"].clone(), number("loss").unwrap(), number("grad_norm"))
    };
    rows.map(row).collect()
}

#[test]
fn halved_numbers_follow_those_of_single_precision() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 30, 10..=20);
    let training = steps(20, 5e-3);
    let losses = |name: &str, trial: &TrialConfig| -> Vec<f64> {
        train(dir.path(), name, trial, u64::MAX).unwrap();
        metrics(&dir.path().join(name)).into_iter().map(|row| row.2).collect()
    };
    let single = losses("single", &on_gpu(Precision::F32, training.clone()));
    assert!(single.len() > 20 && single[0] - single[19] > 0.05, "{single:?}");
    // bf16 has 8 bits of significand, f16 has 11.
    for (precision, bound) in [(Precision::Bf16, 2e-2), (Precision::F16, 4e-3)] {
        let half = losses(precision.name(), &on_gpu(precision, training.clone()));
        let off = single.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        eprintln!("{precision}: losses {off:.1e} off");
        assert!(half.len() == single.len() && off > 0.0 && off < bound, "{precision}: {single:?} {half:?}");
    }
}

/// Makes trainings start from a model whose last scale is so large that its gradient, with the loss scaled by 65,536, overflows half precision.
fn steep(dir: &Path, trial: &TrialConfig) {
    let mut weights = model::Weights::random(&trial.model, 1);
    let scale = weights.layout.norm.clone();
    weights.flat[scale].fill(100.0);
    let folder = dir.join("start");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), model::folder::write_config(&trial.model)).unwrap();
    let bytes = model::weights::write_safetensors(&weights.layout, &weights.flat).unwrap();
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

#[test]
fn steps_that_overflow_are_skipped_reported_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 1, 4..=4);
    let training = Training { batch_size: 1, ..steps(16, 1e-3) };
    let trial = on_gpu(Precision::F16, training);
    steep(dir.path(), &trial);
    let whole = train(dir.path(), "whole", &trial, u64::MAX).unwrap();
    let notice = whole.notices.iter().find(|notice| notice.reason.contains("overflowed half precision"));
    let skipped = notice.unwrap().count;
    assert!(
        whole.notices.iter().any(|notice| notice
            .to_string()
            .starts_with(&format!("pretrain: {skipped} of 16 steps changed nothing"))),
        "{:?}",
        whole.notices
    );
    assert!((2..16).contains(&skipped), "{skipped}");
    // Each overflowed step leaves the weights unchanged: the loss of the only row stays the same.
    let rows: Vec<_> =
        metrics(&dir.path().join("whole")).into_iter().filter(|row| row.1 == "train").collect();
    let overflowed = |row: &(u64, String, f64, Option<f64>)| !row.3.is_some_and(f64::is_finite);
    assert_eq!(rows.iter().filter(|row| overflowed(row)).count() as u64, skipped);
    let first = rows.iter().take_while(|row| overflowed(row)).count();
    assert!(
        first >= 2 && (1..=first).all(|step| rows[step].2 == rows[0].2) && rows[first + 1].2 != rows[0].2,
        "{rows:?}"
    );
    // Stopped while steps are skipped, and after that.
    for stop_at in [1, 12] {
        assert_eq!(train(dir.path(), "stopped", &trial, stop_at), None);
    }
    assert_eq!(train(dir.path(), "stopped", &trial, u64::MAX).unwrap(), whole);
    let weights = |run: &str| fs::read(dir.path().join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("stopped") == weights("whole"));
    assert_eq!(metrics(&dir.path().join("stopped")), metrics(&dir.path().join("whole")));
}

#[test]
fn a_step_waits_for_routes_and_for_the_norm_if_its_loss_is_scaled() {
    let rows: Vec<TrainRow> =
        (1..4).map(|i| Sequence::answered(&[1 + i, 2, 3 * i], &[4, 5]).into()).collect();
    // The number of rows of each expert and the router's statistics, for each of two layers.
    let of_routes = 2 * 2;
    for (precision, n_experts, of_passes, of_update) in [
        (Precision::F32, 0, 0, 0),
        (Precision::Bf16, 0, 0, 0),
        (Precision::F32, 4, of_routes, 0),
        (Precision::F16, 0, 0, 1),
    ] {
        let trial = trial(Training::default());
        let config = ModelConfig { n_layers: 2, n_experts, ..trial.model };
        let backend = Cuda::emulated(precision);
        let lanes = LaneConfig { lanes: 1, recompute: Recompute::None, seed: 1 };
        let transformer = Transformer::new(&config, 1, &backend).unwrap();
        let mut trainer =
            Trainer::new(transformer, None, optimizer(&trial.pretrain.training), lanes).unwrap();
        let before = backend.activity().unwrap();
        let since = || backend.activity().unwrap().waits - before.waits;
        let losses = next_tokens(&mut trainer, &rows).unwrap();
        assert_eq!(since(), of_passes);
        let norm = trainer.step(1e-3).unwrap();
        assert_eq!(since(), of_passes + of_update);
        assert!(losses.read().unwrap().mean() > 1.0);
        norm.read().unwrap();
        assert_eq!(since(), of_passes + 2);
        assert!(backend.activity().unwrap().operations - before.operations > 50);
    }
}

#[test]
fn steps_queued_ahead_are_recorded_saved_and_resumed_as_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 30, 10..=20);
    let training = Training {
        log_every: 3,
        val_every_tokens: 300,
        checkpoint_every: 8,
        keep_best: true,
        ..steps(20, 5e-3)
    };
    let mut on_gpu = on_gpu(Precision::F32, training);
    on_gpu.exam.at = vec![0.25, 1.0];
    (on_gpu.sft.training.enabled, on_gpu.dpo.training.enabled) = (false, false);
    let on_cpu = TrialConfig { device: Device::Cpu, ..on_gpu.clone() };
    let [gpu, cpu] = [("gpu", &on_gpu), ("cpu", &on_cpu)].map(|(name, trial)| {
        let results = train(dir.path(), name, trial, u64::MAX).unwrap();
        assert!(dir.path().join(name).join("snapshots/0.25/model.safetensors").exists());
        (results, metrics(&dir.path().join(name)))
    });
    let places = |rows: &[(u64, String, f64, Option<f64>)]| -> Vec<(u64, String)> {
        rows.iter().map(|row| (row.0, row.1.clone())).collect()
    };
    assert_eq!(places(&gpu.1), places(&cpu.1));
    for (a, b) in gpu.1.iter().zip(&cpu.1) {
        assert!((a.2 / b.2 - 1.0).abs() < 1e-5 && a.3.is_some() == b.3.is_some(), "{a:?} {b:?}");
    }
    assert_eq!((gpu.0.tokens, gpu.0.flops), (cpu.0.tokens, cpu.0.flops));
    // A request to stop that comes with the results of a step ends the training after the next one, which is queued; with
    // those of step 6, after which the model is validated, nothing is.
    assert!(places(&gpu.1).contains(&(6, "val".into())));
    let newest = || newest_checkpoint(&dir.path().join("stopped")).unwrap();
    for (stop_at, stopped) in [(1, 2), (6, 6), (7, 10)] {
        assert_eq!(train(dir.path(), "stopped", &on_gpu, stop_at), None);
        assert!(newest().ends_with(format!("step-{stopped:010}.ckpt")), "{:?}", newest());
    }
    assert_eq!(train(dir.path(), "stopped", &on_gpu, u64::MAX).unwrap(), gpu.0);
    let weights = |run: &str| fs::read(dir.path().join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("stopped") == weights("gpu"));
    assert_eq!(metrics(&dir.path().join("stopped")), gpu.1);
}

#[test]
fn a_training_that_diverges_names_the_step_and_saves_nothing_after_it() {
    let dir = tempfile::tempdir().unwrap();
    prepared(dir.path(), 30, 10..=20);
    // The first update makes the weights so large that the second gradient is not finite.
    let training = steps(9, 1e22);
    let on_gpu = on_gpu(Precision::F32, training);
    let on_cpu = TrialConfig { device: Device::Cpu, ..on_gpu.clone() };
    let [gpu, cpu] = [("gpu", on_gpu), ("cpu", on_cpu)].map(|(name, trial)| {
        let error = try_train(dir.path(), name, &trial, u64::MAX).unwrap_err();
        let run = dir.path().join(name);
        assert!(!run.join("model").exists() && !run.join("checkpoints").exists());
        (format!("{error:#}"), metrics(&run).into_iter().map(|row| row.0).collect::<Vec<_>>())
    });
    let message = "step 2: training diverged; lower pretrain.lr (now 1e22) or raise pretrain.warmup_steps: the loss is 5.55";
    for (error, steps) in [gpu, cpu] {
        assert!(error.starts_with(message) && error.ends_with("and the gradient norm NaN"), "{error}");
        assert_eq!(steps, [1]);
    }
}
