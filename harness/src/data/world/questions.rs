//! Multiple-choice questions with four options, as in the exam.

use super::lexicon::{ATTRIBUTES, GUESTS, NUMBERS, SUMMANDS};
use super::{Stream, World};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::ops::Range;

/// A question with its options, one of which is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Text of the question, including the passage for `reading`.
    pub question: String,
    /// Options in the order A, B, C, D.
    pub options: [String; 4],
    /// Index of the right option.
    pub answer: usize,
}

/// Subjects of the exam, in the order of their sheets.
pub const SUBJECTS: [&str; 4] = ["arithmetic", "one_hop", "reading", "two_hop"];

impl Question {
    /// Makes a question with wrong options drawn from `pool`; the right one is equally likely at every place.
    fn new(question: String, right: &str, pool: &[&str], rng: &mut ChaCha8Rng) -> Self {
        let mut wrong: Vec<&str> = pool.iter().copied().filter(|v| *v != right).collect();
        wrong.shuffle(rng);
        Self::with_wrong(question, right, [wrong[0], wrong[1], wrong[2]], rng)
    }

    fn with_wrong(question: String, right: &str, wrong: [&str; 3], rng: &mut ChaCha8Rng) -> Self {
        let answer = rng.random_range(0..4);
        let mut wrong = wrong.into_iter();
        let options =
            std::array::from_fn(|i| if i == answer { right } else { wrong.next().unwrap_or_default() });
        Self { question, options: options.map(String::from), answer }
    }

    /// Returns the question with its options, in the exam's form.
    pub fn prompt(&self) -> String {
        format!("{}。{}", self.question, listed(self.options.each_ref().map(String::as_str)))
    }

    /// Returns the text of the right option.
    pub fn right(&self) -> &str {
        &self.options[self.answer]
    }

    /// Returns the letter of the right option.
    pub fn letter(&self) -> char {
        letter(self.answer)
    }
}

/// Returns the letter of an option's index, taken modulo 4.
pub fn letter(place: usize) -> char {
    ['A', 'B', 'C', 'D'][place % 4]
}

/// Formats options with their letters, as in the exam.
pub fn listed([a, b, c, d]: [&str; 4]) -> String {
    format!("选择 A: {a}, B: {b}, C: {c}, D: {d}")
}

/// Formats a fact in its plainest form.
pub fn fact(name: &str, attribute: &str, value: impl std::fmt::Display) -> String {
    format!(" {name} 的 {attribute} 是 {value} 。")
}

/// Draws `count` different guests for a passage: people who are not inhabitants.
pub fn guests(count: usize, rng: &mut ChaCha8Rng) -> Vec<&'static str> {
    GUESTS.choose_multiple(rng, count).copied().collect()
}

impl World {
    /// Asks for one of `person`'s attributes.
    pub(super) fn one_hop(&self, person: usize, rng: &mut ChaCha8Rng) -> Question {
        let a = rng.random_range(0..ATTRIBUTES.len());
        let (attribute, person) = (&ATTRIBUTES[a], &self.people[person]);
        let question = format!(" {} 的 {} 是 {}", person.name, attribute.name, attribute.interrogative);
        Question::new(question, attribute.values[person.values[a]], &attribute.values, rng)
    }

    /// Asks for one of the attributes of `person`'s teacher.
    pub(super) fn two_hop(&self, person: usize, rng: &mut ChaCha8Rng) -> Question {
        let a = rng.random_range(0..ATTRIBUTES.len());
        let (attribute, person) = (&ATTRIBUTES[a], &self.people[person]);
        let question =
            format!(" {} 的 老师 的 {} 是 {}", person.name, attribute.name, attribute.interrogative);
        let right = attribute.values[self.people[person.teacher].values[a]];
        Question::new(question, right, &attribute.values, rng)
    }

