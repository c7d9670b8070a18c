//! Every reader of user-supplied files, as a function of one file: for the property tests and the fuzzer.

use anyhow::{Result, ensure};
use harness::config::{BadRow, DataConfig, Overrides, UnknownKeys};
use harness::data::read::{ReadOptions, rows};
use harness::data::{Kind, Message, SpecialText, Tokenizer};
use harness::exam::read_sheets;
use harness::report::Experiment;
use harness::runs::manifest::Manifest;
use harness::sweep::Sweep;
use std::path::Path;

/// A reader with a valid file for it.
pub struct Reader {
    /// Its name.
    pub name: &'static str,
    /// The name of the file that it expects.
    pub file: &'static str,
    /// The content of a valid file.
    pub valid: fn() -> Vec<u8>,
    /// Reads a file to its end.
    pub read: fn(&Path) -> Result<()>,
}

/// All readers.
pub const READERS: [Reader; 15] = [
    Reader { name: "sweep", file: "a.toml", valid: || SWEEP.into(), read: sweep },
    Reader { name: "experiment", file: "e.toml", valid: || EXPERIMENT.into(), read: experiment },
    Reader {
        name: "jsonl",
        file: "a.jsonl",
        valid: || JSONL.into(),
        read: |path| data(path, Kind::Pretrain),
    },
    Reader {
        name: "chats",
        file: "a.json",
        valid: || CHATS.into(),
        read: |path| data(path, Kind::Conversations),
    },
    Reader {
        name: "pairs",
        file: "a.json",
        valid: || PAIRS.into(),
        read: |path| data(path, Kind::Preferences),
    },
    Reader { name: "csv", file: "a.csv", valid: || CSV.into(), read: |path| data(path, Kind::Conversations) },
    Reader { name: "sheets", file: "law_val.csv", valid: || SHEET.into(), read: sheets },
    Reader { name: "tokenizer", file: "tokenizer.json", valid: tokenizer_json, read: tokenizer },
    Reader { name: "template", file: "tokenizer_config.json", valid: || TEMPLATE.into(), read: template },
    Reader { name: "safetensors", file: "a.safetensors", valid: safetensors, read: weights },
    Reader { name: "pth", file: "a.pth", valid: || PTH.into(), read: weights },
    Reader { name: "shape", file: "config.json", valid: || SHAPE.into(), read: shape },
    Reader { name: "foreign", file: "config.json", valid: || FOREIGN_SHAPE.into(), read: shape },
    Reader { name: "manifest", file: "manifest.json", valid: || MANIFEST.into(), read: manifest },
    Reader { name: "store", file: "store.json", valid: || STORE.into(), read: store },
];

fn sweep(path: &Path) -> Result<()> {
    Sweep::read(path, &Overrides::default())?.expand().map(drop)
}

fn experiment(path: &Path) -> Result<()> {
    Experiment::read_if_experiment(path).map(drop)
}

/// Reads with bad rows skipped, then with an error for each fault.
fn data(path: &Path, kind: Kind) -> Result<()> {
    let lenient =
        DataConfig { on_bad_row: BadRow::Skip, unknown_keys: UnknownKeys::Ignore, ..DataConfig::default() };
    for config in [lenient, DataConfig::default()] {
        rows(&[path.to_path_buf()], kind, &ReadOptions::new(&config)).try_for_each(|row| row.map(drop))?;
    }
    Ok(())
}

fn sheets(path: &Path) -> Result<()> {
    read_sheets(path.parent().unwrap_or(path), "val").map(drop)
}

fn tokenizer(path: &Path) -> Result<()> {
    let tokenizer = Tokenizer::load(path)?;
    tokenizer.token_bytes();
    let ids = tokenizer.encode("他喜欢下棋 and 1234 <s>")?;
    tokenizer.decode(&ids, false).map(drop)
}

