//! Forecasts of the time and the price of a plan's stage runs: by the roofline of a device, or by the throughput of
//! earlier stage runs on this machine.

use super::{StageGraph, StageNode};
use crate::config::{Answer, Stage, TrainStage, TrialConfig};
use crate::exam::Questions;
use crate::runs::claim::host;
use crate::runs::manifest::{Manifest, RunStatus};
use crate::sweep::{CostRow, Extent, at_most, gpu_memory_mb, memory_mb};
use crate::system::on_threads;
use crate::track::{counted, number, table, time};
use crate::train::optimizer;
use crate::train::trunk::adopted_share;
use anyhow::{Context, Result, bail};
use model::cost::roofline::{Gpu, Processor, Seconds, Step};
use model::cost::step::Trained;
use model::trainer::Rule;
use model::{Device, Precision, Recompute};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// What times are estimated by.
#[derive(Debug, Clone)]
pub enum Estimator {
    /// A GPU by its data sheet, computing in this precision; `None`: in that of each trial.
    Gpu(Gpu, Option<Precision>),
    /// This machine's CPU, as measured.
    Processor(Processor),
    /// The mean throughput of earlier stage runs.
    Throughput {
        /// Floating-point operations per second.
        flops: f64,
        /// Number of stage runs that it is averaged over.
        runs: usize,
    },
}

/// Names of the devices that times can be estimated for.
pub const DEVICES: [&str; 6] = ["h100", "h200", "a100", "4090", "3090", "cpu"];

/// Most earlier stage runs that are read for the throughput.
const MAX_READ: usize = 1000;

/// A device that times can be estimated for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// A GPU, computing in this precision; `None`: in that of each trial.
    Gpu(Gpu, Option<Precision>),
    /// This machine's CPU.
    Processor,
}

/// The precision of a trial on a GPU: the one that is given, otherwise its own if its device is a GPU, otherwise bf16.
fn precision_of(config: &TrialConfig, given: Option<Precision>) -> Precision {
    let own = (config.device != Device::Cpu).then_some(config.precision);
    given.or(own).unwrap_or(Precision::Bf16)
}

/// Memory in MiB that a trial needs on a device; `None`: on its own.
pub fn memory_on(target: Option<Target>, config: &TrialConfig) -> f64 {
    match (target, config.device) {
        (Some(Target::Processor), _) | (None, Device::Cpu) => memory_mb(config),
        (Some(Target::Gpu(_, precision)), _) => gpu_memory_mb(config, precision_of(config, precision)),
        (None, Device::Cuda(_)) => gpu_memory_mb(config, config.precision),
    }
}

impl Target {
    /// The device of this name, computing in this precision if it is given.
    ///
    /// # Errors
    /// If there is no such device, or if it does not support the precision.
    pub fn of(device: &str, precision: Option<Precision>) -> Result<Self> {
        if device == "cpu" {
            return match precision.filter(|&precision| precision != Precision::F32) {
                None => Ok(Self::Processor),
                Some(other) => bail!("--precision is {other}, expected f32 with --device cpu"),
            };
        }
        let gpu = Gpu::named(device)
            .with_context(|| format!("--device is {device:?}, expected one of {}", DEVICES.join(", ")))?;
        Ok(Self::Gpu(gpu, precision))
    }

    /// The sentence that names the trials which need more memory than a GPU has; `None` if there are none.
    pub fn too_small(self, rows: &[CostRow]) -> Option<String> {
        let Self::Gpu(Gpu { name, memory, .. }, _) = self else { return None };
        let memory_mb = 1024.0 * memory;
        let too_large: Vec<&CostRow> = rows.iter().filter(|row| row.memory_mb > memory_mb).collect();
        let most = too_large.iter().max_by(|a, b| a.memory_mb.total_cmp(&b.memory_mb))?;
        let [takes, has] = [most.memory_mb, memory_mb].map(|mb| number(mb as u64));
        Some(format!(
            "{} of {} {} more memory than the {has} MiB of a {name}: trial {} takes about {takes} MiB; smaller models and \
             recompute = \"blocks\" take less",
            too_large.len(),
            counted(rows.len(), "trial"),
            if too_large.len() == 1 { "needs" } else { "need" },
            most.trial
        ))
    }
}

