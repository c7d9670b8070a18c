//! Turns of a conversation, and the rule on their order that holds for every layout.
//!
//! A conversation is an optional system text followed by alternating questions and answers, beginning with a question.
//! The keys `system` and `history`, allowed in addition to a layout's own, come before its turns. A turn may specify
//! whether it carries loss, by `weight`, `train`, `training` or `trained`.

use super::literal::{Pairs, history_of};
use super::shape::{Object, Unused, name, object, optional, text, unused};
use crate::data::row::{Message, Row};
use serde_json::Value;

const RULE: &str = "expected an optional system turn first, then alternating user and assistant turns";

/// Keys by which a turn specifies whether it carries loss.
const TRAINED_KEYS: [&str; 4] = ["weight", "train", "training", "trained"];

const TURN_KEYS: [&[&str]; 2] = [
    &["role", "content", "weight", "train", "training", "trained"],
    &["from", "value", "weight", "train", "training", "trained"],
];

/// Returns the used keys of a turn; the first two are those of its role and its text.
fn keys_of(turn: &Object) -> &'static [&'static str] {
    TURN_KEYS[usize::from(turn.contains_key("from"))]
}

/// Returns the turns that a key lists.
pub(super) fn turns(of: &Object, key: &str) -> Result<Vec<Message>, String> {
    let Some(Value::Array(items)) = of.get(key) else {
        let found = of.get(key).map_or("missing", name);
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
    let keys = keys_of(item);
    let role = match text(item, keys[0])?.as_str() {
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" => "assistant",
        "system" => "system",
        other @ ("tool" | "function" | "observation" | "function_call" | "tool_call" | "tool_response") => {
            return Err(format!("the role is {other:?}, but tool calls are not supported"));
        }
        other => return Err(format!("the role is {other:?}, expected system, user or assistant")),
    };
    Ok(Message { trained: trained(item)?, ..Message::new(role, text(item, keys[1])?) })
}

/// Returns whether a turn carries loss, if it specifies it as 0 or 1, or as a truth value.
fn trained(turn: &Object) -> Result<Option<bool>, String> {
    let mut found = None;
    for key in TRAINED_KEYS {
        let value = match turn.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) if number.as_f64() == Some(0.0) => false,
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => true,
            Some(other) => {
                let shown = if other.is_number() { other.to_string() } else { name(other).to_string() };
                return Err(format!("\"{key}\" is {shown}, expected 0, 1, true or false"));
            }
        };
        if let Some((other, before)) = found.filter(|(_, before)| *before != value) {
            return Err(format!("\"{other}\" is {before} and \"{key}\" is {value}, expected one of them"));
        }
        found = Some((key, value));
    }
    Ok(found.map(|(_, value)| value))
}

/// Returns the unused keys with content in the turns of `key`, each once.
pub(super) fn unused_in_turns(of: &Object, key: &str) -> Vec<Unused> {
    let mut found: Vec<Unused> = Vec::new();
    for turn in of.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object) {
        for unused in unused(turn, keys_of(turn), &format!("{key}[].")) {
            if !found.contains(&unused) {
                found.push(unused);
            }
        }
    }
    found
}

/// Returns a conversation up to its last answer, made of the object's `system` and `history` and the turns of `key`; and
/// whether it is complete. Turns after the last answer, which nothing answers, are dropped.
pub(super) fn conversation(
    of: &Object,
    turns: Vec<Message>,
    key: &str,
    pairs: Pairs,
) -> Result<(Vec<Message>, bool), String> {
    in_turn(&turns, &format!("\"{key}\""))?;
    let mut all = [before(of, &turns, pairs)?, without_system(turns)].concat();
    let Some(last) = all.iter().rposition(|message| message.role == "assistant") else {
        return Err(format!("\"{key}\" has no assistant turn"));
    };
    let whole = last + 1 == all.len();
    all.truncate(last + 1);
    Ok((all, whole))
}

/// Returns the system text, from `system` or the first turn, and the turns of `history`.
fn before(of: &Object, turns: &[Message], pairs: Pairs) -> Result<Vec<Message>, String> {
    let mut before = Vec::new();
    before.extend(turns.first().filter(|first| first.role == "system").cloned());
    if let Some(text) = optional(of, "system")? {
        match before.first() {
            None => before.push(Message::new("system", text)),
            Some(first) if first.content == text => {}
            Some(_) => return Err("\"system\" and the first turn are two system texts, expected one".into()),
        }
    }
    if let Some(value) = of.get("history") {
        before.extend(history_of(value, pairs)?);
    }
    Ok(before)
}

