//! The GPUs of this machine, and which of them a stage run may use.
//!
//! A child sees one GPU: the one that `CUDA_VISIBLE_DEVICES` names to it. Several share one as far as the user allows and
//! its memory has room, by the forecast of `plan`.

use crate::track::number;
use model::Device;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names which GPUs a process sees, and in which order.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// Names the folder through which NVIDIA's MPS is spoken to.
const MPS_PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";

/// A GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// As [`VISIBLE`] names it: a number or a UUID.
    pub name: String,
    /// MiB that nobody uses as the work begins; infinite where nobody tells.
    pub free_mb: f64,
}

/// GPUs with places for stage runs.
#[derive(Debug, Clone, Default)]
pub struct Gpus {
    gpus: Vec<Gpu>,
    /// Stage runs at a time on each.
    places: usize,
    /// MiB that each stage run is expected to take, GPU by GPU.
    given: Vec<Vec<f64>>,
}

/// Where a stage run may work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// On the processor.
    Cpu,
    /// On the GPU of this index, with so many MiB of its memory.
    Gpu(usize, f64),
}

/// Why a stage run waits for others to end.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// As many work as may at a time.
    Turn,
    /// Those that work leave it too little memory.
    Memory {
        /// Of what: this machine, or GPUs by their names.
        of: String,
        /// MiB that it is expected to take.
        needed_mb: f64,
        /// MiB that are left, on the GPU that has most.
        left_mb: f64,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Turn => f.write_str("as many work as may at a time"),
            Self::Memory { of, needed_mb, left_mb } => {
                let [needed, left] = [needed_mb, left_mb].map(|mb| number(mb.max(0.0) as u64));
                write!(
                    f,
                    "it is expected to take {needed} MiB, and {left} MiB of the memory of {of} are left"
                )
            }
        }
    }
}

impl Gpus {
    /// These GPUs with so many places each; 0 is as many as their memory has room for.
    pub fn new(gpus: Vec<Gpu>, places: usize) -> Self {
        let places = if places == 0 { usize::MAX } else { places };
        Self { given: vec![vec![]; gpus.len()], gpus, places }
    }

    /// The GPUs that this process sees.
    pub fn of_this_machine(places: usize) -> Self {
        let installed = installed();
        let gpus = match std::env::var(VISIBLE) {
            Ok(told) => visible(&told).into_iter().map(|name| named(name, &installed)).collect(),
            Err(_) => unambiguous(installed),
        };
        Self::new(gpus, places)
    }

    /// What to tell where so many stage runs at a time are to share GPUs and would take turns on them, for want of NVIDIA's MPS.
    pub fn turns(&self, at_once: usize) -> Option<String> {
        let pipes = std::env::var_os(MPS_PIPES).map_or_else(|| "/tmp/nvidia-mps".into(), PathBuf::from);
        self.turns_without(&pipes.join("control"), at_once)
    }

    /// The same, with the file through which MPS is spoken to.
    fn turns_without(&self, control: &Path, at_once: usize) -> Option<String> {
        let shares = self.places > 1 && !self.gpus.is_empty() && at_once > self.gpus.len();
        (shares && !control.exists()).then(|| {
            format!(
                "stage runs that share a GPU take turns on it, as NVIDIA's MPS does not run ({} is not there): small models are several \
                 times as fast with it; start it with: nvidia-cuda-mps-control -d",
                control.display()
            )
        })
    }

