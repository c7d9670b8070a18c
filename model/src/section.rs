//! One declaration per configuration key: name, type, range, default and documentation.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::fmt;

/// Declares a table of configuration keys.
///
/// Every field has its documentation, its default and, as an attribute of `schemars`, its range (`range(min = 1)`;
/// `extend("exclusiveMinimum" = 0)` for an open bound). The struct implements `Default`, serde's traits, `JsonSchema` and
/// [`Table`]; key names, checks, the reference page and error messages are generated from the schema.
#[macro_export]
macro_rules! section {
    (
        $(#[$about:meta])+
        pub struct $name:ident {
            $( $(#[$attr:meta])+ pub $field:ident : $kind:ty = $default:expr, )*
        }
    ) => {
        $(#[$about])+
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize, ::schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$attr])+ pub $field: $kind, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        impl $crate::section::Table for $name {
            fn put(&self, values: &mut Vec<::serde_json::Value>) {
                $( values.push(::serde_json::json!(self.$field)); )*
            }

            fn set(&mut self, key: &str, value: ::serde_json::Value) -> ::serde_json::Result<()> {
                match key {
                    $( stringify!($field) => self.$field = ::serde_json::from_value(value)?, )*
                    _ => return Err(::serde::de::Error::unknown_field(key, &[$( stringify!($field) ),*])),
                }
                Ok(())
            }
        }
    };
}

/// A table of keys, declared by [`section!`](crate::section!).
pub trait Table {
    /// Appends the value of each key, in order of declaration.
    fn put(&self, values: &mut Vec<Value>);

    /// Gives a key another value.
    ///
    /// # Errors
    /// If there is no such key, or the value does not fit it.
    fn set(&mut self, key: &str, value: Value) -> serde_json::Result<()>;
}

/// Returns the JSON Schema of a type, with all subschemas inlined.
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// Range of valid values of a numeric key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Whether values are whole numbers; these are never negative.
    pub is_whole: bool,
    /// Whether the key may be unset (`null`).
    pub is_optional: bool,
    /// Lower bound, and whether the bound itself is valid; `None`: unbounded, or 0 for whole numbers.
    pub min: Option<(f64, bool)>,
    /// Upper bound, and whether the bound itself is valid; `None`: unbounded.
    pub max: Option<(f64, bool)>,
}

impl Range {
    /// Reads the range from the schema of a key; `None` if the key is not numeric or is unbounded.
    pub fn of(schema: &Value) -> Option<Self> {
        let has_type = |name: &str| match &schema["type"] {
            Value::Array(names) => names.iter().any(|found| found == name),
            found => found == name,
        };
        let end = |closed: &str, open: &str| {
            let end = |key: &str, belongs: bool| Some((schema.get(key)?.as_f64()?, belongs));
            end(open, false).or(end(closed, true))
        };
        let is_whole = has_type("integer");
        let min = end("minimum", "exclusiveMinimum").filter(|min| !is_whole || min.0 > 0.0);
        let max = end("maximum", "exclusiveMaximum");
        let is_number = is_whole || has_type("number");
        let range = Self { is_whole, is_optional: has_type("null"), min, max };
        (is_number && (min.is_some() || max.is_some())).then_some(range)
    }

    /// Returns whether a number exceeds the upper bound.
    pub fn is_too_large(&self, number: f64) -> bool {
        self.max.is_some_and(|(max, belongs)| if belongs { number > max } else { number >= max })
    }

    /// Describes why a JSON value is out of range; `None` if it is valid. A `null` is an unset key or a number that is not
    /// finite, which JSON cannot represent.
    pub fn problem(&self, value: &Value) -> Option<String> {
        let Some(number) = value.as_f64() else {
            return (!self.is_optional).then(|| format!("is NaN, expected {self}"));
        };
        let is_too_small =
            self.min.is_some_and(|(min, belongs)| if belongs { number < min } else { number <= min });
        let is_too_large = self.is_too_large(number);
        if !is_too_small && !is_too_large {
            return None;
        }
        // For a count with two bounds, show only the violated one.
        let shown = match (self.is_whole, self.min, self.max) {
            (true, Some(_), Some((max, _))) if is_too_large => format!("at most {max}"),
            (true, Some((min, _)), Some(_)) => format!("at least {min}"),
            _ => self.to_string(),
        };
        let number = if self.is_whole { value.to_string() } else { number.to_string() };
        Some(format!("is {number}, expected {shown}"))
    }
}

/// Formats the range as an expectation: `at least 1`, `1 to 8`, `a positive number`, `0 or more and below 1`.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match (self.is_whole, self.min, self.max) {
            (_, Some((min, true)), Some((max, true))) => write!(f, "{min} to {max}"),
            (true, Some((min, _)), None) => write!(f, "at least {min}"),
            (_, None, Some((max, true))) => write!(f, "at most {max}"),
            (false, Some((0.0, false)), None) => write!(f, "a positive number"),
            (_, min, max) => {
                match min {
                    Some((min, true)) => write!(f, "{min} or more")?,
                    Some((min, false)) => write!(f, "above {min}")?,
                    None => {}
                }
                let and = if min.is_some() { " and " } else { "" };
                match max {
                    Some((max, true)) => write!(f, "{and}at most {max}"),
                    Some((max, false)) => write!(f, "{and}below {max}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ranges_say_what_is_wrong() {
        let problem =
            |schema: Value, value: Value| Range::of(&schema).and_then(|range| range.problem(&value));
        let whole = json!({ "type": ["integer", "null"], "minimum": 1, "maximum": 8 });
        assert_eq!(problem(whole.clone(), json!(0)).as_deref(), Some("is 0, expected at least 1"));
        assert_eq!(problem(whole.clone(), json!(9)).as_deref(), Some("is 9, expected at most 8"));
        assert_eq!(
            [json!(1), json!(8), json!(null)].map(|value| problem(whole.clone(), value)),
            [None, None, None]
        );
        let share = json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 });
        assert_eq!(
            problem(share.clone(), json!(1.0)).as_deref(),
            Some("is 1, expected 0 or more and below 1")
        );
        assert_eq!(problem(share, json!(0.0)), None);
        let positive = json!({ "type": "number", "exclusiveMinimum": 0 });
        assert_eq!(
            problem(positive.clone(), json!(0.0)).as_deref(),
            Some("is 0, expected a positive number")
        );
        assert_eq!(problem(positive, json!(f64::NAN)).as_deref(), Some("is NaN, expected a positive number"));
        let inside = json!({ "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1 });
        assert_eq!(problem(inside, json!(0.0)).as_deref(), Some("is 0, expected above 0 and below 1"));
        let closed = json!({ "type": "number", "minimum": 0.0, "maximum": 1.0 });
        assert_eq!(problem(closed, json!(1.5)).as_deref(), Some("is 1.5, expected 0 to 1"));
        assert_eq!(Range::of(&json!({ "type": "integer", "minimum": 0 })), None);
        assert_eq!(Range::of(&json!({ "type": "string" })), None);
    }
}
