//! Every key of a trial as a flat list, derived from the declarations: types, checks and suggestions for unknown names.

use super::document::{Content, Entry, Node};
use super::near::{did_you_mean, nearest, our_name};
use super::{Sources, TRAINING, TrialConfig, get, is_source_name};
use model::Device;
use model::section::{Range, schema_of};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Word for "no value", for which TOML has no syntax.
pub const UNSET: &str = "unset";

/// Formats a key's value as people write it: `4`, `0.001`, `4e11`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => UNSET.into(),
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(large) if large.abs() >= 1e7 => format!("{large:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Type of a key's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A non-negative integer.
    Whole,
    /// Any finite number.
    Number,
    /// Text.
    Text,
    /// The name of a [`Device`].
    Device,
    /// One of the words.
    Choice(Vec<String>),
    /// A list of values of one type.
    List(Box<Kind>),
    /// [`Sources`].
    Sources,
    /// A table of numbers by user-given names, each of which is a key of its own.
    Weights,
}

/// A key of a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySpec {
    /// Full name of the key, such as `model.n_layers`.
    pub path: String,
    /// Type of its value.
    pub kind: Kind,
    /// Whether it may be [`UNSET`].
    pub optional: bool,
    /// Allowed range of a number; `None` if any number is allowed.
    pub range: Option<Range>,
    /// Default value; null if unset.
    pub default: Value,
    /// Documentation, as one line.
    pub doc: String,
    /// JSON Schema of its values.
    pub schema: Value,
}

/// A table of keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Name of the section, such as `model`; empty for the trial itself.
    pub name: String,
    /// Documentation, as one line.
    pub doc: String,
    /// Its keys, in order of declaration.
    pub keys: Vec<KeySpec>,
}

/// Returns every section of a trial, in order; the first is the trial itself.
pub fn sections() -> &'static [Section] {
    static SECTIONS: OnceLock<Vec<Section>> = OnceLock::new();
    SECTIONS.get_or_init(|| {
        let (schema, defaults) = (schema_of::<TrialConfig>(), json!(TrialConfig::default()));
        let mut sections = vec![Section { name: String::new(), doc: String::new(), keys: Vec::new() }];
        for (name, schema) in properties(&schema) {
            let mut inside = properties(schema).peekable();
            if inside.peek().is_none() {
                sections[0].keys.extend(spec(name, schema, &defaults));
                continue;
            }
            let keys = inside.filter_map(|(key, schema)| spec(&format!("{name}.{key}"), schema, &defaults));
            sections.push(Section { name: name.clone(), doc: doc_of(schema), keys: keys.collect() });
        }
        sections
    })
}

/// Iterates over every key of a trial, in order of declaration.
pub fn keys() -> impl DoubleEndedIterator<Item = &'static KeySpec> + Clone {
    sections().iter().flat_map(|section| &section.keys)
}

/// Returns the names of a table's keys, in order of declaration.
#[cfg(test)] // for the reference page
pub(super) fn names_of<T: schemars::JsonSchema>() -> Vec<String> {
    properties(&schema_of::<T>()).map(|(name, _)| name.clone()).collect()
}

/// Returns the key with this name; keys of weights, such as `data.mix.web`, included.
pub fn find(path: &str) -> Option<&'static KeySpec> {
    keys().find(|key| key.path == path).or_else(|| weight(path))
}

/// Returns the key of one weight with a user-given name; each is created once and never freed.
fn weight(path: &str) -> Option<&'static KeySpec> {
    static MADE: Mutex<BTreeMap<String, &'static KeySpec>> = Mutex::new(BTreeMap::new());
    let (table, name) = path.rsplit_once('.')?;
    let table = keys().find(|key| key.path == table && key.kind == Kind::Weights)?;
    if !is_source_name(name) {
        return None;
    }
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = made.entry(path.into()).or_insert_with(|| Box::leak(Box::new(table.weight(path))));
    Some(key)
}

