//! Layers of configuration, later wins: defaults, preset, sweep file, environment, `--set`.

use super::TrialConfig;
use anyhow::{Context, Result, bail};
use figment::Figment;
use figment::providers::Serialized;
use toml::{Table, Value};

/// Presets by name.
pub const PRESETS: [(&str, &str); 1] = [("minimind", include_str!("presets/minimind.toml"))];

/// What is set outside the sweep file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Name of a preset.
    pub preset: Option<String>,
    /// `key=value` of the command line.
    pub set: Vec<String>,
    /// `MINDSCALE_*` variables.
    pub env: Vec<(String, String)>,
}

/// Variables that are no configuration keys.
const NOT_KEYS: [&str; 2] = ["MINDSCALE_SHARED", "MINDSCALE_FONT"];

impl Overrides {
    /// With the environment of this process.
    pub fn from_env(preset: Option<String>, set: Vec<String>) -> Self {
        let env =
            std::env::vars().filter(|(k, _)| k.starts_with("MINDSCALE_") && !NOT_KEYS.contains(&k.as_str()));
        Self { preset, set, env: env.collect() }
    }

    /// Dotted keys with their values and where they come from, environment first.
    pub fn entries(&self) -> Result<Vec<(String, Value, String)>> {
        let mut entries = vec![];
        for (name, text) in &self.env {
            let key = name.trim_start_matches("MINDSCALE_").to_lowercase().replace("__", ".");
            entries.push((key, value(text), format!("environment {name}")));
        }
        for set in &self.set {
            let Some((key, text)) = set.split_once('=') else {
                bail!("--set {set}: expected key=value, such as --set pretrain.lr=1e-3");
            };
            entries.push((key.trim().to_string(), value(text.trim()), format!("--set {set}")));
        }
        Ok(entries)
    }
}

/// A value as TOML writes it, or else as bare text.
fn value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok();
    parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| Value::String(text.into()))
}

/// The tables of a preset.
pub fn preset(name: &str) -> Result<Table> {
    let Some((_, text)) = PRESETS.iter().find(|(n, _)| *n == name) else {
        let names: Vec<&str> = PRESETS.iter().map(|(n, _)| *n).collect();
        bail!("preset {name:?}: no such preset, expected one of {names:?}");
    };
    text.parse().with_context(|| format!("preset {name}"))
}

/// The defaults as a tree in which every key is present; unset ones are null.
pub fn defaults() -> serde_json::Value {
    serde_json::to_value(TrialConfig::default()).unwrap_or_default()
}

/// Every dotted key of a trial.
pub fn keys() -> Vec<String> {
    fn walk(prefix: &str, value: &serde_json::Value, keys: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (name, value) in map {
                    let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    walk(&key, value, keys);
                }
            }
            _ => keys.push(prefix.to_string()),
        }
    }
    let mut all = vec![];
    walk("", &defaults(), &mut all);
    all
}

/// The nearest of `names`, as a question, if one is near.
pub fn did_you_mean<'a>(key: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let near = names.into_iter().map(|name| (strsim::damerau_levenshtein(key, name), name)).min();
    match near {
        Some((distance, name)) if distance <= 2 + key.len() / 4 => format!("; did you mean {name}?"),
        _ => String::new(),
    }
}

/// Checks that a dotted key names a value, or explains what it is.
pub fn check_key(key: &str, keys: &[String]) -> std::result::Result<(), String> {
    if keys.iter().any(|k| k == key) {
        return Ok(());
    }
    if keys.iter().any(|k| k.starts_with(&format!("{key}."))) {
        return Err(format!("{key}: is a table, expected one of its keys"));
    }
    Err(format!("{key}: unknown key{}", did_you_mean(key, keys.iter().map(String::as_str))))
}

/// The leaves of a table as dotted keys.
pub fn leaves(table: &Table) -> Vec<(String, Value)> {
    let known = keys();
    let mut found = vec![];
    fn walk(prefix: &str, table: &Table, known: &[String], found: &mut Vec<(String, Value)>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(inner) if !known.contains(&key) => walk(&key, inner, known, found),
                _ => found.push((key, value.clone())),
            }
        }
    }
    walk("", table, &known, &mut found);
    found
}

/// A complete configuration from dotted keys, later ones winning.
pub fn resolve(entries: &[(String, Value)]) -> std::result::Result<TrialConfig, String> {
    let mut figment = Figment::from(Serialized::defaults(TrialConfig::default()));
    for (key, value) in entries {
        figment = figment.merge(Serialized::default(key, value));
    }
    figment.extract().map_err(|e| {
        let key = e.path.join(".");
        format!("{key}: {}", e.kind)
    })
}
