//! TOML with positions: every value keeps its line and its source text for messages.

use super::errors::ConfigError;
use serde_json::Value;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Maximum length of a value's text in a message, in characters.
const SHOWN: usize = 40;

/// A value as written in a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The parsed value.
    pub content: Content,
    /// Source text, shortened for messages.
    pub shown: String,
    /// Position, such as `sweeps/a.toml:12`.
    pub place: String,
}

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A string, number or boolean; null for TOML values that JSON cannot represent, such as `nan` or a date.
    Scalar(Value),
    /// A list.
    Array(Vec<Node>),
    /// A table, in the order in which it was written.
    Table(Vec<Entry>),
}

/// A key of a table with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key, without the name of its table.
    pub key: String,
    /// Position of the key, such as `sweeps/a.toml:12`.
    pub place: String,
    /// Byte offset of the key in the file, by which entries are ordered.
    pub start: usize,
    /// Value of the key.
    pub node: Node,
}

impl Node {
    /// Wraps a bare string, as given by `--set` or the environment.
    pub fn text(text: &str, place: &str) -> Self {
        Self {
            content: Content::Scalar(text.into()),
            shown: shorten(&format!("{text:?}")),
            place: place.into(),
        }
    }

    /// Parses a value given by `--set` or the environment: TOML if it is valid, otherwise a bare string.
    pub fn parse(text: &str, place: &str) -> Self {
        match DeValue::parse(text) {
            Ok(value) => Source { text, place: &|_| place.into() }.node(&value),
            Err(_) => Self::text(text, place),
        }
    }

    /// Returns the value as JSON; null where JSON cannot represent it.
    pub fn json(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::Array(items) => items.iter().map(Node::json).collect(),
            Content::Table(entries) => entries.iter().map(|e| (e.key.clone(), e.node.json())).collect(),
        }
    }

    /// Returns the entries, if it is a table.
    pub fn table(&self) -> Option<&[Entry]> {
        match &self.content {
            Content::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// Returns the items, if it is a list.
    pub fn array(&self) -> Option<&[Node]> {
        match &self.content {
            Content::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the string, if it is one.
    pub fn str(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(value) => value.as_str(),
            _ => None,
        }
    }

    /// Returns the number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match &self.content {
            Content::Scalar(value) => value.as_f64(),
            _ => None,
        }
    }

    /// Returns the number, if it is a non-negative integer.
    pub fn whole(&self) -> Option<u64> {
        match &self.content {
            Content::Scalar(value) => value.as_u64(),
            _ => None,
        }
    }
}

/// Parses a TOML document; `name` is its name in messages.
pub fn parse(name: &str, text: &str) -> Result<Vec<Entry>, ConfigError> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let place = |at: usize| format!("{name}:{}", 1 + ends.partition_point(|&end| end < at));
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map_or(name.into(), |span| place(span.start));
        ConfigError::new(place, "", format!("not valid TOML: {}", error.message()))
    })?;
    Ok(Source { text, place: &place }.entries(table.get_ref()))
}

/// Converts TOML values into nodes.
struct Source<'a> {
    text: &'a str,
    place: &'a dyn Fn(usize) -> String,
}

impl Source<'_> {
    fn entries(&self, table: &DeTable) -> Vec<Entry> {
        let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue>)| {
            let name: &std::borrow::Cow<str> = key.get_ref();
            let start = key.span().start;
            Entry { key: name.to_string(), place: (self.place)(start), start, node: self.node(value) }
        };
        let mut entries: Vec<_> = table.iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.start);
        entries
    }

    fn node(&self, value: &Spanned<DeValue>) -> Node {
        let span = value.span();
        let content = match value.get_ref() {
            DeValue::String(text) => Content::Scalar(text.as_ref().into()),
            DeValue::Boolean(truth) => Content::Scalar((*truth).into()),
            DeValue::Integer(integer) => {
                let (digits, radix) = (integer.as_str(), integer.radix());
                let positive = u64::from_str_radix(digits, radix).map(Value::from);
                let number = positive.or_else(|_| i64::from_str_radix(digits, radix).map(Value::from));
                Content::Scalar(number.unwrap_or(Value::Null))
            }
            DeValue::Float(float) => {
                let number = float.as_str().parse::<f64>().map_or(Value::Null, Value::from);
                Content::Scalar(number)
            }
            DeValue::Datetime(_) => Content::Scalar(Value::Null),
            DeValue::Array(items) => Content::Array(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => Content::Table(self.entries(table)),
        };
        let shown = match content {
            Content::Table(_) => "a table".into(),
            _ => self.shown(span.clone()),
        };
        Node { content, shown, place: (self.place)(span.start) }
    }

    fn shown(&self, span: Range<usize>) -> String {
        shorten(self.text.get(span).unwrap_or("a value"))
    }
}

fn shorten(text: &str) -> String {
    let mut words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = words.char_indices().nth(SHOWN) {
        words.truncate(at);
        words.push_str("...");
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn values_keep_their_line_and_text_and_tables_their_order() {
        let text = "z = 1_000\na = [1,\n  0x1F, -2]\n[t]\nb = 1e-3\n'b.c' = 'x'\n";
        let entries = parse("f", text).unwrap();
        let keys: Vec<_> = entries.iter().map(|e| (e.key.as_str(), e.place.as_str())).collect();
        assert_eq!(keys, [("z", "f:1"), ("a", "f:2"), ("t", "f:4")]);
        assert_eq!(entries[0].node.json(), json!(1000));
        assert_eq!(entries[0].node.shown, "1_000");
        assert_eq!(entries[1].node.json(), json!([1, 31, -2]));
        assert_eq!(entries[1].node.array().unwrap()[1].place, "f:3");
        assert_eq!(entries[2].node.json(), json!({ "b": 1e-3, "b.c": "x" }));
    }

    #[test]
    fn what_json_cannot_say_is_null() {
        for text in ["nan", "inf", "1979-05-27", "99999999999999999999"] {
            let node = Node::parse(text, "f");
            assert_eq!((node.json(), node.shown.as_str()), (Value::Null, text));
        }
    }

    #[test]
    fn what_is_not_toml_is_text_on_the_command_line() {
        assert_eq!(Node::parse("cuda:0", "f").json(), json!("cuda:0"));
        assert_eq!(Node::parse("a/b.jsonl", "f").json(), json!("a/b.jsonl"));
        assert_eq!(Node::parse("3", "f").json(), json!(3));
        assert_eq!(Node::parse("[\"wq\"]", "f").json(), json!(["wq"]));
        assert_eq!(Node::parse("", "f").json(), json!(""));
    }

    #[test]
    fn a_syntax_error_has_its_line() {
        let error = parse("f", "a = 1\nb = = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("f:2: not valid TOML: "), "{error}");
    }
}
