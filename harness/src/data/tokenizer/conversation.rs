//! Conversations and documents as ids: the text in the chat template's form, what is said in it, and the answers.

use super::Tokenizer;
use crate::data::chat::ChatTemplate;
use crate::data::control::Encoded;
use crate::data::row::Message;
use crate::data::turns::{Rendered, common};
use anyhow::{Context, Result, anyhow};
use std::ops::Range;

/// What becomes of a special token, such as `</s>`, that a text spells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// Text stays text: the ids of its characters.
    Characters,
    /// The control token itself, as MiniMind has it.
    Control,
}

/// A conversation as ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its text, in the chat template's form.
    pub text: String,
    /// The ids of the whole text.
    pub ids: Vec<u32>,
    /// The assistant's turns that say something, in order.
    pub answers: Vec<Answer>,
    /// Special tokens that its words spell.
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
/// An id belongs to the range that its text begins in; one that begins before an answer's words and holds some of
/// them, blanks at their ends aside, belongs to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The turn's number.
    pub turn: usize,
    /// From behind what opens the turn, as in `<s>assistant`, to the end of what closes it, as in `</s>\n`.
    pub whole: Range<usize>,
    /// The words.
    pub words: Range<usize>,
}

impl Tokenizer {
    /// The ids of a conversation, those of its whole text, and the answers among them; with the opening of the answer
    /// where the last turn is not the assistant's.
    ///
    /// # Errors
    /// Where the chat template refuses the conversation, drops a turn or changes what is said in it.
    pub fn conversation(&self, messages: &[Message], special: SpecialText) -> Result<Conversation> {
        let rendered = self.locate(messages)?;
        let encoded = self.encode_said(&rendered.text, &rendered.said, special)?;
        Ok(Conversation::new(rendered, encoded))
    }

    /// [`Self::conversation`] of some turns with each of several last ones. What they have in common is tokenized once, up
    /// to its last control token, where the tokenizer takes what follows that by itself.
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
        let whole = self.encode_said(&first.text, &first.said, special)?;
        let same = all.iter().map(|other| common(&first.text, &other.text)).min().unwrap_or(0);
        let cut = self.control.last_set(&first.text[..same], &first.said);
        let behind = |rendered: &Rendered| {
            let said = rendered.said.iter().filter(|words| words.start >= cut);
            let said: Vec<Range<usize>> = said.map(|words| words.start - cut..words.end - cut).collect();
            let mut tail = self.encode_said(&rendered.text[cut..], &said, special)?;
            tail.offsets.iter_mut().for_each(|(start, end)| (*start, *end) = (*start + cut, *end + cut));
            Ok::<_, anyhow::Error>(tail)
        };
        let kept = whole.offsets.partition_point(|(start, _)| *start < cut);
        let tail = behind(first)?;
        let is_apart = tail.ids == whole.ids[kept..] && tail.offsets == whole.offsets[kept..];
        let encode = |rendered: &Rendered| match is_apart {
            true => {
                let tail = behind(rendered)?;
                let ids = [&whole.ids[..kept], &tail.ids].concat();
                let offsets = [&whole.offsets[..kept], &tail.offsets].concat();
                Ok(Encoded { ids, offsets, spelled: self.control.spelled_in(&rendered.text, &rendered.said) })
            }
            false => self.encode_said(&rendered.text, &rendered.said, special),
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

    /// The ids of `<s>text</s>`, a document to pretrain on, and the number of special tokens that the text spells.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn document(&self, text: &str, special: SpecialText) -> Result<(Vec<u32>, u64)> {
        let said = self.bos.len()..self.bos.len() + text.len();
        self.enclosed(text, &[said], special)
    }

    /// The same of a conversation: `<s>`, its text in the chat template's form, `</s>`.
    ///
    /// # Errors
    /// As [`Tokenizer::render`], or where the tokenizer fails on the text.
    pub fn conversation_document(
        &self,
        messages: &[Message],
        special: SpecialText,
    ) -> Result<(Vec<u32>, u64)> {
        let Rendered { text, said, .. } = self.locate(messages)?;
        let bos = self.bos.len();
        let said: Vec<_> = said.into_iter().map(|words| words.start + bos..words.end + bos).collect();
        self.enclosed(&text, &said, special)
    }

    fn enclosed(&self, text: &str, said: &[Range<usize>], special: SpecialText) -> Result<(Vec<u32>, u64)> {
        let encoded = self.encode_said(&[&self.bos, text, &self.eos].concat(), said, special)?;
        Ok((encoded.ids, encoded.spelled))
    }

    fn encode_said(&self, text: &str, said: &[Range<usize>], special: SpecialText) -> Result<Encoded> {
        let encoded = self.control.encode(&self.inner, text, said, special == SpecialText::Control);
        encoded.with_context(|| format!("{}: a text cannot be tokenized", self.from))
    }

    fn locate(&self, messages: &[Message]) -> Result<Rendered> {
        self.template()?.locate(messages).with_context(|| self.from.clone())
    }

    /// How many special tokens a text spells.
    pub fn spelled(&self, text: &str) -> u64 {
        self.control.spelled(text)
    }

    /// The ids of the beginning of a document, the begin-of-text token in front. With [`SpecialText::Control`] a text may
    /// bring it itself.
    ///
    /// # Errors
    /// Where the tokenizer fails on the text.
    pub fn encode_opening(&self, text: &str, special: SpecialText) -> Result<Vec<u32>> {
        if special == SpecialText::Control && text.starts_with(&self.bos) {
            return self.encode(text);
        }
        let said = self.bos.len()..self.bos.len() + text.len();
        Ok(self.encode_said(&[&self.bos, text].concat(), &[said], special)?.ids)
    }

    /// A conversation as text, with the opening of the answer where the last turn is not the assistant's.
    ///
    /// # Errors
    /// Where there is no chat template, or it refuses the conversation.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.template()?.render(messages).with_context(|| self.from.clone())
    }

    /// Ids of the marker after which an answer begins, `<s>assistant`.
    ///
    /// # Errors
    /// Where there is no chat template, or no marker is found in it.
    pub fn answer_marker(&self) -> Result<Vec<u32>> {
        let marker = self.template()?.marker(&self.special_tokens()).with_context(|| self.from.clone())?;
        self.encode(&marker)
    }

    fn template(&self) -> Result<&ChatTemplate> {
        match &self.no_template {
            None => Ok(&self.template),
            Some(why) => Err(anyhow!("{}: {why}", self.from)),
        }
    }

    /// Why conversations cannot be rendered, where they cannot.
    pub fn no_template(&self) -> Option<&str> {
        self.no_template.as_deref()
    }

    /// The chat template, where it is to be used.
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
