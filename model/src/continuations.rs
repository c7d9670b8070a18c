//! Log-probabilities of what may follow prompts that begin alike: what several have in common is read once.
//!
//! All that is to be read is sorted and laid out as a tree of common beginnings (a radix tree; Morrison 1968); each branch
//! sees the keys and values of its beginning where they are. Small trees are read in one pass, several together; of a large
//! one the trunk, then its branches. *Invariant:* every id is read behind all that stand before it, so that what is found
//! is what reading each continuation by itself finds, but for rounding.

use crate::backend::Backend;
use crate::backend::cpu::math::log_sum_exp;
use crate::decode::{KvCache, Reading};
use crate::inference::{check_finite, group_positions, in_groups};
use crate::tokens::Ragged;
use crate::transformer::{Mode, Transformer};
use crate::{Error, Result};
use std::ops::Range;
use std::sync::Arc;

/// Ids that a common beginning must save to be a branch of its own.
const SAVED_FROM: usize = 4;

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

impl Node {
    /// Ids that are read by it and all below it.
    fn all(&self) -> usize {
        self.places.len() + read_by(&self.children)
    }

    /// Whether it is read in one pass with all below it.
    fn is_whole<B: Backend>(&self) -> bool {
        self.all() <= group_positions::<B>()
    }
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
    nodes.iter().map(Node::all).sum()
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
            if (all - read) * (children.len() - 1) >= SAVED_FROM {
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
    /// `go_on` is told how many continuations are done before and
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
        let positions =
            |(_, node): &Next<B>| if node.is_whole::<B>() { node.all() } else { node.places.len() };
        let found = in_groups::<B, _, _>(nodes, positions, |group| {
            if !go_on(0) {
                return Ok(None);
            }
            let mut pass = TreePass::new(self, asked, group)?;
            let mut found = pass.read()?;
            let goes_on = go_on(pass.ended());
            let next = pass.next();
            if !next.is_empty() {
                let Some(more) = self.read_on(asked, &next, go_on)? else { return Ok(None) };
                found.extend(more);
            }
            Ok(goes_on.then_some(found))
        })?;
        let found: Option<Vec<Vec<Found>>> = found.into_iter().collect();
        Ok(found.map(|found| found.into_iter().flatten().collect()))
    }
}

/// What is asked for behind one place: rows' numbers, each with the place among its ids.
type Wanted = Vec<(usize, usize)>;

/// A node of a pass.
struct Branch<'n, B: Backend> {
    node: &'n Node,
    /// What was read before in another pass.
    before: Option<Arc<KvCache<B>>>,
    /// The branch of this pass that it goes on from.
    after: Option<usize>,
    ids: Vec<u32>,
    /// What is asked for at each of its places.
    wanted: Vec<Wanted>,
}

/// Trees, and trunks of larger ones, that go through the model together.
struct TreePass<'n, 'a, B: Backend> {
    model: &'n Transformer<B>,
    asked: &'n Continuations<'a>,
    /// Every node before those below it.
    branches: Vec<Branch<'n, B>>,
    /// The caches of the branches, where there are any.
    caches: Vec<KvCache<B>>,
}

impl<'n, 'a, B: Backend> TreePass<'n, 'a, B> {
    fn new(model: &'n Transformer<B>, asked: &'n Continuations<'a>, group: &[Next<'n, B>]) -> Result<Self> {
        let mut pass = Self { model, asked, branches: vec![], caches: vec![] };
        for (before, node) in group {
            pass.add(node, before.clone(), None);
        }
        // Prompts alone need no caches.
        let is_tree = |branch: &Branch<B>| branch.before.is_some() || !branch.node.children.is_empty();
        if pass.branches.iter().any(is_tree) {
            let cache = |branch: &Branch<B>| match &branch.before {
                Some(before) => KvCache::behind(before.clone(), branch.ids.len()),
                None => model.cache(branch.ids.len()),
            };
            pass.caches = pass.branches.iter().map(cache).collect::<Result<_>>()?;
        }
        Ok(pass)
    }

    fn add(&mut self, node: &'n Node, before: Option<Arc<KvCache<B>>>, after: Option<usize>) {
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
        self.branches.push(Branch { node, before, after, ids, wanted });
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
                .map(|(cache, Branch { ids, wanted, after, .. })| {
                    let logits_from = wanted.iter().position(|wanted| !wanted.is_empty());
                    Reading { cache, after: *after, ids, logits_from: logits_from.unwrap_or(ids.len()) }
                })
                .collect();
            model.extend_with(&mut readings, on_logits)?;
        }
        finite?;
        Ok(found)
    }

    /// How many continuations are read to their end.
    fn ended(&self) -> usize {
        let ends = |Branch { node, .. }: &Branch<B>| {
            let rows = &self.asked.rows[node.rows.clone()];
            rows.iter().filter(|row| node.places.contains(&(row.read() - 1))).count()
        };
        self.branches.iter().map(ends).sum()
    }

    /// What is read behind this pass, in others.
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
        // More than what is read in one pass, one question of it too.
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
                assert!((found - want).abs() < 5e-6, "{found} instead of {want}");
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
        // Too little is saved: 3 ids with the answers' first one.
        let asked = [&a[..], &b].map(|ids| Continuation { prompt: &prompt[..2], ids });
        assert_eq!(Continuations::new(&asked).unwrap().shared(), Shared { distinct: 5, read: 8 });
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
        let error = model(None).log_probs(&asked, &|_| true).unwrap_err().to_string();
        assert_eq!(error, "token id 40 is outside the model's vocabulary of 40");
    }
}