impl Estimator {
    /// The estimator of a device; measures the CPU now.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn of(target: Target) -> Result<Self> {
        match target {
            Target::Gpu(gpu, precision) => Ok(Self::Gpu(gpu, precision)),
            Target::Processor => on_threads(0, || Ok(Self::Processor(Processor::measure()))),
        }
    }

    /// The processor as measured now, for stage runs on the CPU; `None` for other devices.
    ///
    /// # Errors
    /// If no threads can be started.
    pub fn measured(device: &str) -> Result<Option<Self>> {
        (device == "cpu").then(|| Self::of(Target::Processor)).transpose()
    }

    /// The mean throughput of finished training stage runs in a folder that this machine made on `device`; reads at most
    /// `MAX_READ` stage runs. `None` if there are none.
    pub fn recorded(runs: &Path, device: &str) -> Option<Self> {
        let (mut flops, mut seconds, mut count, here) = (0.0, 0.0, 0, host());
        let is_training = |entry: &std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            TrainStage::all().any(|stage| name.starts_with(&format!("{}-", stage.name())))
        };
        for entry in std::fs::read_dir(runs).ok()?.flatten().filter(is_training).take(MAX_READ) {
            let Ok(Some(manifest)) = Manifest::read(&entry.path()) else { continue };
            let is_of_this = manifest.host == here && manifest.device.starts_with(device);
            if manifest.status == RunStatus::Done && is_of_this {
                // Operations and time of its own steps: those of a branch's first steps are its trunk's.
                flops += manifest.results.flops * (1.0 - adopted_share(&manifest.results));
                seconds += manifest.wall_seconds;
                count += 1;
            }
        }
        (flops > 0.0 && seconds > 0.0).then_some(Self::Throughput { flops: flops / seconds, runs: count })
    }

    /// Time of a step of a trial, and the share of the device that it occupies; `None` for [`Self::Throughput`].
    fn step(&self, config: &TrialConfig, step: &Step) -> Option<(Seconds, f64)> {
        let (model, threads) = (&config.model, config.threads);
        match self {
            Self::Gpu(gpu, precision) => Some((gpu.step(model, step, precision_of(config, *precision)), 1.0)),
            Self::Processor(processor) => {
                let all = processor.threads;
                let threads = if threads == 0 { all } else { threads.min(all) }.clamp(1, step.lanes.max(1));
                Some((processor.step(model, step, threads), threads as f64 / all as f64))
            }
            Self::Throughput { .. } => None,
        }
    }

    /// A description for the user.
    fn describe(&self, graph: &StageGraph) -> String {
        match self {
            Self::Gpu(gpu, precision) => {
                let nodes = graph.nodes.iter().filter(|node| node.stage.computes());
                let found = nodes.map(|node| precision_of(&node.config, *precision).name());
                let found: Vec<&str> = found.collect::<BTreeSet<_>>().into_iter().collect();
                format!("on one {} in {}, by a roofline", gpu.name, found.join(" and "))
            }
            Self::Processor(_) => "on this machine's processor, by a roofline measured just now".into(),
            Self::Throughput { runs, .. } => {
                format!("at the throughput of {} of this machine", counted(*runs, "earlier stage run"))
            }
        }
    }
}

/// The estimated time of one stage run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageTime {
    /// Seconds of a step of full rows; absent for exams and for estimates by throughput.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Seconds>,
    /// Positions per second in such a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Seconds of the whole stage run.
    pub seconds: f64,
    /// Seconds of device time: `seconds` times the share of the device that it occupies.
    pub device_seconds: f64,
}

/// Estimated time of each remaining stage run, in the order of the plan; `None` if unknown or nothing is left.
pub fn times(graph: &StageGraph, extents: &[Option<Extent>], by: &Estimator) -> Vec<Option<StageTime>> {
    times_by(graph, extents, by, prompts)
}

/// Like [`times`]; `prompts` returns the prompts of an exam. Exams that ask the same questions are made or read once.
fn times_by(
    graph: &StageGraph,
    extents: &[Option<Extent>],
    by: &Estimator,
    mut prompts: impl FnMut(&TrialConfig) -> Option<Prompts>,
) -> Vec<Option<StageTime>> {
    let first = graph.first_of_exams();
    let firsts: BTreeSet<usize> = first.iter().copied().flatten().collect();
    let known: HashMap<usize, Option<Prompts>> =
        firsts.into_iter().map(|index| (index, prompts(&graph.nodes[index].config))).collect();
    let of = |(index, node): (usize, &StageNode)| match node.stage {
        _ if !node.state.is_left() => None,
        Stage::Train(stage) => training(stage, node, extents[index], by),
        Stage::Exam => exam(&node.config, known[&first[index]?]?, by),
        Stage::Tokenizer | Stage::Data => None,
    };
    graph.nodes.par_iter().enumerate().map(of).collect()
}

