//! Finds files and folders that a sweep names but that do not exist, with the lines that name them.

use crate::config::{
    ConfigError, NamedFiles, Source, TrainStage, TrialConfig, near_file, recipe, source_key,
};
use crate::data::files::pattern_problem;
use crate::exam::sheets_problem;
use crate::sweep::{Reading, Sweep};
use std::collections::BTreeSet;
use std::path::Path;

/// The problems with the files that the trials of a sweep read, each once.
pub fn missing(sweep: &Sweep) -> Vec<ConfigError> {
    let mut seen = BTreeSet::new();
    let mut found = vec![];
    for Reading { config, places } in sweep.readings() {
        for (key, shown, named) in named(&config) {
            let place = places.get(key).cloned().unwrap_or_default();
            if let Some(problem) = named.problem(folder_of(&place))
                && seen.insert((place.clone(), shown.clone(), problem.clone()))
            {
                found.push(ConfigError::new(place, shown, problem));
            }
        }
    }
    found
}

/// A file or folder that a configuration names.
enum Named<'a> {
    /// Files, by a path or a glob.
    Files(&'a str),
    /// A tokenizer file, or its folder.
    Tokenizer(&'a str),
    /// A folder of sheets, and the split that is read.
    Sheets(&'a str, &'static str),
}

/// Everything that a trial reads, each with the key that names it and the name of the key for display.
fn named(config: &TrialConfig) -> Vec<(&'static str, String, Named<'_>)> {
    let mut files = config.files_of(&recipe(config));
    let (tokenizer, exam) = (&config.tokenizer.path, &config.exam);
    if tokenizer.is_none() && config.data.source == Source::Files {
        let (key, sources) = TrainStage::Pretrain.files(&config.data);
        let text: Vec<NamedFiles> = NamedFiles::of(key, sources).collect();
        files.extend(text);
    }
    let mut found = vec![];
    for NamedFiles { key, source, patterns } in files {
        found.extend(patterns.iter().map(|pattern| (key, source_key(key, source), Named::Files(pattern))));
    }
    let mut add = |key: &'static str, named| found.push((key, key.to_string(), named));
    if let Some(path) = tokenizer {
        add("tokenizer.path", Named::Tokenizer(path));
    }
    if !config.exams().is_empty() {
        if let Some(folder) = &exam.sheets {
            add("exam.sheets", Named::Sheets(folder, "val"));
        }
        if let Some(folder) = exam.dev_sheets.as_ref().filter(|_| exam.shots > 0) {
            add("exam.dev_sheets", Named::Sheets(folder, "dev"));
        }
    }
    found
}

impl Named<'_> {
    /// What is wrong with it; messages show paths relative to `from`, since the configuration names them so.
    fn problem(&self, from: &Path) -> Option<String> {
        let written =
            |path: &str| Path::new(path).strip_prefix(from).unwrap_or(Path::new(path)).display().to_string();
        let hint = |path: &str, else_: &str| match near_file(Path::new(path), from) {
            hint if hint.is_empty() => else_.to_string(),
            hint => hint,
        };
        match *self {
            Self::Files(pattern) => pattern_problem(pattern, from),
            Self::Tokenizer(path) => (!Path::new(path).exists()).then(|| {
                let hint = hint(path, "; expected a tokenizer.json or its folder");
                format!("there is no \"{}\"{hint}", written(path))
            }),
            Self::Sheets(path, _) if !Path::new(path).is_dir() => {
                let hint = hint(path, "");
                Some(format!("\"{}\" is not a folder, expected a folder of sheets{hint}", written(path)))
            }
            Self::Sheets(path, split) => sheets_problem(Path::new(path), split)
                .map(|problem| format!("\"{}\" {problem}", written(path))),
        }
    }
}

