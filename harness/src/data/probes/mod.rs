//! Probes: tasks made here whose outcome published work predicts, so that the instrument is checked where the answer is known.
//!
//! A probe has words, each of them a token; sequences of them to train on, with what is to be said behind each word; others
//! to validate on; and an exam of the same sequences, cut where something is to be said. No chat template is around them
//! and no options are listed. From the seed flow the same sequences every time, one after the other.
//! *Invariant:* no sequence that the exam asks about is trained on (that of knowledge capacity aside, which asks for
//! what was trained on).

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
    /// What is read, as words.
    pub prompt: String,
    /// Words of which one is to be said next.
    pub options: Vec<String>,
    /// Place of the right one; every place is right as often.
    pub answer: usize,
}

/// Sequences, one at a time.
pub type Rows<'a> = Box<dyn Iterator<Item = Row> + Send + 'a>;

/// A task with its words, its training text and its exam. All rows are [`Row::Labelled`].
pub trait Probe: Send + Sync {
    /// The words, in the order of their ids.
    fn words(&self) -> Vec<String>;
    /// Sequences to train on.
    fn train(&self) -> Rows<'_>;
    /// Sets of sequences to validate on, by name.
    fn held_out(&self) -> Vec<(String, Rows<'_>)>;
    /// The questions of each subject.
    fn exam(&self) -> Vec<(String, Vec<Item>)>;
}

/// The probe that a trial's data is of, where it is one.
pub fn probe(config: &TrialConfig) -> Option<Box<dyn Probe>> {
    Some(match config.data.source {
        Source::World | Source::Files => return None,
        Source::Hops => Box::new(hops::Hops::new(&config.hops)),
        Source::Recall => Box::new(recall::Recall::new(&config.recall)),
        Source::Capacity => Box::new(capacity::Capacity::new(&config.capacity)),
    })
}

/// Streams of a probe's generator: what is drawn from one never shifts another.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Train = 0,
    Exam = 1,
    /// What people are like.
    Facts = 2,
    /// The first set to validate on; each further one has the stream behind.
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

/// Words with blanks between them.
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