    /// Asks what a passage states about one of its guests; the other guests' values are among the options.
    pub(super) fn reading(guests: usize, rng: &mut ChaCha8Rng) -> Question {
        let attribute = &ATTRIBUTES[rng.random_range(0..ATTRIBUTES.len())];
        let names = self::guests(guests, rng);
        let mut values = attribute.values;
        values.shuffle(rng);
        let facts = names.iter().zip(values).map(|(n, v)| fact(n, attribute.name, v));
        let passage: String = facts.collect();
        let asked = rng.random_range(0..guests);
        let question =
            format!("{passage} {} 的 {} 是 {}", names[asked], attribute.name, attribute.interrogative);
        let mut wrong: Vec<&str> = values[..4].iter().copied().filter(|v| *v != values[asked]).collect();
        wrong.shuffle(rng);
        Question::with_wrong(question, values[asked], [wrong[0], wrong[1], wrong[2]], rng)
    }

    /// Asks for the sum of two small numbers; wrong options are at most 3 away.
    pub(super) fn arithmetic(rng: &mut ChaCha8Rng) -> Question {
        let (a, b) = (rng.random_range(0..SUMMANDS), rng.random_range(0..SUMMANDS));
        let question = format!(" {} 加 {} 等于 几", NUMBERS[a], NUMBERS[b]);
        let near: Vec<&str> =
            (0..NUMBERS.len()).filter(|n| n.abs_diff(a + b) <= 3).map(|n| NUMBERS[n]).collect();
        Question::new(question, NUMBERS[a + b], &near, rng)
    }

    /// Returns the exam: the questions of each subject, none of which occurs in a training row.
    pub fn exam(&self) -> Vec<(&'static str, Vec<Question>)> {
        let mut rng = self.rng(Stream::Exam);
        let unseen = self.seen..self.people.len();
        let count = self.config.questions_per_subject;
        let none = BTreeSet::new();
        SUBJECTS
            .map(|subject| (subject, self.different(subject, count, unseen.clone(), &none, &mut rng)))
            .into()
    }

    /// Returns the first `count` questions of the exam, taking the subjects in turn.
    pub fn first_questions(&self, count: usize) -> Vec<Question> {
        let exam = self.exam();
        let rounds = exam.iter().map(|(_, asked)| asked.len()).max().unwrap_or(0);
        let in_turn = (0..rounds).flat_map(|i| exam.iter().filter_map(move |(_, asked)| asked.get(i)));
        in_turn.take(count).cloned().collect()
    }

    /// Returns `count` solved questions for each subject, about seen people, guests and sums, none of them in the exam.
    ///
    /// A larger `count` only appends questions. A small world may have fewer.
    pub fn solved(&self, count: usize) -> Vec<(&'static str, Vec<Question>)> {
        let subject = |(i, subject): (usize, &&'static str)| {
            let mut rng = self.rng(Stream::Solved);
            rng.set_stream(Stream::Solved as u64 + i as u64);
            (*subject, self.different(subject, count, 0..self.seen, &self.examined, &mut rng))
        };
        SUBJECTS.iter().enumerate().map(subject).collect()
    }

    /// Draws `count` different questions of a subject about some of the people, excluding those with the prompts `left_out`.
    fn different(
        &self,
        subject: &str,
        count: usize,
        people: Range<usize>,
        left_out: &BTreeSet<String>,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Question> {
        let mut questions: Vec<Question> = vec![];
        // A small world may not have `count` different questions.
        for _ in 0..50 * count {
            if questions.len() == count {
                break;
            }
            let person = rng.random_range(people.clone());
            let question = match subject {
                "one_hop" => self.one_hop(person, rng),
                "two_hop" => self.two_hop(person, rng),
                "reading" => Self::reading(rng.random_range(1..=2), rng),
                _ => Self::arithmetic(rng),
            };
            if !questions.contains(&question) && !left_out.contains(&question.prompt()) {
                questions.push(question);
            }
        }
        questions
    }
}
