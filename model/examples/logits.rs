//! Prints logits of a model folder as JSON, for scripts that compare other programs with this one:
//! `cargo run -p mindscale-model --example logits -- FOLDER --ids 1,5,7 --greedy 16`.
//!
//! The output contains the logits at every position of the ids, and the ids that greedy decoding generates after them.
#![allow(clippy::print_stdout)] // the purpose of an example

use model::{Cpu, GenerateOptions, Mode, Ragged, Result, Sequence, Transformer};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::Path;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, _, ids, _, count] = words.as_slice() else {
        panic!("expected: FOLDER --ids 1,5,7 --greedy 16");
    };
    let number = |word: &str| word.parse().expect("a whole number");
    let ids: Vec<u32> = ids.split(',').map(|id| number(id) as u32).collect();
    let model = Transformer::load(Path::new(folder), &Cpu)?;
    let vocab = model.config.vocab_size;

    let row = Sequence::document(&ids);
    let pass = model.pass(Ragged::new(&[row]), Mode::Infer)?;
    let positions: Vec<usize> = (0..ids.len()).collect();
    let logits = pass.logits(&pass.forward()?.0, &positions)?;

    let options = GenerateOptions { max_tokens: number(count), ..GenerateOptions::default() };
    let text = model.generate(&ids, &options, |_| ControlFlow::Continue(()))?;
    let logits: Vec<&[f32]> = logits.chunks_exact(vocab).collect();
    println!("{}", json!({ "logits": logits, "greedy": text }));
    Ok(())
}
