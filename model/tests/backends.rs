//! Gradients equal finite differences; a step does not depend on its division into passes; results are identical to the byte
//! for any number of threads. `doctor.rs` tests single operations.

use crate::common::{PORTABLE, distance, learn, log_probs, relative_distance};
use model::trainer::Rule;
use model::{
    AuxLoss, Backend, Cpu, LaneConfig, ModelConfig, OptimizerConfig, Pass, Recompute, Sequence, Trainer,
    Transformer, Weights,
};

/// Returns a row with documents of the given lengths; every third position has loss weight 0.
fn row(lengths: &[u32], salt: u32) -> Sequence {
    let n: u32 = lengths.iter().sum();
    let weights = (0..n).map(|i| if i % 3 == 1 { 0.0 } else { 1.0 });
    Sequence {
        ids: (0..n).map(|i| (i * 7 + salt) % 50).collect(),
        targets: (0..n).map(|i| (i * 11 + salt + 1) % 50).collect(),
        weights: weights.clone().collect(),
        documents: lengths.to_vec(),
        counted: weights.sum(),
    }
}

fn model<B: Backend>(config: &ModelConfig, backend: &B) -> Transformer<B> {
    Transformer::new(config, 5, backend).unwrap()
}

#[test]
fn gradients_equal_finite_differences() {
    let dense = ModelConfig {
        d_model: 8,
        n_heads: 2,
        n_kv_heads: 1,
        n_layers: 2,
        hidden_dim: Some(6),
        vocab_size: 50,
        ..ModelConfig::default()
    };
    let variants = [
        dense.clone(),
        ModelConfig { qk_norm: true, ..dense.clone() },
        ModelConfig { tie_embeddings: false, ..dense.clone() },
        ModelConfig { window: Some(3), ..dense.clone() },
        ModelConfig { head_dim: Some(6), ..dense.clone() },
        // Experts without a choice, so that a small step cannot change the routing: all of them, or the only one.
        ModelConfig { n_experts: 3, top_k: 3, ..dense.clone() },
        ModelConfig { n_experts: 1, top_k: 1, n_shared_experts: 0, ..dense.clone() },
    ];
    for config in variants {
        let start = model(&config, &Cpu);
        let rows = [row(&[7, 3], 1)];
        let gradient = learn(&start, &rows, 0.1, Recompute::None).gradient;
        let weights = start.flat().unwrap().into_owned();
        // The balancing loss is part of the gradient but not of the returned loss.
        let total = |flat: Vec<f32>| {
            let moved = Weights { flat, layout: start.layout.clone() };
            let moved = Transformer::from_weights(&config, moved, &Cpu).unwrap();
            let learned = learn(&moved, &rows, 0.1, Recompute::None);
            learned.loss + learned.routers.iter().map(|r| r.aux_loss).sum::<f64>()
        };
        // Check the weights with the largest gradients of each parameter, where an error is most visible.
        for param in &start.layout.params {
            let of_param = &gradient[param.range.clone()];
            let mut places: Vec<usize> = (0..of_param.len()).collect();
            places.sort_by(|&a, &b| of_param[b].abs().total_cmp(&of_param[a].abs()));
            let largest = of_param[places[0]].abs();
            for i in places.into_iter().take(3).map(|place| param.range.start + place) {
                let h = 2e-3;
                let at = |sign: f32| {
                    let mut moved = weights.clone();
                    moved[i] += sign * h;
                    total(moved)
                };
                let want = (at(1.0) - at(-1.0)) / f64::from(2.0 * h);
                let off = (f64::from(gradient[i]) - want).abs();
                // The loss is about 3 in f32: rounding contributes an error of 3 * 6e-8 / 4e-3.
                let bound = 0.03 * f64::from(largest) + 2e-4;
                assert!(off < bound, "{} {i}: {} instead of {want} ({config:?})", param.name, gradient[i]);
            }
        }
    }
}

#[test]
fn the_router_of_a_single_expert_a_token_learns() {
    let config =
        ModelConfig { vocab_size: 50, n_experts: 4, top_k: 1, aux_loss_alpha: 0.0, ..ModelConfig::default() };
    let model = model(&config, &Cpu);
    let learned = learn(&model, &[row(&[40], 1)], 0.1, Recompute::None);
    for layer in 0..config.n_layers {
        let name = format!("layers.{layer}.feed_forward.gate.weight");
        let range = model.layout.find(&name).unwrap().range.clone();
        assert!(learned.gradient[range].iter().any(|g| g.abs() > 1e-5), "{name} has no gradient");
    }
}

#[test]
fn documents_do_not_see_each_other() {
    for window in [None, Some(4)] {
        let config = ModelConfig { vocab_size: 50, window, ..ModelConfig::default() };
        let model = model(&config, &Cpu);
        let (alone, mut packed) = (row(&[9], 4), row(&[70, 9], 4));
        packed.ids[70..].copy_from_slice(&alone.ids);
        packed.targets[70..].copy_from_slice(&alone.targets);
        packed.weights[70..].copy_from_slice(&alone.weights);
        let log_probs = model.token_log_probs(&[alone, packed]).unwrap();
        assert!(distance(&log_probs[0], &log_probs[1][70..]) < 1e-6);
    }
}