fn without_system(mut turns: Vec<Message>) -> Vec<Message> {
    turns.retain(|turn| turn.role != "system");
    turns
}

/// Checks that questions and answers alternate; `shown` names their list in messages.
fn in_turn(turns: &[Message], shown: &str) -> Result<(), String> {
    let mut last = "assistant";
    for (index, turn) in turns.iter().enumerate() {
        let problem = match (last, turn.role.as_str()) {
            (_, "system") if index > 0 => "a system text that is not the first turn",
            ("assistant", "assistant") => "an answer without a question",
            ("user", "user") => "a question, but the previous one has no answer",
            (_, role) => {
                last = if role == "system" { "assistant" } else { role };
                continue;
            }
        };
        return Err(format!("{shown}[{index}] is {problem}, {RULE}"));
    }
    Ok(())
}

/// Returns the turns of an answer, which is a text, or turns that end with it.
pub(super) fn answer_of(of: &Object, key: &str) -> Result<Vec<Message>, String> {
    match of.get(key) {
        Some(Value::Array(_)) => turns(of, key),
        _ => Ok(vec![Message::new("assistant", text(of, key)?)]),
    }
}

/// Makes a preference pair. Each of `chosen` and `rejected` continues `prompt`, or begins with a copy of it.
pub(super) fn preference(
    of: &Object,
    prompt: &[Message],
    answers: [Vec<Message>; 2],
    pairs: Pairs,
) -> Result<Row, String> {
    in_turn(prompt, "\"prompt\"")?;
    let [chosen, rejected] = answers;
    let (before_chosen, chosen) = answered(of, prompt, chosen, "chosen", pairs)?;
    let (before_rejected, rejected) = answered(of, prompt, rejected, "rejected", pairs)?;
    if before_chosen != before_rejected {
        return Err("\"chosen\" and \"rejected\" differ before their last turns, expected one prompt".into());
    }
    if before_chosen.iter().any(|turn| turn.trained == Some(true))
        || chosen.trained == Some(false)
        || rejected.trained == Some(false)
    {
        return Err(
            "a turn specifies whether it is trained on, but in preference pairs exactly the last answers are"
                .into(),
        );
    }
    Ok(Row::Preference { prompt: before_chosen, chosen: chosen.content, rejected: rejected.content })
}

/// Returns the turns before an answer, and the answer.
fn answered(
    of: &Object,
    prompt: &[Message],
    turns: Vec<Message>,
    key: &str,
    pairs: Pairs,
) -> Result<(Vec<Message>, Message), String> {
    let system = |turns: &[Message]| turns.first().filter(|turn| turn.role == "system").cloned();
    let first = match (system(prompt), system(&turns)) {
        (Some(a), Some(b)) if a.content != b.content => {
            return Err(format!("\"prompt\" and \"{key}\" have two system texts, expected one"));
        }
        (a, b) => a.or(b),
    };
    let is_continuation = turns.first().is_some_and(|turn| turn.role == "assistant");
    if !is_continuation {
        in_turn(&turns, &format!("\"{key}\""))?;
    }
    let (asked, own) = (without_system(prompt.to_vec()), without_system(turns));
    let begins_with = |start: &[Message]| {
        own.len() > start.len()
            && start.iter().zip(&own).all(|(a, b)| (&a.role, &a.content) == (&b.role, &b.content))
    };
    let mut all = before(of, first.as_slice(), pairs)?;
    let earlier = without_system(all.clone());
    if is_continuation {
        all.extend(asked);
    } else if begins_with(&[earlier.as_slice(), &asked].concat()) {
        all.retain(|turn| turn.role == "system");
    } else if !begins_with(&asked) {
        return Err(format!("\"{key}\" neither begins with \"prompt\" nor continues it"));
    }
    all.extend(own);
    in_turn(&all, &format!("\"prompt\" + \"{key}\""))?;
    match all.pop() {
        Some(answer) if answer.role == "assistant" => Ok((all, answer)),
        _ => Err(format!("\"{key}\" does not end with an assistant turn")),
    }
}
