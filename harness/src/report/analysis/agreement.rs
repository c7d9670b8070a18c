//! Agreement of models' answers: between settings, and between the seeds of one setting.

use crate::report::results::observation::Score;
use crate::report::results::summary::Setting;
use crate::track::csv_number;
use anyhow::Result;
use stats::{Agreement, agreement, mean};

/// Returns agreement.csv: one row per pair of settings, with means over the pairs of their seeds that took the same exam.
pub fn agreement_csv(settings: &[Setting]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(["setting_a", "setting_b", "pairs", "questions", "equal", "kappa"])?;
    let taken: Vec<Vec<ExamTaken>> = settings.iter().map(exams_taken).collect();
    for (i, a) in settings.iter().enumerate() {
        for (j, b) in settings.iter().enumerate().skip(i) {
            let found = pairs(&taken[i], &taken[j], i == j);
            if found.is_empty() {
                continue;
            }
            let cell = |of: fn(&Agreement) -> f64| {
                let values: Vec<f64> = found.iter().map(of).filter(|value| value.is_finite()).collect();
                if values.is_empty() { String::new() } else { csv_number(mean(&values)) }
            };
            csv.write_record([
                a.keys.to_string(),
                b.keys.to_string(),
                found.len().to_string(),
                cell(|pair| pair.n as f64),
                cell(|pair| pair.equal),
                cell(|pair| pair.kappa),
            ])?;
        }
    }
    Ok(csv.into_inner()?)
}

/// An exam that a model took, and the letters that it chose.
type ExamTaken<'a> = (&'a Score<'a>, Vec<u8>);

/// Returns the exams taken by the models of a setting.
fn exams_taken<'a>(setting: &'a Setting) -> Vec<ExamTaken<'a>> {
    let letters = |score: &Score| score.answers.iter().map(|(_, record)| record.prediction as u8).collect();
    let scores = setting.observations().iter().filter_map(|observation| observation.score.as_ref());
    scores.map(|score| (score, letters(score))).collect()
}

/// Compares every model of one setting with every model of the other, or each pair within one setting once; pairs that
/// took different exams are skipped.
fn pairs(a: &[ExamTaken], b: &[ExamTaken], is_same: bool) -> Vec<Agreement> {
    let mut found = vec![];
    for (i, (exam, chosen)) in a.iter().enumerate() {
        let others = b.iter().skip(if is_same { i + 1 } else { 0 });
        let others = others.filter(|(other, _)| exam.is_same_exam(other));
        found.extend(others.filter_map(|(_, other)| agreement(chosen, other).ok()));
    }
    found
}
