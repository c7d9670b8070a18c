//! The verb that clears away stage runs which no sweep refers to.

use super::sweeps::Work;
use super::{ReadArgs, say};
use crate::run::gc::{Garbage, find, finish_removals, remove};
use crate::run::graph::StageGraph;
use crate::run::limits::size;
use anyhow::Result;
use clap::Args;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// What `gc` is told.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// The sweep and experiment files whose stage runs are kept
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    with: ReadArgs,
    /// Remove what is listed
    #[arg(long)]
    delete: bool,
}

/// Lists, and with `--delete` removes, stage runs that none of the files refers to.
pub fn gc(args: &GcArgs) -> Result<bool> {
    let mut kept = BTreeSet::new();
    // Every file is understood before anything is removed.
    for file in &args.files {
        let work = Work::read(file, &args.with)?;
        let graph = StageGraph::plan(&work.trials, &args.with.runs)?;
        kept.extend(graph.nodes.iter().map(|node| node.uuid));
    }
    let garbage = find(&args.with.runs, &kept)?;
    if args.delete {
        finish_removals(&args.with.runs)?;
    }
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for item in garbage.iter().filter(|item| item.stays.is_none()) {
        if args.delete && !remove(item)? {
            continue;
        }
        bytes += item.bytes;
        removed.push(&item.dir);
    }
    if args.with.json {
        let removed = if args.delete { removed } else { vec![] };
        say(serde_json::json!({ "unused": garbage, "removed": removed, "bytes": bytes }))?;
        return Ok(true);
    }
    for item in &garbage {
        say(line(item))?;
    }
    let what = format!("{} stage runs, {}", removed.len(), size(bytes));
    say(match (args.delete, removed.is_empty()) {
        (true, _) => format!("removed {what}"),
        (false, true) => format!("{}: nothing to remove", args.with.runs.display()),
        (false, false) => format!("{what}, can be removed with --delete"),
    })?;
    Ok(true)
}

fn line(item: &Garbage) -> String {
    let status = item.status.map_or("unknown".into(), |status| format!("{status:?}").to_lowercase());
    let ended = item.ended.as_deref().unwrap_or("-");
    let stays = item.stays.as_ref().map_or(String::new(), |why| format!("  stays: {why}"));
    format!("{:>10}  {status:<8} {ended:<20} {}{stays}", size(item.bytes), item.dir.display())
}
