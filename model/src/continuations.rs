//! Log-probabilities of what may follow prompts that begin alike: what several have in common is read once.
//!
//! All that is to be read is sorted and laid out as a tree of common beginnings (a radix tree; Morrison 1968); each branch
//! goes on from a copy of the keys and values of its beginning. *Invariant:* every id is read behind all that stand before
//! it, so that what is found is what reading each continuation by itself finds, but for rounding.

use crate::backend::Backend;
use crate::backend::cpu::math::log_sum_exp;
use crate::decode::{KvCache, Reading};
use crate::inference::{GROUP_POSITIONS, check_finite};
use crate::tokens::Ragged;
use crate::trainer::groups;
use crate::transformer::{Mode, Transformer};
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Ids that a common beginning must save for a pass of its own to pay.
const SAVED_FROM: usize = 16;

/// And how small a part of what would be read otherwise they may be: going on from copies of caches takes time.
const SAVED_SHARE: usize = 8;

/// Positions that the caches of a group may hold for each that it reads: they take memory.
const HELD: usize = 8;

/// Rows of logits that are made together.
const LOGIT_ROWS: usize = 64;

/// What may follow a prompt.
#[derive(Debug, Clone, Copy)]
pub struct Continuation<'a> {
    /// What the model reads before, `(len,)`.
    pub prompt: &'a [u32],
    /// The tokens whose log-probabilities are asked for, one at least.
    pub ids: &'a [u32],
}

impl Continuation<'_> {
    /// Ids that are read, which the last one is not.
    fn read(&self) -> usize {
        self.prompt.len() + self.ids.len() - 1
    }

    fn id(&self, place: usize) -> u32 {
        match self.prompt.get(place) {
            Some(id) => *id,
            None => self.ids[place - self.prompt.len()],
        }
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.prompt.iter().chain(self.ids).copied().take(self.read())
    }
}

/// Continuations, laid out so that common beginnings are read once.
#[derive(Debug)]
pub struct Continuations<'a> {
    /// Sorted by what is read.
    rows: Vec<Continuation<'a>>,
    /// Where each of them was given.
    given: Vec<usize>,
    roots: Vec<Node>,
}

/// How many ids are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Where every common beginning is read once: the fewest that are possible.
    pub distinct: usize,
    /// As they are read: beginnings of a few ids are read again.
    pub read: usize,
}

/// Ids that are read together, behind those of the node above.
#[derive(Debug)]
struct Node {
    /// The rows that go through it.
    rows: Range<usize>,
    /// Its places in them.
    places: Range<usize>,
    children: Vec<Node>,
}

impl<'a> Continuations<'a> {
    /// Lays continuations out.
    ///
    /// # Errors
    /// Where a prompt is empty, or nothing follows it.
    pub fn new(asked: &[Continuation<'a>]) -> Result<Self> {
        if asked.iter().any(|a| a.prompt.is_empty() || a.ids.is_empty()) {
            return Err(Error::Input(
                "a prompt without tokens, or without any behind it, has no next one".into(),
            ));
        }
        let mut given: Vec<usize> = (0..asked.len()).collect();
        given.sort_by(|&a, &b| asked[a].iter().cmp(asked[b].iter()));
        let rows: Vec<Continuation> = given.iter().map(|&i| asked[i]).collect();
        let mut roots = vec![];
        branch(&rows, 0..rows.len(), 0, 0, &mut roots);
        Ok(Self { rows, given, roots })
    }

    /// How many ids are read.
    pub fn shared(&self) -> Shared {
        let mut distinct = 0;
        for (i, row) in self.rows.iter().enumerate() {
            distinct += row.read() - if i > 0 { common(&self.rows[i - 1], row) } else { 0 };
        }
        Shared { distinct, read: read_by(&self.roots) }
    }
}

/// Ids that are read by nodes and all below them.
fn read_by(nodes: &[Node]) -> usize {
    nodes.iter().map(|node| node.places.len() + read_by(&node.children)).sum()
}

/// How many ids two rows begin with in common.
fn common(a: &Continuation, b: &Continuation) -> usize {
    a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count()
}

/// The nodes of some rows behind their first `read` ids, which are read; their first `known` are the same.
fn branch(rows: &[Continuation], range: Range<usize>, read: usize, known: usize, nodes: &mut Vec<Node>) {
    let mut at = range.start;
    while at < range.end {
        // Rows that end here have all their ids in those of the next one.
        let goes_on = (at..range.end).find(|&i| rows[i].read() > known);
        let Some(first) = goes_on else { break };
        let id = rows[first].id(known);
        let end = first + rows[first..range.end].partition_point(|row| row.id(known) <= id);
        let all = common(&rows[first], &rows[end - 1]);
        if rows[end - 1].read() == all {
            nodes.push(Node { rows: at..end, places: read..all, children: vec![] });
        } else {
            let mut children = vec![];
            let longer = first + rows[first..end].partition_point(|row| row.read() <= all);
            branch(rows, longer..end, all, all, &mut children);
            let saved = (all - read) * (children.len() - 1);
            let otherwise = read_by(&children) + (all - read) * children.len();
            if saved >= SAVED_FROM && saved * SAVED_SHARE >= otherwise {
                nodes.push(Node { rows: at..end, places: read..all, children });
            } else {
                // Each reads the beginning itself, the first of them also for rows that end with it.
                children.iter_mut().for_each(|child| child.places.start = read);
                children[0].rows.start = at;
                nodes.append(&mut children);
            }
        }
        at = end;
    }
}

/// A node with what was read before it.
type Next<'n, B> = (Option<Arc<KvCache<B>>>, &'n Node);