/// The work of one optimizer step of a stage.
pub fn step_of(config: &TrialConfig, stage: TrainStage) -> Step {
    let training = stage.training(config);
    let trained = match () {
        () if (stage.spec().adapters)(config).is_some() => Trained::Adapters,
        () if stage.compares_answers() => Trained::Preferences,
        () => Trained::Weights,
    };
    Step {
        items: training.rows_of_step(),
        len: training.seq_len,
        lanes: training.lanes,
        recompute: training.recompute,
        trained,
        rule: optimizer(training).rule,
    }
}

fn training(
    stage: TrainStage,
    node: &StageNode,
    extent: Option<Extent>,
    by: &Estimator,
) -> Option<StageTime> {
    let config = &node.config;
    let extent = extent.unwrap_or_else(|| at_most(config, stage, stage.training(config)));
    let flops = extent.flops? * (1.0 - node.trunk.map_or(0.0, |trunk| trunk.share)) * node.chance;
    if let Estimator::Throughput { flops: per_second, .. } = by {
        let seconds = flops / per_second;
        return Some(StageTime { step: None, tokens_per_second: None, seconds, device_seconds: seconds });
    }
    let step = step_of(config, stage);
    let (of_step, share) = by.step(config, &step)?;
    let positions = stage.positions_of_step(config) as f64;
    let steps = flops / (config.cost(stage).per_token(step.len) * positions);
    let seconds = steps * of_step.total();
    Some(StageTime {
        step: Some(of_step),
        tokens_per_second: Some(positions / of_step.total()),
        seconds,
        device_seconds: seconds * share,
    })
}

/// Approximate bytes of text per token: one Chinese character, or a piece of a short word.
const BYTES_PER_TOKEN: f64 = 3.0;

/// Approximate tokens of the chat template and the system prompt around a question.
const TEMPLATE_TOKENS: f64 = 20.0;

/// The prompts of an exam.
#[derive(Debug, Clone, Copy)]
struct Prompts {
    /// Number of questions.
    asked: usize,
    /// Approximate tokens of all of them, with the shots of each subject once.
    tokens: f64,
}

/// The prompts of a trial's exam; `None` if its questions cannot be read.
fn prompts(config: &TrialConfig) -> Option<Prompts> {
    let Questions { sheets, shots } = Questions::of(config).ok()?;
    let tokens = |text: &str| text.len() as f64 / BYTES_PER_TOKEN;
    let (answer, mut asked, mut all) = (config.exam.answer, 0usize, 0.0);
    for sheet in &sheets {
        let shown = shots.get(&sheet.subject).into_iter().flatten();
        all += shown.map(|shot| tokens(&shot.presented(answer)) + TEMPLATE_TOKENS).sum::<f64>();
        for question in &sheet.questions {
            asked += 1;
            all += tokens(&question.presented(answer)) + TEMPLATE_TOKENS;
            if answer != Answer::Letter {
                all += question.options.iter().map(|option| tokens(option)).sum::<f64>();
            }
        }
    }
    Some(Prompts { asked, tokens: all })
}

/// The estimated time of an exam: one forward pass per question, and one for the shots that all questions of a subject
/// share. `None` for [`Estimator::Throughput`]: the throughput of trainings says nothing about exams.
fn exam(config: &TrialConfig, Prompts { asked, tokens }: Prompts, by: &Estimator) -> Option<StageTime> {
    let len = ((tokens / asked.max(1) as f64).ceil() as usize).clamp(1, config.model.max_seq_len);
    let (recompute, trained, rule) = (Recompute::None, Trained::Nothing, Rule::AdamW);
    let step = Step { items: 64, len, lanes: 4, recompute, trained, rule };
    let (of_step, share) = by.step(config, &step)?;
    let seconds = of_step.total() * tokens / (step.items * len) as f64;
    Some(StageTime { step: None, tokens_per_second: None, seconds, device_seconds: seconds * share })
}

