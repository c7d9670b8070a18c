//! Which models a verb is about that takes several.

use super::model_arg::{Choice, ModelArg};
use crate::models::ModelFiles;
use anyhow::{Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Several models, each under a name.
#[derive(Debug, Args)]
pub struct ModelsArg {
    /// Model folders, or stage runs by folder or name; NAME=MODEL gives one another name; a sweep or experiment file is
    /// the last model of each of its trials, or of the one that --trial or --best chooses
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    #[command(flatten)]
    choice: Choice,
    /// Folder of the tokenizer, where a model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Folder of stage runs, where names are looked up; unset: runs, or that of a file's last run
    #[arg(long, value_name = "DIR")]
    pub runs: Option<PathBuf>,
    /// Folder of results: of a file's last run, and what the page of `serve` shows
    #[arg(long, value_name = "DIR", default_value = "results")]
    pub results: PathBuf,
}

impl ModelsArg {
    /// The models, in the order of the arguments.
    ///
    /// # Errors
    /// Where an argument is no model, or names several at once.
    pub fn files(&self) -> Result<Vec<ModelFiles>> {
        let mut all = vec![];
        for model in &self.models {
            all.extend(self.meant(model)?);
        }
        Ok(all)
    }

    /// The models that an argument means.
    fn meant(&self, model: &str) -> Result<Vec<ModelFiles>> {
        let (name, model) = match model.split_once('=') {
            Some((name, rest)) if !Path::new(model).exists() && !name.contains('/') => {
                ensure!(!name.is_empty(), "{model}: expected a name before =");
                (Some(name.to_owned()), rest)
            }
            _ => (None, model),
        };
        let (choice, runs, results) = (self.choice.clone(), self.runs.clone(), self.results.clone());
        let found = ModelArg::named(model.into(), choice, runs, results).all()?;
        let count = found.len();
        ensure!(name.is_none() || count == 1, "{model}: is {count} models, which cannot have one name");
        let files = found.into_iter().map(|found| ModelFiles {
            name: name.clone(),
            dir: found.dir,
            source: found.source,
            tokenizer: self.tokenizer.clone(),
        });
        Ok(files.collect())
    }
}
