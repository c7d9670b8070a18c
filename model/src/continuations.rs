//! Log-probabilities of continuations of prompts with common prefixes, each of which the model reads only once.
//!
//! The token sequences are sorted into a tree of common prefixes (a radix tree; Morrison 1968); each branch attends to the
//! keys and values of its prefix in place, without a copy. Small trees are read in one pass, several of them together; of a
//! large tree first the trunk, then its branches. *Invariant:* the context of every id is exactly the ids that precede it,
//! so the results equal those of reading each continuation alone, up to rounding.

use crate::backend::Backend;
use crate::backend::cpu::math::log_sum_exp;
use crate::decode::{KvCache, Reading};
use crate::inference::{check_finite, group_positions, in_groups};
use crate::tokens::Ragged;
use crate::transformer::{Mode, Transformer};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Minimum number of ids that a common prefix must save to become a node of its own.
const SAVED_FROM: usize = 4;

/// A prompt with a possible continuation.
#[derive(Debug, Clone, Copy)]
pub struct Continuation<'a> {
    /// Ids of the prompt, `(len,)`; at least one.
    pub prompt: &'a [u32],
    /// Ids of the continuation, whose log-probabilities are requested; at least one.
    pub ids: &'a [u32],
}

impl Continuation<'_> {
    /// Returns the number of ids that the model reads: all except the last.
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

/// Continuations arranged in trees so that common prefixes are read once.
#[derive(Debug)]
pub struct Continuations<'a> {
    /// The continuations, sorted by the ids that are read.
    rows: Vec<Continuation<'a>>,
    /// Index of each row in the input.
    given: Vec<usize>,
    roots: Vec<Node>,
}

/// Number of ids that the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCounts {
    /// Number of ids if every common prefix were read once: the minimum.
    pub distinct: usize,
    /// Number of ids that are actually read: short common prefixes are read repeatedly.
    pub read: usize,
}

/// A run of ids that are read together, after those of the parent node.
#[derive(Debug)]
struct Node {
    /// Rows that contain these ids.
    rows: Range<usize>,
    /// Places of these ids in the rows.
    places: Range<usize>,
    children: Vec<Node>,
}

impl Node {
    /// Returns the number of ids in the node and all its descendants.
    fn all(&self) -> usize {
        self.places.len() + read_by(&self.children)
    }

    /// Returns whether one pass reads the node with all its descendants.
    fn is_whole<B: Backend>(&self) -> bool {
        self.all() <= group_positions::<B>()
    }
}

impl<'a> Continuations<'a> {
    /// Arranges continuations in trees.
    ///
    /// # Errors
    /// If a prompt or a continuation is empty.
    pub fn new(asked: &[Continuation<'a>]) -> Result<Self> {
        if asked.iter().any(|a| a.prompt.is_empty() || a.ids.is_empty()) {
            return Err(Error::Input(
                "a prompt or a continuation is empty, expected at least one token".into(),
            ));
        }
        let mut given: Vec<usize> = (0..asked.len()).collect();
        given.sort_by(|&a, &b| asked[a].iter().cmp(asked[b].iter()));
        let rows: Vec<Continuation> = given.iter().map(|&i| asked[i]).collect();
        let mut roots = vec![];
        build_nodes(&rows, 0..rows.len(), 0, 0, &mut roots);
        Ok(Self { rows, given, roots })
    }

    /// Counts the ids that are read.
    pub fn read_counts(&self) -> ReadCounts {
        let mut distinct = 0;
        for (i, row) in self.rows.iter().enumerate() {
            distinct += row.read() - if i > 0 { common_prefix_len(&self.rows[i - 1], row) } else { 0 };
        }
        ReadCounts { distinct, read: read_by(&self.roots) }
    }
}

/// Returns the number of ids in nodes and all their descendants.
fn read_by(nodes: &[Node]) -> usize {
    nodes.iter().map(Node::all).sum()
}

/// Returns the length of the common prefix of two rows.
fn common_prefix_len(a: &Continuation, b: &Continuation) -> usize {
    a.iter().zip(b.iter()).take_while(|(a, b)| a == b).count()
}

/// Appends the nodes of the rows in `range`: their first `read` ids are covered by parent nodes, their first `known` are equal.
fn build_nodes(rows: &[Continuation], range: Range<usize>, read: usize, known: usize, nodes: &mut Vec<Node>) {
    let mut at = range.start;
    while at < range.end {
        // A row that ends here is a prefix of the next row.
        let goes_on = (at..range.end).find(|&i| rows[i].read() > known);
        let Some(first) = goes_on else { break };
        let id = rows[first].id(known);
        let end = first + rows[first..range.end].partition_point(|row| row.id(known) <= id);
        let all = common_prefix_len(&rows[first], &rows[end - 1]);
        if rows[end - 1].read() == all {
            nodes.push(Node { rows: at..end, places: read..all, children: vec![] });
        } else {
            let mut children = vec![];
            let longer = first + rows[first..end].partition_point(|row| row.read() <= all);
            build_nodes(rows, longer..end, all, all, &mut children);
            if (all - read) * (children.len() - 1) >= SAVED_FROM {
                nodes.push(Node { rows: at..end, places: read..all, children });
            } else {
                // Every child reads the prefix itself; the first child also serves the rows that end with the prefix.
                children.iter_mut().for_each(|child| child.places.start = read);
                children[0].rows.start = at;
                nodes.append(&mut children);
            }
        }
        at = end;
    }
}

/// A node with the cache of the ids that precede it; `None` for a root.
type Next<'n, B> = (Option<Arc<KvCache<B>>>, &'n Node);

