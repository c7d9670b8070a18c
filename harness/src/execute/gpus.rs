//! The GPUs of this machine, and which of them a stage run may use.
//!
//! A child sees one GPU: the one that `CUDA_VISIBLE_DEVICES` names. Several children share a GPU as far as the user allows
//! and its memory has room, by the forecast of `plan`.

use crate::track::number;
use model::Device;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable that names the GPUs that a process sees, in order.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The environment variable that names the folder of the pipes to NVIDIA's MPS.
const MPS_PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";

/// A GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// Its name in [`VISIBLE`]: a number or a UUID.
    pub name: String,
    /// MiB of its memory that are free when the run starts; infinite if unknown.
    pub free_mb: f64,
}

/// GPUs with places for stage runs.
#[derive(Debug, Clone, Default)]
pub struct Gpus {
    gpus: Vec<Gpu>,
    /// Most stage runs at a time on each GPU.
    places: usize,
    /// MiB that each stage run is expected to take, by GPU.
    given: Vec<Vec<f64>>,
}

/// Where a stage run works.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// On the CPU.
    Cpu,
    /// On the GPU of this index, with this many MiB of its memory.
    Gpu(usize, f64),
}

/// Why a stage run waits for others to end.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// As many stage runs are working as are allowed at a time.
    Turn,
    /// The working stage runs leave too little memory.
    Memory {
        /// Whose memory: "this machine", or GPUs by name.
        of: String,
        /// MiB that the stage run is expected to take.
        needed_mb: f64,
        /// MiB that are left, on the GPU that has most.
        left_mb: f64,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Turn => f.write_str("the limit of stage runs at a time is reached"),
            Self::Memory { of, needed_mb, left_mb } => {
                let [needed, left] = [needed_mb, left_mb].map(|mb| number(mb.max(0.0) as u64));
                write!(f, "it needs about {needed} MiB, and {left} MiB of the memory of {of} are free")
            }
        }
    }
}

impl Gpus {
    /// These GPUs with `places` stage runs each; 0 means as many as fit into their memory.
    pub fn new(gpus: Vec<Gpu>, places: usize) -> Self {
        let places = if places == 0 { usize::MAX } else { places };
        Self { given: vec![vec![]; gpus.len()], gpus, places }
    }

    /// The GPUs that this process sees.
    pub fn of_this_machine(places: usize) -> Self {
        let installed = installed();
        let gpus = match std::env::var(VISIBLE) {
            Ok(list) => visible(&list).into_iter().map(|name| named(name, &installed)).collect(),
            Err(_) => unambiguous(installed),
        };
        Self::new(gpus, places)
    }

    /// The warning if `at_once` stage runs at a time would share GPUs without NVIDIA's MPS, and so take turns on them.
    pub fn turns(&self, at_once: usize) -> Option<String> {
        let pipes = std::env::var_os(MPS_PIPES).map_or_else(|| "/tmp/nvidia-mps".into(), PathBuf::from);
        self.turns_without(&pipes.join("control"), at_once)
    }

    /// The same for MPS with this control file.
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

    /// Whether a GPU that `device` can mean exists; true for the CPU.
    pub fn have(&self, device: Device) -> bool {
        match device {
            Device::Cpu => true,
            Device::Cuda(number) => self.meant(number).next().is_some(),
        }
    }

    /// The number of GPUs.
    pub fn count(&self) -> usize {
        self.gpus.len()
    }

    /// Takes a place on `device` for a stage run that needs `needed_mb` MiB there, on the GPU with the fewest stage runs.
    ///
    /// # Errors
    /// If there is no free place: why it waits. On an idle GPU no stage run is too large.
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

    /// Frees a place.
    pub fn take_back(&mut self, place: Place) {
        if let Place::Gpu(gpu, mb) = place {
            let given = &mut self.given[gpu];
            if let Some(index) = given.iter().position(|&other| other == mb) {
                given.swap_remove(index);
            }
        }
    }

    /// The name of a place's GPU; `None` for the CPU.
    pub fn name(&self, place: Place) -> Option<&str> {
        match place {
            Place::Cpu => None,
            Place::Gpu(gpu, _) => Some(&self.gpus[gpu].name),
        }
    }

    /// Indices of the GPUs that a device number can mean; all for `None`.
    fn meant(&self, number: Option<usize>) -> Range<usize> {
        let all = 0..self.gpus.len();
        match number {
            None => all,
            Some(index) if all.contains(&index) => index..index + 1,
            Some(_) => 0..0,
        }
    }
}

/// The name of a GPU for display: the first group of a UUID, else the whole name.
pub fn short(name: &str) -> &str {
    let number = name.strip_prefix("GPU-").and_then(|uuid| uuid.split('-').next());
    number.unwrap_or(name)
}

/// Names GPUs by UUID if there are several: `nvidia-smi` numbers them by bus, CUDA by speed.
fn unambiguous(installed: Vec<(Gpu, String)>) -> Vec<Gpu> {
    let are_several = installed.len() > 1;
    let named = |(gpu, uuid): (Gpu, String)| match are_several && uuid.starts_with("GPU-") {
        true => Gpu { name: uuid, ..gpu },
        false => gpu,
    };
    installed.into_iter().map(named).collect()
}