#[test]
fn a_window_hides_what_is_further_back() {
    // One layer looks back one window, two layers twice as far.
    let config = ModelConfig { vocab_size: 50, window: Some(5), n_layers: 2, ..ModelConfig::default() };
    let last = |model: &Transformer, first: u32| {
        let mut row = row(&[100], 4);
        row.ids[99 - 9] = first;
        let all = log_probs(model, &[row]);
        *all.last().unwrap()
    };
    let near = model(&config, &Cpu);
    let far = model(&ModelConfig { window: Some(6), ..config.clone() }, &Cpu);
    assert_eq!(last(&near, 1), last(&near, 2)); // 9 positions back: two layers of 4 reach 8
    assert_ne!(last(&far, 1), last(&far, 2));
}

fn work<B: Backend>(
    pass: &Pass<B>,
    gradients: &mut B::Floats,
    _: &[&Sequence],
) -> model::Result<(usize, f64)> {
    let (hidden, tape) = pass.forward()?;
    let (_, dhidden) = pass.cross_entropy(&hidden, 0.01, gradients)?;
    let routing = pass.backward(tape, dhidden, gradients)?;
    Ok((pass.batch().len(), pass.router_stats(&routing)?.iter().map(|layer| layer.aux_loss).sum()))
}

/// Returns the gradient of one step whose batch is divided into lanes, the number of positions of the longest pass, and the
/// balancing loss.
fn step<B: Backend>(
    config: &ModelConfig,
    backend: &B,
    lanes: usize,
    rows: &[Sequence],
) -> (Vec<f32>, usize, f64) {
    let lanes = LaneConfig { lanes, recompute: Recompute::None, seed: 1 };
    let mut trainer = Trainer::new(model(config, backend), None, OptimizerConfig::default(), lanes).unwrap();
    let passes = trainer.accumulate(rows, |row| vec![row], work).unwrap();
    let longest = passes.iter().map(|(positions, _)| *positions).max().unwrap();
    (trainer.take_gradient().unwrap(), longest, passes.iter().map(|(_, aux)| aux).sum())
}

#[test]
fn a_step_is_the_same_however_it_is_cut_into_passes() {
    let rows: Vec<Sequence> = (0..9).map(|i| row(&[60 + 9 * i, 3], i)).collect();
    for aux_loss_per in [AuxLoss::Sequence, AuxLoss::Batch] {
        // A large weight of the balancing loss makes a wrong balance visible.
        let config = ModelConfig {
            vocab_size: 50,
            n_experts: 4,
            aux_loss_alpha: 1.0,
            aux_loss_per,
            ..ModelConfig::default()
        };
        // The expected result: all rows in one pass.
        let (whole, positions, aux) = step(&config, &PORTABLE, 1, &rows);
        assert_eq!(positions, rows.iter().map(Sequence::len).sum::<usize>());
        for lanes in [1, 3, 9] {
            let (cut, longest, aux_of_cut) = step(&config, &Cpu, lanes, &rows);
            let off = relative_distance(&cut, &whole);
            assert!(off < 2e-5, "{aux_loss_per:?} {lanes} lanes: gradient off by {off:e}");
            assert!((aux_of_cut / aux - 1.0).abs() < 1e-5, "{lanes}: {aux_of_cut} instead of {aux}");
            assert!(longest <= Cpu::GROUP_POSITIONS, "{lanes}: a pass of {longest} positions");
        }
    }
}

#[test]
fn loads_are_counted_under_the_dropout_of_training() {
    // For a batch of one row both balancing losses are equal, provided the counted loads are those of the training pass.
    fn aux<B: Backend>(backend: &B, aux_loss_per: AuxLoss) -> f64 {
        let config = ModelConfig {
            vocab_size: 50,
            n_experts: 4,
            dropout: 0.4,
            aux_loss_per,
            ..ModelConfig::default()
        };
        step(&config, backend, 1, &[row(&[90], 1)]).2
    }
    let aux = [
        [aux(&Cpu, AuxLoss::Sequence), aux(&Cpu, AuxLoss::Batch)],
        [aux(&PORTABLE, AuxLoss::Sequence), aux(&PORTABLE, AuxLoss::Batch)],
    ];
    for [sequence, batch] in aux {
        assert!((sequence / batch - 1.0).abs() < 1e-6, "{aux:?}");
    }
}

fn trained<B: Backend>(backend: &B, rule: Rule, recompute: Recompute) -> Vec<f32> {
    let config = ModelConfig {
        vocab_size: 50,
        n_experts: 3,
        dropout: 0.1,
        aux_loss_per: AuxLoss::Batch,
        ..ModelConfig::default()
    };
    let rows: Vec<Sequence> = (0..7).map(|i| row(&[20 + i, 3], i)).collect();
    let lanes = LaneConfig { lanes: 4, recompute, seed: 1 };
    let optimizer = OptimizerConfig { rule, ..OptimizerConfig::default() };
    let mut trainer = Trainer::new(model(&config, backend), None, optimizer, lanes).unwrap();
    for _ in 0..3 {
        trainer.accumulate(&rows, |row| vec![row], work).unwrap();
        trainer.step(1e-2).unwrap();
    }
    trainer.transformer.flat().unwrap().into_owned()
}

