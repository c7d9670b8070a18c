//! The verb `schema`: prints what files may hold.

use super::say;
use crate::config::{PRESETS, trial_schema};
use crate::report::experiment_schema;
use crate::sweep::sweep_schema;
use anyhow::Result;
use clap::ValueEnum;

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    /// Schema of sweep files
    Sweep,
    /// Schema of experiment files
    Experiment,
    /// Schema of the keys of a trial, as presets hold them
    Trial,
    /// The presets themselves, as TOML
    Presets,
}

impl FileKind {
    /// Returns the schema; `None` if there is none.
    fn schema(self) -> Option<serde_json::Value> {
        match self {
            Self::Sweep => Some(sweep_schema()),
            Self::Experiment => Some(experiment_schema()),
            Self::Trial => Some(trial_schema()),
            Self::Presets => None,
        }
    }
}

/// Prints the JSON Schema of a kind of file, or the presets.
pub fn schema(kind: FileKind) -> Result<bool> {
    match kind.schema() {
        Some(schema) => say(serde_json::to_string_pretty(&schema)?)?,
        None => say(presets().join("\n"))?,
    }
    Ok(true)
}

/// Returns each preset's name and text.
fn presets() -> Vec<String> {
    let of = |(name, text): &(&str, &str)| format!("### preset = {name:?}\n{text}");
    PRESETS.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{is_source_name, keys};
    use crate::report::{Column, NAMED};
    use model::Device;
    use serde_json::{Value, json};
    use std::path::Path;

    /// Prefixes of the keys of weights, with the patterns that match them.
    const WEIGHTS: [(&str, &str); 2] = [
        ("data.mix.", "^data\\.mix\\.[A-Za-z0-9_-]+$"),
        ("world.practice.", "^world\\.practice\\.[A-Za-z0-9_-]+$"),
    ];

    /// Returns the pattern that matches the key of a weight.
    fn pattern(key: &str) -> Option<&'static str> {
        let is_of = |start: &str| key.strip_prefix(start).is_some_and(is_source_name);
        WEIGHTS.iter().find(|(start, _)| is_of(start)).map(|(_, pattern)| *pattern)
    }

    /// Returns what is wrong with a value according to a schema; supports only the keywords that our schemas use.
    fn fault(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let fails = |schema: &Value| fault(root, schema, value, at);
        let inside =
            |key: &str, schema: &Value, value: &Value| fault(root, schema, value, &format!("{at}/{key}"));
        let (number, list, table) = (value.as_f64(), value.as_array(), value.as_object());
        let count = list.map(Vec::len).or(table.map(|table| table.len())).unwrap_or_default() as u64;
        schema.as_object().unwrap().iter().find_map(|(keyword, expected)| {
            let bound = expected.as_f64().unwrap_or_default();
            let holds = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" => true,
                "$ref" => {
                    let name = expected.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                    return fails(root["$defs"].get(name).expect(name));
                }
                "properties" => {
                    let keys = || table.into_iter().flatten();
                    return keys().find_map(|(key, value)| inside(key, expected.get(key)?, value));
                }
                "patternProperties" => {
                    let patterns =
                        expected.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
                    assert_eq!(patterns, WEIGHTS.map(|(_, pattern)| pattern));
                    let mut weights = table.into_iter().flatten();
                    return weights.find_map(|(key, value)| inside(key, &expected[pattern(key)?], value));
                }
                "items" => {
                    return list
                        .into_iter()
                        .flatten()
                        .enumerate()
                        .find_map(|(i, item)| inside(&i.to_string(), expected, item));
                }
                "anyOf" => expected.as_array().unwrap().iter().any(|one| fails(one).is_none()),
                "oneOf" => {
                    expected.as_array().unwrap().iter().filter(|one| fails(one).is_none()).count() == 1
                }
                "const" => expected == value,
                "enum" => expected.as_array().unwrap().contains(value),
                "type" => match expected.as_str().unwrap() {
                    "object" => table.is_some(),
                    "array" => list.is_some(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                },
                "propertyNames" => {
                    let mut names = table.into_iter().flatten().map(|(key, _)| key);
                    return names.find_map(|key| inside(key, expected, &json!(key)));
                }
                "additionalProperties" if expected.is_object() => {
                    return table.into_iter().flatten().find_map(|(key, value)| inside(key, expected, value));
                }
                "pattern" => {
                    let text = value.as_str().unwrap_or_default();
                    let is_column = || Column::find(text).is_ok() && text.contains('.');
                    assert!(expected == Device::PATTERN || expected == NAMED);
                    if expected == NAMED { is_column() } else { text.parse::<Device>().is_ok() }
                }
                "required" => expected
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|key| table.unwrap().contains_key(key.as_str().unwrap())),
                "additionalProperties" => {
                    assert_eq!(expected, false);
                    let is_known = |key: &str| {
                        let is_weight = schema.get("patternProperties").is_some() && pattern(key).is_some();
                        is_weight || schema["properties"].get(key).is_some()
                    };
                    table.is_none_or(|table| table.keys().all(|key| is_known(key)))
                }
                "minimum" => number.is_none_or(|number| number >= bound),
                "maximum" => number.is_none_or(|number| number <= bound),
                "exclusiveMinimum" => number.is_none_or(|number| number > bound),
                "exclusiveMaximum" => number.is_none_or(|number| number < bound),
                "minItems" | "minProperties" => count as f64 >= bound,
                "maxItems" | "maxProperties" => count as f64 <= bound,
                "uniqueItems" => {
                    list.is_none_or(|list| (1..list.len()).all(|i| !list[..i].contains(&list[i])))
                }
                other => panic!("the keyword {other}"),
            };
            (!holds).then(|| format!("{at}: {value} is not of {keyword} {expected}"))
        })
    }

    fn fault_of(kind: FileKind, text: &str) -> Option<String> {
        let schema = kind.schema().unwrap();
        let value = json!(toml::from_str::<toml::Value>(text).unwrap());
        fault(&schema, &schema, &value, "")
    }

    #[test]
    fn every_file_that_is_shipped_is_valid() {
        for (folder, kind, least) in
            [("sweeps", FileKind::Sweep, 5), ("experiments", FileKind::Experiment, 3)]
        {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
            let files: Vec<_> =
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            let files: Vec<_> =
                files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")).collect();
            let files: Vec<_> =
                files.into_iter().filter(|file| !file.to_string_lossy().ends_with("local.toml")).collect();
            assert!(files.len() >= least);
            for file in files {
                assert_eq!(
                    fault_of(kind, &std::fs::read_to_string(file).unwrap()),
                    None,
                    "{}",
                    file.display()
                );
            }
        }
        for (name, text) in PRESETS {
            assert_eq!(fault_of(FileKind::Trial, text), None, "{name}");
        }
    }

    #[test]
    fn whatever_a_sweep_may_hold_is_valid() {
        let text = "\
name = 'a'
description = 'b'
preset = 'small'
[base]
seed = 2
device = 'cuda:1'
model.n_layers = 4
'model.d_model' = 64
pretrain.tokens = 'unset'
exam.after = ['sft']
data.pretrain = { web = ['a.txt'], books = ['b.txt', 'c.txt'] }
data.sft = ['d.jsonl']
data.mix.web = 0.5
[axes]
seed = [1, 2]
'data.mix.books' = [0.5, 1]
'data.pretrain_val' = [['e.txt'], { wiki = ['f.txt'] }]
'model.n_heads' = [2, 4]
[axes.sft]
lr = [1e-3, 1]
[[zip]]
'dpo.loss' = ['ipo', 'sigmoid']
dpo.beta = [0.1, 0.2]
[solve]
'model.d_model' = { params = 1e6, multiple_of = 8, tolerance = 0.05 }
pretrain.tokens = { flops = 1e12 }
[[exclude]]
seed = 1
[sample]
count = 5
'data.mix.code' = { uniform = [0, 1] }
method = 'halton'
seed = { int_uniform = [1, 9] }
'model.n_experts' = { choice = [0, 4] }
pretrain.lr = { log_uniform = [1e-4, 1e-2] }
[slurm]
at_once = 2
";
        assert_eq!(fault_of(FileKind::Sweep, text), None);
    }

    #[test]
    fn misspelt_keys_and_values_that_do_not_fit_are_refused() {
        let name = "name = 'a'\n";
        for wrong in [
            "[base]\nmodel.n_layer = 1",
            "[base]\nmodel.n_layers = 'four'",
            "[base]\nmodel.n_layers = 0",
            "[base]\nsft.beta2 = 1.0",
            "[base]\ndpo.loss = 'sigmod'",
            "[base]\ndevice = 'gpu'",
            "[base]\ndata.pretrain = 'a.txt'",
            "[base]\ndata.pretrain = { web = 'a.txt' }",
            "[base]\ndata.mix = { web = 'much' }",
            "[base]\n'data.mix.web' = 'much'",
            "[axes]\n'data.mix.web' = 1",
            "[base]\nseed = 'unset'",
            "[axes]\nseed = 1",
            "[axes]\nseed = []",
            "[axes]\nseed = [1, 1]",
            "[axis]\nseed = [1]",
            "[[zip]]\n'model.n_layers' = [1, 'x']",
            "[solve]\nseed = { params = 1 }",
            "[solve]\n'model.d_model' = { params = 1, active_params = 2 }",
            "[[exclude]]",
            "[sample]\nseed = 1",
            "[sample]\ncount = 1\nseed = { uniform = [1] }",
            "preset = 'smal'",
        ] {
            assert!(fault_of(FileKind::Sweep, &format!("{name}{wrong}")).is_some(), "{wrong}");
        }
        assert!(fault_of(FileKind::Sweep, "").is_some_and(|fault| fault.contains("required")));
        let figure =
            |keys: &str| fault_of(FileKind::Experiment, &format!("sweeps = ['a']\n[[figure]]\n{keys}"));
        assert_eq!(figure("kind = 'line'\nx = 'model.n_layers'\ny = 'val.bpb'"), None);
        assert_eq!(figure("kind = 'line'\nx = 'data.mix.web'\ny = 'val_bpb.wiki'"), None);
        assert_eq!(figure("kind = 'loss'\nsplit = 'sets'"), None);
        let table =
            |keys: &str| fault_of(FileKind::Experiment, &format!("sweeps = ['a']\n[[table]]\n{keys}"));
        assert_eq!(
            table("rows = ['seed']\ncolumns = ['sft.val_loss']\nacross = 'sweep'\nbest = 'row'"),
            None
        );
        assert_eq!(table("layout = 'minimind'\nwidth = 'column'"), None);
        assert!(
            table("layout = 'minimind'\ncolumns = ['params']").is_some()
                && table("rows = ['seed']").is_some()
        );
        let labels = |label: &str| figure(&format!("kind = 'loss'\n[labels]\n{label}"));
        assert_eq!(labels("'model.n_layers' = 'Layers'\n'val_bpb.wiki' = 'BPB'"), None);
        assert!(labels("'model.n_layer' = 'Layers'").is_some() && labels("params = 3").is_some());
        assert!(figure("kind = 'line'\nx = 'model.n_layers'").is_some());
        assert!(figure("kynd = 'line'").is_some());
        assert!(figure("kind = 'line'\nx = 'model.n_layer'\ny = 'val.bpb'").is_some());
        assert!(figure("kind = 'loss'\ny = 'val.bpb'").is_some());
    }

    #[test]
    fn every_key_has_its_values_with_documentation_and_default() {
        let schema = trial_schema();
        for key in keys() {
            let value = &schema["$defs"][format!("value.{}", key.path)];
            assert_eq!(value["description"], key.doc.as_str());
            let default = (!key.default.is_null()).then_some(&key.default);
            assert_eq!(value.get("default"), default);
            if let Some(default) = default {
                assert_eq!(fault(&schema, value, default, &key.path), None);
            }
        }
    }
}