/// A log-probability: the row's number, the place among its ids.
type Found = (usize, usize, f64);

impl<B: Backend> Transformer<B> {
    /// The log-probability of every id of every continuation, by softmax over the vocabulary: `(ids,)` each, in the order
    /// in which they were given.
    ///
    /// Work is shared out over the current rayon threads. `go_on` is told how many continuations are done before and
    /// after each group of them; nothing more is read once it says no, and `None` returned.
    ///
    /// # Errors
    /// Where a token is not in the vocabulary, a result is not finite, or the device fails.
    pub fn log_probs(
        &self,
        asked: &Continuations,
        go_on: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Option<Vec<Vec<f64>>>> {
        let vocab = self.config.vocab_size;
        if let Some(id) = asked.rows.iter().flat_map(|row| row.ids).find(|&&id| id as usize >= vocab) {
            return Err(Error::Input(format!("token id {id} is outside the model's vocabulary of {vocab}")));
        }
        let roots: Vec<Next<B>> = asked.roots.iter().map(|node| (None, node)).collect();
        let (alone, begun): (Vec<Next<B>>, Vec<Next<B>>) =
            roots.into_iter().partition(|(_, node)| node.children.is_empty());
        let mut all = vec![];
        for nodes in [alone, begun] {
            let Some(found) = self.read_on(asked, &nodes, go_on)? else { return Ok(None) };
            all.extend(found);
        }
        let mut log_probs: Vec<Vec<f64>> = vec![vec![]; asked.rows.len()];
        for (row, &given) in asked.rows.iter().zip(&asked.given) {
            log_probs[given] = vec![f64::NAN; row.ids.len()];
        }
        for (row, place, value) in all {
            log_probs[asked.given[row]][place] = value;
        }
        Ok(Some(log_probs))
    }

    fn read_on(
        &self,
        asked: &Continuations,
        nodes: &[Next<B>],
        go_on: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Option<Vec<Found>>> {
        let positions = |(_, node): &Next<B>| node.places.len().max(node.places.end.div_ceil(HELD));
        let groups = groups(nodes, positions, GROUP_POSITIONS);
        let found = groups.into_par_iter().map(|group| {
            if !go_on(0) {
                return Ok(None);
            }
            let (mut found, next) = self.read_group(asked, group)?;
            let done = |(_, node): &Next<B>| {
                let ends = |row: &&Continuation| node.places.contains(&(row.read() - 1));
                asked.rows[node.rows.clone()].iter().filter(ends).count()
            };
            let goes_on = go_on(group.iter().map(done).sum());
            if !next.is_empty() {
                let Some(more) = self.read_on(asked, &next, go_on)? else { return Ok(None) };
                found.extend(more);
            }
            Ok(goes_on.then_some(found))
        });
        let found: Option<Vec<Vec<Found>>> = found.collect::<Result<_>>()?;
        Ok(found.map(|found| found.into_iter().flatten().collect()))
    }

    /// What is found in some nodes, and those below them.
    fn read_group<'n>(
        &self,
        asked: &Continuations,
        group: &[Next<'n, B>],
    ) -> Result<(Vec<Found>, Vec<Next<'n, B>>)> {
        // The ids of each node, and what is asked for at each of its places.
        let mut ids: Vec<Vec<u32>> = vec![];
        let mut wanted: Vec<Vec<Vec<(usize, usize)>>> = vec![];
        for (_, Node { rows, places, .. }) in group {
            let longest = &asked.rows[rows.end - 1];
            ids.push(places.clone().map(|place| longest.id(place)).collect());
            let mut here = vec![vec![]; places.len()];
            for number in rows.clone() {
                let row = &asked.rows[number];
                let first = row.prompt.len() - 1;
                for place in places.start.max(first)..places.end.min(row.read()) {
                    here[place - places.start].push((number, place - first));
                }
            }
            wanted.push(here);
        }
        let mut found: Vec<Found> = vec![];
        let mut finite = Ok(());
        let mut on_logits = |node: usize, place: usize, logits: &[f32]| {
            let here = &wanted[node][place];
            if here.is_empty() {
                return;
            }
            let total = log_sum_exp(logits);
            for &(row, id) in here {
                let log_prob = f64::from(logits[asked.rows[row].ids[id] as usize]) - total;
                if finite.is_ok() {
                    finite = check_finite(std::iter::once(log_prob as f32));
                }
                found.push((row, id, log_prob));
            }
        };
        let mut next = vec![];
        if group.iter().all(|(before, node)| before.is_none() && node.children.is_empty()) {
            let pass = self.pass(Ragged::prompts(&ids), Mode::Infer)?;
            let x = pass.forward()?.0;
            let starts = &pass.batch().rows;
            let mut places = vec![];
            for (node, wanted) in wanted.iter().enumerate() {
                let asked = (0..wanted.len()).filter(|&place| !wanted[place].is_empty());
                places.extend(asked.map(|place| (node, place)));
            }
            for places in places.chunks(LOGIT_ROWS) {
                let rows: Vec<usize> = places.iter().map(|(node, place)| starts[*node] + place).collect();
                let logits = pass.logits(&x, &rows)?;
                for (&(node, place), logits) in places.iter().zip(logits.chunks_exact(self.config.vocab_size))
                {
                    on_logits(node, place, logits);
                }
            }
        } else {
            let cache = |(before, node): &Next<B>| match before {
                Some(before) => before.fork(node.places.end),
                None => self.cache(node.places.end),
            };
            let mut caches: Vec<KvCache<B>> = group.iter().map(cache).collect::<Result<_>>()?;
            let mut readings: Vec<Reading<B>> = (caches.iter_mut().zip(&ids).zip(&wanted))
                .map(|((cache, ids), wanted)| {
                    let logits_from = wanted.iter().position(|here| !here.is_empty());
                    Reading { cache, ids, logits_from: logits_from.unwrap_or(ids.len()) }
                })
                .collect();
            self.extend_with(&mut readings, on_logits)?;
            for (cache, (_, node)) in caches.into_iter().zip(group) {
                let cache = (!node.children.is_empty()).then(|| Arc::new(cache));
                next.extend(node.children.iter().map(|child| (cache.clone(), child)));
            }
        }
        finite?;
        Ok((found, next))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Cpu, ModelConfig};
    use std::sync::Mutex;

    fn model() -> Transformer {
        let config = ModelConfig {
            d_model: 16,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            vocab_size: 40,
            ..ModelConfig::default()
        };
        Transformer::new(&config, 1, &Cpu).unwrap()
    }

    fn ids(len: usize, salt: u64) -> Vec<u32> {
        (0..len as u64).map(|i| (crate::backend::mix(i ^ (salt << 32)) % 40) as u32).collect()
    }

    /// log p of each id by a pass of its own for each.
    fn alone(model: &Transformer, asked: &Continuation) -> Vec<f64> {
        let mut read = asked.prompt.to_vec();
        let mut found = vec![];
        for &id in asked.ids {
            let logits = model.read(&mut model.cache(read.len()).unwrap(), &read).unwrap();
            found.push(f64::from(logits[id as usize]) - log_sum_exp(&logits));
            read.push(id);
        }
        found
    }

    /// Prompts as exams have them: solved questions in front, several answers behind, some of one id, some that go on as
    /// another does; equal ones; prompts that are the beginning of others.
    fn cases() -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut all = vec![];
        for subject in 0..3 {
            let shots = ids(30 + 20 * subject as usize, subject);
            for question in 0..4 {
                let prompt =
                    [shots.clone(), ids(5 + 10 * question as usize, 10 * subject + question)].concat();
                let long = ids(25, 7);
                let answers = [ids(1, 1), ids(3, 2), long[..20].to_vec(), long, ids(1, 1)];
                all.extend(answers.map(|answer| (prompt.clone(), answer)));
            }
            all.push((shots, ids(2, 3)));
        }
        all.push((ids(1, 99), ids(4, 98)));
        all.push((ids(2, 99), ids(1, 98)));
        all
    }

    #[test]
    fn what_is_shared_changes_no_result() {
        let model = model();
        let cases = cases();
        let asked: Vec<Continuation> =
            cases.iter().map(|(prompt, ids)| Continuation { prompt, ids }).collect();
        let told = Mutex::new(0);
        let go_on = |done| {
            *told.lock().unwrap() += done;
            true
        };
        let found = model.log_probs(&Continuations::new(&asked).unwrap(), &go_on).unwrap().unwrap();
        assert_eq!(*told.lock().unwrap(), asked.len());
        for (found, asked) in found.iter().zip(&asked) {
            let want = alone(&model, asked);
            assert_eq!(found.len(), want.len());
            for (found, want) in found.iter().zip(want) {
                assert!((found - want).abs() < 1e-6, "{found} instead of {want}");
            }
        }
        assert_eq!(model.log_probs(&Continuations::new(&asked).unwrap(), &|_| false).unwrap(), None);
    }

    #[test]
    fn ids_are_counted_as_they_are_read() {
        let prompt = ids(50, 1);
        let [a, b] = [[3, 4, 5], [3, 6, 7]];
        let asked = [&a[..], &b, &b[..1]].map(|ids| Continuation { prompt: &prompt, ids });
        // The prompt and its answers without their last ids; two that begin with one id alike read it twice.
        assert_eq!(Continuations::new(&asked).unwrap().shared(), Shared { distinct: 53, read: 54 });
        // Too little is saved for a pass of its own: 15 ids with the answers' first one, then a small part of the whole.
        let asked = [&a[..], &b].map(|ids| Continuation { prompt: &prompt[..14], ids });
        assert_eq!(Continuations::new(&asked).unwrap().shared(), Shared { distinct: 17, read: 32 });
        let long = [ids(200, 2), ids(200, 3)].map(|own| [&prompt[..30], &own].concat());
        let asked = [&long[0], &long[1]].map(|prompt| Continuation { prompt, ids: &a[..1] });
        assert_eq!(Continuations::new(&asked).unwrap().shared(), Shared { distinct: 430, read: 460 });
        // An empty question with many answers has few ids, but most of them.
        let answers: Vec<[u32; 4]> = (0..30).map(|i| [i, 1, 2, 3]).collect();
        let asked: Vec<Continuation> =
            answers.iter().map(|ids| Continuation { prompt: &prompt[..7], ids }).collect();
        assert_eq!(Continuations::new(&asked).unwrap().shared(), Shared { distinct: 97, read: 97 });
    }

    #[test]
    fn nothing_can_be_asked_of_nothing() {
        for (prompt, ids) in [(&[][..], &[1][..]), (&[1], &[])] {
            assert!(Continuations::new(&[Continuation { prompt, ids }]).is_err());
        }
        let asked = Continuations::new(&[Continuation { prompt: &[1], ids: &[40] }]).unwrap();
        let error = model().log_probs(&asked, &|_| true).unwrap_err().to_string();
        assert_eq!(error, "token id 40 is outside the model's vocabulary of 40");
    }
}
