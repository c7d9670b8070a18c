//! Export to MiniMind v1, and shapes of its state dicts: a `.pth` as saved by `torch.save` and the `config.json` of `LMConfig`.

use super::Weights;
use crate::{Error, ModelConfig, Parametrization, Result, folder};
use serde_json::{Value, json};
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Name of the folder inside the archive; the choice is arbitrary.
const FOLDER: &str = "archive";

/// Alignment of the values in the file in bytes, as in PyTorch.
const ALIGNMENT: u16 = 64;

/// Describes why MiniMind v1 cannot compute a model; `None` if it can.
fn problem(config: &ModelConfig) -> Option<String> {
    let default = ModelConfig::default();
    let variants = [
        (config.qk_norm, "normalised queries and keys (model.qk_norm)"),
        (config.window.is_some(), "a window (model.window)"),
        (!config.tie_embeddings, "an untied output head (model.tie_embeddings = false)"),
        (
            config.head_dim() * config.n_heads != config.d_model,
            "heads that are not d_model / n_heads wide (model.head_dim)",
        ),
        (config.rope_theta != default.rope_theta, "a rotary base other than 10000 (model.rope_theta)"),
        (config.is_moe() && config.n_shared_experts > 1, "several shared experts (model.n_shared_experts)"),
    ];
    let found: Vec<&str> = variants.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Returns the `config.json` of MiniMind's `LMConfig`.
///
/// # Errors
/// If MiniMind v1 cannot compute the model; the error states the reason.
pub fn config_json(config: &ModelConfig) -> Result<Value> {
    if let Some(problem) = problem(config) {
        return Err(Error::Input(format!("MiniMind v1 does not support {problem}; try --to hf")));
    }
    // MiniMind's experts have the hidden size of a dense feed-forward.
    let hidden_dim = if config.is_moe() { Some(config.expert_dim()) } else { config.hidden_dim };
    let config = ModelConfig {
        hidden_dim,
        expert_hidden_dim: None,
        head_dim: None,
        parametrization: Parametrization::Standard, // does not affect forward passes
        ..config.clone()
    };
    let mut json: Value = serde_json::from_slice(&folder::write_config(&config)).unwrap_or_default();
    json["model_type"] = "minimind".into();
    json["architectures"] = json!(["Transformer"]);
    // MiniMind builds one shared expert for any value except null.
    json["n_shared_experts"] = if config.n_shared_experts == 0 { Value::Null } else { true.into() };
    Ok(json)
}

/// Returns the contents of a `.pth`, as written by `torch.save(model.state_dict(), path)`; the tied head shares the storage of
/// the embedding.
///
/// # Errors
/// Same as [`config_json`]; also if a weight is not finite.
pub fn write_pth(config: &ModelConfig, weights: &Weights) -> Result<Vec<u8>> {
    config_json(config)?;
    let Weights { layout, flat } = weights;
    layout.check_finite(flat)?;
    let mut pickle = Pickle::new();
    for (storage, param) in layout.params.iter().enumerate() {
        pickle.tensor(&param.name, storage, &param.shape);
    }
    pickle.tensor("output.weight", 0, &layout.params[0].shape);

    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let mut add = |name: &str, bytes: &[u8]| -> zip::result::ZipResult<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .with_alignment(ALIGNMENT)
            .large_file(u32::try_from(bytes.len()).is_err());
        zip.start_file(format!("{FOLDER}/{name}"), options)?;
        Ok(zip.write_all(bytes)?)
    };
    let mut all = || -> zip::result::ZipResult<()> {
        add("data.pkl", &pickle.end())?;
        add("byteorder", b"little")?;
        for (storage, param) in layout.params.iter().enumerate() {
            let values = &flat[param.range.clone()];
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            add(&format!("data/{storage}"), &bytes)?;
        }
        add("version", b"3\n")
    };
    let written = all().and_then(|()| zip.finish());
    Ok(written.map_err(|error| Error::Input(format!("the archive cannot be written: {error}")))?.into_inner())
}

/// A pickle (protocol 2) of an `OrderedDict` of tensors; opcodes as in CPython's `pickletools.py`.
struct Pickle(Vec<u8>);

impl Pickle {
    fn new() -> Self {
        let mut pickle = Self(vec![0x80, 2]);
        pickle.ordered_dict();
        pickle.0.push(b'('); // mark before its items
        pickle
    }

