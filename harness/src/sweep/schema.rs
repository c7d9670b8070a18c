//! The JSON Schema of sweep files.

use super::draw::{DISTRIBUTIONS, MAX_TRIALS};
use super::solve::{MAX_MULTIPLE, ParamCount, SIZES};
use super::tune::{KEEP, MAX_RUNGS, RUNGS};
use crate::config::{
    KeySpec, Kind, PRESETS, TrainStage, closed, definitions, document, refer, table_of, value_of,
};
use serde_json::{Map, Value, json};

/// The schema of a sweep file.
pub fn sweep_schema() -> Value {
    let presets: Vec<&str> = PRESETS.iter().map(|preset| preset.0).collect();
    let values = table_of(|key| Some(refer("value", key)));
    let mut excluded = values.clone();
    excluded["minProperties"] = 1.into();
    let mut axes = table_of(|key| {
        let mut list = refer("list", key);
        list["uniqueItems"] = true.into();
        Some(list)
    });
    axes["description"] = "The swept keys: each takes its values in turn, in all combinations.".into();
    let mut zip = table_of(|key| Some(refer("list", key)));
    zip["minProperties"] = 1.into();
    let slurm = values["properties"]["slurm"].clone();
    let properties = json!({
        "name": { "type": "string", "description": "Name of the sweep and of its folder of results." },
        "description": { "type": "string", "description": "What it is for." },
        "preset": { "enum": presets, "description": "A recipe that comes with the program, under [base]." },
        "base": described(values, "Settings that all trials share."),
        "axes": axes,
        "zip": tables(zip, "Keys that are swept together, with lists of equal length."),
        "solve": described(table_of(solved), "Keys computed for each trial so that a constraint holds."),
        "exclude": tables(excluded, "Combinations to leave out: trials in which all of these hold."),
        "sample": sample(),
        "tune": tune(),
        "slurm": slurm,
    });
    let mut body = closed(properties.as_object().cloned().unwrap_or_default());
    body["required"] = json!(["name"]);
    let mut all: Map<String, Value> = definitions("value", value_of).collect();
    all.extend(definitions("list", list_of));
    all.extend(definitions("draw", draw_of));
    document("A sweep of Mindscale", all, body)
}

fn described(mut schema: Value, what: &str) -> Value {
    schema["description"] = what.into();
    schema
}

fn tables(table: Value, what: &str) -> Value {
    json!({ "type": "array", "items": table, "description": what })
}

/// The schema of the list of values that a key takes in turn.
fn list_of(key: &KeySpec) -> Value {
    json!({ "type": "array", "items": refer("value", key), "minItems": 1, "description": key.doc })
}

/// The schema of the distributions that a key can be drawn from.
fn draw_of(key: &KeySpec) -> Value {
    let pair = |item: Value| json!({ "type": "array", "items": item, "minItems": 2, "maxItems": 2 });
    let is_number = matches!(key.kind, Kind::Whole | Kind::Number);
    let mut ways = Map::new();
    for way in DISTRIBUTIONS {
        let from = match way {
            "choice" => refer("list", key),
            _ if !is_number => continue,
            "int_uniform" => pair(json!({ "type": "integer", "minimum": 0 })),
            "log_uniform" => pair(json!({ "type": "number", "exclusiveMinimum": 0 })),
            _ => pair(json!({ "type": "number" })),
        };
        ways.insert(way.into(), from);
    }
    let mut table = closed(ways);
    (table["minProperties"], table["maxProperties"]) = (1.into(), 1.into());
    described(table, &key.doc)
}

