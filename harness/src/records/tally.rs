//! Right answers against questions and chance: the one place where a share, its interval and its p come from.

use super::QuestionRecord;
use crate::stats::{binomial_p, wilson95};
use serde::{Deserialize, Serialize};

/// What guessing among four options scores.
pub const GUESSING: f64 = 0.25;

/// Right answers of some questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Questions answered correctly.
    pub correct: u64,
    /// Questions asked.
    pub questions: u64,
    /// What guessing scores: the mean over the questions of 1 over their options.
    #[serde(default = "of_four", skip_serializing_if = "is_of_four")]
    pub guessing: f64,
}

impl Tally {
    /// So many right ones among questions with four options.
    pub fn of_four(correct: u64, questions: u64) -> Self {
        Self { correct, questions, guessing: GUESSING }
    }

    /// The answers of some records.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a QuestionRecord>) -> Self {
        let mut tally = Self { correct: 0, questions: 0, guessing: 0.0 };
        for record in records {
            tally.correct += u64::from(record.is_right());
            tally.questions += 1;
            tally.guessing += 1.0 / record.probabilities.len().max(1) as f64;
        }
        tally.guessing =
            if tally.questions == 0 { GUESSING } else { tally.guessing / tally.questions as f64 };
        tally
    }

    /// Share of correct answers; 0 of no question.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / (self.questions as f64).max(1.0)
    }

    /// Wilson's 95 % interval of the share.
    pub fn interval(&self) -> (f64, f64) {
        wilson95(self.correct, self.questions)
    }

    /// Exact two-sided p of guessing. Where questions have unlike numbers of options the binomial distribution of their
    /// mean chance is wider than that of their sum (Hoeffding 1956), so that p is rather too large.
    pub fn p_guess(&self) -> f64 {
        binomial_p(self.correct, self.questions, self.guessing)
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::of_four(0, 0)
    }
}

fn of_four() -> f64 {
    GUESSING
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_of_four(guessing: &f64) -> bool {
    *guessing == GUESSING
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tally_of_four_options_is_written_as_ever() {
        let tally = Tally::of_four(3, 12);
        assert_eq!(serde_json::to_string(&tally).unwrap(), "{\"correct\":3,\"questions\":12}");
        assert_eq!(serde_json::from_str::<Tally>("{\"correct\":3,\"questions\":12}").unwrap(), tally);
    }

    #[test]
    fn chance_is_the_mean_over_the_questions() {
        let record = |options: usize, prediction| QuestionRecord {
            subject: "s".into(),
            id: "0".into(),
            probabilities: vec![0.1; options],
            prediction,
            answer: 'B',
            contaminated: None,
            options: vec![],
        };
        let tally = Tally::of(&[record(2, 'B'), record(5, 'A'), record(5, 'B')]);
        assert_eq!((tally.correct, tally.questions), (2, 3));
        assert!((tally.guessing - (0.5 + 0.2 + 0.2) / 3.0).abs() < 1e-12);
        // By hand, of 3 at 0.3: 2 right 0.189, 3 right 0.027; nothing else is as unlikely.
        assert!((tally.p_guess() - 0.216).abs() < 1e-12, "{}", tally.p_guess());
    }
}
