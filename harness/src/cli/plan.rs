//! The verb `plan`: shows the trials, their stage runs and their cost.

use super::{OnlyArg, SweepArgs, note, say};
use crate::config::{Stage, TrainStage, TrialConfig, get, idle};
use crate::plan::extents::extents;
use crate::plan::outline::flops;
use crate::plan::time::{DEVICES, Estimator, Target, Totals, memory_on, times};
use crate::plan::{PlannedTrial, StageGraph, StageNode, State, explain};
use crate::records::short_id;
use crate::run::{Layers, Work};
use crate::sweep::{Extent, Trial, Tuning};
use crate::track::counted;
use anyhow::{Result, ensure};
use clap::Args;
use model::Precision;
use serde_json::{Value, json};

/// Device and price of the forecast.
#[derive(Debug, Args)]
pub struct OnArgs {
    /// Forecast times for a GPU by its data sheet, or for this machine's processor, which is measured for a second or
    /// two; unset: by the pace of this machine's earlier stage runs, or, before the first one on the CPU, as with cpu
    #[arg(long, value_name = "NAME", value_parser = DEVICES)]
    device: Option<String>,
    /// Number format of the GPU's computations: f32, tf32, bf16 or f16; unset: that of each trial with device = "cuda",
    /// and bf16 for others
    #[arg(long, requires = "device")]
    precision: Option<Precision>,
    /// Price per hour of the device, in any currency
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price_per_hour: Option<f64>,
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    price.ok_or_else(|| "expected a number of at least 0".into())
}

impl OnArgs {
    /// Returns the device of the forecast, if one is named.
    fn target(&self) -> Result<Option<Target>> {
        self.device.as_deref().map(|device| Target::of(device, self.precision)).transpose()
    }

    /// Returns the pace by which times are forecast, if there is one.
    fn estimator(
        &self,
        target: Option<Target>,
        work: &Work,
        graph: &StageGraph,
    ) -> Result<Option<Estimator>> {
        match target {
            _ if graph.is_finished() => Ok(None),
            Some(target) => Estimator::of(target).map(Some),
            None => {
                let found = match Estimator::recorded(&work.runs, graph.device()) {
                    None => Estimator::measured(graph.device())?,
                    recorded => recorded,
                };
                let has_speed = found.is_some() || self.price_per_hour.is_none();
                ensure!(
                    has_speed,
                    "--price-per-hour needs --device: no stage run of this machine gives its speed"
                );
                Ok(found)
            }
        }
    }
}

/// Describes the training cost saved by shared trunks; `None` if there are none.
fn saved(graph: &StageGraph, extents: &[Option<Extent>]) -> Option<String> {
    let (mut whole, mut taken, mut branches) = (0.0, 0.0, 0);
    for (node, extent) in graph.nodes.iter().zip(extents).filter(|(node, _)| node.state.is_left()) {
        let (of_node, taken_here) = flops(node, *extent);
        (whole, taken) = (whole + of_node, taken + taken_here);
        branches += usize::from(node.trunk.is_some());
    }
    let start = if branches == 1 { "starts" } else { "start" };
    let branches = (branches > 0).then(|| counted(branches, "stage run"))?;
    Some(format!(
        "{branches} {start} from a checkpoint of a longer one: training takes about {taken:.2e} FLOPs instead of {whole:.2e}"
    ))
}

