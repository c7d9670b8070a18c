//! Multi-query associative recall, MQAR (Arora et al. 2023, "Zoology: measuring and improving recall in efficient
//! language models", arXiv:2312.04927; drawn as in their program, with a filler between queries).
//!
//! A row begins with pairs of a key and a value, all different; after them each key occurs once more as a query, at even
//! positions whose distances from the pairs follow a power law. The target after a query is its value, and only these
//! targets carry loss: `k2 v8 k4 v7 _ _ k4 _ _ _ k2 _`.

use super::{Item, Probe, Rows, Stream, joined, rng};
use crate::config::RecallConfig;
use crate::data::row::{NO_LABEL, Row};
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;

/// Most options of a question: one per letter.
const MAX_OPTIONS: usize = 26;

/// The recall task with its exam.
pub struct Recall {
    config: RecallConfig,
    exam: Vec<Item>,
    /// Sequences of the exam.
    examined: HashSet<Drawn>,
}

/// A drawn sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Drawn {
    /// For each pair its key, its value and the position of its query.
    pairs: Vec<(usize, usize, usize)>,
}

impl Recall {
    /// Creates the task of a valid configuration.
    pub fn new(config: &RecallConfig) -> Self {
        let mut probe = Self { config: config.clone(), exam: vec![], examined: HashSet::new() };
        let mut rng = rng(config.seed, Stream::Exam);
        while probe.exam.len() < config.questions {
            let drawn = probe.draw(&mut rng);
            if probe.examined.insert(drawn.clone()) {
                probe.exam.push(probe.item(&drawn, &mut rng));
            }
        }
        probe
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Drawn {
        let RecallConfig { vocabulary, length, pairs, power, .. } = self.config;
        let keys = index::sample(rng, vocabulary / 2 - 1, pairs).into_iter().map(|key| key + 1);
        let values = index::sample(rng, vocabulary - vocabulary / 2, pairs);
        let values = values.into_iter().map(|value| value + vocabulary / 2);
        let keys_and_values: Vec<(usize, usize)> = keys.zip(values).collect();
        let begin = 2 * pairs;
        let mut weights: Vec<f64> =
            (1..=(length - begin) / 2).map(|gap| (gap as f64).powf(power - 1.0)).collect();
        let mut place = || {
            let mut left = rng.random_range(0.0..1.0) * weights.iter().sum::<f64>();
            let reached = |weight: &f64| {
                left -= weight;
                *weight > 0.0 && left < 0.0
            };
            // Rounding may leave nothing reached; then the last free gap is taken.
            let last = || weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
            let gap = weights.iter().position(reached).unwrap_or_else(last);
            weights[gap] = 0.0;
            begin + 2 * gap
        };
        Drawn { pairs: keys_and_values.into_iter().map(|(key, value)| (key, value, place())).collect() }
    }

    /// Returns the words of a sequence and the target after each.
    fn render(&self, drawn: &Drawn) -> (Vec<String>, Vec<Option<String>>) {
        let mut words = vec![0; self.config.length];
        let mut labels = vec![None; self.config.length];
        for (index, &(key, value, at)) in drawn.pairs.iter().enumerate() {
            (words[2 * index], words[2 * index + 1], words[at]) = (key, value, key);
            labels[at] = Some(self.word(value));
        }
        (words.into_iter().map(|word| self.word(word)).collect(), labels)
    }

    fn word(&self, number: usize) -> String {
        match number {
            0 => "_".into(),
            key if key < self.config.vocabulary / 2 => format!("k{key}"),
            value => format!("v{value}"),
        }
    }

    /// Makes a question about one of the keys of a sequence; the wrong options are values of the other keys.
    fn item(&self, drawn: &Drawn, rng: &mut ChaCha8Rng) -> Item {
        let (_, right, at) = drawn.pairs[rng.random_range(0..drawn.pairs.len())];
        let mut options: Vec<usize> =
            drawn.pairs.iter().map(|pair| pair.1).filter(|value| *value != right).collect();
        options.shuffle(rng);
        options.truncate(MAX_OPTIONS - 1);
        let answer = self.exam.len() % (options.len() + 1);
        options.insert(answer, right);
        let (words, _) = self.render(drawn);
        Item {
            prompt: joined(&words[..=at]),
            options: options.into_iter().map(|value| self.word(value)).collect(),
            answer,
        }
    }

    /// Draws a row that is not a sequence of the exam.
    fn row(&self, rng: &mut ChaCha8Rng) -> Row {
        loop {
            let drawn = self.draw(rng);
            if self.examined.contains(&drawn) {
                continue;
            }
            let (words, labels) = self.render(&drawn);
            let labels = joined(labels.iter().map(|label| label.as_deref().unwrap_or(NO_LABEL)));
            return Row::Labelled { text: joined(words), labels };
        }
    }
}

impl Probe for Recall {
    fn words(&self) -> Vec<String> {
        (0..self.config.vocabulary).map(|number| self.word(number)).collect()
    }

    fn train(&self) -> Rows<'_> {
        let mut rng = rng(self.config.seed, Stream::Train);
        Box::new((0..self.config.rows).map(move |_| self.row(&mut rng)))
    }

    fn held_out(&self) -> Vec<(String, Rows<'_>)> {
        let mut rng = rng(self.config.seed, Stream::HeldOut);
        let rows = (0..self.config.questions).map(move |_| self.row(&mut rng));
        vec![("recall".into(), Box::new(rows))]
    }

    fn exam(&self) -> Vec<(String, Vec<Item>)> {
        vec![("recall".into(), self.exam.clone())]
    }
}
