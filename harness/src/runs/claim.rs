//! Claims: exactly one owner at a time works on a stage run, on this machine or on another that shares the folder.
//!
//! A claim is the file `claim.json` in the folder of a stage run. Its owner increments its `heartbeat` every few seconds.
//! On the owner's own machine the operating system reports whether the owner is alive; on another machine, an owner whose
//! heartbeat stops by the watcher's clock counts as dead. *Invariant:* no decision compares clocks of two machines.

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

/// Interval between an owner's heartbeats.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);

/// An owner on another machine whose heartbeat stops for this long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(45);

/// The holder of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimOwner {
    /// The machine's host name, for display.
    pub host: String,
    /// Identifies one boot of the machine and the PID namespace.
    pub machine: String,
    /// Its process ID.
    pub pid: u32,
    /// When the process started, in clock ticks since boot: process IDs are reused.
    pub process_started: u64,
    /// Distinguishes claims of one process.
    pub number: u64,
    /// Number of heartbeats so far.
    #[serde(alias = "beat")]
    pub heartbeat: u64,
}

impl ClaimOwner {
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

    /// Whether both are the same claim, ignoring the heartbeat.
    fn is(&self, other: &ClaimOwner) -> bool {
        let heartbeat = self.heartbeat;
        *self == ClaimOwner { heartbeat, ..other.clone() }
    }

    /// Whether this system can tell if the owner's process is alive.
    fn is_near(&self) -> bool {
        self.machine == machine() && Path::new("/proc/self/stat").exists()
    }

    /// Whether the owner's process is known to have ended.
    fn known_dead(&self) -> bool {
        self.is_near() && process_started(self.pid) != Some(self.process_started)
    }

    /// A description for display.
    pub fn describe(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

/// The state of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// There is no claim.
    Free,
    /// The claim exists, but its owner is dead.
    Dead(ClaimOwner),
    /// The owner is alive as far as is known.
    By(ClaimOwner),
}

/// Watches one claim: over time it detects whether an owner on another machine is alive.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Option<(ClaimOwner, Instant)>,
}

impl Watch {
    /// Checks the claim of a stage run.
    ///
    /// # Errors
    /// If the claim exists but cannot be read.
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

/// The exclusive right to work on a stage run; released when dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    owner: ClaimOwner,
    /// How long the dead previous owner lived, by its heartbeats.
    taken_over: Duration,
    lost: Arc<AtomicBool>,
    beating: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The result of trying to take a claim.
#[derive(Debug)]
pub enum Taking {
    /// The claim is taken.
    Ours(Claim),
    /// Another owner holds it.
    Busy(ClaimOwner),
}

impl Claim {
    /// Claims the stage run in `dir`; takes over from a dead owner.
    ///
    /// `dead` is an owner on another machine that a [`Watch`] found dead; it counts as dead only if its heartbeat has not changed since.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn take(dir: &Path, dead: Option<&ClaimOwner>) -> Result<Taking> {
        create_dir(dir)?;
        let path = dir.join(CLAIM);
        let runs = dir.parent().unwrap_or(dir);
        // Checking and taking must be atomic: of two processes that see the same dead owner only one may take over.
        let guard_path = runs.join(".claims");
        let guard = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&guard_path)
            .with_context(|| format!("{}: cannot be written", guard_path.display()))?;
        // Not every shared file system has locks; without them the hard link below decides.
        let _guarded = guard.lock();
        let mut taken_over = Duration::ZERO;
        if let Some(owner) = read(dir)? {
            if !owner.known_dead() && dead != Some(&owner) {
                return Ok(Taking::Busy(owner));
            }
            taken_over = HEARTBEAT_EVERY.saturating_mul(owner.heartbeat.try_into().unwrap_or(u32::MAX));
            fs::remove_file(&path).with_context(|| format!("{}: cannot be removed", path.display()))?;
        }
        let owner = ClaimOwner::this_process();
        // Written completely under another name, then linked: a claim is never seen half-written, and only one link succeeds.
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

    /// How long the dead previous owner lived, by its heartbeats; zero if there was none.
    pub fn taken_over(&self) -> Duration {
        self.taken_over
    }

    /// Whether another process took over because this one seemed dead, for example after the machine slept. Then nothing may be written.
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst) || self.is_ours() == Some(false)
    }

    /// Runs `work`, and sets `stop` as soon as the claim is lost.
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

