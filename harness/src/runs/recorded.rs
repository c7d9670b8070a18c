//! `record.json` in a folder of results: the file that the folder belongs to, and what was run for it: layers, trials, stage runs.
//!
//! With it a report can be written again without the flags of its run and without its data. *Invariant:* a folder of
//! results belongs to one file, and a report of fewer finished trials never silently replaces one of more.

use super::manifest::Program;
use crate::config::{ExamPoint, Overrides, Stage, TrialConfig};
use crate::fsutil::{absolute, create_dir, read_if_there, write_atomic};
use crate::records::Status;
use crate::sweep::{Part, Trial};
use crate::system::{now, utc};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use uuid::Uuid;

/// Name of the record in a folder of results.
pub const RECORD: &str = "record.json";

/// The record of a folder of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the sweep or of the experiment.
    pub name: String,
    /// Path of its file, relative to the folder of results.
    pub file: PathBuf,
    /// The text of the experiment file; `None` for a sweep.
    pub experiment: Option<String>,
    /// The runs, newest last; of several runs with the same layers only the newest.
    pub runs: Vec<RecordedRun>,
}

/// One call of `run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedRun {
    /// The layers that override the sweep file.
    pub layers: Overrides,
    /// SHA-256 of the sweep files.
    pub sweeps: String,
    /// The program that ran it.
    pub program: Program,
    /// Path of the folder of stage runs, relative to the folder of results.
    pub runs: PathBuf,
    /// When it began (UTC).
    pub started: String,
    /// When it ended (UTC); `None` if it has not.
    pub ended: Option<String>,
    /// Its trials, in order.
    pub trials: Vec<RecordedTrial>,
}

/// A recorded trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedTrial {
    /// Its name.
    pub trial: Uuid,
    /// The same without the seed.
    pub setting: Uuid,
    /// Name of its sweep.
    pub sweep: String,
    /// Swept and solved keys with their values.
    pub keys: Vec<(String, serde_json::Value)>,
    /// The resolved configuration as TOML, which represents every number exactly.
    pub config: String,
    /// Its stage runs, in order.
    pub stages: Vec<RecordedStage>,
    /// Its part in a tuning, if any; the configuration of a tuned trial has the first value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// A recorded stage run of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedStage {
    /// Its stage.
    pub stage: Stage,
    /// Its name.
    pub uuid: Uuid,
    /// Name of the stage run whose model it starts from or examines.
    pub model: Option<Uuid>,
    /// Which weights of the model an exam examines.
    #[serde(default, skip_serializing_if = "ExamPoint::is_final")]
    pub at: ExamPoint,
}

/// Who owns a folder of results, from the view of a file that would write into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultsOwner {
    /// That file, or nobody yet.
    Same,
    /// Another file, which no longer exists.
    Gone(PathBuf),
    /// Another existing file.
    Other(PathBuf),
}

impl Record {
    /// Reads the record of a folder of results; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn read(out: &Path) -> Result<Option<Self>> {
        let path = out.join(RECORD);
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        let record = serde_json::from_str(&text).with_context(|| {
            format!(
                "{}: is damaged; move it away to continue without the record of earlier runs",
                path.display()
            )
        })?;
        Ok(Some(record))
    }

    /// Reads every record in the subfolders of `results`, each with its folder; empty if `results` does not exist.
    ///
    /// # Errors
    /// If a folder or a record cannot be read.
    pub fn all(results: &Path) -> Result<Vec<(PathBuf, Self)>> {
        let unread = || format!("{}: cannot be read", results.display());
        let entries = match fs::read_dir(results) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.with_context(unread)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let out = entry.with_context(unread)?.path();
            found.extend(Self::read(&out)?.map(|record| (out, record)));
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// Who owns the folder `out`, from the view of `file`.
    pub fn owner(&self, out: &Path, file: &Path) -> ResultsOwner {
        let owner = seen_from_here(out, &self.file);
        match (canonical(&owner) == canonical(file), owner.is_file()) {
            (true, _) => ResultsOwner::Same,
            (false, false) => ResultsOwner::Gone(owner),
            (false, true) => ResultsOwner::Other(owner),
        }
    }

    /// The path of the file that was run; `out` is this folder of results.
    pub fn file(&self, out: &Path) -> PathBuf {
        seen_from_here(out, &self.file)
    }

    /// The last run.
    pub fn last(&self) -> Option<&RecordedRun> {
        self.runs.last()
    }

    /// The last run with these layers.
    pub fn with(&self, layers: &Overrides) -> Option<&RecordedRun> {
        self.runs.iter().rev().find(|run| run.layers == *layers)
    }

    /// Recorded trials by their configuration, from all runs; runs with these layers take precedence, then newer ones.
    pub fn by_config(&self, layers: &Overrides) -> HashMap<&str, &RecordedTrial> {
        let (like, unlike): (Vec<_>, Vec<_>) = self.runs.iter().partition(|run| run.layers == *layers);
        let trials = unlike.into_iter().chain(like).flat_map(|run| &run.trials);
        trials.map(|trial| (trial.config.as_str(), trial)).collect()
    }

    /// The names of all stage runs in the record.
    pub fn stage_runs(&self) -> BTreeSet<Uuid> {
        let trials = self.runs.iter().flat_map(|run| &run.trials);
        trials.flat_map(|trial| trial.stages.iter().map(|stage| stage.uuid)).collect()
    }
}

