//! Generates the reference page of all keys from their declarations.

use super::keys::{KeySpec, Kind, find, names_of, sections};
use super::{PRESETS, TrainStage, Training};
use serde_json::Value;

const HEAD: &str = "\
# Configuration

<!-- Generated from the declarations in the program by `UPDATE_DOCS=1 cargo test -p mindscale reference`. -->

Every key of a trial, with its default. A trial's configuration is built from layers; later ones override earlier ones:
the defaults below, the preset (`--preset NAME`), the sweep file, `local.toml`, environment variables and
`--set key=value`; [sweeps.md](sweeps.md#layers) describes them.

The environment variable of `pretrain.lr` is `MINDSCALE_PRETRAIN__LR`. Values of variables and of `--set` are written as
in TOML; quotes around text, and brackets around a list of one item, may be left out. `\"unset\"` removes the value of a
key that may be unset. Relative paths are relative to the folder in which `mindscale` is started, and those in
`local.toml` to the folder of that file.

`mindscale schema > sweep.schema.json` writes these keys as a JSON Schema, with which an editor completes, explains and
checks sweep files: with Taplo, or Even Better TOML in VS Code, write `#:schema sweep.schema.json` as the first line of
a file. `mindscale schema experiment` writes the schema of experiment files, `mindscale schema trial` that of the keys
of a trial alone.

";

/// Returns the text of the page `docs/configuration.md`.
pub fn reference_markdown() -> String {
    let presets: Vec<String> = PRESETS.iter().map(|preset| format!("`{}`", preset.0)).collect();
    let mut page = format!("{HEAD}Presets: {}.\n", presets.join(", "));
    let common = names_of::<Training>();
    for section in sections() {
        let is_stage = TrainStage::named(&section.name).is_some();
        let is_common = |key: &&KeySpec| is_stage && common.iter().any(|name| name == name_of(key));
        if section.name == TrainStage::Pretrain.name() {
            let sections: Vec<String> =
                TrainStage::all().map(|stage| format!("`[{}]`", stage.name())).collect();
            page += &format!("\n## Every training stage\n\nKeys of {} alike.\n", sections.join(", "));
            let keys = section.keys.iter().filter(is_common);
            page += &table(keys.map(|key| (key, stage_defaults(name_of(key)))));
        }
        page += &match section.name.as_str() {
            "" => "\n## The trial\n".to_string(),
            name => format!("\n## `[{name}]`\n\n{}\n", section.doc),
        };
        let mut own = section.keys.iter().filter(|key| !is_common(key)).peekable();
        page += &match own.peek() {
            None => "No keys but those of every training stage.\n".to_string(),
            Some(_) => table(own.map(|key| (key, shown(&key.default)))),
        };
    }
    page
}

fn name_of(key: &KeySpec) -> &str {
    key.path.rsplit('.').next().unwrap_or(&key.path)
}

fn table<'a>(rows: impl Iterator<Item = (&'a KeySpec, String)>) -> String {
    let mut table = String::from("\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for (key, default) in rows {
        let (value, name, doc) = (value_of(&key.kind), name_of(key), key.doc.replace('|', "\\|"));
        let value = match key.range.map(|range| range.to_string()) {
            // A range such as `a positive number` already says that it is a number.
            Some(range) if range.ends_with(" number") => range.trim_start_matches("a ").into(),
            Some(range) => format!("{value}, {range}"),
            None => value,
        };
        let optional = if key.optional { ", or `unset`" } else { "" };
        table += &format!("| `{name}` | {value}{optional} | {default} | {doc} |\n");
    }
    table
}

fn value_of(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Whole => "whole number".into(),
        Kind::Number => "number".into(),
        Kind::Text => "text".into(),
        Kind::Device => "`cpu`, `cuda`, `cuda:N`".into(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::List(item) => format!("list of {}", value_of(item)),
        Kind::Sources => "list of text, or such lists by name".into(),
        Kind::Weights => "numbers by name".into(),
    }
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "unset".into(),
        Value::Number(number) if number.is_f64() => format!("`{:?}`", number.as_f64().unwrap_or_default()),
        value => format!("`{value}`"),
    }
}

/// Returns one default if all stages agree, otherwise each default with its stages.
fn stage_defaults(name: &str) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for stage in TrainStage::all().map(TrainStage::name) {
        let default = find(&format!("{stage}.{name}")).map_or(String::new(), |key| shown(&key.default));
        match groups.iter_mut().find(|group| group.0 == default) {
            Some(group) => group.1.push(stage),
            None => groups.push((default, vec![stage])),
        }
    }
    match groups.as_slice() {
        [(default, _)] => default.clone(),
        _ => {
            let one = |(default, stages): &(String, Vec<&str>)| format!("{default} ({})", stages.join(", "));
            groups.iter().map(one).collect::<Vec<_>>().join(", ")
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
        assert!(committed == page, "docs/configuration.md is old; regenerate it with UPDATE_DOCS=1");
    }

    #[test]
    fn every_key_has_its_row() {
        let page = reference_markdown();
        for key in keys() {
            let name = key.path.rsplit('.').next().unwrap();
            assert!(page.contains(&format!("\n| `{name}` | ")), "{}", key.path);
        }
        assert!(page.contains(
            "| `lr` | positive number | `0.001` (pretrain), `0.0001` (sft, sft_multi, lora), `4e-5` (dpo) |"
        ));
        assert!(page.contains("| `hidden_dim` | whole number, 1 to 1048576, or `unset` | unset |"));
    }
}
