//! Counts of correct answers: the only place that computes accuracy, its interval and its p-value.

use super::QuestionRecord;
use serde::{Deserialize, Serialize};
use stats::{binomial_p, wilson95};

/// Expected accuracy of guessing among four options.
pub const GUESSING: f64 = 0.25;

/// The count of correct answers to some questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Questions answered correctly.
    pub correct: u64,
    /// Questions asked.
    pub questions: u64,
    /// Expected accuracy of guessing: the mean over the questions of 1 / number of options.
    #[serde(default = "of_four", skip_serializing_if = "is_of_four")]
    pub guessing: f64,
}

impl Tally {
    /// This number of correct answers to questions with four options.
    pub fn of_four(correct: u64, questions: u64) -> Self {
        Self { correct, questions, guessing: GUESSING }
    }

    /// Counts the answers in some records.
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

    /// Share of correct answers; 0 without questions.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / (self.questions as f64).max(1.0)
    }

    /// Wilson's 95 % confidence interval of the accuracy.
    pub fn interval(&self) -> (f64, f64) {
        wilson95(self.correct, self.questions)
    }

    /// Exact two-sided p-value against guessing. If questions have different numbers of options, the binomial distribution of
    /// their mean chance is wider than the distribution of their sum (Hoeffding 1956), so p is conservative (too large).
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
        // By hand, for 3 questions at 0.3: 2 right 0.189, 3 right 0.027; no other outcome is as unlikely.
        assert!((tally.p_guess() - 0.216).abs() < 1e-12, "{}", tally.p_guess());
    }
}
