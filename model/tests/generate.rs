//! Generation: MiniMind v1's tokens, the cache against no cache, the fused form against the plain form.
//! Reference and tolerances are those of `golden/generate`.
#![allow(clippy::unwrap_used)]

mod common;

use common::{distance, flat, model, model_x8, shared};
use model::{Decoder, Form, GenerateOptions, Mode, ModelConfig, Ragged, Sampling, Transformer};
use std::ops::ControlFlow;

fn reference() -> Option<serde_json::Value> {
    let path = shared("golden/generate/generate.json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn greedy(model: &Transformer, form: Form, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens, sampling: Sampling::default(), seed: 0, stop: vec![2] };
    model.generate_as(form, prompt, &options, |_| ControlFlow::Continue(())).unwrap()
}

/// The place of the largest logit.
fn best(logits: &[f32]) -> u32 {
    (0..logits.len() as u32)
        .fold(0, |best, i| if logits[i as usize] > logits[best as usize] { i } else { best })
}

/// v1 divides the logits of every token seen so far, whatever their sign.
fn greedy_with_v1_penalty(model: &Transformer, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut decoder = model.decoder(prompt.len() + max_tokens).unwrap();
    let (mut seen, mut written, mut piece) = (prompt.to_vec(), vec![], prompt.to_vec());
    for _ in 0..max_tokens {
        let mut logits = decoder.read(&piece).unwrap();
        seen.sort_unstable();
        seen.dedup();
        seen.iter().for_each(|&id| logits[id as usize] /= 1.3);
        piece = vec![best(&logits)];
        written.push(piece[0]);
        seen.push(piece[0]);
    }
    written
}

#[test]
fn tokens_and_distributions_are_minimind_s() {
    let Some(reference) = reference() else { return };
    for (name, folder, x8) in [
        ("dense", "dense", false),
        ("moe", "moe", false),
        ("dense_x8", "dense", true),
        ("moe_x8", "moe", true),
    ] {
        let Some(model) = (if x8 { model_x8(folder) } else { model(folder) }) else { return };
        for case in reference[name].as_array().unwrap() {
            let (prompt, want) = (ids(&case["prompt_ids"]), ids(&case["greedy_kv"]));
            for form in [Form::Fused, Form::Plain] {
                assert_eq!(greedy(&model, form, &prompt, want.len()), want, "{name} {form:?}");
            }
            let want = ids(&case["greedy_kv_rp1.3"]);
            assert_eq!(greedy_with_v1_penalty(&model, &prompt, want.len()), want, "{name}");

            let first = &case["first_step_sampling_T0.7_k8"];
            let sampling = Sampling { temperature: 0.7, top_k: 8, ..Sampling::default() };
            let logits = model.decoder(prompt.len()).unwrap().read(&prompt).unwrap();
            let found = sampling.distribution(&logits, &vec![false; logits.len()]);
            assert_eq!(found.iter().map(|t| t.0).collect::<Vec<_>>(), ids(&first["ids"]), "{name}");
            for (found, want) in found.iter().zip(first["probs"].as_array().unwrap()) {
                let want = want.as_f64().unwrap();
                assert!((found.1 - want).abs() < 1e-5 * want, "{name}: {} {want}", found.1);
            }
        }
    }
}

fn shapes() -> [ModelConfig; 3] {
    let dense = ModelConfig { d_model: 24, n_layers: 2, vocab_size: 50, ..ModelConfig::default() };
    let one_group = ModelConfig { n_heads: 3, n_kv_heads: 1, ..dense.clone() };
    let moe = ModelConfig { n_experts: 3, ..dense.clone() };
    [dense, one_group, moe]
}

#[test]
fn a_cache_changes_nothing() {
    let ids: Vec<u32> = (0..150).map(|i| (i * i * 7 + 3) % 50).collect();
    for config in shapes() {
        let model = Transformer::new(&config, 5, &candle_core::Device::Cpu).unwrap();
        let pass = model.pass(Ragged::prompts(&[&ids]), Mode::Infer).unwrap();
        let all: Vec<usize> = (0..ids.len()).collect();
        let want = flat(&pass.logits(&pass.hidden().unwrap(), &all).unwrap());
        for form in [Form::Fused, Form::Plain] {
            let mut decoder = Decoder::new(&model, form, ids.len()).unwrap();
            // A prompt longer than a tile of queries, a second piece, then one token at a time.
            for piece in [0..70, 70..140, 140..141, 141..142, 142..150] {
                let logits = decoder.read(&ids[piece.clone()]).unwrap();
                let off = distance(&logits, &want[(piece.end - 1) * 50..piece.end * 50]);
                assert!(off < 2e-5, "{form:?} up to {}: {off:e}", piece.end);
            }
            assert_eq!(decoder.len(), ids.len());
            assert!(decoder.read(&[1]).unwrap_err().to_string().contains("a cache of 150"));
        }
    }
}

#[test]
fn seeds_and_stops_decide() {
    let [config, ..] = shapes();
    let model = Transformer::new(&config, 5, &candle_core::Device::Cpu).unwrap();
    let sampling = Sampling { temperature: 1.0, top_k: 20, top_p: 0.9, repetition_penalty: 1.1 };
    let options = |seed, stop| GenerateOptions { max_tokens: 40, sampling, seed, stop };
    let write = |form, options: &GenerateOptions| {
        model.generate_as(form, &[1, 2, 3], options, |_| ControlFlow::Continue(())).unwrap()
    };
    let text = write(Form::Fused, &options(1, vec![]));
    assert_eq!(text, write(Form::Plain, &options(1, vec![])));
    assert_ne!(text, write(Form::Fused, &options(2, vec![])));
    let first = text.iter().position(|&id| id == text[20]).unwrap();
    assert_eq!(write(Form::Fused, &options(1, vec![text[20]])), text[..first]);

    let mut heard = 0;
    let some = model.generate(&[1], &options(1, vec![]), |_| {
        heard += 1;
        if heard == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((some.unwrap().len(), heard), (3, 3));
    assert!(model.generate(&[], &options(1, vec![]), |_| ControlFlow::Continue(())).is_err());
    assert!(model.generate(&[50], &options(1, vec![]), |_| ControlFlow::Continue(())).is_err());
}
