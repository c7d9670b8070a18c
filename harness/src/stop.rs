//! Requests to stop, for work that keeps no partial results.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// The work was abandoned on request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped on request")]
pub struct Stopped;

/// Returns an error if a stop has been requested.
///
/// # Errors
/// [`Stopped`], once `stop` is set.
pub fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Stopped.into()) } else { Ok(()) }
}
