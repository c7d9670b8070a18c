//! Generation on every backend: compared with the tokens of MiniMind v1, with a cache and without, together and separately.
//! Reference values and tolerances are those of `golden/generate`.

use crate::common::{PORTABLE, distance, model, model_x8, shared};
use model::{Backend, Cpu, GenerateOptions, KvCache, Mode, ModelConfig, Ragged, Sampling, Transformer};
use std::ops::ControlFlow;
use std::sync::Arc;

fn reference() -> Option<serde_json::Value> {
    let path = shared("golden/generate/generate.json")?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn greedy<B: Backend>(model: &Transformer<B>, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions { max_tokens, stop: vec![2], ..GenerateOptions::default() };
    model.generate(prompt, &options, |_| ControlFlow::Continue(())).unwrap()
}

/// Returns the index of the largest logit.
fn best(logits: &[f32]) -> u32 {
    (0..logits.len() as u32)
        .fold(0, |best, i| if logits[i as usize] > logits[best as usize] { i } else { best })
}

/// Generates greedily with v1's repetition penalty, which divides the logits of all tokens seen so far regardless of sign.
fn greedy_with_v1_penalty(model: &Transformer, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut cache = model.cache(prompt.len() + max_tokens).unwrap();
    let (mut seen, mut written, mut piece) = (prompt.to_vec(), vec![], prompt.to_vec());
    for _ in 0..max_tokens {
        let mut logits = model.read(&mut cache, &piece).unwrap();
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
        let Some(reference_model) = (if x8 { model_x8(folder) } else { model(folder) }) else { return };
        let (model, portable) = (reference_model.on(&Cpu), reference_model.on(&PORTABLE));
        for case in reference[name].as_array().unwrap() {
            let (prompt, want) = (ids(&case["prompt_ids"]), ids(&case["greedy_kv"]));
            assert_eq!(greedy(&model, &prompt, want.len()), want, "{name}");
            assert_eq!(greedy(&portable, &prompt, want.len()), want, "{name}, portable");
            let want = ids(&case["greedy_kv_rp1.3"]);
            assert_eq!(greedy_with_v1_penalty(&model, &prompt, want.len()), want, "{name}");

            let first = &case["first_step_sampling_T0.7_k8"];
            let sampling = Sampling { temperature: 0.7, top_k: 8, ..Sampling::default() };
            let logits = model.read(&mut model.cache(prompt.len()).unwrap(), &prompt).unwrap();
            let found = sampling.distribution(&logits, &vec![false; logits.len()]);
            assert_eq!(found.iter().map(|t| t.0).collect::<Vec<_>>(), ids(&first["ids"]), "{name}");
            for (found, want) in found.iter().zip(first["probs"].as_array().unwrap()) {
                let want = want.as_f64().unwrap();
                assert!((found.1 - want).abs() < 1e-5 * want, "{name}: {} {want}", found.1);
            }
        }
    }
}

fn shapes() -> [ModelConfig; 4] {
    let dense = ModelConfig { d_model: 24, n_layers: 2, vocab_size: 50, ..ModelConfig::default() };
    let one_group = ModelConfig { n_heads: 3, n_kv_heads: 1, ..dense.clone() };
    let moe = ModelConfig { n_experts: 3, ..dense.clone() };
    let other = ModelConfig {
        head_dim: Some(10),
        qk_norm: true,
        window: Some(13),
        tie_embeddings: false,
        n_experts: 3,
        top_k: 1,
        ..dense.clone()
    };
    [dense, one_group, moe, other]
}

fn ids_of(n: u32, salt: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 7 + 3 + salt) % 50).collect()
}

/// Computes the logits of every position without a cache, `(n, 50)`.
fn whole<B: Backend>(model: &Transformer<B>, ids: &[u32]) -> Vec<f32> {
    let pass = model.pass(Ragged::prompts(&[ids]), Mode::Infer).unwrap();
    pass.logits(&pass.forward().unwrap().0, &(0..ids.len()).collect::<Vec<_>>()).unwrap()
}

