//! A sweep or an experiment, as it is to be run or as it was run last: its layers, trials and folders.

use crate::config::{ConfigErrors, Local, Overrides};
use crate::exam::Questions;
use crate::fsutil::{file_name_problem, hex, read_text, shell_word};
use crate::plan::{StageGraph, missing};
use crate::report::{Experiment, Origin, choose};
use crate::runs::manifest::Program;
use crate::runs::recorded::{self, About, Record, RecordedRun, ResultsOwner};
use crate::status::records::collect;
use crate::sweep::{Detectable, Sweep, Trial};
use anyhow::{Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The default folder of stage runs.
const RUNS: &str = "runs";

/// The default folder of results.
const RESULTS: &str = "results";

/// Options for reading a file.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Folder of stage runs; `None` means that of the last run, or `runs`.
    pub runs: Option<PathBuf>,
    /// Folder of results; each sweep and experiment has a subfolder of its name.
    pub results: PathBuf,
    /// Keys that override the sweep file, such as `pretrain.lr=1e-3`.
    pub set: Vec<String>,
    /// Name of the preset to start from.
    pub preset: Option<String>,
    /// The condition that selects trials; `None` selects all.
    pub only: Option<String>,
    /// Receives messages for the user in addition to the outcome.
    pub note: fn(&str),
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { runs: None, results: RESULTS.into(), set: Vec::new(), preset: None, only: None, note: |_| () }
    }
}

/// Which layers override the sweep file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Those of the command line and the environment.
    Given,
    /// The same; or those of the last run, if none are given.
    Last,
}

/// A sweep or an experiment, expanded into its trials.
pub struct Work {
    /// Path of its file.
    file: PathBuf,
    /// The experiment; `None` for a sweep.
    pub experiment: Option<Experiment>,
    /// The text of the experiment's file; `None` for a sweep.
    text: Option<String>,
    /// Its name, which is also that of its folder of results.
    pub name: String,
    /// The layers that override the sweep files.
    layers: Overrides,
    /// SHA-256 of the sweep files; empty if one does not exist.
    sweeps: String,
    /// All of its trials.
    pub trials: Vec<Trial>,
    /// The condition that selects trials; `None` selects all.
    pub only: Option<String>,
    /// The folder of stage runs.
    pub runs: PathBuf,
    /// The folder of its results.
    pub out: PathBuf,
    /// The record in that folder, if it belongs to this file.
    record: Option<Record>,
    /// Who owns that folder.
    owner: ResultsOwner,
    /// Receives messages for the user.
    pub(super) note: fn(&str),
}

impl Work {
    /// Reads a file and expands its trials.
    ///
    /// # Errors
    /// Lists all errors in the file and in the sweeps that it names, each with its line.
    pub fn read(file: &Path, with: &ReadOptions, which: Layers) -> Result<Self> {
        let mut given = Overrides::from_env(with.preset.clone(), with.set.clone());
        let mut errors = ConfigErrors::default();
        let head = match Head::read(file, &mut errors) {
            Err(_) if which == Layers::Last && !file.exists() => Head::recorded(file, with)?,
            head => head?,
        };
        for sweep in &head.sweeps {
            given.local.extend(Local::beside(sweep)?);
        }
        if !errors.errors.is_empty() {
            // Report them with all other errors, as far as it is known which layers override the sweeps.
            if which == Layers::Given {
                head.check(&given, &with.runs(), &mut errors);
            }
            errors.or(())?;
            bail!("{}: cannot be read", file.display());
        }
        if let Some(problem) = file_name_problem(&head.name, "") {
            bail!("{}: the name {:?} {problem}", file.display(), head.name);
        }
        let out = with.results.join(&head.name);
        let mut record = Record::read(&out)?;
        let owner = record.as_ref().map_or(ResultsOwner::Same, |record| record.owner(&out, file));
        if matches!(owner, ResultsOwner::Other(_)) {
            // The runs of another file are irrelevant to this one.
            record = None;
        }
        let last = record.as_ref().and_then(Record::last);
        let layers = effective_layers(given, last, which, with.note);
        for (file, keys) in layers.local.iter().map(|local| (local.file.display(), local.keys())) {
            if !keys.is_empty() {
                (with.note)(&format!("{file} sets {}", keys.join(", ")));
            }
        }
        let run = record.as_ref().filter(|_| which == Layers::Last).and_then(|record| record.with(&layers));
        let sweeps = digest(&head.sweeps).unwrap_or_default();
        let is_same = |run: &&RecordedRun| sweeps.is_empty() || run.sweeps == sweeps;
        let trials = match run.filter(is_same).and_then(RecordedRun::trials) {
            Some(trials) => trials,
            None => {
                // If a record names the stage runs, the files need not exist.
                let needs_files = which == Layers::Given || record.is_none();
                let trials = head.expand(&layers, needs_files, &mut errors);
                errors.or(trials)?
            }
        };
        let runs = folder_of_runs(with, run, &out);
        let Head { experiment, text, name, .. } = head;
        let file = file.to_path_buf();
        Ok(Self {
            file,
            experiment,
            text,
            name,
            layers,
            sweeps,
            trials,
            only: with.only.clone(),
            runs,
            out,
            record,
            owner,
            note: with.note,
        })
    }

