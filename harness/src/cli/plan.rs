//! The verb `plan`.

use super::{SweepArgs, note, say};
use crate::config::TrainStage;
use crate::exam::Questions;
use crate::plan::extents::extents;
use crate::plan::{StageNode, State, explain, short_id};
use crate::run::Layers;
use crate::sweep::Detectable;
use crate::track::counted;
use anyhow::Result;

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
            serde_json::json!({ "stage": n.short(), "trials": n.trials.len(), "state": state(n), "dir": n.dir })
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
            "{:<24} for {}: {}{why}",
            node.short(),
            counted(node.trials.len(), "trial"),
            state(node)
        ))?;
    }
    Ok(true)
}
