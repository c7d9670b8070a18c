//! The layers of a configuration; later layers override earlier ones: defaults, preset, sweep file, `local.toml`,
//! environment, `--set`.

use super::document::{self, Entry, Node};
use super::errors::{ConfigError, ConfigErrors};
use super::keys::{self, Kind};
use super::local::Local;
use super::{TrialConfig, presets};
use crate::fsutil::shell_word;
use anyhow::Result;
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value as FigmentValue};
use figment::{Figment, Metadata, Profile, Provider};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Prefix of the environment variables that set keys, as in `MINDSCALE_PRETRAIN__LR`.
const ENV_PREFIX: &str = "MINDSCALE_";

/// Variables with that prefix that are not keys of a trial.
const ENV_RESERVED: [&str; 5] =
    ["MINDSCALE_SHARED", "MINDSCALE_COMMIT", "MINDSCALE_FONT", "MINDSCALE_SIMD", "MINDSCALE_GPU"];

/// What this machine, the environment and the command line change about a sweep file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrides {
    /// Name of a preset, which the file overrides.
    pub preset: Option<String>,
    /// Local files of this machine next to sweep files, which override them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<Local>,
    /// Arguments of `--set`, each `key=value`; they override everything else.
    pub set: Vec<String>,
    /// Environment variables `MINDSCALE_*` with their values; they override the files.
    pub env: Vec<(String, String)>,
}

impl Overrides {
    /// Returns the command line's choices together with the process's environment.
    pub fn from_env(preset: Option<String>, set: Vec<String>) -> Self {
        let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
        let mut env: Vec<_> = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX) && !ENV_RESERVED.contains(&name.as_str()))
            .collect();
        env.sort();
        Self { preset, local: vec![], set, env }
    }

    /// Returns the local files that apply to a sweep file.
    fn local_of(&self, sweep: &Path) -> impl Iterator<Item = &Local> {
        let is_exact = self.local.iter().any(|local| local.sweep == sweep);
        // The record may have been written from another working directory.
        let is_of = move |local: &&Local| match is_exact {
            true => local.sweep == sweep,
            false => local.sweep.file_name() == sweep.file_name(),
        };
        self.local.iter().filter(is_of)
    }

    /// Returns whether there are no overrides.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns a shell command with these overrides: `MINDSCALE_SEED=2 mindscale run FILE --set pretrain.lr=1e-3`.
    pub fn command(&self, command: &str) -> String {
        let env = self.env.iter().map(|(name, value)| format!("{name}={}", shell_word(value)));
        let preset = self.preset.iter().map(|name| format!("--preset {}", shell_word(name)));
        let set = self.set.iter().map(|text| match text.split_once('=') {
            Some((key, value)) => format!("--set {key}={}", shell_word(value)),
            None => format!("--set {}", shell_word(text)),
        });
        let command = Some(command.to_owned()).filter(|command| !command.is_empty());
        env.chain(command).chain(preset).chain(set).collect::<Vec<_>>().join(" ")
    }
}

/// The local files in brackets, then the rest in shell syntax:
/// `[sweeps/local.toml] MINDSCALE_SEED=2 --set pretrain.lr=1e-3`.
impl fmt::Display for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let local = self.local.iter().map(|local| format!("[{}]", local.file.display()));
        let command = Some(self.command("")).filter(|command| !command.is_empty());
        f.write_str(&local.chain(command).collect::<Vec<_>>().join(" "))
    }
}

/// One key set to a value of the key's type.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Full name of the key, such as `model.n_layers`.
    pub key: String,
    /// Value of the key.
    pub value: Value,
    /// Where it was set, such as `sweeps/a.toml:12`.
    pub place: String,
}

/// The settings of one layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer {
    /// Name of the layer in messages.
    pub name: String,
    /// Name of the preset below this layer, and the place where it was named.
    pub preset: Option<(String, String)>,
    /// Settings in the order in which they were written.
    pub settings: Vec<Setting>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut tree = Value::Object(Default::default());
        for setting in &self.settings {
            set(&mut tree, &setting.key, wrap_table(setting.value.clone()));
        }
        let dict = FigmentValue::serialize(&tree)?.into_dict().unwrap_or_default();
        Ok(Profile::Default.collect(dict))
    }
}

