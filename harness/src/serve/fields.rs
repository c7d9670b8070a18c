//! A JSON object read field by field: each field is taken once, and any field left at the end is unknown.

use super::error::ApiError;
use crate::config::did_you_mean;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;

/// The fields of a request or of an object in it; `null` counts as absent.
pub struct Fields {
    map: Map<String, Value>,
    known: Vec<&'static str>,
    /// Where the object is, such as `messages[0].`; empty for the request itself.
    place: String,
}

/// Reads a JSON object without duplicate names.
struct Distinct;

impl<'de> Visitor<'de> for Distinct {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            if map.contains_key(&name) {
                return Err(Error::custom(format_args!("{name} occurs twice")));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

impl Fields {
    /// Parses a request body.
    ///
    /// # Errors
    /// If it is not a JSON object, or a name occurs twice.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let map = json.deserialize_map(Distinct).and_then(|map| json.end().map(|()| map));
        let map = map.map_err(|error| {
            let expected = "expected one such as {\"model\": ...}, with each name once";
            ApiError::bad(format!("the body is no valid JSON object: {error}; {expected}"))
        })?;
        Ok(Self::within(map, String::new()))
    }

    /// Creates the fields of an object at `place`.
    pub fn within(map: Map<String, Value>, place: String) -> Self {
        Self { map, known: vec![], place }
    }

    /// Creates an error for the value of a field.
    pub fn wrong(&self, name: &str, problem: impl Display) -> ApiError {
        ApiError::param(&format!("{}{name}", self.place), problem)
    }

    /// Takes the value of a field; `None` if it is absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &mut self,
        name: &'static str,
        expected: impl Display,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value)
            .map(Some)
            .ok_or_else(|| self.wrong(name, format_args!("is {}, expected {expected}", shown(&value))))
    }

    /// Takes a text.
    ///
    /// # Errors
    /// If the value is not a text.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.typed(name, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// Takes a boolean; absent means `false`.
    ///
    /// # Errors
    /// If the value is not a boolean.
    pub fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Takes an integer.
    ///
    /// # Errors
    /// If the value is not an integer within `range`.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let expected = match (*range.start(), *range.end()) {
            (start, i64::MAX) => format!("a whole number of {start} or more"),
            (start, end) => format!("a whole number from {start} to {end}"),
        };
        self.typed(name, expected, |value| whole(value).filter(|value| range.contains(value)))
    }

    /// Takes a seed: an integer of 64 bits, with or without sign.
    ///
    /// # Errors
    /// If the value is anything else.
    pub fn seed(&mut self, name: &'static str) -> Result<Option<u64>, ApiError> {
        self.typed(name, "a whole number of 64 bits", |value| {
            value.as_u64().or_else(|| whole(value).map(|seed| seed as u64))
        })
    }

    /// Takes a number.
    ///
    /// # Errors
    /// If the value is not a number.
    pub fn number(&mut self, name: &'static str) -> Result<Option<f64>, ApiError> {
        self.typed(name, "a number", Value::as_f64)
    }

    /// Rejects a field that is not supported here, unless its value is one of `nothing`, which ask for nothing.
    ///
    /// # Errors
    /// If the field has any other value.
    pub fn refuse(&mut self, name: &'static str, nothing: &[Value]) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !nothing.iter().any(|nothing| is_same(nothing, &value)) => Err(self
                .wrong(name, "is not supported here; leave it out")
                .with_code("unsupported_parameter")),
            _ => Ok(()),
        }
    }

    /// Ignores fields that do not affect answers.
    pub fn ignore(&mut self, names: &[&'static str]) {
        names.iter().for_each(|name| drop(self.take(name)));
    }

    /// Checks that no unknown field is left.
    ///
    /// # Errors
    /// If a field is unknown, which the error names.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let hint = did_you_mean(name, self.known.iter().copied());
                Err(self.wrong(name, format_args!("unknown parameter{hint}")))
            }
        }
    }
}

/// Returns an integer; a client may send 16.0 for 16.
fn whole(value: &Value) -> Option<i64> {
    let whole = || value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64);
    value.as_i64().or_else(whole)
}

/// Returns whether two values are equal; 0 equals 0.0.
fn is_same(a: &Value, b: &Value) -> bool {
    a == b || a.is_number() && a.as_f64() == b.as_f64()
}

/// Formats a value for a message, truncated after 40 characters.
pub fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Returns the type of a value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_body_is_one_object_with_each_name_once() {
        let problem = |body: &str| Fields::read(body.as_bytes()).err().unwrap().message;
        for (body, found) in [
            (r#"{"a": 1, "b": {}, "a": 2}"#, "a occurs twice"),
            ("[]", "invalid type: sequence, expected a JSON object"),
            ("{} {}", "trailing characters"),
        ] {
            let found = format!("the body is no valid JSON object: {found} at line 1 column ");
            assert!(problem(body).starts_with(&found), "{}", problem(body));
        }
        assert!(Fields::read(b"{}").unwrap().finish().is_ok());
    }

    #[test]
    fn seeds_have_64_bits_with_or_without_sign() {
        let seed = |text: &str| {
            Fields::read(format!("{{\"seed\": {text}}}").as_bytes())
                .unwrap()
                .seed("seed")
                .map_err(|e| e.message)
        };
        assert_eq!(seed("18446744073709551615"), Ok(Some(u64::MAX)));
        assert_eq!(seed("-1"), Ok(Some(u64::MAX)));
        assert_eq!(seed("7.0"), Ok(Some(7)));
        assert_eq!(seed("null"), Ok(None));
        assert!(seed("18446744073709551616").unwrap_err().ends_with(", expected a whole number of 64 bits"));
    }
}
