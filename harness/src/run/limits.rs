//! What a stage run may use, and how what it uses is watched from outside.

use anyhow::{Result, bail};
use std::fs;
use std::time::{Duration, Instant};

/// How long a stage run that used up its time may take to write a checkpoint.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// Bounds on trials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest time of a trial, all its stages and sittings together.
    pub time: Option<Duration>,
    /// Most memory of a stage run in bytes, mapped files left out.
    pub memory: Option<u64>,
}

/// What is to be done about a process that went over a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Within,
    /// It is to write a checkpoint and end.
    End,
    /// It is to be killed.
    Kill,
}

/// A watch over one process.
pub struct Watched {
    limits: Limits,
    pid: u32,
    /// What the trial had taken before.
    spent: Duration,
    began: Instant,
    /// Which limit it went over, and by how much.
    pub excess: Option<String>,
}

impl Watched {
    /// Watches a process that begins now, for a trial that has taken so much time before.
    pub fn new(limits: Limits, spent: Duration, pid: u32) -> Self {
        Self { limits, pid, spent, began: Instant::now(), excess: None }
    }

    /// Looks at the process.
    pub fn look(&mut self) -> Verdict {
        if let Some(most) = self.limits.memory
            && let Some(used) = memory_of(self.pid)
            && used > most
        {
            self.excess = Some(format!(
                "used {} of the {} of memory allowed; raise --memory-limit, or lower batch_size (accumulation makes up for it)",
                size(used),
                size(most)
            ));
            return Verdict::Kill;
        }
        let taken = self.spent + self.began.elapsed();
        match self.limits.time {
            Some(most) if taken > most => {
                self.excess.get_or_insert_with(|| {
                    format!(
                        "the trial used {:.0} s of the {:.0} s allowed; raise --time-limit; running again goes on from the last checkpoint",
                        taken.as_secs_f64(),
                        most.as_secs_f64()
                    )
                });
                if self.began.elapsed() > most.saturating_sub(self.spent) + LAST_WORDS {
                    Verdict::Kill
                } else {
                    Verdict::End
                }
            }
            _ => Verdict::Within,
        }
    }
}

/// Bytes that a process holds for itself, files that it maps left out; `None` where the system does not tell.
fn memory_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(proc_bytes(&status, "RssAnon:")? + proc_bytes(&status, "RssShmem:").unwrap_or(0))
}

/// Bytes of memory that this machine could give to new processes; `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    proc_bytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The value of a line such as `VmHWM:   1024 kB`, in bytes.
pub fn proc_bytes(told: &str, name: &str) -> Option<u64> {
    let kib = told.lines().find_map(|line| line.strip_prefix(name))?;
    Some(kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// A size for people: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, ["B", "KiB", "MiB", "GiB", "TiB"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Reads `90`, `90s`, `30m`, `2h` or `1d`.
pub fn parse_time(text: &str) -> Result<Duration> {
    let seconds = scaled(text, &[("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)]);
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => Ok(time),
        None => bail!("expected a time such as 90s, 30m or 2h"),
    }
}

/// Reads `1048576`, `512K`, `300M` or `2G`; units are powers of 1024.
pub fn parse_size(text: &str) -> Result<u64> {
    let (kib, bare) = (1024.0, text.trim_end_matches("iB").trim_end_matches('B'));
    match scaled(bare, &[("K", kib), ("M", kib * kib), ("G", kib * kib * kib), ("T", kib.powi(4))]) {
        Some(bytes) if bytes < u64::MAX as f64 => Ok(bytes as u64),
        _ => bail!("expected a size such as 300M or 2G"),
    }
}

/// A positive number with one of these units, or none.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let lower = text.trim().to_lowercase();
    let unit = units.iter().find(|(name, _)| lower.ends_with(&name.to_lowercase()));
    let (number, scale) = match unit {
        Some((name, scale)) => (&lower[..lower.len() - name.len()], *scale),
        None => (lower.as_str(), 1.0),
    };
    let value = number.trim().parse::<f64>().ok()? * scale;
    (value.is_finite() && value > 0.0).then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_and_sizes_are_read_with_their_units() {
        let seconds = |text: &str| parse_time(text).ok().map(|t| t.as_secs_f64());
        assert_eq!(
            ["90", "1.5s", "30m", "2h", "1d"].map(seconds),
            [Some(90.0), Some(1.5), Some(1800.0), Some(7200.0), Some(86_400.0)]
        );
        assert!(["", "m", "-1s", "0", "nan", "1e300h", "3x"].iter().all(|text| seconds(text).is_none()));
        let bytes = |text: &str| parse_size(text).ok();
        assert_eq!(
            ["7", "512K", "300MB", "2G", "1GiB"].map(bytes),
            [Some(7), Some(512 << 10), Some(300 << 20), Some(2 << 30), Some(1 << 30)]
        );
        assert!(["", "G", "-1G", "1e30T", "two"].iter().all(|text| bytes(text).is_none()));
    }

    #[test]
    fn sizes_are_shown_for_people() {
        assert_eq!([0, 1023, 1536, 3 << 30].map(size), ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]);
    }

    #[test]
    fn a_process_over_its_limit_is_found_out() {
        let me = std::process::id();
        let within = Limits { time: Some(Duration::from_secs(3600)), memory: Some(1 << 40) };
        assert_eq!(Watched::new(within, Duration::ZERO, me).look(), Verdict::Within);
        if cfg!(target_os = "linux") {
            let mut watched = Watched::new(Limits { memory: Some(1), time: None }, Duration::ZERO, me);
            assert_eq!(watched.look(), Verdict::Kill);
            assert!(watched.excess.unwrap().contains("of the 1 B of memory allowed"));
        }
        let hour = Duration::from_secs(3600);
        let mut watched = Watched::new(within, 2 * hour, me);
        assert_eq!(watched.look(), Verdict::End);
        assert!(watched.excess.unwrap().starts_with("the trial used 7200 s of the 3600 s allowed"));
    }
}