impl RecordedRun {
    /// The resolved trials; `None` if this program does not know one of their keys.
    pub fn trials(&self) -> Option<Vec<Trial>> {
        let trial = |known: &RecordedTrial| {
            let (sweep, keys) = (known.sweep.clone(), known.keys.clone());
            let part = known.part.clone();
            Trial { sweep, config: known.config()?.into(), keys, part }.with_choice(None).ok()
        };
        self.trials.iter().map(trial).collect()
    }

    /// The path of the folder of stage runs; `out` is this folder of results.
    pub fn runs(&self, out: &Path) -> PathBuf {
        seen_from_here(out, &self.runs)
    }
}

impl RecordedTrial {
    fn config(&self) -> Option<TrialConfig> {
        TrialConfig::from_toml(&self.config).ok()
    }
}

/// Description of a run to be recorded.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Name of the sweep or of the experiment.
    pub name: &'a str,
    /// Its file.
    pub file: &'a Path,
    /// The text of the experiment file; `None` for a sweep.
    pub experiment: Option<&'a str>,
    /// The layers that override the sweep files.
    pub layers: &'a Overrides,
    /// SHA-256 of the sweep files.
    pub sweeps: &'a str,
    /// The folder of stage runs.
    pub runs: &'a Path,
}

/// Records in the folder `out` that a run of `trials` begins.
///
/// # Errors
/// If the record cannot be read or written.
pub fn begin(out: &Path, about: About, trials: Vec<RecordedTrial>) -> Result<()> {
    create_dir(out)?;
    let run = RecordedRun {
        layers: about.layers.clone(),
        sweeps: about.sweeps.into(),
        program: Program::this(),
        runs: seen_from(out, about.runs),
        started: utc(now()),
        ended: None,
        trials,
    };
    let mut runs = Record::read(out)?.map_or(Vec::new(), |record| record.runs);
    runs.retain(|earlier| earlier.layers != run.layers);
    runs.push(run);
    let (name, file) = (about.name.into(), seen_from(out, about.file));
    write(out, &Record { name, file, experiment: about.experiment.map(Into::into), runs })
}

/// Records in the folder `out` that the run with these layers has ended.
///
/// # Errors
/// If the record cannot be read or written.
pub fn end(out: &Path, layers: &Overrides) -> Result<()> {
    let Some(mut record) = Record::read(out)? else { return Ok(()) };
    if let Some(run) = record.runs.iter_mut().rev().find(|run| run.layers == *layers) {
        run.ended = Some(utc(now()));
    }
    write(out, &record)
}

/// Records that the folder `out` now belongs to `file`.
///
/// # Errors
/// If the record cannot be read or written.
pub fn change_owner(out: &Path, file: &Path) -> Result<()> {
    let Some(mut record) = Record::read(out)? else { return Ok(()) };
    record.file = seen_from(out, file);
    write(out, &record)
}

fn write(out: &Path, record: &Record) -> Result<()> {
    let mut text = serde_json::to_string_pretty(record)?;
    text.push('\n');
    write_atomic(&out.join(RECORD), text.as_bytes())
}

/// Whether `trials` would replace more finished trials than they have in the folder `out`: the number of finished trials
/// shown there, and the new number. A trial that has failed since does not count as lost, since the report shows its failure.
pub fn fewer(out: &Path, trials: &BTreeMap<Uuid, Status>) -> Option<(usize, usize)> {
    let shown = finished(out);
    let done = trials.values().filter(|&&status| status == Status::Done).count();
    let failed = shown.iter().filter(|trial| trials.get(trial) == Some(&Status::Failed)).count();
    (done + failed < shown.len()).then_some((shown.len(), done))
}

/// The trials that `trials.csv` in a folder of results lists as done.
pub fn finished(out: &Path) -> BTreeSet<Uuid> {
    let mut found = BTreeSet::new();
    let Ok(mut reader) = csv::Reader::from_path(out.join("trials.csv")) else { return found };
    let column = |reader: &mut csv::Reader<fs::File>, name: &str| {
        reader.headers().ok().and_then(|names| names.iter().position(|n| n == name))
    };
    let (Some(trial), Some(status)) = (column(&mut reader, "trial"), column(&mut reader, "status")) else {
        return found;
    };
    for row in reader.records().flatten() {
        let is_done = row.get(status) == Some("done");
        found.extend(row.get(trial).filter(|_| is_done).and_then(|trial| Uuid::try_parse(trial).ok()));
    }
    found
}

/// A path relative to an existing folder, so that both can be moved together.
fn seen_from(folder: &Path, path: &Path) -> PathBuf {
    let (folder, path) = (canonical(folder), canonical(path));
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}

