//! Probes: generated tasks whose outcome is predicted by published work, to check the harness where the answer is known.
//!
//! A probe has words, one token each; training sequences of words, with the target after each word; validation sequences;
//! and an exam on sequences of the same kind, cut at a position that has a target. There is no chat template and options
//! are not listed in the prompt. The seed determines the sequences and their order.
//! *Invariant:* no whole sequence of the exam is trained on (except for knowledge capacity, whose exam asks for facts
//! that were trained on).

pub mod capacity;
pub mod hops;
pub mod recall;
#[cfg(test)]
mod tests;

use super::Row;
use crate::config::{Source, TrialConfig};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A question of a probe's exam.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Prompt, as words separated by spaces.
    pub prompt: String,
    /// Candidates for the next word.
    pub options: Vec<String>,
    /// Index of the right option; all indices are right equally often.
    pub answer: usize,
}

/// Iterator over sequences.
pub type Rows<'a> = Box<dyn Iterator<Item = Row> + Send + 'a>;

/// A task with its vocabulary, its training sequences and its exam. All rows are [`Row::Labelled`].
pub trait Probe: Send + Sync {
    /// Returns the words, in the order of their token ids.
    fn words(&self) -> Vec<String>;
    /// Returns the training sequences.
    fn train(&self) -> Rows<'_>;
    /// Returns the validation sets, with their names.
    fn held_out(&self) -> Vec<(String, Rows<'_>)>;
    /// Returns the questions of each subject.
    fn exam(&self) -> Vec<(String, Vec<Item>)>;
}

/// Returns the probe of a trial, or `None` if its data source is not a probe.
pub fn probe(config: &TrialConfig) -> Option<Box<dyn Probe>> {
    Some(match config.data.source {
        Source::World | Source::Files => return None,
        Source::Hops => Box::new(hops::Hops::new(&config.hops)),
        Source::Recall => Box::new(recall::Recall::new(&config.recall)),
        Source::Capacity => Box::new(capacity::Capacity::new(&config.capacity)),
    })
}

/// Independent random streams of a probe: drawing from one does not affect the others.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Train = 0,
    Exam = 1,
    /// Names and attributes of people.
    Facts = 2,
    /// The first validation set; each further set uses the next stream.
    HeldOut = 1000,
}

fn rng(seed: u64, stream: Stream) -> ChaCha8Rng {
    rng_of(seed, stream, 0)
}

fn rng_of(seed: u64, stream: Stream, part: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream as u64 + part);
    rng
}

/// Joins words with spaces.
fn joined<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        text += word.as_ref();
    }
    text
}
