//! Folders that one process at a time works on.

use super::create_dir;
use anyhow::Result;
use std::fs::{File, TryLockError};
use std::path::Path;

/// The file in a folder that is locked; it stays, and is empty.
const LOCK: &str = ".lock";

/// A folder that others wait for until this is dropped; `None` where files cannot be locked.
#[derive(Debug)]
pub struct Locked {
    _file: Option<File>,
}

/// Locks a folder, which is made where it is not there; `waits` is called where somebody else holds it.
///
/// # Errors
/// Where the folder cannot be made.
pub fn lock(dir: &Path, waits: impl FnOnce()) -> Result<Locked> {
    create_dir(dir)?;
    // Network file systems lock only what is open for writing.
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
