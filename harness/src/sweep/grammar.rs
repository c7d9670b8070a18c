//! Parses a sweep file: its sections, checked key by key.

use super::axis::{Exclude, axes, zip};
use super::{Overrides, Sweep, Tune, draw, solve};
use crate::config::{
    ConfigError, ConfigErrors, Entry, Layer, Node, SWEEP_SECTIONS, Setting, did_you_mean, find, get,
    is_section, load_layers, parse, settings,
};
use crate::fsutil::file_name_problem;
use std::collections::BTreeMap;

/// Parses the text of a sweep file as far as possible; errors are added to `errors`.
pub fn read(file: &str, text: &str, overrides: &Overrides, errors: &mut ConfigErrors) -> Option<Sweep> {
    let entries = match parse(file, text) {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    let before = errors.errors.len();
    let mut name = None;
    let mut base = Layer { name: file.into(), ..Layer::default() };
    let mut sweep = Parts::default();
    for entry @ Entry { key, place, node, .. } in &entries {
        let mut tables = |what: &str| tables(key, place, node, what, errors);
        match key.as_str() {
            "name" => name = label(key, place, node, errors),
            // Only for human readers.
            "description" => {
                if node.str().is_none() {
                    errors.push(wrong(key, place, node, "text in quotes"));
                }
            }
            "preset" => match node.str() {
                Some(name) => base.preset = Some((name.into(), place.clone())),
                None => errors.push(wrong(key, place, node, "the name of a preset in quotes")),
            },
            "base" => {
                if let Some(entries) = table(key, place, node, errors) {
                    add_once(&mut base.settings, settings(entries, errors), errors);
                }
            }
            // No result depends on it, so it may be set here or under `[base]`.
            "slurm" => {
                let asked = settings(std::slice::from_ref(entry), errors);
                add_once(&mut base.settings, asked, errors);
            }
            "axes" => {
                if let Some(entries) = table(key, place, node, errors) {
                    sweep.axes = axes(entries, errors);
                }
            }
            "zip" => {
                for (place, entries) in tables("[[zip]]") {
                    sweep.zips.extend(zip(&place, &entries, errors));
                }
            }
            "solve" => {
                if let Some(entries) = table(key, place, node, errors) {
                    sweep.solve = solve::read(entries, errors);
                }
            }
            "exclude" => {
                for (place, entries) in tables("[[exclude]]") {
                    sweep.exclude.push(Exclude::read(&place, &entries, errors));
                }
            }
            "sample" => {
                if let Some(entries) = table(key, place, node, errors) {
                    sweep.sample = Some(draw::read(place, entries, errors));
                }
            }
            "tune" => {
                if let Some(entries) = table(key, place, node, errors) {
                    sweep.tune = Tune::read(place, entries, errors);
                }
            }
            section if is_section(section) && node.table().is_some() => {
                let problem = format!("belongs under [base]: write [base.{key}]; swept keys go under [axes]");
                errors.push(ConfigError::new(place, key, problem));
                // Parsed as well, to report the errors in it.
                let meant = settings(std::slice::from_ref(entry), errors);
                add_once(&mut base.settings, meant, errors);
            }
            _ => errors.push(ConfigError::new(place, key, unknown_part(key, node))),
        }
    }
    if !entries.iter().any(|entry| entry.key == "name") {
        errors.push(no_name(file));
    }
    let base = match load_layers(base, overrides, errors) {
        Ok(base) => base,
        Err(error) => {
            errors.absorb(error);
            return None;
        }
    };
    let mut axes = sweep.axes;
    axes.extend(sweep.zips);
    let sweep = Sweep {
        name: name.unwrap_or_default(),
        file: file.into(),
        base,
        axes,
        solve: sweep.solve,
        exclude: sweep.exclude,
        sample: sweep.sample,
        tune: sweep.tune,
    };
    check_keys(&sweep, errors);
    if errors.errors.len() > before {
        // No trials will be made, so nothing else would report these.
        check_ranges(&sweep, errors);
    }
    Some(sweep)
}

/// Reports every number outside the range of its key.
fn check_ranges(sweep: &Sweep, errors: &mut ConfigErrors) {
    let varied: Vec<&Setting> = sweep.axes.iter().flat_map(|axis| axis.points.iter().flatten()).collect();
    let tuned = sweep.tune.iter().flat_map(|tune| tune.values.iter().chain(&tune.at));
    let is_varied = |key: &str| varied.iter().any(|setting| setting.key == key);
    let base = sweep.base.places.iter().filter(|(key, _)| !is_varied(key));
    let base = base.filter_map(|(key, place)| Some((key, get(&sweep.base.tree, key)?, place)));
    let others =
        varied.iter().copied().chain(tuned).map(|setting| (&setting.key, &setting.value, &setting.place));
    for (key, value, place) in base.chain(others) {
        if let Some(problem) = find(key).and_then(|spec| spec.range?.problem(value)) {
            errors.push(ConfigError::new(place, key, problem));
        }
    }
}

/// Adds settings of another section; reports keys that are already set.
fn add_once(all: &mut Vec<Setting>, more: Vec<Setting>, errors: &mut ConfigErrors) {
    for setting in more {
        match all.iter().find(|earlier| earlier.key == setting.key) {
            Some(earlier) => {
                let problem = format!("set a second time, after {}", earlier.place);
                errors.push(ConfigError::new(setting.place, setting.key, problem));
            }
            None => all.push(setting),
        }
    }
}

/// The sections that vary trials.
#[derive(Default)]
struct Parts {
    axes: Vec<super::Axis>,
    zips: Vec<super::Axis>,
    solve: Vec<super::Solve>,
    exclude: Vec<Exclude>,
    sample: Option<super::Sample>,
    tune: Option<Tune>,
}

/// Reports keys that vary in two ways, that conflict with `--set`, or that are excluded although solved or tuned.
fn check_keys(sweep: &Sweep, errors: &mut ConfigErrors) {
    let mut varied: BTreeMap<&str, &str> = BTreeMap::new();
    let axes = sweep.axes.iter().flat_map(|axis| axis.keys.iter().map(|(key, place)| (key, place)));
    let drawn = sweep.sample.iter().flat_map(|sample| sample.keys.iter().map(|key| (&key.key, &key.place)));
    let solved = sweep.solve.iter().map(|solve| (&solve.key, &solve.place));
    let tuned = sweep.tune.iter().map(|tune| (&tune.key, &tune.key_place));
    for (key, place) in axes.chain(drawn).chain(solved).chain(tuned) {
        if let Some(earlier) = varied.insert(key, place) {
            let problem = format!("varies in two ways, see {earlier}; expected one");
            errors.push(ConfigError::new(place, key, problem));
        } else if let Some(fixed) = sweep.base.fixed.get(key) {
            let problem = format!("is varied by the sweep, see {place}; remove it here or change the file");
            errors.push(ConfigError::new(fixed, key, problem));
        }
    }
    for solve in &sweep.solve {
        if let Some(problem) = solve.problem(varied.keys().copied()) {
            errors.push(ConfigError::new(&solve.place, &solve.key, problem));
        }
    }
    let is_solved = |key: &str| sweep.solve.iter().any(|solve| solve.key == key);
    for Setting { key, place, .. } in sweep.exclude.iter().flat_map(|exclude| &exclude.settings) {
        let problem = match &sweep.tune {
            _ if is_solved(key) => "is solved, expected a key that is set before solving",
            Some(tune) if tune.key == *key => "is tuned, expected a key that is set before tuning",
            _ => continue,
        };
        errors.push(ConfigError::new(place, key, problem));
    }
    for Setting { key, place, .. } in sweep.tune.iter().flat_map(|tune| &tune.at) {
        if is_solved(key) {
            let problem = "is solved for each trial, expected a key that is not";
            errors.push(ConfigError::new(place, key, problem));
        }
    }
}

fn wrong(key: &str, place: &str, node: &Node, expected: &str) -> ConfigError {
    ConfigError::new(place, key, format!("is {}, expected {expected}", node.shown))
}

/// The sweep's name; it appears in tables and is the name of its folder of results.
fn label(key: &str, place: &str, node: &Node, errors: &mut ConfigErrors) -> Option<String> {
    let Some(name) = node.str() else {
        errors.push(wrong(key, place, node, "a name that can be a file name, such as \"deep-vs-wide\""));
        return None;
    };
    if let Some(problem) = file_name_problem(name, "") {
        errors.push(ConfigError::new(place, key, format!("{} {problem}", node.shown)));
        return None;
    }
    Some(name.into())
}

/// The name in the text of a sweep file, whatever else is in it.
pub fn name(file: &str, text: &str, errors: &mut ConfigErrors) -> Option<String> {
    let entries = parse(file, text).map_err(|error| errors.push(error)).ok()?;
    match entries.iter().find(|entry| entry.key == "name") {
        Some(Entry { key, place, node, .. }) => label(key, place, node, errors),
        None => {
            errors.push(no_name(file));
            None
        }
    }
}

fn no_name(file: &str) -> ConfigError {
    ConfigError::new(file, "name", "expected a name for the sweep, such as name = \"deep-vs-wide\"")
}

fn table<'a>(key: &str, place: &str, node: &'a Node, errors: &mut ConfigErrors) -> Option<&'a [Entry]> {
    let table = node.table();
    if table.is_none() {
        errors.push(wrong(key, place, node, &format!("a table [{key}]")));
    }
    table
}