    /// Whether there is what `device` can mean.
    pub fn have(&self, device: Device) -> bool {
        match device {
            Device::Cpu => true,
            Device::Cuda(number) => self.meant(number).next().is_some(),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.gpus.len()
    }

    /// A free place on `device` for a stage run that takes so many MiB there, the GPU of the fewest stage runs first.
    ///
    /// # Errors
    /// Why it waits, where there is none. Where a GPU is idle, one is never too large.
    pub fn take(&mut self, device: Device, needed_mb: f64) -> Result<Place, Wait> {
        let Device::Cuda(number) = device else { return Ok(Place::Cpu) };
        let free = self.meant(number).filter(|&gpu| self.given[gpu].len() < self.places);
        let free: Vec<usize> = free.collect();
        let fits = |&&gpu: &&usize| self.given[gpu].is_empty() || needed_mb <= self.left_mb(gpu);
        if let Some(&gpu) = free.iter().filter(fits).min_by_key(|&&gpu| self.given[gpu].len()) {
            self.given[gpu].push(needed_mb);
            return Ok(Place::Gpu(gpu, needed_mb));
        }
        if free.is_empty() {
            return Err(Wait::Turn);
        }
        let names: Vec<&str> = free.iter().map(|&gpu| short(&self.gpus[gpu].name)).collect();
        let left_mb = free.iter().map(|&gpu| self.left_mb(gpu)).fold(0.0, f64::max);
        Err(Wait::Memory { of: format!("GPU {}", names.join(", ")), needed_mb, left_mb })
    }

    /// MiB of a GPU's memory that no stage run is expected to take.
    fn left_mb(&self, gpu: usize) -> f64 {
        self.gpus[gpu].free_mb - self.given[gpu].iter().sum::<f64>()
    }

    /// Takes a place back.
    pub fn take_back(&mut self, place: Place) {
        if let Place::Gpu(gpu, mb) = place {
            let given = &mut self.given[gpu];
            if let Some(index) = given.iter().position(|&other| other == mb) {
                given.swap_remove(index);
            }
        }
    }

    /// The name of a place's GPU.
    pub fn name(&self, place: Place) -> Option<&str> {
        match place {
            Place::Cpu => None,
            Place::Gpu(gpu, _) => Some(&self.gpus[gpu].name),
        }
    }

    /// The GPUs that a number can mean, by index: `None` any.
    fn meant(&self, number: Option<usize>) -> Range<usize> {
        let all = 0..self.gpus.len();
        match number {
            None => all,
            Some(index) if all.contains(&index) => index..index + 1,
            Some(_) => 0..0,
        }
    }
}

/// The name of a GPU for people: of a UUID the first number.
pub fn short(name: &str) -> &str {
    let number = name.strip_prefix("GPU-").and_then(|uuid| uuid.split('-').next());
    number.unwrap_or(name)
}

/// GPUs by their UUIDs where there are several: `nvidia-smi` numbers them by their bus, CUDA the fastest first.
fn unambiguous(installed: Vec<(Gpu, String)>) -> Vec<Gpu> {
    let are_several = installed.len() > 1;
    let named = |(gpu, uuid): (Gpu, String)| match are_several && uuid.starts_with("GPU-") {
        true => Gpu { name: uuid, ..gpu },
        false => gpu,
    };
    installed.into_iter().map(named).collect()
}

/// The GPUs that a value of [`VISIBLE`] names; CUDA ignores all from the first that is none.
fn visible(told: &str) -> Vec<String> {
    let is_gpu = |name: &&str| !name.is_empty() && !name.starts_with('-');
    told.split(',').map(str::trim).take_while(is_gpu).map(Into::into).collect()
}

/// The GPUs of this machine with their UUIDs, as its driver's own program lists them.
fn installed() -> Vec<(Gpu, String)> {
    let question = ["--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"];
    let asked = Command::new("nvidia-smi").args(question).output();
    let told = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    listed(&told.and_then(|told| String::from_utf8(told).ok()).unwrap_or_default())
}

/// What `nvidia-smi` tells, a line a GPU: number, UUID, free MiB.
fn listed(told: &str) -> Vec<(Gpu, String)> {
    let gpu = |line: &str| {
        let mut cells = line.split(',').map(str::trim);
        let name = cells.next().filter(|name| !name.is_empty())?.to_owned();
        let uuid = cells.next().unwrap_or_default().to_owned();
        // A card that is split or too old tells no number.
        let free_mb = cells.next().and_then(|free| free.parse().ok()).unwrap_or(f64::INFINITY);
        Some((Gpu { name, free_mb }, uuid))
    };
    told.lines().filter_map(gpu).collect()
}

/// The GPU that [`VISIBLE`] names by number, or by the beginning of its UUID.
fn named(name: String, installed: &[(Gpu, String)]) -> Gpu {
    let is_meant = |(gpu, uuid): &&(Gpu, String)| gpu.name == name || uuid.starts_with(&name);
    let free_mb = installed.iter().find(is_meant).map_or(f64::INFINITY, |(gpu, _)| gpu.free_mb);
    Gpu { name, free_mb }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn gpus(free: &[(&str, f64)], places: usize) -> Gpus {
        let gpu = |&(name, free_mb): &(&str, f64)| Gpu { name: name.into(), free_mb };
        Gpus::new(free.iter().map(gpu).collect(), places)
    }

    #[test]
    fn visible_devices_end_at_the_first_that_is_none() {
        assert_eq!(visible("0, 2,GPU-8932f937"), ["0", "2", "GPU-8932f937"]);
        assert_eq!(visible("1,-1,2"), ["1"]);
        assert!(visible("").is_empty());
    }

    #[test]
    fn free_memory_is_that_of_the_gpu_that_is_named() {
        let told = "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 80994\n1, GPU-77aa0000-0000, [N/A]\n\n";
        let installed = listed(told);
        let free = |name: &str| named(name.into(), &installed).free_mb;
        assert_eq!(installed[0].0, Gpu { name: "0".into(), free_mb: 80_994.0 });
        assert_eq!([free("0"), free("GPU-8932f937")], [80_994.0; 2]);
        assert_eq!([free("1"), free("MIG-1"), free("7")], [f64::INFINITY; 3]);
        assert!(listed("").is_empty());
    }

    #[test]
    fn several_gpus_are_named_by_what_does_not_depend_on_their_order() {
        let told =
            "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 80994\n1, GPU-77aa0000-0000, 500\n2, [N/A], 7\n";
        let names = |told: &str| {
            unambiguous(listed(told)).into_iter().map(|gpu| (gpu.name, gpu.free_mb)).collect::<Vec<_>>()
        };
        let expected = [
            ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6".to_owned(), 80_994.0),
            ("GPU-77aa0000-0000".to_owned(), 500.0),
            ("2".to_owned(), 7.0),
        ];
        assert_eq!(names(told), expected);
        assert_eq!(names(told.lines().next().unwrap()), [("0".to_owned(), 80_994.0)]);
        let mut gpus = Gpus::new(unambiguous(listed(told)), 0);
        let taken: Vec<_> = (0..3).map(|_| gpus.take(Device::Cuda(None), 7.0).unwrap()).collect();
        assert_eq!(gpus.name(taken[0]), Some("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"));
        let wait = gpus.take(Device::Cuda(None), 1e6).unwrap_err().to_string();
        assert!(wait.ends_with("of the memory of GPU 8932f937, 77aa0000, 2 are left"), "{wait}");
    }

    #[test]
    fn places_are_given_out_on_the_emptiest_gpu_and_taken_back() {
        let mut gpus = gpus(&[("3", f64::INFINITY), ("5", f64::INFINITY)], 2);
        let mut take = |number: Option<usize>| {
            gpus.take(Device::Cuda(number), 1.0).map(|place| gpus.name(place).unwrap().to_owned())
        };
        assert_eq!(take(None).as_deref(), Ok("3"));
        assert_eq!(take(None).as_deref(), Ok("5"));
        assert_eq!(take(Some(0)).as_deref(), Ok("3"));
        assert_eq!(take(Some(0)), Err(Wait::Turn));
        assert_eq!(take(None).as_deref(), Ok("5"));
        assert_eq!(take(None), Err(Wait::Turn));
        gpus.take_back(Place::Gpu(0, 1.0));
        assert_eq!(gpus.take(Device::Cuda(Some(1)), 1.0), Err(Wait::Turn));
        assert_eq!(gpus.take(Device::Cuda(None), 1.0), Ok(Place::Gpu(0, 1.0)));
        assert_eq!(gpus.take(Device::Cpu, 1.0), Ok(Place::Cpu));
    }

    #[test]
    fn as_many_share_a_gpu_as_its_memory_has_room_for() {
        let mut gpus = gpus(&[("0", 1000.0), ("1", 700.0)], 0);
        let mut take = |mb| gpus.take(Device::Cuda(None), mb);
        let taken: Vec<_> = [300.0, 300.0, 300.0, 300.0, 300.0].map(&mut take).into();
        let places = [0, 1, 0, 1, 0].map(|gpu| Ok(Place::Gpu(gpu, 300.0)));
        assert_eq!(taken, places);
        // 100 MiB are left on each.
        let wait = take(2300.0).unwrap_err();
        assert_eq!(
            wait.to_string(),
            "it is expected to take 2,300 MiB, and 100 MiB of the memory of GPU 0, 1 are left"
        );
        assert_eq!(take(60.0), Ok(Place::Gpu(1, 60.0)));
        // On an idle GPU one is never too large.
        for mb in [300.0, 300.0, 60.0] {
            gpus.take_back(Place::Gpu(1, mb));
        }
        assert_eq!(gpus.take(Device::Cuda(None), 2300.0), Ok(Place::Gpu(1, 2300.0)));
        assert!(gpus.take(Device::Cuda(Some(1)), 1.0).is_err());
    }

    #[test]
    fn sharing_a_gpu_without_mps_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let told =
            |free: &[(&str, f64)], places, at_once| gpus(free, places).turns_without(&control, at_once);
        let (one, two) = (&[("0", 1.0)][..], &[("0", 1.0), ("1", 1.0)][..]);
        assert!(told(one, 2, 2).unwrap().contains(&control.display().to_string()));
        assert!(told(one, 0, 9).is_some() && told(two, 2, 3).is_some());
        // One at a time, one on each, or none.
        let untold = [told(one, 1, 9), told(one, 0, 1), told(two, 2, 2), told(&[], 2, 9)];
        assert!(untold.iter().all(Option::is_none), "{untold:?}");
        std::fs::write(&control, "").unwrap();
        assert_eq!(told(one, 2, 2), None);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_known_beforehand() {
        let two = gpus(&[("0", 1.0), ("1", 1.0)], 1);
        let there = [Device::Cpu, Device::Cuda(None), Device::Cuda(Some(1))];
        assert!(there.into_iter().all(|device| two.have(device)));
        assert!(!two.have(Device::Cuda(Some(2))));
        assert!(!gpus(&[], 1).have(Device::Cuda(None)));
    }
}
