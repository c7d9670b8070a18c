//! The wish to stop, as work looks at it that keeps nothing of what it has done.

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};

/// The work was given up because somebody asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped on request")]
pub struct Stopped;

/// Goes on, unless somebody has asked to stop.
///
/// # Errors
/// [`Stopped`], once `stop` is set.
pub fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Stopped.into()) } else { Ok(()) }
}
