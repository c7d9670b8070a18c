//! Every key of a trial as a flat list, made from the declarations: kinds, checks and the nearest name.

use super::document::{Content, Node};
use super::*;
use model::section::Key;
use model::{AuxLoss, Init, Recompute};
use serde::de::value::Error as Plain;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::Value;
use std::sync::OnceLock;

/// Word that stands for "no value", which TOML cannot say.
pub const UNSET: &str = "unset";

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number of 0 or more.
    Whole,
    /// Any finite number.
    Number,
    /// Text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Several of one kind.
    List(Box<Kind>),
}

/// A key of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpec {
    /// The whole key, such as `model.n_layers`.
    pub path: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may be left without a value.
    pub optional: bool,
    /// What it does.
    pub doc: String,
}

/// Every section of a trial, in order: its name, what it is for, and its keys. The first is the trial itself.
pub fn sections() -> Vec<(&'static str, String, Vec<Key>)> {
    let mut sections = vec![("", String::new(), Vec::new())];
    for key in TrialConfig::KEYS {
        let stage = |own: &[Key]| Training::KEYS.iter().chain(own).copied().collect();
        let keys: Vec<Key> = match key.kind {
            "ModelConfig" => ModelConfig::KEYS.to_vec(),
            "TokenizerConfig" => TokenizerConfig::KEYS.to_vec(),
            "DataConfig" => DataConfig::KEYS.to_vec(),
            "WorldConfig" => WorldConfig::KEYS.to_vec(),
            "ExamConfig" => ExamConfig::KEYS.to_vec(),
            "SlurmConfig" => SlurmConfig::KEYS.to_vec(),
            "Pretrain" => stage(Pretrain::KEYS),
            "Sft" => stage(Sft::KEYS),
            "Lora" => stage(Lora::KEYS),
            "Dpo" => stage(Dpo::KEYS),
            _ => {
                sections[0].2.push(*key);
                continue;
            }
        };
        sections.push((key.name, one_line(key.doc), keys));
    }
    sections
}

/// Every key of a trial, in the order of declaration.
pub fn keys() -> &'static [KeySpec] {
    static KEYS: OnceLock<Vec<KeySpec>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let spec = |section: &str, key: &Key| {
            let whole = key.kind.replace(' ', "");
            let inner = whole.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>'));
            Some(KeySpec {
                path: if section.is_empty() { key.name.into() } else { format!("{section}.{}", key.name) },
                kind: kind_of(inner.unwrap_or(&whole))?,
                optional: inner.is_some(),
                doc: one_line(key.doc),
            })
        };
        let of_section = |(name, _, keys): (&str, String, Vec<Key>)| -> Vec<KeySpec> {
            keys.iter().filter_map(|key| spec(name, key)).collect()
        };
        sections().into_iter().flat_map(of_section).collect()
    })
}

/// The key with this name.
pub fn find(path: &str) -> Option<&'static KeySpec> {
    keys().iter().find(|key| key.path == path)
}

/// Whether `path` names a section, such as `model`.
pub fn is_section(path: &str) -> bool {
    let inside = |key: &KeySpec| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    !path.is_empty() && keys().iter().any(inside)
}

fn kind_of(name: &str) -> Option<Kind> {
    if let Some(item) = name.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>')) {
        return Some(Kind::List(Box::new(kind_of(item)?)));
    }
    Some(match name {
        "bool" => Kind::Bool,
        "usize" | "u64" => Kind::Whole,
        "f64" => Kind::Number,
        "String" => Kind::Text,
        "Init" => Kind::Choice(words::<Init>()),
        "Recompute" => Kind::Choice(words::<Recompute>()),
        "AuxLoss" => Kind::Choice(words::<AuxLoss>()),
        "Source" => Kind::Choice(words::<Source>()),
        "BadRow" => Kind::Choice(words::<BadRow>()),
        "UnknownKeys" => Kind::Choice(words::<UnknownKeys>()),
        "RowStyle" => Kind::Choice(words::<RowStyle>()),
        "Packing" => Kind::Choice(words::<Packing>()),
        "AnswerLoss" => Kind::Choice(words::<AnswerLoss>()),
        "OptimizerKind" => Kind::Choice(words::<OptimizerKind>()),
        "Schedule" => Kind::Choice(words::<Schedule>()),
        "DpoLoss" => Kind::Choice(words::<DpoLoss>()),
        "Answer" => Kind::Choice(words::<Answer>()),
        "TrainStage" => Kind::Choice(words::<TrainStage>()),
        _ => return None,
    })
}

