//! Sheets as JSON, one question per line: `choices` and `answer` as in MMLU's files, `choices` of `text` and `label` with
//! `answerKey` as in ARC's, or the columns of our CSV as keys.

use super::{MAX_OPTIONS, Read, SheetQuestion, answer, expected};
use crate::data::read::JsonLines;
use crate::records::letter;
use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Keys of a question, in addition to letters; the last one is only for human readers.
const KNOWN: [&str; 7] = ["id", "question", "choices", "answer", "answerKey", "subject", "explanation"];

/// Reads the questions of a sheet.
pub(super) fn read(sheet: &mut Read, subject: &str) -> Result<()> {
    let shown = sheet.path.display();
    let mut rows = JsonLines::open(sheet.path)?;
    while let Some(row) = rows.next().with_context(|| format!("{shown}: cannot be read further"))? {
        let number = sheet.questions.len();
        let read = |value: Value| match value {
            Value::Object(keys) => question(&keys, number, subject),
            _ => {
                Err("is not an object, expected {\"question\": .., \"choices\": [..], \"answer\": ..}".into())
            }
        };
        sheet.add(row.line, row.value.and_then(read))?;
    }
    Ok(())
}

fn question(keys: &Map<String, Value>, number: usize, subject: &str) -> Result<SheetQuestion, String> {
    let get = |key: &str| keys.get(key).filter(|value| !value.is_null());
    let has_choices = get("choices").is_some();
    let is_letter = |key: &str| (0..MAX_OPTIONS).any(|i| key == letter(i).to_string());
    for (key, value) in keys.iter().filter(|(_, value)| !value.is_null() && **value != "") {
        if !KNOWN.contains(&key.as_str()) && (has_choices || !is_letter(key)) {
            let value: String = value.to_string().chars().take(40).collect();
            return Err(format!(
                "the key {key:?} holds {value}, expected id, question, choices, answer, explanation only"
            ));
        }
    }
    if let Some(named) = get("subject").filter(|named| *named != subject) {
        return Err(format!("has the subject {named}, expected {subject:?} by the name of the file"));
    }
    let id = match get("id") {
        None => number.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(id) => text(id, "id")?,
    };
    let asked = get("question").ok_or("has no question")?;
    let asked = text(asked, "question")?;
    let (options, labels) = options(keys, get("choices"))?;
    if !(2..=MAX_OPTIONS).contains(&options.len()) {
        return Err(format!("has {} options, expected 2 to {MAX_OPTIONS}", options.len()));
    }
    let right = match (get("answer"), get("answerKey")) {
        (Some(_), Some(_)) => return Err("has both an answer and an answerKey, expected one of them".into()),
        (None, None) => return Err("has no answer".into()),
        (Some(right), None) | (None, Some(right)) => right,
    };
    let (count, labelled) =
        (options.len(), right.as_str().and_then(|right| labels.iter().position(|l| l == right)));
    let answer = match (labelled, right) {
        (Some(place), _) => letter(place),
        (None, Value::String(_)) if !labels.is_empty() => {
            return Err(format!("the answer is {right}, expected one of the labels {}", labels.join(", ")));
        }
        (None, Value::String(right)) => answer(right, count)?,
        (None, right) => match right.as_u64().filter(|place| *place < count as u64) {
            Some(place) => letter(place as usize),
            None => {
                let expected = expected(count);
                return Err(format!(
                    "the answer is {right}, expected {expected}, or an index from 0 to {}",
                    count - 1
                ));
            }
        },
    };
    Ok(SheetQuestion { id, question: asked, options, answer })
}

/// Returns the options and, if the file has them, their labels.
fn options(keys: &Map<String, Value>, choices: Option<&Value>) -> Result<(Vec<String>, Vec<String>), String> {
    let all = |list: &[Value]| -> Result<Vec<String>, String> {
        let option = |(i, value)| text(value, &format!("option {}", letter(i)));
        list.iter().enumerate().map(option).collect()
    };
    match choices {
        Some(Value::Array(list)) => Ok((all(list)?, vec![])),
        Some(Value::Object(both)) => {
            let list = |key: &str| both.get(key).and_then(Value::as_array).filter(|_| both.len() == 2);
            let (Some(texts), Some(labels)) = (list("text"), list("label")) else {
                return Err("its choices are an object, expected {\"text\": [..], \"label\": [..]}".into());
            };
            let labels: Vec<String> = labels.iter().map(|l| text(l, "label")).collect::<Result<_, _>>()?;
            if labels.len() != texts.len() || labels.iter().enumerate().any(|(i, l)| labels[..i].contains(l))
            {
                return Err(format!("has {} options with the labels {}", texts.len(), labels.join(", ")));
            }
            Ok((all(texts)?, labels))
        }
        Some(other) => Err(format!("its choices are {other}, expected a list of texts")),
        None => {
            let mut found = vec![];
            for i in 0..MAX_OPTIONS {
                match keys.get(&letter(i).to_string()).filter(|value| !value.is_null()) {
                    Some(_) if found.len() < i => {
                        return Err(format!("has an option {} and no {}", letter(i), letter(found.len())));
                    }
                    value => found.extend(value.cloned()),
                }
            }
            Ok((all(&found)?, vec![]))
        }
    }
}