/// Returns whether `path` names a table of weights, whose entries are keys of their own.
pub fn is_weights(path: &str) -> bool {
    keys().any(|key| key.path == path && key.kind == Kind::Weights)
}

/// Returns whether `path` names a section, such as `model`.
pub fn is_section(path: &str) -> bool {
    !path.is_empty() && sections().iter().any(|section| section.name == path)
}

/// Returns the largest allowed value of an integer key that has an upper bound.
pub fn largest(key: &str) -> Option<u64> {
    find(key)?.range?.max.map(|(max, _)| max as u64)
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn doc_of(schema: &Value) -> String {
    one_line(schema["description"].as_str().unwrap_or_default())
}

fn spec(path: &str, schema: &Value, defaults: &Value) -> Option<KeySpec> {
    let is_null = |kind: &Value| kind == "null";
    Some(KeySpec {
        path: path.into(),
        kind: kind_of(schema)?,
        optional: schema["type"].as_array().is_some_and(|kinds| kinds.iter().any(is_null)),
        range: Range::of(schema),
        default: get(defaults, path).cloned().unwrap_or_default(),
        doc: doc_of(schema),
        schema: schema.clone(),
    })
}

fn kind_of(schema: &Value) -> Option<Kind> {
    if schema["format"] == Sources::FORMAT {
        return Some(Kind::Sources);
    }
    if let Some(variants) = schema["oneOf"].as_array() {
        let words = variants.iter().map(|variant| Some(variant["const"].as_str()?.to_string()));
        return words.collect::<Option<_>>().map(Kind::Choice);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null")?,
        kind => kind,
    };
    Some(match kind.as_str()? {
        "boolean" => Kind::Bool,
        "integer" => Kind::Whole,
        "number" => Kind::Number,
        "array" => Kind::List(Box::new(kind_of(&schema["items"])?)),
        "string" if schema["format"] == Device::FORMAT => Kind::Device,
        "string" => Kind::Text,
        "object" if schema["additionalProperties"]["type"] == "number" => Kind::Weights,
        _ => return None,
    })
}

/// Joins the lines of a doc comment.
pub(super) fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Kind {
    /// Returns the description of the type in messages that say what was expected.
    pub fn expected(&self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Whole => "a whole number of 0 or more".into(),
            Kind::Number => "a number".into(),
            Kind::Text => "text in quotes".into(),
            Kind::Device => Device::EXPECTED.into(),
            Kind::Choice(words) => any_of(words),
            Kind::List(item) => match &**item {
                Kind::Choice(words) => format!("a list of {}", any_of(words)),
                Kind::Whole | Kind::Number => "a list of numbers".into(),
                _ => "a list of texts in quotes".into(),
            },
            Kind::Sources => "a list of texts in quotes, or a table of such lists by name".into(),
            Kind::Weights => "a table of numbers by name".into(),
        }
    }

    /// Returns an entry's value in a table of sources or weights, if it is valid.
    fn accept_part(&self, node: &Node) -> Option<Value> {
        match self {
            Kind::Sources => Kind::List(Box::new(Kind::Text)).accept(node),
            _ => Kind::Number.accept(node),
        }
    }

    fn accept(&self, node: &Node) -> Option<Value> {
        match (self, &node.content) {
            (Kind::List(kind), Content::Array(items)) => items.iter().map(|item| kind.accept(item)).collect(),
            (Kind::Sources, Content::Array(_)) => self.accept_part(node),
            (Kind::Sources | Kind::Weights, Content::Table(entries)) if !entries.is_empty() => {
                let part = |entry: &Entry| Some((entry.key.clone(), self.accept_part(&entry.node)?));
                entries.iter().map(part).collect()
            }
            (Kind::Bool, Content::Scalar(value)) => value.is_boolean().then(|| value.clone()),
            // Trials are recorded in TOML, whose integers end there.
            (Kind::Whole, Content::Scalar(value)) => {
                value.as_u64().filter(|&whole| whole <= i64::MAX as u64).map(Value::from)
            }
            (Kind::Number, Content::Scalar(value)) => {
                value.as_f64().filter(|number| number.is_finite()).map(Value::from)
            }
            (Kind::Text, Content::Scalar(value)) => value.as_str().map(Value::from),
            (Kind::Device, Content::Scalar(value)) => {
                value.as_str()?.parse::<Device>().ok().map(|device| json!(device))
            }
            (Kind::Choice(words), Content::Scalar(value)) => {
                value.as_str().filter(|word| words.iter().any(|known| known == word)).map(Value::from)
            }
            _ => None,
        }
    }
}