/// The words of an enum, as serde knows them, so that they are declared once.
fn words<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Listener(&'static [&'static str]);

    impl<'de> Deserializer<'de> for &mut Listener {
        type Error = Plain;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Plain> {
            Err(Plain::custom("not an enum"))
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            words: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Plain> {
            self.0 = words;
            Err(Plain::custom("heard enough"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    let mut listener = Listener(&[]);
    let refused = T::deserialize(&mut listener);
    debug_assert!(refused.is_err());
    listener.0
}

/// Documentation as one line.
pub(super) fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Kind {
    /// What a message says was expected.
    pub fn expected(&self) -> String {
        match self {
            Kind::Bool => "true or false".into(),
            Kind::Whole => "a whole number of 0 or more".into(),
            Kind::Number => "a number".into(),
            Kind::Text => "text in quotes".into(),
            Kind::Choice(words) => any_of(words),
            Kind::List(item) => match &**item {
                Kind::Choice(words) => format!("a list of {}", any_of(words)),
                _ => "a list of texts in quotes".into(),
            },
        }
    }

    fn accept(&self, node: &Node) -> Option<Value> {
        match (self, &node.content) {
            (Kind::List(kind), Content::Array(items)) => items.iter().map(|item| kind.accept(item)).collect(),
            (Kind::Bool, Content::Scalar(value)) => value.is_boolean().then(|| value.clone()),
            // TOML, in which trials are recorded, ends there.
            (Kind::Whole, Content::Scalar(value)) => {
                value.as_u64().filter(|&whole| whole <= i64::MAX as u64).map(Value::from)
            }
            (Kind::Number, Content::Scalar(value)) => {
                value.as_f64().filter(|number| number.is_finite()).map(Value::from)
            }
            (Kind::Text, Content::Scalar(value)) => value.as_str().map(Value::from),
            (Kind::Choice(words), Content::Scalar(value)) => {
                value.as_str().filter(|word| words.contains(word)).map(Value::from)
            }
            _ => None,
        }
    }
}

impl KeySpec {
    /// What may be written for this key.
    pub fn expected(&self) -> String {
        let unset = if self.optional { format!(", or \"{UNSET}\"") } else { String::new() };
        self.kind.expected() + &unset
    }

    /// The value as a trial holds it, or what is wrong with it.
    pub fn check(&self, node: &Node) -> Result<Value, String> {
        if self.optional && node.str() == Some(UNSET) {
            return Ok(Value::Null);
        }
        self.kind.accept(node).ok_or_else(|| {
            let hint = match (&self.kind, node.str()) {
                (Kind::Choice(words), Some(word)) => did_you_mean(word, words.iter().copied()),
                _ => String::new(),
            };
            format!("is {}, expected {}{hint}", node.shown, self.expected())
        })
    }
}

/// The problem of a key that does not exist, with the nearest that does.
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
    let sections = sections().into_iter().map(|section| section.0).filter(|name| !name.is_empty());
    let paths = || keys().iter().map(|spec| spec.path.as_str());
    if let Some(path) = nearest(key, paths().chain(sections)) {
        return vec![path];
    }
    // The section was forgotten or mistaken: every key of that name, if they are few.
    let Some(name) = nearest(key.rsplit('.').next().unwrap_or(key), paths().map(last)) else {
        return Vec::new();
    };
    paths().filter(|path| last(path) == name).take(TRAINING.len()).collect()
}

/// The nearest of `names` as a question that ends a message, if one is near.
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, names).map_or(String::new(), |name| format!("; did you mean {name}?"))
}

/// The candidate fewest typing errors away, if that is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `"a", "b" or "c"`.
pub(super) fn any_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
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
    fn the_list_has_exactly_the_keys_that_a_trial_has() {
        let mut held = Vec::new();
        for (name, value) in json!(TrialConfig::default()).as_object().unwrap() {
            match value.as_object() {
                Some(keys) => held.extend(keys.keys().map(|key| format!("{name}.{key}"))),
                None => held.push(name.clone()),
            }
        }
        let mut listed: Vec<String> = keys().iter().map(|key| key.path.clone()).collect();
        listed.sort();
        held.sort();
        assert_eq!(listed, held);
    }

    #[test]
    fn kinds_follow_the_declarations() {
        let kind = |path: &str| find(path).map(|key| (key.kind.clone(), key.optional)).unwrap();
        assert_eq!(kind("model.n_layers"), (Kind::Whole, false));
        assert_eq!(kind("pretrain.tokens"), (Kind::Whole, true));
        assert_eq!(kind("tokenizer.path"), (Kind::Text, true));
        assert_eq!(kind("lora.targets"), (Kind::List(Box::new(Kind::Text)), false));
        assert_eq!(kind("dpo.loss"), (Kind::Choice(&["sigmoid", "ipo"]), false));
        assert_eq!(kind("model.init"), (Kind::Choice(&["minimind", "width"]), false));
        assert!(is_section("model") && !is_section("mod") && !is_section("model.n_layers"));
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
        assert_eq!(problem("model.n_layers", "4.0"), "is 4.0, expected a whole number of 0 or more");
        assert_eq!(problem("model.n_layers", "-4"), "is -4, expected a whole number of 0 or more");
        assert_eq!(problem("pretrain.lr", "nan"), "is nan, expected a number");
        assert_eq!(
            problem("pretrain.tokens", "1e6"),
            "is 1e6, expected a whole number of 0 or more, or \"unset\""
        );
        assert_eq!(problem("exam.enabled", "1"), "is 1, expected true or false");
        assert_eq!(
            problem("dpo.loss", "'sigmod'"),
            "is 'sigmod', expected \"sigmoid\" or \"ipo\"; did you mean sigmoid?"
        );
        assert_eq!(problem("data.sft", "'a.csv'"), "is 'a.csv', expected a list of texts in quotes");
        assert_eq!(problem("data.sft", "{ a = 1 }"), "is a table, expected a list of texts in quotes");
    }
}
