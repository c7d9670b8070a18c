//! Tests of the reference itself: its gradients against finite differences, its values against those of MiniMind.
//! `pytorch.rs` compares its variants with PyTorch.

use crate::common::{counted, distance, flat, ragged, relative_distance, rows, tensors};
use candle_core::{DType, Device};
use model::layout::Layout;
use model::random::{Purpose, stream};
use model::reference::Reference;
use model::{AuxLoss, Cpu, ModelConfig, Ragged, Sequence, Transformer, Weights};
use rand::Rng;
use std::sync::Arc;

/// Returns a row with documents of the given lengths; every third position has loss weight 0.
fn row(lengths: &[u32], salt: u32) -> Sequence {
    let n: u32 = lengths.iter().sum();
    let weights = (0..n).map(|i| if i % 3 == 1 { 0.0 } else { 1.0 });
    Sequence {
        ids: (0..n).map(|i| (i * 7 + salt) % 11).collect(),
        targets: (0..n).map(|i| (i * 5 + salt + 1) % 11).collect(),
        weights: weights.clone().collect(),
        documents: lengths.to_vec(),
        counted: weights.sum(),
    }
}

/// Draws large weights, so that every part of the model has an effect; scales of norms are around one.
fn weights(config: &ModelConfig) -> Vec<f32> {
    let mut rng = stream(3, Purpose::Weights, 0);
    let mut draw = |scale: bool| {
        let x = rng.random_range(-0.6..0.6f32);
        if scale { 1.0 + x } else { x }
    };
    let layout = Layout::new(config);
    layout.params.iter().flat_map(|p| vec![p.shape.len() == 1; p.range.len()]).map(&mut draw).collect()
}

fn small() -> ModelConfig {
    ModelConfig {
        d_model: 8,
        n_heads: 4,
        n_kv_heads: 2,
        n_layers: 2,
        hidden_dim: Some(6),
        vocab_size: 11,
        aux_loss_alpha: 0.3,
        ..ModelConfig::default()
    }
}

/// Returns every variant of the model separately, then many combined.
fn variants() -> Vec<(&'static str, ModelConfig)> {
    let moe = ModelConfig { n_experts: 3, ..small() };
    vec![
        ("dense", small()),
        ("qk_norm", ModelConfig { qk_norm: true, ..small() }),
        ("untied", ModelConfig { tie_embeddings: false, ..small() }),
        ("window", ModelConfig { window: Some(3), ..small() }),
        ("head_dim", ModelConfig { head_dim: Some(6), ..small() }),
        ("dropout", ModelConfig { dropout: 0.3, ..small() }),
        ("experts", moe.clone()),
        ("single expert", ModelConfig { top_k: 1, n_shared_experts: 0, ..moe.clone() }),
        (
            "balanced over the batch",
            ModelConfig { aux_loss_per: AuxLoss::Batch, n_shared_experts: 2, ..moe.clone() },
        ),
        (
            "together",
            ModelConfig {
                qk_norm: true,
                tie_embeddings: false,
                window: Some(2),
                head_dim: Some(4),
                dropout: 0.2,
                top_k: 1,
                ..moe
            },
        ),
    ]
}

/// Returns the indices of at most eight elements of every parameter.
fn some_of_each(layout: &Layout) -> impl Iterator<Item = usize> + '_ {
    layout.params.iter().flat_map(|param| param.range.clone().step_by(param.range.len().div_ceil(8)))
}

#[test]
fn gradients_equal_finite_differences() {
    let batch = Ragged::new(&[row(&[6, 3], 1), row(&[4], 5)]);
    for (variant, config) in variants() {
        let weights = weights(&config);
        let pass = |weights: &[f32]| {
            let reference = Reference::new(&config, weights, DType::F64, &Device::Cpu).unwrap();
            let pass = reference.pass(&batch, Some(9)).unwrap();
            let loss = reference.loss(&batch, &pass, 0.1).unwrap();
            (reference, loss, pass.loads)
        };
        let (reference, loss, loads) = pass(&weights);
        let gradient = reference.gradient(&loss).unwrap();
        let largest = f64::from(gradient.iter().fold(0.0f32, |m, g| m.max(g.abs())));
        let (mut checked, mut jumped) = (0, 0);
        for i in some_of_each(&Layout::new(&config)) {
            // The loss and the weight after a step, whose length is rounded to f32; `None` if a token changes its expert,
            // because the loss then jumps.
            let at = |step: f32| {
                let mut moved = weights.clone();
                moved[i] += step;
                let (_, loss, loads_there) = pass(&moved);
                (loads == loads_there).then(|| (loss.to_scalar::<f64>().unwrap(), f64::from(moved[i])))
            };
            let slope = |step: f32| {
                let (above, below) = (at(step)?, at(-step)?);
                Some((above.0 - below.0) / (above.1 - below.1))
            };
            // Fourth-order central differences.
            let h = 1.0 / 2048.0;
            let Some((near, far)) = slope(h).zip(slope(2.0 * h)) else {
                jumped += 1;
                continue;
            };
            let want = (4.0 * near - far) / 3.0;
            let off = (f64::from(gradient[i]) - want).abs();
            assert!(off < 1e-6 * largest, "{variant}, weight {i}: {} instead of {want}", gradient[i]);
            checked += 1;
        }
        assert!(10 * jumped < checked, "{variant}: {jumped} jumps beside {checked} checks");
    }
}

