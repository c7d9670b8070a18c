//! What a sweep file may say, and the trials that follow.

use super::Trial;
use super::sample::Sample;
use super::solve::Constraint;
use crate::config::{Overrides, check_key, did_you_mean, keys, leaves, preset, resolve};
use anyhow::{Context, Result, anyhow, bail};
use std::collections::BTreeSet;
use std::path::Path;
use toml::de::DeTable;
use toml::{Table, Value};

/// Tables and keys of a sweep file.
const PARTS: [&str; 9] =
    ["name", "description", "preset", "base", "axes", "zip", "solve", "exclude", "sample"];

/// Errors shown at once; more are counted.
const SHOWN: usize = 20;

/// A sweep file, read and checked as far as single keys go.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Name of the sweep.
    pub name: String,
    file: String,
    base: Vec<(String, Value)>,
    /// Sets of values that are combined: one key with its values, or several that move together.
    axes: Vec<Axis>,
    solve: Vec<(String, Constraint)>,
    exclude: Vec<Vec<(String, Value)>>,
    sample: Option<Sample>,
    overrides: Vec<(String, Value)>,
}

/// Settings of which each trial takes one.
type Axis = Vec<Vec<(String, Value)>>;

/// Collects problems with their places.
struct Problems<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<String>,
}

impl Problems<'_> {
    fn add(&mut self, path: &[&str], problem: impl std::fmt::Display) {
        let place = match line_of(self.text, path) {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.to_string(),
        };
        self.found.push(format!("{place}: {problem}"));
    }
}

/// The line of a key of a TOML file.
fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut at = None;
    for (depth, name) in path.iter().enumerate() {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
        at = Some(key.span().start);
        if depth + 1 < path.len() {
            let inner = value.get_ref();
            // Of a list of tables, the first that has the key.
            let tables = inner.as_table().into_iter().chain(
                inner.as_array().into_iter().flat_map(|a| a.iter().filter_map(|v| v.get_ref().as_table())),
            );
            let next = path[depth + 1];
            let mut tables = tables.filter(|t| t.iter().any(|(key, _)| key.get_ref() == next));
            match tables.next() {
                Some(next) => table = next,
                None => break,
            }
        }
    }
    at.map(|at| text[..at.min(text.len())].matches('\n').count() + 1)
}