    /// Plans the graph of stage runs, named by the current files.
    ///
    /// # Errors
    /// If a file that a name depends on cannot be read.
    pub fn graph(&self) -> Result<StageGraph> {
        self.checked(StageGraph::plan(&self.trials, &self.runs)?)
    }

    /// Plans the graph of stage runs with the recorded names: files of recorded trials are not read.
    ///
    /// # Errors
    /// If a file that an unrecorded name depends on cannot be read.
    pub fn recorded_graph(&self) -> Result<StageGraph> {
        self.graph_with(None)
    }

    /// Like [`Self::recorded_graph`], with the unpacked records of stage runs in the folder `kept`, see [`crate::runs::kept`].
    ///
    /// # Errors
    /// The same as for [`Self::recorded_graph`].
    pub fn graph_with(&self, kept: Option<&Path>) -> Result<StageGraph> {
        let recorded = self.record.as_ref().map(|record| record.by_config(&self.layers)).unwrap_or_default();
        let known = |trial: &Trial| Some(*recorded.get(toml::to_string(&*trial.config).ok()?.as_str())?);
        self.checked(StageGraph::plan_with(&self.trials, known, &self.runs, kept)?)
    }

    /// The part of a graph with the trials for which [`Self::only`] holds, or all of it.
    ///
    /// # Errors
    /// If the condition holds for no trial, or cannot be evaluated before the trials have run.
    pub fn chosen(&self, graph: StageGraph) -> Result<StageGraph> {
        let Some(only) = &self.only else { return Ok(graph) };
        let chosen = choose(only, &collect(&graph)?).map_err(|problem| anyhow!("--only: {problem}"))?;
        Ok(graph.part(|planned| chosen.contains(&planned.uuid)))
    }

