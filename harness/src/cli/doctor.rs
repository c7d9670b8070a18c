//! The verb `doctor`: describes this machine and checks every operation's results on it.

use super::say;
use crate::execute::gpus::Gpus;
use crate::system::{available_memory, proc_bytes};
use crate::track::size;
use anyhow::Result;
use clap::Args;
use model::backend::cpu::{gemm, matrix_peak};
use model::doctor::{Case, Check, checks, worst};
use model::{About, Backend, Device, Precision, Work};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Folder of stage runs, whose free disk space is reported
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// The machine's resources.
#[derive(Debug, Serialize)]
struct Machine {
    /// Version of this program.
    version: &'static str,
    /// Model name of the processor.
    cpu: String,
    /// Number of cores that this program may use.
    cores: usize,
    /// Vector instructions of its matrix products: `avx512`, `avx2` or `portable`.
    vectors: &'static str,
    /// Total memory in bytes; `None` if the system does not report it.
    memory: Option<u64>,
    /// Memory available to new processes, in bytes.
    memory_available: Option<u64>,
    /// Speed of bare matrix products on all cores, in 10^9 floating-point operations per second.
    matrix_gflops: f64,
    /// Number of GPUs that this program could use.
    gpus: usize,
    /// Whether the program was built with CUDA.
    cuda: bool,
    /// Free bytes on the disk of the runs; `None` if the system does not report it.
    disk_free: Option<u64>,
}

impl Machine {
    /// Inspects this machine.
    fn this(runs: &Path) -> Self {
        let told = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let info = told("/proc/cpuinfo");
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cpu: name.map_or(std::env::consts::ARCH, |(_, name)| name).trim().into(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            vectors: gemm::Path::current().name(),
            memory: proc_bytes(&told("/proc/meminfo"), "MemTotal:"),
            memory_available: available_memory(),
            matrix_gflops: matrix_peak(),
            gpus: Gpus::of_this_machine(1).count(),
            cuda: cfg!(feature = "cuda"),
            disk_free: free_at(runs),
        }
    }

    fn lines(&self, runs: &Path) -> [String; 6] {
        let bytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), size);
        let gpus = match (self.gpus, self.cuda) {
            (0, _) => "none".into(),
            (count, true) => format!("{count}"),
            (count, false) => format!("{count}, not used: this program was built without CUDA"),
        };
        [
            format!("program   mindscale {}", self.version),
            format!("cpu       {}, {} cores, {} vectors", self.cpu, self.cores, self.vectors),
            format!("memory    {}, {} available", bytes(self.memory), bytes(self.memory_available)),
            format!("products  {:.0} GFLOP/s of f32 on all cores", self.matrix_gflops),
            format!("gpus      {gpus}"),
            format!("disk      {} free at {}", bytes(self.disk_free), runs.display()),
        ]
    }
}

/// Returns the free bytes on the disk of a folder, or of its nearest existing parent.
fn free_at(dir: &Path) -> Option<u64> {
    let absolute = std::path::absolute(dir).ok()?;
    absolute.ancestors().find_map(|dir| fs4::available_space(dir).ok())
}

/// The checks of one device in one precision.
#[derive(Debug, Serialize)]
struct Checked {
    device: Device,
    precision: Precision,
    /// Name and peak speed of a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<About>,
    checks: Vec<Check>,
}

impl Checked {
    /// Compares every operation of the device with the reference implementation.
    fn on((device, precision): (Device, Precision)) -> Self {
        let outcome = device.run(precision, Usual).and_then(|outcome| outcome);
        let (about, checks) = outcome.unwrap_or_else(|error| {
            let problem = Some(error.to_string());
            (None, vec![Check { name: "device", off: f64::NAN, bound: 0.0, problem }])
        });
        Self { device, precision, about, checks }
    }

    /// Returns the heading of the device's table.
    fn heading(&self) -> String {
        let name = format!("{}, {}", self.device, self.precision);
        let columns = format!("\n{name:<34} {:>8} {:>8}", "off", "allowed");
        match &self.about {
            None => columns,
            Some(About { name, gflops, copied_gb }) => format!(
                "\n{name}\nproducts {:.1} TFLOP/s in {}, copies {copied_gb:.0} GB/s, read and written{columns}",
                gflops / 1e3,
                self.precision
            ),
        }
    }