/// The folder that paths at a place are relative to: the file's own for a local file, such as `sweeps/local.toml:3`; else empty.
fn folder_of(place: &str) -> &Path {
    let file = Path::new(place.rsplit_once(':').map_or(place, |(file, _)| file));
    let is_local = file.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name == "local.toml" || name.ends_with(".local.toml")
    });
    file.parent().filter(|_| is_local).unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Local, Overrides};
    use std::fs;

    /// The problems of a sweep in a folder with some files, with places relative to the folder.
    fn problems(text: &str, local: Option<&str>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let root = format!("{}/", dir.path().display());
        fs::create_dir_all(dir.path().join("text/more")).unwrap();
        fs::create_dir_all(dir.path().join("sheets")).unwrap();
        fs::create_dir_all(dir.path().join("other")).unwrap();
        fs::create_dir_all(dir.path().join("sweeps")).unwrap();
        for file in ["text/train.jsonl", "sheets/law_val.csv", "other/law_val.csv", "other/eco_val.tsv"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        let sweep = dir.path().join("sweeps/a.toml");
        fs::write(&sweep, text.replace("DIR/", &root)).unwrap();
        let local = local.map(|text| Local {
            sweep: sweep.clone(),
            file: sweep.with_file_name("local.toml"),
            text: text.into(),
        });
        let overrides = Overrides { local: local.into_iter().collect(), ..Overrides::default() };
        let sweep = Sweep::read(&sweep, &overrides).unwrap();
        missing(&sweep).iter().map(|error| error.to_string().replace(&root, "")).collect()
    }

    #[test]
    fn each_missing_file_is_reported_by_its_line_with_the_nearest_name() {
        let text = "name = 'a'\n[base.data]\nsource = 'files'\npretrain = ['DIR/text/tran.jsonl']\nsft = ['DIR/text/more', 'DIR/text/train.jsonl']\n\
                    dpo = { a = ['DIR/text/*.csv'], b = ['DIR/txt/*.jsonl'] }\n[base.exam]\nsheets = 'DIR/sheet'\n[base.tokenizer]\npath = 'DIR/text/tok'\n";
        assert_eq!(
            problems(text, None),
            [
                "sweeps/a.toml:4: data.pretrain: no file matches \"text/tran.jsonl\"; did you mean text/train.jsonl?",
                "sweeps/a.toml:5: data.sft: \"text/more\" is a folder, expected a file or a glob such as \"text/more/*.jsonl\"",
                "sweeps/a.toml:6: data.dpo.a: no file matches \"text/*.csv\"; expected a file or a glob, relative to the current folder",
                "sweeps/a.toml:6: data.dpo.b: no file matches \"txt/*.jsonl\"; did you mean text/*.jsonl?",
                "sweeps/a.toml:10: tokenizer.path: there is no \"text/tok\"; expected a tokenizer.json or its folder",
                "sweeps/a.toml:8: exam.sheets: \"sheet\" is not a folder, expected a folder of sheets; did you mean sheets?",
            ]
        );
        let empty = "name = 'a'\n[base.exam]\nsheets = 'DIR/text'\n";
        assert_eq!(
            problems(empty, None),
            [
                "sweeps/a.toml:3: exam.sheets: \"text\" holds no <subject>_val.csv sheet, nor <subject>_val.jsonl"
            ]
        );
        let other = "name = 'a'\n[base.exam]\nsheets = 'DIR/other'\n";
        assert_eq!(
            problems(other, None),
            [
                "sweeps/a.toml:3: exam.sheets: \"other\" holds eco_val.tsv, which cannot be read; expected <subject>_val.csv or <subject>_val.jsonl: convert, rename or remove what is not"
            ]
        );
    }

    #[test]
    fn only_what_is_read_must_be_there_and_axes_have_lines_of_their_own() {
        let unread = "name = 'a'\n[base.data]\nsource = 'files'\npretrain = ['DIR/text/train.jsonl']\nsft = ['nowhere']\n\
                      [base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n[base.exam]\nenabled = false\nsheets = 'nowhere'\n";
        assert_eq!(problems(unread, None), [""; 0]);
        let varied = format!(
            "{unread}[axes]\n'data.pretrain_val' = [['DIR/text/train.jsonl'],\n ['DIR/text/tain.jsonl']]\nseed = [1, 2]\n"
        );
        assert_eq!(
            problems(&varied, None),
            [
                "sweeps/a.toml:15: data.pretrain_val: no file matches \"text/tain.jsonl\"; did you mean text/train.jsonl?"
            ]
        );
    }

    #[test]
    fn files_of_the_machine_are_seen_from_their_folder() {
        let text = "name = 'a'\n[base.data]\nsource = 'files'\n[base.sft]\nenabled = false\n[base.dpo]\nenabled = false\n[base.exam]\nenabled = false\n";
        let of = |files: &str| problems(text, Some(&format!("threads = 1\n[data]\npretrain = [{files}]\n")));
        assert_eq!(of("'../text/train.jsonl'"), [""; 0]);
        assert_eq!(
            of("'../text/tran.jsonl', '../text/x.csv'"),
            [
                "sweeps/local.toml:3: data.pretrain: no file matches \"../text/tran.jsonl\"; did you mean ../text/train.jsonl?",
                "sweeps/local.toml:3: data.pretrain: no file matches \"../text/x.csv\"; expected a file or a glob, relative to sweeps",
            ]
        );
    }
}
