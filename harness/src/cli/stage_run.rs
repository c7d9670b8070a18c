//! The verb that `run` starts: executes one stage run in its own process.

use crate::execute::child::{AGAIN, stage_run as work_on};
use crate::recipe::Recipe;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Executes a stage run as a child process. `restarts` is the number of times that a Slurm job has been requeued; such
/// a job asks to be queued again if work is left.
pub fn stage_run(request: &Path, restarts: Option<u32>) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).context("signals cannot be caught")?;
    let is_over = work_on(request, restarts, &Recipe, &stop)?;
    let again = restarts.is_some() && !is_over;
    Ok(if again { ExitCode::from(AGAIN) } else { ExitCode::SUCCESS })
}
