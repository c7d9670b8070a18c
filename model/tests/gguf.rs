//! GGUF files: the architecture of each shape, the layout of the tensors, and reading back.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use model::weights::gguf::{self, Precision, TokenKind, Vocabulary};
use model::{ModelConfig, Weights};
use std::collections::HashMap;
use std::fs;
use std::io::Cursor;

/// Returns a tokenizer with as many entries as the vocabulary of a shape.
fn vocabulary(config: &ModelConfig) -> Vocabulary {
    Vocabulary {
        tokens: (0..config.vocab_size).map(|id| (format!("t{id}"), TokenKind::Normal)).collect(),
        merges: vec!["t 1".into()],
        pre: "gpt-2",
        bos: Some(1),
        eos: Some(2),
        chat_template: None,
    }
}

/// Writes a GGUF file and reads it back: its content and its tensors as f32.
fn gguf(
    config: &ModelConfig,
    weights: &Weights,
    precision: Precision,
) -> (gguf_file::Content, HashMap<String, Tensor>) {
    let bytes = gguf::write("a", config, weights, precision, &vocabulary(config)).unwrap();
    let mut reader = Cursor::new(bytes);
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let tensors = content.tensor_infos.keys().map(|name| {
        let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
        (name.clone(), tensor.dequantize(&Device::Cpu).unwrap())
    });
    let tensors = tensors.collect();
    (content, tensors)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn each_shape_goes_to_the_architecture_of_llama_cpp_that_computes_it() {
    let arch = |change: fn(&mut ModelConfig)| {
        let mut config = ModelConfig::default();
        change(&mut config);
        config.validate().unwrap();
        gguf::Architecture::of(&config).map(gguf::Architecture::name).map_err(|error| error.to_string())
    };
    assert_eq!(arch(|_| ()), Ok("llama"));
    assert_eq!(arch(|c| c.window = Some(7)), Ok("granite_swa"));
    assert_eq!(arch(|c| c.qk_norm = true), Ok("qwen3"));
    assert_eq!(arch(|c| c.n_experts = 4), Ok("ernie4_5-moe"));
    assert_eq!(arch(|c| (c.n_experts, c.n_shared_experts) = (4, 0)), Ok("ernie4_5-moe"));
    assert_eq!(arch(|c| (c.n_experts, c.top_k) = (4, 1)), Ok("bailingmoe"));
    assert_eq!(arch(|c| (c.n_experts, c.qk_norm, c.n_shared_experts) = (4, true, 0)), Ok("qwen3moe"));
    assert_eq!(arch(|c| (c.n_experts, c.qk_norm) = (4, true)), Ok("bailingmoe2"));
    assert_eq!(
        arch(|c| (c.n_experts, c.top_k, c.qk_norm, c.n_shared_experts) = (4, 1, true, 0)),
        Ok("bailingmoe2")
    );
    for (change, problem) in [
        (
            (|c: &mut ModelConfig| (c.qk_norm, c.window) = (true, Some(3))) as fn(&mut ModelConfig),
            "a window in every layer (model.window) and normalised queries and keys (model.qk_norm)",
        ),
        (
            |c| (c.n_experts, c.window) = (4, Some(3)),
            "a window in every layer (model.window) and experts (model.n_experts)",
        ),
        (
            |c| (c.n_experts, c.qk_norm, c.head_dim) = (4, true, Some(16)),
            "shared experts or a single expert per token together with normalised queries and keys (model.qk_norm), unless all heads \
             together are as wide as the model; here they are 64 and it is 128",
        ),
        (|c| c.n_layers = 513, "513 layers and 0 experts, expected at most 512"),
    ] {
        assert_eq!(arch(change), Err(format!("no architecture of llama.cpp has {problem}")));
    }
}

#[test]
fn a_gguf_file_holds_the_weights_in_llama_cpps_order() {
    let plain = ModelConfig {
        d_model: 8,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 11,
        hidden_dim: Some(6),
        ..ModelConfig::default()
    };
    let weights_of = |name: &str, weights: &Weights| {
        weights.flat[weights.layout.find(name).unwrap().range.clone()].to_vec()
    };

    // Rotary positions pair neighbours, as ours do, so rows keep their order.
    let weights = Weights::random(&plain, 3);
    let (content, tensors) = gguf(&plain, &weights, Precision::F32);
    assert_eq!(tensors.len(), weights.layout.params.len());
    for (theirs, ours) in [
        ("blk.1.attn_q", "layers.1.attention.wq"),
        ("blk.0.ffn_down", "layers.0.feed_forward.w2"),
        ("token_embd", "tok_embeddings"),
        ("output_norm", "norm"),
    ] {
        assert_eq!(
            values(&tensors[&format!("{theirs}.weight")]),
            weights_of(&format!("{ours}.weight"), &weights),
            "{theirs}"
        );
    }
    assert_eq!(content.metadata["general.architecture"].to_string().unwrap(), "llama");
    assert_eq!(content.metadata["llama.attention.head_count_kv"].to_u32().unwrap(), 1);
    assert_eq!(content.metadata["tokenizer.ggml.tokens"].to_vec().unwrap().len(), 11);
    assert_eq!(content.metadata["tokenizer.ggml.pre"].to_string().unwrap(), "gpt-2");

    // Rotary positions pair halves; experts are stacked in one tensor; so are queries, keys and values.
    let moe = ModelConfig { n_experts: 3, qk_norm: true, ..plain.clone() };
    let weights = Weights::random(&moe, 4);
    let (content, tensors) = gguf(&moe, &weights, Precision::F32);
    let expert =
        |number: usize| weights_of(&format!("layers.1.feed_forward.experts.{number}.w3.weight"), &weights);
    let up = &tensors["blk.1.ffn_up_exps.weight"];
    assert_eq!((up.dims(), values(up)), ([3, 6, 8].as_slice(), [expert(0), expert(1), expert(2)].concat()));
    let joined = &tensors["blk.0.attn_qkv.weight"];
    assert_eq!(joined.dims(), [16, 8]);
    let wq = weights_of("layers.0.attention.wq.weight", &weights);
    let row = |row: usize| wq[row * 8..][..8].to_vec();
    assert_eq!(values(joined)[..64], [0, 2, 1, 3, 4, 6, 5, 7].map(row).concat());
    let q_norm = weights_of("layers.0.attention.q_norm.weight", &weights);
    assert_eq!(values(&tensors["blk.0.attn_q_norm.weight"]), [0, 2, 1, 3].map(|i| q_norm[i]));
    // This architecture always has an output head.
    assert_eq!(values(&tensors["output.weight"]), weights_of("tok_embeddings.weight", &weights));
    assert!(content.metadata["bailingmoe2.expert_weights_norm"].to_bool().unwrap());
}

#[test]
fn precision_is_that_asked_for_or_refused() {
    let config = ModelConfig {
        d_model: 32,
        n_layers: 1,
        vocab_size: 11,
        hidden_dim: Some(64),
        n_experts: 2,
        ..ModelConfig::default()
    };
    let weights = Weights::random(&config, 3);
    let ours = &weights.flat[weights.layout.find("layers.0.attention.wo.weight").unwrap().range.clone()];
    let largest = ours.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for (precision, dtype, error) in
        [(Precision::F16, GgmlDType::F16, 1e-3), (Precision::Q8_0, GgmlDType::Q8_0, 5e-3)]
    {
        let (content, tensors) = gguf(&config, &weights, precision);
        assert_eq!(content.tensor_infos["blk.0.attn_output.weight"].ggml_dtype, dtype);
        for exact in ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight"] {
            assert_eq!(content.tensor_infos[exact].ggml_dtype, GgmlDType::F32);
        }
        let found = values(&tensors["blk.0.attn_output.weight"]);
        assert!(
            found.iter().zip(ours).all(|(a, b)| (a - b).abs() <= error * largest) && found != ours,
            "{precision:?}"
        );
    }
    let problem = |config: &ModelConfig, weights: &Weights, precision| {
        gguf::write("a", config, weights, precision, &vocabulary(config)).unwrap_err().to_string()
    };
    let narrow = ModelConfig { hidden_dim: Some(48), ..config.clone() };
    assert_eq!(
        problem(&narrow, &Weights::random(&narrow, 3), Precision::Q8_0),
        "tensor blk.0.ffn_down_exps.weight: has rows of 48 values, but q8_0 requires a multiple of 32; use --type f16"
    );
    let mut large = weights.clone();
    large.flat[5] = 7e4;
    assert_eq!(
        problem(&config, &large, Precision::F16),
        "tensor token_embd.weight: contains 70000, too large for f16; use --type f32"
    );
    large.flat[5] = f32::NAN;
    assert!(problem(&config, &large, Precision::F32).contains("1 of 352 values are NaN"));
}

