//! Model folders: `config.json`, with MiniMind's keys or those of an architecture of transformers, and
//! `model.safetensors`, `pytorch_model.bin` (either of them possibly sharded, with an index), or `*.pth`.

use crate::backend::Backend;
use crate::computed;
use crate::config::{AuxLoss, Init, ModelConfig};
use crate::parametrization::Parametrization;
use crate::transformer::Transformer;
use crate::weights::hugging_face::{self, Architecture};
use crate::weights::{self, INDEX, Weights};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A `config.json` with the keys of MiniMind's `LMConfig` and those that this project adds.
#[derive(Debug, Serialize, Deserialize)]
struct ConfigFile {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: Option<usize>,
    vocab_size: usize,
    hidden_dim: Option<usize>,
    #[serde(default = "default_multiple_of")]
    multiple_of: usize,
    #[serde(default = "default_norm_eps")]
    norm_eps: f64,
    #[serde(default = "default_max_seq_len")]
    max_seq_len: usize,
    #[serde(default)]
    dropout: f64,
    #[serde(default)]
    use_moe: bool,
    #[serde(default = "default_top_k")]
    num_experts_per_tok: usize,
    #[serde(default = "default_experts")]
    n_routed_experts: usize,
    #[serde(default)]
    n_shared_experts: SharedExperts,
    #[serde(default = "default_scoring")]
    scoring_func: String,
    #[serde(default = "default_alpha")]
    aux_loss_alpha: f64,
    #[serde(default = "default_true")]
    seq_aux: bool,
    #[serde(default = "default_true")]
    norm_topk_prob: bool,
    #[serde(default = "default_theta")]
    rope_theta: f64,
    #[serde(default)]
    expert_hidden_dim: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head_dim: Option<usize>,
    #[serde(default, skip_serializing_if = "is_false")]
    qk_norm: bool,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "window")]
    sliding_window: Option<usize>,
    #[serde(default, skip_serializing)]
    use_sliding_window: Option<bool>,
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    tie_word_embeddings: bool,
    #[serde(default = "default_init")]
    init: Init,
    #[serde(default = "default_parametrization", skip_serializing_if = "is_standard")]
    parametrization: Parametrization,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_head_dim: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_depth: Option<usize>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_false(value: &bool) -> bool {
    !value
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_true(value: &bool) -> bool {
    *value
}
#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_standard(value: &Parametrization) -> bool {
    *value == Parametrization::Standard
}
/// Deserializes a window in positions; `null` and `false`, which some configurations contain, mean no window.
fn window<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Window {
        Positions(usize),
        Off(bool),
    }
    match Option::<Window>::deserialize(deserializer)? {
        Some(Window::Positions(positions)) => Ok(Some(positions)),
        None | Some(Window::Off(false)) => Ok(None),
        Some(Window::Off(true)) => {
            Err(serde::de::Error::custom("sliding_window is true, expected its positions"))
        }
    }
}
fn default_multiple_of() -> usize {
    64
}
fn default_norm_eps() -> f64 {
    1e-5
}
fn default_max_seq_len() -> usize {
    512
}
fn default_top_k() -> usize {
    2
}
fn default_experts() -> usize {
    4
}
fn default_scoring() -> String {
    "softmax".into()
}
fn default_alpha() -> f64 {
    0.01
}
fn default_true() -> bool {
    true
}
fn default_theta() -> f64 {
    10000.0
}
fn default_init() -> Init {
    Init::Minimind
}
fn default_parametrization() -> Parametrization {
    Parametrization::Standard
}

/// Number of shared experts; v1 writes a flag and builds one shared expert whatever its value.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum SharedExperts {
    Flag(bool),
    Count(usize),
    Absent(()),
}

impl Default for SharedExperts {
    fn default() -> Self {
        Self::Flag(true)
    }
}

impl SharedExperts {
    fn count(self) -> usize {
        match self {
            Self::Flag(_) => 1,
            Self::Count(n) => n,
            Self::Absent(()) => 0,
        }
    }
}