/// Describes what tuning does and costs; `None` if nothing is tuned.
fn tuning(graph: &StageGraph, extents: &[Option<Extent>]) -> Option<String> {
    let first = &graph.tunings.first()?.tuning;
    let (mut of_tuning, mut all) = (0.0, 0.0);
    for (node, extent) in graph.nodes.iter().zip(extents) {
        if node.stage.training().is_some() && node.state != State::Unneeded {
            let (_, taken) = flops(node, *extent);
            let is_of_tuning = node.trials.iter().all(|&trial| graph.trials[trial].trial.is_candidate());
            all += taken;
            of_tuning += if is_of_tuning { taken } else { 0.0 };
        }
    }
    let each = match graph.tunings.len() {
        1 => String::new(),
        several => format!("for each of {several} settings "),
    };
    let rule = |tuning: &Tuning| {
        let Tuning { key, stage, rungs, seeds, .. } = tuning;
        let how = match rungs[..] {
            [values] => format!("a grid of {values} values"),
            _ => {
                let rungs: Vec<String> = rungs.iter().map(ToString::to_string).collect();
                format!("successive halving, rungs of {} values", rungs.join(", "))
            }
        };
        let seeds = counted(seeds.len(), "seed");
        (key.clone(), format!("by the validation loss of {}: {how}, {seeds}", stage.name()))
    };
    // Sweeps of one experiment may have different tuning rules.
    let (key, rule) = match rule(first) {
        one if graph.tunings.iter().all(|planned| rule(&planned.tuning) == one) => one,
        _ => ("a key".into(), "by the rule of its sweep".into()),
    };
    let trials = graph.tunings.iter().map(|planned| planned.tuning.trials()).sum();
    let mut text = format!(
        "{key} is tuned {each}{rule}; {}, about {of_tuning:.2e} FLOPs, {:.0} % of all training\n",
        counted(trials, "tuning trial"),
        100.0 * of_tuning / if all > 0.0 { all } else { 1.0 },
    );
    for planned in &graph.tunings {
        text += &format!("  {}\n", planned.sentence());
    }
    Some(text)
}

/// Switches that are on and have no effect in any trial, each as `KEY = true has no effect, as REASON`.
fn idle_switches(trials: &[Trial]) -> Vec<String> {
    let Some((first, others)) = trials.split_first() else { return vec![] };
    let (set, default) = (json!(*first.config), json!(TrialConfig::default()));
    let is_on = |tree: &Value, key: &str| get(tree, key) == Some(&json!(true));
    let mut found = idle(&first.config);
    found.retain(|idle| is_on(&set, &idle.key) && !is_on(&default, &idle.key) && !idle.is_of_monitoring());
    for trial in others {
        if found.is_empty() {
            break;
        }
        let here = idle(&trial.config);
        found.retain(|idle| here.iter().any(|other| other.key == idle.key));
    }
    found.iter().map(|idle| format!("{} = true has no effect, as {}", idle.key, idle.why)).collect()
}

/// A line of the stage graph: one stage run, or several in the same state that have not started.
struct Line {
    stage: Stage,
    trials: usize,
    text: String,
    /// Names of the stage runs.
    of: Vec<String>,
}

impl Line {
    fn is_like(&self, other: &Self) -> bool {
        (self.stage, self.trials, &self.text) == (other.stage, other.trials, &other.text)
    }

    fn render(&self) -> String {
        let Self { stage, trials, text, of } = self;
        let (name, each) = match &of[..] {
            [one] => (one.clone(), ""),
            several => (format!("{stage}, {} of them", several.len()), " each"),
        };
        format!("{name:<24} for {}{each}: {text}", counted(*trials, "trial"))
    }
}

