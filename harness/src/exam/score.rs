//! Scores of answers, and questions.csv.

use super::prompt::Prompt;
use crate::records::{
    Analysis, Contaminated, Notice, QuestionRecord, QuestionTable, Tally, analyse, group_of,
};
use anyhow::Result;
use serde::Serialize;

/// Score of a subject or of the whole exam.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Name of the subject, or `total`.
    pub subject: String,
    /// C-Eval's group of the subject, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'static str>,
    /// Counts of its answers.
    #[serde(flatten)]
    pub tally: Tally,
    /// Fraction of correct answers; for the total over all questions, the micro average.
    pub accuracy: f64,
    /// Wilson's 95 % interval of the accuracy.
    pub interval: (f64, f64),
    /// Exact two-sided p-value against guessing.
    pub p_guess: f64,
    /// Number of questions whose prompt lost its beginning.
    pub prompts_cut: u64,
    /// Number of questions whose prompt lost some of its shots.
    pub prompts_with_fewer_shots: u64,
    /// Mean number of shots shown before a question.
    pub mean_shots: f64,
    /// Smallest number of shots shown before a question.
    pub fewest_shots: usize,
    /// Number of questions that are among the shots shown before them.
    pub questions_among_shots: u64,
    /// Number of questions that spell special tokens, which are encoded as characters.
    pub questions_with_special_tokens: u64,
    /// Questions that occur in training text, and how the others were answered; `None` if they were not searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contaminated: Option<Contaminated>,
    /// Analysis of the answers beyond right and wrong; only for the total.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
}

/// Counts the questions that occur in training text; `None` if none was searched for.
pub fn contaminated<'a>(records: impl Iterator<Item = &'a QuestionRecord>) -> Option<Contaminated> {
    let mut found: Option<Contaminated> = None;
    for record in records {
        if let Some(is_contaminated) = record.contaminated {
            found.get_or_insert_default().add(is_contaminated, record);
        }
    }
    found
}

/// Returns a score for each subject, in order of appearance, and the total last; `prompts` are in the order of `records`.
pub fn scores(records: &[QuestionRecord], prompts: &[Prompt]) -> Vec<Score> {
    let mut subjects: Vec<&str> = vec![];
    for record in records {
        if !subjects.contains(&record.subject.as_str()) {
            subjects.push(&record.subject);
        }
    }
    let score = |subject: &str, of: &dyn Fn(&QuestionRecord) -> bool| {
        let asked: Vec<_> = records.iter().zip(prompts).filter(|(record, _)| of(record)).collect();
        let count =
            |is: &dyn Fn(&Prompt) -> bool| asked.iter().filter(|(_, prompt)| is(prompt)).count() as u64;
        let tally = Tally::of(asked.iter().map(|(record, _)| *record));
        let shots = asked.iter().map(|(_, prompt)| prompt.shots);
        Score {
            subject: subject.into(),
            group: group_of(subject),
            tally,
            accuracy: tally.accuracy(),
            interval: tally.interval(),
            p_guess: tally.p_guess(),
            prompts_cut: count(&|prompt| prompt.is_cut),
            prompts_with_fewer_shots: count(&|prompt| prompt.has_fewer_shots),
            mean_shots: shots.clone().sum::<usize>() as f64 / asked.len().max(1) as f64,
            fewest_shots: shots.min().unwrap_or(0),
            questions_among_shots: count(&|prompt| prompt.is_among_shots),
            questions_with_special_tokens: count(&|prompt| prompt.has_special),
            contaminated: contaminated(asked.iter().map(|(record, _)| *record)),
            analysis: None,
        }
    };
    let mut all: Vec<Score> = subjects.iter().map(|s| score(s, &|r| r.subject == *s)).collect();
    let analysis = analyse(&records.iter().collect::<Vec<_>>());
    all.push(Score { analysis, ..score("total", &|_| true) });
    all
}

/// Returns notices about subjects whose prompts lost shots or their beginning, show the question solved, or spell special
/// tokens; `max_len` is the maximum length in tokens.
pub fn notices(scores: &[Score], max_len: usize) -> Vec<Notice> {
    let of_subjects = &scores[..scores.len().saturating_sub(1)];
    let of = |score: &Score| {
        let notice = |count, reason: String| Notice {
            place: format!("exam, {}", score.subject),
            reason,
            count,
            of: score.tally.questions,
        };
        [
            notice(
                score.prompts_with_fewer_shots,
                format!(
                    "prompts with fewer shots, to fit {max_len} tokens: {:.1} shots per question, at least {}",
                    score.mean_shots, score.fewest_shots
                ),
            ),
            notice(score.prompts_cut, format!("prompts cut to their last {max_len} tokens")),
            notice(
                score.questions_among_shots,
                "questions are themselves among the solved ones shown before them".into(),
            ),
            notice(
                score.questions_with_special_tokens,
                "questions hold special tokens, encoded as characters".into(),
            ),
        ]
    };
    of_subjects.iter().flat_map(of).filter(|notice| notice.count > 0).collect()
}

