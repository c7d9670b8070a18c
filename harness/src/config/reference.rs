//! The reference page of all keys, made from their declarations.

use super::keys::{KeySpec, Kind, find, sections};
use super::layers::get;
use super::{PRESETS, TrainStage, Training, TrialConfig};
use serde_json::Value;

const HEAD: &str = "\
# Configuration

<!-- Made from the declarations in the program; `UPDATE_DOCS=1 cargo test -p mindscale reference` writes it anew. -->

Every key of a trial. Layers, later wins: the defaults below, `--preset NAME`, the sweep file's `[base]`,
environment variables, `--set key=value`; what a sweep varies or solves takes the place of `[base]` in each trial.
The variable of `pretrain.lr` is `MINDSCALE_PRETRAIN__LR`. A value for `--set` or a variable is written as in TOML;
quotes around text, and brackets around a list of one, may be left out. `\"unset\"` takes a value away.
Paths are seen from the current folder.
";

/// The page `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let defaults = serde_json::json!(TrialConfig::default());
    let presets: Vec<String> = PRESETS.iter().map(|preset| format!("`{}`", preset.0)).collect();
    let mut page = format!("{HEAD}Presets: {}.\n", presets.join(", "));
    for (name, about, keys) in sections() {
        if name == TrainStage::Pretrain.name() {
            let sections: Vec<String> =
                TrainStage::all().map(|stage| format!("`[{}]`", stage.name())).collect();
            page += &format!("\n## Every training stage\n\nKeys of {} alike.\n", sections.join(", "));
            page += &table(Training::KEYS.iter().filter_map(|key| {
                let spec = find(&format!("{name}.{}", key.name))?;
                Some((key.name, spec, stage_defaults(&defaults, key.name)))
            }));
        }
        page += &match name {
            "" => "\n## The trial\n".to_string(),
            _ => format!("\n## `[{name}]`\n\n{about}\n"),
        };
        let is_common =
            |key: &str| TrainStage::named(name).is_some() && Training::KEYS.iter().any(|k| k.name == key);
        let own: Vec<_> = keys
            .iter()
            .filter(|key| !is_common(key.name))
            .filter_map(|key| {
                let path = if name.is_empty() { key.name.into() } else { format!("{name}.{}", key.name) };
                let spec = find(&path)?;
                Some((key.name, spec, default_of(&defaults, &path)))
            })
            .collect();
        page += &match own.is_empty() {
            true => "No keys but those of every training stage.\n".to_string(),
            false => table(own.into_iter()),
        };
    }
    page
}

fn table<'a>(rows: impl Iterator<Item = (&'a str, &'a KeySpec, String)>) -> String {
    let mut table = String::from("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for (name, spec, default) in rows {
        let optional = if spec.optional { ", or `unset`" } else { "" };
        let doc = spec.doc.replace('|', "\\|");
        table += &format!("| `{name}` | {}{optional} | {default} | {doc} |\n", value_of(&spec.kind));
    }
    table
}

fn value_of(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Whole => "whole number".into(),
        Kind::Number => "number".into(),
        Kind::Text => "text".into(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::List(item) => format!("list of {}", value_of(item)),
    }
}

fn default_of(defaults: &Value, path: &str) -> String {
    match get(defaults, path) {
        None | Some(Value::Null) => "unset".into(),
        Some(Value::Number(number)) if number.is_f64() => {
            format!("`{:?}`", number.as_f64().unwrap_or_default())
        }
        Some(value) => format!("`{value}`"),
    }
}

/// One default where all stages agree, else each with its stages.
fn stage_defaults(defaults: &Value, key: &str) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for stage in TrainStage::all().map(TrainStage::name) {
        let default = default_of(defaults, &format!("{stage}.{key}"));
        match groups.iter_mut().find(|group| group.0 == default) {
            Some(group) => group.1.push(stage),
            None => groups.push((default, vec![stage])),
        }
    }
    match groups.as_slice() {
        [(default, _)] => default.clone(),
        _ => {
            let shown =
                |(default, stages): &(String, Vec<&str>)| format!("{default} ({})", stages.join(", "));
            groups.iter().map(shown).collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::keys;
    use std::path::Path;

    #[test]
    fn the_committed_reference_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = reference_markdown();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == page, "docs/configuration.md is old; write it anew with UPDATE_DOCS=1");
    }

    #[test]
    fn every_key_has_its_row() {
        let page = reference_markdown();
        for key in keys() {
            let name = key.path.rsplit('.').next().unwrap();
            assert!(page.contains(&format!("\n| `{name}` | ")), "{}", key.path);
        }
        assert!(page.contains(
            "| `lr` | number | `0.001` (pretrain), `0.0001` (sft, sft_multi, lora), `4e-5` (dpo) |"
        ));
        assert!(page.contains("| `hidden_dim` | whole number, or `unset` | unset |"));
    }
}
