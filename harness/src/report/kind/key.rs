//! The keys of figures with the type of their values, for the schema.

use super::spec::{LEGENDS, SIZES};
use crate::config::closed;
use serde_json::{Map, Value, json};

/// A key of a figure.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub value_type: ValueType,
    /// Whether it is required.
    pub is_needed: bool,
}

/// The type of the value of a key.
#[derive(Debug, Clone, Copy)]
pub enum ValueType {
    /// The name of a column.
    Column,
    /// The name of a numeric column.
    Number,
    /// Text.
    Text,
    /// A number above 0.
    Positive,
    /// Two numbers, the smaller one first.
    Limits,
    /// A boolean.
    Bool,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
}

impl Key {
    /// Declares a required key.
    pub const fn needed(name: &'static str, value_type: ValueType) -> Self {
        Self { name, value_type, is_needed: true }
    }

    /// Declares an optional key.
    pub const fn optional(name: &'static str, value_type: ValueType) -> Self {
        Self { name, value_type, is_needed: false }
    }
}

/// The keys of every figure.
pub const FRAME: [Key; 9] = [
    Key::optional("name", ValueType::Text),
    Key::optional("title", ValueType::Text),
    Key::optional("where", ValueType::Text),
    Key::optional("size", ValueType::Words(|| words_of(&SIZES))),
    Key::optional("width", ValueType::Positive),
    Key::optional("height", ValueType::Positive),
    Key::optional("legend", ValueType::Words(|| words_of(&LEGENDS))),
    Key::optional("x_label", ValueType::Text),
    Key::optional("y_label", ValueType::Text),
];

/// Limits of the axis `x`.
pub const LIMITS_X: Key = Key::optional("x_limits", ValueType::Limits);

/// Limits of the axis `y`.
pub const LIMITS_Y: Key = Key::optional("y_limits", ValueType::Limits);

/// Whether `x` is logarithmic.
pub const LOG_X: Key = Key::optional("log_x", ValueType::Bool);

/// Whether `y` is logarithmic.
pub const LOG_Y: Key = Key::optional("log_y", ValueType::Bool);

/// The words of a list of choices.
pub fn words_of<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

impl ValueType {
    /// JSON Schema of the value.
    fn schema(self) -> Value {
        match self {
            Self::Column => json!({ "$ref": "#/$defs/column" }),
            Self::Number => json!({ "$ref": "#/$defs/number" }),
            Self::Text => json!({ "type": "string" }),
            Self::Positive => json!({ "type": "number", "exclusiveMinimum": 0 }),
            Self::Limits => {
                json!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 })
            }
            Self::Bool => json!({ "type": "boolean" }),
            Self::Words(words) => json!({ "enum": words() }),
        }
    }
}

impl super::Kind {
    /// JSON Schema of a figure of this kind.
    pub fn schema(&self) -> Value {
        let mut properties = Map::from_iter([("kind".to_string(), json!({ "const": self.name }))]);
        let mut required = vec!["kind"];
        for key in self.keys.iter().chain(&FRAME) {
            properties.insert(key.name.into(), key.value_type.schema());
            required.extend(key.is_needed.then_some(key.name));
        }
        let mut table = closed(properties);
        table["description"] = self.shows.into();
        table["required"] = json!(required);
        table
    }
}
