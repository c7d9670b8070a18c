//! Suggestions for misspelt names: the nearest existing key, word or file.

use std::path::{Path, PathBuf};

/// Maximum number of entries of a folder that are compared with a file name.
const LOOKED_AT: usize = 10_000;

/// Names of keys in other programs (last part of the key), with ours.
const OTHER_NAMES: [(&str, &str); 18] = [
    ("learning_rate", "lr"),
    ("max_lr", "lr"),
    ("max_steps", "steps"),
    ("num_epochs", "epochs"),
    ("num_train_epochs", "epochs"),
    ("gradient_accumulation_steps", "accumulation"),
    ("grad_clip", "clip"),
    ("max_grad_norm", "clip"),
    ("block_size", "seq_len"),
    ("dim", "d_model"),
    ("n_embd", "d_model"),
    ("hidden_size", "d_model"),
    ("num_hidden_layers", "n_layers"),
    ("num_attention_heads", "n_heads"),
    ("num_key_value_heads", "n_kv_heads"),
    ("intermediate_size", "hidden_dim"),
    ("n_routed_experts", "n_experts"),
    ("num_experts_per_tok", "top_k"),
];

/// Replaces the last part of a key by our name if it is another program's name.
pub(super) fn our_name(key: &str) -> String {
    let (section, name) = split_section(key);
    let ours = OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, ours)| ours);
    format!("{section}{ours}")
}

/// Returns the nearest of `names` as a question that ends a message; empty if none is near.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// Returns the nearest existing file or folder as a question that ends a message, relative to `from`; empty if none is
/// near. For a glob, it is the nearest folder followed by the pattern.
pub fn near_file(path: &Path, from: &Path) -> String {
    let is_glob = |part: &std::path::Component| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let plain: PathBuf = path.components().take_while(|part| !is_glob(part)).collect();
    let rest: PathBuf = path.components().skip_while(|part| !is_glob(part)).collect();
    // The folder exists, so a misspelt folder is not why the pattern matches nothing.
    let is_there = !rest.as_os_str().is_empty() && (plain.as_os_str().is_empty() || plain.is_dir());
    let Some(found) = near_path(&plain).filter(|_| !is_there) else { return String::new() };
    let found = found.join(&rest).components().collect::<PathBuf>();
    let found = found.strip_prefix(from).unwrap_or(&found);
    if found == path { String::new() } else { format!("; did you mean {}?", found.display()) }
}

/// Replaces each missing component of a path by the nearest existing one.
fn near_path(path: &Path) -> Option<PathBuf> {
    if path.as_os_str().is_empty() || path.exists() {
        return Some(path.into());
    }
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    let parent = near_path(parent)?;
    let folder = if parent.as_os_str().is_empty() { Path::new(".") } else { &parent };
    let entries = std::fs::read_dir(folder).ok()?.flatten().take(LOOKED_AT);
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    // A matching extension does not make a name near.
    let allowed = (path.file_stem()?.to_str()?.chars().count() / 3).max(1);
    let found = nearest(name, names.iter().map(String::as_str))?;
    (strsim::damerau_levenshtein(name, found) <= allowed).then(|| parent.join(found))
}

/// Returns the likeliest candidate, if one is near enough: one with at most one typing error, else the shortest that
/// contains all words of the name and more, else the one with the fewest typing errors.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let allowed = (length / 3).max(1);
    let rank = |candidate: &str| {
        // Each surplus character is an error, so long words are rejected without computing a distance.
        let is_near = length.abs_diff(candidate.chars().count()) <= allowed;
        let errors = if is_near { strsim::damerau_levenshtein(word, candidate) } else { usize::MAX };
        match errors {
            0 | 1 => Some((0, errors)),
            _ if has_words(candidate, word) => Some((1, candidate.len())),
            _ if errors <= allowed => Some((2, errors)),
            _ => None,
        }
    };
    let ranked = candidates.into_iter().filter_map(|candidate| Some((rank(candidate)?, candidate)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, candidate)| candidate)
}

/// Returns whether a name of the same section contains the words of another name's last part and more: `sft.val_loss`
/// contains those of `sft.loss`.
fn has_words(candidate: &str, word: &str) -> bool {
    let ((section, name), (known, all)) = (split_section(word), split_section(candidate));
    // Short words occur in many names.
    name.len() > 2
        && section == known
        && all.len() > name.len()
        && format!("_{all}_").contains(&format!("_{name}_"))
}

/// Splits a key into its section, with the dot, and its name.
fn split_section(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('.').map_or(0, |dot| dot + 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_of_any_length_are_soon_told_from_names() {
        let names = ["modal.n_layers", "seed", "sft.val_loss"];
        assert_eq!(nearest(&"m".repeat(10_000_000), names), None);
        assert_eq!(nearest("modal.n_layers", ["model.n_layers", "seed"]), Some("model.n_layers"));
        assert_eq!(nearest("sed", ["seed", "se", "model"]), Some("seed"));
    }

    #[test]
    fn words_of_a_name_go_before_typing_errors() {
        let of_sft = ["sft.flops", "sft.train_loss", "sft.val_loss", "pretrain.val_loss"];
        assert_eq!(nearest("sft.loss", of_sft), Some("sft.val_loss"));
        assert_eq!(nearest("model.hidden", ["model.window", "model.hidden_dim"]), Some("model.hidden_dim"));
        assert_eq!(nearest("paired", ["claim", "paired_by"]), Some("paired_by"));
        // One error is taken for a slip of the finger, before words are compared.
        assert_eq!(nearest("loss", ["val_loss", "lass"]), Some("lass"));
        assert_eq!(nearest("lr", ["min_lr_ratio"]), None);
    }

    #[test]
    fn files_are_looked_for_in_the_nearest_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("texts/more")).unwrap();
        std::fs::write(dir.path().join("texts/train.jsonl"), "").unwrap();
        let near = |path: &str| near_file(&dir.path().join(path), dir.path());
        assert_eq!(near("texts/tran.jsonl"), "; did you mean texts/train.jsonl?");
        assert_eq!(near("text/train.jsnl"), "; did you mean texts/train.jsonl?");
        assert_eq!(near("text/*.jsonl"), "; did you mean texts/*.jsonl?");
        for none in ["texts/*.txt", "*.txt", "texts/other.csv", "texts/blame.jsonl", "elsewhere/train.jsonl"]
        {
            assert_eq!(near(none), "", "{none}");
        }
    }
}
