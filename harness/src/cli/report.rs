//! The verb `report`.

use super::{SweepArgs, say};
use crate::run::{Layers, write_report};
use anyhow::{Result, bail};

/// Writes the report from recorded runs.
pub fn report(args: &SweepArgs, force: bool) -> Result<bool> {
    let work = args.read(Layers::Last)?;
    work.may_write()?;
    if let Some(why) = write_report(&work, &work.recorded_graph()?, force)? {
        bail!(why);
    }
    work.own()?;
    say(work.out.join("report.html").display())?;
    Ok(true)
}
