//! Reference values computed with PyTorch, and distances between arrays.

use candle_core::Tensor;
use model::weights::{NamedTensors, read_safetensors};
use model::{
    Backend, BatchInfo, Mode, ModelConfig, Portable, Ragged, Recompute, RouterStats, Sequence, Trainer,
    Transformer, Weights,
};
use std::path::PathBuf;

/// Returns the path of a file in the shared folder next to the project; `None`, with a message, if it does not exist. With
/// `CI=true`, a missing file is a failure.
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

/// Reads MiniMind's `config.json`: the shape and all keys.
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

/// The backend of candle's tensors on the CPU.
pub const PORTABLE: Portable = Portable(candle_core::Device::Cpu);

/// A shape with its weights.
#[derive(Clone)]
pub struct Reference {
    pub config: ModelConfig,
    pub weights: Weights,
}

impl Reference {
    pub fn on<B: Backend>(&self, backend: &B) -> Transformer<B> {
        Transformer::from_weights(&self.config, self.weights.clone(), backend).unwrap()
    }

    /// v1 does not add the balancing loss to the loss, so most of its reference values exclude it.
    pub fn without_aux(&self) -> Self {
        self.with_aux(0.0)
    }

    pub fn with_aux(&self, aux_loss_alpha: f64) -> Self {
        Self { config: ModelConfig { aux_loss_alpha, ..self.config.clone() }, ..self.clone() }
    }
}

pub fn model(folder: &str) -> Option<Reference> {
    let (config, json) = config(folder)?;
    assert_eq!(config.params() as u64, json["n_params"].as_u64().unwrap());
    let path = shared(&format!("golden/{folder}/model.safetensors"))?;
    let weights = Weights::from_tensors(&config, read_safetensors(&path).unwrap(), &path).unwrap();
    Some(Reference { config, weights })
}

/// Returns `golden/dense` with every attention and feed-forward matrix times 8, the start of the other folders.
pub fn dense_x8() -> Option<Reference> {
    model_x8("dense")
}

/// Returns a model with every attention and feed-forward matrix times 8; routers are unchanged.
pub fn model_x8(folder: &str) -> Option<Reference> {
    let mut model = model(folder)?;
    let Weights { layout, flat } = &mut model.weights;
    for param in &layout.params {
        let inside = param.name.contains(".attention.") || param.name.contains(".feed_forward.");
        if inside && !param.name.contains(".gate.") {
            flat[param.range.clone()].iter_mut().for_each(|v| *v *= 8.0);
        }
    }
    Some(model)
}

/// Results of one training pass over rows.
pub struct Learned {
    pub loss: f64,
    pub gradient: Vec<f32>,
    pub routers: Vec<RouterStats>,
}

/// Runs the forward and backward pass of rows in one batch.
pub fn learn<B: Backend>(
    model: &Transformer<B>,
    rows: &[Sequence],
    scale: f64,
    recompute: Recompute,
) -> Learned {
    let mode = Mode::Train { dropout_seed: 9, aux: BatchInfo::of(rows), recompute, loss_scale: 1.0 };
    let pass = model.pass(Ragged::new(rows), mode).unwrap();
    let mut gradient = model.backend.zeros(model.layout.len()).unwrap();
    let (hidden, tape) = pass.forward().unwrap();
    let (loss, dhidden) = pass.cross_entropy(&hidden, scale, &mut gradient).unwrap();
    let routing = pass.backward(tape, dhidden, &mut gradient).unwrap();
    Learned {
        loss: loss.read().unwrap().total,
        gradient: model.backend.read(&gradient).unwrap().into_owned(),
        routers: pass.router_stats(&routing).unwrap(),
    }
}

/// Returns the log-probabilities of the targets of rows.
pub fn log_probs<B: Backend>(model: &Transformer<B>, rows: &[Sequence]) -> Vec<f32> {
    let pass = model.pass(Ragged::new(rows), Mode::Infer).unwrap();
    pass.log_probs(&pass.forward().unwrap().0).unwrap()
}

/// Converts `X, Y, mask`, each `(rows, len)`, to rows, including padding; a target of 0 has loss weight 0 but is counted.
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

/// Accumulates the gradient of the mean loss of rows, each an item of its own; returns the loss.
pub fn lm_pass<B: Backend>(trainer: &mut Trainer<B>, rows: &[Sequence]) -> f64 {
    let scale = 1.0 / counted(rows);
    let losses = trainer.accumulate(
        rows,
        |row| vec![row],
        |pass, gradients, _| {
            let (hidden, tape) = pass.forward()?;
            let (loss, dhidden) = pass.cross_entropy(&hidden, scale, gradients)?;
            pass.backward(tape, dhidden, gradients)?;
            Ok(loss.read()?.total)
        },
    );
    losses.unwrap().iter().sum()
}

pub fn ragged(rows: &[Sequence]) -> Ragged {
    Ragged::new(rows)
}

pub fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

/// Returns the largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { f32::NAN } else { m.max(d) })
}

/// Returns the largest absolute difference divided by the largest absolute value in `b`.
pub fn relative_distance(a: &[f32], b: &[f32]) -> f32 {
    distance(a, b) / b.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()))
}
