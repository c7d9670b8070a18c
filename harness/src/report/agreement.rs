//! How far models give the same answers: settings against each other, and the seeds of one among themselves.

use super::observation::Observation;
use super::summary::Setting;
use crate::stats::{Agreement, agreement};
use crate::track::csv_number;
use anyhow::Result;

/// agreement.csv: one row per pair of settings, means over the pairs of their seeds that sat the same exam.
pub fn agreement_csv(settings: &[Setting]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(["setting_a", "setting_b", "pairs", "questions", "equal", "kappa"])?;
    for (i, a) in settings.iter().enumerate() {
        for b in &settings[i..] {
            let found = pairs(a, b);
            let Some(first) = found.first() else { continue };
            let mean = |of: fn(&Agreement) -> f64| {
                let values: Vec<f64> = found.iter().map(of).filter(|value| value.is_finite()).collect();
                let n = values.len() as f64;
                if values.is_empty() { String::new() } else { csv_number(values.iter().sum::<f64>() / n) }
            };
            csv.write_record([
                a.label.to_string(),
                b.label.to_string(),
                found.len().to_string(),
                first.n.to_string(),
                mean(|pair| pair.equal),
                mean(|pair| pair.kappa),
            ])?;
        }
    }
    Ok(csv.into_inner()?)
}

/// Every model of one setting against every one of the other; within a setting each pair of seeds once.
fn pairs(a: &Setting, b: &Setting) -> Vec<Agreement> {
    let is_same = std::ptr::eq(a, b);
    let mut found = vec![];
    for (i, one) in a.observations().iter().enumerate() {
        let others = b.observations().iter().skip(if is_same { i + 1 } else { 0 });
        found.extend(others.filter_map(|other| of(one, other)));
    }
    found
}

/// `None` where they did not answer the same questions.
fn of(a: &Observation, b: &Observation) -> Option<Agreement> {
    let (a, b) = (a.score.as_ref()?, b.score.as_ref()?);
    let letters = |score: &super::observation::Score| -> Vec<u8> {
        score.answers.iter().map(|(_, record)| record.prediction as u8).collect()
    };
    a.is_same_exam(b).then(|| agreement(&letters(a), &letters(b)).ok()).flatten()
}
