//! The model that a verb uses: a folder, a stage run by its short name, or a trial of a sweep.

use super::note;
use crate::config::Stage;
use crate::plan::{StageGraph, State};
use crate::records::{Status, TrialRecord, short_id};
use crate::run::{Layers, ReadOptions, Work};
use crate::status::records::collect;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};

/// Criterion for the best trial of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Best {
    /// Lowest validation loss after pretraining
    ValLoss,
    /// Fewest validation bits per byte after pretraining
    ValBpb,
    /// Highest accuracy in its last exam
    ExamAccuracy,
}

impl Best {
    /// Returns the trial's value; lower is better.
    fn of(self, trial: &TrialRecord) -> Option<f64> {
        match self {
            Best::ValLoss => trial.val_loss,
            Best::ValBpb => trial.val_bpb,
            Best::ExamAccuracy => trial.last_exam().map(|exam| -exam.tally.accuracy()),
        }
    }
}

/// Selects a model of a sweep or experiment file.
#[derive(Debug, Clone, Default, Args)]
pub struct Choice {
    /// Trial of the file, by its short name, such as 76f0bbd6
    #[arg(long, value_name = "ID", conflicts_with = "best")]
    trial: Option<String>,
    /// Trial of the file that is best by this metric
    #[arg(long, value_name = "METRIC", value_enum)]
    best: Option<Best>,
    /// Stage of the trial whose model is used; unset: the last finished one
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    stage: Option<Stage>,
}

impl Choice {
    /// Returns whether any of its options is given.
    pub fn is_set(&self) -> bool {
        self.trial.is_some() || self.best.is_some() || self.stage.is_some()
    }
}

/// A model given by its folder, its name, or the trial that trained it.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// A model folder; a stage run, by its folder or short name, such as sft-cedd4909; or a sweep or experiment file,
    /// with --trial or --best if it has several trials
    model: PathBuf,
    #[command(flatten)]
    choice: Choice,
    /// Folder of stage runs, in which names are looked up; unset: runs, or that of the file's last run
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Folder of results, in which a file's last run is looked up
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

fn stage(name: &str) -> Result<Stage, String> {
    let found = Stage::named(name).filter(|stage| stage.training().is_some());
    found.ok_or_else(|| "expected a stage that trains, such as sft".into())
}

impl ModelArg {
    /// Returns the folder of the model's files.
    ///
    /// # Errors
    /// If the argument is neither a folder nor the prefix of exactly one stage run's name, or if there is no model.
    pub fn folder(&self) -> Result<PathBuf> {
        let model = &self.model;
        if is_sweep_file(&self.model) {
            return self.of_file();
        }
        if self.choice.is_set() {
            bail!("{}: --trial, --best and --stage choose from a sweep or experiment file", model.display());
        }
        let runs = &self.runs.clone().unwrap_or_else(|| "runs".into());
        if model.exists() {
            let inner = model.join("model");
            return Ok(if inner.join("config.json").is_file() { inner } else { model.clone() });
        }
        let found = stage_run_named(runs, &model.to_string_lossy())?;
        if !found.join("model/config.json").is_file() {
            bail!("{}: holds no model (yet); expected a finished stage run of a model", found.display());
        }
        Ok(found.join("model"))
    }
}

impl ModelArg {
    /// Returns the model folder of the chosen trial of a file.
    fn of_file(&self) -> Result<PathBuf> {
        let (records, graph) = self.trials()?;
        let chosen = self.choose(&records).with_context(|| self.model.display().to_string())?;
        let dir = self.model_of(chosen, &graph)?;
        note(&format!("trial {}: {}", short_id(chosen.trial), dir.display()));
        Ok(dir.join("model"))
    }

    /// Returns the trials of a file and the graph of their stage runs.
    fn trials(&self) -> Result<(Vec<TrialRecord>, StageGraph)> {
        let options = ReadOptions {
            runs: self.runs.clone(),
            results: self.results.clone(),
            note,
            ..ReadOptions::default()
        };
        let work = Work::read(&self.model, &options, Layers::Last)?;
        let graph = work.look()?(&work)?;
        Ok((collect(&graph)?, graph))
    }