/// Wraps a table in a list for merging: figment would merge a table with that of the layer below, but replaces lists.
fn wrap_table(value: Value) -> Value {
    if value.is_object() { Value::Array(vec![value]) } else { value }
}

/// Undoes [`wrap_table`].
fn unwrap_table(value: &mut Value) {
    if let Value::Array(items) = value
        && let [Value::Object(_)] = items.as_slice()
    {
        *value = items.remove(0);
    }
}

/// The merged layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Complete configuration of a trial as JSON.
    pub tree: Value,
    /// For each key that a layer sets, where it was last set.
    pub places: BTreeMap<String, String>,
    /// Keys that `local.toml`, the environment or `--set` fix, with the place that does so.
    pub fixed: BTreeMap<String, String>,
}

impl Settings {
    /// Returns the configuration.
    ///
    /// # Errors
    /// If a value does not fit its key, which the error names.
    pub fn config(&self) -> Result<TrialConfig, ConfigError> {
        config_of(self.tree.clone())
    }
}

/// Returns the configuration that a complete tree describes.
///
/// # Errors
/// If a value does not fit its key, which the error names.
pub fn config_of(tree: Value) -> Result<TrialConfig, ConfigError> {
    serde_json::from_value(tree).map_err(|error| ConfigError::new("", "", error.to_string()))
}

/// Writes a value into a tree of tables; `key` is dotted, as in `model.n_layers`.
pub fn set(tree: &mut Value, key: &str, value: Value) {
    let mut place = tree;
    for part in key.split('.') {
        place = &mut place[part]; // a missing key becomes null, and null becomes a table
    }
    *place = value;
}

/// Reads the value of a dotted key from a tree of tables.
pub fn get<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |tree, part| tree.get(part))
}

/// Merges the layers: defaults, preset, `base` (the sweep file), `local.toml`, environment, `--set`.
///
/// A preset of the command line replaces that of the file. Every mistake in the layers goes into `errors`, with its
/// place.
///
/// # Errors
/// If the layers cannot be merged into one tree.
pub fn load_layers(base: Layer, overrides: &Overrides, errors: &mut ConfigErrors) -> Result<Settings> {
    let preset = match &overrides.preset {
        Some(name) => presets::layer(name, &format!("--preset {name}"), errors),
        None => match &base.preset {
            Some((name, place)) => presets::layer(name, place, errors),
            None => Layer::default(),
        },
    };
    let local: Vec<Layer> =
        overrides.local_of(Path::new(&base.name)).map(|local| local.layer(errors)).collect();
    let env = env_layer(&overrides.env, errors);
    let set = set_layer(&overrides.set, errors);
    let mut figment = Figment::from(Serialized::defaults(TrialConfig::default()));
    let mut places = BTreeMap::new();
    let mut fixed = BTreeMap::new();
    let under = [preset, base].map(|layer| (layer, false));
    let over = local.into_iter().chain([env, set]).map(|layer| (layer, true));
    for (layer, fixes) in under.into_iter().chain(over) {
        for Setting { key, place, .. } in &layer.settings {
            places.insert(key.clone(), place.clone());
            if fixes {
                fixed.insert(key.clone(), place.clone());
            }
        }
        figment = figment.merge(layer);
    }
    let mut tree: Value = figment.extract()?;
    let sections = tree.as_object_mut().into_iter().flat_map(|tree| tree.values_mut());
    sections.filter_map(Value::as_object_mut).flat_map(|section| section.values_mut()).for_each(unwrap_table);
    Ok(Settings { tree, places, fixed })
}

/// Loads and validates a single trial without a sweep file, from defaults, preset, environment and `--set`.
///
/// # Errors
/// If a layer or the resulting trial is invalid: all problems at once, each with its place.
pub fn load(overrides: &Overrides) -> Result<TrialConfig> {
    let mut errors = ConfigErrors::default();
    let settings = load_layers(Layer::default(), overrides, &mut errors)?;
    // Refused values are not in the tree; validating the defaults in their place would report false problems.
    errors.or(())?;
    let mut errors = ConfigErrors::default();
    let config = settings.config()?;
    for problem in config.validate() {
        let place = problem.place(|key| settings.places.get(key)).cloned().unwrap_or_default();
        errors.push(ConfigError::new(place, problem.key, problem.problem));
    }
    Ok(errors.or(config)?)
}

