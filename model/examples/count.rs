//! Trains a tiny model to count upwards and lets it count: `cargo run -p mindscale-model --example count`.
#![allow(clippy::print_stdout)] // the purpose of an example

use model::{
    Cpu, GenerateOptions, LaneConfig, ModelConfig, OptimizerConfig, Recompute, Result, Sequence, Trainer,
    Transformer,
};
use std::ops::ControlFlow;

fn main() -> Result<()> {
    let config = ModelConfig {
        d_model: 32,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 10,
        ..ModelConfig::default()
    };
    println!("{} weights", config.params());
    let transformer = Transformer::new(&config, 1, &Cpu)?;
    let lanes = LaneConfig { lanes: 2, recompute: Recompute::None, seed: 1 };
    let mut trainer = Trainer::new(transformer, None, OptimizerConfig::default(), lanes)?;

    // Each row counts from a different digit, such as 3 4 5 6 7 8 9 0 1 2 3 4; the target at each position is the next digit.
    let rows: Vec<Sequence> = (0..10).map(counting).collect();
    let scale = 1.0 / rows.iter().map(|row| f64::from(row.counted)).sum::<f64>();
    for step in 0..100 {
        // Forward and backward pass of each lane, then one step of AdamW.
        let losses = trainer.accumulate(
            &rows,
            |row| vec![row],
            |pass, gradient, _| {
                let (hidden, tape) = pass.forward()?;
                let (loss, dhidden) = pass.cross_entropy(&hidden, scale, gradient)?;
                pass.backward(tape, dhidden, gradient)?;
                Ok(loss.read()?.total)
            },
        )?;
        trainer.step(3e-3)?;
        if step % 20 == 0 {
            println!("step {step}: loss {:.3}", losses.iter().sum::<f64>());
        }
    }

    let options = GenerateOptions { max_tokens: 8, seed: 1, ..GenerateOptions::default() };
    let digits = trainer.transformer.generate(&[5, 6], &options, |_| ControlFlow::Continue(()))?;
    println!("after 5 6 it says {digits:?}");
    assert_eq!(digits, [7, 8, 9, 0, 1, 2, 3, 4]);
    Ok(())
}

/// Returns a row of twelve ascending digits from `start`.
fn counting(start: u32) -> Sequence {
    let digits: Vec<u32> = (start..=start + 12).map(|digit| digit % 10).collect();
    Sequence {
        targets: digits[1..].to_vec(),
        weights: vec![1.0; 12],
        counted: 12.0,
        ..Sequence::document(&digits[..12])
    }
}
