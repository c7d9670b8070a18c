//! The built-in world: a few dozen invented people, with training text and an exam about them.
//!
//! Everybody has a home town, a trade, a favourite dish, an animal and a teacher. From these facts and the seed follow:
//!
//! * pretraining text: lives (`陈明 的 家乡 是 青石 。`, also in paraphrases), repeated facts, sums, and drills in
//!   finding an option's letter: as flat text (`青石 B 白河 A ..`), in the exam's form, and in facts that name the letter;
//! * conversations: questions in the exam's form and open questions, about *seen* people, guests of a passage, and sums;
//! * preference pairs: the right letter preferred over a wrong one;
//! * solved questions, for few-shot exams: of the same kinds as the practice questions, none of them in the exam;
//! * exam sheets of four subjects: `one_hop` (a fact of an *unseen* person), `two_hop` (a fact of an unseen person's
//!   teacher), `reading` (a fact that is stated in the question itself) and `arithmetic` (small sums).
//!
//! Every fact that the exam asks for occurs in the pretraining text; no question about an unseen person occurs before
//! the exam. A small vocabulary, short rows and many letter drills allow models of 0.2 million parameters to learn to
//! answer within a few thousand steps; words are separated by spaces, so that byte-level BPE learns them whole.

mod lexicon;
mod questions;
mod rows;

pub use questions::Question;

#[cfg(doc)]
use crate::config::PRACTICE;
use crate::config::WorldConfig;
use lexicon::{ATTRIBUTES, GIVEN_NAMES, SURNAMES};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

const _: () = assert!(WorldConfig::MAX_PEOPLE == SURNAMES.len() * GIVEN_NAMES.len());

/// One inhabitant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Name of two characters, written as one word.
    pub name: String,
    /// For each attribute, the index of the person's value among the attribute's values.
    pub values: [usize; ATTRIBUTES.len()],
    /// Index of the teacher, another inhabitant.
    pub teacher: usize,
}

/// All facts of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    config: WorldSize,
    /// The inhabitants; the first `seen` of them are those whose questions are shown in training.
    pub people: Vec<Person>,
    /// Number of seen people.
    pub seen: usize,
    /// Prompts of the exam, which are excluded from practice.
    examined: BTreeSet<String>,
}

/// The values of a [`WorldConfig`] that rows and questions depend on, in a comparable form.
#[derive(Debug, Clone, Copy, PartialEq)]
struct WorldSize {
    seed: u64,
    paraphrases: usize,
    pretrain_rows: u64,
    sft_rows: u64,
    sft_multi_rows: u64,
    dpo_pairs: u64,
    questions_per_subject: usize,
    pretrain_drills: f64,
    sft_drills: f64,
    sft_lives: f64,
    /// Weights in the order of [`PRACTICE`], if they are set.
    practice: Option<[f64; 4]>,
}

/// Independent random streams of the world: drawing from one does not affect the others.
#[derive(Debug, Clone, Copy)]
enum Stream {
    People = 0,
    Pretrain = 1,
    Sft = 2,
    Dpo = 3,
    Exam = 4,
    /// Solved questions of the first subject; each further subject uses the next stream.
    Solved = 5,
    SftMulti = 100,
}

impl World {
    /// Generates the world of a configuration.
    pub fn generate(config: &WorldConfig) -> Self {
        let size = WorldSize {
            seed: config.seed,
            paraphrases: config.paraphrases,
            pretrain_rows: config.pretrain_rows,
            sft_rows: config.sft_rows,
            sft_multi_rows: config.sft_multi_rows,
            dpo_pairs: config.dpo_pairs,
            questions_per_subject: config.questions_per_subject,
            pretrain_drills: config.pretrain_drills.clamp(0.0, 1.0),
            sft_drills: config.sft_drills.clamp(0.0, 1.0),
            sft_lives: config.sft_lives.clamp(0.0, 1.0),
            practice: config.practice_weights(),
        };
        let mut rng = size.rng(Stream::People);
        let mut names: Vec<String> =
            SURNAMES.iter().flat_map(|s| GIVEN_NAMES.iter().map(move |g| format!("{s}{g}"))).collect();
        names.shuffle(&mut rng);
        let count = config.people.clamp(2, WorldConfig::MAX_PEOPLE);
        let people = names.into_iter().take(count).enumerate().map(|(i, name)| {
            let values = ATTRIBUTES.map(|a| rng.random_range(0..a.values.len()));
            let teacher = (i + rng.random_range(1..count)) % count;
            Person { name, values, teacher }
        });
        let mut people: Vec<Person> = people.collect();
        let seen = config.seen_people();
        if config.teachers > 0 {
            appoint(&mut people, config.teachers, &mut rng);
        }
        let mut world = Self { config: size, people, seen, examined: BTreeSet::new() };
        world.examined = world.exam().iter().flat_map(|(_, asked)| asked).map(Question::prompt).collect();
        world
    }

    fn rng(&self, stream: Stream) -> ChaCha8Rng {
        self.config.rng(stream)
    }
}

/// Makes the first `teachers` people the only teachers and distributes each attribute's values evenly among them: a more
/// frequent value could be guessed as the answer to a two-hop question.
fn appoint(people: &mut [Person], teachers: usize, rng: &mut ChaCha8Rng) {
    for (a, attribute) in ATTRIBUTES.iter().enumerate() {
        let mut dealt: Vec<usize> = (0..teachers).map(|i| i % attribute.values.len()).collect();
        dealt.shuffle(rng);
        people.iter_mut().zip(dealt).for_each(|(person, value)| person.values[a] = value);
    }
    for (i, person) in people.iter_mut().enumerate() {
        // Nobody teaches themselves.
        person.teacher = match i < teachers {
            true => (i + rng.random_range(1..teachers)) % teachers,
            false => rng.random_range(0..teachers),
        };
    }
}

impl WorldSize {
    fn rng(self, stream: Stream) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream as u64);
        rng
    }
}

#[cfg(test)]
mod tests;