#[test]
fn a_single_expert_gives_its_router_a_gradient() {
    let config = ModelConfig { n_experts: 3, top_k: 1, aux_loss_alpha: 0.0, ..small() };
    let reference = Reference::new(&config, &weights(&config), DType::F64, &Device::Cpu).unwrap();
    let batch = Ragged::new(&[row(&[9], 1)]);
    let pass = reference.pass(&batch, None).unwrap();
    let gradient = reference.gradient(&reference.loss(&batch, &pass, 0.1).unwrap()).unwrap();
    let layout = Layout::new(&config);
    let router = layout.find("layers.0.feed_forward.gate.weight").unwrap().range.clone();
    assert!(gradient[router].iter().any(|g| g.abs() > 1e-4));
}

#[test]
fn routes_of_prompts_are_those_of_the_reference() {
    // Dropout would change the routes, but inference must not apply it.
    let config = ModelConfig { n_experts: 3, top_k: 2, dropout: 0.5, max_seq_len: 2048, ..small() };
    let prompts: Vec<Vec<u32>> = [3, 1400, 7].map(|len| (0..len).map(|i| i * i % 11).collect()).into();
    let reference = Reference::new(&config, &weights(&config), DType::F64, &Device::Cpu).unwrap();
    let expected = reference.pass(&Ragged::prompts(&prompts), None).unwrap().loads;
    let own = Weights { layout: Arc::new(Layout::new(&config)), flat: weights(&config) };
    let found = Transformer::from_weights(&config, own, &Cpu).unwrap().routes(&prompts).unwrap();
    let tokens: Vec<u64> = found.iter().map(|layer| layer.tokens).collect();
    assert_eq!((tokens, found.len()), (vec![1410; 2], 2));
    for (layer, load) in found.iter().zip(&expected) {
        assert_eq!(layer.load.iter().sum::<u64>(), 2 * 1410);
        // If two scores are nearly equal, the reference, in double precision, may select a different expert.
        let apart: u64 = layer.load.iter().zip(load).map(|(a, b)| a.abs_diff(*b)).sum();
        assert!(apart <= 2, "{:?} {load:?}", layer.load);
    }
    let dense = Weights { layout: Arc::new(Layout::new(&small())), flat: weights(&small()) };
    let dense = Transformer::from_weights(&small(), dense, &Cpu).unwrap();
    assert!(dense.routes(&[[1, 2]]).unwrap().is_empty());
}

/// Computes the states after the only block of a model, for each position.
fn last_states(config: &ModelConfig, batch: &Ragged) -> Vec<Vec<f64>> {
    let config = ModelConfig { n_layers: 1, ..config.clone() };
    let reference = Reference::new(&config, &weights(&config), DType::F64, &Device::Cpu).unwrap();
    reference.pass(batch, None).unwrap().hidden().to_vec2().unwrap()
}

#[test]
fn a_window_of_three_sees_a_token_and_the_two_before_it() {
    let config = ModelConfig { window: Some(3), ..small() };
    let batch = |token| Ragged::prompts(&[[1, 2, token, 4, 5, 6, 7]]);
    let (one, other) = (last_states(&config, &batch(3)), last_states(&config, &batch(8)));
    let changed: Vec<usize> = (0..7).filter(|&i| one[i] != other[i]).collect();
    assert_eq!(changed, [2, 3, 4]);
}

#[test]
fn documents_do_not_see_each_other() {
    let (first, second) = ([1u32, 2, 3, 4], [5u32, 6, 7]);
    let together = last_states(&small(), &Ragged::prompts(&[&first[..], &second[..]]));
    let alone = last_states(&small(), &Ragged::prompts(&[&second[..]]));
    for (a, b) in together[4..].iter().flatten().zip(alone.iter().flatten()) {
        assert!((a - b).abs() < 1e-12);
    }
}

