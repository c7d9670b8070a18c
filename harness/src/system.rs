//! Threads, memory and time, as provided by the operating system.

use anyhow::{Context, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::fs;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs `work` in a pool of this many threads; 0 uses all cores.
///
/// # Errors
/// If `work` fails, or threads cannot be started.
pub fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread_pool(threads)?.install(work)
}

/// Creates a pool of `threads` threads; 0 for all cores.
///
/// # Errors
/// If the threads cannot be started.
pub fn thread_pool(threads: usize) -> Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().num_threads(threads);
    builder.build().with_context(|| format!("{threads} threads cannot be started"))
}

/// Returns the number of cores that this process may use; the system is asked once.
pub fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *CORES
}

/// Returns the private memory of a process in bytes, without mapped files; `None` if the system does not report it.
pub fn memory_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(proc_bytes(&status, "RssAnon:")? + proc_bytes(&status, "RssShmem:").unwrap_or(0))
}

/// Returns the memory available to new processes in bytes; `None` if the system does not report it.
pub fn available_memory() -> Option<u64> {
    proc_bytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Parses the value of a line such as `VmHWM:   1024 kB` of a file in `/proc`, in bytes.
pub fn proc_bytes(text: &str, name: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Returns this process's peak resident set size so far, in MiB; 0 if the system does not report it.
pub fn peak_rss_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    proc_bytes(&status, "VmHWM:").unwrap_or(0) as f64 / (1 << 20) as f64
}

/// Returns the seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Formats a time in seconds since 1970 as `2025-01-31T23:59:59Z`.
pub fn utc(seconds: f64) -> String {
    // Only a broken clock is far out of range; the cast saturates.
    jiff::Timestamp::from_second(seconds as i64).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        // From `date -u -d @N +%FT%TZ`.
        assert_eq!(utc(0.0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399.9), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_868_799.0), "2000-02-29T23:59:59Z");
        assert_eq!(utc(1_767_225_599.0), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn the_peak_of_memory_is_known_on_linux() {
        assert!(!cfg!(target_os = "linux") || peak_rss_mb() > 1.0);
    }
}
