//! The verb `gc`: removes stage runs that no sweep and no record of a run refers to.

use super::{ReadArgs, note, say};
use crate::plan::StageGraph;
use crate::run::{Layers, Work};
use crate::runs::gc::{Garbage, find, finish_removals, names, remove};
use crate::runs::recorded::{RECORD, Record, ResultsOwner};
use crate::track::{counted, size, table};
use anyhow::Result;
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Arguments of `gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Sweep and experiment files whose stage runs are kept
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    with: ReadArgs,
    /// Remove the listed stage runs
    #[arg(long)]
    delete: bool,
}

/// Lists, and with `--delete` removes, stage runs that neither a file nor a record refers to.
pub fn gc(args: &GcArgs) -> Result<bool> {
    let with = args.with.options();
    let runs = with.runs();
    // Every record and file is read successfully before anything is removed.
    let records = Record::all(&with.results)?;
    let mut kept = BTreeSet::new();
    for file in &args.files {
        let planned =
            Work::read(file, &with, Layers::Given).and_then(|work| StageGraph::plan(&work.trials, &runs));
        match planned {
            Ok(graph) => kept.extend(graph.nodes.iter().map(|node| node.uuid)),
            Err(error)
                if records.iter().any(|(out, record)| record.owner(out, file) == ResultsOwner::Same) =>
            {
                note(&format!("{error:#}; of {} the recorded runs count", file.display()));
            }
            Err(error) => return Err(error),
        }
    }
    let kept_by_records = kept_by(&records, &mut kept, &runs);
    let garbage = find(&runs, &kept)?;
    if args.delete {
        finish_removals(&runs)?;
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
        let kept: BTreeMap<_, _> = kept_by_records.into_iter().collect();
        say(serde_json::json!({
            "unused": garbage, "removed": removed, "bytes": bytes, "kept_by_records": kept,
        }))?;
        return Ok(true);
    }
    if !garbage.is_empty() {
        let rows: Vec<_> = garbage.iter().map(row).collect();
        say(table(&["folder", "size", "status", "ended", ""], &rows))?;
    }
    let what = format!("{}, {}", counted(removed.len(), "stage run"), size(bytes));
    say(match (args.delete, removed.is_empty()) {
        (true, _) => format!("removed {what}"),
        (false, true) => format!("{}: nothing to remove", runs.display()),
        (false, false) => format!("{what}, can be removed with --delete"),
    })?;
    for (out, count) in kept_by_records {
        say(format!(
            "kept: {} that only {out}/{RECORD} refers to; remove {out} to release them",
            counted(count, "stage run")
        ))?;
    }
    Ok(true)
}

/// Adds the stage runs of records to `kept`; returns each folder of results with the number of existing stage runs that
/// only it keeps.
fn kept_by(records: &[(PathBuf, Record)], kept: &mut BTreeSet<Uuid>, runs: &Path) -> Vec<(String, usize)> {
    let there: BTreeSet<Uuid> = names(runs).into_iter().collect();
    let mut kept_by = Vec::new();
    for (out, record) in records {
        let new = record.stage_runs().into_iter().filter(|name| kept.insert(*name) && there.contains(name));
        kept_by.push((out.display().to_string(), new.count()));
    }
    kept_by.retain(|(_, count)| *count > 0);
    kept_by
}

fn row(item: &Garbage) -> Vec<String> {
    let status = item.status.map_or("unknown".into(), |status| format!("{status:?}").to_lowercase());
    let ended = item.ended.as_deref().unwrap_or("-");
    let stays = item.stays.as_ref().map_or(String::new(), |why| format!("stays: {why}"));
    vec![item.dir.display().to_string(), size(item.bytes), status, ended.into(), stays]
}
