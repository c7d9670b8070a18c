//! experts.csv: how mixtures of experts routed the tokens of an exam's prompts.

use crate::report::results::summary::Row;
use crate::track::csv_number;
use anyhow::Result;

/// Returns experts.csv: one row for each trial, exam, subject, layer and expert; `None` if nothing was routed.
pub fn experts_csv(rows: &[Row]) -> Result<Option<Vec<u8>>> {
    if rows.iter().all(|row| row.exam.is_none_or(|exam| exam.routing.is_empty())) {
        return Ok(None);
    }
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record([
        "trial", "stage", "at", "averaged", "subject", "layer", "expert", "tokens", "load", "entropy",
    ])?;
    for (trial, exam) in rows.iter().filter_map(|row| Some((row.trial, row.exam?))) {
        for of in &exam.routing {
            for (layer, shares) in of.shares().iter().enumerate() {
                for (expert, share) in shares.iter().enumerate() {
                    csv.write_record([
                        trial.trial.to_string(),
                        exam.stage.clone(),
                        csv_number(exam.taken.at),
                        exam.taken.averaged.to_string(),
                        of.subject.clone(),
                        layer.to_string(),
                        expert.to_string(),
                        of.load[layer][expert].to_string(),
                        csv_number(share * shares.len() as f64),
                        csv_number(of.entropy),
                    ])?;
                }
            }
        }
    }
    Ok(Some(csv.into_inner()?))
}
