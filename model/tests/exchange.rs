//! Models in files of other programs: an exported model is imported with identical bits, and models for which the programs
//! would compute different results are rejected.

use candle_core::{DType, Device, Tensor};
use model::weights::hugging_face::{self, Architecture, Ends};
use model::weights::{minimind, read_pth, read_safetensors, write_hugging_face};
use model::{ModelConfig, Weights, folder};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Shapes that vary every key which affects names, shapes or layouts.
fn shapes() -> impl Strategy<Value = ModelConfig> {
    let heads = (1usize..4, 1usize..4, prop::option::of(1usize..5));
    let experts = (0usize..5, 1usize..3, 0usize..3, prop::option::of(1usize..9));
    (1usize..4, heads, experts, any::<[bool; 2]>(), prop::option::of(1usize..20)).prop_map(
        |(n_layers, (kv, repeats, half), (n_experts, top_k, n_shared_experts, hidden), [a, b], window)| {
            ModelConfig {
                d_model: 4 * kv * repeats,
                n_layers,
                n_heads: kv * repeats,
                n_kv_heads: kv,
                head_dim: half.map(|half| 2 * half),
                qk_norm: a,
                tie_embeddings: b,
                window,
                vocab_size: 11,
                hidden_dim: hidden,
                multiple_of: 8,
                expert_hidden_dim: hidden.filter(|_| a).map(|hidden| hidden + 1),
                n_experts,
                top_k: top_k.min(n_experts.max(1)),
                n_shared_experts,
                ..ModelConfig::default()
            }
        },
    )
}

/// Returns weights of both signs and very different magnitudes, all distinct.
fn weights(config: &ModelConfig) -> Weights {
    let mut weights = Weights::random(config, 3);
    for (i, value) in weights.flat.iter_mut().enumerate() {
        *value = (*value + 0.5).powi(7) * if i % 3 == 0 { -1e-20 } else { 1e6 } + i as f32;
    }
    weights
}

fn bits(weights: &Weights) -> Vec<u32> {
    weights.flat.iter().map(|value| value.to_bits()).collect()
}

fn write(dir: &Path, config: &Value, weights: &str, bytes: &[u8]) {
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join(weights), bytes).unwrap();
}

