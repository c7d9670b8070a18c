//! MiniMind v1 parity: the same weights and rows give PyTorch's logits, losses and gradients.
//! Tolerances are those of the reference folders' notes.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use model::{AuxShare, Form, Gradients, Mode, Transformer};
use std::sync::Arc;

fn train(model: &Transformer, sequences: usize, positions: usize) -> (Arc<Gradients>, Mode) {
    let gradients = Gradients::zeros(model.weights.layout.len(), model.device());
    let aux = AuxShare { sequences, positions, loads: None };
    let mode = Mode::Train { gradients: gradients.clone(), dropout_seed: 0, aux, recompute: false };
    (gradients, mode)
}

#[test]
fn logits_and_activations_match() {
    for folder in ["dense", "moe"] {
        let Some(model) = model(folder) else { return };
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let activations = tensors(&format!("{folder}/activations.safetensors")).unwrap();
        let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
        let seq = rows[0].len();
        let positions: Vec<usize> =
            io["positions"].to_vec1::<i64>().unwrap().iter().map(|&p| p as usize).collect();
        let positions: Vec<usize> =
            (0..rows.len()).flat_map(|r| positions.iter().map(move |p| r * seq + p)).collect();
        for form in [Form::Fused, Form::Plain] {
            let pass = model.pass_as(form, ragged(&rows), Mode::Infer).unwrap();
            let states = pass.states().unwrap();
            assert_eq!(distance(&flat(&states[0]), &flat(&activations["embedding"])), 0.0);
            for layer in 0..3 {
                let got = flat(&states[layer + 1]);
                let off = distance(&got, &flat(&activations[&format!("block_{layer}")]));
                assert!(off < 5e-6, "{folder} {form:?} block {layer}: {off:e}");
            }
            let logits = pass.logits(&states[3], &positions).unwrap();
            let off = distance(&flat(&logits), &flat(&io["logits_at_positions"]));
            assert!(off < 5e-6, "{folder} {form:?} logits: {off:e}");
        }
    }
}

#[test]
fn losses_and_gradients_match() {
    for folder in ["dense", "moe"] {
        let Some(mut model) = model(folder) else { return };
        // v1 computes the balancing loss and forgets it: the first reference is without, the second with it.
        for (file, alpha) in [("grads", 0.0), ("grads_with_aux", 0.01)] {
            let Some(want) =
                (folder == "moe" || alpha == 0.0).then(|| tensors(&format!("{folder}/{file}.safetensors")))
            else {
                continue;
            };
            let config = model::ModelConfig { aux_loss_alpha: alpha, ..(*model.config).clone() };
            model = Transformer::from_weights(&config, model.weights.clone());
            let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
            let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
            let positions: usize = rows.iter().map(|r| r.len()).sum();
            for form in [Form::Fused, Form::Plain] {
                let (gradients, mode) = train(&model, rows.len(), positions);
                let pass = model.pass_as(form, ragged(&rows), mode).unwrap();
                let hidden = pass.hidden().unwrap();
                let loss = pass.cross_entropy(&hidden, 1.0 / counted(&rows)).unwrap();
                let off = (loss.to_scalar::<f32>().unwrap() - flat(&io["masked_mean_loss"])[0]).abs();
                assert!(off < 5e-6, "{folder} {form:?} loss: {off:e}");
                pass.backward(&loss).unwrap();
                let gradients = gradients.host();
                for (name, want) in want.as_ref().unwrap() {
                    let range = model.weights.layout.find(name).unwrap().range.clone();
                    let off = relative_distance(&gradients[range], &flat(want));
                    assert!(off < 1e-5, "{folder} {form:?} gradient of {name}: {off:e}");
                }
            }
        }
    }
}

#[test]
fn log_probs_match_per_token_losses() {
    for folder in ["dense", "moe"] {
        let Some(model) = model(folder) else { return };
        let io = tensors(&format!("{folder}/io.safetensors")).unwrap();
        let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
        let want: Vec<f32> = flat(&io["per_token_loss"]);
        for form in [Form::Fused, Form::Plain] {
            let pass = model.pass_as(form, ragged(&rows), Mode::Infer).unwrap();
            let got = flat(&pass.log_probs(&pass.hidden().unwrap()).unwrap());
            let weights = &pass.batch().weights;
            let want: Vec<f32> = want.iter().zip(weights).map(|(l, w)| -l * w).collect();
            let off = distance(&got, &want);
            assert!(off < 5e-6, "{folder} {form:?}: {off:e}");
        }
    }
}

#[test]
fn router_choices_and_balancing_losses_match() {
    let Some(model) = model("moe") else { return };
    let io = tensors("moe/io.safetensors").unwrap();
    let gate = tensors("moe/gate.safetensors").unwrap();
    let rows = rows(&io["input_ids"], &io["targets"], &io["loss_mask"]);
    for form in [Form::Fused, Form::Plain] {
        let (_gradients, mode) = train(&model, rows.len(), rows.iter().map(|r| r.len()).sum());
        let pass = model.pass_as(form, ragged(&rows), mode).unwrap();
        pass.hidden().unwrap();
        for (layer, stats) in pass.router_stats().iter().enumerate() {
            let chosen =
                gate[&format!("layer{layer}.topk_idx")].flatten_all().unwrap().to_vec1::<i64>().unwrap();
            for (expert, &load) in stats.load.iter().enumerate() {
                assert_eq!(load as usize, chosen.iter().filter(|&&e| e == expert as i64).count());
            }
            let want = f64::from(flat(&gate[&format!("layer{layer}.aux_loss_seq")])[0]);
            assert!(
                (stats.aux_loss - want).abs() < 1e-6,
                "{form:?} layer {layer}: {} {want}",
                stats.aux_loss
            );
        }
    }
}