/// Index of a row, place among the ids of its continuation, and log-probability.
type Found = (usize, usize, f64);

impl<B: Backend> Transformer<B> {
    /// Computes the log-probability of every id of every continuation, by softmax over the vocabulary: `(ids,)` each, in
    /// the order of the input.
    ///
    /// Calls `on_progress` before each group of continuations with 0 and after it with the number of continuations that the group
    /// completed. Once it returns `false`, no further group is read and the result is `None`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, a result is not finite, or the device fails.
    pub fn log_probs(
        &self,
        asked: &Continuations,
        on_progress: &(dyn Fn(usize) -> bool + Sync),
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
            let Some(found) = self.read_on(asked, &nodes, on_progress)? else { return Ok(None) };
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
        on_progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Option<Vec<Found>>> {
        let positions =
            |(_, node): &Next<B>| if node.is_whole::<B>() { node.all() } else { node.places.len() };
        let found = in_groups::<B, _, _>(nodes, positions, |group| {
            if !on_progress(0) {
                return Ok(None);
            }
            let mut pass = TreePass::new(self, asked, group)?;
            let mut found = pass.read()?;
            if !on_progress(pass.ended()) {
                return Ok(None);
            }
            let next = pass.next();
            if !next.is_empty() {
                let Some(more) = self.read_on(asked, &next, on_progress)? else { return Ok(None) };
                found.extend(more);
            }
            Ok(Some(found))
        })?;
        let found: Option<Vec<Vec<Found>>> = found.into_iter().collect();
        Ok(found.map(|found| found.into_iter().flatten().collect()))
    }
}

/// Log-probabilities needed after one place: indices of rows, each with the place among the ids of its continuation.
type Wanted = Vec<(usize, usize)>;

/// A node as part of a pass.
struct Branch<'n, B: Backend> {
    node: &'n Node,
    /// Cache of the ids that an earlier pass has read.
    prefix: Option<Arc<KvCache<B>>>,
    /// Index of the branch of this pass that contains the parent node.
    parent: Option<usize>,
    ids: Vec<u32>,
    /// Log-probabilities needed after each of its ids.
    wanted: Vec<Wanted>,
}

/// One pass over a group of trees, and of trunks of larger trees.
struct TreePass<'n, 'a, B: Backend> {
    model: &'n Transformer<B>,
    asked: &'n Continuations<'a>,
    /// The nodes, parents before their children.
    branches: Vec<Branch<'n, B>>,
    /// One cache per branch; empty if the pass needs none.
    caches: Vec<KvCache<B>>,
}

