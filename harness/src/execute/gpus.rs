//! The GPUs of this machine, and which of them a stage run may use.
//!
//! A child sees one GPU: the one that `CUDA_VISIBLE_DEVICES` names to it.

use model::Device;
use std::ops::Range;
use std::process::Command;

/// Names which GPUs a process sees, and in which order.
pub const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// GPUs with places for stage runs.
#[derive(Debug, Clone, Default)]
pub struct Gpus {
    /// As [`VISIBLE`] names them: a number or a UUID.
    names: Vec<String>,
    /// Stage runs at a time on each.
    places: usize,
    /// Stage runs that are on each now.
    taken: Vec<usize>,
}

/// Where a stage run may work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the processor.
    Cpu,
    /// On the GPU of this index.
    Gpu(usize),
}

impl Gpus {
    /// GPUs of these names with so many places each.
    pub fn new(names: Vec<String>, places: usize) -> Self {
        Self { taken: vec![0; names.len()], names, places: places.max(1) }
    }

    /// The GPUs that this process sees.
    pub fn of_this_machine(places: usize) -> Self {
        let names = match std::env::var(VISIBLE) {
            Ok(told) => visible(&told),
            Err(_) => installed(),
        };
        Self::new(names, places)
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
        self.names.len()
    }

    /// A free place on `device`, the emptiest GPU first; `None` while there is none.
    pub fn take(&mut self, device: Device) -> Option<Place> {
        let Device::Cuda(number) = device else { return Some(Place::Cpu) };
        let free = self.meant(number).filter(|&gpu| self.taken[gpu] < self.places);
        let gpu = free.min_by_key(|&gpu| self.taken[gpu])?;
        self.taken[gpu] += 1;
        Some(Place::Gpu(gpu))
    }

    /// Takes a place back.
    pub fn take_back(&mut self, place: Place) {
        if let Place::Gpu(gpu) = place {
            self.taken[gpu] -= 1;
        }
    }

    /// The name of a place's GPU.
    pub fn name(&self, place: Place) -> Option<&str> {
        match place {
            Place::Cpu => None,
            Place::Gpu(gpu) => Some(&self.names[gpu]),
        }
    }

    /// The GPUs that a number can mean, by index: `None` any.
    fn meant(&self, number: Option<usize>) -> Range<usize> {
        let all = 0..self.names.len();
        match number {
            None => all,
            Some(index) if all.contains(&index) => index..index + 1,
            Some(_) => 0..0,
        }
    }
}

/// The GPUs that a value of [`VISIBLE`] names; CUDA ignores all from the first that is none.
fn visible(told: &str) -> Vec<String> {
    let is_gpu = |name: &&str| !name.is_empty() && !name.starts_with('-');
    told.split(',').map(str::trim).take_while(is_gpu).map(Into::into).collect()
}

/// The GPUs of this machine, as its driver's own program lists them.
fn installed() -> Vec<String> {
    let asked = Command::new("nvidia-smi").args(["--query-gpu=index", "--format=csv,noheader"]).output();
    let told = asked.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let told = told.and_then(|told| String::from_utf8(told).ok()).unwrap_or_default();
    told.lines().map(|line| line.trim().to_string()).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(names: &[&str], places: usize) -> Gpus {
        Gpus::new(names.iter().map(ToString::to_string).collect(), places)
    }

    #[test]
    fn visible_devices_end_at_the_first_that_is_none() {
        assert_eq!(visible("0, 2,GPU-8932f937"), ["0", "2", "GPU-8932f937"]);
        assert_eq!(visible("1,-1,2"), ["1"]);
        assert!(visible("").is_empty());
    }

    #[test]
    fn places_are_given_out_on_the_emptiest_gpu_and_taken_back() {
        let mut gpus = gpus(&["3", "5"], 2);
        let mut take = |number: Option<usize>| {
            gpus.take(Device::Cuda(number)).and_then(|place| gpus.name(place).map(String::from))
        };
        assert_eq!(take(None).as_deref(), Some("3"));
        assert_eq!(take(None).as_deref(), Some("5"));
        assert_eq!(take(Some(0)).as_deref(), Some("3"));
        assert_eq!(take(Some(0)), None);
        assert_eq!(take(None).as_deref(), Some("5"));
        assert_eq!(take(None), None);
        gpus.take_back(Place::Gpu(0));
        assert_eq!(gpus.take(Device::Cuda(Some(1))), None);
        assert_eq!(gpus.take(Device::Cuda(None)), Some(Place::Gpu(0)));
        assert_eq!(gpus.take(Device::Cpu), Some(Place::Cpu));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_known_beforehand() {
        let two = gpus(&["0", "1"], 1);
        let there = [Device::Cpu, Device::Cuda(None), Device::Cuda(Some(1))];
        assert!(there.into_iter().all(|device| two.have(device)));
        assert!(!two.have(Device::Cuda(Some(2))));
        assert!(!gpus(&[], 1).have(Device::Cuda(None)));
    }
}
