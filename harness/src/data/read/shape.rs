//! Conversion of a JSON object, or of a CSV row as an object of texts, to a row, by its keys or columns.

use super::literal::Pairs;
use super::turns::{answer_of, conversation, preference, turns, unused_in_turns};
use crate::config::did_you_mean;
use crate::data::row::{Kind, Message, Row};
use serde_json::{Map, Value};
use std::fmt;

/// Layout of a row's keys or columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `text`.
    Text,
    /// MiniMind's `history`, `q`, `a`.
    Questions,
    /// `conversations` or `messages`.
    Turns { key: &'static str },
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `prompt`, `chosen`, `rejected`.
    Pair,
    /// `chosen`, `rejected`, both whole conversations.
    TurnPair,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("{text}"),
            Self::Questions => f.write_str("{history, q, a}"),
            Self::Turns { key } => write!(f, "{{{key}}}"),
            Self::Alpaca => f.write_str("{instruction, input, output}"),
            Self::Pair => f.write_str("{prompt, chosen, rejected}"),
            Self::TurnPair => f.write_str("{chosen, rejected}"),
        }
    }
}

pub(super) type Object = Map<String, Value>;

/// A key with content that its layout does not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unused {
    /// Name of the key, such as `messages[].name` for a key of a turn.
    pub(super) key: String,
    /// Keys that are used there.
    pub(super) known: &'static [&'static str],
}

/// A row and the content of its object that is not part of it.
#[derive(Debug)]
pub(super) struct Shaped {
    pub(super) row: Row,
    /// Whether turns after the last answer were dropped.
    pub(super) unanswered: bool,
    pub(super) unused: Vec<Unused>,
}

impl Shape {
    /// Determines the shape of a file's rows from the keys of its first row or its columns.
    pub(super) fn of(kind: Kind, keys: &[String], is_csv: bool) -> Result<Self, String> {
        let has = |key: &str| keys.iter().any(|known| known == key);
        let turns = ["conversations", "messages"].into_iter().find(|key| has(key) && !is_csv);
        let turns = turns.map(|key| Self::Turns { key });
        let (shape, expected) = match kind {
            Kind::Pretrain => {
                let expected = if is_csv { "text" } else { "text, or conversations, or messages" };
                (has("text").then_some(Self::Text).or(turns), expected)
            }
            Kind::Conversations => {
                let shape = if turns.is_some() {
                    turns
                } else if has("q") && has("a") {
                    Some(Self::Questions)
                } else if has("instruction") && has("output") {
                    Some(Self::Alpaca)
                } else {
                    None
                };
                let expected = match is_csv {
                    true => "q,a with or without history, or instruction,output with or without input",
                    false => {
                        "conversations, or messages, or instruction,output with or without input, or q,a with or without history"
                    }
                };
                (shape, expected)
            }
            Kind::Preferences => {
                let shape = if has("prompt") { Self::Pair } else { Self::TurnPair };
                let is_there = has("chosen") && has("rejected") && (has("prompt") || !is_csv);
                (is_there.then_some(shape), "prompt,chosen,rejected")
            }
            Kind::Labelled => (None, "a probe (data.source), as no file holds them"),
        };
        let found = if is_csv { "columns" } else { "keys" };
        shape.ok_or_else(|| {
            let lists = ["conversations", "messages"];
            let (mut known, may_list) = match kind {
                Kind::Pretrain => (vec!["text"], true),
                Kind::Conversations => (vec!["instruction", "output"], true),
                Kind::Preferences => (vec!["prompt", "chosen", "rejected"], false),
                Kind::Labelled => (vec![], false),
            };
            known.extend(lists.into_iter().filter(|_| may_list && !is_csv));
            // A key that is there is not meant by another one.
            let missing = known.iter().copied().filter(|name| !has(name));
            let others = keys.iter().filter(|key| !known.contains(&key.as_str()));
            let mut hints = others.map(|key| did_you_mean(key, missing.clone()));
            let hint = match may_list && is_csv && lists.into_iter().any(has) {
                true => "; lists of turns are read from JSON only".into(),
                false => hints.find(|hint| !hint.is_empty()).unwrap_or_default(),
            };
            format!("has the {found} {}; for {kind} expected {expected}{hint}", listed(keys))
        })
    }

