//! A JSON object read field by field: each field is taken once, and any field left at the end is unknown.

use super::error::ApiError;
use crate::config::did_you_mean;
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// The fields of a request; `null` counts as absent.
pub struct Fields {
    map: Map<String, Value>,
    known: Vec<&'static str>,
}

impl Fields {
    /// Parses a request body.
    ///
    /// # Errors
    /// If it is not a JSON object.
    pub fn read(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad(format!(
                "the body is not JSON: {error}; expected an object such as {{\"model\": ...}}"
            ))
        })?;
        match value {
            Value::Object(map) => Ok(Self { map, known: vec![] }),
            other => Err(ApiError::bad(format!("the body is {}, expected a JSON object", kind(&other)))),
        }
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
            .ok_or_else(|| ApiError::param(name, format_args!("is {}, expected {expected}", shown(&value))))
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
            (i64::MIN, i64::MAX) => "a whole number".to_owned(),
            (start, i64::MAX) => format!("a whole number of {start} or more"),
            (start, end) => format!("a whole number from {start} to {end}"),
        };
        self.typed(name, expected, |value| {
            // A client may send 16.0 for 16.
            let whole = value.as_f64().filter(|v| v.fract() == 0.0 && v.abs() < 9e15).map(|v| v as i64);
            value.as_i64().or(whole).filter(|value| range.contains(value))
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
            Some(value) if !nothing.iter().any(|nothing| is_same(nothing, &value)) => {
                Err(ApiError::param(name, "is not supported here; leave it out")
                    .with_code("unsupported_parameter"))
            }
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
                Err(ApiError {
                    param: Some(name.clone()),
                    ..ApiError::bad(format!("{name}: unknown parameter{hint}"))
                })
            }
        }
    }
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