/// Normalises a shape: keys that do not affect the computation get fixed values.
fn computed(config: &ModelConfig) -> ModelConfig {
    let head_dim = config.head_dim.filter(|width| width * config.n_heads != config.d_model);
    let moe = config.is_moe();
    ModelConfig {
        head_dim,
        hidden_dim: if moe { None } else { Some(config.ffn_dim()) },
        multiple_of: 64,
        expert_hidden_dim: moe.then(|| config.expert_dim()),
        top_k: if moe { config.top_k } else { 2 },
        n_shared_experts: if moe { config.n_shared_experts } else { 1 },
        aux_loss_alpha: if moe { config.aux_loss_alpha } else { 0.01 },
        ..config.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_of_transformers_comes_back_bit_for_bit(config in shapes()) {
        let weights = weights(&config);
        let dir = tempfile::tempdir().unwrap();
        match hugging_face::config_json(&config, Ends { bos: Some(1), eos: Some(2) }) {
            Ok(json) => {
                let bytes = write_hugging_face(&config, &weights).unwrap();
                write(dir.path(), &json, "model.safetensors", &bytes);
                let (again, read) = folder::read(dir.path()).unwrap();
                prop_assert_eq!(computed(&again), computed(&config));
                prop_assert_eq!(bits(&read), bits(&weights));
            }
            Err(error) => {
                prop_assert!(config.is_moe() && config.qk_norm && config.n_shared_experts > 0, "{error}");
                prop_assert!(write_hugging_face(&config, &weights).is_err());
            }
        }
    }

    #[test]
    fn a_state_dict_comes_back_bit_for_bit(config in shapes()) {
        let config = ModelConfig { head_dim: None, qk_norm: false, window: None, tie_embeddings: true, ..config };
        let weights = weights(&config);
        let dir = tempfile::tempdir().unwrap();
        match minimind::config_json(&config) {
            Ok(json) => {
                let bytes = minimind::write_pth(&config, &weights).unwrap();
                write(dir.path(), &json, "model.pth", &bytes);
                let (again, read) = folder::read(dir.path()).unwrap();
                prop_assert_eq!(computed(&again), computed(&config));
                prop_assert_eq!(bits(&read), bits(&weights));
                // The same model without its config.json.
                let tensors = read_pth(&dir.path().join("model.pth")).unwrap();
                let lone = minimind::shape_of(&tensors, config.n_heads, dir.path()).unwrap();
                prop_assert_eq!(lone.spec().block.heads, config.spec().block.heads);
                prop_assert_eq!(bits(&Weights::from_tensors(&lone, tensors, dir.path()).unwrap()), bits(&weights));
            }
            Err(error) => prop_assert!(config.is_moe() && config.n_shared_experts > 1, "{error}"),
        }
    }
}

#[test]
fn each_shape_goes_out_as_the_architecture_that_computes_it() {
    let class = |change: fn(&mut ModelConfig)| {
        let mut config = ModelConfig::default();
        change(&mut config);
        config.validate().unwrap();
        Architecture::of(&config).map(Architecture::class).map_err(|error| error.to_string())
    };
    assert_eq!(class(|_| ()), Ok("LlamaForCausalLM"));
    assert_eq!(class(|c| c.window = Some(7)), Ok("MistralForCausalLM"));
    // LlamaConfig requires a width divisible by the number of heads.
    assert_eq!(class(|c| (c.d_model, c.head_dim) = (126, Some(8))), Ok("MistralForCausalLM"));
    assert_eq!(class(|c| c.qk_norm = true), Ok("Qwen3ForCausalLM"));
    assert_eq!(class(|c| c.n_experts = 4), Ok("Qwen2MoeForCausalLM"));
    assert_eq!(
        class(|c| (c.n_experts, c.qk_norm, c.n_shared_experts) = (4, true, 0)),
        Ok("Qwen3MoeForCausalLM")
    );
    assert_eq!(
        class(|c| (c.n_experts, c.qk_norm) = (4, true)).unwrap_err(),
        "no architecture of transformers has both normalised queries and keys (model.qk_norm = true) and ungated shared \
         experts (model.n_shared_experts = 1); one of the two can be exported"
    );
    let error =
        minimind::config_json(&ModelConfig { qk_norm: true, window: Some(3), ..ModelConfig::default() });
    assert_eq!(
        error.unwrap_err().to_string(),
        "MiniMind v1 does not support normalised queries and keys (model.qk_norm), a window (model.window); try --to hf"
    );
}

/// Exports a model for transformers, changes keys of its configuration and optionally one tensor, and imports the result.
fn changed(shape: &ModelConfig, config: Value, tensor: Option<(&str, Option<Tensor>)>) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let mut json = hugging_face::config_json(shape, Ends::default()).unwrap();
    for (key, value) in config.as_object().unwrap() {
        match value {
            Value::String(gone) if gone == "GONE" => drop(json.as_object_mut().unwrap().remove(key)),
            value => json[key] = value.clone(),
        }
    }
    let bytes = write_hugging_face(shape, &weights(shape)).unwrap();
    write(dir.path(), &json, "model.safetensors", &bytes);
    if let Some((name, value)) = tensor {
        let path = dir.path().join("model.safetensors");
        let mut tensors = read_safetensors(&path).unwrap();
        tensors.remove(name);
        tensors.extend(value.map(|value| (name.to_owned(), value)));
        candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
    }
    folder::read(dir.path())
        .map(drop)
        .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

#[test]
fn folders_that_ask_for_something_else_are_refused() {
    let moe = ModelConfig {
        d_model: 16,
        n_layers: 1,
        vocab_size: 11,
        n_experts: 3,
        hidden_dim: Some(8),
        ..ModelConfig::default()
    };
    let dense = ModelConfig { n_experts: 0, ..moe.clone() };
    let ones = |shape: &[usize]| Some(Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap());
    let zeros = |shape: &[usize]| Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    changed(&moe, json!({}), None).unwrap();
    changed(&dense, json!({}), None).unwrap();
    // Zero biases may be missing, and old files contain tables of rotary frequencies.
    changed(&moe, json!({}), Some(("model.layers.0.self_attn.q_proj.bias", None))).unwrap();
    changed(&dense, json!({}), Some(("model.layers.0.self_attn.rotary_emb.inv_freq", ones(&[2])))).unwrap();
    changed(&dense, json!({ "rope_parameters": "GONE", "model_type": "GONE", "head_dim": null }), None)
        .unwrap();
    for (shape, config, tensor, expected) in [
        (
            &moe,
            json!({ "norm_topk_prob": false }),
            None,
            "config.json: norm_topk_prob is false, which is not supported, expected true for more than one expert per token",
        ),
        (
            &moe,
            json!({ "num_experts_per_tok": 1 }),
            None,
            "config.json: norm_topk_prob is true, which is not supported, expected false for one expert per token",
        ),
        (
            &moe,
            json!({ "shared_expert_intermediate_size": 12 }),
            None,
            "config.json: shared_expert_intermediate_size is 12, expected a multiple of moe_intermediate_size = 8",
        ),
        (
            &moe,
            json!({ "num_experts": "GONE" }),
            None,
            "config.json: lacks one of num_experts, num_experts_per_tok and moe_intermediate_size",
        ),
        (&moe, json!({ "decoder_sparse_step": 2 }), None, "config.json: decoder_sparse_step is not 1"),
        (
            &moe,
            json!({ "use_sliding_window": true, "sliding_window": 4 }),
            None,
            "config.json: use_sliding_window is true without layer_types",
        ),
        (
            &moe,
            json!({ "n_shared_experts": u64::MAX }),
            None,
            "config.json: shared_expert_intermediate_size is 8",
        ),
        (
            &dense,
            json!({ "hidden_size": "GONE" }),
            None,
            "config.json: missing field `hidden_size`; expected the keys of transformers' LlamaForCausalLM",
        ),
        (&dense, json!({ "hidden_size": -1 }), None, "config.json: invalid value: integer `-1`"),
        (&dense, json!({ "num_attention_heads": 0 }), None, "config.json: model.n_heads: is 0"),
        (
            &dense,
            json!({ "hidden_act": "gelu", "attention_bias": true }),
            None,
            "config.json: hidden_act is \"gelu\", which is not supported, expected silu or swish; attention_bias is true",
        ),
        (
            &dense,
            json!({ "rope_parameters": { "rope_type": "yarn", "factor": 2.0 } }),
            None,
            "config.json: rope_parameters is {",
        ),
        (
            &dense,
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            None,
            "config.json: rope_scaling is {",
        ),
        (
            &dense,
            json!({ "model_type": "gpt2" }),
            None,
            "config.json: model_type is \"gpt2\", which is not supported, expected minimind or llama or",
        ),
        (
            &moe,
            json!({}),
            Some(("model.layers.0.self_attn.q_proj.bias", ones(&[16]))),
            "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias: is not zero",
        ),
        (
            &moe,
            json!({}),
            Some(("model.layers.0.mlp.shared_expert_gate.weight", ones(&[1, 16]))),
            "model.safetensors: tensor model.layers.0.mlp.shared_expert_gate.weight: is not zero",
        ),
        (
            &moe,
            json!({}),
            Some(("model.layers.0.self_attn.q_proj.bias", zeros(&[3]))),
            "model.safetensors: tensor model.layers.0.self_attn.q_proj.bias: has shape [3], expected [16]",
        ),
        (
            &dense,
            json!({}),
            Some(("model.layers.0.mlp.up_proj.weight", None)),
            "model.safetensors: tensor model.layers.0.mlp.up_proj.weight: missing, expected shape [8, 16]",
        ),
        (
            &dense,
            json!({}),
            Some(("model.layers.0.self_attn.k_proj.weight", ones(&[3, 16]))),
            "model.safetensors: tensor model.layers.0.self_attn.k_proj.weight: has shape [3, 16], expected [8, 16]",
        ),
        (
            &dense,
            json!({}),
            Some(("model.layers.0.mlp.up_proj.bias", ones(&[8]))),
            "model.safetensors: tensor model.layers.0.mlp.up_proj.bias: unexpected: a model of this shape has no such tensor",
        ),
        (
            &dense,
            json!({}),
            Some(("lm_head.weight", ones(&[11, 16]))),
            "model.safetensors: tensor lm_head.weight: differs from model.embed_tokens.weight, but this model ties the two",
        ),
    ] {
        let error = changed(shape, config, tensor).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nwhere expected\n{expected}");
    }
}

#[test]
fn a_lone_state_dict_must_fit_its_heads() {
    let config =
        ModelConfig { d_model: 32, n_layers: 1, n_heads: 4, vocab_size: 11, ..ModelConfig::default() };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pth");
    fs::write(&path, minimind::write_pth(&config, &weights(&config)).unwrap()).unwrap();
    let tensors = read_pth(&path).unwrap();
    let shape =
        |n_heads| minimind::shape_of(&tensors, n_heads, Path::new("a.pth")).map_err(|e| e.to_string());
    assert_eq!(shape(4).unwrap().n_kv_heads, 2);
    for n_heads in [0, 1, 5, 64] {
        let error = shape(n_heads).unwrap_err();
        let expected = format!(
            "its 32 and 16 rows of queries and keys are not those of {n_heads} query heads; --n-heads says"
        );
        assert!(error.contains(&expected), "{error}");
    }
    let error = minimind::shape_of(&Default::default(), 4, Path::new("a.pth")).unwrap_err().to_string();
    assert_eq!(
        error,
        "a.pth: tensor tok_embeddings.weight: missing, expected the names of MiniMind's state dicts"
    );
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    let config = ModelConfig {
        d_model: 8,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 11,
        ..ModelConfig::default()
    };
    let (weights, ends) = (weights(&config), Ends { bos: Some(1), eos: Some(2) });
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let about = hugging_face::config_json(&config, ends).unwrap();
    write(whole.path(), &about, "model.safetensors", &write_hugging_face(&config, &weights).unwrap());
    let tensors = read_safetensors(&whole.path().join("model.safetensors")).unwrap();
    let mut files: [std::collections::HashMap<String, Tensor>; 2] = Default::default();
    let mut map = serde_json::Map::new();
    for (i, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), format!("model-{}.safetensors", i % 2).into());
        files[i % 2].insert(name, tensor);
    }
    for (i, file) in files.iter().enumerate() {
        candle_core::safetensors::save(file, dir.path().join(format!("model-{i}.safetensors"))).unwrap();
    }
    let index = |map: &serde_json::Map<String, Value>| {
        json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string()
    };
    write(dir.path(), &about, "model.safetensors.index.json", index(&map).as_bytes());
    let (read, found) = folder::read(dir.path()).unwrap();
    assert_eq!(computed(&read), computed(&config));
    assert_eq!(bits(&found), bits(&weights));

    let refused = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut map = map.clone();
        change(&mut map);
        fs::write(dir.path().join("model.safetensors.index.json"), index(&map)).unwrap();
        folder::read(dir.path()).unwrap_err().to_string()
    };
    let name = "model.norm.weight";
    for (to, problem) in [
        (json!("model-7.safetensors"), "model-7.safetensors"),
        (
            json!("../model-0.safetensors"),
            "names \"../model-0.safetensors\", expected a file in its own folder",
        ),
        (Value::Null, "expected a weight_map from tensors to files"),
    ] {
        let error = refused(&|map| drop(map.insert(name.into(), to.clone())));
        assert!(error.contains(problem), "{error}");
    }
    let error = refused(&|map| drop(map.remove(name)));
    assert!(error.contains("model.norm.weight") && error.contains("does not list it"), "{error}");
    let error = refused(&|map| drop(map.insert("extra".into(), json!("model-0.safetensors"))));
    assert!(error.contains("extra") && error.contains("missing"), "{error}");
}
