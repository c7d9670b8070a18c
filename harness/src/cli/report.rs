//! The verb `report`: rewrites figures, tables and report from recorded runs.

use super::{SweepArgs, note, say};
use crate::records::Status;
use crate::run::{Layers, write_report};
use crate::runs::kept::unpack;
use crate::status::records::collect;
use anyhow::{Result, bail};

/// Writes the report from recorded runs, or from what the folder of results keeps of them.
pub fn report(args: &SweepArgs, force: bool) -> Result<bool> {
    let work = args.read(Layers::Last)?;
    work.may_write()?;
    let kept = unpack(&work.out)?;
    let graph = work.graph_with(kept.as_ref().map(|kept| kept.path()))?;
    if let Some(why) = write_report(&work, &graph, force)? {
        bail!(why);
    }
    work.own()?;
    if collect(&graph)?.iter().all(|trial| trial.status != Status::Done) {
        note(&format!("no trial has finished; run them with: {}", work.origin().run));
    }
    say(work.out.join("report.html").display())?;
    Ok(true)
}