/// Total of the stage runs of one stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The stage, or `all`.
    pub stage: String,
    /// Number of stage runs.
    pub runs: usize,
    /// Number of stage runs whose time is unknown.
    pub unknown: usize,
    /// Seconds of device time, if the stage runs are run one after the other.
    pub seconds: f64,
    /// Price of that time; `None` if no price per hour is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
}

/// The times of a plan by stage, and all together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Totals {
    /// The estimator, in words.
    pub by: String,
    /// A line for each stage in the order of the recipe, then one for all.
    pub stages: Vec<Line>,
}

impl Totals {
    /// Sums the times; `price` is the price per hour.
    pub fn of(graph: &StageGraph, times: &[Option<StageTime>], by: &Estimator, price: Option<f64>) -> Self {
        let names = TrainStage::all().map(Stage::Train).chain([Stage::Exam]);
        let mut stages: Vec<Line> = Vec::new();
        let mut all = Line { stage: "all".into(), runs: 0, unknown: 0, seconds: 0.0, price: None };
        for stage in names {
            let mut line = Line { stage: stage.name().into(), ..all.clone() };
            (line.runs, line.unknown, line.seconds) = (0, 0, 0.0);
            for (node, time) in graph.nodes.iter().zip(times) {
                if node.stage == stage && node.state.is_left() {
                    line.runs += 1;
                    line.unknown += usize::from(time.is_none());
                    line.seconds += time.map_or(0.0, |time| time.device_seconds);
                }
            }
            all.runs += line.runs;
            all.unknown += line.unknown;
            all.seconds += line.seconds;
            stages.extend((line.runs > 0).then_some(line));
        }
        stages.push(all);
        for line in &mut stages {
            line.price = price.map(|price| price * line.seconds / 3600.0);
        }
        Self { by: by.describe(graph), stages }
    }

