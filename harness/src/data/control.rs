//! Control tokens: those of the template and of the ends of a document become ids, those that a text spells stay text.
//!
//! A text whose words contain no special token is tokenized exactly as by the library. Otherwise the control tokens of the
//! template are replaced by stand-ins that the library recognises, while it treats special tokens as ordinary text.

use super::chat::ChatTemplate;
use super::row::Message;
use anyhow::{Result, anyhow, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tokenizers::{AddedToken, AddedVocabulary, Encoding, Model as _, OffsetType, PreTokenizer as _};

/// Delimiters of a stand-in's number: noncharacters, which do not occur in ordinary text.
const STAND_IN: [char; 2] = ['\u{10fffe}', '\u{10ffff}'];

/// The control tokens of a tokenizer, with and without special tokens in the text as control tokens.
#[derive(Clone)]
pub(super) struct Control {
    /// Text and id of each control token.
    tokens: Vec<(String, u32)>,
    /// Ids of the control tokens except the unknown token, which any text may produce.
    ids: BTreeSet<u32>,
    /// Added vocabulary in which special tokens are treated as text, with a stand-in for each control token.
    plain: AddedVocabulary,
    /// Id of each stand-in, with the id of its control token.
    stand_ins: BTreeMap<u32, u32>,
    /// Separator (text and id) that splits a special token in a text if the model would otherwise take it whole.
    separator: (String, u32),
}

/// A tokenized text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Begin and end of the text of each id, in bytes.
    pub offsets: Vec<(usize, usize)>,
    /// Number of control tokens that the words of the text spell.
    pub spelled: u64,
}

/// An occurrence of a control token in a text: its byte range and its index in [`Control::tokens`].
struct Found {
    at: Range<usize>,
    token: usize,
}

impl Control {
    /// Collects the control tokens: all special tokens, and the added tokens that the template uses as markup.
    pub fn new(inner: &tokenizers::Tokenizer, template: &ChatTemplate, unknown: Option<u32>) -> Result<Self> {
        let turns = [Message::new("user", "?"), Message::new("assistant", "!")];
        let own = template.render(&turns).unwrap_or_default();
        let is_set = |token: &AddedToken| {
            let is_mark = token.content.chars().any(|c| !c.is_alphanumeric() && !c.is_whitespace());
            is_mark && own.contains(&token.content)
        };
        let mut added: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        added.retain(|(_, token)| !token.content.is_empty() && (token.special || is_set(token)));
        let mut plain = inner.get_added_vocabulary().clone();
        let mut add = |token: AddedToken| {
            let all = plain.add_tokens([token], inner.get_model(), inner.get_normalizer());
            all.map_err(|error| anyhow!("{error}"))
        };
        for (_, token) in &added {
            add(token.clone().special(true))?;
        }
        for (index, (_, token)) in added.iter().enumerate() {
            add(AddedToken { content: stand_in(index), normalized: false, special: false, ..token.clone() })?;
        }
        let separator = stand_in(added.len());
        add(AddedToken::from(separator.clone(), false).normalized(false))?;
        plain.set_encode_special_tokens(true);
        let id = |content: &str| plain.token_to_id(content, inner.get_model()).unwrap_or_default();
        Ok(Self {
            stand_ins: added.iter().enumerate().map(|(i, (real, _))| (id(&stand_in(i)), *real)).collect(),
            separator: (separator.clone(), id(&separator)),
            ids: added.iter().map(|(id, _)| *id).filter(|id| Some(*id) != unknown).collect(),
            tokens: added.into_iter().map(|(id, token)| (token.content, id)).collect(),
            plain,
        })
    }

    /// Returns how many control tokens a text spells.
    pub fn spelled(&self, text: &str) -> u64 {
        let all = 0..text.len();
        self.find(text, std::slice::from_ref(&all)).1
    }

    /// Returns how many control tokens the words of a text spell; `contents` are the byte ranges of the words.
    pub fn count_in_words(&self, text: &str, contents: &[Range<usize>]) -> u64 {
        self.find(text, contents).1
    }

    /// Returns where the last control token outside the words of a text begins, in bytes; 0 if there is none.
    pub fn last_template_token(&self, text: &str, contents: &[Range<usize>]) -> usize {
        self.find(text, contents).0.last().map_or(0, |found| found.at.start)
    }

