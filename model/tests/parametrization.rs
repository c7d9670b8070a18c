//! Coordinate checks (Yang et al. 2022, appendix D.1; Dey et al. 2025, figure 7): how far a few training steps move the states
//! and the logits of a model, across widths and depths. Also: at the base shape, all parametrizations are equal.

use crate::common::lm_pass;
use model::parametrization::Parametrization::{self, Completep, Mup, Standard};
use model::random::{Purpose, stream};
use model::trainer::{OptimizerConfig, Rule};
use model::{
    Backend, Cpu, Init, LaneConfig, Lora, LoraConfig, Memory, Mode, ModelConfig, Ragged, Recompute, Sequence,
    Trainer, Transformer,
};
use rand::Rng;

const VOCAB: u32 = 64;

fn rows() -> Vec<Sequence> {
    let mut random = stream(5, Purpose::Order, 0);
    let mut ids = || -> Vec<u32> { (0..33).map(|_| random.random_range(0..VOCAB)).collect() };
    let row = |ids: Vec<u32>| Sequence {
        ids: ids[..32].to_vec(),
        targets: ids[1..].to_vec(),
        weights: vec![1.0; 32],
        documents: vec![32],
        counted: 32.0,
    };
    (0..4).map(|_| row(ids())).collect()
}

/// Returns a shape whose head size grows with its width.
fn shape(parametrization: Parametrization, d_model: usize, n_layers: usize) -> ModelConfig {
    ModelConfig {
        d_model,
        n_layers,
        n_heads: 4,
        n_kv_heads: 2,
        vocab_size: VOCAB as usize,
        multiple_of: 8,
        parametrization,
        base_width: Some(32),
        base_head_dim: Some(8),
        base_depth: Some(2),
        ..ModelConfig::default()
    }
}

fn step<B: Backend>(trainer: &mut Trainer<B>, rows: &[Sequence], lr: f64) -> f64 {
    let loss = lm_pass(trainer, rows);
    trainer.step(lr).unwrap();
    loss
}

fn trainer(config: &ModelConfig, rule: Rule, seed: u64) -> Trainer {
    let lanes = LaneConfig { lanes: 1, recompute: Recompute::None, seed };
    let optimizer = OptimizerConfig { rule, ..OptimizerConfig::default() };
    Trainer::new(Transformer::new(config, seed, &Cpu).unwrap(), None, optimizer, lanes).unwrap()
}

/// Computes the states after the last block, and the logits.
fn outputs(model: &Transformer, rows: &[Sequence]) -> [Vec<f32>; 2] {
    let pass = model.pass(Ragged::new(rows), Mode::Infer).unwrap();
    let hidden = pass.forward().unwrap().0;
    let all: Vec<usize> = (0..pass.batch().len()).collect();
    [Cpu.read_buffer(&hidden).unwrap(), pass.logits(&hidden, &all).unwrap()]
}

/// Returns how far four steps move the states and the logits: root mean square over all elements and two seeds.
fn moved(config: &ModelConfig, rule: Rule, lr: f64) -> [f64; 2] {
    let rows = rows();
    let mut squares = [0.0; 2];
    for seed in [1, 2] {
        let mut trainer = trainer(config, rule, seed);
        let before = outputs(&trainer.transformer, &rows);
        for _ in 0..4 {
            step(&mut trainer, &rows, lr);
        }
        let after = outputs(&trainer.transformer, &rows);
        for (square, (before, after)) in squares.iter_mut().zip(before.iter().zip(&after)) {
            let moved: f64 = before.iter().zip(after).map(|(b, a)| f64::from(a - b).powi(2)).sum();
            *square += moved / before.len() as f64 / 2.0;
        }
    }
    squares.map(f64::sqrt)
}

/// Returns [`moved`] for each shape, relative to the first shape: states, then logits.
fn growth(shapes: &[ModelConfig], rule: Rule) -> [Vec<f64>; 2] {
    let moved: Vec<[f64; 2]> = shapes.iter().map(|config| moved(config, rule, 3e-2)).collect();
    [0, 1].map(|i| moved.iter().map(|m| m[i] / moved[0][i]).collect())
}

/// Asserts that growth stays near 1. The bounds are wide because the contribution of random initial weights shrinks only as
/// the root of the size and these shapes are small.
#[track_caller]
fn assert_constant([states, logits]: [Vec<f64>; 2]) {
    let is_constant = |growth: &[f64]| growth.iter().all(|times| (0.55..1.5).contains(times));
    assert!(is_constant(&states) && is_constant(&logits), "states {states:.2?}, logits {logits:.2?}");
}

/// Asserts that the movement of the states increases from shape to shape, and that of the last exceeds `least` times that of
/// the first.
#[track_caller]
fn assert_growing([states, _]: [Vec<f64>; 2], least: f64) {
    assert!(states.is_sorted() && states[3] > least, "{states:.2?}");
}

