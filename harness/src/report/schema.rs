//! The JSON Schema of experiment files.

use super::columns::Column;
use super::laws::FIT_KINDS;
use super::wanted::{
    BEST, BETTER, COMPARE_KEYS, ERRORS, FITS, KINDS, LAYOUT_KEYS, LAYOUTS, LOSS_X, SPLITS, TABLE_KEYS,
    WIDTHS, figure_keys,
};
use crate::config::{TrainStage, closed, document};
use serde_json::{Map, Value, json};

/// The schema of an experiment file.
pub fn experiment_schema() -> Value {
    let list_of = |items: Value, what: &str| json!({ "type": "array", "items": items, "description": what });
    let figures: Vec<Value> = KINDS.iter().map(|(kind, _)| figure(kind)).collect();
    let mut sweeps = list_of(text(), "Sweep files, seen from this file's folder.");
    sweeps["minItems"] = 1.into();
    let by_layout = |key: &str| (key == "layout").then(|| words(&LAYOUTS));
    let tables =
        [table(&TABLE_KEYS, &["rows", "columns"], |_| None), table(&LAYOUT_KEYS, &["layout"], by_layout)];
    let compare = table(&COMPARE_KEYS, &["claim", "metric", "a", "b"], |_| None);
    let fits: Vec<Value> = FIT_KINDS.iter().map(|(kind, keys)| fit(kind, keys)).collect();
    let properties = json!({
        "title": { "type": "string", "description": "Title of the report." },
        "question": { "type": "string", "description": "What is asked." },
        "sweeps": sweeps,
        "labels": {
            "type": "object",
            "description": "What tables and figures call columns and keys, with their units in parentheses.",
            "propertyNames": column(),
            "additionalProperties": text(),
        },
        "figure": list_of(json!({ "oneOf": figures }), "Figures; none asks for the usual ones."),
        "table": list_of(json!({ "oneOf": tables }), "Tables beside the summary."),
        "compare": list_of(compare, "Claims, tested together."),
        "fit": list_of(json!({ "oneOf": fits }), "Laws of loss through settings."),
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

/// Columns of named validation sets and weights of named sources.
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

/// A table with these keys; `own` says what it has for some of them, others hold the same everywhere.
fn table(keys: &[&str], required: &[&str], own: impl Fn(&str) -> Option<Value>) -> Value {
    let mut properties = Map::new();
    for key in keys {
        properties.insert(key.to_string(), own(key).unwrap_or_else(|| usual(key)));
    }
    let mut table = closed(properties);
    table["required"] = json!(required);
    table
}

fn usual(key: &str) -> Value {
    let columns = |items: Value| json!({ "type": "array", "items": items, "minItems": 1 });
    match key {
        "x" | "group" | "across" => column(),
        "y" | "value" | "metric" => number(),
        "rows" | "paired_by" => columns(column()),
        "columns" => columns(number()),
        "error" => words(&ERRORS),
        "fit" => words(&FITS),
        "split" => words(&SPLITS),
        "better" => words(&BETTER),
        "best" => words(&BEST),
        "width" => words(&WIDTHS),
        "log_x" | "log_y" => json!({ "type": "boolean" }),
        "stage" => json!({ "enum": TrainStage::all().map(TrainStage::name).collect::<Vec<_>>() }),
        "margin" => json!({ "type": "number", "exclusiveMinimum": 0 }),
        _ => text(),
    }
}

fn fit(kind: &str, keys: &[&str]) -> Value {
    table(keys, &["kind"], |key| match key {
        "kind" => Some(json!({ "const": kind })),
        "n" | "d" | "flops" | "loss" => Some(number()),
        "hold_out" => Some(json!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 })),
        _ => None,
    })
}

fn figure(kind: &str) -> Value {
    let required: &[&str] = match kind {
        "loss" => &["kind"],
        "heatmap" => &["kind", "x", "y", "value"],
        _ => &["kind", "x", "y"],
    };
    table(figure_keys(kind), required, |key| match (kind, key) {
        (_, "kind") => Some(json!({ "const": kind })),
        ("scatter" | "pareto", "x") => Some(number()),
        ("heatmap", "y") => Some(column()),
        ("loss", "x") => Some(words(&LOSS_X)),
        _ => None,
    })
}