impl Sweep {
    /// Reads a sweep file.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let text = String::from_utf8(text).map_err(|_| anyhow!("{}: is not UTF-8", path.display()))?;
        Self::read_str(&path.display().to_string(), &text, overrides)
    }

    /// Reads the text of a sweep file; `file` names it in errors.
    pub fn read_str(file: &str, text: &str, overrides: &Overrides) -> Result<Self> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            anyhow!("{file}:{line}: {}", e.message())
        })?;
        let mut problems = Problems { file, text, found: vec![] };
        for key in table.keys().filter(|k| !PARTS.contains(&k.as_str())) {
            problems.add(&[key], format!("{key}: unknown key{}", did_you_mean(key, PARTS)));
        }
        let known = keys();
        let name = match table.get("name") {
            Some(Value::String(name)) if !name.is_empty() && !name.contains('/') => name.clone(),
            _ => {
                problems
                    .add(&["name"], "name: expected a name for the sweep, such as name = \"deep-vs-wide\"");
                String::new()
            }
        };
        let section = |part: &str, problems: &mut Problems| match table.get(part) {
            None => Table::new(),
            Some(Value::Table(table)) => table.clone(),
            Some(_) => {
                problems.add(&[part], format!("{part}: expected a table [{part}]"));
                Table::new()
            }
        };
        let list = |part: &str, problems: &mut Problems| -> Vec<Table> {
            let tables = match table.get(part) {
                None => Some(vec![]),
                Some(Value::Array(items)) => items.iter().map(|v| v.as_table().cloned()).collect(),
                Some(_) => None,
            };
            tables.unwrap_or_else(|| {
                problems.add(&[part], format!("{part}: expected tables [[{part}]]"));
                vec![]
            })
        };

        let mut base = vec![];
        let named = overrides.preset.clone().or_else(|| table.get("preset")?.as_str().map(String::from));
        if let Some(named) = named {
            match preset(&named) {
                Ok(preset) => base.extend(leaves(&preset)),
                Err(e) => problems.add(&["preset"], e),
            }
        }
        for (key, value) in leaves(&section("base", &mut problems)) {
            let path: Vec<&str> = std::iter::once("base").chain(key.split('.')).collect();
            match check_key(&key, &known).and_then(|()| resolve(&[(key.clone(), value.clone())]).map(drop)) {
                Ok(()) => base.push((key, value)),
                Err(e) => problems.add(&path, e),
            }
        }
        let mut axes: Vec<Axis> = vec![];
        let mut swept = BTreeSet::new();
        let mut add_axis = |part: &str, columns: &[(String, Value)], problems: &mut Problems| {
            let mut rows: Axis = vec![];
            for (key, values) in columns {
                let checked = check_key(key, &known).and_then(|()| match values {
                    Value::Array(values) if !values.is_empty() => Ok(values),
                    _ => Err(format!("{key}: expected a list of values")),
                });
                let values = match checked {
                    Ok(values) => values,
                    Err(e) => return problems.add(&[part, key], e),
                };
                if !swept.insert(key.clone()) {
                    return problems.add(&[part, key], format!("{key}: is swept twice"));
                }
                if rows.is_empty() {
                    rows = vec![vec![]; values.len()];
                }
                if rows.len() != values.len() {
                    let problem =
                        format!("{key}: has {} values, the keys beside it have {}", values.len(), rows.len());
                    return problems.add(&[part, key], problem);
                }
                for (row, value) in rows.iter_mut().zip(values) {
                    if let Err(e) = resolve(&[(key.clone(), value.clone())]) {
                        return problems.add(&[part, key], e);
                    }
                    row.push((key.clone(), value.clone()));
                }
            }
            if !rows.is_empty() {
                axes.push(rows);
            }
        };
        for (key, values) in section("axes", &mut problems) {
            add_axis("axes", &[(key, values)], &mut problems);
        }
        for table in list("zip", &mut problems) {
            let columns: Vec<(String, Value)> = table.into_iter().collect();
            add_axis("zip", &columns, &mut problems);
        }
        let mut solve = vec![];
        for (key, value) in section("solve", &mut problems) {
            let constraint = check_key(&key, &known).and_then(|()| Constraint::new(&key, &value));
            match constraint {
                Ok(constraint) => solve.push((key, constraint)),
                Err(e) => problems.add(&["solve", &key], e),
            }
        }
        let mut exclude = vec![];
        for table in list("exclude", &mut problems) {
            for key in table.keys() {
                if let Err(e) = check_key(key, &known) {
                    problems.add(&["exclude", key], e);
                }
            }
            exclude.push(table.into_iter().collect());
        }
        let sample = section("sample", &mut problems);
        let sample = if sample.is_empty() { None } else { Some(Sample::new(&sample, &known)) };
        let sample = match sample.transpose() {
            Ok(sample) => sample,
            Err((key, e)) => {
                problems.add(&["sample", &key], e);
                None
            }
        };
        let mut set = vec![];
        for (key, value, origin) in overrides.entries()? {
            let free = if swept.contains(&key) || solve.iter().any(|(k, _)| *k == key) {
                Err(format!("{key}: is swept by {file}, so it cannot be set; change the sweep"))
            } else {
                check_key(&key, &known).and_then(|()| resolve(&[(key.clone(), value.clone())]).map(drop))
            };
            match free {
                Ok(()) => set.push((key, value)),
                Err(e) => problems.found.push(format!("{origin}: {e}")),
            }
        }
        fail(problems.found)?;
        Ok(Self { name, file: file.into(), base, axes, solve, exclude, sample, overrides: set })
    }

    /// All trials, each complete and valid.
    pub fn expand(&self) -> Result<Vec<Trial>> {
        let mut settings: Vec<Vec<(String, Value)>> = vec![vec![]];
        for axis in &self.axes {
            let combined =
                settings.iter().flat_map(|set| axis.iter().map(move |row| [&set[..], &row[..]].concat()));
            settings = combined.collect();
        }
        if let Some(sample) = &self.sample {
            let drawn = sample.draw();
            let combined =
                settings.iter().flat_map(|set| drawn.iter().map(move |row| [&set[..], &row[..]].concat()));
            settings = combined.collect();
        }
        let (mut trials, mut problems, mut seen) = (vec![], vec![], BTreeSet::new());
        for setting in settings {
            if self.exclude.iter().any(|excluded| excluded.iter().all(|pair| setting.contains(pair))) {
                continue;
            }
            let told: Vec<String> = setting.iter().map(|(k, v)| format!("{k} = {v}")).collect();
            let place = if told.is_empty() {
                self.file.clone()
            } else {
                format!("{} ({})", self.file, told.join(", "))
            };
            match self.trial(&setting) {
                Ok(trial) => {
                    if seen.insert(serde_json::to_string(&trial.config)?) {
                        trials.push(trial);
                    } else {
                        problems.push(format!("{place}: the same trial occurs twice"));
                    }
                }
                Err(found) => problems.extend(found.into_iter().map(|p| format!("{place}: {p}"))),
            }
        }
        fail(problems)?;
        if trials.is_empty() {
            bail!("{}: leaves no trial to run", self.file);
        }
        Ok(trials)
    }

    fn trial(&self, setting: &[(String, Value)]) -> Result<Trial, Vec<String>> {
        let mut entries = [&self.base[..], &self.overrides[..], setting].concat();
        let mut shown: Vec<String> = setting.iter().map(|(k, _)| k.clone()).collect();
        for (key, constraint) in &self.solve {
            let config = resolve(&entries).map_err(|e| vec![e])?;
            entries.push((key.clone(), constraint.solve(key, &config).map_err(|e| vec![e])?));
            shown.push(key.clone());
        }
        let config = resolve(&entries).map_err(|e| vec![e])?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let tree = serde_json::to_value(&config).map_err(|e| vec![e.to_string()])?;
        let value =
            |key: &String| tree.pointer(&format!("/{}", key.replace('.', "/"))).cloned().unwrap_or_default();
        let keys = shown.iter().map(|key| (key.clone(), value(key))).collect();
        Ok(Trial { sweep: self.name.clone(), config, keys })
    }
}

/// All problems as one error.
fn fail(mut problems: Vec<String>) -> Result<()> {
    let mut seen = BTreeSet::new();
    problems.retain(|p| seen.insert(p.clone()));
    if problems.is_empty() {
        return Ok(());
    }
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    bail!("{}", problems.join("\n"))
}
