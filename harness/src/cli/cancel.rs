//! The verb `cancel`: cancels a sweep's Slurm jobs.

use super::{SweepArgs, say};
use crate::run::{self, Layers};
use crate::track::counted;
use anyhow::Result;

/// Cancels a sweep's Slurm jobs.
pub fn cancel(args: &SweepArgs) -> Result<bool> {
    let work = args.read(Layers::Last)?;
    let jobs = run::cancel(&work)?;
    match args.with.json {
        true => say(serde_json::json!({ "cancelled": jobs }))?,
        false => say(format!("{}: {} cancelled", work.name, counted(jobs.len(), "job")))?,
    }
    Ok(true)
}
