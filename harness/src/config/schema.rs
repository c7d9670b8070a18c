//! JSON Schemas of the files that hold keys, by which editors complete, explain and check them.

use super::keys::{KeySpec, UNSET, sections};
use serde_json::{Map, Value, json};

/// A schema of draft 2020-12, with what it refers to.
pub fn document(title: &str, definitions: Map<String, Value>, body: Value) -> Value {
    let mut whole = Map::new();
    whole.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    whole.insert("title".into(), title.into());
    whole.extend(body.as_object().cloned().unwrap_or_default());
    whole.insert("$defs".into(), definitions.into());
    whole.into()
}

/// The schema of a file that holds keys of a trial only, as a preset does.
pub fn trial_schema() -> Value {
    let body = table_of(|key| Some(refer("value", key)));
    document("Keys of a trial of Mindscale", definitions("value", value_of).collect(), body)
}

/// What a file may hold for a key.
pub fn value_of(key: &KeySpec) -> Value {
    let mut schema = key.schema.as_object().cloned().unwrap_or_default();
    for made in ["description", "default", "format"] {
        schema.shift_remove(made);
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

/// A schema for each key, under a name to which [`refer`] refers.
pub fn definitions(family: &str, of: impl Fn(&KeySpec) -> Value) -> impl Iterator<Item = (String, Value)> {
    super::keys().map(move |key| (format!("{family}.{}", key.path), of(key)))
}

/// The schema of a family of [`definitions`] for a key.
pub fn refer(family: &str, key: &KeySpec) -> Value {
    json!({ "$ref": format!("#/$defs/{family}.{}", key.path) })
}

/// A table of keys, written as tables of their sections or in full in quotes; `of` says what stands for each.
pub fn table_of(of: impl Fn(&KeySpec) -> Option<Value>) -> Value {
    let (mut properties, mut in_full) = (Map::new(), Map::new());
    for section in sections() {
        let mut inside = Map::new();
        for key in &section.keys {
            let Some(schema) = of(key) else { continue };
            match key.path.split_once('.') {
                None => {
                    properties.insert(key.path.clone(), schema);
                }
                Some((_, name)) => {
                    inside.insert(name.into(), schema.clone());
                    in_full.insert(key.path.clone(), schema);
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
    closed(properties)
}

/// A table with these keys and no others.
pub fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}