impl KeySpec {
    /// Returns the key of one of its weights.
    pub(super) fn weight(&self, path: &str) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Number,
            default: Value::Null,
            schema: self.schema["additionalProperties"].clone(),
            ..self.clone()
        }
    }

    /// Returns the description of the allowed values in messages.
    pub fn expected(&self) -> String {
        let unset = if self.optional { format!(", or \"{UNSET}\"") } else { String::new() };
        let value = match &self.range {
            Some(range) if matches!(self.kind, Kind::Whole | Kind::Number) => number_of(range),
            _ => self.kind.expected(),
        };
        value + &unset
    }

    /// Returns the value as a trial holds it.
    ///
    /// # Errors
    /// If the value does not fit: what it is, what was expected, and a suggestion.
    pub fn check(&self, node: &Node) -> Result<Value, String> {
        if self.optional && node.str() == Some(UNSET) {
            return Ok(Value::Null);
        }
        self.kind.accept(node).ok_or_else(|| {
            let hint = match (&self.kind, node.str()) {
                (Kind::Choice(words), Some(word)) => did_you_mean(word, words.iter().map(String::as_str)),
                _ => String::new(),
            };
            let found = match (self.kind.clone(), node.table()) {
                (Kind::Sources | Kind::Weights, Some([])) => "is an empty table".into(),
                (Kind::Sources | Kind::Weights, Some(entries)) => {
                    let wrong = entries.iter().find(|entry| self.kind.accept_part(&entry.node).is_none());
                    wrong.map_or("is a table".into(), |e| format!("holds {} = {}", e.key, e.node.shown))
                }
                _ => format!("is {}", node.shown),
            };
            format!("{found}, expected {}{hint}", self.expected())
        })
    }
}

/// Describes a number of a range: `a whole number of 1 to 4096`, `a positive number`.
fn number_of(range: &Range) -> String {
    let kind = if range.is_whole { "a whole number" } else { "a number" };
    match (range.min, range.max) {
        (Some((min, true)), None) => format!("{kind} of {min} or more"),
        (None, Some((max, true))) if range.is_whole => format!("{kind} of 0 to {max}"),
        (Some((_, true)), _) => format!("{kind} of {range}"),
        (Some((0.0, false)), None) => range.to_string(),
        _ => format!("{kind} {range}"),
    }
}

/// Returns the message for a key that does not exist, with suggestions.
pub fn unknown_key(key: &str) -> String {
    let names = nearest_keys(key);
    match names.split_last() {
        None => "unknown key; docs/configuration.md lists every key".into(),
        Some((last, [])) => format!("unknown key; did you mean {last}?"),
        Some((last, others)) => format!("unknown key; did you mean {} or {last}?", others.join(", ")),
    }
}