#[test]
fn a_gguf_file_comes_back() {
    let plain = ModelConfig {
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        vocab_size: 11,
        ..ModelConfig::default()
    };
    let moe = ModelConfig { n_experts: 3, expert_hidden_dim: Some(32), ..plain.clone() };
    for config in [
        plain.clone(),
        ModelConfig { window: Some(7), tie_embeddings: false, ..plain.clone() },
        ModelConfig { qk_norm: true, head_dim: Some(32), ..plain },
        ModelConfig { n_shared_experts: 2, ..moe.clone() },
        ModelConfig { n_shared_experts: 0, ..moe.clone() },
        ModelConfig { top_k: 1, n_shared_experts: 0, ..moe.clone() },
        ModelConfig { top_k: 1, tie_embeddings: false, ..moe.clone() },
        ModelConfig { qk_norm: true, n_shared_experts: 0, ..moe.clone() },
        ModelConfig { qk_norm: true, ..moe },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gguf");
        let weights = Weights::random(&config, 3);
        let read = |precision: Precision| {
            fs::write(&path, gguf::write("a", &config, &weights, precision, &vocabulary(&config)).unwrap())
                .unwrap();
            gguf::read(&path).unwrap()
        };
        let (found, again) = read(Precision::F32);
        assert_eq!(found.params(), config.params(), "{found:?}");
        let what = |c: &ModelConfig| {
            (c.window, c.qk_norm, c.tie_embeddings, c.norm_eps, c.rope_theta, c.max_seq_len)
        };
        assert_eq!(what(&found), what(&config));
        assert_eq!(again.flat, weights.flat, "{found:?}");
        // Half precision has 11 significant bits; with 8 bits and one scale per 32 numbers the error is at most half a step of
        // the largest of them.
        for (precision, within) in [(Precision::F16, 1.0 / 2048.0), (Precision::Q8_0, 0.5 / 127.0)] {
            let (_, again) = read(precision);
            let largest = weights.flat.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let off = again.flat.iter().zip(&weights.flat).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= 1.01 * within * largest && off > 0.0, "{precision:?}: {off} of {largest}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    for bytes in [b"GGUF".as_slice(), b"", &[7; 100]] {
        fs::write(&path, bytes).unwrap();
        assert!(gguf::read(&path).unwrap_err().to_string().contains("not a readable GGUF file"));
    }
}

/// Returns the contents of a GGUF file with another value of a metadata key, or without the key.
fn altered(bytes: &[u8], key: &str, value: Option<Value>) -> Vec<u8> {
    let mut reader = Cursor::new(bytes);
    let mut content = gguf_file::Content::read(&mut reader).unwrap();
    let tensors: Vec<(String, QTensor)> = (content.tensor_infos.keys())
        .map(|name| (name.clone(), content.tensor(&mut reader, name, &Device::Cpu).unwrap()))
        .collect();
    content.metadata.remove(key);
    content.metadata.extend(value.map(|value| (key.to_owned(), value)));
    let metadata: Vec<(&str, &Value)> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut out = Cursor::new(vec![]);
    gguf_file::write(&mut out, &metadata, &tensors).unwrap();
    out.into_inner()
}

#[test]
fn metadata_that_require_another_computation_are_refused() {
    let dense = ModelConfig {
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        vocab_size: 11,
        ..ModelConfig::default()
    };
    let window = ModelConfig { window: Some(7), ..dense.clone() };
    let moe = ModelConfig { n_experts: 3, qk_norm: true, expert_hidden_dim: Some(32), ..dense.clone() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let read = |config: &ModelConfig, key: &str, value: Option<Value>| {
        let weights = Weights::random(config, 3);
        let bytes = gguf::write("a", config, &weights, Precision::F32, &vocabulary(config)).unwrap();
        fs::write(&path, altered(&bytes, key, value)).unwrap();
        gguf::read(&path).map(|_| ()).map_err(|error| error.to_string())
    };
    let text = |text: &str| Some(Value::String(text.into()));
    let layers = Value::Array(vec![Value::Bool(true), Value::Bool(false)]);
    let ones = Value::Array(vec![Value::U32(1), Value::U32(1)]);
    for (config, key, value, found, expected) in [
        (&dense, "llama.rope.scaling.type", text("yarn"), "\"yarn\"", "none, or linear with a factor of 1"),
        (&dense, "llama.rope.scaling.factor", Some(Value::F32(4.0)), "4", "0 or 1"),
        (&dense, "llama.embedding_scale", Some(Value::F32(12.0)), "12", "0 or 1"),
        (&dense, "llama.residual_scale", Some(Value::F32(0.22)), "0.22", "0 or 1"),
        // The heads are 16 wide.
        (&dense, "llama.attention.scale", Some(Value::F32(0.5)), "0.5", "0 or 0.25"),
        (&window, "granite_swa.logit_scale", Some(Value::F32(8.0)), "8", "0 or 1"),
        (
            &window,
            "granite_swa.attention.sliding_window_pattern",
            Some(layers.clone()),
            "[true, false]",
            "true for each of 2 layers",
        ),
        (
            &window,
            "granite_swa.attention.rope_pattern",
            Some(layers),
            "[true, false]",
            "true for each of 2 layers",
        ),
        (&dense, "llama.attention.causal", Some(Value::Bool(false)), "false", "true"),
        (
            &window,
            "granite_swa.attention.sliding_window_pattern",
            None,
            "missing",
            "true for each of 2 layers",
        ),
        (&moe, "bailingmoe2.expert_weights_scale", Some(Value::F32(2.5)), "2.5", "0 or 1"),
        (&moe, "bailingmoe2.expert_gating_func", Some(Value::U32(2)), "2", "1"),
        (
            &moe,
            "bailingmoe2.expert_weights_norm",
            Some(Value::Bool(false)),
            "false",
            "true for 2 experts per token",
        ),
        (&moe, "bailingmoe2.expert_weights_norm", None, "missing", "true for 2 experts per token"),
    ] {
        let problem = format!("{key} is {found}, which is not supported, expected {expected}");
        assert_eq!(read(config, key, value), Err(format!("{}: {problem}", path.display())));
    }
    for (config, key, value) in [
        (&dense, "llama.rope.scaling.type", text("none")),
        (&dense, "llama.rope.scaling.type", text("linear")),
        (&dense, "llama.rope.scaling.factor", Some(Value::F32(1.0))),
        (&dense, "llama.attention.scale", Some(Value::F32(0.25))),
        (&window, "granite_swa.attention.sliding_window_pattern", Some(ones.clone())),
        (&window, "granite_swa.attention.rope_pattern", Some(ones)),
        (&moe, "bailingmoe2.expert_gating_func", None),
    ] {
        assert_eq!(read(config, key, value), Ok(()), "{key}");
    }
}
