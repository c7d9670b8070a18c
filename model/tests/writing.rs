//! Texts generated together are identical to the last bit to those generated separately, whatever other texts begin or leave.

use model::{
    Cpu, Event, GenerateOptions, GenerationBatch, LogProbs, Mode, ModelConfig, Ragged, Sampling, TextId,
    Transformer, Weights,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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

/// All events of each text in debug format, so that equality implies that all numbers are equal.
#[derive(Default)]
struct Recorded(BTreeMap<TextId, Vec<String>>);

impl Recorded {
    fn add(&mut self, events: Vec<(TextId, Event)>) {
        for (id, event) in events {
            self.0.entry(id).or_default().push(format!("{event:?}"));
        }
    }
}

/// Generates a text separately and returns its events.
fn alone(model: &Transformer, prompt: &[u32], options: &GenerateOptions, top: Option<usize>) -> Vec<String> {
    let mut batch = GenerationBatch::new(model);
    let id = batch.begin(prompt, std::slice::from_ref(options), top).unwrap()[0];
    let mut recorded = Recorded::default();
    while !batch.is_empty() {
        recorded.add(batch.step());
    }
    recorded.0.remove(&id).unwrap()
}

#[test]
fn texts_that_begin_and_leave_at_any_time_are_those_written_alone() {
    // Prompts shorter than a piece and of several pieces, together more than one step reads.
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
                let mut batch = GenerationBatch::new(&model);
                let (mut recorded, mut ids) = (Recorded::default(), vec![]);
                let mut gone = None;
                for (i, (prompt, options)) in asked.iter().enumerate() {
                    let top = (i % 2 == 1).then_some(2);
                    ids.extend(batch.begin(prompt, std::slice::from_ref(options), top).unwrap());
                    recorded.add(batch.step());
                    if i == 5 {
                        batch.leave(ids[2]);
                        gone = Some(recorded.0.get(&ids[2]).map_or(0, Vec::len));
                    }
                }
                while !batch.is_empty() {
                    recorded.add(batch.step());
                }
                for (i, ((prompt, options), id)) in asked.iter().zip(&ids).enumerate() {
                    let want = alone(&model, prompt, options, (i % 2 == 1).then_some(2));
                    let found = recorded.0.remove(id).unwrap_or_default();
                    let heard = if i == 2 { gone.unwrap() } else { want.len() };
                    assert!(found == want[..heard], "text {i} on {threads} threads");
                }
            });
        }
    }
}

#[test]
fn texts_that_move_between_batches_are_those_written_alone() {
    for (round, config) in shapes().into_iter().enumerate() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let mut random = StdRng::seed_from_u64(round as u64);
        let mut batches = [(); 3].map(|()| GenerationBatch::new(&model).on_one_thread());
        let (mut recorded, mut want) = (Recorded::default(), vec![]);
        for i in 0..10 {
            let prompt = ids_of(random.random_range(1..600), i);
            let all: Vec<GenerateOptions> = (0..random.random_range(1..4))
                .map(|choice| GenerateOptions { choice, ..options(i.into(), random.random_range(1..30)) })
                .collect();
            let ids = batches[random.random_range(0..3)].begin(&prompt, &all, None).unwrap();
            want.extend(
                ids.into_iter().zip(all).map(|(id, options)| (id, alone(&model, &prompt, &options, None))),
            );
            for _ in 0..random.random_range(0..8) {
                recorded.add(batches[random.random_range(0..3)].step());
                let (len, from) = (random.random_range(0..4), random.random_range(0..3));
                let before: usize = batches.iter().map(GenerationBatch::len).sum();
                let moved = batches[from].split_off(len);
                assert!(moved.len() <= len && moved.ids().count() == moved.len());
                batches[(from + 1) % 3].append(moved);
                assert_eq!(batches.iter().map(GenerationBatch::len).sum::<usize>(), before);
            }
        }
        for batch in &mut batches {
            while !batch.is_empty() {
                recorded.add(batch.step());
            }
        }
        assert_eq!(recorded.0, want.into_iter().collect());
    }
}

