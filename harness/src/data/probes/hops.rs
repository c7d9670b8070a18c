//! k-hop induction (Sanford, Hsu, Telgarsky 2024, "Transformers, parallel computation, and logarithmic depth", definition 4.1).
//!
//! A row is a number of hops k and a sequence over the letters A to D without repeated neighbours, drawn as the authors do:
//! `2 B D A B C ..`. One hop goes from a position to the one after the last earlier occurrence of its letter; the target
//! is the letter where k hops end. If a hop finds no earlier occurrence, there is no target. Positions with a target carry loss.

use super::{Item, Probe, Rows, Stream, joined, rng, rng_of};
use crate::config::HopsConfig;
use crate::data::row::{NO_LABEL, Row};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// Letters of a sequence; the options of every question.
pub const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// The k-hop task with its exam.
pub struct Hops {
    config: HopsConfig,
    exam: Vec<(String, Vec<Item>)>,
    /// Sequences of the exam.
    examined: HashSet<Vec<u8>>,
}

impl Hops {
    /// Creates the task of a valid configuration.
    pub fn new(config: &HopsConfig) -> Self {
        let mut probe = Self { config: config.clone(), exam: vec![], examined: HashSet::new() };
        let mut rng = rng(config.seed, Stream::Exam);
        for hops in 0..=config.hops {
            let mut items = vec![];
            while items.len() < config.questions {
                items.extend(probe.item(hops, items.len() % LETTERS.len(), &mut rng));
            }
            probe.exam.push((format!("hop_{hops}"), items));
        }
        probe
    }

    /// Draws a question with the given answer about a sequence that no other question uses; `None` if the drawn sequence
    /// has no target or is used already.
    fn item(&mut self, hops: usize, answer: usize, rng: &mut ChaCha8Rng) -> Option<Item> {
        let drawn = letters(self.config.length, rng);
        let ends = ends(&drawn, hops);
        let defined: Vec<(usize, usize)> =
            (0..).zip(&ends).filter_map(|(at, end)| Some((at, (*end)?))).collect();
        let &(at, end) = defined.choose(rng)?;
        // The task is symmetric in the letters: a cyclic shift of all of them gives the wanted answer.
        let turn = answer as u8 + LETTERS.len() as u8 - drawn[end];
        let drawn: Vec<u8> = drawn.iter().map(|letter| (letter + turn) % LETTERS.len() as u8).collect();
        let prompt = render(hops, &drawn[..=at]);
        self.examined.insert(drawn).then(|| Item {
            prompt,
            options: LETTERS.map(String::from).into(),
            answer,
        })
    }

    /// Draws a row that is not a sequence of the exam and has at least one target.
    fn row(&self, hops: usize, rng: &mut ChaCha8Rng) -> Row {
        loop {
            let drawn = letters(self.config.length, rng);
            let ends = ends(&drawn, hops);
            if ends.iter().all(Option::is_none) || self.examined.contains(&drawn) {
                continue;
            }
            let label = |end: &Option<usize>| end.map_or(NO_LABEL, |end| LETTERS[drawn[end] as usize]);
            let labels = joined(std::iter::once(NO_LABEL).chain(ends.iter().map(label)));
            return Row::Labelled { text: render(hops, &drawn), labels };
        }
    }
}

impl Probe for Hops {
    fn words(&self) -> Vec<String> {
        (0..=self.config.hops).map(|hops| hops.to_string()).chain(LETTERS.map(String::from)).collect()
    }

    fn train(&self) -> Rows<'_> {
        let mut rng = rng(self.config.seed, Stream::Train);
        Box::new(
            (0..self.config.rows).map(move |_| self.row(rng.random_range(0..=self.config.hops), &mut rng)),
        )
    }

    fn held_out(&self) -> Vec<(String, Rows<'_>)> {
        let set = |hops: usize| -> (String, Rows<'_>) {
            let mut rng = rng_of(self.config.seed, Stream::HeldOut, hops as u64);
            let rows = (0..self.config.questions).map(move |_| self.row(hops, &mut rng));
            (format!("hop_{hops}"), Box::new(rows))
        };
        (0..=self.config.hops).map(set).collect()
    }

    fn exam(&self) -> Vec<(String, Vec<Item>)> {
        self.exam.clone()
    }
}

/// Draws letters, as indices into [`LETTERS`]; each differs from the one before it and is otherwise uniform.
fn letters(length: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut drawn: Vec<u8> = Vec::with_capacity(length);
    for _ in 0..length {
        drawn.push(match drawn.last() {
            None => rng.random_range(0..4),
            Some(last) => (last + rng.random_range(1..4)) % 4,
        });
    }
    drawn
}

/// Returns, for each position, where `hops` hops from it end; `None` if one of them is undefined.
fn ends(letters: &[u8], hops: usize) -> Vec<Option<usize>> {
    let mut last = [None; LETTERS.len()];
    let hop =
        |(at, letter): (usize, &u8)| last[*letter as usize].replace(at).map(|earlier: usize| earlier + 1);
    let hop: Vec<Option<usize>> = letters.iter().enumerate().map(hop).collect();
    (0..letters.len()).map(|at| (0..hops).try_fold(at, |at, _| hop[at])).collect()
}

fn render(hops: usize, letters: &[u8]) -> String {
    let letters = letters.iter().map(|letter| LETTERS[*letter as usize]);
    joined(std::iter::once(hops.to_string().as_str()).chain(letters))
}
