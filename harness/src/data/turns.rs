//! Locates the words of each turn in a rendered conversation.
//!
//! A template is a program that may trim, repeat or leave out the content of a turn. It is rendered twice: with the words,
//! and with a mark in place of each turn's words. Text between the marks belongs to the template; the words are found
//! between these pieces, unchanged or trimmed. *Invariant:* words are located exactly or the conversation is refused.

use super::chat::ChatTemplate;
use super::row::Message;
use anyhow::{Context, Result, bail, ensure};
use std::ops::Range;

/// Delimiters of a mark, around the number of the turn that it replaces; both are private-use characters.
const MARK: [char; 2] = ['\u{f0000}', '\u{f0001}'];

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Text of the conversation.
    pub text: String,
    /// Byte ranges of the turns' words, in order; all other text is the template's.
    pub contents: Vec<Range<usize>>,
    /// Located turns of the assistant, in order.
    pub answers: Vec<AnswerText>,
}

/// An answer inside a rendered conversation, as byte ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerText {
    /// Index of the turn.
    pub turn: usize,
    /// From the end of the turn's opening, such as `<s>assistant`, to the end of its closing, such as `</s>\n`.
    pub whole: Range<usize>,
    /// Words of the answer.
    pub words: Range<usize>,
}

/// A piece of a rendering with marks.
enum Piece {
    /// Text of the template.
    Own(String),
    /// Words of the turn with this index.
    Words(usize),
}

impl ChatTemplate {
    /// Renders a conversation as [`Self::render`] does and locates the words of each turn.
    ///
    /// # Errors
    /// If the chat template refuses the conversation, or leaves out, changes, repeats or moves turns.
    pub fn locate(&self, messages: &[Message]) -> Result<Rendered> {
        let text = self.render(messages)?;
        let pieces = pieces(&self.render(&marked(messages))?);
        for (turn, message) in messages.iter().enumerate() {
            let is_there = pieces.iter().any(|piece| matches!(piece, Piece::Words(t) if *t == turn));
            ensure!(
                is_there || message.content.trim().is_empty(),
                "the chat template leaves out turn {} of a conversation (role {})",
                turn + 1,
                message.role
            );
        }
        let placed = place(&text, &pieces, messages)
            .context("the chat template alters the messages, so answers cannot be located in its output")?;
        let closing = self.closing();
        let mut answers: Vec<AnswerText> = vec![];
        for (i, (turn, words)) in placed.iter().enumerate() {
            if messages[*turn].role != "assistant" {
                continue;
            }
            let before = if i == 0 { 0 } else { placed[i - 1].1.end };
            let opening = text[before..words.start].trim_end().len();
            let next = placed.get(i + 1).map_or(text.len(), |(_, words)| words.start);
            let end = match turn + 1 == messages.len() {
                true => text.len(),
                false => words.end + common(&text[words.end..next], closing),
            };
            ensure!(
                answers.last().is_none_or(|last| last.turn < *turn),
                "the chat template repeats or moves turn {} of a conversation, an answer",
                turn + 1
            );
            answers.push(AnswerText { turn: *turn, whole: before + opening..end, words: words.clone() });
        }
        let contents = placed.into_iter().map(|(_, words)| words).filter(|words| !words.is_empty()).collect();
        Ok(Rendered { text, contents, answers })
    }
}

/// Returns the text after the answer in a conversation of one question and one answer.
pub(super) fn closing(template: &ChatTemplate) -> Option<String> {
    let turns = [Message::new("user", "?"), Message::new("assistant", "!")];
    match pieces(&template.render(&marked(&turns)).ok()?).pop()? {
        Piece::Own(text) => Some(text),
        Piece::Words(_) => None,
    }
}

/// Replaces the words of each turn by a mark; blank turns stay as they are.
fn marked(messages: &[Message]) -> Vec<Message> {
    let mark = |(turn, message): (usize, &Message)| {
        if message.content.trim().is_empty() {
            return message.clone();
        }
        Message { content: format!("{}{turn}{}", MARK[0], MARK[1]), ..message.clone() }
    };
    messages.iter().enumerate().map(mark).collect()
}

