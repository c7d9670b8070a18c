//! A tiny model with random weights, and its folder.

use harness::data::Tokenizer;
use model::{Cpu, ModelConfig, Transformer};
use std::path::Path;

/// Context length of the model, in positions.
pub const CONTEXT: usize = 256;

/// The model with weights by seed, and its tokenizer.
pub fn tiny(seed: u64) -> (Tokenizer, Transformer) {
    let texts = "abcd efgh 你好 天空是蓝色的 ".repeat(30);
    let tokenizer = Tokenizer::train(std::iter::once(texts), 300).unwrap();
    let config = ModelConfig {
        d_model: 16,
        n_layers: 1,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: tokenizer.vocab_size(),
        max_seq_len: CONTEXT,
        ..ModelConfig::default()
    };
    let transformer = Transformer::new(&config, seed, &Cpu).unwrap();
    (tokenizer, transformer)
}

/// Writes the model of a seed as a model folder.
pub fn folder(dir: &Path, seed: u64) {
    std::fs::create_dir_all(dir).unwrap();
    let (tokenizer, transformer) = tiny(seed);
    std::fs::write(dir.join("config.json"), model::folder::write_config(&transformer.config)).unwrap();
    let weights = transformer.to_weights().unwrap();
    let bytes = model::weights::write_safetensors(&weights.layout, &weights.flat).unwrap();
    std::fs::write(dir.join("model.safetensors"), bytes).unwrap();
    tokenizer.save(dir).unwrap();
}
