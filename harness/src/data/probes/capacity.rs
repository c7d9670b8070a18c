//! Knowledge capacity (Allen-Zhu, Li 2024, "Physics of language models: part 3.3, knowledge capacity scaling laws",
//! arXiv:2404.05405): repeated biographies of invented people, and the bits of knowledge that a model has stored of them.
//!
//! A row describes one person: a name of three words, then the attributes in random order, each as an introducing word (one
//! of several, drawn anew each time) and its value: `<s> f3 m17 l5 a2.0 v2.9 a0.3 v0.30 ..`. All words carry loss, as in
//! text. Knowledge is measured on two validation sets: `names`, with loss on the words of every name, and `values`, with
//! loss on every value.

use super::{Item, Probe, Rows, Stream, joined, rng};
use crate::config::{CapacityConfig, Source, TrialConfig};
use crate::data::row::{NO_LABEL, Row};
use crate::records::SetLoss;
use rand::Rng;
use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::LN_2;

/// First letter of the words of each part of a name.
const PARTS: [&str; CapacityConfig::NAME_PARTS as usize] = ["f", "m", "l"];

/// Number of options of a question.
const OPTIONS: usize = 4;

/// The knowledge capacity task with its people.
pub struct Capacity {
    config: CapacityConfig,
    people: Vec<Person>,
}

/// An invented person.
struct Person {
    /// For each part of the name, the index of its word.
    name: [usize; PARTS.len()],
    /// Index of the value of each attribute.
    values: Vec<u16>,
}

impl Capacity {
    /// Draws the people of a valid configuration.
    pub fn new(config: &CapacityConfig) -> Self {
        let mut rng = rng(config.seed, Stream::Facts);
        let all = config.names.pow(CapacityConfig::NAME_PARTS);
        let names: Vec<usize> = index::sample(&mut rng, all, config.people).into_vec();
        let person = |name: usize| Person {
            name: [
                name / config.names / config.names,
                name / config.names % config.names,
                name % config.names,
            ],
            values: (0..config.attributes).map(|_| rng.random_range(0..config.values as u16)).collect(),
        };
        let people = names.into_iter().map(person).collect();
        Self { config: config.clone(), people }
    }

    /// Returns the words of a biography, without the end of text.
    fn biography(&self, person: &Person, rng: &mut ChaCha8Rng) -> Vec<String> {
        let mut words = name_words(person);
        let mut order: Vec<usize> = (0..self.config.attributes).collect();
        order.shuffle(rng);
        for attribute in order {
            words.push(attribute_word(attribute, rng.random_range(0..self.config.forms)));
            words.push(value(attribute, person.values[attribute]));
        }
        words
    }
}

fn name_words(person: &Person) -> Vec<String> {
    let name = PARTS.iter().zip(person.name).map(|(part, number)| format!("{part}{number}"));
    std::iter::once("<s>".to_string()).chain(name).collect()
}

fn attribute_word(attribute: usize, form: usize) -> String {
    format!("a{attribute}.{form}")
}

fn value(attribute: usize, value: u16) -> String {
    format!("v{attribute}.{value}")
}

impl Probe for Capacity {
    fn words(&self) -> Vec<String> {
        let CapacityConfig { names, attributes, values, forms, .. } = self.config;
        let of_names = PARTS.iter().flat_map(|part| (0..names).map(move |number| format!("{part}{number}")));
        let of_attribute = |attribute: usize| {
            let attribute_words = (0..forms).map(move |form| attribute_word(attribute, form));
            attribute_words.chain((0..values as u16).map(move |number| value(attribute, number)))
        };
        of_names.chain((0..attributes).flat_map(of_attribute)).collect()
    }

    fn train(&self) -> Rows<'_> {
        let mut rng = rng(self.config.seed, Stream::Train);
        let all = (0..self.config.exposures).flat_map(|_| &self.people);
        Box::new(all.map(move |person| {
            let words = self.biography(person, &mut rng);
            let labels = joined(words[1..].iter().map(String::as_str).chain(["</s>"]));
            Row::Labelled { text: joined(words), labels }
        }))
    }

    fn held_out(&self) -> Vec<(String, Rows<'_>)> {
        let names = self.people.iter().map(|person| {
            let words = name_words(person);
            Row::Labelled { text: joined(&words[..PARTS.len()]), labels: joined(&words[1..]) }
        });
        let mut rng = rng(self.config.seed, Stream::HeldOut);
        let values = self.people.iter().map(move |person| {
            let words = self.biography(person, &mut rng);
            // After the name, introductions are at every second position, each before its value.
            let is_attribute_word = |at: usize| at > PARTS.len() && (at - PARTS.len()) % 2 == 1;
            let label = |at: usize| if is_attribute_word(at) { words[at + 1].as_str() } else { NO_LABEL };
            let labels = joined((0..words.len()).map(label));
            Row::Labelled { text: joined(&words), labels }
        });
        vec![("names".into(), Box::new(names)), ("values".into(), Box::new(values))]
    }

    /// Asks for attributes of people, by the name and the attribute's first introducing word: facts that were trained on.
    fn exam(&self) -> Vec<(String, Vec<Item>)> {
        let mut rng = rng(self.config.seed, Stream::Exam);
        let item = |number: usize| {
            let person = &self.people[rng.random_range(0..self.people.len())];
            let attribute = rng.random_range(0..self.config.attributes);
            let right = person.values[attribute];
            let others = index::sample(&mut rng, self.config.values - 1, OPTIONS - 1).into_iter();
            // Indices at and above the right one are shifted by one to skip it.
            let others = others.map(|other| other as u16 + u16::from(other as u16 >= right));
            let mut options: Vec<String> = others.map(|other| value(attribute, other)).collect();
            let answer = number % OPTIONS;
            options.insert(answer, value(attribute, right));
            let prompt = joined(name_words(person).into_iter().chain([attribute_word(attribute, 0)]));
            Item { prompt, options, answer }
        };
        vec![("facts".into(), (0..self.config.questions).map(item).collect())]
    }
}

/// Returns the bits of knowledge that a model has stored: a lower bound on the size of any representation with these losses.
///
/// `N log2(N0 / e^p1) + N log2(S0 / e^p2)`, the numerator of the paper's capacity ratio for its set bioS (definition 4.3),
/// which follows from its theorem 3.2. `N` people have names drawn from `N0 = names^3` and values from
/// `S0 = values^attributes`; `p1` is the loss in nats summed over the words of the name, averaged over people, and `p2` the
/// same over all values. The theorem has `N0 - N` in place of `N0`, and terms of lower order. The result is negative for a
/// model that is worse than guessing.
///
/// `None` if the data is not of this probe, or there are no losses of its validation sets.
pub fn bits(config: &TrialConfig, sets: &[SetLoss]) -> Option<f64> {
    if config.data.source != Source::Capacity {
        return None;
    }
    let loss = |name: &str| sets.iter().find(|set| set.name == name).map(|set| set.loss);
    let of = &config.capacity;
    let (people, attributes) = (of.people as f64, of.attributes as f64);
    let parts = f64::from(CapacityConfig::NAME_PARTS);
    // The recorded losses are means over words.
    let names = parts * ((of.names as f64).log2() - loss("names")? / LN_2);
    let values = attributes * ((of.values as f64).log2() - loss("values")? / LN_2);
    Some(people * (names + values))
}