impl ConfigFile {
    fn from_config(c: &ModelConfig) -> Self {
        let base = |size: Option<usize>| size.filter(|_| c.parametrization != Parametrization::Standard);
        Self {
            dim: c.d_model,
            n_layers: c.n_layers,
            n_heads: c.n_heads,
            n_kv_heads: Some(c.n_kv_heads),
            vocab_size: c.vocab_size,
            hidden_dim: c.hidden_dim,
            multiple_of: c.multiple_of,
            norm_eps: c.norm_eps,
            max_seq_len: c.max_seq_len,
            dropout: c.dropout,
            use_moe: c.is_moe(),
            num_experts_per_tok: c.top_k,
            n_routed_experts: c.n_experts,
            n_shared_experts: SharedExperts::Count(c.n_shared_experts),
            scoring_func: default_scoring(),
            aux_loss_alpha: c.aux_loss_alpha,
            seq_aux: c.aux_loss_per == AuxLoss::Sequence,
            norm_topk_prob: true,
            rope_theta: c.rope_theta,
            expert_hidden_dim: c.expert_hidden_dim,
            head_dim: c.head_dim,
            qk_norm: c.qk_norm,
            sliding_window: c.window,
            use_sliding_window: None,
            tie_word_embeddings: c.tie_embeddings,
            init: c.init,
            parametrization: c.parametrization,
            base_width: base(c.base_width),
            base_head_dim: base(c.base_head_dim),
            base_depth: base(c.base_depth),
        }
    }

    fn into_config(self, path: &Path) -> Result<ModelConfig> {
        if self.use_moe && (self.scoring_func != "softmax" || !self.norm_topk_prob) {
            let problem =
                "expected scoring_func = \"softmax\" and norm_topk_prob = true, the only supported router";
            return Err(Error::file(path, problem.into()));
        }
        let config = ModelConfig {
            d_model: self.dim,
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads.unwrap_or(self.n_heads),
            // Leave the head size unset if it equals the derived one.
            head_dim: self.head_dim.filter(|head_dim| head_dim.checked_mul(self.n_heads) != Some(self.dim)),
            qk_norm: self.qk_norm,
            // Configurations state a window size even if the window is disabled.
            window: self.sliding_window.filter(|_| self.use_sliding_window != Some(false)),
            tie_embeddings: self.tie_word_embeddings,
            vocab_size: self.vocab_size,
            hidden_dim: self.hidden_dim,
            multiple_of: self.multiple_of,
            max_seq_len: self.max_seq_len,
            norm_eps: self.norm_eps,
            rope_theta: self.rope_theta,
            dropout: self.dropout,
            init: self.init,
            parametrization: self.parametrization,
            base_width: self.base_width,
            base_head_dim: self.base_head_dim,
            base_depth: self.base_depth,
            n_experts: if self.use_moe { self.n_routed_experts } else { 0 },
            top_k: self.num_experts_per_tok,
            n_shared_experts: self.n_shared_experts.count(),
            expert_hidden_dim: self.expert_hidden_dim,
            aux_loss_alpha: self.aux_loss_alpha,
            aux_loss_per: if self.seq_aux { AuxLoss::Sequence } else { AuxLoss::Batch },
            ..ModelConfig::default()
        };
        config.validate().map_err(|e| Error::file(path, e.to_string()))?;
        Ok(config)
    }
}

/// Reads the shape from a `config.json` and rejects keys that would require a different computation.
///
/// # Errors
/// If the file cannot be read, lacks a key, or requires a computation that is not supported.
pub fn read_config(path: &Path) -> Result<ModelConfig> {
    read_either(path).map(|(config, _)| config)
}

/// Reads the shape and the architecture of transformers; the latter is `None` for MiniMind's keys.
fn read_either(path: &Path) -> Result<(ModelConfig, Option<Architecture>)> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e.to_string()))?;
    if let Ok(Value::Object(keys)) = serde_json::from_str(&text) {
        if let Some(architecture) = Architecture::named(&keys) {
            return Ok((hugging_face::read_config(architecture, &keys, path)?, Some(architecture)));
        }
        let problems = computed::unsupported_settings(&keys);
        if !problems.is_empty() {
            return Err(Error::file(path, problems.join("; ")));
        }
    }
    let file: ConfigFile = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("{e}; expected the keys of MiniMind's LMConfig")))?;
    Ok((file.into_config(path)?, None))
}

