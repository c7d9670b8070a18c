//! The order in which rows are trained on: pass after pass, every item once in each, or sources mixed by weight.
//!
//! *Invariant:* a pass is a function of store, seed, shares and its number alone, so that any of them can be gone on
//! from.

use super::super::store::StoreInfo;
use crate::records::SourceUse;
use anyhow::{Result, ensure};
use model::random::{Purpose, stream};
use rand::seq::SliceRandom;
use std::ops::Range;

/// Passes of one source that have a stream of their own.
const MOST_PASSES: u32 = 40;

/// The order of items, which are pieces of documents or pairs.
pub struct Order {
    seed: u64,
    items: u32,
    /// Target tokens of every item.
    tokens: Vec<u32>,
    sources: Vec<Source>,
    is_mixed: bool,
}

/// Items of one source, which stand one after the other.
struct Source {
    name: String,
    items: Range<u32>,
    tokens: u64,
    /// Items that a pass takes of it, where sources are mixed.
    per_pass: f64,
}

impl Order {
    /// The order of items that stand in the order of their documents; each is told by the first document behind which it
    /// lies, and its target tokens.
    ///
    /// `shares`: of each source in the target tokens, by name. A pass then has as many tokens as the sources together
    /// (those without a share aside), and takes of each source the number of items that have its share of them on
    /// average, going on where the pass before stopped: over many passes the shares are exact.
    ///
    /// # Errors
    /// Where a share is that of a source without items.
    pub fn new(
        seed: u64,
        store: &StoreInfo,
        shares: Option<&[(String, f64)]>,
        items: &[(usize, u32)],
    ) -> Result<Self> {
        let index = |document: usize| items.partition_point(|(of, _)| *of < document) as u32;
        let source = |(name, documents): (&str, Range<usize>)| {
            let items_of = index(documents.start)..index(documents.end);
            let tokens = items[items_of.start as usize..items_of.end as usize].iter();
            let tokens = tokens.map(|(_, tokens)| u64::from(*tokens)).sum();
            Source { name: name.into(), items: items_of, tokens, per_pass: 0.0 }
        };
        let mut sources: Vec<Source> = store.ranges().into_iter().map(source).collect();
        if let Some(shares) = shares {
            let share = |source: &Source| {
                shares.iter().find(|(name, _)| *name == source.name).map_or(0.0, |(_, share)| *share)
            };
            let total: u64 = sources.iter().filter(|s| share(s) > 0.0).map(|source| source.tokens).sum();
            for source in &mut sources {
                let share = share(source);
                ensure!(
                    share == 0.0 || source.tokens > 0,
                    "data.mix.{}: is {share:.3} of the tokens, but nothing of the source is left to train on; expected rows, or 0",
                    source.name
                );
                if share > 0.0 {
                    source.per_pass = share * total as f64 / source.tokens as f64 * source.items.len() as f64;
                }
            }
        }
        let tokens = items.iter().map(|(_, tokens)| *tokens).collect();
        Ok(Self { seed, items: items.len() as u32, tokens, sources, is_mixed: shares.is_some() })
    }

    /// The items of a pass, in the order in which they are trained on.
    pub fn pass(&self, epoch: u64) -> Vec<u32> {
        if self.is_mixed {
            return self.mixed(epoch);
        }
        let mut order: Vec<u32> = (0..self.items).collect();
        order.shuffle(&mut stream(self.seed, Purpose::Order, epoch));
        order
    }

    /// A pass over a mix: at any place in it every source has given the same part of its tokens, to about an item.
    fn mixed(&self, epoch: u64) -> Vec<u32> {
        let mut placed: Vec<(f64, u32)> = vec![];
        for (index, source) in self.sources.iter().enumerate() {
            let items = self.of_source(index as u64, source, epoch);
            let tokens = |item: u32| f64::from(self.tokens[item as usize]);
            let (all, mut before): (f64, f64) = (items.iter().map(|&item| tokens(item)).sum(), 0.0);
            for item in items {
                placed.push(((before + tokens(item) / 2.0) / all, item));
                before += tokens(item);
            }
        }
        placed.sort_by(|a, b| a.0.total_cmp(&b.0));
        placed.into_iter().map(|(_, item)| item).collect()
    }

    /// What a pass takes of a source, whose items are shuffled anew each time that they have all been taken.
    fn of_source(&self, index: u64, source: &Source, epoch: u64) -> Vec<u32> {
        let begin = |epoch: u64| (epoch as f64 * source.per_pass + 1e-9).floor() as u64;
        let (from, to, count) = (begin(epoch), begin(epoch + 1), source.items.len() as u64);
        let mut taken = vec![];
        let mut at = from;
        while at < to {
            let turn = at / count;
            let mut items: Vec<u32> = source.items.clone().collect();
            items.shuffle(&mut stream(self.seed, Purpose::Order, (index + 1) << MOST_PASSES | turn));
            let end = to.min((turn + 1) * count);
            taken.extend(&items[(at - turn * count) as usize..(end - turn * count) as usize]);
            at = end;
        }
        taken
    }

    /// What the items that are trained on take of each source that has a name.
    pub fn used(&self, items: impl Iterator<Item = u32>) -> Vec<SourceUse> {
        let mut tokens = vec![0; self.sources.len()];
        for item in items {
            if let Some(source) = self.source_of(item) {
                tokens[source] += u64::from(self.tokens[item as usize]);
            }
        }
        let used = |(source, tokens): (&Source, u64)| SourceUse {
            name: source.name.clone(),
            tokens,
            passes: tokens as f64 / source.tokens.max(1) as f64,
        };
        self.sources.iter().zip(tokens).map(used).collect()
    }

    /// The number of an item's source among those of [`Self::used`], where it has a name.
    pub fn source_of(&self, item: u32) -> Option<usize> {
        let source = self.sources.partition_point(|source| source.items.end <= item);
        (source < self.sources.len()).then_some(source)
    }

    /// Whether sources have names.
    pub fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }
}
