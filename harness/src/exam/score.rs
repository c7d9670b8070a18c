//! From answers to scores, and to questions.csv.

use crate::records::{GUESSING, QuestionRecord};
use crate::stats::{binomial_p, wilson95};
use anyhow::Result;
use serde::Serialize;

/// The score of a subject, or of the whole exam.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The subject, or `total`.
    pub subject: String,
    /// Questions answered correctly.
    pub correct: u64,
    /// Questions asked.
    pub questions: u64,
    /// Share of correct answers.
    pub accuracy: f64,
    /// Wilson's 95 % interval.
    pub interval: (f64, f64),
    /// Exact two-sided p of guessing.
    pub p_guess: f64,
}

/// A score for each subject in order of appearance, and the total last.
pub fn scores(records: &[QuestionRecord]) -> Vec<Score> {
    let mut subjects: Vec<&str> = vec![];
    for record in records {
        if !subjects.contains(&record.subject.as_str()) {
            subjects.push(&record.subject);
        }
    }
    let score = |subject: &str, of: &dyn Fn(&&QuestionRecord) -> bool| {
        let (mut correct, mut questions) = (0, 0);
        for record in records.iter().filter(|r| of(r)) {
            questions += 1;
            correct += u64::from(record.prediction == record.answer);
        }
        Score {
            subject: subject.into(),
            correct,
            questions,
            accuracy: correct as f64 / (questions as f64).max(1.0),
            interval: wilson95(correct, questions),
            p_guess: binomial_p(correct, questions, GUESSING),
        }
    };
    let mut all: Vec<Score> = subjects.iter().map(|s| score(s, &|r| r.subject == *s)).collect();
    all.push(score("total", &|_| true));
    all
}

/// questions.csv: one row per question.
pub fn questions_csv(records: &[QuestionRecord]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(["subject", "id", "p_a", "p_b", "p_c", "p_d", "prediction", "answer"])?;
    for r in records {
        let mut row = vec![r.subject.clone(), r.id.clone()];
        row.extend(r.probabilities.iter().map(|p| p.to_string()));
        row.extend([r.prediction.to_string(), r.answer.to_string()]);
        csv.write_record(row)?;
    }
    Ok(csv.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_count_subjects_and_the_total() {
        let record = |subject: &str, prediction, answer| QuestionRecord {
            subject: subject.into(),
            id: "0".into(),
            probabilities: [0.25; 4],
            prediction,
            answer,
        };
        let scores = scores(&[record("b", 'A', 'A'), record("a", 'A', 'B'), record("b", 'C', 'A')]);
        let short: Vec<(&str, u64, u64)> =
            scores.iter().map(|s| (s.subject.as_str(), s.correct, s.questions)).collect();
        assert_eq!(short, [("b", 1, 2), ("a", 0, 1), ("total", 1, 3)]);
        assert!((scores[2].p_guess - 37.0 / 64.0).abs() < 1e-9 || scores[2].p_guess > 0.5);
    }
}