    fn choose<'a>(&self, records: &'a [TrialRecord]) -> Result<&'a TrialRecord> {
        if let Some(best) = self.choice.best {
            let done = records.iter().filter(|trial| trial.status == Status::Done);
            let rated = done.filter_map(|trial| Some((best.of(trial)?, trial)));
            let first = rated.min_by(|a, b| a.0.total_cmp(&b.0));
            return first.map(|(_, trial)| trial).ok_or_else(|| anyhow!(no_metric(best, records)));
        }
        let beginning = self.choice.trial.clone().unwrap_or_default().to_lowercase().replace('-', "");
        let matches = |trial: &&TrialRecord| trial.trial.simple().to_string().starts_with(&beginning);
        let found: Vec<_> = records.iter().filter(matches).collect();
        match found.as_slice() {
            [only] => Ok(only),
            [] => bail!("no trial's name begins with {beginning}; `mindscale plan` lists them"),
            several => bail!(
                "{} trials match; choose one with --trial ID, as listed by `mindscale plan`, or with --best val_bpb",
                several.len()
            ),
        }
    }

    fn model_of(&self, trial: &TrialRecord, graph: &StageGraph) -> Result<PathBuf> {
        let planned = graph.trials.iter().find(|planned| planned.uuid == trial.trial);
        let stages = planned.map(|planned| planned.stages.as_slice()).unwrap_or_default();
        let nodes = stages.iter().rev().map(|&index| &graph.nodes[index]);
        let is_wanted =
            |stage: Stage| self.choice.stage.map_or(stage.training().is_some(), |wanted| stage == wanted);
        let mut wanted = nodes.filter(|node| is_wanted(node.stage) && node.state == State::Done);
        wanted.next().map(|node| node.dir.clone()).ok_or_else(|| {
            let stage = self.choice.stage.map_or("training", Stage::name);
            anyhow!("trial {}: no {stage} stage is finished; run the file first", short_id(trial.trial))
        })
    }
}

/// Returns the message for a metric that no finished trial has, with the metrics that some have.
fn no_metric(best: Best, records: &[TrialRecord]) -> String {
    let done: Vec<&TrialRecord> = records.iter().filter(|trial| trial.status == Status::Done).collect();
    if done.is_empty() {
        return "no trial has finished; run the file first".into();
    }
    let name = |best: &Best| best.to_possible_value().map_or(String::new(), |value| value.get_name().into());
    let there =
        Best::value_variants().iter().filter(|best| done.iter().any(|trial| best.of(trial).is_some()));
    let there = there.map(name).collect::<Vec<_>>().join(", ");
    let there = if there.is_empty() { "none of the others either".into() } else { there };
    format!("no finished trial has {}; there is {there}", name(&best))
}

/// A model that an argument selects.
pub struct Found {
    /// Folder of its files.
    pub dir: PathBuf,
    /// Where it was loaded from, for people.
    pub source: String,
}

impl ModelArg {
    /// Creates the argument from its parts.
    pub fn named(model: PathBuf, choice: Choice, runs: Option<PathBuf>, results: PathBuf) -> Self {
        Self { model, choice, runs, results }
    }