    fn end(&self) -> Vec<u8> {
        [self.0.as_slice(), b"u."].concat()
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn number(&mut self, number: usize) {
        match i32::try_from(number) {
            Ok(number) => {
                self.0.push(b'J');
                self.0.extend(number.to_le_bytes());
            }
            Err(_) => {
                self.0.extend([0x8a, 8]);
                self.0.extend((number as i64).to_le_bytes());
            }
        }
    }

    fn tuple(&mut self, numbers: &[usize]) {
        self.0.push(b'(');
        numbers.iter().for_each(|&number| self.number(number));
        self.0.push(b't');
    }

    /// Writes an empty `OrderedDict`.
    fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend(b")R");
    }

    /// Writes a name and its tensor, which covers a whole storage.
    fn tensor(&mut self, name: &str, storage: usize, shape: &[usize]) {
        let strides: Vec<usize> = (0..shape.len()).map(|i| shape[i + 1..].iter().product()).collect();
        self.text(name);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.push(b'(');
        self.0.push(b'(');
        self.text("storage");
        self.global("torch", "FloatStorage");
        self.text(&storage.to_string());
        self.text("cpu");
        self.number(shape.iter().product());
        self.0.extend(b"tQ"); // load the storage by this identifier
        self.number(0); // offset of the first element
        self.tuple(shape);
        self.tuple(&strides);
        self.0.push(0x89); // requires_grad: False
        self.ordered_dict(); // no hooks
        self.0.extend(b"tR");
    }
}

/// Number of query heads assumed without a `config.json`: that of all published models.
pub const HEADS: usize = 16;

/// Infers the shape of a state dict without `config.json`, given the number of query heads; keys that the tensors do not
/// determine have `LMConfig`'s defaults.
///
/// # Errors
/// If the tensors are not a state dict of MiniMind, or `n_heads` does not fit them.
pub fn shape_of(
    tensors: &super::NamedTensors,
    n_heads: usize,
    source: &std::path::Path,
) -> Result<ModelConfig> {
    let dims = |name: &str| tensors.get(name).map(|tensor| tensor.dims().to_vec());
    let matrix = |name: &str| match dims(name).as_deref() {
        Some(&[rows, columns]) => Ok((rows, columns)),
        Some(shape) => Err(Error::weights(source, name, format!("has shape {shape:?}, expected a matrix"))),
        None => {
            let problem = "missing, expected the names of MiniMind's state dicts".into();
            Err(Error::weights(source, name, problem))
        }
    };
    let (vocab_size, d_model) = matrix("tok_embeddings.weight")?;
    let (width, _) = matrix("layers.0.attention.wq.weight")?;
    let (kv_width, _) = matrix("layers.0.attention.wk.weight")?;
    let count =
        |name: &dyn Fn(usize) -> String| (0..).take_while(|&i| tensors.contains_key(&name(i))).count();
    let n_layers = count(&|layer| format!("layers.{layer}.attention.wq.weight"));
    let n_experts = count(&|expert| format!("layers.0.feed_forward.experts.{expert}.w1.weight"));
    let first = if n_experts > 0 {
        "layers.0.feed_forward.experts.0.w1.weight"
    } else {
        "layers.0.feed_forward.w1.weight"
    };
    let (hidden, _) = matrix(first)?;
    let has_shared = tensors.contains_key("layers.0.feed_forward.shared_experts.w1.weight");
    let head_dim = width / n_heads.max(1);
    if head_dim == 0
        || !head_dim.is_multiple_of(2)
        || head_dim * n_heads != width
        || !kv_width.is_multiple_of(head_dim)
        || kv_width == 0
    {
        let problem = format!(
            "its {width} and {kv_width} rows of queries and keys are not those of {n_heads} query heads; \
             --n-heads says how many there are, or a config.json beside it"
        );
        return Err(Error::weights(source, "layers.0.attention.wk.weight", problem));
    }
    let config = ModelConfig {
        d_model,
        vocab_size,
        n_layers,
        n_heads,
        n_kv_heads: kv_width / head_dim,
        head_dim: (width != d_model).then_some(head_dim),
        hidden_dim: Some(hidden),
        n_experts,
        top_k: ModelConfig::default().top_k.min(n_experts.max(1)),
        n_shared_experts: usize::from(has_shared),
        ..ModelConfig::default()
    };
    config.validate().map_err(|error| Error::file(source, error.to_string()))?;
    Ok(config)
}
