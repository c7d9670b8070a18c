//! The reference page of all keys, made from their declarations.

use super::layers::defaults;
use super::{DataConfig, Dpo, ExamConfig, Lora, Pretrain, Sft, TokenizerConfig, Training, WorldConfig};
use model::ModelConfig;
use model::section::Key;
use std::fmt::Write;

/// Every key with its default and documentation, as Markdown.
pub fn reference_markdown() -> String {
    let mut page =
        String::from("# Configuration\n\nEvery key of a trial. Made from the source; do not edit.\n");
    let defaults = defaults();
    let top: [Key; 3] = [
        Key { name: "seed", kind: "u64", doc: "Seed of weights, data order and dropout." },
        Key { name: "device", kind: "String", doc: "`cpu` or `cuda:N`." },
        Key {
            name: "threads",
            kind: "usize",
            doc: "Threads of one trial; 0 lets the executor choose. Results do not depend on it.",
        },
    ];
    table(&mut page, "", &top, &defaults);
    table(&mut page, "model", ModelConfig::KEYS, &defaults);
    table(&mut page, "tokenizer", TokenizerConfig::KEYS, &defaults);
    table(&mut page, "data", DataConfig::KEYS, &defaults);
    table(&mut page, "world", WorldConfig::KEYS, &defaults);
    for (name, own) in
        [("pretrain", Pretrain::KEYS), ("sft", Sft::KEYS), ("lora", Lora::KEYS), ("dpo", Dpo::KEYS)]
    {
        table(&mut page, name, &[Training::KEYS, own].concat(), &defaults);
    }
    table(&mut page, "exam", ExamConfig::KEYS, &defaults);
    page
}

fn table(page: &mut String, section: &str, keys: &[Key], defaults: &serde_json::Value) {
    let title = if section.is_empty() { "At the top".into() } else { format!("`[{section}]`") };
    // Writing to a String cannot fail.
    let _ = write!(page, "\n## {title}\n\n| key | default | what it does |\n|---|---|---|\n");
    for key in keys {
        let path =
            if section.is_empty() { format!("/{}", key.name) } else { format!("/{section}/{}", key.name) };
        let default = match defaults.pointer(&path) {
            None | Some(serde_json::Value::Null) => "unset".into(),
            Some(value) => format!("`{value}`"),
        };
        let doc = key.doc.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(page, "| `{}` | {default} | {doc} |", key.name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn the_committed_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let page = super::reference_markdown();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/configuration.md is out of date: run UPDATE_DOCS=1 cargo test -p mindscale page"
        );
    }
}
