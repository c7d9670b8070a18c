//! Writes the report of a graph.

use super::Work;
use crate::config::Stage;
use crate::fsutil::lock::lock;
use crate::plan::{StageGraph, StageNode, State};
use crate::records::{Status, TrialRecord};
use crate::report::{Experiment, TrialQuestion};
use crate::runs::kept::keep;
use crate::runs::manifest::questions;
use crate::runs::recorded::fewer;
use crate::status::records::{collect, taken, tunings};
use anyhow::Result;
use std::collections::BTreeMap;

/// Writes the report of the current state of a graph. Returns the reason if it was not written: an existing one shows more
/// finished trials and `force` is not set. One process at a time writes a report, so that none shows less than it could.
///
/// # Errors
/// If a configuration, record or file cannot be read or written.
pub fn write(work: &Work, graph: &StageGraph, force: bool) -> Result<Option<String>> {
    let out = work.out.display();
    let _held =
        lock(&work.out, || (work.note)(&format!("another process is writing the report in {out}; waiting")))?;
    let graph = &graph.refreshed();
    let mut records = collect(graph)?;
    let answers = answers(graph, &mut records);
    let standing: BTreeMap<_, _> = records.iter().map(|record| (record.trial, record.status)).collect();
    if let Some((shown, new)) = fewer(&work.out, &standing).filter(|_| !force) {
        return Ok(Some(format!(
            "{} shows {shown} finished trials, and this report would show {new} of {}{}; write to another folder with --results DIR, or replace it with --force",
            out,
            records.len(),
            work.other_layers().map_or(String::new(), |other| format!(" ({other})"))
        )));
    }
    let for_sweep = || Experiment::for_sweep(&work.name, &records);
    let experiment = work.experiment.clone().unwrap_or_else(for_sweep);
    crate::report::write(&experiment, &records, &answers, &tunings(graph), &work.origin(), &work.out)?;
    keep(&work.out, graph.nodes.iter().map(StageNode::record))?;
    Ok(None)
}

/// The answers of all exams; a trial with unreadable answers is marked as failed.
fn answers(graph: &StageGraph, records: &mut [TrialRecord]) -> Vec<TrialQuestion> {
    let mut found = Vec::new();
    // A trial of several sweeps has one record, and its answers are read once.
    let planned: BTreeMap<_, _> = graph.trials.iter().map(|planned| (planned.uuid, planned)).collect();
    for record in records {
        let Some(planned) = planned.get(&record.trial) else { continue };
        for node in planned.stages.iter().map(|&index| &graph.nodes[index]) {
            if node.stage != Stage::Exam || node.state != State::Done {
                continue;
            }
            let stage = node.model.map_or("", |m| graph.nodes[m].stage.name());
            match questions(node.record()) {
                Ok(answered) => found.extend(answered.into_iter().map(|record| TrialQuestion {
                    trial: planned.uuid,
                    stage: stage.into(),
                    taken: taken(node),
                    record,
                })),
                Err(error) => {
                    (record.status, record.reason) = (Status::Failed, Some(format!("exam: {error:#}")));
                    record.exams.retain(|exam| (exam.stage.as_str(), exam.taken) != (stage, taken(node)));
                }
            }
        }
    }
    found
}
