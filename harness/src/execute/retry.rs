//! Which failures may pass by themselves, and when a stage run is tried again.

use anyhow::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// Pause before the first repetition; each later one waits twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The pause before the `number`-th repetition, counted from 1.
pub fn pause(number: u32) -> Duration {
    let doublings = number.saturating_sub(1).min(16);
    (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

/// Whether an error may be gone the next time: a full disk, a network file system that hiccups, a GPU whose memory others took.
///
/// What is wrong with a configuration, with data or with a training is wrong the next time as well.
pub fn may_pass(error: &Error) -> bool {
    let is_out_of_memory = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref(), Some(model::Error::OutOfMemory(_)))
    };
    if error.chain().any(is_out_of_memory) {
        return true;
    }
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| {
        matches!(
            cause.kind(),
            ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::StaleNetworkFileHandle
                | ErrorKind::ResourceBusy
                | ErrorKind::TimedOut
                | ErrorKind::Interrupted
                | ErrorKind::WouldBlock
                | ErrorKind::NetworkDown
                | ErrorKind::HostUnreachable
                | ErrorKind::OutOfMemory
        ) || cause.raw_os_error() == Some(EIO)
    })
}

/// "Input/output error", which has no name in the standard library.
const EIO: i32 = 5;

/// Whether the signal that ended a process came from outside: a hang-up, a kill, a termination, a vanished mapping.
pub fn signal_may_pass(signal: i32) -> bool {
    [1, 7, 9, 15].contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_full_disk_may_pass_and_bad_data_does_not() {
        let full: anyhow::Result<()> = Err(io::Error::from(ErrorKind::StorageFull).into());
        assert!(full.context("metrics.csv: cannot be written").is_err_and(|error| may_pass(&error)));
        assert!(may_pass(&io::Error::from_raw_os_error(EIO).into()));
        assert!(!may_pass(&anyhow!("step 3: the loss is NaN")));
        assert!(!may_pass(&io::Error::from(ErrorKind::NotFound).into()));
        assert!(!may_pass(&io::Error::from(ErrorKind::PermissionDenied).into()));
        let gpu: anyhow::Result<()> = Err(model::Error::OutOfMemory("cuda: 9 MiB more".into()).into());
        assert!(gpu.context("step 3").is_err_and(|error| may_pass(&error)));
        assert!(!may_pass(&model::Error::Input("token id 9".into()).into()));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let seconds = [1, 2, 3, 4, 60].map(|number| pause(number).as_secs());
        assert_eq!(seconds, [1, 2, 4, 8, 300]);
    }
}
