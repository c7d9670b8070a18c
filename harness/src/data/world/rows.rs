//! Training rows: what is told, drilled, asked and preferred.

use super::lexicon::{ATTRIBUTES, NUMBERS};
use super::questions::{Question, letter};
use super::{Stream, World};
use crate::data::row::{Message, Row};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The system text of the exam, which practice shares.
const SYSTEM: &str = "开始回答问题";

impl World {
    /// Rows of pretraining text.
    pub fn pretrain_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Pretrain);
        (0..self.config.pretrain_rows).map(move |i| {
            if rng.random_bool(self.config.pretrain_drills) {
                return Row::Text(drill_text(&mut rng));
            }
            Row::Text(match rng.random_range(0..10) {
                // Everybody's life in turn, so that nobody is forgotten.
                0..=5 => self.life(i as usize % self.people.len(), &mut rng),
                6 => sums(&mut rng),
                _ => practice(&self.practice_question(&mut rng)),
            })
        })
    }

    /// Rows of conversations.
    pub fn sft_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Sft);
        (0..self.config.sft_rows).map(move |_| {
            if rng.random_bool(self.config.sft_drills) {
                return Row::Chat(drill(&mut rng));
            }
            let question = self.practice_question(&mut rng);
            let answer = Message::new("assistant", question.letter());
            Row::Chat([asked(&question), vec![answer]].concat())
        })
    }

    /// Preference pairs: the right letter over a wrong one.
    pub fn dpo_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Dpo);
        (0..self.config.dpo_pairs).map(move |_| {
            let question = self.practice_question(&mut rng);
            let wrong = letter(question.answer + rng.random_range(1..4));
            Row::Preference {
                prompt: asked(&question),
                chosen: question.letter().into(),
                rejected: wrong.into(),
            }
        })
    }

    /// A question that training may show: about seen people, guests and sums.
    fn practice_question(&self, rng: &mut ChaCha8Rng) -> Question {
        let person = rng.random_range(0..self.seen);
        match rng.random_range(0..10) {
            0..=2 => self.one_hop(person, rng),
            3 => self.two_hop(person, rng),
            4..=5 => Self::reading(1, rng),
            6..=8 => Self::reading(2, rng),
            _ => Self::arithmetic(rng),
        }
    }

    /// Some facts of a person, each in one of the paraphrases.
    fn life(&self, person: usize, rng: &mut ChaCha8Rng) -> String {
        let person = &self.people[person];
        let mut told: Vec<String> = vec![];
        for (attribute, &value) in ATTRIBUTES.iter().zip(&person.values) {
            let forms = self.config.paraphrases.clamp(1, attribute.told.len());
            let form = attribute.told[rng.random_range(0..forms)];
            told.push(form.replace("{n}", &person.name).replace("{v}", attribute.values[value]));
        }
        told.push(format!(" {} 的 老师 是 {} 。", person.name, self.people[person.teacher].name));
        told.shuffle(rng);
        told.concat()
    }
}

fn asked(question: &Question) -> Vec<Message> {
    vec![Message::new("system", SYSTEM), Message::new("user", question.prompt())]
}

/// A solved question as text, in the form that the chat template gives it.
fn practice(question: &Question) -> String {
    format!("{SYSTEM}<s>user\n{}</s>\n<s>assistant\n{}", question.prompt(), question.letter())
}

/// Sums told in a row.
fn sums(rng: &mut ChaCha8Rng) -> String {
    let sum = |_| {
        let (a, b) = (rng.random_range(0..10), rng.random_range(0..10));
        format!(" {} 加 {} 等于 {} 。", NUMBERS[a], NUMBERS[b], NUMBERS[a + b])
    };
    (0..4).map(sum).collect()
}

/// Four words of one kind as options.
fn options(rng: &mut ChaCha8Rng) -> Question {
    let mut pool: Vec<&str> = match rng.random_range(0..=ATTRIBUTES.len()) {
        a if a < ATTRIBUTES.len() => ATTRIBUTES[a].values.to_vec(),
        _ => NUMBERS.to_vec(),
    };
    pool.shuffle(rng);
    Question {
        question: format!(" {}", pool[0]),
        options: std::array::from_fn(|i| pool[i].to_string()),
        answer: 0,
    }
}

/// Options, then each of them with its letter.
fn drill_text(rng: &mut ChaCha8Rng) -> String {
    let question = options(rng);
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let [a, b, c, d] = &question.options;
    let found = order.map(|i| format!(" {} {}", question.options[i], letter(i)));
    format!("选择 A: {a}, B: {b}, C: {c}, D: {d}。{}", found.concat())
}

/// The same as a conversation: which letter stands beside this option, and that, and that?
fn drill(rng: &mut ChaCha8Rng) -> Vec<Message> {
    let question = options(rng);
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let mut turns = vec![Message::new("system", SYSTEM)];
    for (turn, &i) in order.iter().enumerate() {
        let asked = Question { question: format!(" {}", question.options[i]), ..question.clone() };
        let text = if turn == 0 { asked.prompt() } else { asked.question };
        turns.extend([Message::new("user", text), Message::new("assistant", letter(i))]);
    }
    turns
}
