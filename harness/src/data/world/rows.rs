//! Training rows of the world: lives, drills, questions and preference pairs.

use super::lexicon::{ATTRIBUTES, NUMBERS, SUMMANDS};
use super::questions::{Question, fact, guests, letter, listed};
use super::{Stream, World};
use crate::config::{PRACTICE, TrainStage};
use crate::data::row::{Message, Row};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

/// System message of the exam, also used in practice.
const SYSTEM: &str = "开始回答问题";

impl World {
    /// Returns the pretraining rows, some of which are conversations.
    pub fn pretrain_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Pretrain);
        (0..self.config.pretrain_rows).map(move |i| {
            // People in turn, so that everybody's life is told.
            let person = i as usize % self.people.len();
            let rng = &mut rng;
            if rng.random_bool(self.config.pretrain_drills) {
                return match rng.random_range(0..13) {
                    0..8 => Row::Text(drill_text(rng)),
                    _ => Row::Chat(drill(rng)),
                };
            }
            Row::Text(match rng.random_range(0..12) {
                0 => self.life(person, self.config.paraphrases, rng),
                1..5 => self.life(person, 1, rng),
                5..9 => retold(rng),
                9 => self.lettered(rng),
                10 => return Row::Chat(letter_chat(&self.practice_question(rng))),
                _ => sums(rng),
            })
        })
    }

    /// Returns the training rows of a stage.
    pub fn rows(&self, stage: TrainStage) -> Box<dyn Iterator<Item = Row> + Send + '_> {
        match stage {
            TrainStage::Pretrain => Box::new(self.pretrain_rows()),
            TrainStage::Sft | TrainStage::Lora => Box::new(self.sft_rows()),
            TrainStage::SftMulti => Box::new(self.sft_multi_rows()),
            TrainStage::Dpo => Box::new(self.dpo_rows()),
        }
    }

    /// Returns the conversations for fine-tuning.
    pub fn sft_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Sft);
        (0..self.config.sft_rows).map(move |i| {
            if rng.random_bool(self.config.sft_drills) {
                return Row::Chat(drill(&mut rng));
            }
            // Without lives nothing is drawn, so the conversations are the same as before `sft_lives` existed.
            if self.config.sft_lives > 0.0 && rng.random_bool(self.config.sft_lives) {
                return Row::Chat(self.life_chat(i as usize % self.people.len(), &mut rng));
            }
            let question = self.practice_question(&mut rng);
            Row::Chat(if rng.random_bool(0.45) { word_chat(&question) } else { letter_chat(&question) })
        })
    }

    /// Returns conversations of several turns: two to four questions, some of them open.
    pub fn sft_multi_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::SftMulti);
        (0..self.config.sft_multi_rows).map(move |_| {
            let mut turns = vec![Message::new("system", SYSTEM)];
            for _ in 0..rng.random_range(2..=4) {
                let question = self.practice_question(&mut rng);
                let turn = if rng.random_bool(0.45) { word_chat(&question) } else { letter_chat(&question) };
                turns.extend(turn.into_iter().filter(|message| message.role != "system"));
            }
            Row::Chat(turns)
        })
    }

    /// Returns preference pairs: the right letter preferred over a wrong one.
    pub fn dpo_rows(&self) -> impl Iterator<Item = Row> + Send + '_ {
        let mut rng = self.rng(Stream::Dpo);
        (0..self.config.dpo_pairs).map(move |_| {
            let question = self.practice_question(&mut rng);
            let wrong = letter(question.answer + rng.random_range(1..4));
            Row::Preference {
                prompt: prompt_turns(&question),
                chosen: question.letter().into(),
                rejected: wrong.into(),
            }
        })
    }

    /// Draws a question for training: about seen people, guests or sums, and not in the exam.
    fn practice_question(&self, rng: &mut ChaCha8Rng) -> Question {
        loop {
            let person = rng.random_range(0..self.seen);
            let kind = match self.config.practice {
                None => rng.random_range(0..20),
                Some(weights) => weighted(&weights, rng),
            };
            let question = match kind {
                0..4 => self.one_hop(person, rng),
                4 => self.two_hop(person, rng),
                5..9 => Self::reading(1, rng),
                9..18 => Self::reading(2, rng),
                _ => Self::arithmetic(rng),
            };
            if !self.examined.contains(&question.prompt()) {
                return question;
            }
        }
    }

    /// Tells all facts of a person in random order, each in one of the first `forms` paraphrases.
    fn life(&self, person: usize, forms: usize, rng: &mut ChaCha8Rng) -> String {
        let person = &self.people[person];
        let mut facts: Vec<String> = vec![];
        for (attribute, &value) in ATTRIBUTES.iter().zip(&person.values) {
            let form =
                attribute.paraphrases[rng.random_range(0..forms.clamp(1, attribute.paraphrases.len()))];
            facts.push(form.replace("{n}", &person.name).replace("{v}", attribute.values[value]));
        }
        facts.push(format!(" {} 的 老师 是 {} 。", person.name, self.people[person.teacher].name));
        facts.shuffle(rng);
        facts.concat()
    }

    /// Makes a conversation whose answer is a person's life.
    fn life_chat(&self, person: usize, rng: &mut ChaCha8Rng) -> Vec<Message> {
        vec![
            Message::new("system", SYSTEM),
            Message::new("user", format!(" {}", self.people[person].name)),
            Message::new("assistant", self.life(person, 1, rng)),
        ]
    }

    /// Lists options of one attribute, then facts of guests or seen people with the letter in place of the value.
    fn lettered(&self, rng: &mut ChaCha8Rng) -> String {
        let a = rng.random_range(0..ATTRIBUTES.len());
        let attribute = &ATTRIBUTES[a];
        let mut options = attribute.values;
        options.shuffle(rng);
        let options = &options[..4];
        let place = |value: &str| options.iter().position(|option| *option == value);
        let (mut passage, mut lettered) = (String::new(), String::new());
        let mut state = |name: &str, place: usize| {
            lettered += &fact(name, attribute.name, letter(place));
        };
        if rng.random_bool(0.5) {
            for (name, value) in guests(2, rng).into_iter().zip([0, 1, 2, 3].choose_multiple(rng, 2)) {
                passage += &fact(name, attribute.name, options[*value]);
                state(name, *value);
            }
        } else {
            let mut people: Vec<_> = self.people[..self.seen].iter().collect();
            people.shuffle(rng);
            let placed = people.iter().filter_map(|p| Some((p, place(attribute.values[p.values[a]])?)));
            placed.take(3).for_each(|(person, place)| state(&person.name, place));
        }
        let listed = listed([options[0], options[1], options[2], options[3]]);
        format!("{passage}{listed}。{lettered}")
    }
}