/// Loads MiniMind v1's weights into the reference, with `alpha` as weight of the balancing loss, and its rows.
fn golden(folder: &str, alpha: f64) -> Option<(Reference, Vec<Sequence>)> {
    let (config, _) = crate::common::config(folder)?;
    let config = ModelConfig { aux_loss_alpha: alpha, ..config };
    let named = tensors(&format!("{folder}/model.safetensors"))?;
    let weights: Vec<f32> =
        Layout::new(&config).params.iter().flat_map(|param| flat(&named[&param.name])).collect();
    let io = tensors(&format!("{folder}/io.safetensors"))?;
    let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
    Some((Reference::new(&config, &weights, DType::F32, &Device::Cpu).unwrap(), rows))
}

// The tolerances of the following tests are those of the notes next to the reference values.

#[test]
fn states_logits_and_losses_are_those_of_minimind() {
    for folder in ["dense", "moe"] {
        let Some((reference, rows)) = golden(folder, 0.0) else { return };
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let activations = tensors(&format!("{folder}/activations.safetensors")).unwrap();
        let batch = ragged(&rows);
        let pass = reference.pass(&batch, None).unwrap();
        assert_eq!(distance(&flat(&pass.states[0]), &flat(&activations["embedding"])), 0.0);
        for (layer, state) in pass.states[1..].iter().enumerate() {
            let off = distance(&flat(state), &flat(&activations[&format!("block_{layer}")]));
            assert!(off < 5e-6, "{folder} block {layer}: {off:e}");
        }
        let logits = reference.logits(pass.hidden()).unwrap().to_vec2::<f32>().unwrap();
        let positions = io["positions"].to_vec1::<i64>().unwrap();
        let of_row =
            |row: &[Vec<f32>]| positions.iter().flat_map(|&p| row[p as usize].clone()).collect::<Vec<f32>>();
        let chosen: Vec<f32> = logits.chunks(rows[0].len()).flat_map(of_row).collect();
        let off = distance(&chosen, &flat(&io["logits_at_positions"]));
        assert!(off < 5e-6, "{folder} logits: {off:e}");
        let loss = reference.loss(&batch, &pass, 1.0 / counted(&rows)).unwrap();
        let off = distance(&flat(&loss), &flat(&io["masked_mean_loss"]));
        assert!(off < 5e-6, "{folder} loss: {off:e}");
    }
}

#[test]
fn gradients_are_those_of_minimind() {
    // v1 computes the balancing loss but does not add it to the loss: the first gradients exclude it, the last include it.
    for (folder, file, alpha) in
        [("dense", "grads", 0.0), ("moe", "grads", 0.0), ("moe", "grads_with_aux", 0.01)]
    {
        let Some((reference, rows)) = golden(folder, alpha) else { return };
        let batch = ragged(&rows);
        let pass = reference.pass(&batch, None).unwrap();
        let gradient =
            reference.gradient(&reference.loss(&batch, &pass, 1.0 / counted(&rows)).unwrap()).unwrap();
        let layout = Layout::new(&crate::common::config(folder).unwrap().0);
        for (name, want) in tensors(&format!("{folder}/{file}.safetensors")).unwrap() {
            let range = layout.find(&name).unwrap().range.clone();
            let off = relative_distance(&gradient[range], &flat(&want));
            assert!(off < 1e-5, "{folder}, {file} of {name}: {off:e}");
        }
    }
}

#[test]
fn choices_and_balancing_losses_are_those_of_minimind() {
    let Some((reference, rows)) = golden("moe", 0.01) else { return };
    let gate = tensors("moe/gate.safetensors").unwrap();
    let pass = reference.pass(&ragged(&rows), None).unwrap();
    for (layer, (aux, load)) in pass.aux_losses.iter().zip(&pass.loads).enumerate() {
        let off = distance(&flat(aux), &flat(&gate[&format!("layer{layer}.aux_loss_seq")])[..1]);
        assert!(off < 1e-6, "layer {layer}: {off:e}");
        let chosen = gate[&format!("layer{layer}.topk_idx")].flatten_all().unwrap().to_vec1::<i64>().unwrap();
        for (expert, &tokens) in load.iter().enumerate() {
            let want = chosen.iter().filter(|&&chosen| chosen == expert as i64).count();
            assert_eq!(tokens as usize, want, "layer {layer}, expert {expert}");
        }
    }
}
