//! The verb `doctor`: describes this machine and checks every operation's results on it.

use super::say;
use crate::execute::gpus::{Gpus, VISIBLE};
use crate::system::{available_memory, cores, proc_bytes};
use crate::track::{counted, size};
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
    /// The GPUs that this program could use.
    #[serde(flatten)]
    gpus: GpuCount,
    /// Whether the program was built with CUDA.
    cuda: bool,
    /// Free bytes on the disk of the runs; `None` if the system does not report it.
    disk_free: Option<u64>,
}

/// The GPUs of this machine: as many as the driver shows to a program with CUDA, otherwise as many as are listed.
#[derive(Debug, Serialize)]
struct GpuCount {
    /// Their number.
    gpus: usize,
    /// The number of those that `nvidia-smi`, or `CUDA_VISIBLE_DEVICES`, lists: `mindscale run` uses these.
    gpus_listed: usize,
    /// Why the driver shows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus_problem: Option<String>,
}

impl GpuCount {
    fn this() -> Self {
        let listed = Gpus::of_this_machine(1).count();
        match cfg!(feature = "cuda").then(Device::gpus) {
            None => Self { gpus: listed, gpus_listed: listed, gpus_problem: None },
            Some(Ok(gpus)) => Self { gpus, gpus_listed: listed, gpus_problem: None },
            Some(Err(error)) => Self { gpus: 0, gpus_listed: listed, gpus_problem: Some(error.to_string()) },
        }
    }

    fn line(&self, cuda: bool) -> String {
        let listed = counted(self.gpus_listed, "GPU");
        match self {
            Self { gpus: 0, gpus_problem: Some(problem), gpus_listed: 0 } => format!("none: {problem}"),
            Self { gpus_problem: Some(problem), .. } => {
                format!("none that can be used, though nvidia-smi or {VISIBLE} lists {listed}: {problem}")
            }
            Self { gpus: 0, .. } => "none".into(),
            Self { gpus, .. } if !cuda => format!("{gpus}, not used: this program was built without CUDA"),
            Self { gpus, gpus_listed: 0, .. } => {
                let all: Vec<String> = (0..*gpus).map(|gpu| gpu.to_string()).collect();
                format!(
                    "{gpus}, but nvidia-smi is missing or lists none: for mindscale run, set {VISIBLE}={}",
                    all.join(",")
                )
            }
            Self { gpus, .. } => gpus.to_string(),
        }
    }
}

impl Machine {
    /// Inspects this machine.
    fn this(runs: &Path) -> Self {
        let text_of = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let info = text_of("/proc/cpuinfo");
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            cpu: name.map_or(std::env::consts::ARCH, |(_, name)| name).trim().into(),
            cores: cores(),
            vectors: gemm::Path::current().name(),
            memory: proc_bytes(&text_of("/proc/meminfo"), "MemTotal:"),
            memory_available: available_memory(),
            matrix_gflops: matrix_peak(),
            gpus: GpuCount::this(),
            cuda: cfg!(feature = "cuda"),
            disk_free: free_at(runs),
        }
    }

    fn lines(&self, runs: &Path) -> [String; 6] {
        let bytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), size);
        [
            format!("program   mindscale {}", self.version),
            format!("cpu       {}, {} cores, {} vectors", self.cpu, self.cores, self.vectors),
            format!("memory    {}, {} available", bytes(self.memory), bytes(self.memory_available)),
            format!("products  {:.0} GFLOP/s of f32 on all cores", self.matrix_gflops),
            format!("gpus      {}", self.gpus.line(self.cuda)),
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
    let gpus = if machine.cuda { machine.gpus.gpus } else { 0 };
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
    fn what_is_missing_for_gpus_is_reported() {
        let line = |gpus, gpus_listed, problem: Option<&str>, cuda| {
            GpuCount { gpus, gpus_listed, gpus_problem: problem.map(Into::into) }.line(cuda)
        };
        assert_eq!(line(0, 0, None, false), "none");
        assert_eq!(line(2, 2, None, false), "2, not used: this program was built without CUDA");
        assert_eq!(line(2, 1, None, true), "2");
        let unlisted =
            "2, but nvidia-smi is missing or lists none: for mindscale run, set CUDA_VISIBLE_DEVICES=0,1";
        assert_eq!(line(2, 0, None, true), unlisted);
        assert_eq!(line(0, 0, Some("no driver"), true), "none: no driver");
        let broken =
            "none that can be used, though nvidia-smi or CUDA_VISIBLE_DEVICES lists 3 GPUs: no driver";
        assert_eq!(line(0, 3, Some("no driver"), true), broken);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_is_that_of_its_parent() {
        assert!(free_at(Path::new("/nowhere/at/all")).is_some());
    }
}
