//! Why a stage run is to be run.

use super::{StageNode, short_name};
use crate::runs::manifest::{Manifest, RunStatus};
use std::path::{Path, PathBuf};

/// Why a stage run that is to be run is not there: the finished one of its stage that is most like it, and what differs.
pub fn explain(node: &StageNode, runs: &Path) -> Option<String> {
    let entries = std::fs::read_dir(runs).ok()?;
    let prefix = format!("{}-", node.stage());
    let mut dirs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)))
        .collect();
    dirs.sort();
    let finished = dirs.into_iter().filter_map(|dir| {
        let manifest = Manifest::read(&dir).ok()??;
        (manifest.status == RunStatus::Done && manifest.uuid != node.uuid).then_some(manifest)
    });
    let (manifest, differences) = finished
        .map(|manifest| {
            let mut differences = Vec::new();
            differ("", &manifest.facts, &node.facts.facts, &mut differences);
            (manifest, differences)
        })
        .min_by_key(|(_, differences)| differences.len())?;
    let other = short_name(manifest.stage, manifest.uuid);
    if differences.is_empty() {
        return Some(format!("{other} was made by a program whose results differ"));
    }
    let shown = differences.len().min(4);
    let more = match differences.len() - shown {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = differences[..shown].join(", ");
    Some(format!("unlike {other} in {shown}{more}"))
}

/// Collects the keys in which two values differ, as `training.lr (0.001, now 0.002)`.
fn differ(key: &str, old: &serde_json::Value, new: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value::Object;
    if old == new {
        return;
    }
    if let (Object(a), Object(b)) = (old, new) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            let null = serde_json::Value::Null;
            let side = |map: &serde_json::Map<_, _>| map.get(name).cloned().unwrap_or(null.clone());
            differ(&inner, &side(a), &side(b), found);
        }
        return;
    }
    let shown = |value: &serde_json::Value| match value {
        Object(_) | serde_json::Value::Array(_) => "other content".to_string(),
        other => other.to_string(),
    };
    found.push(match (shown(old), shown(new)) {
        (a, b) if a == b => key.to_string(),
        (a, b) => format!("{key} ({a}, now {b})"),
    });
}
