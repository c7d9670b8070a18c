//! Labels of keys in tables and figures; a key without one is shown by its path.

use crate::config::TrainStage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Labels of keys that tables and figures often name.
const WORDS: [(&str, &str); 43] = [
    ("model.d_model", "width"),
    ("model.n_layers", "layers"),
    ("model.n_heads", "heads"),
    ("model.n_kv_heads", "key-value heads"),
    ("model.head_dim", "head width"),
    ("model.qk_norm", "QK norm"),
    ("model.window", "attention window"),
    ("model.vocab_size", "vocabulary"),
    ("model.tie_embeddings", "tied embeddings"),
    ("model.hidden_dim", "feed-forward width"),
    ("model.max_seq_len", "context length"),
    ("model.rope_theta", "RoPE base"),
    ("model.dropout", "dropout"),
    ("model.init", "initialisation"),
    ("model.parametrization", "parametrization"),
    ("model.base_width", "base width"),
    ("model.base_depth", "base depth"),
    ("model.n_experts", "experts"),
    ("model.top_k", "active experts"),
    ("model.n_shared_experts", "shared experts"),
    ("model.expert_hidden_dim", "expert width"),
    ("model.aux_loss_alpha", "balancing weight"),
    ("model.aux_loss_per", "balanced over"),
    ("lora.rank", "LoRA rank"),
    ("lora.alpha", "LoRA alpha"),
    ("lora.targets", "LoRA targets"),
    ("dpo.beta", "DPO beta"),
    ("dpo.loss", "DPO loss"),
    ("exam.answer", "answers by"),
    ("exam.format", "prompt format"),
    ("exam.norm", "norm of options"),
    ("exam.shots", "shots"),
    ("exam.rotate", "rotated options"),
    ("data.source", "data"),
    ("data.max_rows", "row limit"),
    ("data.rows", "layout of rows"),
    ("world.people", "people"),
    ("hops.hops", "hops"),
    ("hops.length", "sequence length"),
    ("recall.pairs", "pairs"),
    ("recall.length", "sequence length"),
    ("capacity.people", "people"),
    ("capacity.exposures", "exposures"),
];

/// Labels of keys that every training stage has; after pretraining, the stage is put before them.
const OF_STAGES: [(&str, &str); 14] = [
    ("lr", "learning rate"),
    ("min_lr_ratio", "final learning-rate ratio"),
    ("schedule", "schedule"),
    ("warmup_steps", "warm-up steps"),
    ("batch_size", "batch size"),
    ("accumulation", "accumulation"),
    ("seq_len", "row length"),
    ("flops", "FLOP budget"),
    ("tokens", "token budget"),
    ("steps", "step budget"),
    ("epochs", "epochs"),
    ("optimizer", "optimizer"),
    ("weight_decay", "weight decay"),
    ("clip", "gradient clip"),
];

/// The label of a key; `None` if it has none of its own.
pub fn word(path: &str) -> Option<&'static str> {
    static ALL: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        let of_stages = TrainStage::all().flat_map(|stage| {
            OF_STAGES.map(|(key, word)| (format!("{}.{key}", stage.name()), of_stage(stage, word)))
        });
        WORDS.map(|(key, word)| (key.into(), word.into())).into_iter().chain(of_stages).collect()
    });
    ALL.get(path).map(String::as_str)
}

/// The label of something of a stage: `learning rate` of pretraining, `SFT learning rate` of SFT.
pub fn of_stage(stage: TrainStage, word: &str) -> String {
    match stage {
        TrainStage::Pretrain => word.into(),
        _ => format!("{} {word}", stage.spec().label),
    }
}

/// Interns text for the life of the program, each text once, so that columns with their labels can be copied.
pub fn kept(text: &str) -> &'static str {
    static KEPT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept.get(text) {
        return known;
    }
    let new: &'static str = Box::leak(text.into());
    kept.insert(new);
    new
}

/// Splits a label into its text and its unit: `training loss` and `nats per token` for `training loss (nats per token)`.
pub fn unit_apart(label: &str) -> (&str, Option<&str>) {
    let parts = label.strip_suffix(')').and_then(|inner| inner.rsplit_once(" ("));
    parts.map_or((label, None), |(name, unit)| (name, Some(unit)))
}

/// A label with a value: `width 64`, `row length 128 tokens` for `row length (tokens)`.
pub fn with_value(label: &str, value: &str) -> String {
    let (label, unit) = unit_apart(label);
    format!("{label} {value}{}", unit.map_or(String::new(), |unit| format!(" {unit}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_of_a_key() {
        for key in WORDS.map(|(key, _)| key.to_string()).into_iter().chain(
            TrainStage::all().flat_map(|s| OF_STAGES.map(move |(key, _)| format!("{}.{key}", s.name()))),
        ) {
            assert!(crate::config::find(&key).is_some() && word(&key).is_some(), "{key}");
        }
        assert_eq!(word("pretrain.lr"), Some("learning rate"));
        assert_eq!(word("sft_multi.lr"), Some("multi-turn SFT learning rate"));
        assert_eq!(word("model.norm_eps"), None);
    }

    #[test]
    fn units_stand_in_the_last_parentheses() {
        assert_eq!(unit_apart("C-Eval (%)"), ("C-Eval", Some("%")));
        assert_eq!(unit_apart("loss (of all) (nats)"), ("loss (of all)", Some("nats")));
        assert_eq!(unit_apart("layers"), ("layers", None));
    }
}
