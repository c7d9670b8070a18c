//! Tokenization of conversations and documents, with the positions of answers.

use super::Tokenizer;
use crate::data::chat::ChatTemplate;
use crate::data::control::Encoded;
use crate::data::row::Message;
use crate::data::turns::{Rendered, common};
use anyhow::{Context, Result, anyhow};
use std::ops::Range;

/// How a special token that a text spells, such as `</s>`, is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// As text: the ids of its characters.
    Characters,
    /// As the control token itself, as in MiniMind.
    Control,
}

/// A tokenized conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Text in the chat template's form.
    pub text: String,
    /// Token ids of the whole text.
    pub ids: Vec<u32>,
    /// Non-blank turns of the assistant, in order.
    pub answers: Vec<Answer>,
    /// Number of control tokens that the words of its turns spell.
    pub spelled: u64,
}

impl Conversation {
    fn new(rendered: Rendered, encoded: Encoded) -> Self {
        let (Rendered { text, answers, .. }, Encoded { ids, offsets, spelled }) = (rendered, encoded);
        let answers = answers.into_iter().map(|answer| {
            let words = &text[answer.words.clone()];
            let trimmed = answer.words.start + words.len() - words.trim_start().len();
            let trimmed = trimmed..trimmed + words.trim().len();
            let within = |range: &Range<usize>| {
                let is_in = |&(start, end): &(usize, usize)| {
                    range.contains(&start) || start < trimmed.end && trimmed.start < end
                };
                let first = offsets.iter().position(is_in).unwrap_or(offsets.len());
                let last = offsets.iter().rposition(is_in);
                first..last.map_or(first, |last| last + 1)
            };
            Answer { turn: answer.turn, whole: within(&answer.whole), words: within(&answer.words) }
        });
        Self { answers: answers.collect(), text, ids, spelled }
    }
}

/// An answer inside a conversation, as ranges of ids.
///
/// An id belongs to the range in which its text begins; an id that begins before the words of an answer and contains part
/// of them, apart from blanks at their ends, belongs to the answer as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Index of the turn.
    pub turn: usize,
    /// From the end of the turn's opening, such as `<s>assistant`, to the end of its closing, such as `</s>\n`.
    pub whole: Range<usize>,
    /// Words of the answer.
    pub words: Range<usize>,
}

impl Tokenizer {
    /// Tokenizes the whole text of a conversation and locates its answers. The text ends with the opening of an answer if
    /// the last turn is not the assistant's.
    ///
    /// # Errors
    /// If the chat template refuses the conversation, drops a turn or changes the content of one.
    pub fn conversation(&self, messages: &[Message], special: SpecialText) -> Result<Conversation> {
        let rendered = self.locate(messages)?;
        let encoded = self.encode_text(&rendered.text, &rendered.contents, special)?;
        Ok(Conversation::new(rendered, encoded))
    }

    /// Returns [`Self::conversation`] for `messages` followed by each of several last turns. The common prefix, up to its last
    /// control token, is tokenized once if the tokenizer handles the text after that token independently.
    ///
    /// # Errors
    /// As [`Self::conversation`].
    pub fn conversations(
        &self,
        messages: &[Message],
        last: &[Message],
        special: SpecialText,
    ) -> Result<Vec<Conversation>> {
        let with = |last: &Message| self.locate(&[messages, std::slice::from_ref(last)].concat());
        let all: Vec<Rendered> = last.iter().map(with).collect::<Result<_>>()?;
        let Some(first) = all.first() else { return Ok(vec![]) };
        let whole = self.encode_text(&first.text, &first.contents, special)?;
        let same = all.iter().map(|other| common(&first.text, &other.text)).min().unwrap_or(0);
        let cut = self.control.last_template_token(&first.text[..same], &first.contents);
        let encode_tail = |rendered: &Rendered| {
            let contents = rendered.contents.iter().filter(|words| words.start >= cut);
            let contents: Vec<Range<usize>> =
                contents.map(|words| words.start - cut..words.end - cut).collect();
            let mut tail = self.encode_text(&rendered.text[cut..], &contents, special)?;
            tail.offsets.iter_mut().for_each(|(start, end)| (*start, *end) = (*start + cut, *end + cut));
            Ok::<_, anyhow::Error>(tail)
        };
        let kept = whole.offsets.partition_point(|(start, _)| *start < cut);
        let tail = encode_tail(first)?;
        let is_apart = tail.ids == whole.ids[kept..] && tail.offsets == whole.offsets[kept..];
        let encode = |rendered: &Rendered| match is_apart {
            true => {
                let tail = encode_tail(rendered)?;
                let ids = [&whole.ids[..kept], &tail.ids].concat();
                let offsets = [&whole.offsets[..kept], &tail.offsets].concat();
                Ok(Encoded {
                    ids,
                    offsets,
                    spelled: self.control.count_in_words(&rendered.text, &rendered.contents),
                })
            }
            false => self.encode_text(&rendered.text, &rendered.contents, special),
        };
        let mut encoded = vec![];
        for rendered in &all[1..] {
            encoded.push(encode(rendered)?);
        }
        encoded.insert(0, whole);
        Ok(all
            .into_iter()
            .zip(encoded)
            .map(|(rendered, encoded)| Conversation::new(rendered, encoded))
            .collect())
    }

