//! A sweep or an experiment as it is to be run, or as it was run last: its layers, its trials, its folders.

use crate::config::{ConfigErrors, Local, Overrides};
use crate::fsutil::{file_name_problem, hex, read_text, shell_word};
use crate::plan::{StageGraph, missing};
use crate::report::{Experiment, Origin, choose};
use crate::runs::manifest::Program;
use crate::runs::recorded::{self, About, Owner, Record, RecordedRun};
use crate::status::records::collect;
use crate::sweep::{Sweep, Trial};
use anyhow::{Result, anyhow, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The folder of stage runs where nothing says otherwise.
const RUNS: &str = "runs";

/// The same of results.
const RESULTS: &str = "results";

/// What a file is read with.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Folder of stage runs; `None` takes that of the last run, or `runs`.
    pub runs: Option<PathBuf>,
    /// Folder of results, in which each sweep and experiment has a folder of its name.
    pub results: PathBuf,
    /// Keys that are set over the sweep file, such as `pretrain.lr=1e-3`.
    pub set: Vec<String>,
    /// The preset to start from.
    pub preset: Option<String>,
    /// The condition that says which trials it is about, where it is not about all of them.
    pub only: Option<String>,
    /// Hears what a person should know beside the outcome.
    pub note: fn(&str),
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { runs: None, results: RESULTS.into(), set: Vec::new(), preset: None, only: None, note: |_| () }
    }
}

/// Which layers lie over the sweep file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layers {
    /// Those of the command line and the environment.
    Given,
    /// The same, or those of the last run where nothing is given.
    Last,
}

/// A sweep or an experiment, expanded.
pub struct Work {
    /// Its file.
    file: PathBuf,
    /// The experiment; `None` where a sweep was named.
    pub experiment: Option<Experiment>,
    /// The text of the experiment's file.
    text: Option<String>,
    /// Its name, which is that of its folder of results.
    pub name: String,
    /// What is set over the sweep files.
    layers: Overrides,
    /// SHA-256 of the sweep files; empty where one is not there.
    sweeps: String,
    /// The trials, all of them.
    pub trials: Vec<Trial>,
    /// The condition that says which of them it is about.
    pub only: Option<String>,
    /// The folder of stage runs.
    pub runs: PathBuf,
    /// The folder of results.
    pub out: PathBuf,
    /// What is recorded there, of this file.
    record: Option<Record>,
    /// Whose that folder is.
    owner: Owner,
    /// Hears what a person should know.
    pub(super) note: fn(&str),
}

impl Work {
    /// Reads and expands one file.
    ///
    /// # Errors
    /// All that is wrong with the file, or with a sweep that it names, each with its line.
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
            // With everything else that is wrong, as far as it is known which layers lie over the sweeps.
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
        let owner = record.as_ref().map_or(Owner::Same, |record| record.owner(&out, file));
        if matches!(owner, Owner::Other(_)) {
            // What another file has run says nothing about this one.
            record = None;
        }
        let last = record.as_ref().and_then(Record::last);
        let layers = over(given, last, which, with.note);
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
                // Where a record tells the names of stage runs, their files need not be there.
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

    /// The graph of stage runs, named by the files as they are now.
    ///
    /// # Errors
    /// Where a file that a name depends on cannot be read.
    pub fn graph(&self) -> Result<StageGraph> {
        self.checked(StageGraph::plan(&self.trials, &self.runs)?)
    }

    /// The graph of stage runs, with the names that are recorded: it takes no file of a recorded trial.
    ///
    /// # Errors
    /// Where a file that a name depends on and no record tells cannot be read.
    pub fn recorded_graph(&self) -> Result<StageGraph> {
        self.graph_with(None)
    }

