//! A run in the background that can be watched, signalled and awaited.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Maximum time that anything may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The driver process of a run; it and its children are killed when dropped.
pub struct Driver {
    child: Child,
    output: PathBuf,
}

impl Driver {
    /// Runs the program in `dir`; its output is appended to `drivers.log` there.
    pub fn start(dir: &Path, args: &[&str]) -> Self {
        let output = dir.join("drivers.log");
        let log = fs::File::options().create(true).append(true).open(&output).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("mindscale"));
        command.args(args).current_dir(dir).stdout(log.try_clone().unwrap()).stderr(log);
        Self { child: command.stdin(Stdio::null()).spawn().unwrap(), output }
    }

    /// The output of this driver and of earlier ones in the same folder.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// The ids of its child processes.
    pub fn children(&self) -> Vec<u32> {
        let parent = format!("PPid:\t{}", self.child.id());
        let is_child = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line == parent)
        };
        let processes = fs::read_dir("/proc").unwrap();
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_child).collect()
    }

    /// Sends a signal, such as `INT`, to the driver only.
    pub fn send(&self, signal: &str) {
        send(signal, self.child.id());
    }

    /// Kills the driver and its children at once, like a power failure, and waits for the driver.
    pub fn kill_all(&mut self) {
        let children = self.children();
        self.send("KILL");
        children.into_iter().for_each(|pid| send("KILL", pid));
        self.wait(PATIENCE);
    }

    /// Returns its exit status if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends.
    pub fn wait(&mut self, longest: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(since.elapsed() < longest, "the sweep did not end:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a condition holds; false if the driver ended first.
    pub fn wait_until(&mut self, is_so: impl Fn() -> bool) -> bool {
        let since = Instant::now();
        loop {
            let ended = self.ended().is_some();
            if is_so() {
                return !ended;
            }
            if ended {
                return false;
            }
            assert!(since.elapsed() < PATIENCE, "the condition was not met in time:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_all();
        }
    }
}

/// Sends a signal, such as `KILL`, to a process that may have ended.
pub fn send(signal: &str, pid: u32) {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), &pid.to_string()]).stderr(Stdio::null());
    assert!(kill.status().is_ok());
}
