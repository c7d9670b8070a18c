//! The built-in world: a few dozen invented people whose lives are told, asked about and examined.
//!
//! Everybody has a home town, a trade, a favourite dish, an animal and a teacher. From that come, by seed alone:
//!
//! * pretraining text: lives (`陈明 的 家乡 是 青石 。`, also in paraphrases), facts told twice, sums, and practice in
//!   finding an option's letter: as flat text (`青石 B 白河 A ..`), in the exam's form, and in facts that name the letter;
//! * conversations: questions in the exam's form and open ones, about *seen* people, passing guests and sums;
//! * preference pairs: the right letter over a wrong one;
//! * solved questions, for exams that show some before each question: of the kinds that practice shows, none the exam's;
//! * exam sheets of four subjects: `one_hop` (a fact of an *unseen* person), `two_hop` (a fact of an unseen person's
//!   teacher), `reading` (a fact that the question itself tells) and `arithmetic` (small sums).
//!
//! Every fact that the exam asks occurs in the pretraining text; no question about an unseen person occurs anywhere
//! before the exam. Few words, short rows and much practice in finding letters are what let models of 0.2 million
//! parameters learn to answer in a few thousand steps; words are set off by blanks, so that byte-level BPE learns them whole.

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

const _: () = assert!(WorldConfig::MOST_PEOPLE == SURNAMES.len() * GIVEN_NAMES.len());

/// One inhabitant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Two characters, one word.
    pub name: String,
    /// For each attribute the place of the person's value among its values.
    pub values: [usize; ATTRIBUTES.len()],
    /// The teacher, another inhabitant.
    pub teacher: usize,
}

/// All facts of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    config: WorldSize,
    /// The inhabitants; the first `seen` of them are those whose questions are shown in training.
    pub people: Vec<Person>,
    /// How many are seen.
    pub seen: usize,
    /// Prompts of the exam, which practice leaves out.
    examined: BTreeSet<String>,
}

/// The numbers of a [`WorldConfig`], comparable.
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
    /// By [`PRACTICE`], where it is set.
    practice: Option<[f64; 4]>,
}

/// Streams of the world's generator: what is drawn from one never shifts another.
#[derive(Debug, Clone, Copy)]
enum Stream {
    People = 0,
    Pretrain = 1,
    Sft = 2,
    Dpo = 3,
    Exam = 4,
    /// Solved questions of the first subject; each further subject has the stream behind.
    Solved = 5,
    SftMulti = 100,
}

impl World {
    /// The world of a configuration.
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
        let count = config.people.clamp(2, WorldConfig::MOST_PEOPLE);
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

/// Makes the first people the only teachers, and deals each attribute's values evenly among them: were one value more
/// frequent, it could be guessed as the answer to two hops.
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