    /// As [`Self::recorded_graph`], with what is kept of stage runs in an unpacked folder, see [`crate::runs::kept`].
    ///
    /// # Errors
    /// As there.
    pub fn graph_with(&self, kept: Option<&Path>) -> Result<StageGraph> {
        let recorded = self.record.as_ref().map(|record| record.by_config(&self.layers)).unwrap_or_default();
        let known = |trial: &Trial| Some(*recorded.get(toml::to_string(&*trial.config).ok()?.as_str())?);
        self.checked(StageGraph::plan_with(&self.trials, known, &self.runs, kept)?)
    }

    /// The part of a graph that it is about: the trials for which [`Self::only`] holds, or all of them.
    ///
    /// # Errors
    /// Where it holds for none, or cannot be told before they have run.
    pub fn chosen(&self, graph: StageGraph) -> Result<StageGraph> {
        let Some(only) = &self.only else { return Ok(graph) };
        let chosen = choose(only, &collect(&graph)?).map_err(|problem| anyhow!("--only: {problem}"))?;
        Ok(graph.part(|planned| chosen.contains(&planned.uuid)))
    }

    /// A way to look at the stage runs: by the files as they are, or by the record where these are not there.
    ///
    /// # Errors
    /// Where neither the files nor a record tell the names.
    pub fn look(&self) -> Result<fn(&Self) -> Result<StageGraph>> {
        match self.graph() {
            Ok(_) => Ok(Self::graph),
            Err(error) if self.record.is_some() && self.recorded_graph().is_ok() => {
                (self.note)(&format!("{error:#}; told as the last run recorded it"));
                Ok(Self::recorded_graph)
            }
            Err(error) => Err(error),
        }
    }

    /// The graph, once what the experiment asks for is known to fit its trials.
    fn checked(&self, graph: StageGraph) -> Result<StageGraph> {
        if let Some(experiment) = &self.experiment {
            experiment.check(&collect(&graph)?)?;
        }
        Ok(graph)
    }