fn a_cache_changes_nothing<B: Backend>(backend: &B) {
    let ids = ids_of(150, 0);
    for config in shapes() {
        let model = Transformer::new(&config, 5, backend).unwrap();
        let want = whole(&model, &ids);
        let mut cache = model.cache(ids.len()).unwrap();
        // A prompt longer than a query tile, a second piece, single tokens, then a last piece of several tokens.
        for piece in [0..70, 70..140, 140..141, 141..142, 142..150] {
            let logits = model.read(&mut cache, &ids[piece.clone()]).unwrap();
            let off = distance(&logits, &want[(piece.end - 1) * 50..piece.end * 50]);
            assert!(off < 2e-5, "{backend:?} up to {}: {off:e}", piece.end);
        }
        assert_eq!(cache.len(), ids.len());
        let error = model.read(&mut cache, &[1]).unwrap_err().to_string();
        assert!(error.contains("a cache of 150"), "{error}");
    }
}

fn sequences_read_together_are_those_read_alone<B: Backend>(backend: &B) {
    for config in shapes() {
        let model = Transformer::new(&config, 5, backend).unwrap();
        let texts = [ids_of(90, 0), ids_of(33, 5), ids_of(70, 11)];
        let cache = || model.cache(90).unwrap();
        // One sequence reads its whole prompt first, one reads its prompt in two pieces, one begins later.
        let mut caches = [cache(), cache(), cache()];
        let mut read = [0; 3];
        for pieces in [[80, 0, 20], [1, 0, 1], [1, 30, 1], [1, 1, 40], [7, 2, 8]] {
            let taking: Vec<usize> = (0..3).filter(|&i| pieces[i] > 0).collect();
            let mut together: Vec<(&mut KvCache<B>, &[u32])> = (caches.iter_mut().enumerate())
                .filter(|(i, _)| pieces[*i] > 0)
                .map(|(i, cache)| (cache, &texts[i][read[i]..read[i] + pieces[i]]))
                .collect();
            let found = model.extend(&mut together).unwrap();
            for (&i, found) in taking.iter().zip(found) {
                read[i] += pieces[i];
                let want = whole(&model, &texts[i][..read[i]]);
                let off = distance(&found, &want[want.len() - 50..]);
                assert!(off < 2e-5, "{backend:?} sequence {i} up to {}: {off:e}", read[i]);
            }
        }
        assert_eq!(read, [90, 33, 70]);
    }
}

fn a_beginning_is_read_once<B: Backend>(backend: &B) {
    for config in shapes() {
        let model = Transformer::new(&config, 5, backend).unwrap();
        let beginning = ids_of(40, 2);
        let mut shared = model.cache(40).unwrap();
        model.read(&mut shared, &beginning).unwrap();
        assert!(shared.fork(39).is_err());
        let shared = Arc::new(shared);
        let near = |found: &[f32], read: &[u32]| {
            let want = whole(&model, read);
            let off = distance(found, &want[want.len() - 50..]);
            assert!(off < 2e-5, "{backend:?} {config:?} behind {} ids: {off:e}", read.len());
        };
        let (rests, salts) = ([3, 20, 30, 1], [1, 4, 9, 3]);
        let rests: Vec<Vec<u32>> = rests.iter().zip(salts).map(|(&more, salt)| ids_of(more, salt)).collect();
        let behind = || KvCache::extending(shared.clone(), 60).unwrap();
        let mut together = [behind(), behind(), behind(), behind()];
        let mut sequences: Vec<(&mut KvCache<B>, &[u32])> =
            together.iter_mut().zip(&rests).map(|(cache, rest)| (cache, &rest[..])).collect();
        for (found, rest) in model.extend(&mut sequences).unwrap().iter().zip(&rests) {
            near(found, &[&beginning[..], rest].concat());
        }
        for (cache, rest) in together.into_iter().zip(&rests) {
            let mut copy = cache.fork(110).unwrap();
            assert_eq!((cache.len(), copy.capacity()), (40 + rest.len(), 110));
            near(&model.read(&mut copy, &[7]).unwrap(), &[&beginning[..], rest, &[7]].concat());
            // A third cache that extends a chain of two.
            let mut last = KvCache::extending(Arc::new(cache), 5).unwrap();
            near(&model.read(&mut last, &[8, 9]).unwrap(), &[&beginning[..], rest, &[8, 9]].concat());
            near(&model.read(&mut last, &[3]).unwrap(), &[&beginning[..], rest, &[8, 9, 3]].concat());
            assert!(model.read(&mut last, &[1, 2, 3]).is_err());
        }
    }
}

