//! Reference numbers computed with PyTorch, and how far apart two arrays are.
#![allow(dead_code, clippy::unwrap_used, missing_docs)] // each test file uses its part

use candle_core::{Device, Tensor};
use model::weights::{NamedTensors, read_safetensors};
use model::{ModelConfig, Ragged, Sequence, Transformer, Weights};
use std::path::PathBuf;

/// A file of the shared folder beside the project; `None`, with a message, where there is no such folder.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MINDSCALE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", path.display());
    eprintln!("skipped: {} is not here", path.display());
    None
}

/// MiniMind's `config.json` as a shape.
pub fn config(folder: &str) -> Option<(ModelConfig, serde_json::Value)> {
    let json = std::fs::read(shared(&format!("golden/{folder}/config.json"))?).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let size = |key: &str| json[key].as_u64().unwrap() as usize;
    let config = ModelConfig {
        d_model: size("dim"),
        n_layers: size("n_layers"),
        n_heads: size("n_heads"),
        n_kv_heads: size("n_kv_heads"),
        vocab_size: size("vocab_size"),
        max_seq_len: size("max_seq_len"),
        n_experts: if json["use_moe"].as_bool().unwrap() { size("n_routed_experts") } else { 0 },
        top_k: size("num_experts_per_tok"),
        ..ModelConfig::default()
    };
    Some((config, json))
}

pub fn tensors(file: &str) -> Option<NamedTensors> {
    Some(read_safetensors(&shared(&format!("golden/{file}"))?).unwrap())
}

pub fn model(folder: &str) -> Option<Transformer> {
    let (config, json) = config(folder)?;
    assert_eq!(config.params() as u64, json["n_params"].as_u64().unwrap());
    let path = shared(&format!("golden/{folder}/model.safetensors"))?;
    let weights = read_safetensors(&path).unwrap();
    let weights = Weights::from_tensors(&config, weights, &path, &Device::Cpu).unwrap();
    Some(Transformer::from_weights(&config, weights))
}

/// `golden/dense` with every attention and feed-forward matrix times 8, where the other folders start from.
pub fn dense_x8() -> Option<Transformer> {
    model_x8("dense")
}

/// A model with every attention and feed-forward matrix times 8; routers stay as they are.
pub fn model_x8(folder: &str) -> Option<Transformer> {
    let model = model(folder)?;
    let mut flat = model.weights.flat.to_vec1::<f32>().unwrap();
    for param in model.weights.layout.params.iter() {
        let inside = param.name.contains(".attention.") || param.name.contains(".feed_forward.");
        if inside && !param.name.contains(".gate.") {
            flat[param.range.clone()].iter_mut().for_each(|v| *v *= 8.0);
        }
    }
    let flat = Tensor::new(flat, &Device::Cpu).unwrap();
    let weights = Weights { flat, ..model.weights.clone() };
    Some(Transformer::from_weights(&model.config, weights))
}

/// Rows of `X, Y, mask`, each `(rows, len)`, padding and all; a target of 0 has no loss but is counted.
pub fn rows(x: &Tensor, y: &Tensor, mask: &Tensor) -> Vec<Sequence> {
    let [x, y, mask] =
        [x, y, mask].map(|t| t.to_dtype(candle_core::DType::U32).unwrap().to_vec2::<u32>().unwrap());
    let rows = x.into_iter().zip(y).zip(mask);
    rows.map(|((ids, targets), mask)| Sequence {
        documents: vec![ids.len() as u32],
        weights: mask.iter().zip(&targets).map(|(&m, &t)| if t == 0 { 0.0 } else { m as f32 }).collect(),
        counted: mask.iter().sum::<u32>() as f32,
        ids,
        targets,
    })
    .collect()
}

pub fn counted(rows: &[Sequence]) -> f64 {
    rows.iter().map(|r| f64::from(r.counted)).sum()
}

pub fn ragged(rows: &[Sequence]) -> Ragged {
    Ragged::new(rows)
}

pub fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// The largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) })
}

/// The largest absolute difference over the largest element of `b`.
pub fn relative_distance(a: &[f32], b: &[f32]) -> f32 {
    distance(a, b) / b.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()))
}
