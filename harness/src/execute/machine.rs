//! The resources of this machine for stage runs (cores, memory, GPUs), and which of them are in use.

use super::gpus::{Gpus, Place, Wait};
use crate::config::TrialConfig;
use crate::plan::StageNode;
use crate::sweep::{gpu_memory_mb, memory_mb};
use crate::system::{available_memory, cores};
use model::Device;
use std::collections::BTreeMap;

/// A machine whose resources stage runs share.
#[derive(Debug, Clone)]
pub struct Machine {
    cores: usize,
    /// Most stage runs at a time.
    jobs: usize,
    /// MiB for all stage runs together; infinite if the user sets the number of stage runs at a time.
    memory_mb: f64,
    gpus: Gpus,
    given: BTreeMap<usize, Share>,
}

/// The resources given to one stage run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Number of threads to work with.
    pub threads: usize,
    /// Whether its model runs on the CPU or on a GPU, and on which.
    pub place: Place,
    /// MiB of the machine's memory that it is expected to take.
    memory_mb: f64,
}

impl Machine {
    /// A machine with these cores, `memory_mb` MiB and these GPUs, for the stage runs of `trials` trials. Without `jobs`, up to
    /// one stage run per core and trial runs at a time, as far as their forecast memory fits (the forecast of `plan`).
    pub fn new(cores: usize, memory_mb: f64, gpus: Gpus, jobs: Option<usize>, trials: usize) -> Self {
        let (jobs, memory_mb) = match jobs {
            Some(jobs) => (jobs, f64::INFINITY),
            None => (cores.min(trials), memory_mb),
        };
        Self { cores, jobs: jobs.max(1), memory_mb, gpus, given: BTreeMap::new() }
    }

    /// This machine with the memory that is free now.
    pub fn this(gpus: Gpus, jobs: Option<usize>, trials: usize) -> Self {
        let free = available_memory().map_or(f64::INFINITY, |bytes| bytes as f64 / (1 << 20) as f64);
        Self::new(cores(), free, gpus, jobs, trials)
    }

    /// Whether no further stage run can start, whatever it needs.
    pub fn is_full(&self) -> bool {
        self.given.len() >= self.jobs
    }

    /// Gives a stage run its share of the machine; `waiting` others could run at the same time.
    ///
    /// # Errors
    /// If there is no room now: why it waits.
    pub fn take(&mut self, index: usize, node: &StageNode, waiting: usize) -> Result<Share, Wait> {
        if self.is_full() {
            return Err(Wait::Turn);
        }
        let (config, computes) = (&node.config, node.stage.computes());
        let on_gpu = computes && config.device != Device::Cpu;
        let memory_mb = if on_gpu { host_memory_mb(config) } else { memory_mb(config) };
        let left_mb = self.memory_mb - self.given.values().map(|share| share.memory_mb).sum::<f64>();
        if !self.given.is_empty() && memory_mb > left_mb {
            return Err(Wait::Memory { of: "this machine".into(), needed_mb: memory_mb, left_mb });
        }
        let place = match on_gpu {
            true => self.gpus.take(config.device, gpu_memory_mb(config, config.precision))?,
            false => Place::Cpu,
        };
        // One thread per stage run is fastest while several run at a time; one that runs alone takes all cores.
        let at_once = (self.given.len() + 1 + waiting).min(self.jobs);
        let threads = match node.config.threads {
            0 => self.cores / at_once,
            threads if computes => threads,
            // A stage run that trials share may use the cores of all of them.
            threads => (threads * self.jobs).min(self.cores).max(threads) / at_once,
        };
        let share = Share { threads: threads.max(1), place, memory_mb };
        self.given.insert(index, share);
        Ok(share)
    }

    /// Takes back the share of a stage run.
    pub fn take_back(&mut self, index: usize) {
        if let Some(share) = self.given.remove(&index) {
            self.gpus.take_back(share.place);
        }
    }

    /// The name of a share's GPU, in the form that `CUDA_VISIBLE_DEVICES` takes.
    pub fn gpu(&self, share: Share) -> Option<&str> {
        self.gpus.name(share.place)
    }
}