    /// Returns the model; for a file of which no trial is chosen, the models of all trials that have trained one. A
    /// model that several trials share is returned once.
    ///
    /// # Errors
    /// As [`Self::folder`], and if no trial has trained a model yet.
    pub fn all(&self) -> Result<Vec<Found>> {
        if !is_sweep_file(&self.model) || self.choice.trial.is_some() || self.choice.best.is_some() {
            let dir = self.folder()?;
            return Ok(vec![Found { source: dir.display().to_string(), dir }]);
        }
        let (records, graph) = self.trials()?;
        let mut found: Vec<Found> = vec![];
        for trial in &records {
            let Ok(dir) = self.model_of(trial, &graph).map(|dir| dir.join("model")) else { continue };
            if found.iter().all(|known| known.dir != dir) {
                let keys = trial.keys.iter().map(|(key, value)| format!("{key}={value}"));
                let parts: Vec<String> =
                    [dir.display().to_string(), keys.collect::<Vec<_>>().join(" ")].into();
                let source = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
                found.push(Found { dir, source });
            }
        }
        if found.is_empty() {
            bail!("{}: no trial has trained a model yet; run the file first", self.model.display());
        }
        Ok(found)
    }
}

/// Returns whether a model is given by a sweep or experiment file.
pub fn is_sweep_file(model: &Path) -> bool {
    model.is_file() && model.extension().is_some_and(|extension| extension == "toml")
}

/// Returns the folder of the one stage run in `runs` whose name has this prefix, such as `sft-cedd4909`.
///
/// # Errors
/// If there is none, or several.
pub fn stage_run_named(runs: &Path, beginning: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let begins = |run: &PathBuf| {
        let name = run.file_name().and_then(|name| name.to_str());
        run.is_dir() && name.is_some_and(|name| !beginning.is_empty() && name.starts_with(beginning))
    };
    let mut found: Vec<PathBuf> = entries.filter(begins).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => bail!(
            "{beginning}: neither a folder nor a stage run in {}; `mindscale status FILE` lists those of a sweep, --runs sets their folder",
            runs.display()
        ),
        several => {
            let names: Vec<_> = several.iter().filter_map(|run| run.file_name()).collect();
            bail!(
                "{beginning}: matches {} stage runs in {}: {names:?}; give a longer prefix",
                several.len(),
                runs.display()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_metric_that_nothing_has_is_reported_with_those_that_there_are() {
        let record = |status: &str, val_loss: Option<f64>| -> TrialRecord {
            let nil = uuid::Uuid::nil();
            let record = serde_json::json!({
                "trial": nil, "setting": nil, "sweeps": [], "seed": 1, "keys": [], "params": 1, "active_params": 1,
                "train_tokens": 1, "train_flops": 1.0, "val_loss": val_loss, "val_bpb": val_loss, "exams": [],
                "wall_seconds": 1.0, "peak_rss_mb": 1.0, "status": status, "reason": null, "stages": [], "config": "",
            });
            serde_json::from_value(record).unwrap()
        };
        let message = |records: &[TrialRecord]| no_metric(Best::ExamAccuracy, records);
        assert_eq!(
            message(&[record("done", Some(1.0)), record("failed", None)]),
            "no finished trial has exam_accuracy; there is val_loss, val_bpb"
        );
        assert_eq!(
            message(&[record("done", None)]),
            "no finished trial has exam_accuracy; there is none of the others either"
        );
        assert_eq!(message(&[record("failed", Some(1.0))]), "no trial has finished; run the file first");
    }

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
        let folder = |model: &Path| {
            let (model, runs) = (model.into(), Some(runs.clone()));
            ModelArg { model, choice: Choice::default(), runs, results: "results".into() }.folder()
        };
        let inner = runs.join("sft-0f/model");
        assert_eq!(folder(&runs.join("sft-0f")).unwrap(), inner);
        assert_eq!(folder(&inner).unwrap(), inner);
        assert_eq!(folder(Path::new("sft-0f")).unwrap(), inner);
        assert_eq!(folder(Path::new("sft-0")).unwrap(), inner);
        for (name, problem) in [
            ("sft-cedd4909", "sft-cedd4909: matches 2 stage runs in "),
            ("data-1", "holds no model (yet)"),
            ("dpo-1", "dpo-1: neither a folder nor a stage run in "),
            ("", "neither a folder nor a stage run"),
        ] {
            let error = folder(Path::new(name)).unwrap_err().to_string();
            assert!(error.contains(problem), "{name}: {error}");
        }
    }
}
