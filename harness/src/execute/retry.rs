//! Which failures may be transient, and when a stage run is retried.

use anyhow::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// Pause before the first retry; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between retries.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The pause before the `number`-th retry, counted from 1.
pub fn pause(number: u32) -> Duration {
    let doublings = number.saturating_sub(1).min(16);
    (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE)
}

/// Whether an error may be gone at a retry: a full disk, a failing network file system, a GPU whose memory others took.
///
/// An error in a configuration, in data or in a training is permanent.
pub fn is_transient(error: &Error) -> bool {
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

/// Whether the signal that ended a process came from outside: SIGHUP, SIGKILL, SIGTERM, or SIGBUS of a vanished mapping.
pub fn is_transient_signal(signal: i32) -> bool {
    [1, 7, 9, 15].contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_full_disk_may_pass_and_bad_data_does_not() {
        let full: anyhow::Result<()> = Err(io::Error::from(ErrorKind::StorageFull).into());
        assert!(full.context("metrics.csv: cannot be written").is_err_and(|error| is_transient(&error)));
        assert!(is_transient(&io::Error::from_raw_os_error(EIO).into()));
        assert!(!is_transient(&anyhow!("step 3: the loss is NaN")));
        assert!(!is_transient(&io::Error::from(ErrorKind::NotFound).into()));
        assert!(!is_transient(&io::Error::from(ErrorKind::PermissionDenied).into()));
        let gpu: anyhow::Result<()> = Err(model::Error::OutOfMemory("cuda: allocating 9 MiB".into()).into());
        assert!(gpu.context("step 3").is_err_and(|error| is_transient(&error)));
        assert!(!is_transient(&model::Error::Input("token id 9".into()).into()));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let seconds = [1, 2, 3, 4, 60].map(|number| pause(number).as_secs());
        assert_eq!(seconds, [1, 2, 4, 8, 300]);
    }
}