/// MiB of the machine's memory that a stage run on a GPU takes: 512 for CUDA itself, and twice the weights and the two
/// moments (4 bytes per number), as while a checkpoint is written.
fn host_memory_mb(config: &TrialConfig) -> f64 {
    512.0 + 6.0 * 4.0 * config.model.params() as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::execute::gpus::Gpu;
    use crate::plan::StageGraph;
    use crate::plan::testing::{plan, trial};
    use model::Precision;
    use std::path::Path;

    fn graph(seeds: u64, change: impl Fn(&mut TrialConfig)) -> StageGraph {
        let trial = |seed| {
            trial(|config| {
                config.seed = seed;
                change(config);
            })
        };
        plan(&(0..seeds).map(trial).collect::<Vec<_>>(), Path::new("nowhere"))
    }

    fn gpus(count: usize) -> Gpus {
        let gpu = |i: usize| Gpu { name: i.to_string(), free_mb: f64::INFINITY };
        Gpus::new((0..count).map(gpu).collect(), 1)
    }

    /// Threads of each stage run of `stage`; `None` for one that finds no place.
    fn threads(machine: &mut Machine, graph: &StageGraph, stage: &str) -> Vec<Option<usize>> {
        let nodes: Vec<usize> =
            (0..graph.nodes.len()).filter(|&n| graph.nodes[n].stage.name() == stage).collect();
        let take = |(i, &n): (usize, &usize)| machine.take(n, &graph.nodes[n], nodes.len() - 1 - i);
        nodes.iter().enumerate().map(take).map(|share| share.map(|s| s.threads).ok()).collect()
    }

    #[test]
    fn what_runs_alone_takes_all_cores() {
        let four = graph(4, |_| {});
        let machine = |jobs| Machine::new(8, f64::INFINITY, gpus(0), jobs, 4);
        assert_eq!(threads(&mut machine(None), &four, "tokenizer"), [Some(8)]);
        assert_eq!(threads(&mut machine(None), &four, "pretrain"), [Some(2); 4]);
        assert_eq!(threads(&mut machine(Some(2)), &four, "pretrain"), [Some(4), Some(4), None, None]);
        // With one thread per trial, the tokenizer that four trials wait for gets four.
        let thin = graph(4, |config| config.threads = 1);
        assert_eq!(threads(&mut machine(None), &thin, "tokenizer"), [Some(4)]);
        assert_eq!(threads(&mut machine(Some(1)), &thin, "tokenizer"), [Some(1)]);
        assert_eq!(threads(&mut machine(None), &thin, "pretrain"), [Some(1); 4]);
    }

    #[test]
    fn trials_start_as_long_as_there_is_memory() {
        let four = graph(4, |_| {});
        let each = memory_mb(&four.trials[0].trial.config);
        let started = |memory, jobs| {
            let mut machine = Machine::new(8, memory, gpus(0), jobs, 4);
            threads(&mut machine, &four, "pretrain").iter().flatten().count()
        };
        assert_eq!(started(each * 2.5, None), 2);
        // One always runs; and a number of jobs set by the user overrides the forecast.
        assert_eq!((started(1.0, None), started(1.0, Some(3))), (1, 3));
        let mut machine = Machine::new(8, each * 1.5, gpus(0), None, 4);
        assert!(machine.take(0, &four.nodes[0], 0).is_ok());
        let wait = machine.take(1, &four.nodes[1], 0).unwrap_err();
        assert!(wait.to_string().contains("MiB of the memory of this machine are free"), "{wait}");
        machine.take_back(0);
        assert!(machine.take(1, &four.nodes[1], 0).is_ok());
    }

    #[test]
    fn trials_share_the_gpus_and_the_rest_runs_on_the_processor() {
        let three = graph(3, |config| config.device = Device::Cuda(None));
        let mut machine = Machine::new(8, f64::INFINITY, gpus(2), None, 3);
        let mut place = |stage: &str, nth: usize| {
            let named = |n: &usize| three.nodes[*n].stage.name() == stage;
            let node = (0..three.nodes.len()).filter(named).nth(nth).unwrap();
            machine.take(node, &three.nodes[node], 0).map(|share| share.place)
        };
        let mb = gpu_memory_mb(&three.nodes[0].config, Precision::F32);
        assert_eq!(place("tokenizer", 0), Ok(Place::Cpu));
        let places = [Ok(Place::Gpu(0, mb)), Ok(Place::Gpu(1, mb)), Err(Wait::Turn)];
        assert_eq!([0, 1, 2].map(|n| place("pretrain", n)), places);
    }

    #[test]
    fn what_computes_on_a_gpu_takes_its_memory_and_little_of_the_machine_s() {
        let three = graph(3, |config| {
            config.device = Device::Cuda(None);
            config.precision = Precision::Bf16;
        });
        let config = &three.trials[0].trial.config;
        let on_gpu = gpu_memory_mb(config, Precision::Bf16);
        let gpu = Gpu { name: "0".into(), free_mb: 2.5 * on_gpu };
        let mut machine = Machine::new(8, 3.5 * host_memory_mb(config), Gpus::new(vec![gpu], 0), None, 3);
        let runs: Vec<usize> =
            (0..three.nodes.len()).filter(|&n| three.nodes[n].stage.name() == "pretrain").collect();
        let mut take =
            |nth: usize| machine.take(runs[nth], &three.nodes[runs[nth]], 0).map(|share| share.place);
        assert_eq!([take(0), take(1)], [Ok(Place::Gpu(0, on_gpu)), Ok(Place::Gpu(0, on_gpu))]);
        assert!(matches!(take(2), Err(Wait::Memory { of, .. }) if of == "GPU 0"));
        machine.take_back(runs[0]);
        assert!(machine.take(runs[2], &three.nodes[runs[2]], 0).is_ok());
    }
}