/// Returns the contents of a `config.json` with MiniMind's keys.
pub fn write_config(config: &ModelConfig) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(&ConfigFile::from_config(config)).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Finds the weights file of a model folder: `model.safetensors`, `pytorch_model.bin`, the index of either if it is
/// sharded, or the only `*.pth`.
fn weights_file(dir: &Path) -> Result<PathBuf> {
    for name in ["model.safetensors", "pytorch_model.bin"] {
        for name in [name.to_owned(), format!("{name}{INDEX}")] {
            if dir.join(&name).is_file() {
                return Ok(dir.join(name));
            }
        }
    }
    let entries = std::fs::read_dir(dir).map_err(|e| Error::file(dir, e.to_string()))?;
    let files =
        entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "pth"));
    let files: Vec<PathBuf> = files.collect();
    match files.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::file(dir, "contains no model.safetensors, pytorch_model.bin or *.pth".into())),
        _ => Err(Error::file(
            dir,
            "contains several *.pth files; keep one, or give the path of the file".into(),
        )),
    }
}

/// Reads the named tensors of a weights file, whose format its extension determines.
///
/// # Errors
/// If the extension is unknown, or the file cannot be read or is damaged.
pub fn read_weights(path: &Path) -> Result<weights::NamedTensors> {
    if path.to_string_lossy().ends_with(INDEX) {
        return weights::read_shards(path);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => weights::read_safetensors(path),
        Some("pth" | "bin" | "pt") => weights::read_pth(path),
        _ => Err(Error::file(
            path,
            "expected a .safetensors, .pth, .pt or .bin file, or the .index.json of several".into(),
        )),
    }
}

/// Reads the shape and the weights of a model folder.
///
/// # Errors
/// If a file is missing or damaged, or requires a computation that is not supported.
pub fn read(dir: &Path) -> Result<(ModelConfig, Weights)> {
    let path = weights_file(dir)?;
    read_parts(&dir.join("config.json"), &path)
}

/// Averages the weights of several model folders of the same shape, in double precision.
///
/// # Errors
/// Same as [`read`]; also if shapes differ or `dirs` is empty.
pub fn read_mean(dirs: &[PathBuf]) -> Result<(ModelConfig, Weights)> {
    let [first, others @ ..] = dirs else { return Err(Error::Input("no models to average".into())) };
    let (config, mut weights) = read(first)?;
    let mut sums: Vec<f64> = weights.flat.iter().map(|&weight| f64::from(weight)).collect();
    for dir in others {
        let (other, more) = read(dir)?;
        if other != config {
            return Err(Error::file(dir, format!("has another shape than {}", first.display())));
        }
        sums.iter_mut().zip(more.flat).for_each(|(sum, weight)| *sum += f64::from(weight));
    }
    let count = dirs.len() as f64;
    weights.flat = sums.into_iter().map(|sum| (sum / count) as f32).collect();
    Ok((config, weights))
}

/// Reads the shape and the weights of a model from two files; see [`read`].
///
/// # Errors
/// Same as [`read`].
pub fn read_parts(config: &Path, weights: &Path) -> Result<(ModelConfig, Weights)> {
    let (config, architecture) = read_either(config)?;
    let tensors = read_weights(weights)?;
    let weights = match architecture {
        Some(architecture) => hugging_face::to_ours(architecture, &config, tensors, weights)?,
        None => Weights::from_tensors(&config, tensors, weights)?,
    };
    Ok((config, weights))
}

impl<B: Backend> Transformer<B> {
    /// Reads a model folder; see [`read`].
    ///
    /// # Errors
    /// Same as [`read`].
    pub fn load(dir: &Path, backend: &B) -> Result<Self> {
        let (config, weights) = read(dir)?;
        Self::from_weights(&config, weights, backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_width_of_the_heads_that_overflows_is_refused() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("config.json");
        // 4 (2^62 + 16) wraps to 64.
        let config =
            r#"{"dim": 64, "n_layers": 1, "n_heads": 4, "vocab_size": 64, "head_dim": 4611686018427387920}"#;
        std::fs::write(&path, config)?;
        let error = read_config(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("model.head_dim: is 4611686018427387920"), "{error}");
        Ok(())
    }
}
