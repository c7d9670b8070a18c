//! What a stage run may use, and how what it uses is watched from outside.

use crate::config::Stage;
use crate::system::memory_of;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long a training that used up its time may take to write a checkpoint.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// How long another stage may take to end once it is asked to: it has nothing to keep.
const GIVE_UP: Duration = Duration::from_secs(2);

/// Bounds on trials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Longest time of a trial, all its stages and attempts together.
    pub time: Option<Duration>,
    /// Most memory of a stage run in bytes, mapped files left out.
    pub memory: Option<u64>,
}

/// What is to be done about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Within,
    /// It is to end, with a checkpoint where its stage writes one.
    End,
    /// It is to be killed.
    Kill,
}

/// A watch over the process of one stage run.
pub struct Watched {
    limits: Limits,
    pid: u32,
    stage: Stage,
    /// What the trial had taken before.
    spent: Duration,
    began: Instant,
    /// When it was first asked to end.
    asked: Option<Instant>,
    /// Which limit it went over, and by how much.
    pub excess: Option<String>,
    /// Whether it was killed for that, or because it did not end when it was asked to.
    pub was_killed: bool,
}

impl Watched {
    /// Watches a process that begins now, for a trial that has taken so much time before.
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

    /// How long it has worked.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Looks at the process; `is_asked` where somebody wants it to end.
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
                Some(_) => "goes on from the last checkpoint",
                None => "starts this stage anew",
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
            (None, _) => GIVE_UP,
            (Some(_), Some(_)) => LAST_WORDS,
            // A step and a checkpoint may be large; who does not want to wait asks again.
            (Some(_), None) => Duration::MAX,
        };
        match self.asked.get_or_insert_with(Instant::now).elapsed() > patience {
            true => Verdict::Kill,
            false => Verdict::End,
        }
    }
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
///
/// # Errors
/// Says what was expected.
pub fn parse_time(text: &str) -> Result<Duration> {
    let seconds = scaled(text, &[("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)]);
    match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(time) => Ok(time),
        None => bail!("expected a time such as 90s, 30m or 2h"),
    }
}

/// Reads `1048576`, `512K`, `300M` or `2G`; units are powers of 1024.
///
/// # Errors
/// Says what was expected.
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
    use crate::config::TrainStage;

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
        let watch = |limits, spent, stage| Watched::new(limits, spent, stage, me);
        assert_eq!(watch(within, Duration::ZERO, Stage::Train(TrainStage::Sft)).look(false), Verdict::Within);
        if cfg!(target_os = "linux") {
            let mut watched =
                watch(Limits { memory: Some(1), time: None }, Duration::ZERO, Stage::Train(TrainStage::Sft));
            assert_eq!(watched.look(false), Verdict::Kill);
            assert!(watched.excess.unwrap().contains("of the 1 B of memory allowed"));
        }
        let hour = Duration::from_secs(3600);
        let told = "the trial used 7200 s of the 3600 s allowed; raise --time-limit; running again";
        for (stage, again) in [
            (Stage::Train(TrainStage::Sft), "goes on from the last checkpoint"),
            (Stage::Exam, "starts this stage anew"),
        ] {
            let mut watched = watch(within, 2 * hour, stage);
            assert_eq!(watched.look(false), Verdict::End);
            assert_eq!(watched.excess.unwrap(), format!("{told} {again}"));
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
        // A training may write its checkpoint.
        assert_eq!(verdict(Stage::Train(TrainStage::Sft), Limits::default(), Some(long_ago)), Verdict::End);
        assert_eq!(verdict(Stage::Train(TrainStage::Sft), over, Some(long_ago)), Verdict::End);
    }
}