/// The tables of a section that may occur several times.
fn tables(
    key: &str,
    place: &str,
    node: &Node,
    expected: &str,
    errors: &mut ConfigErrors,
) -> Vec<(String, Vec<Entry>)> {
    let mut tables = Vec::new();
    let Some(items) = node.array() else {
        errors.push(wrong(key, place, node, &format!("tables, each under {expected}")));
        return tables;
    };
    for item in items {
        match item.table() {
            Some(entries) => tables.push((item.place.clone(), entries.to_vec())),
            None => errors.push(wrong(key, &item.place, item, &format!("a table under {expected}"))),
        }
    }
    tables
}

fn unknown_part(key: &str, node: &Node) -> String {
    let is_key = |key: &str| find(key).is_some();
    let has_keys = |entry: &Entry| is_key(&format!("{key}.{}", entry.key));
    if is_key(key) || node.table().is_some_and(|entries| entries.iter().any(has_keys)) {
        return format!("belongs under [base], as in [base] {key} = ..., or under [axes]");
    }
    let known = || SWEEP_SECTIONS.into_iter().chain(["slurm"]);
    match did_you_mean(key, known()).as_str() {
        "" => format!("unknown key, expected {}", known().collect::<Vec<_>>().join(", ")),
        hint => format!("unknown key{hint}"),
    }
}
