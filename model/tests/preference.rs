//! Preference training starts from equal models: policy and reference agree to the last bit.

use model::preference::{DpoConfig, PreferenceLoss, answer_log_prob, dpo_loss};
use model::{
    Cpu, LaneConfig, ModelConfig, OptimizerConfig, Recompute, Sequence, Trainer, Transformer, Weights,
};

/// Returns a row with a prompt of `prompt` tokens and an answer of `answer` tokens.
fn answered(prompt: usize, answer: usize, salt: u32) -> Sequence {
    let n = prompt + answer - 1;
    let ids: Vec<u32> = (0..=n as u32).map(|i| (i * i + salt) % 20).collect();
    Sequence {
        targets: ids[1..].to_vec(),
        weights: (0..n).map(|i| if i + 1 >= prompt { 1.0 } else { 0.0 }).collect(),
        counted: answer as f32,
        ..Sequence::document(&ids[..n])
    }
}

/// Returns a model so confident that some of its log-probabilities are 0 in f32.
fn certain() -> Transformer {
    let config =
        ModelConfig { d_model: 16, n_heads: 2, n_kv_heads: 1, vocab_size: 20, ..ModelConfig::default() };
    let mut weights = Weights::random(&config, 3);
    // The last norm scales the input of the head, and thereby the logits.
    let norm = weights.layout.norm.clone();
    weights.flat[norm].iter_mut().for_each(|w| *w *= 200.0);
    Transformer::from_weights(&config, weights, &Cpu).unwrap()
}

#[test]
fn equal_models_have_no_margin_whatever_the_lengths() {
    let pairs: Vec<[Sequence; 2]> =
        (0..13).map(|i| [answered(40, 3 + i, i as u32), answered(40, 90 - 5 * i, i as u32 + 7)]).collect();
    let rows: Vec<Sequence> = pairs.iter().flatten().cloned().collect();
    for length_normalised in [false, true] {
        let config = DpoConfig { beta: 0.1, loss: PreferenceLoss::Sigmoid, length_normalised };
        let model = certain();
        let log_probs = model.token_log_probs(&rows).unwrap();
        let certain_tokens = log_probs
            .iter()
            .zip(&rows)
            .flat_map(|(of, row)| of.iter().zip(&row.weights))
            .filter(|(log_prob, weight)| **weight > 0.0 && **log_prob == 0.0);
        assert!(certain_tokens.count() > 5);
        let reference: Vec<f64> =
            log_probs.iter().zip(&rows).map(|(of, row)| answer_log_prob(of, row, &config)).collect();
        let items: Vec<(&[Sequence; 2], [f64; 2])> =
            pairs.iter().zip(reference.as_chunks::<2>().0).map(|(pair, of)| (pair, *of)).collect();

        let optimizer = OptimizerConfig { weight_decay: 0.0, ..OptimizerConfig::default() };
        let lanes = LaneConfig { lanes: 3, recompute: Recompute::None, seed: 1 };
        let mut trainer = Trainer::new(model, None, optimizer, lanes).unwrap();
        let outcomes = trainer.accumulate(
            &items,
            |(pair, _)| pair.iter().collect(),
            |pass, _, items| {
                let log_probs = pass.log_probs(&pass.forward()?.0)?;
                let rows: Vec<&Sequence> = items.iter().flat_map(|(pair, _)| *pair).collect();
                let references: Vec<[f64; 2]> = items.iter().map(|(_, reference)| *reference).collect();
                Ok(dpo_loss(&log_probs, &rows, &references, &config).pairs)
            },
        );
        for pair in outcomes.unwrap().into_iter().flatten() {
            assert_eq!(pair.reward_margin, 0.0, "normalised {length_normalised}");
            assert_eq!(pair.loss, std::f64::consts::LN_2);
        }
    }
}