/// The GPUs that a value of [`VISIBLE`] names; CUDA ignores the first invalid entry and all after it.
fn visible(list: &str) -> Vec<String> {
    let is_gpu = |name: &&str| !name.is_empty() && !name.starts_with('-');
    list.split(',').map(str::trim).take_while(is_gpu).map(Into::into).collect()
}

/// The GPUs of this machine with their UUIDs, as `nvidia-smi` lists them.
fn installed() -> Vec<(Gpu, String)> {
    let question = ["--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"];
    let asked = Command::new("nvidia-smi").args(question).output();
    let list = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    listed(&list.and_then(|list| String::from_utf8(list).ok()).unwrap_or_default())
}

/// Parses the output of `nvidia-smi`, one line per GPU: number, UUID, free MiB.
fn listed(list: &str) -> Vec<(Gpu, String)> {
    let gpu = |line: &str| {
        let mut cells = line.split(',').map(str::trim);
        let name = cells.next().filter(|name| !name.is_empty())?.to_owned();
        let uuid = cells.next().unwrap_or_default().to_owned();
        // A GPU that is split (MIG) or too old reports no number.
        let free_mb = cells.next().and_then(|free| free.parse().ok()).unwrap_or(f64::INFINITY);
        Some((Gpu { name, free_mb }, uuid))
    };
    list.lines().filter_map(gpu).collect()
}

/// The GPU that [`VISIBLE`] names by number or by a prefix of its UUID.
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
        let output = "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 80994\n1, GPU-77aa0000-0000, [N/A]\n\n";
        let installed = listed(output);
        let free = |name: &str| named(name.into(), &installed).free_mb;
        assert_eq!(installed[0].0, Gpu { name: "0".into(), free_mb: 80_994.0 });
        assert_eq!([free("0"), free("GPU-8932f937")], [80_994.0; 2]);
        assert_eq!([free("1"), free("MIG-1"), free("7")], [f64::INFINITY; 3]);
        assert!(listed("").is_empty());
    }

    #[test]
    fn several_gpus_are_named_by_what_does_not_depend_on_their_order() {
        let output =
            "0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, 80994\n1, GPU-77aa0000-0000, 500\n2, [N/A], 7\n";
        let names = |output: &str| {
            unambiguous(listed(output)).into_iter().map(|gpu| (gpu.name, gpu.free_mb)).collect::<Vec<_>>()
        };
        let expected = [
            ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6".to_owned(), 80_994.0),
            ("GPU-77aa0000-0000".to_owned(), 500.0),
            ("2".to_owned(), 7.0),
        ];
        assert_eq!(names(output), expected);
        assert_eq!(names(output.lines().next().unwrap()), [("0".to_owned(), 80_994.0)]);
        let mut gpus = Gpus::new(unambiguous(listed(output)), 0);
        let taken: Vec<_> = (0..3).map(|_| gpus.take(Device::Cuda(None), 7.0).unwrap()).collect();
        assert_eq!(gpus.name(taken[0]), Some("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"));
        let wait = gpus.take(Device::Cuda(None), 1e6).unwrap_err().to_string();
        assert!(wait.ends_with("of the memory of GPU 8932f937, 77aa0000, 2 are free"), "{wait}");
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
        // 100 MiB are left on each GPU.
        let wait = take(2300.0).unwrap_err();
        assert_eq!(
            wait.to_string(),
            "it needs about 2,300 MiB, and 100 MiB of the memory of GPU 0, 1 are free"
        );
        assert_eq!(take(60.0), Ok(Place::Gpu(1, 60.0)));
        // On an idle GPU no stage run is too large.
        for mb in [300.0, 300.0, 60.0] {
            gpus.take_back(Place::Gpu(1, mb));
        }
        assert_eq!(gpus.take(Device::Cuda(None), 2300.0), Ok(Place::Gpu(1, 2300.0)));
        assert!(gpus.take(Device::Cuda(Some(1)), 1.0).is_err());
    }

    #[test]
    fn sharing_a_gpu_without_mps_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("control");
        let note =
            |free: &[(&str, f64)], places, at_once| gpus(free, places).turns_without(&control, at_once);
        let (one, two) = (&[("0", 1.0)][..], &[("0", 1.0), ("1", 1.0)][..]);
        assert!(note(one, 2, 2).unwrap().contains(&control.display().to_string()));
        assert!(note(one, 0, 9).is_some() && note(two, 2, 3).is_some());
        // One at a time, one per GPU, or no GPU.
        let silent = [note(one, 1, 9), note(one, 0, 1), note(two, 2, 2), note(&[], 2, 9)];
        assert!(silent.iter().all(Option::is_none), "{silent:?}");
        std::fs::write(&control, "").unwrap();
        assert_eq!(note(one, 2, 2), None);
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