    fn failed(&self) -> usize {
        self.checks.iter().filter(|check| !check.is_ok()).count()
    }

    /// Returns what to do if a check fails.
    fn advice(&self) -> &'static str {
        match (self.device, gemm::Path::current()) {
            (Device::Cpu, gemm::Path::Portable) => {
                "do not trust results of this build; report the output of mindscale doctor --json"
            }
            (Device::Cpu, _) => {
                "run MINDSCALE_SIMD=portable mindscale doctor; if that passes, train with the same, slower setting; \
                 report the output of mindscale doctor --json"
            }
            _ => {
                "train with device = \"cpu\"; look at the driver with nvidia-smi; \
                 report the output of mindscale doctor --json"
            }
        }
    }

    fn line(&self, check: &Check) -> String {
        let state = match (check.is_ok(), &check.problem) {
            (true, _) => "ok".into(),
            (false, None) => format!("FAILED: {}", self.advice()),
            (false, Some(problem)) => format!("FAILED: {problem}; {}", self.advice()),
        };
        format!("  {:<32} {:>8.1e} {:>8.1e}  {state}", check.name, check.off, check.bound)
    }
}

/// The usual cases; keeps the worst deviation of each operation.
struct Usual;

impl Work for Usual {
    type Outcome = model::Result<(Option<About>, Vec<Check>)>;

    fn run<B: Backend>(self, backend: &B) -> Self::Outcome {
        Ok((backend.about()?, worst(Case::usual().iter().flat_map(|case| checks(backend, case)))))
    }
}

/// Prints the machine and the checks; returns whether all checks passed.
pub fn doctor(args: &DoctorArgs) -> Result<bool> {
    let machine = Machine::this(&args.runs);
    let gpus = if machine.cuda { machine.gpus } else { 0 };
    let of_gpus =
        (0..gpus).flat_map(|gpu| Precision::ALL.map(|precision| (Device::Cuda(Some(gpu)), precision)));
    let devices = [(Device::Cpu, Precision::F32)].into_iter().chain(of_gpus);
    let mut failed = 0;
    if args.json {
        let devices: Vec<Checked> = devices.map(Checked::on).collect();
        failed += devices.iter().map(Checked::failed).sum::<usize>();
        say(serde_json::json!({ "machine": machine, "devices": devices, "ok": failed == 0 }))?;
        return Ok(failed == 0);
    }
    for line in machine.lines(&args.runs) {
        say(line)?;
    }
    let mut count = 0;
    for device in devices.map(Checked::on) {
        say(device.heading())?;
        for check in &device.checks {
            say(device.line(check))?;
        }
        (failed, count) = (failed + device.failed(), count + device.checks.len());
    }
    say(match failed {
        0 => format!("\nall {count} checks passed"),
        failed => format!("\n{failed} of {count} checks FAILED"),
    })?;
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_says_what_to_do() {
        let check = |off, problem: Option<&str>| Check {
            name: "attention_backward",
            off,
            bound: 3e-6,
            problem: problem.map(Into::into),
        };
        let checks = vec![check(1e-7, None), check(0.5, None), check(f64::NAN, Some("out of memory"))];
        let gpu = Checked { device: Device::Cuda(Some(1)), precision: Precision::Bf16, about: None, checks };
        assert_eq!(gpu.failed(), 2);
        let lines: Vec<String> = gpu.checks.iter().map(|check| gpu.line(check)).collect();
        assert_eq!(lines[0], "  attention_backward                 1.0e-7   3.0e-6  ok");
        assert!(lines[1].contains("5.0e-1   3.0e-6  FAILED: train with device = \"cpu\""), "{}", lines[1]);
        assert!(lines[2].contains("FAILED: out of memory; train with"), "{}", lines[2]);
        let cpu = Checked { device: Device::Cpu, ..gpu };
        assert!(cpu.line(&cpu.checks[1]).contains("report the output of mindscale doctor --json"));
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_is_that_of_its_parent() {
        assert!(free_at(Path::new("/nowhere/at/all")).is_some());
    }
}