#[test]
fn threads_and_what_is_kept_do_not_change_a_bit() {
    for rule in [Rule::AdamW, Rule::Muon] {
        let on = |threads, recompute| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| trained(&Cpu, rule, recompute))
        };
        let one = on(1, Recompute::None);
        assert!(one == on(2, Recompute::None) && one == on(3, Recompute::Activations));
        assert!(one == on(1, Recompute::Blocks));
    }
}

#[cfg(feature = "emulate")]
#[test]
fn shapes_that_a_gpu_has_too_little_shared_memory_for_are_refused() {
    let backend = model::backend::Cuda::emulated(model::Precision::F32);
    let problem = |config: &ModelConfig| {
        let lanes = LaneConfig { lanes: 1, recompute: Recompute::None, seed: 1 };
        let start = model(config, &backend);
        let mut trainer = Trainer::new(start, None, OptimizerConfig::default(), lanes).unwrap();
        trainer.accumulate(&[row(&[4], 1)], |row| vec![row], work).err().map(|error| error.to_string())
    };
    let (n_layers, vocab_size, hidden_dim) = (1, 50, Some(2));
    let shape = ModelConfig { d_model: 8, n_layers, vocab_size, hidden_dim, ..ModelConfig::default() };
    let experts = |n_experts| ModelConfig { n_experts, ..shape.clone() };
    assert_eq!(problem(&experts(model::Device::MAX_CUDA_EXPERTS)), None);
    let message = "training on CUDA: n_experts is 397, expected at most 396 on this GPU";
    assert_eq!(problem(&experts(397)).as_deref(), Some(message));
    let wide = ModelConfig { d_model: 25_345, n_heads: 1, n_kv_heads: 1, head_dim: Some(2), ..shape };
    let message = "training on CUDA: a norm is over 25345 numbers, expected at most 25344 on this GPU; use a smaller d_model";
    assert_eq!(problem(&wide).as_deref(), Some(message));
}

#[test]
fn the_backends_update_alike() {
    use model::layout::Matrix;
    use model::optimizer::{AdamW, Clipping, Muon};

    /// Returns weights and both moments after five updates by each rule, for matrices, two of them of equal shape, with the
    /// scale of a norm in between.
    fn updated<B: Backend>(backend: &B) -> [Vec<f32>; 3] {
        let n = 12 * 7 + 5 + 6 * 20 + 12 * 7;
        let wave = |rate: f32| (0..n).map(|i| (i as f32 * rate).sin()).collect::<Vec<f32>>();
        let mut weights = backend.weights(wave(0.37)).unwrap();
        let mut moments = [backend.zeros(n).unwrap(), backend.zeros(n).unwrap()];
        let matrices = [
            Matrix { range: 0..84, d_out: 12, d_in: 7 },
            Matrix { range: 89..209, d_out: 6, d_in: 20 },
            Matrix { range: 209..293, d_out: 12, d_in: 7 },
        ];
        for step in 1..=5 {
            let grads = backend.floats(wave(0.1 + 0.01 * step as f32)).unwrap();
            // Half of the gradient.
            let clipping = Clipping { max_norm: 0.0, loss_scale: 2.0 };
            let scale = backend.grad_scale(&grads, &[(0..n, 1.0)], &clipping).unwrap();
            let (lr, weight_decay) = (1e-2, 0.1);
            let adamw = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, step };
            backend.adamw(&mut weights, &mut moments, &grads, &scale, 84..89, &adamw).unwrap();
            let muon = Muon { lr, momentum: 0.95, weight_decay };
            backend.muon(&mut weights, &mut moments, &grads, &scale, &matrices, &muon).unwrap();
        }
        let [first, second] = &moments;
        [backend.read_weights(&weights), backend.read(first), backend.read(second)]
            .map(|numbers| numbers.unwrap().into_owned())
    }

    let (cpu, portable) = (updated(&Cpu), updated(&PORTABLE));
    for (a, b) in cpu.iter().zip(&portable) {
        assert!(distance(a, b) < 2e-6, "{}", distance(a, b));
    }
    assert_eq!(cpu[2][0], 0.0); // Muon has no second moment
    // Expected values: torch.optim.Muon and AdamW on the same numbers, by `scripts/muon_torch.py`.
    let torch = [
        (0, -0.0007483),
        (1, 0.3619777),
        (13, -0.9976129),
        (83, -0.6458154),
        (84, -0.3103675),
        (88, 0.9470131),
        (89, 1.0096043),
        (90, 0.9574405),
        (150, -0.8543212),
        (208, 0.9944088),
    ];
    for (place, want) in torch {
        let off: f32 = cpu[0][place] - want;
        assert!(off.abs() < 1e-5, "{place}: {} instead of {want}", cpu[0][place]);
    }
}
