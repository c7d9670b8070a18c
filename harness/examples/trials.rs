//! Prints the trials of a sweep file and their stage runs:
//! `cargo run -p mindscale --example trials -- sweeps/smoke.toml`.
#![allow(clippy::print_stdout)] // printing is its purpose

use anyhow::{Context, Result};
use harness::config::Overrides;
use harness::plan::StageGraph;
use harness::sweep::Sweep;
use std::path::Path;

fn main() -> Result<()> {
    let file = std::env::args().nth(1).context("expected a sweep file")?;
    // All mistakes in the file are reported at once, each with its line.
    let sweep = Sweep::read(Path::new(&file), &Overrides::default())?;
    let trials = sweep.expand()?;
    // Trials share equal stages; those that were run before are found in the folder.
    let graph = StageGraph::plan(&trials, Path::new("runs"))?;
    for planned in &graph.trials {
        let weights = planned.trial.config.model.params();
        let stages = planned.stages.iter().map(|&stage| graph.nodes[stage].short());
        println!("{}, {weights} weights: {}", planned.label(), stages.collect::<Vec<_>>().join(" "));
    }
    println!("{} trials need {} stage runs", trials.len(), graph.nodes.len());
    Ok(())
}
