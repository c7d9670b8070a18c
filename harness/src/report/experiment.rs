//! Experiment files: a question, the sweeps that answer it, and what the report shows.

use super::check::{Asked, Outlook};
use super::columns::Names;
use super::fields::Fields;
use super::kind::FigureSpec;
use super::laws::FitSpec;
use super::observation::Results;
use super::wanted::{CompareSpec, Layout, TableSpec};
use crate::config::{ConfigError, ConfigErrors, Entry, Node, did_you_mean, near_file, parse};
use crate::fsutil::without_detours;
use crate::records::TrialRecord;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// An experiment: what is asked, of which sweeps, and what is to be shown.
#[derive(Debug, Clone, Default)]
pub struct Experiment {
    /// Title of the report.
    pub title: String,
    /// The question.
    pub question: String,
    /// What was decided before the runs, in prose.
    pub protocol: Option<Protocol>,
    /// Sweep files.
    pub sweeps: Vec<PathBuf>,
    /// Where each was named.
    sweep_places: Vec<String>,
    /// What columns are called.
    pub names: Names,
    /// The figures; none asks for the usual ones.
    pub figures: Vec<FigureSpec>,
    /// The tables beside the summary.
    pub tables: Vec<TableSpec>,
    /// The comparisons, tested together.
    pub comparisons: Vec<CompareSpec>,
    /// The laws that are fitted.
    pub fits: Vec<FitSpec>,
    /// What all of these ask of the trials, for [`Self::check`].
    asked: Vec<Asked>,
}

/// A file with the protocol of a study: hypotheses, units, margins, stopping rule.
#[derive(Debug, Clone)]
pub struct Protocol {
    place: String,
    /// The file.
    pub path: PathBuf,
}

const KEYS: [&str; 9] =
    ["title", "question", "protocol", "sweeps", "labels", "figure", "table", "compare", "fit"];

impl Experiment {
    /// Reads an experiment file, with all its errors at once; `None` for a file with no key of one, such as a sweep.
    ///
    /// # Errors
    /// All that is wrong with it, each with its line.
    pub fn read_if_experiment(path: &Path) -> Result<Option<Self>> {
        let mut errors = ConfigErrors::default();
        let experiment = Self::read_as_far(path, &mut errors)?;
        Ok(errors.or(experiment)?)
    }

    /// The same, with all that is wrong among `errors`, and the experiment as far as it can be read.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read_as_far(path: &Path, errors: &mut ConfigErrors) -> Result<Option<Self>> {
        let name = path.display().to_string();
        let text = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
        let Ok(text) = String::from_utf8(text) else { bail!("{name}: is not UTF-8") };
        Ok(Self::of_text(path, &text, errors))
    }

    /// As [`Self::read_if_experiment`], of the text of the file at `path`.
    ///
    /// # Errors
    /// All that is wrong with it, each with its line.
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

    /// What is wrong with the name of a sweep, by its place among [`Self::sweeps`], where there is no such file.
    pub fn no_sweep(&self, index: usize) -> Option<ConfigError> {
        let (file, place) = (self.sweeps.get(index)?, self.sweep_places.get(index)?);
        let hint = near_file(file, Path::new(""));
        (!file.is_file()).then(|| {
            let problem = format!("{} is no file, expected that of a sweep{hint}", file.display());
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
        if !entries.iter().any(|entry| entry.key == "sweeps") {
            let problem = "is missing, expected a list of sweep files, such as [\"../sweeps/smoke.toml\"]";
            errors.push(ConfigError::new(file, "sweeps", problem));
        }
        experiment
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
                figure.name = unused(&mut fields, figure.name, &taken);
                self.figures.push(figure);
            }
            "table" => {
                let number = self.tables.len() + 1;
                let Some(mut spec) = TableSpec::read(&mut fields, format!("table_{number}")) else { return };
                // A layout of several tables has another file beside its own.
                let subjects = self.tables.iter().filter(|t| t.layout != Layout::Means);
                let subjects: Vec<String> = subjects.map(|t| format!("{}_subjects", t.name)).collect();
                let taken = self.tables.iter().map(|t| &t.name).chain(&subjects);
                let taken: Vec<&str> = taken.map(String::as_str).collect();
                spec.name = unused(&mut fields, spec.name, &taken);
                self.tables.push(spec);
            }
            "fit" => {
                let Some(mut spec) = FitSpec::read(&mut fields, format!("fit_{}", self.fits.len() + 1))
                else {
                    return;
                };
                let taken: Vec<&str> = self.fits.iter().map(|f| f.name.as_str()).collect();
                spec.name = unused(&mut fields, spec.name, &taken);
                self.fits.push(spec);
            }
            _ => self.comparisons.extend(CompareSpec::read(&mut fields)),
        }
        self.asked.push(Asked::read(section, place, entries));
    }

    /// What is asked of a sweep that is run by itself.
    pub fn for_sweep(name: &str, trials: &[TrialRecord]) -> Self {
        let question = match trials.len() {
            1 => format!("What did the one trial of {name} come to?"),
            n => format!("How do the {n} trials of {name} compare?"),
        };
        Self { title: name.into(), question, ..Self::default() }
    }

    /// Holds all that is asked for against the trials, which need not have run: what none of them can give is a mistake.
    ///
    /// # Errors
    /// Names a protocol that is not there, every condition that no trial can meet, every name that none will have, and the claims whose sides have
    /// trials in common or no pairs.
    pub fn check(&self, trials: &[TrialRecord]) -> Result<(), ConfigErrors> {
        let results = Results::new(trials, &[]);
        let outlook = Outlook::of(&results);
        let mut errors = ConfigErrors::default();
        if let Some(Protocol { place, path }) =
            self.protocol.as_ref().filter(|protocol| !protocol.path.is_file())
        {
            let problem = format!("{} is no file, expected the text of the study's protocol", path.display());
            errors.push(ConfigError::new(place, "protocol", problem));
        }
        self.asked.iter().for_each(|asked| asked.check(&outlook, &mut errors));
        errors.or(())
    }
}

/// The sweep files with the places where they are named.
fn sweeps(node: &Node, folder: &Path) -> Option<(Vec<PathBuf>, Vec<String>)> {
    let file = |file: &Node| Some((without_detours(&folder.join(file.str()?)), file.place.clone()));
    let files: (Vec<_>, Vec<_>) =
        node.array()?.iter().map(file).collect::<Option<Vec<_>>>()?.into_iter().unzip();
    Some(files).filter(|(files, _)| !files.is_empty())
}

/// The name, or the name with a number behind it where it was made and is taken; a chosen name may not be taken.
fn unused(fields: &mut Fields, name: String, taken: &[&str]) -> String {
    if !taken.contains(&name.as_str()) {
        return name;
    }
    if fields.entries.iter().any(|entry| entry.key == "name") {
        fields.problem("name", format!("is {name:?} a second time, expected another"));
    }
    let numbered = (2..).map(|number| format!("{name}_{number}"));
    numbered.into_iter().find(|n| !taken.contains(&n.as_str())).unwrap_or(name)
}