/// Returns the content of questions.csv, one row per question.
///
/// # Errors
/// If the rows cannot be written as CSV.
pub fn questions_csv(records: &[QuestionRecord]) -> Result<Vec<u8>> {
    let table = QuestionTable::of(records.iter());
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(table.columns())?;
    for row in table.rows(&records.iter().collect::<Vec<_>>()) {
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
            probabilities: vec![0.25; 4],
            prediction,
            answer,
            contaminated: None,
            options: vec![],
        };
        let prompt = |has_fewer_shots, is_cut| Prompt {
            shots: if has_fewer_shots { 1 } else { 3 },
            has_fewer_shots,
            is_cut,
            is_among_shots: is_cut,
            has_special: has_fewer_shots,
            ..Prompt::default()
        };
        // In b 5 of 6 are right, in a 2 of 4; the subjects are interleaved.
        let answered = ["bAA", "aAB", "bBB", "aCC", "bCC", "aDD", "bDD", "bAA", "aBA", "bAD"];
        let records: Vec<QuestionRecord> = answered
            .iter()
            .map(|of| {
                let letters: Vec<char> = of.chars().collect();
                record(&of[..1], letters[1], letters[2])
            })
            .collect();
        // Every third prompt lacks shots, the first one its beginning.
        let prompts: Vec<Prompt> = (0..10).map(|i| prompt(i % 3 == 0, i == 0)).collect();
        let scores = scores(&records, &prompts);
        // Intervals and p-values from scipy 1.17: binomtest(k, n, 0.25) and its proportion_ci(method="wilson").
        let wanted = [
            ("b", 5, 6, (0.43649717781352976, 0.9699466302516933), 0.004638671875, 1, 3),
            ("a", 2, 4, (0.15003898915214953, 0.8499610108478505), 0.26171875, 0, 1),
            ("total", 7, 10, (0.39677814746114526, 0.892208732593699), 0.003505706787109375, 1, 4),
        ];
        assert_eq!(scores.len(), wanted.len());
        for (score, (subject, correct, questions, interval, p, cut, fewer)) in scores.iter().zip(wanted) {
            assert_eq!(
                (score.subject.as_str(), score.tally.correct, score.tally.questions),
                (subject, correct, questions)
            );
            assert_eq!(score.accuracy, correct as f64 / questions as f64);
            assert!((score.interval.0 - interval.0).abs() < 1e-12, "{score:?}");
            assert!((score.interval.1 - interval.1).abs() < 1e-12, "{score:?}");
            assert!((score.p_guess - p).abs() < 1e-12, "{score:?}");
            assert_eq!((score.prompts_cut, score.prompts_with_fewer_shots), (cut, fewer), "{subject}");
        }
        let notices: Vec<String> = notices(&scores, 64).iter().map(Notice::to_string).collect();
        assert_eq!(
            notices,
            [
                "exam, b: 3 of 6 prompts with fewer shots, to fit 64 tokens: 2.0 shots per question, at least 1",
                "exam, b: 1 of 6 prompts cut to their last 64 tokens",
                "exam, b: 1 of 6 questions are themselves among the solved ones shown before them",
                "exam, b: 3 of 6 questions hold special tokens, encoded as characters",
                "exam, a: 1 of 4 prompts with fewer shots, to fit 64 tokens: 2.5 shots per question, at least 1",
                "exam, a: 1 of 4 questions hold special tokens, encoded as characters",
            ]
        );
    }

    #[test]
    fn p_of_guessing_is_exact() {
        let record = |right: bool| QuestionRecord {
            subject: "s".into(),
            id: "0".into(),
            probabilities: vec![0.25; 4],
            prediction: if right { 'A' } else { 'B' },
            answer: 'A',
            contaminated: None,
            options: vec![],
        };
        let score = |right: usize| {
            let records: Vec<QuestionRecord> = (0..4).map(|i| record(i < right)).collect();
            scores(&records, &vec![Prompt::default(); 4]).remove(1)
        };
        // Ways out of 256: 81 for 0 right, 108 for 1, 54 for 2, 12 for 3, 1 for 4.
        let expected = [148.0, 256.0, 67.0, 13.0, 1.0].map(|ways| ways / 256.0);
        for (right, expected) in expected.into_iter().enumerate() {
            let score = score(right);
            assert!((score.p_guess - expected).abs() < 1e-12, "{right} right: {}", score.p_guess);
            assert_eq!(score.accuracy, right as f64 / 4.0);
        }
    }
}
