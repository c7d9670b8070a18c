//! Locks on folders, for one process at a time.

use super::create_dir;
use anyhow::Result;
use std::fs::{File, TryLockError};
use std::path::Path;

/// Name of the lock file in a folder; it is empty and is never removed.
const LOCK: &str = ".lock";

/// A lock on a folder, released when dropped; `None` if the file system does not support locks.
#[derive(Debug)]
pub struct Locked {
    _file: Option<File>,
}

/// Locks a folder, creating it if necessary; `waits` is called if another process holds the lock.
///
/// # Errors
/// If the folder cannot be created.
pub fn lock(dir: &Path, waits: impl FnOnce()) -> Result<Locked> {
    create_dir(dir)?;
    // Network file systems lock only files that are open for writing.
    let file = File::options().create(true).append(true).open(dir.join(LOCK)).ok();
    let is_ours = |file: &File| match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            waits();
            file.lock().is_ok()
        }
        tried => tried.is_ok(),
    };
    Ok(Locked { _file: file.filter(is_ours) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_folder_is_worked_on_by_one_at_a_time_and_who_waits_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        let (at_work, waited) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let first = lock(&dir, || {
            waited.fetch_add(9, Ordering::SeqCst);
        })
        .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let _held = lock(&dir, || {
                        waited.fetch_add(1, Ordering::SeqCst);
                    })
                    .unwrap();
                    assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    at_work.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while waited.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            assert_eq!(at_work.load(Ordering::SeqCst), 0);
            drop(first);
        });
        assert_eq!(waited.load(Ordering::SeqCst), 3);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    }
}
