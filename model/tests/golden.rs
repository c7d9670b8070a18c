//! Parity with MiniMind v1: with the same weights and rows, every backend reproduces PyTorch's logits, losses and gradients.
//! Tolerances are those of the notes in the reference folders.

use crate::common::*;
use model::{Backend, Cpu, Mode, Recompute};

fn logits_and_activations_match<B: Backend>(backend: &B) {
    for folder in ["dense", "moe"] {
        let Some(model) = model(folder) else { return };
        let model = model.on(backend);
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let activations = tensors(&format!("{folder}/activations.safetensors")).unwrap();
        let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
        let seq = rows[0].len();
        let positions: Vec<usize> =
            io["positions"].to_vec1::<i64>().unwrap().iter().map(|&p| p as usize).collect();
        let positions: Vec<usize> =
            (0..rows.len()).flat_map(|r| positions.iter().map(move |p| r * seq + p)).collect();
        let pass = model.pass(ragged(&rows), Mode::Infer).unwrap();
        let states = pass.states().unwrap();
        let values = |i: usize| backend.read_buffer(&states[i]).unwrap();
        assert_eq!(distance(&values(0), &flat(&activations["embedding"])), 0.0);
        for layer in 0..3 {
            let off = distance(&values(layer + 1), &flat(&activations[&format!("block_{layer}")]));
            assert!(off < 5e-6, "{folder} {backend:?} block {layer}: {off:e}");
        }
        let logits = pass.logits(&states[3], &positions).unwrap();
        let off = distance(&logits, &flat(&io["logits_at_positions"]));
        assert!(off < 5e-6, "{folder} {backend:?} logits: {off:e}");
    }
}

fn losses_and_gradients_match<B: Backend>(backend: &B) {
    for (folder, file, alpha) in
        [("dense", "grads", 0.0), ("moe", "grads", 0.0), ("moe", "grads_with_aux", 0.01)]
    {
        // v1 computes the balancing loss but does not add it to the loss: the first references exclude it, the last includes it.
        let Some(model) = model(folder) else { return };
        let model = model.with_aux(alpha).on(backend);
        let want = tensors(&format!("{folder}/{file}.safetensors")).unwrap();
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
        for recompute in [Recompute::None, Recompute::Activations, Recompute::Blocks] {
            let learned = learn(&model, &rows, 1.0 / counted(&rows), recompute);
            let off = (learned.loss - f64::from(flat(&io["masked_mean_loss"])[0])).abs();
            assert!(off < 5e-6, "{folder} {backend:?} loss: {off:e}");
            for (name, want) in &want {
                let range = model.layout.find(name).unwrap().range.clone();
                let off = relative_distance(&learned.gradient[range], &flat(want));
                assert!(off < 1e-5, "{folder} {backend:?} {recompute:?} gradient of {name}: {off:e}");
            }
        }
    }
}

fn log_probs_match_per_token_losses<B: Backend>(backend: &B) {
    for folder in ["dense", "moe"] {
        let Some(model) = model(folder) else { return };
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
        let weights = rows.iter().flat_map(|row| &row.weights);
        let want: Vec<f32> = flat(&io["per_token_loss"]).iter().zip(weights).map(|(l, w)| -l * w).collect();
        let off = distance(&log_probs(&model.on(backend), &rows), &want);
        assert!(off < 5e-6, "{folder} {backend:?}: {off:e}");
    }
}

fn router_choices_and_balancing_losses_match<B: Backend>(backend: &B) {
    let Some(model) = model("moe") else { return };
    let io = tensors("moe/io.safetensors").unwrap();
    let gate = tensors("moe/gate.safetensors").unwrap();
    let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
    let learned = learn(&model.on(backend), &rows, 1.0, Recompute::None);
    assert_eq!(learned.routers.len(), 3);
    for (layer, stats) in learned.routers.iter().enumerate() {
        let chosen = gate[&format!("layer{layer}.topk_idx")].flatten_all().unwrap().to_vec1::<i64>().unwrap();
        for (expert, &load) in stats.load.iter().enumerate() {
            assert_eq!(load as usize, chosen.iter().filter(|&&e| e == expert as i64).count());
        }
        let want = f64::from(flat(&gate[&format!("layer{layer}.aux_loss_seq")])[0]);
        let off = (stats.aux_loss - want).abs();
        assert!(off < 1e-6, "{backend:?} layer {layer}: {} {want}", stats.aux_loss);
    }
}

fn all<B: Backend>(backend: &B) {
    logits_and_activations_match(backend);
    losses_and_gradients_match(backend);
    log_probs_match_per_token_losses(backend);
    router_choices_and_balancing_losses_match(backend);
}

#[test]
fn the_processor_s_numbers_are_minimind_s() {
    all(&Cpu);
}

#[test]
fn the_portable_numbers_are_minimind_s() {
    all(&PORTABLE);
}
