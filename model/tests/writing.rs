//! Texts that are written together are, to the last bit, those written alone, whoever begins or leaves meanwhile.
#![allow(clippy::unwrap_used)]

use model::{
    Cpu, Event, GenerateOptions, LogProbs, Mode, ModelConfig, Ragged, Sampling, TextId, Transformer, Weights,
    Writing,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

fn shapes() -> [ModelConfig; 3] {
    let dense = ModelConfig { d_model: 24, n_layers: 2, vocab_size: 50, ..ModelConfig::default() };
    let moe = ModelConfig { n_experts: 3, ..dense.clone() };
    let window = ModelConfig { window: Some(13), qk_norm: true, tie_embeddings: false, ..dense.clone() };
    [dense, moe, window]
}

fn ids_of(n: u32, salt: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 7 + 3 + salt) % 50).collect()
}

fn options(seed: u64, max_tokens: usize) -> GenerateOptions {
    let sampling = Sampling { temperature: 1.3, top_p: 0.97, ..Sampling::default() };
    GenerateOptions { max_tokens, sampling, seed, log_probs: Some(3), ..GenerateOptions::default() }
}

/// All that is told of each text, as text: equal where every number is.
#[derive(Default)]
struct Told(BTreeMap<TextId, Vec<String>>);

impl Told {
    fn hear(&mut self, events: Vec<(TextId, Event)>) {
        for (id, event) in events {
            self.0.entry(id).or_default().push(format!("{event:?}"));
        }
    }
}

/// What is told of a text that is alone.
fn alone(model: &Transformer, prompt: &[u32], options: &GenerateOptions, top: Option<usize>) -> Vec<String> {
    let mut writing = Writing::new(model);
    let id = writing.begin(prompt, std::slice::from_ref(options), top).unwrap()[0];
    let mut told = Told::default();
    while !writing.is_empty() {
        told.hear(writing.step());
    }
    told.0.remove(&id).unwrap()
}

#[test]
fn texts_that_begin_and_leave_at_any_time_are_those_written_alone() {
    // Prompts of less than a piece, of several pieces, and more of them than are read in one step.
    let lengths = [3, 700, 40, 256, 257, 512, 600, 5];
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let asked: Vec<(Vec<u32>, GenerateOptions)> = (0..)
            .zip(lengths)
            .map(|(i, len)| (ids_of(len, i), options(u64::from(i), 4 + 5 * i as usize)))
            .collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut writing = Writing::new(&model);
                let (mut told, mut ids) = (Told::default(), vec![]);
                let mut gone = None;
                for (i, (prompt, options)) in asked.iter().enumerate() {
                    let top = (i % 2 == 1).then_some(2);
                    ids.extend(writing.begin(prompt, std::slice::from_ref(options), top).unwrap());
                    told.hear(writing.step());
                    if i == 5 {
                        writing.leave(ids[2]);
                        gone = Some(told.0.get(&ids[2]).map_or(0, Vec::len));
                    }
                }
                while !writing.is_empty() {
                    told.hear(writing.step());
                }
                for (i, ((prompt, options), id)) in asked.iter().zip(&ids).enumerate() {
                    let want = alone(&model, prompt, options, (i % 2 == 1).then_some(2));
                    let found = told.0.remove(id).unwrap_or_default();
                    let heard = if i == 2 { gone.unwrap() } else { want.len() };
                    assert!(found == want[..heard], "text {i} on {threads} threads");
                }
            });
        }
    }
}

#[test]
fn several_texts_of_one_prompt_are_those_of_prompts_of_their_own() {
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let prompt = ids_of(300, 1);
        let all: Vec<GenerateOptions> =
            (0..4).map(|choice| GenerateOptions { choice, ..options(9, 3 * choice as usize) }).collect();
        let mut writing = Writing::new(&model);
        let ids = writing.begin(&prompt, &all, Some(1)).unwrap();
        assert_eq!(writing.len(), 4);
        let mut told = Told::default();
        while !writing.is_empty() {
            told.hear(writing.step());
        }
        for (i, (id, options)) in ids.iter().zip(&all).enumerate() {
            // The first tells the prompt's log-probabilities.
            assert_eq!(told.0[id], alone(&model, &prompt, options, (i == 0).then_some(1)), "choice {i}");
        }
    }
}

#[test]
fn log_probabilities_are_those_of_whole_passes() {
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let prompt = ids_of(300, 4);
        let mut writing = Writing::new(&model);
        writing.begin(&prompt, &[options(1, 6)], Some(2)).unwrap();
        let (mut ids, mut found): (Vec<u32>, Vec<LogProbs>) = (prompt.clone(), vec![]);
        while !writing.is_empty() {
            for (_, event) in writing.step() {
                match event {
                    Event::Prompt(log_probs) => found.extend(log_probs),
                    Event::Token(token) => {
                        ids.push(token.id);
                        found.extend(token.log_probs);
                    }
                    Event::Stop(token) => panic!("{token:?} ends it"),
                    Event::Length => assert_eq!(ids.len(), 306),
                    Event::Failed(error) => panic!("{error}"),
                }
            }
        }
        assert_eq!((ids.len(), found.len()), (306, 305));
        let pass = model.pass(Ragged::prompts(&[&ids]), Mode::Infer).unwrap();
        let places: Vec<usize> = (0..305).collect();
        let logits = pass.logits(&pass.forward().unwrap().0, &places).unwrap();
        for (place, (found, logits)) in found.iter().zip(logits.chunks_exact(50)).enumerate() {
            let top = if place < 299 { 2 } else { 3 };
            let want = LogProbs::new(logits, ids[place + 1], top);
            assert!((found.own - want.own).abs() < 2e-5, "place {place}");
            assert_eq!(found.top.len(), top);
            for (found, want) in found.top.iter().zip(&want.top) {
                assert!((found.1 - want.1).abs() < 2e-5, "place {place}");
            }
        }
    }
}

#[test]
fn a_text_of_no_tokens_only_tells_of_its_prompt() {
    let [config, ..] = shapes();
    let model = Transformer::new(&config, 5, &Cpu).unwrap();
    assert_eq!(alone(&model, &ids_of(600, 0), &options(1, 0), None), ["Length"]);
    // Three pieces, the last of which begins at 512.
    assert_eq!(alone(&model, &ids_of(600, 0), &options(1, 0), Some(0)).len(), 4);
}

#[test]
fn what_cannot_be_written_harms_nobody_else() {
    let [config, ..] = shapes();
    let mut weights = Weights::random(&config, 5);
    // The embedding of token 7 is no number, and with tied embeddings neither is its logit.
    weights.flat[7 * config.d_model] = f32::NAN;
    let broken = Transformer::from_weights(&config, weights, &Cpu).unwrap();
    for top in [None, Some(1)] {
        let told = alone(&broken, &[1, 2, 3], &options(1, 5), top);
        assert!(told.len() == 1 && told[0].contains("logits are not finite"), "{told:?}");
    }
    let model = Transformer::new(&config, 5, &Cpu).unwrap();
    let mut writing = Writing::new(&model);
    assert!(writing.begin(&[], &[options(1, 5)], None).is_err());
    assert!(writing.begin(&[50], &[options(1, 5)], None).is_err());
    let hot =
        GenerateOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..options(1, 5) };
    assert!(writing.begin(&[1], &[hot], None).is_err());
    assert!(writing.is_empty());
    let text = model.generate(&[1], &options(1, 5), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(text.len(), 5);
}