/// Flattens a table of keys, written as nested tables, dotted keys or both, into (full key, place, value).
pub fn leaves(entries: &[Entry], errors: &mut ConfigErrors) -> Vec<(String, String, Node)> {
    fn walk(prefix: &str, entries: &[Entry], leaves: &mut Vec<(usize, String, String, Node)>) {
        for Entry { key, place, start, node } in entries {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match node.table() {
                Some(inner) if keys::is_section(&key) || keys::is_weights(&key) => walk(&key, inner, leaves),
                _ => leaves.push((*start, key, place.clone(), node.clone())),
            }
        }
    }
    let mut found = Vec::new();
    walk("", entries, &mut found);
    found.sort_by_key(|leaf| leaf.0);
    let mut first = BTreeMap::new();
    let mut leaves = Vec::new();
    for (_, key, place, node) in found {
        match first.get(&key) {
            None => {
                first.insert(key.clone(), place.clone());
                leaves.push((key, place, node));
            }
            Some(earlier) => {
                errors.push(ConfigError::new(place, key, format!("set a second time, after {earlier}")));
            }
        }
    }
    leaves
}

/// Returns the message for a name that is not a key.
pub fn not_a_key(key: &str) -> String {
    match keys::is_section(key) {
        true => format!("is a section, expected a table of its keys or a key such as {}", first_key_of(key)),
        false => keys::unknown_key(key),
    }
}

fn first_key_of(section: &str) -> &'static str {
    let inside = |path: &&str| path.split('.').next() == Some(section) && *path != section;
    keys::keys().map(|key| key.path.as_str()).find(inside).unwrap_or_default()
}

/// Returns the valid settings of a table of keys; problems go into `errors`.
pub fn settings(entries: &[Entry], errors: &mut ConfigErrors) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (key, place, node) in leaves(entries, errors) {
        let checked = match keys::find(&key) {
            Some(spec) => spec.check(&node),
            None => Err(not_a_key(&key)),
        };
        match checked {
            Ok(value) => settings.push(Setting { key, value, place }),
            Err(problem) => errors.push(ConfigError::new(place, key, problem)),
        }
    }
    settings
}

/// Parses a TOML document that holds only keys of a trial.
pub fn document_layer(name: &str, text: &str, errors: &mut ConfigErrors) -> Layer {
    let settings = match document::parse(name, text) {
        Ok(entries) => settings(&entries, errors),
        Err(error) => {
            errors.push(error);
            Vec::new()
        }
    };
    Layer { name: name.into(), settings, ..Layer::default() }
}

fn env_layer(env: &[(String, String)], errors: &mut ConfigErrors) -> Layer {
    let mut layer = Layer { name: "environment".into(), ..Layer::default() };
    for (name, value) in env {
        let Some(key) = name.strip_prefix(ENV_PREFIX) else { continue };
        if ENV_RESERVED.contains(&name.as_str()) {
            continue;
        }
        let key = key.to_lowercase().replace("__", ".");
        layer.settings.extend(typed(&key, value, name, errors));
    }
    layer
}

fn set_layer(set: &[String], errors: &mut ConfigErrors) -> Layer {
    let mut layer = Layer { name: "--set".into(), ..Layer::default() };
    for text in set {
        let place = format!("--set {text}");
        match text.split_once('=') {
            Some((key, value)) => layer.settings.extend(typed(key.trim(), value.trim(), &place, errors)),
            None => errors.push(ConfigError::new(place, "", "expected key=value, such as --set seed=2")),
        }
    }
    layer
}