fn text(value: &Value, what: &str) -> Result<String, String> {
    match value.as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text.into()),
        Some(_) => Err(format!("the {what} is empty")),
        None => Err(format!("the {what} is {value}, expected a text")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Sheet, read_sheets};
    use super::*;

    pub const QUESTION: &str = "{\"question\":\"q\",\"choices\":[\"a\",\"b\",\"c\"],\"answer\":\"B\"}\n";

    fn read(text: &str) -> Result<Sheet, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("law_val.jsonl"), text).unwrap();
        let read = read_sheets(dir.path(), "val").map(|mut sheets| sheets.remove(0));
        read.map_err(|error| format!("{error:#}").replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn the_usual_files_are_read() {
        let text = format!(
            "{QUESTION}{}\n\n{}\n{}\n",
            r#"{"question":"q","choices":["a","b"],"answer":1,"subject":"law"}"#,
            r#"{"id":"x","question":"q","choices":{"text":["a","b","c","d","e"],"label":["1","2","3","4","5"]},"answerKey":"5"}"#,
            r#"{"id":7,"question":"q","A":"a","B":"b","C":"c","D":"d","answer":"D","explanation":"why"}"#
        );
        let sheet = read(&text).unwrap();
        let found: Vec<(&str, usize, char)> =
            sheet.questions.iter().map(|q| (q.id.as_str(), q.options.len(), q.answer)).collect();
        assert_eq!(sheet.subject, "law");
        assert_eq!(found, [("0", 3, 'B'), ("1", 2, 'B'), ("x", 5, 'E'), ("7", 4, 'D')]);
        assert!(sheet.questions.iter().all(|q| q.question == "q" && q.options[1] == "b"));
    }

    #[test]
    fn broken_sheets_say_where_and_what() {
        for (row, expected) in [
            ("[]", "is not an object, expected {\"question\": .., \"choices\": [..], \"answer\": ..}"),
            ("{", "is not valid JSON"),
            (r#"{"choices":["a","b"],"answer":0}"#, "has no question"),
            (r#"{"question":" ","choices":["a","b"],"answer":0}"#, "the question is empty"),
            (r#"{"question":"q","choices":["a"],"answer":0}"#, "has 1 options, expected 2 to 26"),
            (r#"{"question":"q","choices":["a",""],"answer":0}"#, "the option B is empty"),
            (r#"{"question":"q","choices":["a",2],"answer":0}"#, "the option B is 2, expected a text"),
            (
                r#"{"question":"q","choices":"ab","answer":0}"#,
                "its choices are \"ab\", expected a list of texts",
            ),
            (
                r#"{"question":"q","choices":["a","b"],"answer":2}"#,
                "the answer is 2, expected A or B, or an index from 0 to 1",
            ),
            (r#"{"question":"q","choices":["a","b"],"answer":"C"}"#, "the answer is \"C\", expected A or B"),
            (r#"{"question":"q","choices":["a","b"]}"#, "has no answer"),
            (
                r#"{"question":"q","choices":["a","b"],"answer":0,"answerKey":"A"}"#,
                "has both an answer and an answerKey, expected one of them",
            ),
            (
                r#"{"question":"q","choices":["a","b"],"answer":0,"hint":"it is a"}"#,
                "the key \"hint\" holds \"it is a\", expected id, question, choices, answer, explanation only",
            ),
            (
                r#"{"question":"q","choices":["a","b"],"answer":0,"subject":"art"}"#,
                "has the subject \"art\", expected \"law\" by the name of the file",
            ),
            (
                r#"{"question":"q","choices":{"text":["a","b"],"label":["1","1"]},"answerKey":"1"}"#,
                "has 2 options with the labels 1, 1",
            ),
            (
                r#"{"question":"q","choices":{"text":["a","b"],"label":["1","2"]},"answerKey":"3"}"#,
                "the answer is \"3\", expected one of the labels 1, 2",
            ),
            (r#"{"question":"q","A":"a","C":"c","answer":"A"}"#, "has an option C and no B"),
            (
                r#"{"id":"0","question":"q","choices":["a","b"],"answer":0}"#,
                "the id \"0\" is a duplicate of line 1",
            ),
        ] {
            let found = read(&format!("{QUESTION}{row}\n")).unwrap_err();
            assert!(
                found.starts_with(&format!("law_val.jsonl:2: {expected}")),
                "{found}\nwhere expected\n{expected}"
            );
        }
    }
}
