//! Experiment files: a question, the sweeps that answer it, and what the report shows. A file is parsed, and its requests
//! are checked against the planned trials, before any training.

mod check;
pub mod choose;
pub mod condition;
pub mod fields;
pub mod schema;
pub mod table_spec;

use crate::config::{ConfigError, ConfigErrors, Entry, Node, did_you_mean, near_file, parse};
use crate::fsutil::without_detours;
use crate::records::TrialRecord;
use crate::report::analysis::laws::{FitSpec, Form};
use crate::report::analysis::tuning;
use crate::report::columns::Names;
use crate::report::kind::FigureSpec;
use crate::report::kind::defaults;
use crate::report::results::observation::Results;
use anyhow::{Context, Result, bail};
use check::{PlannedTrials, Requirements};
use fields::Fields;
use std::path::{Path, PathBuf};
use table_spec::{CompareSpec, Layout, TableSpec};

/// An experiment: its question, its sweeps, and what the report shows.
#[derive(Debug, Clone, Default)]
pub struct Experiment {
    /// Title of the report; by default the file's name without extension.
    pub title: String,
    /// The question that the experiment answers; may be empty.
    pub question: String,
    /// The protocol, in prose: what was decided before the runs.
    pub protocol: Option<Protocol>,
    /// Paths of the sweep files.
    pub sweeps: Vec<PathBuf>,
    /// The position in the file at which each sweep is named.
    sweep_places: Vec<String>,
    /// Labels of columns.
    pub names: Names,
    /// The requested figures. Without any loss curve, or without any other figure, the default ones are drawn.
    pub figures: Vec<FigureSpec>,
    /// The requested tables, in addition to the summary.
    pub tables: Vec<TableSpec>,
    /// The claims to test, with p-values corrected within families.
    pub comparisons: Vec<CompareSpec>,
    /// The laws to fit.
    pub fits: Vec<FitSpec>,
    /// What all of these require of the trials, for [`Self::check`].
    requirements: Vec<Requirements>,
}

/// A file with the protocol of a study: hypotheses, units, margins, stopping rule.
#[derive(Debug, Clone)]
pub struct Protocol {
    place: String,
    /// Path of the file.
    pub path: PathBuf,
}

const KEYS: [&str; 9] =
    ["title", "question", "protocol", "sweeps", "labels", "figure", "table", "compare", "fit"];

impl Experiment {
    /// Reads an experiment file; `None` for a file without a key of one, such as a sweep, or that is not valid TOML.
    ///
    /// # Errors
    /// If the file cannot be read; otherwise all of its errors at once, each with its line.
    pub fn read_if_experiment(path: &Path) -> Result<Option<Self>> {
        let mut errors = ConfigErrors::default();
        let experiment = Self::read_collecting_errors(path, &mut errors)?;
        Ok(errors.or(experiment)?)
    }

    /// As [`Self::read_if_experiment`], but adds the errors of the file's content to `errors` and returns the parts of the
    /// experiment that could be read.
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8.
    pub fn read_collecting_errors(path: &Path, errors: &mut ConfigErrors) -> Result<Option<Self>> {
        let name = path.display().to_string();
        let text = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
        let Ok(text) = String::from_utf8(text) else { bail!("{name}: is not UTF-8") };
        Ok(Self::of_text(path, &text, errors))
    }

    /// As [`Self::read_if_experiment`], given the text of the file at `path`.
    ///
    /// # Errors
    /// Returns all errors of the text at once, each with its line.
    pub fn read_text(path: &Path, text: &str) -> Result<Option<Self>> {
        let mut errors = ConfigErrors::default();
        let experiment = Self::of_text(path, text, &mut errors);
        Ok(errors.or(experiment)?)
    }