impl<'n, 'a, B: Backend> TreePass<'n, 'a, B> {
    fn new(model: &'n Transformer<B>, asked: &'n Continuations<'a>, group: &[Next<'n, B>]) -> Result<Self> {
        let mut pass = Self { model, asked, branches: vec![], caches: vec![] };
        for (prefix, node) in group {
            pass.add(node, prefix.clone(), None);
        }
        // Single nodes without a prefix need no caches.
        let is_tree = |branch: &Branch<B>| branch.prefix.is_some() || !branch.node.children.is_empty();
        if pass.branches.iter().any(is_tree) {
            let cache = |branch: &Branch<B>| match &branch.prefix {
                Some(prefix) => KvCache::extending(prefix.clone(), branch.ids.len()),
                None => model.cache(branch.ids.len()),
            };
            pass.caches = pass.branches.iter().map(cache).collect::<Result<_>>()?;
        }
        Ok(pass)
    }

    fn add(&mut self, node: &'n Node, prefix: Option<Arc<KvCache<B>>>, parent: Option<usize>) {
        let rows = &self.asked.rows;
        let longest = &rows[node.rows.end - 1];
        let ids = node.places.clone().map(|place| longest.id(place)).collect();
        let mut wanted = vec![vec![]; node.places.len()];
        for number in node.rows.clone() {
            let first = rows[number].prompt.len() - 1;
            for place in node.places.start.max(first)..node.places.end.min(rows[number].read()) {
                wanted[place - node.places.start].push((number, place - first));
            }
        }
        let number = self.branches.len();
        self.branches.push(Branch { node, prefix, parent, ids, wanted });
        if node.is_whole::<B>() {
            for child in &node.children {
                self.add(child, None, Some(number));
            }
        }
    }

    fn read(&mut self) -> Result<Vec<Found>> {
        let Self { model, asked, branches, caches } = self;
        let mut found: Vec<Found> = vec![];
        let mut finite = Ok(());
        let on_logits = |branch: usize, place: usize, logits: &[f32]| {
            let wanted = &branches[branch].wanted[place];
            if wanted.is_empty() {
                return;
            }
            let total = log_sum_exp(logits);
            for &(row, id) in wanted {
                let log_prob = f64::from(logits[asked.rows[row].ids[id] as usize]) - total;
                if finite.is_ok() {
                    finite = check_finite(std::iter::once(log_prob as f32));
                }
                found.push((row, id, log_prob));
            }
        };
        if caches.is_empty() {
            let ids: Vec<&[u32]> = branches.iter().map(|branch| &branch.ids[..]).collect();
            let pass = model.pass(Ragged::prompts(&ids), Mode::Infer)?;
            let x = pass.forward()?.0;
            let mut places = vec![];
            for (number, Branch { wanted, .. }) in branches.iter().enumerate() {
                let asked = (0..wanted.len()).filter(|&place| !wanted[place].is_empty());
                places.extend(asked.map(|place| (number, place)));
            }
            pass.each_logits(&x, &places, on_logits)?;
        } else {
            let mut readings: Vec<Reading<B>> = (caches.iter_mut().zip(branches.iter()))
                .map(|(cache, Branch { ids, wanted, parent, .. })| {
                    let logits_from = wanted.iter().position(|wanted| !wanted.is_empty());
                    Reading { cache, continues: *parent, ids, logits_from: logits_from.unwrap_or(ids.len()) }
                })
                .collect();
            model.extend_with(&mut readings, on_logits)?;
        }
        finite?;
        Ok(found)
    }

    /// Returns the number of continuations whose last id to read is in this pass.
    fn ended(&self) -> usize {
        let ends = |Branch { node, .. }: &Branch<B>| {
            let rows = &self.asked.rows[node.rows.clone()];
            rows.iter().filter(|row| node.places.contains(&(row.read() - 1))).count()
        };
        self.branches.iter().map(ends).sum()
    }

    /// Returns the nodes that later passes read, with the caches of their prefixes.
    fn next(self) -> Vec<Next<'n, B>> {
        let mut next = vec![];
        for (branch, cache) in self.branches.into_iter().zip(self.caches) {
            if !branch.node.is_whole::<B>() {
                let cache = Arc::new(cache);
                next.extend(branch.node.children.iter().map(|child| (Some(cache.clone()), child)));
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Cpu, ModelConfig};
    use std::sync::Mutex;

    fn model(window: Option<usize>) -> Transformer {
        let config = ModelConfig {
            d_model: 16,
            n_layers: 2,
            n_heads: 2,
            n_kv_heads: 1,
            vocab_size: 40,
            window,
            ..ModelConfig::default()
        };
        Transformer::new(&config, 1, &Cpu).unwrap()
    }

    fn ids(len: usize, salt: u64) -> Vec<u32> {
        (0..len as u64).map(|i| (crate::backend::mix(i ^ (salt << 32)) % 40) as u32).collect()
    }

    /// Log-probability of each id, computed by a separate pass per id.
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

    /// Prompts as in exams: solved questions, then a question with several answers, some of a single id, some that are a
    /// prefix of another, some equal; also prompts that are a prefix of other prompts.
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
        // A tree too large for one pass, with one question that also is.
        let shots = ids(150, 50);
        for question in 0..6 {
            let len = if question == 0 { 500 } else { 60 };
            let prompt = [shots.clone(), ids(len, 60 + question)].concat();
            let answers = 2 + 6 * (6 - question);
            all.extend(
                (0..answers).map(|answer| (prompt.clone(), ids(12 + answer as usize % 5, 70 + answer))),
            );
        }
        all
    }

    #[test]
    fn what_is_shared_changes_no_result() {
        [None, Some(1), Some(20), Some(90)].into_iter().for_each(shared_and_alone);
    }

    fn shared_and_alone(window: Option<usize>) {
        let model = model(window);
        let cases = cases();
        let asked: Vec<Continuation> =
            cases.iter().map(|(prompt, ids)| Continuation { prompt, ids }).collect();
        let laid_out = Continuations::new(&asked).unwrap();
        assert!(laid_out.roots.iter().any(|root| !root.is_whole::<Cpu>() && !root.children.is_empty()));
        let done_so_far = Mutex::new(0);
        let on_progress = |done| {
            *done_so_far.lock().unwrap() += done;
            true
        };
        let found = model.log_probs(&Continuations::new(&asked).unwrap(), &on_progress).unwrap().unwrap();
        assert_eq!(*done_so_far.lock().unwrap(), asked.len());
        for (found, asked) in found.iter().zip(&asked) {
            let want = alone(&model, asked);
            assert_eq!(found.len(), want.len());
            for (found, want) in found.iter().zip(want) {
                assert!((found - want).abs() < 5e-6, "{found} instead of {want}");
            }
        }
        assert_eq!(model.log_probs(&Continuations::new(&asked).unwrap(), &|_| false).unwrap(), None);
    }

    #[test]
    fn a_stop_after_the_trunk_of_a_tree_is_final() {
        let shots = ids(150, 50);
        let prompts: Vec<Vec<u32>> =
            (0..6).map(|question| [shots.clone(), ids(300, 60 + question)].concat()).collect();
        let asked: Vec<Continuation> =
            prompts.iter().map(|prompt| Continuation { prompt, ids: &[3, 4] }).collect();
        let asked = Continuations::new(&asked).unwrap();
        assert!(asked.roots.len() == 1 && !asked.roots[0].is_whole::<Cpu>());
        let calls = Mutex::new(0);
        let on_progress = |_: usize| {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            *calls < 2
        };
        assert_eq!(model(None).log_probs(&asked, &on_progress).unwrap(), None);
        assert_eq!(*calls.lock().unwrap(), 2);
    }

    #[test]
    fn ids_are_counted_as_they_are_read() {
        let prompt = ids(50, 1);
        let [a, b] = [[3, 4, 5], [3, 6, 7]];
        let asked = [&a[..], &b, &b[..1]].map(|ids| Continuation { prompt: &prompt, ids });
        // The prompt and the answers without their last ids; the common first id of two answers is read twice.
        assert_eq!(Continuations::new(&asked).unwrap().read_counts(), ReadCounts { distinct: 53, read: 54 });
        // Sharing would save only 3 ids, including the common first id of the answers.
        let asked = [&a[..], &b].map(|ids| Continuation { prompt: &prompt[..2], ids });
        assert_eq!(Continuations::new(&asked).unwrap().read_counts(), ReadCounts { distinct: 5, read: 8 });
        // A short prompt with many answers: each id saved counts once per answer.
        let answers: Vec<[u32; 4]> = (0..30).map(|i| [i, 1, 2, 3]).collect();
        let asked: Vec<Continuation> =
            answers.iter().map(|ids| Continuation { prompt: &prompt[..7], ids }).collect();
        assert_eq!(Continuations::new(&asked).unwrap().read_counts(), ReadCounts { distinct: 97, read: 97 });
    }

    #[test]
    fn nothing_can_be_asked_of_nothing() {
        for (prompt, ids) in [(&[][..], &[1][..]), (&[1], &[])] {
            assert!(Continuations::new(&[Continuation { prompt, ids }]).is_err());
        }
        let asked = Continuations::new(&[Continuation { prompt: &[1], ids: &[40] }]).unwrap();
        let error = model(None).log_probs(&asked, &|_| true).unwrap_err().to_string();
        assert_eq!(error, "token id 40 is outside the model's vocabulary of 40");
    }
}
