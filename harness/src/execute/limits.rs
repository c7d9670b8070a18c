//! Limits on time and memory, and the watch over a process that keeps them.

use crate::config::Stage;
use crate::system::memory_of;
use crate::track::size;
use anyhow::{Result, bail};
use bytesize::ByteSize;
use std::time::{Duration, Instant};

/// How long a training that exceeds its time limit may take to write a checkpoint.
const CHECKPOINT_GRACE: Duration = Duration::from_secs(30);

/// How long any other stage may take to end once asked to: it has nothing to save.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Limits on trials and stage runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest time of a trial, all its stages and attempts together.
    pub time: Option<Duration>,
    /// Most memory of a stage run in bytes, mapped files excluded.
    pub memory: Option<u64>,
}

/// What to do about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is within its limits.
    Within,
    /// Ask it to end, with a checkpoint if its stage writes one.
    End,
    /// Kill it.
    Kill,
}

/// Watches the process of one stage run.
pub struct Watched {
    limits: Limits,
    pid: u32,
    stage: Stage,
    /// Time that the trial took before this process.
    spent: Duration,
    began: Instant,
    /// When it was first asked to end.
    asked: Option<Instant>,
    /// Message that names the exceeded limit; `None` while it is within its limits.
    pub excess: Option<String>,
    /// Whether it was killed: over its memory limit, not ending when asked, or on an immediate stop.
    pub was_killed: bool,
}

impl Watched {
    /// Watches a process that starts now, for a trial that has already taken `spent`.
    pub fn new(limits: Limits, spent: Duration, stage: Stage, pid: u32) -> Self {
        Self {
            limits,
            pid,
            stage,
            spent,
            began: Instant::now(),
            asked: None,
            excess: None,
            was_killed: false,
        }
    }

    /// How long the process has worked.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Checks the process; `is_asked` says that it was asked to stop.
    pub fn look(&mut self, is_asked: bool) -> Verdict {
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
        if let Some(most) = self.limits.time.filter(|&most| taken > most) {
            let again = match self.stage.training() {
                Some(_) => "resumes from the last checkpoint",
                None => "restarts this stage",
            };
            self.excess.get_or_insert_with(|| {
                format!(
                    "the trial used {:.0} s of the {:.0} s allowed; raise --time-limit; running again {again}",
                    taken.as_secs_f64(),
                    most.as_secs_f64()
                )
            });
        }
        if !is_asked && self.excess.is_none() {
            return Verdict::Within;
        }
        let patience = match (self.stage.training(), &self.excess) {
            (None, _) => STOP_GRACE,
            (Some(_), Some(_)) => CHECKPOINT_GRACE,
            // A step and a checkpoint may take long; a user who does not want to wait asks again.
            (Some(_), None) => Duration::MAX,
        };
        match self.asked.get_or_insert_with(Instant::now).elapsed() > patience {
            true => Verdict::Kill,
            false => Verdict::End,
        }
    }
}

/// Parses a duration: `90` (seconds), `30m`, `2h` or `1h 30m`.
///
/// # Errors
/// If the text is not such a duration, or is zero; the error says what is expected.
pub fn parse_time(text: &str) -> Result<Duration> {
    let seconds = || text.trim().parse().ok().map(Duration::from_secs);
    match seconds().or_else(|| humantime::parse_duration(text).ok()) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => bail!("expected a time such as 90s, 30m or 1h 30m"),
    }
}

/// Parses a size: `1048576` (bytes), `300MB`, `300MiB` or `2GiB`.
///
/// # Errors
/// If the text is not such a size, or is zero; the error says what is expected.
pub fn parse_size(text: &str) -> Result<u64> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes > 0 && bytes < u64::MAX => Ok(bytes),
        _ => bail!("expected a size such as 300MB or 2GiB"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::TrainStage;

    #[test]
    fn times_and_sizes_are_read_with_their_units() {
        let seconds = |text: &str| parse_time(text).ok().map(|t| t.as_secs_f64());
        assert_eq!(
            ["90", "1.5s", "30m", "1h 30m", "1d"].map(seconds),
            [Some(90.0), Some(1.5), Some(1800.0), Some(5400.0), Some(86_400.0)]
        );
        assert!(["", "m", "-1s", "0", "nan", "1e300h", "3x"].iter().all(|text| seconds(text).is_none()));
        let bytes = |text: &str| parse_size(text).ok();
        assert_eq!(
            ["7", "512KiB", "300MB", "2G", "1.5 GiB"].map(bytes),
            [Some(7), Some(512 << 10), Some(300_000_000), Some(2_000_000_000), Some(3 << 29)]
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
        let watch = |limits, spent, stage| Watched::new(limits, spent, stage, me);
        assert_eq!(watch(within, Duration::ZERO, Stage::Train(TrainStage::Sft)).look(false), Verdict::Within);
        if cfg!(target_os = "linux") {
            let mut watched =
                watch(Limits { memory: Some(1), time: None }, Duration::ZERO, Stage::Train(TrainStage::Sft));
            assert_eq!(watched.look(false), Verdict::Kill);
            assert!(watched.excess.unwrap().contains("of the 1 B of memory allowed"));
        }
        let hour = Duration::from_secs(3600);
        let message = "the trial used 7200 s of the 3600 s allowed; raise --time-limit; running again";
        for (stage, again) in [
            (Stage::Train(TrainStage::Sft), "resumes from the last checkpoint"),
            (Stage::Exam, "restarts this stage"),
        ] {
            let mut watched = watch(within, 2 * hour, stage);
            assert_eq!(watched.look(false), Verdict::End);
            assert_eq!(watched.excess.unwrap(), format!("{message} {again}"));
        }
    }

    #[test]
    fn a_stage_without_checkpoints_is_killed_when_it_does_not_end() {
        let long_ago = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let verdict = |stage, limits, asked| {
            let mut watched = Watched::new(limits, Duration::from_secs(5), stage, std::process::id());
            watched.asked = asked;
            watched.look(true)
        };
        let over = Limits { time: Some(Duration::from_secs(1)), memory: None };
        for stage in [Stage::Tokenizer, Stage::Data, Stage::Exam] {
            assert_eq!(verdict(stage, Limits::default(), None), Verdict::End);
            assert_eq!(verdict(stage, Limits::default(), Some(long_ago)), Verdict::Kill);
            assert_eq!(verdict(stage, over, Some(long_ago)), Verdict::Kill);
        }
        // A training is given time to write its checkpoint.
        assert_eq!(verdict(Stage::Train(TrainStage::Sft), Limits::default(), Some(long_ago)), Verdict::End);
        assert_eq!(verdict(Stage::Train(TrainStage::Sft), over, Some(long_ago)), Verdict::End);
    }
}