/// Splits a rendering at its marks.
fn pieces(rendered: &str) -> Vec<Piece> {
    let mut pieces = vec![];
    let mut rest = rendered;
    let next = |rest: &str| -> Option<(usize, usize, usize)> {
        let start = rest.find(MARK[0])?;
        let number = start + MARK[0].len_utf8();
        let length = rest[number..].find(MARK[1])?;
        let turn = rest[number..number + length].parse().ok()?;
        Some((start, turn, number + length + MARK[1].len_utf8()))
    };
    while let Some((start, turn, end)) = next(rest) {
        pieces.push(Piece::Own(rest[..start].to_owned()));
        pieces.push(Piece::Words(turn));
        rest = &rest[end..];
    }
    pieces.push(Piece::Own(rest.to_owned()));
    pieces
}

/// Returns the turn index and byte range of each turn's words in `text`, in order; blank turns are left out.
fn place(text: &str, pieces: &[Piece], messages: &[Message]) -> Result<Vec<(usize, Range<usize>)>> {
    let mut placed = vec![];
    let mut at = 0;
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Own(own) => {
                ensure!(text[at..].starts_with(own.as_str()), "its own text depends on the messages");
                at += own.len();
            }
            Piece::Words(turn) => {
                let words = messages[*turn].content.as_str();
                let mut is_next = |words: &str| match (text[at..].strip_prefix(words), pieces.peek()) {
                    (Some(rest), Some(Piece::Own(own))) => rest.starts_with(own.as_str()),
                    (rest, _) => rest.is_some(),
                };
                let forms = [words, words.trim_end(), words.trim_start(), words.trim()];
                let Some(found) = forms.into_iter().find(|words| is_next(words)) else {
                    bail!("turn {} (role {})", turn + 1, messages[*turn].role);
                };
                placed.push((*turn, at..at + found.len()));
                at += found.len();
            }
        }
    }
    ensure!(at == text.len(), "its own text depends on the messages");
    Ok(placed)
}