fn widths(parametrization: Parametrization) -> [ModelConfig; 4] {
    [32, 64, 128, 256].map(|width| shape(parametrization, width, 2))
}

fn depths(parametrization: Parametrization) -> [ModelConfig; 4] {
    [2, 4, 8, 16].map(|depth| shape(parametrization, 32, depth))
}

#[test]
fn updates_stay_of_one_size_over_widths_under_mup_only() {
    assert_constant(growth(&widths(Mup), Rule::AdamW));
    assert_growing(growth(&widths(Standard), Rule::AdamW), 10.0);
}

#[test]
fn updates_of_variants_stay_of_one_size_over_widths_under_mup_only() {
    let changes: [fn(ModelConfig) -> ModelConfig; 2] = [
        |config| ModelConfig { tie_embeddings: false, qk_norm: true, ..config },
        |config| ModelConfig { n_experts: 4, init: Init::Minimind, ..config },
    ];
    for change in changes {
        assert_constant(growth(&widths(Mup).map(change), Rule::AdamW));
        assert_growing(growth(&widths(Standard).map(change), Rule::AdamW), 5.0);
    }
}

#[test]
fn updates_of_muon_stay_of_one_size_over_widths_under_mup_only() {
    assert_constant(growth(&widths(Mup), Rule::Muon));
    assert_growing(growth(&widths(Standard), Rule::Muon), 1.7);
}

#[test]
fn updates_stay_of_one_size_over_depths_under_completep_only() {
    assert_constant(growth(&depths(Completep), Rule::AdamW));
    assert_growing(growth(&depths(Mup), Rule::AdamW), 5.0);
    assert_growing(growth(&depths(Standard), Rule::AdamW), 5.0);
}

/// Returns the weights after two steps.
fn trained(config: &ModelConfig, rule: Rule) -> Vec<f32> {
    let mut trainer = trainer(config, rule, 3);
    for _ in 0..2 {
        step(&mut trainer, &rows(), 1e-2);
    }
    trainer.transformer.flat().unwrap().into_owned()
}

#[test]
fn at_the_base_shape_all_parametrizations_have_the_same_bits() {
    for rule in [Rule::AdamW, Rule::Muon] {
        for init in [Init::Width, Init::Minimind] {
            let of = |parametrization| {
                let base = shape(parametrization, 32, 2);
                trained(
                    &ModelConfig { init, n_experts: 2, qk_norm: true, tie_embeddings: false, ..base },
                    rule,
                )
            };
            let standard = of(Standard);
            assert!(standard == of(Mup) && standard == of(Completep));
        }
    }
}

/// Forward passes and other programs do not depend on the parametrization, but resumed training does.
#[test]
fn folders_keep_the_base_shape_and_exports_leave_it_out() {
    let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let config = ModelConfig { init: Init::Minimind, ..shape(Completep, 64, 4) };
    std::fs::write(&path, model::folder::write_config(&config)).unwrap();
    assert_eq!(model::folder::read_config(&path).unwrap(), config);
    let keys = |json: serde_json::Value| json.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let standard = ModelConfig { parametrization: Standard, ..config.clone() };
    let theirs = [&config, &standard].map(|config| model::weights::minimind::config_json(config).unwrap());
    assert_eq!(theirs[0], theirs[1]);
    assert!(!keys(theirs[0].clone()).iter().any(|key| key.contains("base") || key.contains("param")));
}

/// The contribution of adapters to the states does not shrink with the width.
#[test]
fn adapters_learn_as_much_at_any_width_under_mup() {
    let rows = rows();
    let moved = [32, 256].map(|width| {
        let model = Transformer::new(&shape(Mup, width, 2), 1, &Cpu).unwrap();
        let before = outputs(&model, &rows);
        let targets = ["wq", "wv", "wo", "w1", "w2"].map(String::from).to_vec();
        let lora = Lora::new(&model, &LoraConfig { rank: 4, alpha: 4.0, targets }, 1).unwrap();
        let lanes = LaneConfig { lanes: 1, recompute: Recompute::None, seed: 1 };
        let mut trainer = Trainer::new(model, Some(lora), OptimizerConfig::default(), lanes).unwrap();
        for _ in 0..4 {
            step(&mut trainer, &rows, 3e-2);
        }
        let after = outputs(&trainer.transformer, &rows);
        let squares: f64 = before[0].iter().zip(&after[0]).map(|(b, a)| f64::from(a - b).powi(2)).sum();
        (squares / before[0].len() as f64).sqrt()
    });
    assert!((0.5..1.5).contains(&(moved[1] / moved[0])), "{moved:?}");
}