/// Draws a kind of question by the weights of [`PRACTICE`]; returns a number of the same range as the mix without weights.
fn weighted(weights: &[f64; 4], rng: &mut ChaCha8Rng) -> u32 {
    let drawn = rng.random_range(0.0..weights.iter().sum());
    match PRACTICE[reached(drawn, weights)] {
        "one_hop" => 0,
        "two_hop" => 4,
        "reading" => rng.random_range(5..18),
        _ => 18,
    }
}

/// Returns the index of the weight at which their running sum exceeds `left`. Rounding may leave none; then it is the last
/// positive weight.
fn reached(mut left: f64, weights: &[f64; 4]) -> usize {
    let place = weights.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    place.or_else(|| weights.iter().rposition(|weight| *weight > 0.0)).unwrap_or(0)
}

fn prompt_turns(question: &Question) -> Vec<Message> {
    vec![Message::new("system", SYSTEM), Message::new("user", question.prompt())]
}

/// Makes a conversation of a question in the exam's form, answered with the letter.
fn letter_chat(question: &Question) -> Vec<Message> {
    [prompt_turns(question), vec![Message::new("assistant", question.letter())]].concat()
}

/// Makes a conversation of a question without options, answered with the word itself.
fn word_chat(question: &Question) -> Vec<Message> {
    vec![
        Message::new("system", SYSTEM),
        Message::new("user", question.question.clone()),
        Message::new("assistant", format!(" {}", question.right())),
    ]
}

/// Tells facts of one to three guests, then repeats three of them at random.
fn retold(rng: &mut ChaCha8Rng) -> String {
    let attribute = &ATTRIBUTES[rng.random_range(0..ATTRIBUTES.len())];
    let mut values = attribute.values;
    values.shuffle(rng);
    let count = rng.random_range(1..=3);
    let values_of = guests(count, rng).into_iter().zip(values);
    let facts: Vec<String> = values_of.map(|(name, value)| fact(name, attribute.name, value)).collect();
    let again: String = (0..3).map(|_| facts[rng.random_range(0..count)].as_str()).collect();
    facts.concat() + &again
}

/// Tells four sums.
fn sums(rng: &mut ChaCha8Rng) -> String {
    let sum = |_| {
        let (a, b) = (rng.random_range(0..SUMMANDS), rng.random_range(0..SUMMANDS));
        format!(" {} 加 {} 等于 {} 。", NUMBERS[a], NUMBERS[b], NUMBERS[a + b])
    };
    (0..4).map(sum).collect()
}

/// Draws four words of one kind as options; the question is about the first.
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

/// Lists options, then each of them with its letter, in random order.
fn drill_text(rng: &mut ChaCha8Rng) -> String {
    let question = options(rng);
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let listed = listed(question.options.each_ref().map(String::as_str));
    let found = order.map(|i| format!(" {} {}", question.options[i], letter(i)));
    format!("{listed}。{}", found.concat())
}

/// The same drill as a conversation: asks for the letter of one option after another.
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

#[cfg(test)]
mod tests {
    use super::reached;

    #[test]
    fn a_kind_without_weight_is_never_reached() {
        let weights = [0.0, 0.3, 0.7, 0.0];
        assert_eq!([0.0, 0.299, 0.31, 0.999].map(|left| reached(left, &weights)), [1, 1, 2, 2]);
        // As if rounding had left something of the sum.
        assert_eq!(reached(1.5, &weights), 2);
    }
}