    /// Makes sure that the folder of results may be written: another file's may not.
    ///
    /// # Errors
    /// Names the file whose results they are, and what to do.
    pub fn may_write(&self) -> Result<()> {
        let (file, out) = (self.file.display(), self.out.display());
        match &self.owner {
            Owner::Same => {}
            Owner::Gone(earlier) => {
                (self.note)(&format!(
                    "{out} was that of {}, which is not there any more; it is {file}'s now",
                    earlier.display()
                ));
            }
            Owner::Other(other) => bail!(
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
    /// Where the record cannot be read or written.
    pub fn begin(&self, graph: &StageGraph) -> Result<()> {
        if let Some(last) = self.record.as_ref().and_then(Record::last)
            && last.layers != self.layers
        {
            (self.note)(&format!("the last run had other layers: {}", shown(&last.layers)));
        }
        let Self { file, name, layers, sweeps, runs, .. } = self;
        let about = About { name, file, experiment: self.text.as_deref(), layers, sweeps, runs };
        recorded::begin(&self.out, about, graph.recorded()?)
    }

    /// Whether a run of it is recorded.
    pub fn is_begun(&self) -> bool {
        self.record.is_some()
    }

    /// Records that it has ended.
    ///
    /// # Errors
    /// Where the record cannot be read or written.
    pub fn end(&self) -> Result<()> {
        recorded::end(&self.out, &self.layers)
    }

    /// Records that the folder of results is this file's.
    ///
    /// # Errors
    /// Where the record cannot be read or written.
    pub fn own(&self) -> Result<()> {
        match self.owner {
            Owner::Gone(_) if self.file.is_file() => recorded::hand_over(&self.out, &self.file),
            _ => Ok(()),
        }
    }

    /// What is needed to make its report again.
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

    /// The layers of the last run, where they are not those of this one, as a hint.
    pub fn other_layers(&self) -> Option<String> {
        let last = self.record.as_ref()?.last()?;
        (last.layers != self.layers).then(|| format!("the last run had {}", shown(&last.layers)))
    }
}

/// What a file says before any layer lies over it.
struct Head {
    name: String,
    experiment: Option<Experiment>,
    text: Option<String>,
    sweeps: Vec<PathBuf>,
}

impl Head {
    /// What is wrong with the file by itself is among `errors`.
    fn read(file: &Path, errors: &mut ConfigErrors) -> Result<Self> {
        let Some(experiment) = Experiment::read_as_far(file, errors)? else {
            let (name, sweeps) = (Sweep::name_of(file, errors)?, vec![file.to_path_buf()]);
            return Ok(Self { name, experiment: None, text: None, sweeps });
        };
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let (text, sweeps) = (Some(read_text(file)?), experiment.sweeps.clone());
        Ok(Self { name, experiment: Some(experiment), text, sweeps })
    }

    /// The trials of all sweeps, with everything that is wrong with them among `errors`.
    fn expand(&self, layers: &Overrides, needs_files: bool, errors: &mut ConfigErrors) -> Vec<Trial> {
        let mut trials = Vec::new();
        for (index, file) in self.sweeps.iter().enumerate() {
            if let Some(error) = self.experiment.as_ref().and_then(|experiment| experiment.no_sweep(index)) {
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

    /// Adds what is wrong with the sweeps or, where they are right, what their trials cannot give.
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

    /// From the record of a file that is not there: the same path, or else the same name of a file.
    fn recorded(file: &Path, with: &ReadOptions) -> Result<Self> {
        let results = &with.results;
        let records = Record::all(results)?;
        let is_same = |(out, record): &&(PathBuf, Record)| record.owner(out, file) == Owner::Same;
        let is_called_so = |(_, record): &&(PathBuf, Record)| record.file.file_name() == file.file_name();
        let found = records.iter().find(is_same).or_else(|| records.iter().find(is_called_so));
        let Some((out, record)) = found else {
            bail!("{}: cannot be read, and no record in {} is of it", file.display(), results.display());
        };
        (with.note)(&format!("{} is not there; taken from the record in {}", file.display(), out.display()));
        let experiment = record.experiment.as_ref().map(|text| Experiment::read_text(file, text));
        let experiment = experiment.transpose()?.flatten();
        Ok(Self { name: record.name.clone(), experiment, text: record.experiment.clone(), sweeps: vec![] })
    }
}

/// The layers that lie over the sweep files.
fn over(given: Overrides, last: Option<&RecordedRun>, which: Layers, note: fn(&str)) -> Overrides {
    let Some(last) = last.filter(|last| which == Layers::Last && last.layers != given) else { return given };
    let is_env_kept = given.env.is_empty() || given.env == last.layers.env;
    if given.preset.is_none() && given.set.is_empty() && is_env_kept {
        note(&format!("with the layers of the last run: {}", shown(&last.layers)));
        return last.layers.clone();
    }
    note(&format!("with other layers than the last run, which had {}", shown(&last.layers)));
    given
}

/// SHA-256 of all sweep files; `None` where there is none, or one is not there.
fn digest(sweeps: &[PathBuf]) -> Option<String> {
    let mut digest = Sha256::new();
    for file in sweeps {
        let bytes = std::fs::read(file).ok()?;
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    (!sweeps.is_empty()).then(|| hex(&digest.finalize()))
}

/// The folder of stage runs: the given one, that of the recorded run, or the usual one.
fn folder_of_runs(with: &ReadOptions, run: Option<&RecordedRun>, out: &Path) -> PathBuf {
    let usual = || PathBuf::from(RUNS);
    if let Some(runs) = &with.runs {
        return runs.clone();
    }
    let Some(recorded) = run.map(|run| run.runs(out)).filter(|runs| runs.is_dir()) else { return usual() };
    if recorded != usual() {
        (with.note)(&format!("with the stage runs of the last run: --runs {}", recorded.display()));
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
    /// Whether layers are given.
    pub fn has_layers(&self) -> bool {
        self.preset.is_some() || !self.set.is_empty()
    }

    /// The folder of stage runs, where no record says otherwise.
    pub fn runs(&self) -> PathBuf {
        self.runs.clone().unwrap_or_else(|| RUNS.into())
    }
}
