//! Who works on a stage run: one owner at a time, on this machine or on another that shares the folder.
//!
//! A claim is the file `claim.json` in the folder of a stage run. Its owner counts up its `heartbeat` every few seconds.
//! On the owner's own machine the system is asked whether the owner lives; on another, an owner whose heartbeat stands still
//! by the watcher's clock is dead. *Invariant:* no decision compares clocks of two machines.

use super::files::CLAIM;
use crate::fsutil::{create_dir, read_if_there, write_atomic};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often an owner shows that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);

/// An owner on another machine that stands still for this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(45);

/// Who holds a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The machine's name, for people.
    pub host: String,
    /// The machine since its start, and the process space in it.
    pub machine: String,
    /// The process.
    pub pid: u32,
    /// When the process started, in the machine's ticks: process numbers are used again.
    pub process_started: u64,
    /// Tells claims of one process apart.
    pub number: u64,
    /// Counts up while the owner lives.
    #[serde(alias = "beat")]
    pub heartbeat: u64,
}

impl Owner {
    fn this_process() -> Self {
        static CLAIMS: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        Self {
            host: host(),
            machine: machine(),
            pid,
            process_started: process_started(pid).unwrap_or(0),
            number: CLAIMS.fetch_add(1, Ordering::Relaxed),
            heartbeat: 0,
        }
    }

    /// Whether both are the same claim, at whatever heartbeat.
    fn is(&self, other: &Owner) -> bool {
        let heartbeat = self.heartbeat;
        *self == Owner { heartbeat, ..other.clone() }
    }

    /// Whether the system here can be asked about the owner.
    fn is_near(&self) -> bool {
        self.machine == machine() && Path::new("/proc/self/stat").exists()
    }

    /// Whether the owner is known to be gone.
    fn known_dead(&self) -> bool {
        self.is_near() && process_started(self.pid) != Some(self.process_started)
    }

    /// As shown to people.
    pub fn describe(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

/// What a look at a claim found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Nobody works here.
    Free,
    /// Nobody works here any more, but the claim is still there.
    Dead(Owner),
    /// Somebody works here, as far as is known.
    By(Owner),
}

/// A watcher of one claim: it learns over time whether a far owner lives.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<(Owner, Instant)>,
}

impl Watch {
    /// Looks at the claim of a stage run.
    ///
    /// # Errors
    /// Where there is one that cannot be read.
    pub fn look(&mut self, dir: &Path) -> Result<Held> {
        self.look_with(dir, DEAD_AFTER)
    }

    fn look_with(&mut self, dir: &Path, dead_after: Duration) -> Result<Held> {
        let Some(owner) = read(dir)? else {
            return Ok(Held::Free);
        };
        if owner.known_dead() {
            return Ok(Held::Dead(owner));
        }
        match &self.seen {
            Some((seen, since)) if *seen == owner => {
                if !owner.is_near() && since.elapsed() >= dead_after {
                    return Ok(Held::Dead(owner));
                }
            }
            _ => self.seen = Some((owner.clone(), Instant::now())),
        }
        Ok(Held::By(owner))
    }
}

/// The right to work on a stage run, given back when dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    owner: Owner,
    /// How long the dead owner before us lived, as far as its heartbeats tell.
    taken_over: Duration,
    lost: Arc<AtomicBool>,
    beating: Option<(Sender<()>, JoinHandle<()>)>,
}

/// Whether a claim was to be had.
#[derive(Debug)]
pub enum Taking {
    /// It is ours.
    Ours(Claim),
    /// Somebody else holds it.
    Busy(Owner),
}

impl Claim {
    /// Claims the stage run in `dir`, and takes over from an owner that is dead.
    ///
    /// `dead` is a far owner that a [`Watch`] found dead; it is believed only if it has not beaten since.
    ///
    /// # Errors
    /// Where the folder cannot be read or written.
    pub fn take(dir: &Path, dead: Option<&Owner>) -> Result<Taking> {
        create_dir(dir)?;
        let path = dir.join(CLAIM);
        let runs = dir.parent().unwrap_or(dir);
        // Looking and taking are one act: two that see the same dead owner must not both take over.
        let guard_path = runs.join(".claims");
        let guard = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&guard_path)
            .with_context(|| format!("{}: cannot be written", guard_path.display()))?;
        // Not every shared file system has locks; there, making the file below is what decides.
        let _guarded = guard.lock();
        let mut taken_over = Duration::ZERO;
        if let Some(owner) = read(dir)? {
            if !owner.known_dead() && dead != Some(&owner) {
                return Ok(Taking::Busy(owner));
            }
            taken_over = HEARTBEAT_EVERY.saturating_mul(owner.heartbeat.try_into().unwrap_or(u32::MAX));
            fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        let owner = Owner::this_process();
        // Made whole under another name, then linked: a claim is never seen half-written, and one link wins.
        let draft = dir.join(format!(".writing-{CLAIM}.{}.{}", owner.pid, owner.number));
        write_atomic(&draft, &text(&owner))?;
        let linked = fs::hard_link(&draft, &path);
        let file = OpenOptions::new().write(true).open(&draft);
        let removed = fs::remove_file(&draft);
        if let Err(error) = linked {
            if let Some(other) = read(dir)? {
                return Ok(Taking::Busy(other));
            }
            return Err(error).with_context(|| format!("{}: cannot be written", path.display()));
        }
        let file = file.and_then(|file| removed.map(|()| file));
        let file = file.with_context(|| format!("{}: cannot be opened", path.display()))?;
        let lost = Arc::new(AtomicBool::new(false));
        let beating = heartbeat(dir.to_path_buf(), owner.clone(), file, Arc::clone(&lost));
        Ok(Taking::Ours(Claim { path, owner, taken_over, lost, beating: Some(beating) }))
    }

