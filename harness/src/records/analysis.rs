//! Analysis of an exam's answers beyond accuracy.

use super::groups::groups;
use super::{QuestionRecord, Tally, best, group_of, letter, place_of};
use serde::Serialize;
use stats::{Calibration, calibration, shares, without_prior};
use std::collections::BTreeMap;

/// Bins of the reliability diagram (Guo et al. 2017 use 15 for thousands of answers).
const BINS: usize = 10;

/// The analysis of an exam's answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Mean of the accuracies of the subjects; the accuracy over all questions is the micro average.
    pub macro_accuracy: f64,
    /// Number of subjects.
    pub subjects: usize,
    /// C-Eval's groups, for the subjects that belong to one.
    pub groups: Vec<GroupScore>,
    /// Mean log-probability of the correct letter; when answering by the texts of options, their mean score.
    pub log_prob: f64,
    /// Accuracy after dividing each option's probability by its letter's mean over the subject: see [`without_prior`].
    pub accuracy_without_prior: f64,
    /// How often each letter is chosen, and how often it is correct.
    pub letters: Vec<LetterBias>,
    /// Counts of answers by correct letter (row) and chosen letter (column).
    pub confusion: Vec<Vec<u64>>,
    /// Calibration of the probabilities; the confidence is the chosen option's share of all options' probabilities.
    pub calibration: Option<Calibration>,
}

/// The score of a group of subjects.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupScore {
    /// Name of the group.
    pub group: &'static str,
    /// Number of its subjects.
    pub subjects: usize,
    /// The count of its correct answers.
    #[serde(flatten)]
    pub tally: Tally,
    /// Accuracy over all of its questions.
    pub accuracy: f64,
    /// Mean of the accuracies of its subjects.
    pub macro_accuracy: f64,
}

/// How often a letter is chosen, and how often it is correct.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LetterBias {
    /// The letter.
    pub letter: char,
    /// Its share of the chosen letters.
    pub chosen: f64,
    /// Its share of the correct letters.
    pub right: f64,
}

/// Analyzes answers; `None` if there are none.
pub fn analyse(records: &[&QuestionRecord]) -> Option<Analysis> {
    let n = records.len() as f64;
    let options = records.iter().map(|record| record.probabilities.len()).max()?;
    let mut subjects: BTreeMap<&str, Vec<&QuestionRecord>> = BTreeMap::new();
    records.iter().for_each(|record| subjects.entry(&record.subject).or_default().push(record));
    let tallies: Vec<(&str, Tally)> =
        subjects.iter().map(|(subject, of)| (*subject, Tally::of(of.iter().copied()))).collect();
    let mut confusion = vec![vec![0; options]; options];
    for record in records {
        let (right, chosen) = (place_of(record.answer), place_of(record.prediction));
        if let Some(count) = confusion.get_mut(right).and_then(|row| row.get_mut(chosen)) {
            *count += 1;
        }
    }
    let letters = (0..options).map(|i| LetterBias {
        letter: letter(i),
        chosen: confusion.iter().map(|row| row[i]).sum::<u64>() as f64 / n,
        right: confusion[i].iter().sum::<u64>() as f64 / n,
    });
    let sure = |record: &&QuestionRecord| {
        shares(&record.weights()).get(place_of(record.prediction)).copied().unwrap_or(f64::NAN)
    };
    let confidences: Vec<f64> = records.iter().map(sure).collect();
    let right: Vec<bool> = records.iter().map(|record| record.is_right()).collect();
    let free = predictions_without_prior(records);
    let free = free.iter().zip(records).filter(|(free, record)| **free == record.answer).count();
    Some(Analysis {
        macro_accuracy: macro_average(tallies.iter().map(|(_, tally)| tally)),
        subjects: tallies.len(),
        groups: groups().filter_map(|group| score(group, &tallies)).collect(),
        log_prob: records.iter().map(|record| record.log_prob()).sum::<f64>() / n,
        accuracy_without_prior: free as f64 / n,
        letters: letters.collect(),
        confusion,
        calibration: calibration(&confidences, &right, BINS).ok(),
    })
}

/// The letters that are chosen after the prior over letters is removed, subject by subject.
pub fn predictions_without_prior(records: &[&QuestionRecord]) -> Vec<char> {
    let mut strata: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for (i, record) in records.iter().enumerate() {
        strata.entry((&record.subject, record.probabilities.len())).or_default().push(i);
    }
    let mut found = vec!['A'; records.len()];
    for of in strata.into_values() {
        let weights: Vec<Vec<f64>> = of.iter().map(|&i| records[i].weights()).collect();
        for ((i, free), of) in of.into_iter().zip(without_prior(&weights)).zip(&weights) {
            // Probabilities that all underflowed, of letters, leave nothing to divide by a prior.
            let is_lost = of.iter().all(|weight| *weight == 0.0);
            found[i] = if is_lost { records[i].prediction } else { letter(first_best(&free)) };
        }
    }
    found
}

/// Index of the largest number, the first of those that are equal up to rounding.
fn first_best(of: &[f64]) -> usize {
    let most = of.get(best(of)).copied().unwrap_or(0.0);
    of.iter().position(|p| *p >= most * (1.0 - 1e-9)).unwrap_or(0)
}

