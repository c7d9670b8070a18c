//! The training order of rows: passes with every item once each, or passes with sources mixed by weight.
//!
//! *Invariant:* a pass is a function of store, seed, shares and its number alone, so training can resume from any of them.

use super::super::store::StoreInfo;
use super::Dropped;
use crate::records::SourceUse;
use anyhow::{Result, ensure};
use model::random::{Purpose, stream};
use rand::seq::SliceRandom;
use std::ops::Range;

/// Bits of a stream's number that hold the pass over one source; the bits above them hold the source.
const PASS_BITS: u32 = 40;

/// Order of items, which are pieces of documents or pairs.
pub struct Order {
    seed: u64,
    items: u32,
    /// Number of target tokens of every item.
    tokens: Vec<u32>,
    sources: Vec<Source>,
    is_mixed: bool,
}

/// One source, whose items are contiguous.
struct Source {
    name: String,
    items: Range<u32>,
    tokens: u64,
    /// Number of its items per pass, if sources are mixed.
    per_pass: f64,
}

impl Order {
    /// Creates the order of `items`, which are sorted by document; each is its (first) document and its number of target
    /// tokens.
    ///
    /// `shares` gives the share of each source in the target tokens, by name. A pass then has as many tokens as all sources
    /// with a share together, and takes from each source the number of items that have its share of them on average,
    /// resuming where the previous pass stopped: over many passes the shares are exact. `why` counts why documents have no
    /// items, for the error.
    ///
    /// # Errors
    /// If a source with a share has no items.
    pub fn new(
        seed: u64,
        store: &StoreInfo,
        shares: Option<&[(String, f64)]>,
        items: &[(usize, u32)],
        why: impl Fn(Range<usize>) -> Dropped,
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
            for (source, (name, documents)) in sources.iter_mut().zip(store.ranges()) {
                let share = share(source);
                if share > 0.0 {
                    ensure!(
                        source.tokens > 0,
                        "data.mix.{name}: is {share:.3} of the tokens, but no row of the source is left to train on: {}; or set its weight to 0",
                        why(documents).why()
                    );
                    source.per_pass = share * total as f64 / source.tokens as f64 * source.items.len() as f64;
                }
            }
        }
        let tokens = items.iter().map(|(_, tokens)| *tokens).collect();
        Ok(Self { seed, items: items.len() as u32, tokens, sources, is_mixed: shares.is_some() })
    }

    /// Takes the order of another seed.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
    }

    /// Returns the items of a pass, in training order.
    pub fn pass(&self, epoch: u64) -> Vec<u32> {
        if self.is_mixed {
            return self.mixed(epoch);
        }
        let mut order: Vec<u32> = (0..self.items).collect();
        order.shuffle(&mut stream(self.seed, Purpose::Order, epoch));
        order
    }

    /// Returns a mixed pass: at any point of it every source has contributed the same fraction of its tokens, up to an item.
    fn mixed(&self, epoch: u64) -> Vec<u32> {
        let mut placed: Vec<(f64, u32)> = vec![];
        for (index, source) in self.sources.iter().enumerate() {
            let items = self.take_from(index as u64, source, epoch);
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

    /// Returns what a pass takes from a source, whose items are reshuffled each time all of them have been taken.
    fn take_from(&self, index: u64, source: &Source, epoch: u64) -> Vec<u32> {
        let begin = |epoch: u64| (epoch as f64 * source.per_pass + 1e-9).floor() as u64;
        let (from, to, count) = (begin(epoch), begin(epoch + 1), source.items.len() as u64);
        let mut taken = vec![];
        let mut at = from;
        while at < to {
            let turn = at / count;
            let mut items: Vec<u32> = source.items.clone().collect();
            items.shuffle(&mut stream(self.seed, Purpose::Order, (index + 1) << PASS_BITS | turn));
            let end = to.min((turn + 1) * count);
            taken.extend(&items[(at - turn * count) as usize..(end - turn * count) as usize]);
            at = end;
        }
        taken
    }

    /// Returns the tokens and passes that `items` use of each named source.
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

    /// Returns the index of an item's source in [`Self::used`], if sources have names.
    pub fn source_of(&self, item: u32) -> Option<usize> {
        let source = self.sources.partition_point(|source| source.items.end <= item);
        (source < self.sources.len()).then_some(source)
    }

    /// Whether sources have names.
    pub fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }
}
