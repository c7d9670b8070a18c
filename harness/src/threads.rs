//! How many threads work.

use anyhow::{Context, Result};

/// Runs `work` with a number of threads, this many for all that it does in parallel; 0 takes all cores.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = builder.build().with_context(|| format!("{threads} threads cannot be started"))?;
    pool.install(work)
}
