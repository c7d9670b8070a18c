//! The state of a sweep: what is finished, running, failed and left, with a forecast, and its trials as records for reports.
//!
//! Everything is read from a plan and the folders of its stage runs; nothing is started, claimed or written.

mod forecast;
pub mod records;

use crate::config::Stage;
use crate::fsutil::{last_lines, read_text};
use crate::plan::{Participation, StageGraph, State};
use crate::records::Status;
use crate::runs::files::{LENGTH, LOG};
use crate::track::{METRICS, MetricsTable};
use records::standing;
use serde::Serialize;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Lines shown from the log of a failed stage run.
const LOG_LINES: usize = 5;

/// The state of a sweep.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// Number of trials in each state.
    pub counts: Counts,
    /// The trials, in the order of the plan.
    pub trials: Vec<TrialStatus>,
    /// Seconds until the whole sweep is finished at the present pace; `None` if unknown.
    pub seconds_left: Option<f64>,
}

/// Numbers of trials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Finished.
    pub done: usize,
    /// Being worked on right now.
    pub running: usize,
    /// Ended in an error.
    pub failed: usize,
    /// Begun, but not being worked on.
    pub stopped: usize,
    /// Not begun.
    pub pending: usize,
}

/// The state of a trial.
#[derive(Debug, Clone, Serialize)]
pub struct TrialStatus {
    /// Its name.
    pub trial: Uuid,
    /// Name of its sweep.
    pub sweep: String,
    /// Its swept keys with their values.
    pub label: String,
    /// Its status.
    pub status: Status,
    /// Why it failed.
    pub reason: Option<String>,
    /// Its stage runs.
    pub stages: Vec<StageStatus>,
}

/// The state of a stage run.
#[derive(Debug, Clone, Serialize)]
pub struct StageStatus {
    /// Its stage.
    pub stage: Stage,
    /// Its name.
    pub uuid: Uuid,
    /// Its folder.
    pub dir: PathBuf,
    /// `done`, `unneeded`, `pending`, `stopped`, `failed` or `running`; `waiting` while a tuned value is not chosen, or `lost` for
    /// a tuning candidate that failed.
    pub state: &'static str,
    /// The owner that works on it, or why it failed.
    pub detail: Option<String>,
    /// The last training row of its `metrics.csv`.
    pub last: Option<LastRow>,
    /// Optimizer steps of the whole stage; `None` if it has not begun and the configuration does not give them.
    pub total_steps: Option<u64>,
    /// Seconds that it will still take; `None` if unknown.
    pub seconds_left: Option<f64>,
    /// The last lines of its log, if it failed.
    pub log: Vec<String>,
}

/// The last training measurement of a stage run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastRow {
    /// Optimizer steps taken.
    pub step: u64,
    /// Target tokens trained on so far.
    pub tokens: u64,
    /// Training loss; `None` if it is not finite.
    pub loss: Option<f64>,
    /// Target tokens per second.
    pub tokens_per_second: Option<f64>,
    /// Seconds of training so far.
    pub elapsed_seconds: Option<f64>,
}

/// Determines the state of every trial of a plan.
pub fn overview(graph: &StageGraph) -> Overview {
    let mut counts = Counts::default();
    let mut trials = Vec::new();
    let mut nodes: Vec<StageStatus> =
        (0..graph.nodes.len()).map(|index| stage_status(graph, index)).collect();
    let seconds_left = forecast::fill(graph, &mut nodes);
    // An inactive candidate is listed only if it is finished.
    for planned in graph
        .trials
        .iter()
        .filter(|planned| planned.participation != Participation::Inactive || planned.is_done(graph))
    {
        let stages: Vec<StageStatus> = planned.stages.iter().map(|&index| nodes[index].clone()).collect();
        let (status, reason) = standing(graph, planned);
        let count = match status {
            Status::Done => &mut counts.done,
            Status::Running => &mut counts.running,
            Status::Failed => &mut counts.failed,
            Status::Stopped => &mut counts.stopped,
            Status::Pending => &mut counts.pending,
        };
        *count += 1;
        trials.push(TrialStatus {
            trial: planned.uuid,
            sweep: planned.trial.sweep.clone(),
            label: planned.label(),
            status,
            reason,
            stages,
        });
    }
    Overview { counts, trials, seconds_left }
}

fn stage_status(graph: &StageGraph, index: usize) -> StageStatus {
    let node = &graph.nodes[index];
    let (state, detail) = match &node.state {
        State::Done => ("done", None),
        State::Unneeded => ("unneeded", None),
        State::Fresh => ("pending", None),
        State::Unfinished => ("stopped", None),
        State::Again(reason) => ("failed", Some(reason.clone())),
        State::Running(owner) => ("running", Some(owner.clone())),
        State::Held => ("waiting", None),
        State::Lost(reason) => ("lost", Some(reason.clone())),
    };
    let training = node.stage.training();
    let recorded = read_text(&node.record().join(LENGTH)).ok().and_then(|text| text.trim().parse().ok());
    StageStatus {
        stage: node.stage,
        uuid: node.uuid,
        dir: node.dir.clone(),
        state,
        detail,
        last: training.and_then(|_| last_row(node.record())),
        total_steps: training.and_then(|stage| recorded.or(stage.training(&node.config).steps)),
        seconds_left: None,
        log: match state {
            "failed" => last_lines(&node.dir.join(LOG), LOG_LINES),
            _ => Vec::new(),
        },
    }
}

fn last_row(dir: &Path) -> Option<LastRow> {
    let text = read_text(&dir.join(METRICS)).ok()?;
    let course = MetricsTable::of(&text)?;
    let row = course.rows().rev().find(|row| row.split == "train")?;
    let field = |name: &str| row.cells.get(course.column(name)?).copied();
    Some(LastRow {
        step: field("step")?.parse().ok()?,
        tokens: field("tokens")?.parse().ok()?,
        loss: field("loss").and_then(|text| text.parse().ok()),
        tokens_per_second: field("tokens_per_second").and_then(|text| text.parse().ok()),
        elapsed_seconds: field("elapsed_seconds").and_then(|text| text.parse().ok()),
    })
}