#[test]
fn several_texts_of_one_prompt_are_those_of_prompts_of_their_own() {
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let prompt = ids_of(300, 1);
        let all: Vec<GenerateOptions> =
            (0..4).map(|choice| GenerateOptions { choice, ..options(9, 3 * choice as usize) }).collect();
        let mut batch = GenerationBatch::new(&model);
        let ids = batch.begin(&prompt, &all, Some(1)).unwrap();
        assert_eq!(batch.len(), 4);
        let mut recorded = Recorded::default();
        while !batch.is_empty() {
            recorded.add(batch.step());
        }
        for (i, (id, options)) in ids.iter().zip(&all).enumerate() {
            // Only the first text reports the log-probabilities of the prompt.
            assert_eq!(recorded.0[id], alone(&model, &prompt, options, (i == 0).then_some(1)), "choice {i}");
        }
    }
}

#[test]
fn a_prompt_is_not_reported_to_others_after_its_first_text_has_left() {
    let [config, ..] = shapes();
    let model = Transformer::new(&config, 5, &Cpu).unwrap();
    let prompt = ids_of(600, 1);
    let mut batch = GenerationBatch::new(&model);
    let ids = batch.begin(&prompt, &[options(1, 2), options(2, 2)], Some(1)).unwrap();
    let mut recorded = Recorded::default();
    recorded.add(batch.step());
    batch.leave(ids[0]);
    while !batch.is_empty() {
        recorded.add(batch.step());
    }
    // The first of the three pieces of the prompt.
    assert_eq!(recorded.0[&ids[0]].len(), 1);
    assert_eq!(recorded.0[&ids[1]], alone(&model, &prompt, &options(2, 2), None));
}

#[test]
fn log_probabilities_are_those_of_whole_passes() {
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let prompt = ids_of(300, 4);
        let mut batch = GenerationBatch::new(&model);
        batch.begin(&prompt, &[options(1, 6)], Some(2)).unwrap();
        let (mut ids, mut found): (Vec<u32>, Vec<LogProbs>) = (prompt.clone(), vec![]);
        while !batch.is_empty() {
            for (_, event) in batch.step() {
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
    // Three pieces, the last of which begins at position 512.
    assert_eq!(alone(&model, &ids_of(600, 0), &options(1, 0), Some(0)).len(), 4);
}

#[test]
fn what_cannot_be_written_harms_nobody_else() {
    let [config, ..] = shapes();
    let mut weights = Weights::random(&config, 5);
    // The embedding of token 7 is NaN and, because embeddings are tied, so is its logit.
    weights.flat[7 * config.d_model] = f32::NAN;
    let broken = Transformer::from_weights(&config, weights, &Cpu).unwrap();
    for top in [None, Some(1)] {
        let recorded = alone(&broken, &[1, 2, 3], &options(1, 5), top);
        assert!(recorded.len() == 1 && recorded[0].contains("logits are not finite"), "{recorded:?}");
    }
    let model = Transformer::new(&config, 5, &Cpu).unwrap();
    let mut batch = GenerationBatch::new(&model);
    assert!(batch.begin(&[], &[options(1, 5)], None).is_err());
    assert!(batch.begin(&[50], &[options(1, 5)], None).is_err());
    let hot =
        GenerateOptions { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..options(1, 5) };
    assert!(batch.begin(&[1], &[hot], None).is_err());
    assert!(batch.begin(&[1], &[options(1, usize::MAX)], None).is_err());
    assert!(batch.begin(&[1], &[], Some(1)).unwrap().is_empty());
    assert!(batch.step().is_empty());
    assert!(batch.is_empty());
    let text = model.generate(&[1], &options(1, 5), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(text.len(), 5);
}