    fn of_text(path: &Path, text: &str, errors: &mut ConfigErrors) -> Option<Self> {
        let name = path.display().to_string();
        let entries = parse(&name, text).ok()?;
        if !entries.iter().any(|entry| KEYS.contains(&entry.key.as_str())) {
            return None;
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Some(Self::from_entries(&name, &stem, folder, &entries, errors))
    }

    /// Returns the error for the sweep at an index of [`Self::sweeps`] if its file does not exist.
    pub fn missing_sweep_error(&self, index: usize) -> Option<ConfigError> {
        let (file, place) = (self.sweeps.get(index)?, self.sweep_places.get(index)?);
        let hint = near_file(file, Path::new(""));
        (!file.is_file()).then(|| {
            let problem = format!("{} is not a file, expected a sweep file{hint}", file.display());
            ConfigError::new(place, "sweeps", problem)
        })
    }

    fn from_entries(
        file: &str,
        stem: &str,
        folder: &Path,
        entries: &[Entry],
        errors: &mut ConfigErrors,
    ) -> Self {
        let mut experiment = Self { title: stem.into(), ..Self::default() };
        let labels = entries.iter().find(|entry| entry.key == "labels");
        if let Some(labels) = labels.and_then(|entry| entry.node.table()) {
            experiment.names = Names::read(labels, errors);
        }
        let has_claims = entries.iter().any(|entry| entry.key == "compare");
        for Entry { key, place, node, .. } in entries {
            let mut wrong = |expected: &str| {
                let problem = format!("is {}, expected {expected}", node.shown);
                errors.push(ConfigError::new(place, key, problem));
            };
            match key.as_str() {
                "title" | "question" => match node.str() {
                    Some(text) if key == "title" => experiment.title = text.into(),
                    Some(text) => experiment.question = text.into(),
                    None => wrong("text in quotes"),
                },
                "protocol" => match node.str() {
                    Some(file) => {
                        let path = without_detours(&folder.join(file));
                        experiment.protocol = Some(Protocol { place: place.clone(), path });
                    }
                    None => wrong("a text file, such as \"protocol.md\""),
                },
                "sweeps" => match sweeps(node, folder) {
                    Some(sweeps) => (experiment.sweeps, experiment.sweep_places) = sweeps,
                    None => wrong("a list of sweep files"),
                },
                "labels" if node.table().is_some() => {}
                "labels" => wrong("a table of labels by name, such as \"model.n_layers\" = \"Layers\""),
                "figure" | "table" | "compare" | "fit" => match node.array() {
                    Some(tables) => {
                        tables.iter().for_each(|table| experiment.read_part(key, table, has_claims, errors));
                    }
                    None => wrong(&format!("tables, each under [[{key}]]")),
                },
                _ => {
                    let hint = match did_you_mean(key, KEYS) {
                        hint if hint.is_empty() => format!(", expected {}", KEYS.join(", ")),
                        hint => hint,
                    };
                    errors.push(ConfigError::new(place, key, format!("unknown key{hint}")));
                }
            }
        }
        experiment.check_figure_names(entries, errors);
        if !entries.iter().any(|entry| entry.key == "sweeps") {
            let problem = "is missing, expected a list of sweep files, such as [\"../sweeps/smoke.toml\"]";
            errors.push(ConfigError::new(file, "sweeps", problem));
        }
        experiment
    }

    /// Reports names of figures that the report uses for figures of its own.
    fn check_figure_names(&self, entries: &[Entry], errors: &mut ConfigErrors) {
        let requests = |curves: bool| self.figures.iter().any(|figure| figure.is_curve() == curves);
        let figures = || {
            let lists = entries.iter().filter(|entry| entry.key == "figure");
            lists.filter_map(|entry| entry.node.array()).flatten()
        };
        // The kind of a figure with mistakes is not known.
        let are_all_read = figures().count() == self.figures.len();
        let (has_charts, has_curves) = (are_all_read && !requests(false), are_all_read && !requests(true));
        let is_fit =
            |fit: &FitSpec, name: &str| matches!(fit.form, Form::Law { .. }) && fit.figure_name() == name;
        let keys = figures().filter_map(Node::table).flatten();
        for Entry { place, node, .. } in keys.filter(|entry| entry.key == "name") {
            let Some(name) = node.str() else { continue };
            // Whether the sweeps tune a key is not known here.
            let is_taken = self.fits.iter().any(|fit| is_fit(fit, name))
                || name.starts_with(tuning::FIGURES)
                || (has_charts && defaults::is_chart(name))
                || (has_curves && defaults::is_curve(name));
            if is_taken {
                let problem = format!(
                    "is {name:?}, the name of a figure that the report draws itself, expected another"
                );
                errors.push(ConfigError::new(place, "figure.name", problem));
            }
        }
    }

    fn read_part(&mut self, key: &str, table: &Node, has_claims: bool, errors: &mut ConfigErrors) {
        let section = match key {
            "figure" => "figure",
            "table" => "table",
            "fit" => "fit",
            _ => "compare",
        };
        let place = &table.place;
        let Some(entries) = table.table() else {
            let problem = format!("is {}, expected a table under [[{key}]]", table.shown);
            errors.push(ConfigError::new(place, key, problem));
            return;
        };
        let names = &self.names.clone();
        let mut fields = Fields { section, place, names, entries, has_claims, errors };
        match section {
            "figure" => {
                let Some(mut figure) = FigureSpec::read(&mut fields) else { return };
                let taken: Vec<&str> = self.figures.iter().map(|f| f.name.as_str()).collect();
                figure.name = unused(&mut fields, figure.name, |name| vec![name.into()], &taken);
                self.figures.push(figure);
            }
            "table" => {
                let number = self.tables.len() + 1;
                let Some(mut spec) = TableSpec::read(&mut fields, format!("table_{number}")) else { return };
                let layout = spec.layout;
                let taken: Vec<String> =
                    self.tables.iter().flat_map(|table| table_files(&table.name, table.layout)).collect();
                let taken: Vec<&str> = taken.iter().map(String::as_str).collect();
                spec.name = unused(&mut fields, spec.name, |name| table_files(name, layout), &taken);
                self.tables.push(spec);
            }
            "fit" => {
                let Some(mut spec) = FitSpec::read(&mut fields, format!("fit_{}", self.fits.len() + 1))
                else {
                    return;
                };
                let taken: Vec<&str> = self.fits.iter().map(|f| f.name.as_str()).collect();
                spec.name = unused(&mut fields, spec.name, |name| vec![name.into()], &taken);
                self.fits.push(spec);
            }
            _ => self.comparisons.extend(CompareSpec::read(&mut fields)),
        }
        self.requirements.push(Requirements::read(section, place, entries));
    }

    /// The experiment of a sweep that is run without an experiment file.
    pub fn for_sweep(name: &str, trials: &[TrialRecord]) -> Self {
        let question = match trials.len() {
            1 => format!("What are the results of the single trial of {name}?"),
            n => format!("How do the {n} trials of {name} compare?"),
        };
        Self { title: name.into(), question, ..Self::default() }
    }

    /// Checks everything requested against the trials, which need not have run: what none of them can provide is an error.
    ///
    /// # Errors
    /// Reports a missing protocol file, every condition that no trial can meet, every column that none will have, and the claims whose sides share
    /// trials or form no pairs.
    pub fn check(&self, trials: &[TrialRecord]) -> Result<(), ConfigErrors> {
        let results = Results::new(trials, &[]);
        let plan = PlannedTrials::of(&results);
        let mut errors = ConfigErrors::default();
        if let Some(Protocol { place, path }) =
            self.protocol.as_ref().filter(|protocol| !protocol.path.is_file())
        {
            let problem =
                format!("{} is not a file, expected the text file of the study's protocol", path.display());
            errors.push(ConfigError::new(place, "protocol", problem));
        }
        self.requirements.iter().for_each(|required| required.check(&plan, &mut errors));
        errors.or(())
    }
}

/// Paths of the sweep files, and the positions at which they are named; `None` if the list is empty or not of text.
fn sweeps(node: &Node, folder: &Path) -> Option<(Vec<PathBuf>, Vec<String>)> {
    let file = |file: &Node| Some((without_detours(&folder.join(file.str()?)), file.place.clone()));
    let files: (Vec<_>, Vec<_>) =
        node.array()?.iter().map(file).collect::<Option<Vec<_>>>()?.into_iter().unzip();
    Some(files).filter(|(files, _)| !files.is_empty())
}

/// Names of the files of a table: a named layout writes a second one, NAME_subjects.
fn table_files(name: &str, layout: Layout) -> Vec<String> {
    let subjects = (layout != Layout::Means).then(|| format!("{name}_subjects"));
    [name.to_string()].into_iter().chain(subjects).collect()
}

/// Returns the name, with a numeric suffix if one of its `files` is taken. If the file chose that name, this is an error
/// as well.
fn unused(fields: &mut Fields, name: String, files: impl Fn(&str) -> Vec<String>, taken: &[&str]) -> String {
    let conflict = |name: &str| files(name).into_iter().find(|file| taken.contains(&file.as_str()));
    let Some(file) = conflict(&name) else { return name };
    if fields.entries.iter().any(|entry| entry.key == "name") {
        let problem = match file == name {
            true => format!("is {name:?} a second time, expected another"),
            false => format!(
                "is {name:?}, whose second file {file:?} is the name of another table, expected another"
            ),
        };
        fields.problem("name", problem);
    }
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    numbered.into_iter().find(|n| conflict(n).is_none()).unwrap_or(name)
}
