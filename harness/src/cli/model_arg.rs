//! Which model a verb is about: a folder, or a stage run by the name that is shown.

use anyhow::{Result, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

/// A model by its folder or its name.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// A model folder, or a stage run: its folder, or its name as it is shown, such as sft-cedd4909
    model: PathBuf,
    /// Folder of stage runs, where names are looked up
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

impl ModelArg {
    /// The folder of the model's files.
    ///
    /// # Errors
    /// Where it is no folder and the beginning of no stage run's name, of several, or of one without a model.
    pub fn folder(&self) -> Result<PathBuf> {
        let Self { model, runs } = self;
        if model.exists() {
            let inner = model.join("model");
            return Ok(if inner.join("config.json").is_file() { inner } else { model.clone() });
        }
        let name = model.to_string_lossy();
        let found = named(runs, &name);
        match found.as_slice() {
            [only] if only.join("model/config.json").is_file() => Ok(only.join("model")),
            [only] => {
                bail!("{}: holds no model (yet); expected a finished stage run of a model", only.display())
            }
            [] => bail!(
                "{name}: neither a folder nor a stage run in {}; `mindscale status` names them, --runs says where they are",
                runs.display()
            ),
            several => {
                let names: Vec<_> = several.iter().filter_map(|run| run.file_name()).collect();
                bail!(
                    "{name}: begins {} names in {}: {names:?}; give more of it",
                    several.len(),
                    runs.display()
                )
            }
        }
    }
}

/// The stage runs whose name begins so, in order.
fn named(runs: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let begins = |run: &PathBuf| {
        let name = run.file_name().and_then(|name| name.to_str());
        run.is_dir() && name.is_some_and(|name| !beginning.is_empty() && name.starts_with(beginning))
    };
    let mut found: Vec<PathBuf> = entries.filter(begins).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn models_are_found_by_folder_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        for run in ["sft-cedd4909-1", "sft-cedd4909-2", "sft-0f", "data-11"] {
            fs::create_dir_all(runs.join(run)).unwrap();
        }
        for run in ["sft-cedd4909-1", "sft-0f"] {
            fs::create_dir(runs.join(run).join("model")).unwrap();
            fs::write(runs.join(run).join("model/config.json"), "{}").unwrap();
        }
        let folder = |model: &Path| ModelArg { model: model.into(), runs: runs.clone() }.folder();
        let inner = runs.join("sft-0f/model");
        assert_eq!(folder(&runs.join("sft-0f")).unwrap(), inner);
        assert_eq!(folder(&inner).unwrap(), inner);
        assert_eq!(folder(Path::new("sft-0f")).unwrap(), inner);
        assert_eq!(folder(Path::new("sft-0")).unwrap(), inner);
        for (name, problem) in [
            ("sft-cedd4909", "sft-cedd4909: begins 2 names in "),
            ("data-1", "holds no model (yet)"),
            ("dpo-1", "dpo-1: neither a folder nor a stage run in "),
            ("", "neither a folder nor a stage run"),
        ] {
            let error = folder(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains(problem), "{name}: {error}");
        }
    }
}
