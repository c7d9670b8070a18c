//! The verb `plan`.

use super::{SweepArgs, note, say};
use crate::config::TrainStage;
use crate::exam::Questions;
use crate::plan::extents::extents;
use crate::plan::{StageGraph, StageNode, State, explain, short_id};
use crate::run::Layers;
use crate::sweep::{Detectable, Extent};
use crate::track::counted;
use anyhow::Result;

/// What training costs where stage runs take the first steps of others; `None` where none does.
fn saved(graph: &StageGraph, extents: &[Option<Extent>]) -> Option<String> {
    let (mut whole, mut taken, mut branches) = (0.0, 0.0, 0);
    for (node, extent) in graph.nodes.iter().zip(extents).filter(|(node, _)| node.state.is_open()) {
        let share = node.trunk.map_or(0.0, |trunk| trunk.share);
        let flops = extent.and_then(|extent| extent.flops).unwrap_or(node.weight / (1.0 - share));
        whole += flops;
        taken += flops * (1.0 - share);
        branches += usize::from(node.trunk.is_some());
    }
    let branches = (branches > 0).then(|| counted(branches, "stage run"))?;
    Some(format!(
        "{branches} begin where a longer one has been: training takes about {taken:.2e} of {whole:.2e} FLOPs, those of trials \
         that are trained apart"
    ))
}

/// Shows the trials and the stage graph.
pub fn plan(args: &SweepArgs, explained: bool) -> Result<bool> {
    let work = args.read(Layers::Given)?;
    if let Some(other) = work.other_layers() {
        note(&format!(
            "{other}; this is the plan {}",
            if args.with.options().has_layers() { "with those given" } else { "without" }
        ));
    }
    let graph = work.graph()?;
    graph.check()?;
    let extents = extents(&graph);
    let known = |trial: usize, stage: TrainStage| {
        let mut stages = graph.trials[trial].stages.iter();
        stages.find(|&&node| graph.nodes[node].stage == stage.into()).and_then(|&node| extents[node])
    };
    let name = |trial: usize| short_id(graph.trials[trial].uuid);
    let rows = crate::sweep::plan(&work.trials, name, known);
    let examined = work.trials.iter().find(|trial| trial.config.exam.enabled);
    let questions = examined.and_then(|trial| Some(Questions::of(&trial.config).ok()?.count()));
    let settings = graph.trials.iter().map(|planned| (planned.setting, planned.trial.config.seed));
    let detectable = Detectable::of(settings, questions);
    let behind = |node: &StageNode| {
        let trunk = node.trunk.map(|trunk| (graph.nodes[trunk.node].short(), trunk.share));
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
    };
    if args.with.json {
        let stages = graph.nodes.iter().map(|n| {
            let trunk = n.trunk.map(|trunk| graph.nodes[trunk.node].short());
            let share = n.trunk.map_or(0.0, |trunk| trunk.share);
            serde_json::json!({
                "stage": n.short(), "trials": n.trials.len(), "state": state(n), "dir": n.dir,
                "trunk": trunk, "shared_steps": share,
            })
        });
        say(serde_json::json!({
            "trials": rows, "stages": stages.collect::<Vec<_>>(), "detectable": detectable,
        }))?;
        return Ok(true);
    }
    say(crate::sweep::render_table(&rows))?;
    if let Some(detectable) = detectable {
        say(format!("{}\n", detectable.sentence()))?;
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let why = if explained && node.state.is_open() { explain(&graph, index, &work.runs) } else { None };
        let why = why.map_or(String::new(), |why| format!("; {why}"));
        say(format!(
            "{:<24} for {}: {}{}{why}",
            node.short(),
            counted(node.trials.len(), "trial"),
            state(node),
            behind(node)
        ))?;
    }
    if let Some(saved) = saved(&graph, &extents) {
        say(format!("\n{saved}"))?;
    }
    Ok(true)
}
