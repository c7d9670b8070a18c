//! Provenance of the report.

use crate::records::TrialRecord;
use minijinja::{Value, context};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The files and commands that reproduce a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// The path of the sweep or experiment file.
    pub file: String,
    /// The settings that override the sweep files, quoted for a shell; empty if there are none.
    pub layers: String,
    /// The command that trains every trial.
    pub run: String,
    /// The command that writes the report again from recorded results.
    pub report: String,
    /// SHA-256 of the sweep files; empty if they cannot be read.
    pub sweeps: String,
    /// The version of the program that wrote the report.
    pub program: String,
}

/// The programs, machines and times of the stage runs, with their total cost.
pub fn machines(trials: &[TrialRecord]) -> Value {
    let stages = || trials.iter().flat_map(|trial| &trial.stages).filter(|stage| !stage.program.is_empty());
    // A stage run shared by several trials counts once.
    let once: BTreeMap<_, _> = stages().map(|stage| (&stage.dir, stage)).collect();
    let programs: BTreeSet<&str> = once.values().map(|stage| stage.program.as_str()).collect();
    let machines: BTreeSet<&str> = once.values().map(|stage| stage.machine.as_str()).collect();
    let seeds: BTreeSet<u64> = trials.iter().map(|trial| trial.seed).collect();
    let seeds = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let seconds: f64 = once.values().map(|stage| stage.wall_seconds).sum();
    let flops: f64 = once.values().filter_map(|stage| Some(stage.trained?.flops)).sum();
    context! {
        programs, machines, seeds,
        runs => once.len(),
        began => once.values().map(|stage| stage.started.as_str()).min(),
        ended => once.values().filter_map(|stage| stage.ended.as_deref()).max(),
        time => crate::track::time(seconds),
        flops => super::trials::operations(flops),
    }
}