fn sample() -> Value {
    let mut table = table_of(|key| Some(refer("draw", key)));
    let draws = table["properties"]["seed"].take();
    let seed = json!({
        "anyOf": [{ "type": "integer", "minimum": 0 }, draws],
        "default": 1,
        "description": "Seed of the draws; a table draws the seed of the trial.",
    });
    let own = json!({
        "count": {
            "type": "integer", "minimum": 1, "maximum": MAX_TRIALS, "description": "Number of different trials.",
        },
        "method": {
            "enum": ["random", "halton"],
            "default": "random",
            "description": "Independent draws, or Halton's sequence, which covers the ranges evenly.",
        },
        "seed": seed,
    });
    if let (Some(all), Value::Object(own)) = (table["properties"].as_object_mut(), own) {
        all.extend(own);
    }
    table["required"] = json!(["count"]);
    described(table, "Draws of the axes, and of keys from ranges, instead of every combination.")
}

fn tune() -> Value {
    let mut table = table_of(|key| {
        let mut list = refer("list", key);
        (list["minItems"], list["uniqueItems"]) = (2.into(), true.into());
        Some(list)
    });
    let stages: Vec<&str> = TrainStage::all().map(TrainStage::name).collect();
    let own = json!({
        "seeds": {
            "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1, "uniqueItems": true,
            "description": "Seeds of the candidates; no trial of the study may have one of them.",
        },
        "method": {
            "enum": ["grid", "halving"],
            "default": "grid",
            "description": "Every value at full length, or successive halving: rungs of growing length, to which the best values of the previous rung advance.",
        },
        "rungs": {
            "type": "integer", "minimum": 2, "maximum": MAX_RUNGS, "default": RUNGS,
            "description": "Rungs of successive halving.",
        },
        "keep": {
            "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": KEEP,
            "description": "The share of values that advance to the next rung, and the ratio of a rung's length to that of the next.",
        },
        "stage": {
            "enum": stages,
            "description": "The stage whose validation loss decides; unset: that of the key, or pretrain.",
        },
        "at": described(
            table_of(|key| Some(refer("value", key))),
            "Values of swept keys for the candidates; settings that differ only in these keys share a tuned value.",
        ),
    });
    if let (Some(all), Value::Object(own)) = (table["properties"].as_object_mut(), own) {
        all.extend(own);
    }
    table["required"] = json!(["seeds"]);
    described(
        table,
        "A key whose value is chosen for each setting before the study, by validation loss on separate seeds.",
    )
}

/// The schema of the constraints that a key can be solved for; `None` if it cannot be solved.
fn solved(key: &KeySpec) -> Option<Value> {
    let number = json!({ "type": "number", "minimum": 1 });
    let stage = key.path.strip_suffix(".tokens").and_then(TrainStage::named);
    if stage.is_some() {
        let all_of = |properties: Value| {
            let properties = properties.as_object().cloned().unwrap_or_default();
            let names: Vec<String> = properties.keys().cloned().collect();
            let mut table = closed(properties);
            table["required"] = names.into();
            table
        };
        let flops = described(
            all_of(json!({ "flops": number })),
            "A number of tokens that takes this many floating-point operations.",
        );
        let time = all_of(json!({
            "seconds": { "type": "number", "exclusiveMinimum": 0 },
            "measured": { "type": "string", "description": "The trials.csv of the report of an earlier run." },
        }));
        let time = described(
            time,
            "A number of tokens that takes this many seconds at the measured speed of the shape.",
        );
        return Some(json!({ "oneOf": [flops, time] }));
    }
    SIZES.contains(&key.path.as_str()).then(|| {
        let properties = json!({
            "multiple_of": { "type": "integer", "minimum": 1, "maximum": MAX_MULTIPLE },
            "tolerance": { "type": "number", "minimum": 0, "exclusiveMaximum": 1 },
        });
        let counted = ParamCount::NAMES.map(|(_, name)| name);
        let counts = counted.map(|name| (name.to_string(), number.clone()));
        let properties = properties.as_object().cloned().unwrap_or_default();
        let mut table = closed(counts.into_iter().chain(properties).collect());
        table["oneOf"] = json!(counted.map(|name| json!({ "required": [name] })));
        described(table, "A size that gives the model this many weights.")
    })
}