fn nearest_keys(key: &str) -> Vec<&'static str> {
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let sections = sections()[1..].iter().map(|section| section.name.as_str());
    let paths = || keys().map(|spec| spec.path.as_str());
    let named = |name: &str| -> Vec<&'static str> {
        paths().filter(|path| last(path) == name).take(TRAINING.len()).collect()
    };
    let key = &our_name(key);
    let own_name = key.rsplit('.').next().unwrap_or(key);
    // The section is missing or wrong: every key of that name, or the one whose section is nearly right.
    let same = named(own_name);
    if !same.is_empty() {
        return nearest(key, same.iter().copied()).map_or(same, |path| vec![path]);
    }
    if let Some(path) = nearest(key, paths().chain(sections)) {
        return vec![path];
    }
    // Both section and name are wrong.
    nearest(own_name, paths().map(last)).map_or(Vec::new(), named)
}

/// Formats words as `"a", "b" or "c"`.
pub(super) fn any_of(words: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.as_ref())).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_list_has_exactly_the_keys_that_a_trial_has_in_their_order() {
        let mut held = Vec::new();
        for (name, value) in json!(TrialConfig::default()).as_object().unwrap() {
            match value.as_object() {
                Some(keys) => held.extend(keys.keys().map(|key| format!("{name}.{key}"))),
                None => held.push(name.clone()),
            }
        }
        let listed: Vec<String> = keys().map(|key| key.path.clone()).collect();
        assert_eq!(listed, held);
    }

    #[test]
    fn kinds_follow_the_declarations() {
        let kind = |path: &str| find(path).map(|key| (key.kind.clone(), key.optional)).unwrap();
        assert_eq!(kind("model.n_layers"), (Kind::Whole, false));
        assert_eq!(kind("pretrain.tokens"), (Kind::Whole, true));
        assert_eq!(kind("tokenizer.path"), (Kind::Text, true));
        assert_eq!(kind("lora.targets"), (Kind::List(Box::new(Kind::Text)), false));
        let choice = |words: [&str; 2]| Kind::Choice(words.map(String::from).into());
        assert_eq!(kind("dpo.loss"), (choice(["sigmoid", "ipo"]), false));
        assert_eq!(kind("model.init"), (choice(["minimind", "width"]), false));
        assert_eq!(kind("device"), (Kind::Device, false));
        assert!(matches!(kind("exam.after").0, Kind::List(item) if matches!(*item, Kind::Choice(_))));
        assert_eq!(kind("data.sft"), (Kind::Sources, false));
        assert_eq!((kind("data.mix"), kind("data.mix.web")), ((Kind::Weights, false), (Kind::Number, false)));
        assert!(find("data.mix.a b").is_none() && find("data.pretrain.web").is_none());
        assert!(is_section("model") && !is_section("mod") && !is_section("model.n_layers"));
    }

    #[test]
    fn documentation_range_and_default_follow_the_declarations() {
        let key = |path: &str| find(path).unwrap();
        assert_eq!(
            key("model.n_layers").doc,
            "Number of blocks, each an attention layer and a feed-forward layer."
        );
        assert_eq!(key("model.n_layers").range.unwrap().to_string(), "1 to 4096");
        assert_eq!(key("dpo.lr").range.unwrap().to_string(), "a positive number");
        assert_eq!(key("slurm.at_once").range.unwrap().to_string(), "at least 1");
        assert_eq!((key("seed").range, key("threads").range), (None, None));
        assert_eq!((&key("dpo.lr").default, &key("sft.tokens").default), (&json!(4e-5), &json!(null)));
        assert_eq!((largest("model.vocab_size"), largest("seed")), (Some(1 << 24), None));
        assert!(sections().iter().all(|section| section.keys.iter().all(|key| !key.doc.is_empty())));
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let message = |key: &str| unknown_key(key);
        assert_eq!(message("model.n_layer"), "unknown key; did you mean model.n_layers?");
        assert_eq!(message("modle"), "unknown key; did you mean model?");
        assert_eq!(message("n_layers"), "unknown key; did you mean model.n_layers?");
        assert_eq!(
            message("lr"),
            "unknown key; did you mean pretrain.lr, sft.lr, sft_multi.lr, lora.lr or dpo.lr?"
        );
        assert_eq!(message("model.val_shares"), "unknown key; did you mean data.val_share?");
        assert_eq!(message("d_model"), "unknown key; did you mean model.d_model?");
        assert_eq!(message("pretrain.device"), "unknown key; did you mean device?");
        assert_eq!(message("pretrian.seq_len"), "unknown key; did you mean pretrain.seq_len?");
        assert_eq!(message("model.hidden"), "unknown key; did you mean model.hidden_dim?");
        assert_eq!(message("pretrain.learning_rate"), "unknown key; did you mean pretrain.lr?");
        assert_eq!(message("hidden_size"), "unknown key; did you mean model.d_model?");
        assert_eq!(message("qqqqqqq"), "unknown key; docs/configuration.md lists every key");
    }

    #[test]
    fn values_are_checked_by_kind() {
        let check = |path: &str, text: &str| find(path).unwrap().check(&Node::parse(text, ""));
        assert_eq!(check("model.n_layers", "4"), Ok(json!(4)));
        assert_eq!(check("pretrain.lr", "1"), Ok(json!(1.0)));
        assert_eq!(check("pretrain.tokens", "'unset'"), Ok(json!(null)));
        assert_eq!(check("exam.after", "['sft', 'dpo']"), Ok(json!(["sft", "dpo"])));
        let problem = |path: &str, text: &str| check(path, text).unwrap_err();
        assert_eq!(problem("model.n_layers", "4.0"), "is 4.0, expected a whole number of 1 to 4096");
        assert_eq!(problem("model.n_layers", "-4"), "is -4, expected a whole number of 1 to 4096");
        assert_eq!(problem("pretrain.warmup_steps", "-4"), "is -4, expected a whole number of 0 or more");
        assert_eq!(problem("exam.shots", "'x'"), "is 'x', expected a whole number of 0 to 1000");
        assert_eq!(problem("pretrain.lr", "nan"), "is nan, expected a positive number");
        assert_eq!(problem("data.val_share", "'x'"), "is 'x', expected a number of 0 or more and below 1");
        assert_eq!(problem("pretrain.min_lr_ratio", "'x'"), "is 'x', expected a number of 0 to 1");
        assert_eq!(problem("exam.at", "'x'"), "is 'x', expected a list of numbers");
        assert_eq!(
            problem("pretrain.tokens", "1e6"),
            "is 1e6, expected a whole number of 1 or more, or \"unset\""
        );
        assert_eq!(problem("device", "'gpu'"), "is 'gpu', expected \"cpu\", \"cuda\" or \"cuda:N\"");
        assert_eq!(problem("device", "1"), "is 1, expected \"cpu\", \"cuda\" or \"cuda:N\"");
        assert_eq!(problem("exam.enabled", "1"), "is 1, expected true or false");
        assert_eq!(
            problem("dpo.loss", "'sigmod'"),
            "is 'sigmod', expected \"sigmoid\" or \"ipo\"; did you mean sigmoid?"
        );
        let lists = "expected a list of texts in quotes, or a table of such lists by name";
        assert_eq!(problem("data.sft", "'a.csv'"), format!("is 'a.csv', {lists}"));
        assert_eq!(problem("data.sft", "{ a = ['b'], c = 'd' }"), format!("holds c = 'd', {lists}"));
        assert_eq!(problem("data.sft", "{}"), format!("is an empty table, {lists}"));
        assert_eq!(check("data.sft", "{ a = ['b'] }"), Ok(json!({ "a": ["b"] })));
        assert_eq!(check("data.mix", "{ a = 1 }"), Ok(json!({ "a": 1.0 })));
        assert_eq!(problem("data.mix", "{ a = 'b' }"), "holds a = 'b', expected a table of numbers by name");
        assert_eq!(check("data.mix.web", "1"), Ok(json!(1.0)));
        assert_eq!(problem("data.mix.web", "'x'"), "is 'x', expected a number");
    }
}
