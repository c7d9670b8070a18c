//! JSON Schemas of the files that hold keys, for completion, documentation and checks in editors.

use super::keys::{KeySpec, Kind, UNSET, sections};
use serde_json::{Map, Value, json};

/// Returns a schema of draft 2020-12 with the definitions that it refers to.
pub fn document(title: &str, definitions: Map<String, Value>, body: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    whole.insert("title".into(), title.into());
    whole.extend(body.as_object().cloned().unwrap_or_default());
    whole.insert("$defs".into(), definitions.into());
    whole.into()
}

/// Returns the schema of a file that holds only keys of a trial, such as a preset.
pub fn trial_schema() -> Value {
    let body = table_of(|key| Some(refer("value", key)));
    document("Keys of a trial of Mindscale", definitions("value", value_of).collect(), body)
}

/// Returns the schema of the values that a file may hold for a key.
pub fn value_of(key: &KeySpec) -> Value {
    let mut schema = key.schema.as_object().cloned().unwrap_or_default();
    for made in ["description", "default", "format"] {
        schema.shift_remove(made);
    }
    if let Some(Value::Object(items)) = schema.get_mut("items") {
        items.shift_remove("format");
    }
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        // TOML has no null.
        kinds.retain(|kind| kind != "null");
        let kind = kinds.first().cloned().unwrap_or_default();
        schema.insert("type".into(), kind);
    }
    if key.optional {
        schema = Map::from_iter([("anyOf".into(), json!([schema, { "const": UNSET }]))]);
    }
    schema.insert("description".into(), key.doc.clone().into());
    if !key.default.is_null() {
        schema.insert("default".into(), key.default.clone());
    }
    schema.into()
}

/// Returns a schema for each key, under the name that [`refer`] refers to.
pub fn definitions(family: &str, of: impl Fn(&KeySpec) -> Value) -> impl Iterator<Item = (String, Value)> {
    let weights = super::keys().filter_map(weight);
    let keys: Vec<KeySpec> = super::keys().cloned().chain(weights).collect();
    keys.into_iter().map(move |key| (format!("{family}.{}", key.path), of(&key)))
}

/// Returns a reference to a key's schema in a family of [`definitions`].
pub fn refer(family: &str, key: &KeySpec) -> Value {
    json!({ "$ref": format!("#/$defs/{family}.{}", key.path) })
}

/// Returns the schema of a table of keys, written as tables of their sections or as quoted full names; `of` returns the
/// schema of each key's value, or `None` to leave the key out.
pub fn table_of(of: impl Fn(&KeySpec) -> Option<Value>) -> Value {
    let (mut properties, mut in_full, mut patterns) = (Map::new(), Map::new(), Map::new());
    for section in sections() {
        let mut inside = Map::new();
        for key in &section.keys {
            let Some(schema) = of(key) else { continue };
            match key.path.split_once('.') {
                None => {
                    properties.insert(key.path.clone(), schema);
                }
                Some((_, name)) => {
                    let weight = weight(key).and_then(|weight| of(&weight));
                    let table = weight.as_ref().map(|weight| {
                        json!({ "anyOf": [{ "type": "object", "additionalProperties": weight }, schema] })
                    });
                    inside.insert(name.into(), table.unwrap_or_else(|| schema.clone()));
                    in_full.insert(key.path.clone(), schema);
                    patterns.extend(weight.map(|weight| (pattern(&key.path), weight)));
                }
            }
        }
        if !inside.is_empty() {
            let mut table = closed(inside);
            table["description"] = section.doc.clone().into();
            properties.insert(section.name.clone(), table);
        }
    }
    properties.extend(in_full);
    let mut table = closed(properties);
    if !patterns.is_empty() {
        table["patternProperties"] = patterns.into();
    }
    table
}

/// Returns the key of one weight of a table of weights; `None` if `key` is not such a table.
fn weight(key: &KeySpec) -> Option<KeySpec> {
    (key.kind == Kind::Weights).then(|| key.weight(&format!("{}.NAME", key.path)))
}

/// Returns the regular expression that matches the keys of a table of weights.
fn pattern(table: &str) -> String {
    format!("^{}\\.[A-Za-z0-9_-]+$", table.replace('.', "\\."))
}

/// Returns the schema of a table with exactly these keys.
pub fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
