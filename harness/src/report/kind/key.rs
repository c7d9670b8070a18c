//! The keys of figures: what each holds, for the schema.

use super::spec::{LEGENDS, SIZES};
use crate::config::closed;
use serde_json::{Map, Value, json};

/// A key of a figure.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub holds: Holds,
    /// Whether a figure cannot do without it.
    pub is_needed: bool,
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// The name of a column.
    Column,
    /// That of one with numbers.
    Number,
    /// Text.
    Text,
    /// A number above 0.
    Positive,
    /// Two numbers, the smaller first.
    Limits,
    /// True or false.
    Truth,
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
}

impl Key {
    /// A key that a figure cannot do without.
    pub const fn needed(name: &'static str, holds: Holds) -> Self {
        Self { name, holds, is_needed: true }
    }

    /// A key that may be left out.
    pub const fn optional(name: &'static str, holds: Holds) -> Self {
        Self { name, holds, is_needed: false }
    }
}

/// The keys of every figure.
pub const FRAME: [Key; 9] = [
    Key::optional("name", Holds::Text),
    Key::optional("title", Holds::Text),
    Key::optional("where", Holds::Text),
    Key::optional("size", Holds::Words(|| words_of(&SIZES))),
    Key::optional("width", Holds::Positive),
    Key::optional("height", Holds::Positive),
    Key::optional("legend", Holds::Words(|| words_of(&LEGENDS))),
    Key::optional("x_label", Holds::Text),
    Key::optional("y_label", Holds::Text),
];

/// The ends of `x`.
pub const LIMITS_X: Key = Key::optional("x_limits", Holds::Limits);

/// Those of `y`.
pub const LIMITS_Y: Key = Key::optional("y_limits", Holds::Limits);

/// Whether `x` is logarithmic.
pub const LOG_X: Key = Key::optional("log_x", Holds::Truth);

/// Whether `y` is.
pub const LOG_Y: Key = Key::optional("log_y", Holds::Truth);

/// The words of a list of choices.
pub fn words_of<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

impl Holds {
    /// What it takes, as JSON Schema.
    fn schema(self) -> Value {
        match self {
            Self::Column => json!({ "$ref": "#/$defs/column" }),
            Self::Number => json!({ "$ref": "#/$defs/number" }),
            Self::Text => json!({ "type": "string" }),
            Self::Positive => json!({ "type": "number", "exclusiveMinimum": 0 }),
            Self::Limits => {
                json!({ "type": "array", "items": { "type": "number" }, "minItems": 2, "maxItems": 2 })
            }
            Self::Truth => json!({ "type": "boolean" }),
            Self::Words(words) => json!({ "enum": words() }),
        }
    }
}

impl super::Kind {
    /// A figure of this kind, as JSON Schema.
    pub fn schema(&self) -> Value {
        let mut properties = Map::from_iter([("kind".to_string(), json!({ "const": self.name }))]);
        let mut required = vec!["kind"];
        for key in self.keys.iter().chain(&FRAME) {
            properties.insert(key.name.into(), key.holds.schema());
            required.extend(key.is_needed.then_some(key.name));
        }
        let mut table = closed(properties);
        table["description"] = self.shows.into();
        table["required"] = json!(required);
        table
    }
}