    /// Tokenizes a text whose words are the byte ranges `contents`. With `as_control`, special tokens in the words become
    /// control tokens.
    pub fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        contents: &[Range<usize>],
        as_control: bool,
    ) -> Result<Encoded> {
        let (set, spelled) = self.find(text, contents);
        let whole = pipeline(inner, inner.get_added_vocabulary(), text)?;
        let as_set = |ids: &[u32]| ids.iter().filter(|id| self.ids.contains(id)).count() <= set.len();
        if as_control || spelled == 0 && as_set(whole.get_ids()) {
            return Ok(Encoded {
                ids: whole.get_ids().to_vec(),
                offsets: whole.get_offsets().to_vec(),
                spelled,
            });
        }
        ensure!(
            !text.contains(STAND_IN[0]),
            "a text contains both a special token and the noncharacter U+10FFFE"
        );
        // The model may have a special token as an entry of its vocabulary; only then is its text split.
        let mut encoded = self.with_stand_ins(inner, text, &set, false)?;
        if !as_set(&encoded.ids) {
            encoded = self.with_stand_ins(inner, text, &set, true)?;
        }
        ensure!(
            as_set(&encoded.ids),
            "a special token in a text cannot be tokenized as characters; set data.special_tokens_in_text = true to make it a control token"
        );
        Ok(Encoded { spelled, ..encoded })
    }

    /// Returns the control tokens outside the words, as the library finds them, and the number of those that overlap words.
    fn find(&self, text: &str, contents: &[Range<usize>]) -> (Vec<Found>, u64) {
        let mut all: Vec<Found> = vec![];
        for (token, (content, _)) in self.tokens.iter().enumerate() {
            let matches = text.match_indices(content.as_str());
            all.extend(matches.map(|(at, found)| Found { at: at..at + found.len(), token }));
        }
        // Leftmost first, and of those the longest.
        all.sort_by_key(|found| (found.at.start, std::cmp::Reverse(found.at.end)));
        let touches = |at: &Range<usize>| {
            let next = contents.partition_point(|words| words.end <= at.start);
            contents.get(next).is_some_and(|words| words.start < at.end)
        };
        let (in_words, outside): (Vec<Found>, Vec<Found>) =
            all.into_iter().partition(|found| touches(&found.at));
        let apart = |all: Vec<Found>, taken: &[Found]| -> Vec<Found> {
            let mut end = 0;
            let is_free = |at: &Range<usize>| {
                taken.iter().all(|other| other.at.end <= at.start || at.end <= other.at.start)
            };
            let mut kept = vec![];
            for found in all {
                if found.at.start >= end && is_free(&found.at) {
                    end = found.at.end;
                    kept.push(found);
                }
            }
            kept
        };
        let set = apart(outside, &[]);
        let spelled = apart(in_words, &set).len() as u64;
        (set, spelled)
    }

    /// Tokenizes a text in which only `set` are control tokens; `cut` splits all other special tokens.
    fn with_stand_ins(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        set: &[Found],
        cut: bool,
    ) -> Result<Encoded> {
        // For each part, where it begins in the text with stand-ins and in `text`.
        let (mut replaced, mut starts, mut at) = (String::with_capacity(text.len()), vec![(0, 0)], 0);
        for found in set {
            self.copy(&text[at..found.at.start], cut, at, &mut replaced, &mut starts);
            starts.push((replaced.len(), found.at.start));
            replaced += &stand_in(found.token);
            at = found.at.end;
            starts.push((replaced.len(), at));
        }
        self.copy(&text[at..], cut, at, &mut replaced, &mut starts);
        let original = |place: usize, is_end: bool| {
            let part =
                starts.partition_point(|(start, _)| if is_end { *start < place } else { *start <= place });
            let (start, from) = starts[part.saturating_sub(1)];
            let limit = starts.get(part).map_or(text.len(), |next| next.1);
            (from + place.saturating_sub(start)).min(limit)
        };
        let encoding = pipeline(inner, &self.plain, &replaced)?;
        let mut encoded = Encoded::default();
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if id != self.separator.1 {
                encoded.ids.push(self.stand_ins.get(&id).copied().unwrap_or(id));
                encoded.offsets.push((original(start, false), original(end, true)));
            }
        }
        Ok(encoded)
    }

    /// Copies a part of a text that has no control token of the template; `cut` splits the special tokens in it.
    fn copy(&self, part: &str, cut: bool, from: usize, to: &mut String, starts: &mut Vec<(usize, usize)>) {
        let mut at = 0;
        if cut {
            for found in self.find(part, &[]).0 {
                let first = part[found.at.clone()].chars().next().map_or(0, char::len_utf8);
                let middle = found.at.start + first;
                *to += &part[at..middle];
                starts.push((to.len(), from + middle));
                *to += &self.separator.0;
                starts.push((to.len(), from + middle));
                at = middle;
            }
        }
        *to += &part[at..];
    }
}

fn stand_in(index: usize) -> String {
    format!("{}{index}{}", STAND_IN[0], STAND_IN[1])
}

/// Runs the library's tokenization with other added tokens; offsets are exact, as no post-processor trims them.
fn pipeline(inner: &tokenizers::Tokenizer, added: &AddedVocabulary, text: &str) -> Result<Encoding> {
    let whole = || -> tokenizers::Result<Encoding> {
        let mut text = added.extract_and_normalize(inner.get_normalizer(), text);
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text)?;
        }
        inner.get_model().tokenize_in_pretokenized(&mut text, None)?;
        text.into_encoding(None, 0, OffsetType::Byte)
    };
    whole().map_err(|error| anyhow!("{error}"))
}
