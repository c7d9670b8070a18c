//! Trained models are bit-identical on every machine and with every set of vector instructions.
//!
//! A change of these digests changes every result: it requires a new format of stage runs and a line in the
//! changelog. `UPDATE_DIGESTS=1 cargo test --test integration digests` rewrites the file.

use crate::common::{TINY, mindscale, only};
use model::backend::cpu::gemm::Path;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::fs;

/// Recipes that together cover every operation of the engine.
const RECIPES: [(&str, &str); 9] = [
    ("dense", ""),
    ("experts", "[axes]\n\"model.n_experts\" = [4]\n"),
    ("dropout", "[axes]\n\"model.dropout\" = [0.1]\n"),
    ("adapters", "[axes]\n\"lora.enabled\" = [true]\n\"lora.steps\" = [2]\n\"lora.seq_len\" = [64]\n"),
    (
        "passes",
        "[axes]\n\"pretrain.steps\" = [\"unset\"]\n\"pretrain.epochs\" = [2.5]\n\"pretrain.batch_size\" = [5]\n",
    ),
    (
        "variants",
        "[axes]\n\"model.head_dim\" = [10]\n\"model.qk_norm\" = [true]\n\"model.window\" = [9]\n\"model.tie_embeddings\" = [false]\n",
    ),
    (
        "switch",
        "[axes]\n\"model.n_experts\" = [3]\n\"model.top_k\" = [1]\n\"pretrain.recompute\" = [\"blocks\"]\n",
    ),
    ("muon", "[axes]\n\"pretrain.optimizer\" = [\"muon\"]\n\"pretrain.embedding_lr\" = [0.5]\n"),
    ("heads", "[axes]\n\"model.n_kv_heads\" = [2]\n\"model.d_model\" = [24]\n\"model.n_layers\" = [2]\n"),
];

/// One line per trained stage of each recipe: `recipe stage digest`.
fn digests(path: Path) -> String {
    let mut lines = String::new();
    for (name, axes) in RECIPES {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sweep.toml"), format!("{TINY}{axes}")).unwrap();
        let mut program = mindscale(dir.path());
        program.args(["run", "sweep.toml"]).env("MINDSCALE_SIMD", path.name()).assert().success();
        let runs = dir.path().join("runs");
        let stages: &[&str] = if name == "adapters" {
            &["pretrain", "sft", "lora", "dpo"]
        } else {
            &["pretrain", "sft", "dpo"]
        };
        for stage in stages {
            let model = only(&runs, stage).join("model/model.safetensors");
            let digest = Sha256::digest(fs::read(model).unwrap());
            let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(lines, "{name} {stage} {short}").unwrap();
        }
    }
    lines
}

#[test]
fn trained_models_have_the_same_bits_everywhere() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/digests.txt");
    let mut paths = Path::ALL.into_iter().filter(|path| path.is_supported());
    let widest = digests(paths.next().unwrap());
    if std::env::var_os("UPDATE_DIGESTS").is_some() {
        fs::write(file, &widest).unwrap();
    }
    assert_eq!(widest, fs::read_to_string(file).unwrap());
    for path in paths {
        assert_eq!(widest, digests(path), "{}", path.name());
    }
}