/// The chat template is in a file next to the tokenizer.
fn template(path: &Path) -> Result<()> {
    let tokenizer = path.with_file_name("tokenizer.json");
    std::fs::write(&tokenizer, tokenizer_json())?;
    let tokenizer = Tokenizer::load(&tokenizer)?;
    let turns = [Message::new("system", "x"), Message::new("user", "你好"), Message::new("assistant", "y")];
    tokenizer.render(&turns)?;
    tokenizer.answer_marker()?;
    tokenizer.conversation(&turns, SpecialText::Characters).map(drop)
}

fn weights(path: &Path) -> Result<()> {
    model::folder::read_weights(path)?;
    Ok(())
}

fn shape(path: &Path) -> Result<()> {
    let shape = model::folder::read_config(path)?;
    ensure!(shape.params() > 0, "{}: a shape without weights", path.display());
    Ok(())
}

fn manifest(path: &Path) -> Result<()> {
    Manifest::read(path.parent().unwrap_or(path)).map(drop)
}

/// The other files of the store, whose sizes `store.json` gives, are small and fixed.
fn store(path: &Path) -> Result<()> {
    let dir = path.parent().unwrap_or(path);
    std::fs::write(dir.join("tokens.bin"), [0; 12])?;
    std::fs::write(dir.join("offsets.bin"), [0u64, 4, 6].map(u64::to_le_bytes).concat())?;
    std::fs::write(dir.join("marks.bin"), [])?;
    std::fs::write(dir.join("bytes.bin"), [4u32, 2].map(u32::to_le_bytes).concat())?;
    std::fs::write(dir.join("token_bytes.bin"), [1u8, 0, 1, 0])?;
    harness::data::Store::open(dir).map(drop)
}

const SWEEP: &str = include_str!("../seeds/a.toml");
const EXPERIMENT: &str =
    "title = \"Deep or wide\"\nquestion = \"Which?\"\nsweeps = [\"a.toml\", \"b.toml\"]\n";
const JSONL: &str = "{\"text\": \"第一行\"}\n{\"text\": \"a second \\u884c\"}\n\n{\"text\": \"x\"}\n";
const CHATS: &str = r#"[{"conversations": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]},
 {"system": "s", "history": [["1", 2]], "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!", "weight": 0}]}]"#;
const PAIRS: &str = r#"[{"prompt": "问", "chosen": "好", "rejected": "坏"}, {"prompt": [{"role": "user", "content": "a"}],
 "history": "[['x', 'y']]", "chosen": "b", "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}]"#;
const CSV: &str = "system,history,q,a\ns,\"[['你好','好']]\",\"问, 题\",答\n,[],b,\"c \"\"d\"\"\"\n";
const SHEET: &str = "id,question,A,B,C,D,answer\n0,谁?,甲,乙,\"丙,丁\",戊,A\n1,何?,1,2,3,4,D\n";
const TEMPLATE: &str = r#"{"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{% for m in messages %}{% if m.role == 'user' %}<s>user\n{{ m.content.strip() }}</s>\n{% else %}<s>assistant\n{{ m['content'] }}</s>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"}"#;
const SHAPE: &str = r#"{"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 100, "hidden_dim": null, "multiple_of": 64, "norm_eps": 1e-5, "max_seq_len": 128, "use_moe": true, "num_experts_per_tok": 2, "n_routed_experts": 4}"#;
const FOREIGN_SHAPE: &str = r#"{"model_type": "qwen2_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "intermediate_size": 192, "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 8, "layer_types": ["sliding_attention", "sliding_attention"], "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 128, "n_shared_experts": 2}"#;
const PTH: &[u8] = include_bytes!("../seeds/a.pth");
const MANIFEST: &str = include_str!("../seeds/manifest.json");
const STORE: &str = include_str!("../seeds/store.json");

fn tokenizer_json() -> Vec<u8> {
    include_bytes!("../seeds/tokenizer.json").to_vec()
}

/// Two small tensors.
fn safetensors() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}"#;
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 22]].concat()
}
