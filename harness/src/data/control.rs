//! Control tokens: those that a template or the ends of a document set become ids, those that a text spells stay text.
//!
//! A text without a special token in its words is tokenized as the library does. In any other the control tokens of the
//! template are replaced by stand-ins, which the library finds in their place, while it takes special tokens for text.

use super::chat::ChatTemplate;
use super::row::Message;
use anyhow::{Result, anyhow, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tokenizers::{AddedToken, AddedVocabulary, Encoding, Model as _, OffsetType, PreTokenizer as _};

/// Stand around the number of a stand-in; no character, and never in ordinary text.
const STAND_IN: [char; 2] = ['\u{10fffe}', '\u{10ffff}'];

/// The control tokens of a tokenizer and the two ways to tokenize with them.
#[derive(Clone)]
pub(super) struct Control {
    /// Texts with their ids.
    tokens: Vec<(String, u32)>,
    /// Their ids, but for the one of what the vocabulary does not know, which any text may bring.
    ids: BTreeSet<u32>,
    /// The added tokens without those that are special, but with a stand-in for each.
    plain: AddedVocabulary,
    /// Ids of the stand-ins, with the ids that they stand for.
    stand_ins: BTreeMap<u32, u32>,
    /// Cuts a special token in a text in two, where a model would take it whole.
    joint: (String, u32),
}

/// The ids of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The ids.
    pub ids: Vec<u32>,
    /// Where the text of each begins and ends, in bytes.
    pub offsets: Vec<(usize, usize)>,
    /// Special tokens that its words spell.
    pub spelled: u64,
}

/// Where a control token stands in a text, and which it is.
struct Found {
    at: Range<usize>,
    token: usize,
}

impl Control {
    /// The control tokens: all special ones, and those added ones that the template sets.
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
        let joint = stand_in(added.len());
        add(AddedToken::from(joint.clone(), false).normalized(false))?;
        plain.set_encode_special_tokens(true);
        let id = |content: &str| plain.token_to_id(content, inner.get_model()).unwrap_or_default();
        Ok(Self {
            stand_ins: added.iter().enumerate().map(|(i, (real, _))| (id(&stand_in(i)), *real)).collect(),
            joint: (joint.clone(), id(&joint)),
            ids: added.iter().map(|(id, _)| *id).filter(|id| Some(*id) != unknown).collect(),
            tokens: added.into_iter().map(|(id, token)| (token.content, id)).collect(),
            plain,
        })
    }

    /// How often a text spells a control token.
    pub fn spelled(&self, text: &str) -> u64 {
        let all = 0..text.len();
        self.find(text, std::slice::from_ref(&all)).1
    }

    /// How many special tokens the words of a text spell.
    pub fn spelled_in(&self, text: &str, said: &[Range<usize>]) -> u64 {
        self.find(text, said).1
    }

    /// Where the last control token outside the words of a text begins; 0 where there is none.
    pub fn last_set(&self, text: &str, said: &[Range<usize>]) -> usize {
        self.find(text, said).0.last().map_or(0, |found| found.at.start)
    }

    /// The ids of a text of which `said` are the words, with their offsets; `as_control` makes control tokens of
    /// special tokens in the words.
    pub fn encode(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        said: &[Range<usize>],
        as_control: bool,
    ) -> Result<Encoded> {
        let (set, spelled) = self.find(text, said);
        let whole = pipeline(inner, inner.get_added_vocabulary(), text)?;
        let as_set = |ids: &[u32]| ids.iter().filter(|id| self.ids.contains(id)).count() <= set.len();
        if as_control || spelled == 0 && as_set(whole.get_ids()) {
            return Ok(Encoded {
                ids: whole.get_ids().to_vec(),
                offsets: whole.get_offsets().to_vec(),
                spelled,
            });
        }
        ensure!(!text.contains(STAND_IN[0]), "a text holds both a special token and U+10FFFE, no character");
        // A model may know a special token as a word of its vocabulary; only then is its text cut in two.
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

    /// The control tokens outside the words, as the library finds them, and the number of those that touch words.
    fn find(&self, text: &str, said: &[Range<usize>]) -> (Vec<Found>, u64) {
        let mut all: Vec<Found> = vec![];
        for (token, (content, _)) in self.tokens.iter().enumerate() {
            let matches = text.match_indices(content.as_str());
            all.extend(matches.map(|(at, found)| Found { at: at..at + found.len(), token }));
        }
        // The leftmost, and of those the longest.
        all.sort_by_key(|found| (found.at.start, std::cmp::Reverse(found.at.end)));
        let touches = |at: &Range<usize>| {
            let next = said.partition_point(|words| words.end <= at.start);
            said.get(next).is_some_and(|words| words.start < at.end)
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

    /// The ids of a text whose control tokens are `set` and no others.
    fn with_stand_ins(
        &self,
        inner: &tokenizers::Tokenizer,
        text: &str,
        set: &[Found],
        cut: bool,
    ) -> Result<Encoded> {
        // Where each part of `text` begins in the text with stand-ins.
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
            if id != self.joint.1 {
                encoded.ids.push(self.stand_ins.get(&id).copied().unwrap_or(id));
                encoded.offsets.push((original(start, false), original(end, true)));
            }
        }
        Ok(encoded)
    }

    /// Copies a part of a text that holds no control token of the template; `cut` parts the special tokens in it.
    fn copy(&self, part: &str, cut: bool, from: usize, to: &mut String, starts: &mut Vec<(usize, usize)>) {
        let mut at = 0;
        if cut {
            for found in self.find(part, &[]).0 {
                let first = part[found.at.clone()].chars().next().map_or(0, char::len_utf8);
                let middle = found.at.start + first;
                *to += &part[at..middle];
                starts.push((to.len(), from + middle));
                *to += &self.joint.0;
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

/// What the library does with a text, by other added tokens: offsets are exact, as nothing trims them afterwards.
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
