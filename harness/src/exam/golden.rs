//! MiniMind v1 parity of a whole exam: sheets, prompts, letter probabilities, predictions.
//! The reference and the tolerances are from `golden/ceval`.
#![allow(clippy::unwrap_used)]

use super::{Prompter, Sheet, Shots, read_sheets, run_exam};
use crate::config::{Answer, ExamFormat, Norm};
use crate::data::Tokenizer;
use crate::fsutil::hex;
use crate::testing::shared;
use model::{Cpu, Transformer, folder};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::atomic::AtomicBool;

/// Loads the model of a folder and scales its attention and feed-forward matrices by `factor`, except for the router.
fn scaled(folder: &str, factor: f32) -> Option<Transformer> {
    let (config, mut weights) = folder::read(&shared(&format!("golden/{folder}"))?).unwrap();
    for param in &weights.layout.params {
        let inside = param.name.contains(".attention.") || param.name.contains(".feed_forward.");
        if inside && !param.name.contains(".gate.") {
            weights.flat[param.range.clone()].iter_mut().for_each(|v| *v *= factor);
        }
    }
    Some(Transformer::from_weights(&config, weights, &Cpu).unwrap())
}

/// Runs the exam in six subjects and compares every question with the reference, within a relative `tolerance`.
fn compare(folder: &str, factor: f32, max_len: usize, file: &str, tolerance: f64) {
    let (Some(model), Some(dir), Some(tokenizer), Some(reference)) = (
        scaled(folder, factor),
        shared("data/ceval/val"),
        shared("data/minimind_tokenizer"),
        shared(&format!("golden/ceval/{file}.json")),
    ) else {
        return;
    };
    let tokenizer = Tokenizer::load(&tokenizer).unwrap();
    let reference: Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let sheets: Vec<Sheet> = read_sheets(&dir, "val")
        .unwrap()
        .into_iter()
        .filter(|sheet| reference.get(&sheet.subject).is_some())
        .collect();
    assert_eq!(sheets.len(), 6);
    let prompter = Prompter {
        format: ExamFormat::Minimind,
        system: "开始回答问题".into(),
        max_len,
        shots: Shots::new(),
        answer: Answer::Letter,
        rotate: false,
    };
    let stop = AtomicBool::new(false);
    let prompts = prompter.prompts(&tokenizer, &sheets, &stop).unwrap();
    let whole = Prompter { max_len: 1 << 20, ..prompter }.prompts(&tokenizer, &sheets, &stop).unwrap();
    let records = run_exam(&model, &sheets, &prompts, Norm::Byte, &stop, &|_| ()).unwrap();
    assert_eq!(records.len(), 151);
    let asked = sheets.iter().flat_map(|s| (0..s.questions.len()).map(move |i| (s, i)));
    for ((record, (sheet, i)), (prompt, whole)) in records.iter().zip(asked).zip(prompts.iter().zip(&whole)) {
        let want = &reference[&sheet.subject][i];
        let name = format!("{file}, {} {}", record.subject, record.id);
        assert_eq!(record.id, want["id"].to_string(), "{name}");

        let ids = &whole.rotations[0].ids;
        assert_eq!(Some(ids.len() as u64), want["n_tokens"].as_u64(), "{name}");
        assert_eq!(Some(prompt.is_cut), want["truncated"].as_bool(), "{name}");
        assert_eq!(prompt.rotations[0].ids, ids[ids.len().saturating_sub(max_len)..], "{name}");
        let prompt = tokenizer.decode(ids, false).unwrap();
        assert_eq!(hex(&Sha256::digest(&prompt))[..16], *want["sha256_prompt"].as_str().unwrap(), "{name}");
        if let Some(text) = want["prompt"].as_str() {
            assert_eq!(prompt, text, "{name}");
            assert_eq!(serde_json::json!(ids), want["ids"], "{name}");
        }

        for (got, want) in record.probabilities.iter().zip(want["probs"].as_array().unwrap()) {
            let want = want.as_f64().unwrap();
            let off = (got - want).abs() / want;
            assert!(off <= tolerance, "{name}: {got} instead of {want}, off by {off:e}");
        }
        assert_eq!(record.answer.to_string(), want["answer"].as_str().unwrap(), "{name}");
        // If the margin is within rounding, either letter is acceptable.
        if want["rel_margin"].as_f64().unwrap() > 1e-5 {
            assert_eq!(record.prediction.to_string(), want["pred"].as_str().unwrap(), "{name}");
        }
    }
}

#[test]
fn dense_answers_are_minimind_s() {
    compare("dense", 1.0, 128, "dense_seq128", 2e-6);
    compare("dense", 8.0, 512, "dense_x8_seq512", 1e-5);
}

#[test]
fn moe_answers_are_minimind_s() {
    compare("moe", 1.0, 128, "moe_seq128", 2e-6);
    compare("moe", 8.0, 512, "moe_x8_seq512", 1e-5);
}