/// Prints the trials and the stage graph.
pub fn plan(args: &SweepArgs, only: &OnlyArg, explained: bool, on: &OnArgs) -> Result<bool> {
    let work = args.read_only(Layers::Given, only)?;
    if let Some(other) = work.other_layers() {
        note(&format!(
            "{other}; this is the plan {}",
            if args.with.options().has_layers() { "with the layers given now" } else { "without them" }
        ));
    }
    let graph = work.chosen(work.graph()?)?;
    graph.check()?;
    let extents = extents(&graph);
    let study: Vec<&PlannedTrial> = graph.study().collect();
    let trials: Vec<Trial> = study.iter().map(|planned| planned.trial.clone()).collect();
    idle_switches(&trials).iter().for_each(|text| note(text));
    let known = |trial: usize, stage: TrainStage| {
        let mut stages = study[trial].stages.iter();
        stages.find(|&&node| graph.nodes[node].stage == stage.into()).and_then(|&node| extents[node])
    };
    let name = |trial: usize| short_id(study[trial].uuid);
    let target = on.target()?;
    let rows = crate::sweep::costs(&trials, name, known, |config| memory_on(target, config));
    target.and_then(|target| target.too_small(&rows)).iter().for_each(|text| note(text));
    let by = on.estimator(target, &work, &graph)?;
    let times = by.as_ref().map(|by| times(&graph, &extents, by)).unwrap_or_default();
    let totals = by.as_ref().map(|by| Totals::of(&graph, &times, by, on.price_per_hour));
    let detectable = work.detectable(&graph);
    // A stage run that waits for a tuned value gets another name once the value is chosen.
    let shown = |node: &StageNode| match &node.state {
        State::Held if node.trials.iter().any(|&trial| !graph.trials[trial].trial.is_candidate()) => {
            node.stage.to_string()
        }
        _ => node.short(),
    };
    let trunk_note = |node: &StageNode| {
        let trunk = node.trunk.map(|trunk| (shown(&graph.nodes[trunk.node]), trunk.share));
        trunk.map_or(String::new(), |(trunk, share)| {
            format!(", its first {:.0} % of steps by {trunk}", 100.0 * share)
        })
    };
    let state = |node: &StageNode| match &node.state {
        State::Done => "done".to_string(),
        State::Unneeded => "not needed".into(),
        State::Fresh => "to run".into(),
        State::Unfinished => "to resume".into(),
        State::Again(reason) => format!("to run again: {reason}"),
        State::Running(owner) => format!("running: {owner}"),
        State::Held if node.chance < 1.0 => {
            format!("waits to see whether its value is among the best {:.0} %", 100.0 * node.chance)
        }
        State::Held => "waits for a value to be tuned".into(),
        State::Lost(reason) => format!("lost: {reason}"),
    };
    if args.with.json {
        let stages = graph.nodes.iter().enumerate().map(|(index, n)| {
            let trunk = n.trunk.map(|trunk| shown(&graph.nodes[trunk.node]));
            let share = n.trunk.map_or(0.0, |trunk| trunk.share);
            json!({
                "stage": shown(n), "trials": n.trials.len(), "state": state(n), "dir": n.dir,
                "trunk": trunk, "shared_steps": share, "time": times.get(index).copied().flatten(),
            })
        });
        say(json!({
            "trials": rows, "stages": stages.collect::<Vec<_>>(), "detectable": detectable,
            "time": totals, "tuning": tuning(&graph, &extents),
        }))?;
        return Ok(true);
    }
    say(crate::sweep::render_table(&rows))?;
    if let Some(detectable) = detectable {
        say(format!("{}\n", detectable.sentence()))?;
    }
    if let Some(tuning) = tuning(&graph, &extents) {
        say(tuning)?;
    }
    let mut lines: Vec<Line> = vec![];
    for (index, node) in graph.nodes.iter().enumerate() {
        let why = if explained && node.state.is_open() { explain(&graph, index, &work.runs) } else { None };
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        let text = format!("{}{}{why}", state(node), trunk_note(node));
        let stands_alone = explained || !matches!(node.state, State::Fresh | State::Held);
        let line = Line { stage: node.stage, trials: node.trials.len(), text, of: vec![shown(node)] };
        match lines.iter_mut().find(|other| !stands_alone && other.is_like(&line)) {
            Some(like) => like.of.extend(line.of),
            None => lines.push(line),
        }
    }
    lines.iter().try_for_each(|line| say(line.render()))?;
    if let Some(saved) = saved(&graph, &extents) {
        say(format!("\n{saved}"))?;
    }
    if let Some(text) = totals.map(|totals| totals.render()).filter(|text| !text.is_empty()) {
        say(format!("\n{}", text.trim_end()))?;
    }
    Ok(true)
}
