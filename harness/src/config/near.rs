//! What was meant by a name that is not there: the nearest of those that are, of keys, of words and of files.

use std::path::{Path, PathBuf};

/// Most names of a folder among which a file's is looked for.
const LOOKED_AT: usize = 10_000;

/// Keys as other programs call them, by the last part of the name.
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

/// A key by our name for its last part, where another program's stands there.
pub(super) fn ours(key: &str) -> String {
    let (section, name) = apart(key);
    let ours = OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, ours)| ours);
    format!("{section}{ours}")
}

/// The nearest of `names` as a question that ends a message, if one is near.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// The nearest file or folder that is there, as a question that ends a message; of a glob the nearest folder with its
/// signs behind. The folder `from` is left out of it.
pub fn near_file(path: &Path, from: &Path) -> String {
    let is_glob = |part: &std::path::Component| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let plain: PathBuf = path.components().take_while(|part| !is_glob(part)).collect();
    let rest: PathBuf = path.components().skip_while(|part| !is_glob(part)).collect();
    // A folder that is there holds nothing of the kind.
    let is_there = !rest.as_os_str().is_empty() && (plain.as_os_str().is_empty() || plain.is_dir());
    let Some(found) = near_path(&plain).filter(|_| !is_there) else { return String::new() };
    let found = found.join(&rest).components().collect::<PathBuf>();
    let found = found.strip_prefix(from).unwrap_or(&found);
    if found == path { String::new() } else { format!("; did you mean {}?", found.display()) }
}

/// A path each part of which is the nearest that is there.
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
    // An ending that is right does not make a name near.
    let allowed = (path.file_stem()?.to_str()?.chars().count() / 3).max(1);
    let found = nearest(name, names.iter().map(String::as_str))?;
    (strsim::damerau_levenshtein(name, found) <= allowed).then(|| parent.join(found))
}

/// The candidate that is meant, if one is near enough: with one typing error at most, else the shortest that has all
/// words of the name and more, else the one fewest typing errors away.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let allowed = (length / 3).max(1);
    let rank = |candidate: &str| {
        // Each letter too many is an error: a word of any length is soon told from all.
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

/// Whether a name of the same section has all words of another's last part, and more: `sft.val_loss` those of `sft.loss`.
fn has_words(candidate: &str, word: &str) -> bool {
    let ((section, name), (known, all)) = (apart(word), apart(candidate));
    // Short words are part of many names.
    name.len() > 2
        && section == known
        && all.len() > name.len()
        && format!("_{all}_").contains(&format!("_{name}_"))
}

/// A section with its dot, and the name in it.
fn apart(key: &str) -> (&str, &str) {
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
        // One error is a slip.
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