    /// Returns the ids of `<s>text</s>`, a pretraining document, and the number of control tokens that the text spells.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn document(&self, text: &str, special: SpecialText) -> Result<(Vec<u32>, u64)> {
        let contents = self.bos.len()..self.bos.len() + text.len();
        self.enclosed(text, &[contents], special)
    }

    /// Returns the ids of a text alone; special tokens that it spells are encoded as characters.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode_characters(&self, text: &str) -> Result<Vec<u32>> {
        let contents = 0..text.len();
        Ok(self.encode_text(text, &[contents], SpecialText::Characters)?.ids)
    }

    /// Does the same as [`Self::document`] for a conversation: `<s>`, its text in the chat template's form, `</s>`.
    ///
    /// # Errors
    /// As [`Self::conversation`], or if the tokenizer fails on the text.
    pub fn conversation_document(
        &self,
        messages: &[Message],
        special: SpecialText,
    ) -> Result<(Vec<u32>, u64)> {
        let Rendered { text, contents, .. } = self.locate(messages)?;
        let bos = self.bos.len();
        let contents: Vec<_> = contents.into_iter().map(|words| words.start + bos..words.end + bos).collect();
        self.enclosed(&text, &contents, special)
    }

    fn enclosed(
        &self,
        text: &str,
        contents: &[Range<usize>],
        special: SpecialText,
    ) -> Result<(Vec<u32>, u64)> {
        let encoded = self.encode_text(&[&self.bos, text, &self.eos].concat(), contents, special)?;
        Ok((encoded.ids, encoded.spelled))
    }

    fn encode_text(&self, text: &str, contents: &[Range<usize>], special: SpecialText) -> Result<Encoded> {
        let encoded = self.control.encode(&self.inner, text, contents, special == SpecialText::Control);
        encoded.with_context(|| format!("{}: a text cannot be tokenized", self.from))
    }

    fn locate(&self, messages: &[Message]) -> Result<Rendered> {
        self.template()?.locate(messages).with_context(|| self.from.clone())
    }

    /// Returns how many control tokens a text spells.
    pub fn spelled(&self, text: &str) -> u64 {
        self.control.spelled(text)
    }

    /// Returns the ids of the beginning of a document, starting with the begin-of-text token. With [`SpecialText::Control`]
    /// the text may contain that token already.
    ///
    /// # Errors
    /// If the tokenizer fails on the text.
    pub fn encode_opening(&self, text: &str, special: SpecialText) -> Result<Vec<u32>> {
        if special == SpecialText::Control && text.starts_with(&self.bos) {
            return self.encode(text);
        }
        let contents = self.bos.len()..self.bos.len() + text.len();
        Ok(self.encode_text(&[&self.bos, text].concat(), &[contents], special)?.ids)
    }

    /// Formats a conversation, followed by the opening of an answer if the last turn is not the assistant's.
    ///
    /// # Errors
    /// If there is no chat template or it refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.template()?.render(messages).with_context(|| self.from.clone())
    }

    /// Returns the ids of the marker after which an answer begins, `<s>assistant`.
    ///
    /// # Errors
    /// If there is no chat template or no marker is found in it.
    pub fn answer_marker(&self) -> Result<Vec<u32>> {
        let marker = self.template()?.marker(&self.special_tokens()).with_context(|| self.from.clone())?;
        self.encode(&marker)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        match &self.no_template {
            None => Ok(&self.template),
            Some(why) => Err(anyhow!("{why}")).with_context(|| self.from.clone()),
        }
    }

    /// Returns the reason if conversations cannot be rendered.
    pub fn no_template(&self) -> Option<&str> {
        self.no_template.as_deref()
    }

    /// Returns the source of the chat template, if conversations can be rendered.
    pub fn chat_template(&self) -> Option<&str> {
        self.no_template.is_none().then(|| self.template.source())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::{golden, ids, minimind};
    use super::*;
    use crate::testing::shared;

    #[test]
    fn golden_conversations_render_as_minimind_renders_them() {
        let (Some(golden), Some(tokenizer)) = (golden("chat_template.json"), minimind()) else {
            return;
        };
        for row in golden.as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(row["messages"].clone()).unwrap();
            let rendered = tokenizer.render(&messages).unwrap();
            assert_eq!(rendered, row["rendered"].as_str().unwrap());
            assert_eq!(tokenizer.encode(&rendered).unwrap(), ids(&row["ids"]));
        }
    }

    #[test]
    fn conversations_with_several_ends_are_what_each_is_by_itself() {
        let mut all = vec![];
        all.extend(minimind());
        all.extend(shared("cases/15_letter_ids/pfx").map(|dir| Tokenizer::load(&dir).unwrap()));
        let turns = [("system", "s"), ("user", "天空 是 </s> 蓝"), ("assistant", "A"), ("user", "q")];
        let turns = turns.map(|(role, content)| Message::new(role, content));
        let ends =
            ["A", "B", " 蓝 色", "</s>", "<s>assistant\nA", "A B"].map(|end| Message::new("assistant", end));
        for tokenizer in all {
            for special in [SpecialText::Characters, SpecialText::Control] {
                for turns in [&turns[..], &turns[1..2], &[]] {
                    let found = tokenizer.conversations(turns, &ends, special).unwrap();
                    for (found, end) in found.iter().zip(&ends) {
                        let alone = [turns, std::slice::from_ref(end)].concat();
                        assert_eq!(*found, tokenizer.conversation(&alone, special).unwrap(), "{alone:?}");
                    }
                }
            }
            assert!(tokenizer.conversations(&turns, &[], SpecialText::Characters).unwrap().is_empty());
        }
    }
}