    /// Returns the keys whose content is used.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["text"],
            Self::Questions => &["system", "history", "q", "a"],
            Self::Turns { key: "messages" } => &["system", "history", "messages"],
            Self::Turns { .. } => &["system", "history", "conversations"],
            Self::Alpaca => &["system", "history", "instruction", "input", "output"],
            Self::Pair => &["system", "history", "prompt", "chosen", "rejected"],
            Self::TurnPair => &["system", "history", "chosen", "rejected"],
        }
    }

    /// Converts an object to a row.
    pub(super) fn row(self, object: &Object, pairs: Pairs) -> Result<Shaped, String> {
        let mut unused = unused(object, self.keys(), "");
        let mut whole = true;
        let row = match self {
            Self::Text => Row::Text(text(object, "text")?),
            Self::Turns { key } => {
                unused.extend(unused_in_turns(object, key));
                let (turns, is_whole) = conversation(object, turns(object, key)?, key, pairs)?;
                whole = is_whole;
                Row::Chat(turns)
            }
            Self::Questions => chat(object, text(object, "q")?, text(object, "a")?, pairs)?,
            Self::Alpaca => {
                let (instruction, input) = (text(object, "instruction")?, optional(object, "input")?);
                let question = match input {
                    Some(input) if instruction.trim().is_empty() => input,
                    Some(input) => format!("{instruction}\n{input}"),
                    None => instruction,
                };
                chat(object, question, text(object, "output")?, pairs)?
            }
            Self::Pair | Self::TurnPair => {
                for key in ["prompt", "chosen", "rejected"] {
                    unused.extend(unused_in_turns(object, key));
                }
                let prompt = match object.get("prompt") {
                    _ if self == Self::TurnPair => Vec::new(),
                    Some(Value::Array(_)) => turns(object, "prompt")?,
                    _ => vec![Message::new("user", text(object, "prompt")?)],
                };
                let answers = [answer_of(object, "chosen")?, answer_of(object, "rejected")?];
                let is_answer =
                    |turns: &Vec<Message>| turns.first().is_some_and(|turn| turn.role == "assistant");
                if self == Self::TurnPair && answers.iter().any(is_answer) {
                    return Err(no_prompt(&unused));
                }
                preference(object, &prompt, answers, pairs)?
            }
        };
        Ok(Shaped { row, unanswered: !whole, unused })
    }
}

/// Describes a pair of answers without their question, and its keys that are not used.
fn no_prompt(unused: &[Unused]) -> String {
    let unused: Vec<String> = unused.iter().map(|unused| format!("\"{}\"", unused.key)).collect();
    let found = match unused.as_slice() {
        [] => String::new(),
        [one] => format!("; found {one}, which is not used"),
        several => format!("; found {}, which are not used", several.join(", ")),
    };
    format!(
        "has no \"prompt\", expected the question that \"chosen\" and \"rejected\" answer, or whole \
         conversations in both{found}"
    )
}

/// Makes a conversation of a question and its answer, after `system` and `history`.
fn chat(object: &Object, question: String, answer: String, pairs: Pairs) -> Result<Row, String> {
    let turns = vec![Message::new("user", question), Message::new("assistant", answer)];
    Ok(Row::Chat(conversation(object, turns, "q", pairs)?.0))
}

/// Returns a row's object, or an error if it is another value.
pub(super) fn object(value: &Value) -> Result<&Object, String> {
    value.as_object().ok_or_else(|| format!("is {}, expected an object", name(value)))
}

/// Returns the keys of an object that have content and are not `known`; their names are prefixed with `within`.
pub(super) fn unused(object: &Object, known: &'static [&'static str], within: &str) -> Vec<Unused> {
    let others = object.iter().filter(|(key, value)| !known.contains(&key.as_str()) && has_content(value));
    others.map(|(key, _)| Unused { key: format!("{within}{key}"), known }).collect()
}

/// Whether a value has content that would be lost if it were ignored.
fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Returns the text of a required key.
pub(super) fn text(object: &Object, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("\"{key}\" is {}, expected a text", name(other))),
        None => {
            let keys: Vec<String> = object.keys().cloned().collect();
            Err(format!("has no \"{key}\", expected a text; found {}", listed(&keys)))
        }
    }
}

/// Returns the text of an optional key, or `None` if it is missing or empty.
pub(super) fn optional(object: &Object, key: &str) -> Result<Option<String>, String> {
    match object.get(key).filter(|value| has_content(value)) {
        None => Ok(None),
        Some(_) => text(object, key).map(Some),
    }
}

/// Names the type of a value, for messages.
pub(super) fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Joins names for a message: at most 8 of them, 40 characters each.
fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(8).map(|name| name.chars().take(40).collect()).collect();
    if names.len() > 8 {
        shown.push("...".into());
    }
    if shown.is_empty() { "(none)".into() } else { shown.join(",") }
}