    /// How long the dead owner lived that we took over from; zero where there was none.
    pub fn taken_over(&self) -> Duration {
        self.taken_over
    }

    /// Whether somebody took over in the belief that we were dead: a machine that slept, say. Nothing may be written then.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst) || self.is_ours() == Some(false)
    }

    /// Works, and sets `stop` as soon as the claim is lost.
    pub fn while_ours<T>(&self, stop: &AtomicBool, work: impl FnOnce() -> T) -> T {
        let (over, ended) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while ended.recv_timeout(HEARTBEAT_EVERY / 10) == Err(RecvTimeoutError::Timeout) {
                    stop.fetch_or(self.lost.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            });
            let done = work();
            drop(over);
            done
        })
    }

    fn is_ours(&self) -> Option<bool> {
        is_held_by(&self.owner, self.path.parent().unwrap_or(Path::new(".")))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.beating.take() {
            drop(stop);
            let _ = thread.join();
        }
        if self.is_ours() == Some(true) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the claim of an owner that was killed after the end of its work was recorded.
///
/// # Errors
/// Where the folder cannot be read or written.
pub fn clear_dead(dir: &Path) -> Result<()> {
    if let Held::Dead(owner) = Watch::default().look(dir)? {
        // Taken, and given back at once.
        Claim::take(dir, Some(&owner))?;
    }
    Ok(())
}

/// Counts up the heartbeat in the open claim until the sender is dropped.
fn heartbeat(
    dir: PathBuf,
    mut owner: Owner,
    mut file: File,
    lost: Arc<AtomicBool>,
) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.recv_timeout(HEARTBEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
            owner.heartbeat += 1;
            // Written in place, through the file that was opened at the start: were the claim taken over,
            // the new owner's file would be another one.
            let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&text(&owner)));
            if is_held_by(&owner, &dir) == Some(false) {
                lost.store(true, Ordering::SeqCst);
                return;
            }
        }
    });
    (stop, thread)
}

/// An owner as text of one length, whatever the heartbeat.
fn text(owner: &Owner) -> Vec<u8> {
    let json = serde_json::to_string(owner).unwrap_or_default();
    format!("{json:<512}\n").into_bytes()
}

/// Whether the claim of a stage run is that of `owner`; `None` where it cannot be read, which tells nothing: network
/// file systems fail now and then.
fn is_held_by(owner: &Owner, dir: &Path) -> Option<bool> {
    read(dir).ok().map(|found| found.is_some_and(|found| found.is(owner)))
}

/// The owner in the claim of a stage run; `None` where there is no claim.
fn read(dir: &Path) -> Result<Option<Owner>> {
    let path = dir.join(CLAIM);
    let owner = |text: String| {
        serde_json::from_str(text.trim_end()).with_context(|| {
            format!("{}: is not a claim; remove it if nobody works on the stage run", path.display())
        })
    };
    read_if_there(&path)?.map(owner).transpose()
}

/// The machine's name.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or_else(|| "unknown".into(), |name| name.trim().to_string())
}

/// This start of this machine, and the process space in it: containers number their processes anew.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}/{}", host(), boot.trim(), space.display())
}