    /// Formats a table for a terminal; empty if nothing is left to run.
    pub fn render(&self) -> String {
        let Some(all) = self.stages.last().filter(|all| all.runs > 0) else { return String::new() };
        let priced = all.price.is_some();
        let mut header = vec!["stage", "stage runs", "time"];
        header.extend(priced.then_some("price"));
        let lines: Vec<Vec<String>> = self
            .stages
            .iter()
            .map(|line| {
                let (known, more) = (line.runs > line.unknown, if line.unknown > 0 { " +" } else { "" });
                let shown = |text: String| if known { text + more } else { "?".into() };
                let mut cells = vec![line.stage.clone(), line.runs.to_string(), shown(time(line.seconds))];
                cells.extend(line.price.map(|price| shown(format!("{price:.2}"))));
                cells
            })
            .collect();
        let mut text =
            format!("time {}, one stage run after the other:\n{}\n", self.by, table(&header, &lines));
        if all.unknown > 0 {
            let runs = counted(all.unknown, "stage run");
            text += &format!("? and + leave out {runs} whose time is not known yet\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::execute::testing::{Fake, run};
    use crate::plan::testing::{plan, trial};
    use crate::records::Notice;
    use crate::sweep::costs;

    fn graph(dir: &Path) -> StageGraph {
        let trained = |seed| {
            trial(|config| {
                config.seed = seed;
                config.pretrain.training.steps = Some(10);
                config.sft.training.enabled = false;
                config.dpo.training.steps = Some(3);
                config.exam.enabled = false;
            })
        };
        plan(&[trained(1), trained(2)], dir)
    }

    #[test]
    fn equal_exams_are_made_once() {
        let of = |seed: u64, questions: usize| {
            trial(|config| {
                (config.seed, config.world.questions_per_subject) = (seed, questions);
                config.model.n_layers = seed as usize;
            })
        };
        let graph = plan(&[of(1, 20), of(2, 20), of(3, 20), of(1, 30)], Path::new("nowhere"));
        let by = Estimator::of(Target::of("h100", None).unwrap()).unwrap();
        let none = vec![None; graph.nodes.len()];
        let mut asked = vec![];
        let found = times_by(&graph, &none, &by, |config| {
            let found = prompts(config)?;
            asked.push(found.asked);
            Some(found)
        });
        assert!(asked.len() == 2 && asked[0] < asked[1], "{asked:?}");
        let exams = graph.nodes.iter().zip(&found).filter(|(node, _)| node.stage == Stage::Exam);
        let seconds: Vec<f64> = exams.map(|(_, time)| time.unwrap().seconds).collect();
        assert!(seconds.len() == 4 && seconds[..3].is_sorted() && seconds[0] < seconds[3], "{seconds:?}");
    }

    /// Positions and floating-point operations of the full steps of a stage.
    fn size(config: &TrialConfig, stage: TrainStage) -> (f64, f64) {
        let training = stage.training(config);
        let positions = (training.steps.unwrap() * stage.positions_of_step(config)) as f64;
        (positions, positions * config.cost(stage).per_token(training.seq_len))
    }

    #[test]
    fn times_and_prices_are_sums_over_stage_runs() {
        let dir = tempfile::tempdir().unwrap();
        let graph = graph(dir.path());
        let config = &graph.trials[0].trial.config;
        let none = vec![None; graph.nodes.len()];
        let by = Estimator::Throughput { flops: 1e9, runs: 2 };
        let totals = Totals::of(&graph, &times(&graph, &none, &by), &by, Some(3600.0));
        let names: Vec<&str> = totals.stages.iter().map(|line| line.stage.as_str()).collect();
        assert_eq!(names, ["pretrain", "dpo", "all"]);
        let seconds = [TrainStage::Pretrain, TrainStage::Dpo].map(|stage| 2.0 * size(config, stage).1 / 1e9);
        for (line, want) in totals.stages.iter().zip([seconds[0], seconds[1], seconds[0] + seconds[1]]) {
            assert!((line.seconds / want - 1.0).abs() < 1e-9, "{line:?}");
            assert!((line.price.unwrap() / want - 1.0).abs() < 1e-9, "{line:?}");
        }
        assert_eq!(totals.stages.iter().map(|line| line.runs).collect::<Vec<_>>(), [2, 2, 4]);
        assert!(
            totals.render().starts_with("time at the throughput of 2 earlier stage runs of this machine")
        );
    }

    #[test]
    fn a_branch_counts_for_the_throughput_with_its_own_steps() {
        let dir = tempfile::tempdir().unwrap();
        let pretrained = trial(|config| {
            (config.sft.training.enabled, config.dpo.training.enabled) = (false, false);
        });
        let graph = plan(&[pretrained], dir.path());
        run(&graph, &Fake::default());
        let trained = graph.nodes.iter().find(|node| node.stage.training().is_some()).unwrap();
        let mut manifest = Manifest::read(&trained.dir).unwrap().unwrap();
        (manifest.device, manifest.wall_seconds, manifest.results.flops) = ("cpu".into(), 2.0, 1000.0);
        let mut throughput = |notices: Vec<Notice>| {
            manifest.results.notices = notices;
            manifest.write(&trained.dir).unwrap();
            match Estimator::recorded(dir.path(), "cpu").unwrap() {
                Estimator::Throughput { flops, runs } => (flops, runs),
                other => panic!("{other:?}"),
            }
        };
        let reason =
            "steps, and their time, are those of its trunk, a longer training that begins the same".into();
        let of_trunk = Notice { place: "pretrain".into(), reason, count: 75, of: 100 };
        assert_eq!(throughput(vec![]), (500.0, 1));
        // A quarter of the operations is its own.
        assert_eq!(throughput(vec![of_trunk]), (125.0, 1));
    }

    #[test]
    fn stages_take_their_steps() {
        let dir = tempfile::tempdir().unwrap();
        let graph = graph(dir.path());
        let config = &graph.trials[0].trial.config;
        let processor =
            Processor { threads: 8, flop: 1e-9, moves: vec![(1.0, 1e-9)], exponential: 0.0, row: 0.0 };
        let none = vec![None; graph.nodes.len()];
        for by in [Estimator::of(Target::of("a100", None).unwrap()).unwrap(), Estimator::Processor(processor)]
        {
            let found = times(&graph, &none, &by);
            for (node, time) in graph.nodes.iter().zip(found) {
                let Some(stage) = node.stage.training() else {
                    assert_eq!(time, None);
                    continue;
                };
                let (time, training) = (time.unwrap(), stage.training(config));
                let step = time.step.unwrap().total();
                assert!((time.seconds / (training.steps.unwrap() as f64 * step) - 1.0).abs() < 1e-9);
                let positions = size(config, stage).0 / training.steps.unwrap() as f64;
                assert!((time.tokens_per_second.unwrap() * step / positions - 1.0).abs() < 1e-9);
                // No more threads than lanes: the rest of the CPU is free for others.
                let share = match by {
                    Estimator::Processor(_) => training.lanes as f64 / 8.0,
                    _ => 1.0,
                };
                assert_eq!(time.device_seconds, time.seconds * share);
            }
        }
    }

    #[test]
    fn a_gpu_computes_in_the_precision_of_each_trial_unless_one_is_given() {
        let on = |device, precision| {
            trial(|config| (config.device, config.precision) = (device, precision)).config
        };
        let gpu = Device::Cuda(None);
        let trials = [on(Device::Cpu, Precision::F32), on(gpu, Precision::F32), on(gpu, Precision::F16)];
        let of = |given| trials.each_ref().map(|config| precision_of(config, given));
        assert_eq!(of(None), [Precision::Bf16, Precision::F32, Precision::F16]);
        assert_eq!(of(Some(Precision::Tf32)), [Precision::Tf32; 3]);
        let mb = |target| trials.each_ref().map(|config| memory_on(target, config));
        let [cpu, single, half] = trials.each_ref();
        let in_single = gpu_memory_mb(single, Precision::F32);
        assert_eq!(mb(None), [memory_mb(cpu), in_single, gpu_memory_mb(half, Precision::F16)]);
        assert_eq!(mb(Some(Target::of("h100", Some(Precision::F32)).unwrap())), [in_single; 3]);
        assert_eq!(mb(Some(Target::Processor)), [memory_mb(cpu); 3]);

        let dir = tempfile::tempdir().unwrap();
        let two = [Precision::F16, Precision::F32]
            .map(|precision| trial(|config| (config.device, config.precision) = (gpu, precision)));
        let graph = plan(&two, dir.path());
        let by = |given| Estimator::of(Target::of("3090", given).unwrap()).unwrap().describe(&graph);
        assert_eq!(by(None), "on one 3090 in f16 and f32, by a roofline");
        assert_eq!(by(Some(Precision::Bf16)), "on one 3090 in bf16, by a roofline");
    }

    #[test]
    fn trials_that_do_not_fit_a_gpu_are_named() {
        let trials = [trial(|_| ()), trial(|config| config.seed = 2), trial(|config| config.seed = 3)];
        let rows = |mb: [f64; 3]| {
            let mut rows = costs(&trials, |index| format!("t{index}"), |_, _| None, |_| 0.0);
            rows.iter_mut().zip(mb).for_each(|(row, mb)| row.memory_mb = mb);
            rows
        };
        let gpu = Target::of("4090", None).unwrap();
        assert_eq!(gpu.too_small(&rows([1.0, 24_576.0, 9.0])), None);
        assert_eq!(Target::Processor.too_small(&rows([1e6; 3])), None);
        let advice = "smaller models and recompute = \"blocks\" take less";
        let one =
            "1 of 3 trials needs more memory than the 24,576 MiB of a 4090: trial t1 takes about 24,577 MiB";
        assert_eq!(gpu.too_small(&rows([1.0, 24_577.0, 9.0])), Some(format!("{one}; {advice}")));
        let two =
            "2 of 3 trials need more memory than the 24,576 MiB of a 4090: trial t2 takes about 99,999 MiB";
        assert_eq!(gpu.too_small(&rows([30_000.0, 5.0, 99_999.0])), Some(format!("{two}; {advice}")));
    }

    #[test]
    fn what_is_not_known_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let by_data = trial(|config| (config.sft.training.enabled, config.exam.enabled) = (false, false));
        let graph = plan(&[by_data], dir.path());
        let by = Estimator::of(Target::of("h100", Some(Precision::F32)).unwrap()).unwrap();
        let none = vec![None; graph.nodes.len()];
        let totals = Totals::of(&graph, &times(&graph, &none, &by), &by, None);
        let text = totals.render();
        assert!(text.contains("on one h100 in f32") && text.contains("? and + leave out"), "{text}");
        let problem = |device, precision| Target::of(device, precision).unwrap_err().to_string();
        assert_eq!(
            problem("v100", None),
            "--device is \"v100\", expected one of h100, h200, a100, 4090, 3090, cpu"
        );
        assert_eq!(
            problem("cpu", Some(Precision::Bf16)),
            "--precision is bf16, expected f32 with --device cpu"
        );
    }
}
