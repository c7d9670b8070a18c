//! Byte-pair encoding (Sennrich et al. 2016), learned from words and their numbers of occurrences.
//!
//! The merges equal those of Hugging Face's `BpeTrainer`: the most frequent pair first, ties broken by smaller ids. There
//! a merge scans every word that contains the pair, which is quadratic in the length of a word; here each pair keeps the
//! places where it occurs and a word is a linked list, so a merge costs what it changes, and training is linear in the
//! text, up to the logarithm of a queue.

use crate::stop::check;
use anyhow::{Result, ensure};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::AtomicBool;

/// Marks the absence of a neighbour at either end of a word, or a symbol that a merge has removed.
const NONE: u32 = u32::MAX;

/// Most symbols of one training run, as places are 32-bit.
const MAX_SYMBOLS: usize = NONE as usize - 1;

type Pair = (u32, u32);
type ByPair<T> = HashMap<Pair, T, BuildHasherDefault<PairHasher>>;

/// Result of training.
pub(super) struct Learned {
    /// Text of every token, by id: the initial tokens, then the merged ones.
    pub(super) tokens: Vec<String>,
    /// Merged pairs of token ids, in the order of learning.
    pub(super) merges: Vec<Pair>,
}

/// Learns merges until there are `vocab_size` tokens or no pair is left.
///
/// `words` maps words to their numbers of occurrences; `tokens`, by id, must contain every character of them. The order
/// of the words does not matter. `stop` is checked between merges.
pub(super) fn learn(
    words: &HashMap<String, u64>,
    mut tokens: Vec<String>,
    vocab_size: usize,
    stop: &AtomicBool,
) -> Result<Learned> {
    let mut ids: HashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut text = Text::new(words, &ids)?;
    let (mut counts, mut queue) = (ByPair::<i64>::default(), BinaryHeap::new());
    let mut places = ByPair::<Vec<u32>>::default();
    for place in 0..text.symbols.len() as u32 {
        if let Some((pair, _)) = text.pair_at(place) {
            *counts.entry(pair).or_default() += text.count(place);
            places.entry(pair).or_default().push(place);
        }
        if place % (1 << 20) == 0 {
            check(stop)?;
        }
    }
    enqueue(&mut queue, &mut places, &counts);
    let mut merges = Vec::new();
    while ids.len() < vocab_size
        && let Some(mut next) = queue.pop()
    {
        check(stop)?;
        // The count may have fallen since the pair was queued; it is queued again with the current one.
        let count = counts[&next.pair];
        if next.count != count {
            next.count = count;
            queue.push(next);
            continue;
        }
        if count < 1 {
            break;
        }
        let pair = next.pair;
        let merged = [tokens[pair.0 as usize].as_str(), &tokens[pair.1 as usize]].concat();
        // Different merges to the same text, such as ab+c and a+bc, share one token.
        let id = *ids.entry(merged).or_insert_with_key(|merged| {
            tokens.push(merged.clone());
            tokens.len() as u32 - 1
        });
        merges.push(pair);
        for place in next.places {
            text.merge(place, pair, id, |pair, change, place| {
                *counts.entry(pair).or_default() += change;
                if change > 0 {
                    places.entry(pair).or_default().push(place);
                }
            });
        }
        enqueue(&mut queue, &mut places, &counts);
    }
    Ok(Learned { tokens, merges })
}

/// A queued pair; the greatest is the most frequent one, and of equally frequent ones the one with smaller ids.
#[derive(PartialEq, Eq)]
struct Waiting {
    pair: Pair,
    count: i64,
    /// Places where it occurred when it was queued, in ascending order.
    places: Vec<u32>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.count, Reverse(self.pair)).cmp(&(other.count, Reverse(other.pair)))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn enqueue(queue: &mut BinaryHeap<Waiting>, places: &mut ByPair<Vec<u32>>, counts: &ByPair<i64>) {
    let found = places.drain().map(|(pair, places)| Waiting { pair, count: counts[&pair], places });
    queue.extend(found.filter(|waiting| waiting.count > 0));
}

/// The symbols of all words, one word after the other, each a linked list.
struct Text {
    symbols: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Place where each word starts, and its number of occurrences.
    words: Vec<(u32, i64)>,
}

impl Text {
    fn new(words: &HashMap<String, u64>, ids: &HashMap<String, u32>) -> Result<Self> {
        let mut text = Self { symbols: vec![], next: vec![], previous: vec![], words: vec![] };
        let of_char: HashMap<char, u32> = ids
            .iter()
            .filter_map(|(token, &id)| {
                let mut chars = token.chars();
                chars.next().filter(|_| chars.next().is_none()).map(|char| (char, id))
            })
            .collect();
        for (word, &count) in words {
            let start = text.symbols.len() as u32;
            text.words.push((start, count as i64));
            text.symbols.extend(word.chars().filter_map(|char| of_char.get(&char)));
            ensure!(
                text.symbols.len() <= MAX_SYMBOLS,
                "the words of the text have more than {MAX_SYMBOLS} bytes; set a smaller tokenizer.train_chars"
            );
            let end = text.symbols.len() as u32;
            text.next.extend((start..end).map(|place| if place + 1 < end { place + 1 } else { NONE }));
            text.previous.extend((start..end).map(|place| if place > start { place - 1 } else { NONE }));
        }
        Ok(text)
    }

    /// Returns the number of occurrences of the word that contains a place.
    fn count(&self, place: u32) -> i64 {
        let word = self.words.partition_point(|&(start, _)| start <= place);
        self.words[word - 1].1
    }

    /// Returns the pair that begins at a place, and the place of its second symbol.
    fn pair_at(&self, place: u32) -> Option<(Pair, u32)> {
        let first = self.symbols[place as usize];
        let next = self.next[place as usize];
        (first != NONE && next != NONE).then(|| ((first, self.symbols[next as usize]), next))
    }

    /// Replaces the pair that begins at a place by `id`, if it is still there. `change` receives each pair that appears or
    /// disappears, the signed change of its count, and its place.
    fn merge(&mut self, place: u32, pair: Pair, id: u32, mut change: impl FnMut(Pair, i64, u32)) {
        let Some((_, second)) = self.pair_at(place).filter(|(found, _)| *found == pair) else {
            return;
        };
        let count = self.count(place);
        let (before, after) = (self.previous[place as usize], self.next[second as usize]);
        if before != NONE {
            let symbol = self.symbols[before as usize];
            change((symbol, pair.0), -count, before);
            change((symbol, id), count, before);
        }
        self.symbols[place as usize] = id;
        self.symbols[second as usize] = NONE;
        self.next[place as usize] = after;
        if after != NONE {
            self.previous[after as usize] = place;
            let symbol = self.symbols[after as usize];
            change((pair.1, symbol), -count, place);
            change((id, symbol), count, place);
        }
    }
}

/// Hash of pairs; ids are small numbers, for which a multiplication mixes well enough.
#[derive(Default)]
struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0.rotate_left(26) ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