#[test]
fn caches_give_what_whole_passes_give() {
    a_cache_changes_nothing(&Cpu);
    sequences_read_together_are_those_read_alone(&Cpu);
    a_beginning_is_read_once(&Cpu);
}

#[test]
fn portable_caches_give_what_whole_passes_give() {
    a_cache_changes_nothing(&PORTABLE);
    sequences_read_together_are_those_read_alone(&PORTABLE);
    a_beginning_is_read_once(&PORTABLE);
}

#[test]
fn texts_written_together_are_those_written_alone() {
    for config in shapes() {
        let model = Transformer::new(&config, 5, &Cpu).unwrap();
        let sampling = Sampling { temperature: 1.0, top_p: 0.95, ..Sampling::default() };
        let options: Vec<GenerateOptions> = (0..4)
            .map(|i| GenerateOptions {
                max_tokens: 5 * i,
                sampling,
                seed: i as u64,
                stop: vec![i as u32],
                ..GenerateOptions::default()
            })
            .collect();
        let prompts: Vec<Vec<u32>> = (0..4).map(|i| ids_of(3 + 30 * i, i)).collect();
        let asked: Vec<(&[u32], &GenerateOptions)> =
            prompts.iter().map(Vec::as_slice).zip(&options).collect();
        let mut heard = vec![vec![]; 4];
        let together = model.generate_together(&asked, |number, token| {
            heard[number].push(token.id);
            ControlFlow::Continue(())
        });
        assert_eq!(together.unwrap(), heard);
        for ((prompt, options), heard) in asked.iter().zip(&heard) {
            let alone = model.generate(prompt, options, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(&alone, heard);
            assert!(alone.len() <= options.max_tokens && !alone.contains(&options.stop[0]));
        }
    }
}

#[test]
fn seeds_and_stops_decide() {
    let [config, ..] = shapes();
    let model = Transformer::new(&config, 5, &Cpu).unwrap();
    let sampling = Sampling { temperature: 1.0, top_k: 20, top_p: 0.9, repetition_penalty: 1.1, min_p: 0.01 };
    let options =
        |seed, stop| GenerateOptions { max_tokens: 40, sampling, seed, stop, ..GenerateOptions::default() };
    let write = |options: &GenerateOptions| {
        model.generate(&[1, 2, 3], options, |_| ControlFlow::Continue(())).unwrap()
    };
    let text = write(&options(1, vec![]));
    let portable = Transformer::new(&config, 5, &PORTABLE).unwrap();
    let same = portable.generate(&[1, 2, 3], &options(1, vec![]), |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(text, same);
    assert_ne!(text, write(&options(2, vec![])));
    let first = text.iter().position(|&id| id == text[20]).unwrap();
    assert_eq!(write(&options(1, vec![text[20]])), text[..first]);

    let mut heard = 0;
    let some = model.generate(&[1], &options(1, vec![]), |_| {
        heard += 1;
        if heard == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((some.unwrap().len(), heard), (3, 3));
    assert!(model.generate(&[], &options(1, vec![]), |_| ControlFlow::Continue(())).is_err());
    assert!(model.generate(&[50], &options(1, vec![]), |_| ControlFlow::Continue(())).is_err());
}

#[test]
fn a_model_prepared_for_generation_has_the_same_bits() {
    // Widths that are no multiple of a vector, rows of a tile and more, experts.
    for (d_model, n_experts, vocab_size) in [(24, 0, 57), (40, 3, 101)] {
        let config =
            ModelConfig { d_model, n_layers: 2, n_heads: 2, n_experts, vocab_size, ..ModelConfig::default() };
        let plain = Transformer::new(&config, 3, &Cpu).unwrap();
        let prepared = Transformer::new(&config, 3, &Cpu).unwrap().for_generation();
        for len in [1, 5, 40] {
            let prompt: Vec<u32> = (0..len).map(|i| i * 7 % vocab_size as u32).collect();
            let logits = |model: &Transformer| {
                let mut cache = model.cache(64).unwrap();
                [&prompt[..], &[3], &[4, 5]].map(|piece| model.read(&mut cache, piece).unwrap())
            };
            assert_eq!(logits(&plain), logits(&prepared));
            assert_eq!(greedy(&plain, &prompt, 12), greedy(&prepared, &prompt, 12));
        }
    }
}