/// Resolves a path from [`seen_from`], relative to the current folder if it is inside.
fn seen_from_here(folder: &Path, path: &Path) -> PathBuf {
    let mut found = canonical(folder);
    for part in path.components() {
        match part {
            Component::ParentDir => drop(found.pop()),
            part => found.push(part),
        }
    }
    // Kept short if possible, since it is displayed.
    let here = canonical(Path::new("."));
    found.strip_prefix(&here).map_or(found.clone(), Path::to_path_buf)
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| absolute(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::testing::{plan, trial};

    fn layers(set: &str) -> Overrides {
        Overrides { set: vec![set.into()], ..Overrides::default() }
    }

    fn about<'a>(file: &'a Path, layers: &'a Overrides, runs: &'a Path) -> About<'a> {
        About { name: "a", file, experiment: None, layers, sweeps: "0", runs }
    }

    #[test]
    fn a_record_gives_back_the_trials_and_their_stage_runs() {
        let dir = tempfile::tempdir().unwrap();
        let [out, runs, file] = ["results/a", "runs", "a.toml"].map(|name| dir.path().join(name));
        let trials =
            [1, 2].map(|seed| trial(|c| (c.seed, c.pretrain.training.lr) = (seed, 0.1 + 0.2 * seed as f64)));
        let graph = plan(&trials, &runs);
        for set in ["seed=1", "seed=2", "seed=1"] {
            begin(&out, about(&file, &layers(set), &runs), graph.recorded().unwrap()).unwrap();
        }
        end(&out, &layers("seed=1")).unwrap();
        let record = Record::read(&out).unwrap().unwrap();
        let sets: Vec<_> = record.runs.iter().map(|run| run.layers.set[0].as_str()).collect();
        assert_eq!(sets, ["seed=2", "seed=1"]);
        let last = record.last().unwrap();
        assert!(last.ended.is_some() && record.runs[0].ended.is_none());
        assert_eq!(last.trials().unwrap(), trials);
        assert_eq!(canonical(&last.runs(&out)), canonical(&runs));
        assert_eq!(record.stage_runs(), graph.nodes.iter().map(|node| node.uuid).collect());
        let known = record.by_config(&Overrides::default());
        let of = |trial: &Trial| known.get(toml::to_string(&*trial.config).unwrap().as_str()).copied();
        let second = of(&trials[1]).unwrap();
        assert_eq!((second.trial, second.setting), (graph.trials[1].uuid, graph.trials[1].setting));
        assert_eq!(second.stages.len(), graph.trials[1].stages.len());
        let slower = trial(|config| config.pretrain.training.lr = 7.0);
        assert_eq!(of(&slower), None);
    }

    #[test]
    fn a_folder_of_results_belongs_to_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let (out, runs) = (place("results/a"), place("runs"));
        let [file, other] = ["a.toml", "b.toml"].map(place);
        for path in [&file, &other] {
            fs::write(path, "").unwrap();
        }
        begin(&out, about(&file, &layers("x=1"), &runs), plan(&[trial(|_| {})], &runs).recorded().unwrap())
            .unwrap();
        let record = Record::read(&out).unwrap().unwrap();
        assert_eq!(record.file, Path::new("../../a.toml"));
        assert_eq!(record.owner(&out, &file), ResultsOwner::Same);
        assert!(matches!(record.owner(&out, &other), ResultsOwner::Other(path) if path.ends_with("a.toml")));
        fs::remove_file(&file).unwrap();
        assert!(matches!(record.owner(&out, &other), ResultsOwner::Gone(_)));
    }

    #[test]
    fn records_that_cannot_be_read_are_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let results = dir.path().join("results");
        assert_eq!(Record::all(&results).unwrap(), []);
        fs::create_dir_all(results.join("a").join(RECORD)).unwrap();
        let error = Record::all(&results).unwrap_err().to_string();
        assert!(error.ends_with("results/a/record.json: cannot be read"), "{error}");
        fs::remove_dir_all(&results).unwrap();
        fs::write(&results, "no folder").unwrap();
        let error = Record::all(&results).unwrap_err().to_string();
        assert!(error.ends_with("results: cannot be read"), "{error}");
    }

    #[test]
    fn a_report_of_fewer_finished_trials_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = [1, 2, 3].map(Uuid::from_u128);
        // Two exams of one trial are two rows.
        let rows = [(a, "done"), (a, "done"), (b, "done"), (c, "failed")];
        let rows: String = rows.iter().map(|(trial, status)| format!("{trial},{status}\n")).collect();
        fs::write(dir.path().join("trials.csv"), format!("trial,status\n{rows}")).unwrap();
        let with = |trials: &[(Uuid, Status)]| fewer(dir.path(), &trials.iter().copied().collect());
        assert_eq!(with(&[(a, Status::Done), (b, Status::Done)]), None);
        assert_eq!(with(&[(a, Status::Done), (c, Status::Done)]), None);
        assert_eq!(with(&[(a, Status::Done), (b, Status::Failed)]), None);
        assert_eq!(with(&[(a, Status::Done), (b, Status::Pending)]), Some((2, 1)));
        assert_eq!(with(&[(c, Status::Failed)]), Some((2, 0)));
        assert_eq!(fewer(&dir.path().join("nowhere"), &BTreeMap::new()), None);
    }
}