/// When a process of this machine started (proc(5), field 22 of `stat`); `None` where there is none.
fn process_started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A process that has ended but was not waited for works no more.
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ours(dir: &Path) -> Claim {
        match Claim::take(dir, None).unwrap() {
            Taking::Ours(claim) => claim,
            Taking::Busy(owner) => panic!("held by {owner:?}"),
        }
    }

    fn leave(dir: &Path, owner: &Owner) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(CLAIM), text(owner)).unwrap();
    }

    #[test]
    fn a_claim_is_held_by_one_and_given_back() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let claim = ours(&dir);
        assert!(matches!(Claim::take(&dir, None).unwrap(), Taking::Busy(_)));
        assert!(matches!(Watch::default().look(&dir).unwrap(), Held::By(_)));
        assert!(!claim.lost());
        drop(claim);
        assert_eq!(Watch::default().look(&dir).unwrap(), Held::Free);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        drop(ours(&dir));
    }

    #[test]
    fn of_many_that_try_at_once_one_wins() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        // A dead owner's claim is there to be fought for.
        leave(&dir, &Owner { process_started: 1, ..Owner::this_process() });
        let attempts: Vec<Taking> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Claim::take(&dir, None).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let won = attempts.iter().filter(|a| matches!(a, Taking::Ours(_))).count();
        assert_eq!(won, 1);
    }

    #[test]
    fn a_dead_owner_of_this_machine_is_replaced_at_once() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let started = process_started(pid).unwrap_or(1);
        child.wait().unwrap();
        leave(&dir, &Owner { pid, process_started: started, ..Owner::this_process() });
        assert!(matches!(Watch::default().look(&dir).unwrap(), Held::Dead(_)));
        drop(ours(&dir));

        leave(&dir, &Owner { pid, process_started: started, ..Owner::this_process() });
        clear_dead(&dir).unwrap();
        assert_eq!(Watch::default().look(&dir).unwrap(), Held::Free);
        let mine = ours(&dir);
        clear_dead(&dir).unwrap();
        assert!(!mine.lost());
    }

    #[test]
    fn a_far_owner_is_dead_only_when_its_beat_stands_still() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let far = Owner { machine: "elsewhere".into(), ..Owner::this_process() };
        leave(&dir, &far);
        assert!(matches!(Claim::take(&dir, None).unwrap(), Taking::Busy(_)));

        let (mut watch, soon) = (Watch::default(), Duration::from_millis(20));
        assert!(matches!(watch.look_with(&dir, soon).unwrap(), Held::By(_)));
        std::thread::sleep(soon);
        let beaten = Owner { heartbeat: 1, ..far.clone() };
        leave(&dir, &beaten);
        assert!(matches!(watch.look_with(&dir, soon).unwrap(), Held::By(_)));
        std::thread::sleep(soon);
        assert_eq!(watch.look_with(&dir, soon).unwrap(), Held::Dead(beaten.clone()));

        // Had it beaten since, it would be believed alive.
        assert!(matches!(Claim::take(&dir, Some(&far)).unwrap(), Taking::Busy(_)));
        let Taking::Ours(claim) = Claim::take(&dir, Some(&beaten)).unwrap() else { panic!("it is dead") };
        assert_eq!(claim.taken_over(), HEARTBEAT_EVERY);
    }

    #[test]
    fn work_under_a_lost_claim_is_told_to_stop() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let claim = ours(&dir);
        fs::remove_file(dir.join(CLAIM)).unwrap();
        let (stop, since) = (AtomicBool::new(false), Instant::now());
        claim.while_ours(&stop, || {
            while !stop.load(Ordering::SeqCst) && since.elapsed() < 5 * HEARTBEAT_EVERY {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert!(stop.load(Ordering::SeqCst));
    }

    #[test]
    fn a_claim_that_cannot_be_read_is_neither_free_nor_lost() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let (claim, path, aside) = (ours(&dir), dir.join(CLAIM), dir.join("aside"));
        fs::rename(&path, &aside).unwrap();
        // A folder fails to be read as a file does whose server is away; what was half read is no claim.
        fs::create_dir(&path).unwrap();
        assert!(!claim.lost());
        assert!(Watch::default().look(&dir).is_err() && Claim::take(&dir, None).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "{\"host\": ").unwrap();
        assert!(!claim.lost());
        let error = Watch::default().look(&dir).unwrap_err().to_string();
        assert!(error.ends_with("claim.json: is not a claim; remove it if nobody works on the stage run"));
        // Beats go on meanwhile.
        std::thread::sleep(HEARTBEAT_EVERY + HEARTBEAT_EVERY / 10);
        fs::rename(&aside, &path).unwrap();
        assert!(!claim.lost());
        fs::remove_file(&path).unwrap();
        assert!(claim.lost());
    }

    #[test]
    fn an_owner_that_was_replaced_knows_it() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let claim = ours(&dir);
        fs::remove_file(dir.join(CLAIM)).unwrap();
        let other = Owner { machine: "elsewhere".into(), ..Owner::this_process() };
        leave(&dir, &other);
        assert!(claim.lost());
        drop(claim);
        assert_eq!(read(&dir).unwrap(), Some(other));
    }
}
