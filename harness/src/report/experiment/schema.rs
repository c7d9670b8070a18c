//! The JSON Schema of experiment files.

use super::table_spec::{BEST, BETTER, COMPARE_KEYS, LAYOUT_KEYS, LAYOUTS, TABLE_KEYS, WIDTHS};
use crate::config::{closed, document};
use crate::report::analysis::laws::FIT_KINDS;
use crate::report::columns::Column;
use crate::report::kind::{KINDS, Kind};
use serde_json::{Map, Value, json};

/// Returns the JSON Schema of an experiment file.
pub fn experiment_schema() -> Value {
    let list_of = |items: Value, what: &str| json!({ "type": "array", "items": items, "description": what });
    let figures: Vec<Value> = KINDS.iter().map(Kind::schema).collect();
    let mut sweeps = list_of(text(), "Paths of sweep files, relative to this file's folder.");
    sweeps["minItems"] = 1.into();
    let tables = [table(&TABLE_KEYS, &["rows", "columns"]), table(&LAYOUT_KEYS, &["layout"])];
    let compare = table(&COMPARE_KEYS, &["claim", "metric", "a", "b"]);
    let fits: Vec<Value> = FIT_KINDS.iter().map(|(kind, keys)| fit(kind, keys)).collect();
    let properties = json!({
        "title": { "type": "string", "description": "Title of the report." },
        "question": { "type": "string", "description": "The question that the experiment answers." },
        "protocol": { "type": "string", "description": "Path of a text file with what was decided before the runs, relative to this file's folder. The report shows it." },
        "sweeps": sweeps,
        "labels": {
            "type": "object",
            "description": "Labels of columns and keys in tables and figures, with their units in parentheses.",
            "propertyNames": column(),
            "additionalProperties": text(),
        },
        "figure": list_of(json!({ "oneOf": figures }), "Figures; without any, the report draws default ones."),
        "table": list_of(json!({ "oneOf": tables }), "Tables in addition to the summary."),
        "compare": list_of(compare, "Claims to test; p-values are corrected within families."),
        "fit": list_of(json!({ "oneOf": fits }), "Scaling laws of the loss, fitted to the settings."),
    });
    let mut body = closed(properties.as_object().cloned().unwrap_or_default());
    body["required"] = json!(["sweeps"]);
    let names = |of: fn(&Column) -> bool| {
        let is_one = |name: &String| Column::find(name).is_ok_and(|column| of(&column));
        Column::names().into_iter().filter(is_one).collect::<Vec<_>>()
    };
    let definitions = Map::from_iter([
        ("column".to_string(), json!({ "anyOf": [{ "enum": names(|_| true) }, named()] })),
        ("number".to_string(), json!({ "anyOf": [{ "enum": names(Column::is_number) }, named()] })),
    ]);
    document("An experiment of Mindscale", definitions, body)
}

/// Pattern of the columns of named validation sets and the weights of named sources.
pub(crate) const NAMED: &str = "^(val[._](loss|bpb)|data\\.mix|world\\.practice)\\.[A-Za-z0-9_-]+$";

fn named() -> Value {
    json!({ "type": "string", "pattern": NAMED })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn column() -> Value {
    json!({ "$ref": "#/$defs/column" })
}

fn number() -> Value {
    json!({ "$ref": "#/$defs/number" })
}

fn words<T>(words: &[(&str, T)]) -> Value {
    json!({ "enum": words.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
}

/// Schema of a table with these keys.
fn table(keys: &[&str], required: &[&str]) -> Value {
    let mut properties = Map::new();
    for key in keys {
        properties.insert(key.to_string(), holds(key));
    }
    let mut table = closed(properties);
    table["required"] = json!(required);
    table
}

fn holds(key: &str) -> Value {
    let columns = |items: Value| json!({ "type": "array", "items": items, "minItems": 1 });
    match key {
        "across" => column(),
        "metric" | "n" | "d" | "flops" | "loss" => number(),
        "hold_out" => json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
        "rows" | "paired_by" => columns(column()),
        "columns" => columns(number()),
        "better" => words(&BETTER),
        "best" => words(&BEST),
        "width" => words(&WIDTHS),
        "layout" => words(&LAYOUTS),
        "margin" => json!({ "type": "number", "exclusiveMinimum": 0 }),
        _ => text(),
    }
}

fn fit(kind: &str, keys: &[&str]) -> Value {
    let mut fit = table(keys, &["kind"]);
    fit["properties"]["kind"] = json!({ "const": kind });
    fit
}
