//! Experiment files: a question and the sweeps that answer it.

use crate::config::did_you_mean;
use crate::records::TrialRecord;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// An experiment: what is asked, and of which sweeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Title of the report.
    pub title: String,
    /// The question.
    pub question: String,
    /// Sweep files.
    pub sweeps: Vec<PathBuf>,
}

const KEYS: [&str; 3] = ["title", "question", "sweeps"];

impl Experiment {
    /// Reads a file that names `sweeps`; `None` for any other file.
    pub fn read_if_experiment(path: &Path) -> Result<Option<Self>> {
        let text = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let Ok(text) = String::from_utf8(text) else { bail!("{}: is not UTF-8", path.display()) };
        let Ok(table) = text.parse::<Table>() else { return Ok(None) };
        let Some(sweeps) = table.get("sweeps") else { return Ok(None) };
        if let Some(key) = table.keys().find(|k| !KEYS.contains(&k.as_str())) {
            bail!("{}: {key}: unknown key{}", path.display(), did_you_mean(key, KEYS));
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let sweeps: Option<Vec<PathBuf>> = sweeps
            .as_array()
            .and_then(|files| files.iter().map(|f| f.as_str().map(|f| folder.join(f))).collect());
        let sweeps = sweeps.filter(|s| !s.is_empty());
        let sweeps =
            sweeps.with_context(|| format!("{}: sweeps: expected a list of sweep files", path.display()))?;
        let text = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        Ok(Some(Self { title: text("title"), question: text("question"), sweeps }))
    }

    /// What is asked of a sweep that is run by itself.
    pub fn for_sweep(name: &str, trials: &[TrialRecord]) -> Self {
        let question = format!("How do the {} trials of {name} compare?", trials.len());
        Self { title: name.into(), question, sweeps: vec![] }
    }
}
