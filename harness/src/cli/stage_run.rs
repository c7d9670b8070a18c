//! The verb behind `run`: one stage run, in a process of its own.

use crate::execute::child::{AGAIN, stage_run as work_on};
use crate::recipe::Recipe;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The child's side of a stage run; one that is alone, in a job that was queued again so often, and has something left to
/// do asks to be queued again.
pub fn stage_run(request: &Path, restarts: Option<u32>) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || asked.store(true, Ordering::SeqCst)).context("signals cannot be caught")?;
    let is_over = work_on(request, restarts, &Recipe, &stop)?;
    let again = restarts.is_some() && !is_over;
    Ok(if again { ExitCode::from(AGAIN) } else { ExitCode::SUCCESS })
}
