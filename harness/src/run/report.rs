//! From the stage runs of a graph to its report.

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

/// Writes the report of a graph as it stands now; why not, where a better one is there and nobody forces it. One process
/// at a time writes one, so that none shows less than it could.
///
/// # Errors
/// Where answers cannot be read, or a file cannot be written.
pub fn write(work: &Work, graph: &StageGraph, force: bool) -> Result<Option<String>> {
    let out = work.out.display();
    let _held = lock(&work.out, || {
        (work.note)(&format!("another process writes the report in {out}; waiting for it"))
    })?;
    let graph = &graph.looked_at_again();
    let mut records = collect(graph)?;
    let answers = answers(graph, &mut records);
    let standing: BTreeMap<_, _> = records.iter().map(|record| (record.trial, record.status)).collect();
    if let Some((shown, new)) = fewer(&work.out, &standing).filter(|_| !force) {
        return Ok(Some(format!(
            "{} shows {shown} finished trials, and this report would show {new} of {}{}; keep it elsewhere with --results DIR, or --force to replace what is shown there",
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

/// What was answered in all exams; a trial whose answers cannot be read has failed.
fn answers(graph: &StageGraph, records: &mut [TrialRecord]) -> Vec<TrialQuestion> {
    let mut found = Vec::new();
    // A trial that several sweeps hold has one record, and answers once.
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