    /// Chooses how to plan the graph for viewing: by the current files, or by the record if they are missing.
    ///
    /// # Errors
    /// If neither the files nor a record give the names.
    pub fn look(&self) -> Result<fn(&Self) -> Result<StageGraph>> {
        match self.graph() {
            Ok(_) => Ok(Self::graph),
            Err(error) if self.record.is_some() && self.recorded_graph().is_ok() => {
                (self.note)(&format!("{error:#}; showing what the last run recorded"));
                Ok(Self::recorded_graph)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the graph after checking that what the experiment requests fits its trials.
    fn checked(&self, graph: StageGraph) -> Result<StageGraph> {
        if let Some(experiment) = &self.experiment {
            experiment.check(&collect(&graph)?)?;
        }
        Ok(graph)
    }

    /// The smallest differences that the trials of a graph are likely to detect; `None` if they compare nothing.
    pub fn detectable(&self, graph: &StageGraph) -> Option<Detectable> {
        let examined = graph.study().find(|planned| planned.trial.config.exam.enabled);
        let questions = examined.and_then(|planned| Some(Questions::of(&planned.trial.config).ok()?.count()));
        let settings = graph.study().map(|planned| (planned.setting, planned.trial.config.seed));
        // A sweep on its own makes no claims.
        let claims = self.experiment.iter().flat_map(|experiment| &experiment.comparisons);
        let mut is_paired = claims.map(|claim| !claim.paired_by.is_empty()).peekable();
        let paired = is_paired.peek().is_some() && is_paired.all(|paired| paired);
        Detectable::of(settings, questions, paired)
    }

    /// Checks that the folder of results may be written: not if it belongs to another file.
    ///
    /// # Errors
    /// Names the file that the results belong to, and what to do.
    pub fn may_write(&self) -> Result<()> {
        let (file, out) = (self.file.display(), self.out.display());
        match &self.owner {
            ResultsOwner::Same => {}
            ResultsOwner::Gone(earlier) => {
                (self.note)(&format!(
                    "{out} belonged to {}, which no longer exists; it now belongs to {file}",
                    earlier.display()
                ));
            }
            ResultsOwner::Other(other) => bail!(
                "{out} holds the results of {}, and {file} has the same name, {:?}; give {file} another name, or its results another folder with --results DIR",
                other.display(),
                self.name
            ),
        }
        Ok(())
    }

    /// Records that a run begins.
    ///
    /// # Errors
    /// If the record cannot be read or written.
    pub fn begin(&self, graph: &StageGraph) -> Result<()> {
        if let Some(last) = self.record.as_ref().and_then(Record::last)
            && last.layers != self.layers
        {
            (self.note)(&format!(
                "the last run used other layers: {}; to keep its report, write this one to another folder with --results DIR",
                shown(&last.layers)
            ));
        }
        let Self { file, name, layers, sweeps, runs, .. } = self;
        let about = About { name, file, experiment: self.text.as_deref(), layers, sweeps, runs };
        recorded::begin(&self.out, about, graph.recorded()?)
    }

    /// Whether a run of this file is recorded.
    pub fn is_begun(&self) -> bool {
        self.record.is_some()
    }

    /// Records that the run has ended.
    ///
    /// # Errors
    /// If the record cannot be read or written.
    pub fn end(&self) -> Result<()> {
        recorded::end(&self.out, &self.layers)
    }

    /// Records that the folder of results now belongs to this file, if its earlier owner no longer exists.
    ///
    /// # Errors
    /// If the record cannot be read or written.
    pub fn own(&self) -> Result<()> {
        match self.owner {
            ResultsOwner::Gone(_) if self.file.is_file() => recorded::change_owner(&self.out, &self.file),
            _ => Ok(()),
        }
    }

    /// What is needed to reproduce its report: commands, layers, digest and program.
    pub fn origin(&self) -> Origin {
        let file = self.file.display().to_string();
        let results = self.out.parent().unwrap_or(Path::new("."));
        let folders = [("runs", RUNS, self.runs.as_path()), ("results", RESULTS, results)];
        let folders = folders
            .iter()
            .filter(|(_, usual, folder)| Path::new(usual) != *folder)
            .map(|(name, _, folder)| format!(" --{name} {}", shell_word(&folder.display().to_string())));
        let folders: String = folders.collect();
        let command = |verb: &str| format!("{verb} {}{folders}", shell_word(&file));
        Origin {
            run: self.layers.command(&command("mindscale run")),
            report: command("mindscale report"),
            layers: self.layers.to_string(),
            sweeps: self.sweeps.clone(),
            program: Program::this().to_string(),
            file,
        }
    }

    /// The layers of the last run if they differ from those of this one, as a hint for messages.
    pub fn other_layers(&self) -> Option<String> {
        let last = self.record.as_ref()?.last()?;
        (last.layers != self.layers).then(|| format!("the last run had {}", shown(&last.layers)))
    }
}

/// The content of a file before any layer overrides it.
struct Head {
    name: String,
    experiment: Option<Experiment>,
    text: Option<String>,
    sweeps: Vec<PathBuf>,
}

impl Head {
    /// Reads a file; adds the errors in the file itself to `errors`.
    fn read(file: &Path, errors: &mut ConfigErrors) -> Result<Self> {
        let Some(experiment) = Experiment::read_collecting_errors(file, errors)? else {
            let (name, sweeps) = (Sweep::name_of(file, errors)?, vec![file.to_path_buf()]);
            return Ok(Self { name, experiment: None, text: None, sweeps });
        };
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (text, sweeps) = (Some(read_text(file)?), experiment.sweeps.clone());
        Ok(Self { name, experiment: Some(experiment), text, sweeps })
    }

    /// Expands the trials of all sweeps; adds all errors in them to `errors`.
    fn expand(&self, layers: &Overrides, needs_files: bool, errors: &mut ConfigErrors) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (index, file) in self.sweeps.iter().enumerate() {
            if let Some(error) =
                self.experiment.as_ref().and_then(|experiment| experiment.missing_sweep_error(index))
            {
                errors.push(error);
                continue;
            }
            let before = errors.errors.len();
            let Some(sweep) = Sweep::read_as_far(file, layers, errors) else { continue };
            if errors.errors.len() == before {
                match sweep.expand() {
                    Ok(found) => trials.extend(found),
                    Err(error) => errors.absorb(error),
                }
            }
            if needs_files {
                errors.errors.extend(missing(&sweep));
            }
        }
        trials
    }

    /// Adds the errors in the sweeps; if there are none, adds what the experiment requests but no trial can give.
    fn check(&self, layers: &Overrides, runs: &Path, errors: &mut ConfigErrors) {
        let before = errors.errors.len();
        let trials = self.expand(layers, true, errors);
        if errors.errors.len() == before
            && !trials.is_empty()
            && let Some(experiment) = &self.experiment
            && let Ok(graph) = StageGraph::plan(&trials, runs)
            && let Ok(records) = collect(&graph)
            && let Err(found) = experiment.check(&records)
        {
            errors.errors.extend(found.errors);
        }
    }

    /// Finds the record of a missing file: by its path, or else by its file name.
    fn recorded(file: &Path, with: &ReadOptions) -> Result<Self> {
        let results = &with.results;
        let records = Record::all(results)?;
        let is_same = |(out, record): &&(PathBuf, Record)| record.owner(out, file) == ResultsOwner::Same;
        let is_called_so = |(_, record): &&(PathBuf, Record)| record.file.file_name() == file.file_name();
        let found = records.iter().find(is_same).or_else(|| records.iter().find(is_called_so));
        let Some((out, record)) = found else {
            bail!("{}: cannot be read, and {} has no record of it", file.display(), results.display());
        };
        (with.note)(&format!("{} does not exist; using the record in {}", file.display(), out.display()));
        let experiment = record.experiment.as_ref().map(|text| Experiment::read_text(file, text));
        let experiment = experiment.transpose()?.flatten();
        Ok(Self { name: record.name.clone(), experiment, text: record.experiment.clone(), sweeps: vec![] })
    }
}

/// The layers that override the sweep files.
fn effective_layers(
    given: Overrides,
    last: Option<&RecordedRun>,
    which: Layers,
    note: fn(&str),
) -> Overrides {
    let Some(last) = last.filter(|last| which == Layers::Last && last.layers != given) else { return given };
    let is_env_kept = given.env.is_empty() || given.env == last.layers.env;
    if given.preset.is_none() && given.set.is_empty() && is_env_kept {
        note(&format!("using the layers of the last run: {}", shown(&last.layers)));
        return last.layers.clone();
    }
    note(&format!("the layers differ from those of the last run, which had {}", shown(&last.layers)));
    given
}

/// SHA-256 of all sweep files; `None` if there are none, or if one does not exist.
fn digest(sweeps: &[PathBuf]) -> Option<String> {
    let mut digest = Sha256::new();
    for file in sweeps {
        let bytes = std::fs::read(file).ok()?;
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    (!sweeps.is_empty()).then(|| hex(&digest.finalize()))
}

/// The folder of stage runs: the given one, that of the recorded run, or the default.
fn folder_of_runs(with: &ReadOptions, run: Option<&RecordedRun>, out: &Path) -> PathBuf {
    let usual = || PathBuf::from(RUNS);
    if let Some(runs) = &with.runs {
        return runs.clone();
    }
    let Some(recorded) = run.map(|run| run.runs(out)).filter(|runs| runs.is_dir()) else { return usual() };
    if recorded != usual() {
        (with.note)(&format!("using the stage runs of the last run: --runs {}", recorded.display()));
    }
    recorded
}

fn shown(layers: &Overrides) -> String {
    match layers.is_empty() {
        true => "no --set, --preset, MINDSCALE_* or local.toml".into(),
        false => layers.to_string(),
    }
}

impl ReadOptions {
    /// Whether a preset or keys are given on the command line.
    pub fn has_layers(&self) -> bool {
        self.preset.is_some() || !self.set.is_empty()
    }

    /// The folder of stage runs if no record names one.
    pub fn runs(&self) -> PathBuf {
        self.runs.clone().unwrap_or_else(|| RUNS.into())
    }
}
