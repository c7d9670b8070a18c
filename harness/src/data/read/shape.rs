//! From the columns of a CSV file or the keys of a JSON object to a row.

use super::literal::history;
use crate::data::row::{Kind, Message, Row};
use serde_json::{Map, Value};
use std::fmt;

/// Which keys or columns hold what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// `text`.
    Text { column: usize },
    /// MiniMind's `history`, `q`, `a`.
    Questions { history: Option<usize>, question: usize, answer: usize },
    /// `conversations` or `messages`.
    Turns { key: &'static str },
    /// `instruction`, `input`, `output`.
    Alpaca { columns: [Option<usize>; 3] },
    /// `prompt`, `chosen`, `rejected`.
    Pair { columns: [usize; 3] },
    /// `chosen`, `rejected`: whole conversations.
    TurnPair,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { .. } => f.write_str("{text}"),
            Self::Questions { history: Some(_), .. } => f.write_str("{history, q, a}"),
            Self::Questions { history: None, .. } => f.write_str("{q, a}"),
            Self::Turns { key } => write!(f, "{{{key}}}"),
            Self::Alpaca { .. } => f.write_str("{instruction, input, output}"),
            Self::Pair { .. } => f.write_str("{prompt, chosen, rejected}"),
            Self::TurnPair => f.write_str("{chosen, rejected}"),
        }
    }
}

type Object = Map<String, Value>;

impl Shape {
    /// The shape of a CSV file.
    pub(super) fn of_columns(kind: Kind, columns: &[String]) -> Result<Self, String> {
        let column = |name: &str| columns.iter().position(|column| column == name);
        let (shape, expected) = match kind {
            Kind::Pretrain => (column("text").map(|column| Self::Text { column }), "text"),
            Kind::Conversations => {
                let questions = column("q").zip(column("a")).map(|(question, answer)| Self::Questions {
                    history: column("history"),
                    question,
                    answer,
                });
                let alpaca = column("instruction").zip(column("output")).map(|(instruction, output)| {
                    Self::Alpaca { columns: [Some(instruction), column("input"), Some(output)] }
                });
                (questions.or(alpaca), "history,q,a or instruction,input,output")
            }
            Kind::Preferences => {
                let columns = column("prompt").zip(column("chosen")).zip(column("rejected"));
                let pair = columns
                    .map(|((prompt, chosen), rejected)| Self::Pair { columns: [prompt, chosen, rejected] });
                (pair, "prompt,chosen,rejected")
            }
        };
        shape.ok_or_else(|| format!("has the columns {}; for {kind} expected {expected}", listed(columns)))
    }

    /// The shape of JSON objects, by the first of them.
    pub(super) fn of_object(kind: Kind, value: &Value) -> Result<Self, String> {
        let object = object(value)?;
        let has = |key: &str| object.contains_key(key);
        let (shape, expected) = match kind {
            Kind::Pretrain => (has("text").then_some(Self::Text { column: 0 }), "\"text\""),
            Kind::Conversations => {
                let shape = if has("conversations") {
                    Some(Self::Turns { key: "conversations" })
                } else if has("messages") {
                    Some(Self::Turns { key: "messages" })
                } else if has("instruction") && has("output") {
                    Some(Self::Alpaca { columns: [None; 3] })
                } else if has("q") && has("a") {
                    Some(Self::Questions { history: None, question: 0, answer: 0 })
                } else {
                    None
                };
                (shape, "\"conversations\", or \"messages\", or \"instruction\", \"input\" and \"output\"")
            }
            Kind::Preferences => {
                let pair = has("chosen") && has("rejected");
                let shape = if has("prompt") { Self::Pair { columns: [0; 3] } } else { Self::TurnPair };
                (pair.then_some(shape), "\"prompt\", \"chosen\" and \"rejected\"")
            }
        };
        let keys: Vec<String> = object.keys().cloned().collect();
        shape.ok_or_else(|| format!("has the keys {}; for {kind} expected {expected}", listed(&keys)))
    }

    /// A row of a CSV file; `cells` has as many cells as the file has columns.
    pub(super) fn row_of_cells(&self, cells: &[String]) -> Result<Row, String> {
        let cell = |column: usize| cells.get(column).cloned().unwrap_or_default();
        match self {
            Self::Text { column } => Ok(Row::Text(cell(*column))),
            Self::Questions { history: turns, question, answer } => {
                let mut messages = history(&turns.map(cell).unwrap_or_default())?;
                messages.push(Message::new("user", cell(*question)));
                messages.push(Message::new("assistant", cell(*answer)));
                Ok(Row::Chat(messages))
            }
            Self::Alpaca { columns } => {
                let [instruction, input, output] = columns.map(|column| column.map(cell).unwrap_or_default());
                Ok(alpaca(instruction, &input, output))
            }
            Self::Pair { columns } => {
                let [prompt, chosen, rejected] = columns.map(cell);
                Ok(Row::Preference { prompt: vec![Message::new("user", prompt)], chosen, rejected })
            }
            Self::Turns { .. } | Self::TurnPair => Err("is CSV, expected JSON".into()),
        }
    }