/// Increments the heartbeat in the open claim file until the sender is dropped.
fn heartbeat(
    dir: PathBuf,
    mut owner: ClaimOwner,
    mut file: File,
    lost: Arc<AtomicBool>,
) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.recv_timeout(HEARTBEAT_EVERY) == Err(RecvTimeoutError::Timeout) {
            owner.heartbeat += 1;
            // Written in place through the file opened at the start: if the claim was taken over, the new owner's file is
            // another one.
            let _ = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&text(&owner)));
            if is_held_by(&owner, &dir) == Some(false) {
                lost.store(true, Ordering::SeqCst);
                return;
            }
        }
    });
    (stop, thread)
}

/// An owner as JSON, padded to the same length for any heartbeat.
fn text(owner: &ClaimOwner) -> Vec<u8> {
    let json = serde_json::to_string(owner).unwrap_or_default();
    format!("{json:<512}\n").into_bytes()
}

/// Whether the claim of a stage run is that of `owner`; `None` if it cannot be read, which proves nothing: network file
/// systems fail now and then.
fn is_held_by(owner: &ClaimOwner, dir: &Path) -> Option<bool> {
    read(dir).ok().map(|found| found.is_some_and(|found| found.is(owner)))
}

/// The owner in the claim of a stage run; `None` if there is no claim.
fn read(dir: &Path) -> Result<Option<ClaimOwner>> {
    let path = dir.join(CLAIM);
    let owner = |text: String| {
        serde_json::from_str(text.trim_end()).with_context(|| {
            format!("{}: is not a claim; remove it if nobody works on the stage run", path.display())
        })
    };
    read_if_there(&path)?.map(owner).transpose()
}

/// The host name of this machine.
pub fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    name.map_or_else(|| "unknown".into(), |name| name.trim().to_string())
}

/// Identifies this boot of this machine and the PID namespace: containers number their processes separately.
fn machine() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}/{}", host(), boot.trim(), space.display())
}

/// When a process of this machine started (proc(5), field 22 of `stat`); `None` if there is no such process.
fn process_started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may contain any character.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A process that has ended but has not been waited for no longer works.
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

    fn leave(dir: &Path, owner: &ClaimOwner) {
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
        // The threads compete for a dead owner's claim.
        leave(&dir, &ClaimOwner { process_started: 1, ..ClaimOwner::this_process() });
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
        leave(&dir, &ClaimOwner { pid, process_started: started, ..ClaimOwner::this_process() });
        assert!(matches!(Watch::default().look(&dir).unwrap(), Held::Dead(_)));
        drop(ours(&dir));
        assert_eq!(Watch::default().look(&dir).unwrap(), Held::Free);
    }

    #[test]
    fn a_far_owner_is_dead_only_when_its_beat_stands_still() {
        let runs = tempfile::tempdir().unwrap();
        let dir = runs.path().join("pretrain-1");
        let far = ClaimOwner { machine: "elsewhere".into(), ..ClaimOwner::this_process() };
        leave(&dir, &far);
        assert!(matches!(Claim::take(&dir, None).unwrap(), Taking::Busy(_)));

        let (mut watch, soon) = (Watch::default(), Duration::from_millis(20));
        assert!(matches!(watch.look_with(&dir, soon).unwrap(), Held::By(_)));
        std::thread::sleep(soon);
        let beaten = ClaimOwner { heartbeat: 1, ..far.clone() };
        leave(&dir, &beaten);
        assert!(matches!(watch.look_with(&dir, soon).unwrap(), Held::By(_)));
        std::thread::sleep(soon);
        assert_eq!(watch.look_with(&dir, soon).unwrap(), Held::Dead(beaten.clone()));

        // With a heartbeat since then, it would count as alive.
        assert!(matches!(Claim::take(&dir, Some(&far)).unwrap(), Taking::Busy(_)));
        let Taking::Ours(claim) = Claim::take(&dir, Some(&beaten)).unwrap() else { panic!("it is dead") };
        assert_eq!(claim.taken_over(), HEARTBEAT_EVERY);
    }

    #[test]
    fn work_under_a_lost_claim_is_reported_to_stop() {
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
        // Reading a folder as a file fails as a file on an unreachable server does; a partial file is not a claim.
        fs::create_dir(&path).unwrap();
        assert!(!claim.lost());
        assert!(Watch::default().look(&dir).is_err() && Claim::take(&dir, None).is_err());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "{\"host\": ").unwrap();
        assert!(!claim.lost());
        let error = Watch::default().look(&dir).unwrap_err().to_string();
        assert!(error.ends_with("claim.json: is not a claim; remove it if nobody works on the stage run"));
        // The heartbeat continues meanwhile.
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
        let other = ClaimOwner { machine: "elsewhere".into(), ..ClaimOwner::this_process() };
        leave(&dir, &other);
        assert!(claim.lost());
        drop(claim);
        assert_eq!(read(&dir).unwrap(), Some(other));
    }
}