/// Parses a setting typed by hand: quotes around text and brackets around a single item may be omitted.
fn typed(key: &str, text: &str, place: &str, errors: &mut ConfigErrors) -> Vec<Setting> {
    let mut node = Node::parse(text, place);
    match keys::find(key).map(|spec| &spec.kind) {
        Some(Kind::Text) if node.str().is_none() => node = Node::text(text, place),
        Some(Kind::List(_) | Kind::Sources)
            if node.array().is_none() && node.table().is_none() && node.str() != Some("") =>
        {
            let item = match node.str() {
                Some(_) => node,
                None => Node::text(text, place),
            };
            let shown = item.shown.clone();
            node = Node { content: document::Content::Array(vec![item]), shown, place: place.into() };
        }
        _ => {}
    }
    settings(&[Entry { key: key.into(), place: place.into(), start: 0, node }], errors)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Packing;

    fn overrides(preset: Option<&str>, env: &[(&str, &str)], set: &[&str]) -> Overrides {
        Overrides {
            preset: preset.map(Into::into),
            set: set.iter().map(|&s| s.into()).collect(),
            env: env.iter().map(|&(k, v)| (k.into(), v.into())).collect(),
            local: vec![],
        }
    }

    fn failure(overrides: &Overrides) -> String {
        load(overrides).unwrap_err().to_string()
    }

    #[test]
    fn without_layers_the_defaults_stand() {
        assert_eq!(load(&Overrides::default()).unwrap(), TrialConfig::default());
    }

    #[test]
    fn later_layers_win() {
        let text = "seed = 2\n[pretrain]\nlr = 0.5\ntokens = 7\nbatch_size = 3\n";
        let mut errors = ConfigErrors::default();
        let base = document_layer("base", text, &mut errors);
        let over = overrides(
            Some("minimind"),
            &[("MINDSCALE_PRETRAIN__LR", "0.25"), ("MINDSCALE_SEED", "3"), ("MINDSCALE_SHARED", "/x")],
            &["seed=4", "pretrain.tokens=unset"],
        );
        let settings = load_layers(base, &over, &mut errors).unwrap();
        assert_eq!(errors, ConfigErrors::default());
        let config = settings.config().unwrap();
        assert_eq!((config.seed, config.pretrain.training.lr), (4, 0.25));
        assert_eq!((config.pretrain.training.tokens, config.pretrain.training.batch_size), (None, 3));
        // The first is from the preset, the second from the defaults.
        assert_eq!((config.pretrain.training.packing, config.model.d_model), (Packing::Single, 512));
        assert_eq!(config.world, Default::default());
        assert_eq!(settings.places["pretrain.batch_size"], "base:5");
        assert_eq!(settings.places["pretrain.lr"], "MINDSCALE_PRETRAIN__LR");
        assert_eq!(settings.places["seed"], "--set seed=4");
    }

    #[test]
    fn files_of_the_machine_lie_between_a_sweep_and_the_environment() {
        let text = "threads = 2\n[tokenizer]\npath = 'x'\n[data]\nsource = 'files'\n";
        let local = |file: &str, text: &str| Local {
            sweep: "sweeps/a.toml".into(),
            file: file.into(),
            text: text.into(),
        };
        let all = "threads = 3\ndevice = 'cuda'\ntokenizer.path = 'tok'\n";
        let over = Overrides {
            local: vec![local("sweeps/local.toml", all), local("sweeps/a.local.toml", "threads = 4")],
            ..overrides(None, &[("MINDSCALE_DEVICE", "cpu")], &[])
        };
        let of = |sweep: &str| {
            let mut errors = ConfigErrors::default();
            let base = document_layer(sweep, text, &mut errors);
            let settings = load_layers(base, &over, &mut errors).unwrap();
            errors.or(settings).unwrap()
        };
        let settings = of("sweeps/a.toml");
        let config = settings.config().unwrap();
        assert_eq!((config.threads, config.device.to_string().as_str()), (4, "cpu"));
        assert_eq!(config.tokenizer.path.as_deref(), Some("sweeps/tok"));
        assert_eq!(settings.places["threads"], "sweeps/a.local.toml:1");
        assert_eq!(settings.fixed["tokenizer.path"], "sweeps/local.toml:3");
        assert_eq!(of("sweeps/b.toml").config().unwrap().threads, 2);
        assert_eq!(over.to_string(), "[sweeps/local.toml] [sweeps/a.local.toml] MINDSCALE_DEVICE=cpu");
    }

    #[test]
    fn layers_are_shown_as_they_are_typed() {
        let over =
            overrides(Some("small"), &[("MINDSCALE_SEED", "3")], &["pretrain.lr=1e-3", "exam.system=a b"]);
        let shown = "MINDSCALE_SEED=3 --preset small --set pretrain.lr=1e-3 --set exam.system='a b'";
        assert_eq!(over.to_string(), shown);
        assert!(!over.is_empty() && Overrides::default().is_empty());
    }

    #[test]
    fn text_and_single_items_need_no_quotes_by_hand() {
        let set = ["device=cuda:1", "tokenizer.path=123", "data.sft=a.jsonl", "lora.targets=[\"wv\"]"];
        let overrides = overrides(None, &[("MINDSCALE_EXAM__AFTER", "sft")], &set);
        let mut errors = ConfigErrors::default();
        let settings = load_layers(Layer::default(), &overrides, &mut errors).unwrap();
        assert_eq!(errors, ConfigErrors::default());
        let config = settings.config().unwrap();
        assert_eq!(
            (config.device.to_string().as_str(), config.tokenizer.path.as_deref()),
            ("cuda:1", Some("123"))
        );
        assert_eq!(config.data.sft, vec!["a.jsonl".to_string()].into());
        assert_eq!(config.lora.targets, ["wv"]);
        assert_eq!(config.exam.after, [crate::config::TrainStage::Sft]);
    }

    #[test]
    fn a_table_sets_several_keys() {
        let config = load(&overrides(None, &[], &["model={ n_layers = 3, d_model = 64 }"])).unwrap();
        assert_eq!((config.model.n_layers, config.model.d_model), (3, 64));
    }

    #[test]
    fn weights_are_keys_and_named_sources_one_value() {
        let mut errors = ConfigErrors::default();
        let text = "[data]\npretrain = { web = ['w'], books = ['b'] }\n[data.mix]\nweb = 1\nbooks = 2\n";
        let base = document_layer("base", text, &mut errors);
        let set = ["data.mix.web=3", "data.pretrain={ web = ['x'] }"];
        let over = overrides(None, &[("MINDSCALE_DATA__MIX__BOOKS", "0.5")], &set);
        let settings = load_layers(base, &over, &mut errors).unwrap();
        assert_eq!(errors, ConfigErrors::default());
        assert_eq!(settings.places["data.mix.books"], "MINDSCALE_DATA__MIX__BOOKS");
        let data = settings.config().unwrap().data;
        assert_eq!(data.mix, [("books".to_string(), 0.5), ("web".to_string(), 3.0)].into());
        assert_eq!(data.pretrain.names().collect::<Vec<_>>(), ["web"]);
    }

    #[test]
    fn every_problem_is_named_with_its_place() {
        let over = overrides(
            None,
            &[("MINDSCALE_MODEL__N_LAYER", "3"), ("MINDSCALE_PRETRAIN__LR", "fast")],
            &["seed", "model=3", "exam.answer=essay"],
        );
        assert_eq!(
            failure(&over),
            "MINDSCALE_MODEL__N_LAYER: model.n_layer: unknown key; did you mean model.n_layers?\n\
             MINDSCALE_PRETRAIN__LR: pretrain.lr: is \"fast\", expected a positive number\n\
             --set seed: expected key=value, such as --set seed=2\n\
             --set model=3: model: is a section, expected a table of its keys or a key such as model.d_model\n\
             --set exam.answer=essay: exam.answer: is \"essay\", expected \"letter\", \"cloze\" or \"continuation\""
        );
        assert_eq!(
            failure(&overrides(None, &[], &["model.d_model=130"])),
            "--set model.d_model=130: model.d_model: 130 is not divisible by n_heads = 4"
        );
        assert_eq!(
            failure(&overrides(Some("minmind"), &[], &[])),
            "--preset minmind: preset: there is no \"minmind\", expected \"minimind\" or \"small\"; did you mean minimind?"
        );
    }

    #[test]
    fn a_key_written_twice_in_two_ways_is_an_error() {
        let mut errors = ConfigErrors::default();
        document_layer("f", "\"model.n_layers\" = 1\n[model]\nn_layers = 2\n", &mut errors);
        assert_eq!(errors.errors[0].to_string(), "f:3: model.n_layers: set a second time, after f:1");
    }
}
