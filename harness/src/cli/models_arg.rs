//! The models of a verb that takes several.

use super::model_arg::{Choice, ModelArg, is_sweep_file};
use crate::models::ModelFiles;
use anyhow::{Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Several models, each with an optional name.
#[derive(Debug, Args)]
pub struct ModelsArg {
    /// Model folders, or stage runs by folder or short name; NAME=MODEL renames one. A sweep or experiment file stands
    /// for the last model of each of its trials, or of the one that --trial or --best chooses
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    #[command(flatten)]
    choice: Choice,
    /// Folder of the tokenizer, if a model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Folder of stage runs, in which names are looked up; unset: runs, or that of a file's last run
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Folder of results, in which a file's last run is looked up and which the page of `serve` shows
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
}

impl ModelsArg {
    /// Returns the models in the order of the arguments.
    ///
    /// # Errors
    /// If an argument is not a model, or gives one name to several models, or if a trial is chosen but no argument is a
    /// sweep or experiment file.
    pub fn files(&self) -> Result<Vec<ModelFiles>> {
        let named = self.models.iter().map(|model| split_name(model)).collect::<Result<Vec<_>>>()?;
        ensure!(
            !self.choice.is_set() || named.iter().any(|(_, model)| is_sweep_file(Path::new(model))),
            "--trial, --best and --stage choose from a sweep or experiment file, but none is given: found no such file among {}",
            self.models.join(", ")
        );
        let mut all = vec![];
        for (name, model) in named {
            all.extend(self.resolve(name, model)?);
        }
        Ok(all)
    }

    /// Returns the models that an argument selects, renamed if it has a name. Trials are chosen from files only.
    fn resolve(&self, name: Option<&str>, model: &str) -> Result<Vec<ModelFiles>> {
        let is_file = is_sweep_file(Path::new(model));
        let choice = if is_file { self.choice.clone() } else { Choice::default() };
        let (runs, results) = (self.runs.clone(), self.results.clone());
        let found = ModelArg::named(model.into(), choice, runs, results).all()?;
        let count = found.len();
        ensure!(
            name.is_none() || count == 1,
            "{model}: stands for {count} models, which cannot share one name"
        );
        let files = found.into_iter().map(|found| ModelFiles {
            name: name.map(Into::into),
            dir: found.dir,
            source: found.source,
            tokenizer: self.tokenizer.clone(),
        });
        Ok(files.collect())
    }
}

/// Splits an argument NAME=MODEL; without NAME=, or if it is an existing path, it is a model.
fn split_name(model: &str) -> Result<(Option<&str>, &str)> {
    match model.split_once('=') {
        Some((name, rest)) if !Path::new(model).exists() && !name.contains('/') => {
            ensure!(!name.is_empty(), "{model}: expected a name before =");
            Ok((Some(name), rest))
        }
        _ => Ok((None, model)),
    }
}