/// Returns the length of the common prefix of two texts, in bytes.
pub(super) fn common(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::data::chat::{ChatTemplate, MINIMIND};
    use crate::data::read::Pairs;
    use crate::data::row::Message;
    use crate::data::{SpecialText, Tokenizer};
    use crate::testing::shared;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.strip() }}<|im_end|>\n{% endfor %}\
                          {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn turns(turns: &[(&str, &str)]) -> Vec<Message> {
        turns.iter().map(|(role, content)| Message::new(role, *content)).collect()
    }

    /// Returns the whole answers and their words, as text.
    fn answers(template: &str, said: &[(&str, &str)]) -> Vec<[String; 2]> {
        let template = ChatTemplate::new(template, "<s>", "</s>").unwrap();
        let found = template.locate(&turns(said)).unwrap();
        assert_eq!(found.text, template.render(&turns(said)).unwrap());
        let text = |range: &std::ops::Range<usize>| found.text[range.clone()].to_owned();
        found.answers.iter().map(|answer| [text(&answer.whole), text(&answer.words)]).collect()
    }

    #[test]
    fn answers_are_found_in_templates_of_several_families() {
        let said = [("user", " q"), ("assistant", "a\n"), ("user", "q"), ("assistant", " a ")];
        let want = |all: [[&str; 2]; 2]| all.map(|answer| answer.map(String::from)).to_vec();
        assert_eq!(answers(MINIMIND, &said), want([["\na\n</s>\n", "a\n"], ["\n a </s>\n", " a "]]));
        assert_eq!(answers(CHATML, &said), want([["\na<|im_end|>\n", "a"], ["\na<|im_end|>\n", "a"]]));
        let llama = "{% for m in messages %}{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] + '<|eot|>' }}{% endfor %}";
        assert_eq!(answers(llama, &said), want([["\n\na\n<|eot|>", "a\n"], ["\n\n a <|eot|>", " a "]]));
        let llama2 = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}\
                      {% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";
        assert_eq!(answers(llama2, &said), want([[" a </s>", "a"], [" a </s>", "a"]]));
    }

    #[test]
    fn what_is_said_may_be_anything() {
        // Words that equal text of the template, words of another turn, marks of this module, and blanks.
        for words in ["assistant\n", "</s>\n<s>user\n", "q", "\u{f0000}1\u{f0001}", "{{ m }}", "  "] {
            for template in [MINIMIND, CHATML] {
                let said = [("user", words), ("assistant", words), ("user", "q"), ("assistant", "a")];
                let found = answers(template, &said);
                assert_eq!(found.last().unwrap()[1], "a", "{words:?}");
                let blank = words.trim().is_empty();
                assert_eq!(found.len(), if blank { 1 } else { 2 }, "{words:?}");
                assert!(blank || found[0][1].trim() == words.trim(), "{words:?}");
            }
        }
    }

    #[test]
    fn a_template_that_changes_or_drops_what_is_said_is_refused() {
        let error = |template: &str, said: &[(&str, &str)]| {
            let template = ChatTemplate::new(template, "<s>", "</s>").unwrap();
            format!("{:#}", template.locate(&turns(said)).unwrap_err())
        };
        let upper = "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}";
        let said = [("user", "q"), ("assistant", "a")];
        assert!(error(upper, &said).contains("alters the messages"), "{}", error(upper, &said));
        let late = [("user", "q"), ("system", "s"), ("assistant", "a")];
        assert_eq!(
            error(MINIMIND, &late),
            "the chat template leaves out turn 2 of a conversation (role system)"
        );
        let twice = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.content }}\n{% endfor %}";
        assert!(error(twice, &said).contains("repeats or moves turn 2"), "{}", error(twice, &said));
    }

    fn tokenizers() -> Option<Vec<Tokenizer>> {
        let paths = ["data/minimind_tokenizer", "cases/15_letter_ids/pfx"];
        let mut all: Vec<Tokenizer> =
            paths.iter().map(|p| Some(Tokenizer::load(&shared(p)?).unwrap())).collect::<Option<_>>()?;
        all.push(Tokenizer::train(std::iter::once("从前有座山 a b c".to_owned()), 270).unwrap());
        // A tokenizer that puts a space before the first word only.
        let dir = tempfile::tempdir().unwrap();
        let file = shared("data/minimind_tokenizer/tokenizer.json")?;
        let mut json: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Metaspace", "replacement": " ", "prepend_scheme": "first", "split": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]});
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        all.push(Tokenizer::load(dir.path()).unwrap());
        Some(all)
    }

    /// Checks for ordinary text that the ids equal those of the whole text and that the answers are found where they are.
    fn check(tokenizer: &Tokenizer, messages: &[Message]) {
        let found = tokenizer.conversation(messages, SpecialText::Characters).unwrap();
        let rendered = tokenizer.render(messages).unwrap();
        assert_eq!(found.text, rendered);
        assert_eq!(found.ids, tokenizer.encode(&rendered).unwrap(), "{rendered:?}");
        assert_eq!(found.spelled, 0);
        let said = messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role == "assistant" && !message.content.trim().is_empty());
        let said: Vec<usize> = said.map(|(turn, _)| turn).collect();
        assert_eq!(found.answers.iter().map(|answer| answer.turn).collect::<Vec<_>>(), said);
        for answer in &found.answers {
            let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
            let words = text(&found.ids[answer.words.clone()]);
            assert_eq!(words.trim(), messages[answer.turn].content.trim(), "{rendered:?}");
            let whole = text(&found.ids[answer.whole.clone()]);
            // A tokenizer that puts a space before the first word after a control token decodes to that space.
            let whole = whole.replace("</s> ", "</s>");
            assert_eq!(whole, format!("\n{}</s>\n", messages[answer.turn].content), "{rendered:?}");
        }
    }

    #[test]
    fn ids_are_those_of_the_whole_text() {
        let (Some(tokenizers), Some(golden)) = (tokenizers(), shared("golden/dataset/meta.json")) else {
            return;
        };
        let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let cell = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let rows = golden["sft_columns_as_str"].as_array().unwrap();
        let rows = rows.iter().filter(|row| !row.to_string().contains("<s>"));
        let rows: Vec<Vec<Message>> = rows
            .map(|row| {
                let mut messages =
                    crate::data::read::history(&cell(row, "history"), Pairs::Minimind).unwrap_or_default();
                messages.push(Message::new("user", cell(row, "q")));
                messages.push(Message::new("assistant", cell(row, "a")));
                messages
            })
            .collect();
        assert_eq!(rows.len(), 18);
        for tokenizer in &tokenizers {
            rows.iter().for_each(|row| check(tokenizer, row));
            for row in golden["pretrain_columns_as_str"].as_array().unwrap() {
                let text = cell(row, "text");
                let (ids, spelled) = tokenizer.document(&text, SpecialText::Control).unwrap();
                assert_eq!(ids, tokenizer.encode(&format!("<s>{text}</s>")).unwrap());
                let plain = tokenizer.document(&text, SpecialText::Characters).unwrap().0;
                assert_eq!(plain == ids, spelled == 0, "{text:?}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_ordinary_text_is_tokenized_as_one(
            said in prop::collection::vec(("[ \n\t]?[a-zA-Z0-9 你好山\n😀é.,'/|{}]{0,12}", any::<bool>()), 1..5),
        ) {
            let Some(tokenizers) = tokenizers() else { return Ok(()) };
            let mut messages = vec![Message::new("system", "s")];
            for (words, is_answer) in said {
                let role = if is_answer { "assistant" } else { "user" };
                if messages.last().unwrap().role == role || is_answer && messages.len() == 1 {
                    messages.push(Message::new(if is_answer { "user" } else { "assistant" }, "x"));
                }
                messages.push(Message::new(role, words));
            }
            for tokenizer in &tokenizers {
                check(tokenizer, &messages);
            }
        }
    }

    #[test]
    fn special_tokens_in_words_are_characters_and_the_rest_is_unchanged() {
        let Some(tokenizers) = tokenizers() else { return };
        for tokenizer in &tokenizers {
            let ends = |words: &str| {
                let said = turns(&[("system", "s"), ("user", words), ("assistant", words)]);
                tokenizer.conversation(&said, SpecialText::Characters).unwrap()
            };
            let found = ends("它是 <s>assistant\n 这样</s>的 <unk>");
            let text = tokenizer.decode(&found.ids, false).unwrap();
            assert_eq!(text.replace(' ', ""), found.text.replace(' ', ""));
            assert_eq!(found.spelled, 6);
            // Only the template's own control tokens: <s>user .. </s> <s>assistant .. </s>.
            let control: Vec<u32> = found.ids.iter().copied().filter(|id| *id < 3).collect();
            assert_eq!(control, [1, 2, 1, 2]);
            // Turns without special tokens are tokenized as in any other conversation.
            let plain = ends("它是");
            let start = |ids: &[u32]| ids.iter().position(|id| *id == 2).unwrap();
            let upto = start(&plain.ids);
            assert_eq!(found.ids[..upto], plain.ids[..upto]);
            let answer = &found.answers[0];
            let words = tokenizer.decode(&found.ids[answer.words.clone()], false).unwrap();
            assert_eq!(words.trim(), "它是 <s>assistant\n 这样</s>的 <unk>");
            let (document, spelled) = tokenizer.document("a</s>b", SpecialText::Characters).unwrap();
            assert_eq!(document.iter().filter(|id| **id < 3).count(), 2);
            assert_eq!(spelled, 1);
            let as_control = tokenizer.document("a</s>b", SpecialText::Control).unwrap().0;
            assert_eq!(as_control, tokenizer.encode("<s>a</s>b</s>").unwrap());
        }
    }

    #[test]
    fn added_tokens_that_the_template_sets_are_control_tokens_and_other_added_words_are_not() {
        // <|im_start|> and <|im_end|> are added, not special; "hello" is an added word.
        let dir = tempfile::tempdir().unwrap();
        let trained = Tokenizer::train(std::iter::once("hello im start end".to_owned()), 270).unwrap();
        trained.save(dir.path()).unwrap();
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let vocab = json["model"]["vocab"].as_object().unwrap().len() as u64;
        for (index, content) in ["<|im_start|>", "<|im_end|>", "hello"].iter().enumerate() {
            json["added_tokens"].as_array_mut().unwrap().push(json!({
                "id": vocab + index as u64, "content": content, "single_word": false, "lstrip": false,
                "rstrip": index < 2, "normalized": false, "special": false
            }));
        }
        std::fs::write(&path, json.to_string()).unwrap();
        let config = json!({"bos_token": "<s>", "eos_token": "<|im_end|>", "chat_template": CHATML});
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let [start, end, hello] = ["<|im_start|>", "<|im_end|>", "hello"].map(|t| tokenizer.id(t).unwrap());
        let said = turns(&[("user", "hello <|im_start|>assistant"), ("assistant", "hello")]);
        let found = tokenizer.conversation(&said, SpecialText::Characters).unwrap();
        assert_eq!(found.spelled, 1);
        let added: Vec<u32> = found.ids.iter().copied().filter(|id| u64::from(*id) >= vocab).collect();
        assert_eq!(added, [start, hello, end, start, hello, end]);
        assert_eq!(found.ids[found.answers[0].words.clone()], [hello]);
        let plain = turns(&[("user", "hello"), ("assistant", "hello")]);
        let found = tokenizer.conversation(&plain, SpecialText::Characters).unwrap();
        assert_eq!(found.ids, tokenizer.encode(&found.text).unwrap());
        assert_eq!(found.spelled, 0);
    }
}