fn score(group: &'static str, subjects: &[(&str, Tally)]) -> Option<GroupScore> {
    let of: Vec<&Tally> =
        subjects.iter().filter(|(subject, _)| group_of(subject) == Some(group)).map(|(_, t)| t).collect();
    let (correct, questions) =
        of.iter().fold((0, 0), |(c, q), tally| (c + tally.correct, q + tally.questions));
    let guessing = of.iter().map(|t| t.guessing * t.questions as f64).sum::<f64>() / questions as f64;
    let tally = Tally { correct, questions, guessing };
    (!of.is_empty()).then(|| GroupScore {
        group,
        subjects: of.len(),
        tally,
        accuracy: tally.accuracy(),
        macro_accuracy: macro_average(of.iter().copied()),
    })
}

fn macro_average<'a>(of: impl Iterator<Item = &'a Tally>) -> f64 {
    let accuracies: Vec<f64> = of.map(Tally::accuracy).collect();
    accuracies.iter().sum::<f64>() / accuracies.len() as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::records::OptionScore;

    fn record(subject: &str, probabilities: &[f64], answer: char) -> QuestionRecord {
        QuestionRecord {
            subject: subject.into(),
            id: "0".into(),
            probabilities: probabilities.to_vec(),
            prediction: letter(best(probabilities)),
            answer,
            contaminated: None,
            options: vec![],
        }
    }

    #[test]
    fn answers_are_counted_by_hand() {
        let all = [
            record("law", &[0.4, 0.2, 0.1, 0.1], 'A'),
            record("law", &[0.4, 0.3, 0.1, 0.1], 'B'),
            record("law", &[0.4, 0.2, 0.1, 0.2], 'D'),
            record("marxism", &[0.1, 0.2, 0.6, 0.1], 'C'),
            record("gardening", &[0.5, 0.1, 0.2, 0.2], 'B'),
        ];
        let found = analyse(&all.iter().collect::<Vec<_>>()).unwrap();
        assert!((found.macro_accuracy - (1.0 / 3.0 + 1.0 + 0.0) / 3.0).abs() < 1e-12);
        let groups: Vec<(&str, u64, u64)> =
            found.groups.iter().map(|g| (g.group, g.tally.correct, g.tally.questions)).collect();
        assert_eq!(groups, [("social science", 1, 1), ("humanities", 1, 3)]);
        let log_prob = [0.4, 0.3, 0.2, 0.6, 0.1].map(f64::ln).iter().sum::<f64>() / 5.0;
        assert!((found.log_prob - log_prob).abs() < 1e-12);
        // For law, the shares of A are 1/2, 4/9 and 4/9, of B 1/4, 1/3 and 2/9, of C 1/8, 1/9 and 1/9, of D 1/8, 1/9 and 2/9: divided
        // by their means, A and C tie in the first question (1.08) and A comes first; the others go to B and D. In a subject of
        // one question the prior explains everything.
        let free = predictions_without_prior(&all.iter().collect::<Vec<_>>());
        assert_eq!((free[0], free[1], free[2]), ('A', 'B', 'D'));
        assert_eq!(found.confusion, [[1, 0, 0, 0], [2, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]);
        let bias = found.letters.iter().map(|l| (l.letter, l.chosen, l.right)).collect::<Vec<_>>();
        assert_eq!(bias, [('A', 0.8, 0.2), ('B', 0.0, 0.4), ('C', 0.2, 0.2), ('D', 0.0, 0.2)]);
        // Confidences 1/2, 4/9, 4/9, 0.6 and 1/2, of which the first and the fourth are right: bins (0.4, 0.5] with 1 of 4 right
        // and (0.5, 0.6] with 1 of 1.
        let calibration = found.calibration.unwrap();
        let sure = (0.5 + 4.0 / 9.0 + 4.0 / 9.0 + 0.5) / 4.0;
        assert_eq!(calibration.bins.iter().map(|bin| bin.n).collect::<Vec<_>>(), [4, 1]);
        assert!((calibration.ece - (4.0 * (sure - 0.25) + 0.4) / 5.0).abs() < 1e-12, "{calibration:?}");
        assert_eq!(analyse(&[]), None);
    }

    #[test]
    fn confidences_of_long_texts_come_from_their_log_probabilities() {
        // Options of 300 tokens: every probability underflows, the odds are 7 to 3 and 1 to 4.
        let texts = |a: f64, b: f64, answer| QuestionRecord {
            options: [a, b]
                .map(|p| OptionScore {
                    log_prob: -900.0 + p.ln(),
                    unconditional: -900.0,
                    tokens: 300,
                    bytes: 900,
                })
                .into(),
            prediction: if a > b { 'A' } else { 'B' },
            ..record("law", &[0.0, 0.0], answer)
        };
        let all = [texts(0.7, 0.3, 'A'), texts(0.2, 0.8, 'A')];
        let records: Vec<&QuestionRecord> = all.iter().collect();
        let bins = analyse(&records).unwrap().calibration.unwrap().bins;
        let confidences: Vec<f64> = bins.iter().map(|bin| bin.confidence).collect();
        assert!((confidences[0] - 0.7).abs() < 1e-9 && (confidences[1] - 0.8).abs() < 1e-9, "{bins:?}");
        // The prior is (0.45, 0.55): both keep their choice.
        assert_eq!(predictions_without_prior(&records), ['A', 'B']);
        // By PMI, scores of 800 and 799.5 exceed the largest entry.
        let option = |log_prob| OptionScore { log_prob, unconditional: -900.0, tokens: 300, bytes: 900 };
        let high = QuestionRecord {
            options: vec![option(-100.0), option(-100.5)],
            ..record("law", &[1e300, 1e300], 'A')
        };
        let share = 1.0 / (1.0 + (-0.5f64).exp());
        let found = analyse(&[&high]).unwrap().calibration.unwrap();
        assert!((found.ece - (1.0 - share)).abs() < 1e-12, "{found:?}");
    }
}