    /// A row of a JSON file.
    pub(super) fn row_of_object(&self, value: &Value) -> Result<Row, String> {
        let object = object(value)?;
        match self {
            Self::Text { .. } => Ok(Row::Text(text(object, "text")?)),
            Self::Turns { key } => Ok(Row::Chat(answered(turns(object, key)?, key)?)),
            Self::Questions { .. } => {
                let mut messages = match object.get("history") {
                    None | Some(Value::Null) => Vec::new(),
                    Some(Value::String(cell)) => history(cell)?,
                    Some(list) => history(&list.to_string())?,
                };
                messages.push(Message::new("user", text(object, "q")?));
                messages.push(Message::new("assistant", text(object, "a")?));
                Ok(Row::Chat(messages))
            }
            Self::Alpaca { .. } => {
                let input = match object.get("input") {
                    None | Some(Value::Null) => String::new(),
                    Some(_) => text(object, "input")?,
                };
                Ok(alpaca(text(object, "instruction")?, &input, text(object, "output")?))
            }
            Self::Pair { .. } => {
                let prompt = match object.get("prompt") {
                    Some(Value::Array(_)) => turns(object, "prompt")?,
                    _ => vec![Message::new("user", text(object, "prompt")?)],
                };
                asked(&prompt, "prompt")?;
                let (chosen, rejected) = (answer(object, "chosen")?, answer(object, "rejected")?);
                Ok(Row::Preference { prompt, chosen, rejected })
            }
            Self::TurnPair => {
                let (mut chosen, mut rejected) = (turns(object, "chosen")?, turns(object, "rejected")?);
                let (better, worse) =
                    (last_answer(&mut chosen, "chosen")?, last_answer(&mut rejected, "rejected")?);
                if chosen != rejected {
                    return Err(
                        "\"chosen\" and \"rejected\" differ before their last turns, expected one prompt"
                            .into(),
                    );
                }
                asked(&chosen, "chosen")?;
                Ok(Row::Preference { prompt: chosen, chosen: better, rejected: worse })
            }
        }
    }
}

fn object(value: &Value) -> Result<&Object, String> {
    value.as_object().ok_or_else(|| format!("is {}, expected an object", name(value)))
}

fn text(object: &Object, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("\"{key}\" is {}, expected a text", name(other))),
        None => Err(format!("has no \"{key}\", expected a text")),
    }
}

/// An answer as a text, or as a conversation whose last turn it is.
fn answer(object: &Object, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::Array(_)) => last_answer(&mut turns(object, key)?, key),
        _ => text(object, key),
    }
}

fn last_answer(messages: &mut Vec<Message>, key: &str) -> Result<String, String> {
    match messages.pop() {
        Some(last) if last.role == "assistant" => Ok(last.content),
        _ => Err(format!("\"{key}\" does not end in a turn of the assistant")),
    }
}

fn asked(prompt: &[Message], key: &str) -> Result<(), String> {
    match prompt.last() {
        Some(last) if last.role == "user" => Ok(()),
        _ => Err(format!("\"{key}\" has no question, expected a user's turn before the answer")),
    }
}

/// The conversation up to its last answer: nothing answers what is said after it.
fn answered(mut messages: Vec<Message>, key: &str) -> Result<Vec<Message>, String> {
    let Some(last) = messages.iter().rposition(|message| message.role == "assistant") else {
        return Err(format!("\"{key}\" has no turn of the assistant"));
    };
    messages.truncate(last + 1);
    Ok(messages)
}

fn turns(object: &Object, key: &str) -> Result<Vec<Message>, String> {
    let Some(Value::Array(items)) = object.get(key) else {
        let found = object.get(key).map_or("missing", name);
        return Err(format!("\"{key}\" is {found}, expected a list of turns"));
    };
    items
        .iter()
        .enumerate()
        .map(|(index, item)| turn(item).map_err(|why| format!("\"{key}\"[{index}]: {why}")))
        .collect()
}

fn turn(item: &Value) -> Result<Message, String> {
    let item = object(item)?;
    let (role, content) = if item.contains_key("from") { ("from", "value") } else { ("role", "content") };
    let role = match text(item, role)?.as_str() {
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" => "assistant",
        "system" => "system",
        other => return Err(format!("the role is {other:?}, expected system, user or assistant")),
    };
    Ok(Message::new(role, text(item, content)?))
}

fn alpaca(instruction: String, input: &str, output: String) -> Row {
    let question = if input.is_empty() { instruction } else { format!("{instruction}\n{input}") };
    Row::Chat(vec![Message::new("user", question), Message::new("assistant", output)])
}

fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Names for a message, cut where there are many.
fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(8).map(|name| name.chars().take(40).collect()).collect();
    if names.len() > 8 {
        shown.push("...".into());
    }
    if shown.is_empty() { "(none)".into() } else { shown.join(",") }
}
