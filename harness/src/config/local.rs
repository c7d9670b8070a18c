//! `local.toml` and `NAME.local.toml` next to a sweep file: paths and devices of this machine, kept out of shared
//! files.

use super::document;
use super::errors::{ConfigError, ConfigErrors};
use super::keys::{self, Kind};
use super::layers::{Layer, settings};
use crate::fsutil::read_text;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Keys that such files may hold, in addition to those of `[slurm]` and the files of `[data]`.
const KEYS: [&str; 6] =
    ["device", "precision", "threads", "tokenizer.path", "exam.sheets", "exam.dev_sheets"];

/// Top-level entries of a sweep file that are not keys of a trial.
pub const SWEEP_SECTIONS: [&str; 10] =
    ["name", "description", "preset", "base", "axes", "zip", "solve", "exclude", "sample", "tune"];

/// The allowed keys, as messages list them.
const ALLOWED: &str = "device, precision, threads, tokenizer.path, exam.sheets, exam.dev_sheets, the files of [data] and [slurm]";

/// A file next to a sweep file with the paths and devices of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Sweep file that it overrides.
    pub sweep: PathBuf,
    /// Path of the file.
    pub file: PathBuf,
    /// Text of the file.
    pub text: String,
}

impl Local {
    /// Reads the existing local files of a sweep file: first that of all sweeps in the folder, then its own.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn beside(sweep: &Path) -> Result<Vec<Self>> {
        let stem = sweep.file_stem().unwrap_or_default().to_string_lossy();
        let mut found = vec![];
        for name in ["local.toml".to_string(), format!("{stem}.local.toml")] {
            let file = sweep.with_file_name(name);
            if file != sweep && file.is_file() {
                let text = read_text(&file)?;
                found.push(Self { sweep: sweep.into(), file, text });
            }
        }
        Ok(found)
    }

    /// Returns the keys that it sets; invalid ones are left out.
    pub fn keys(&self) -> Vec<String> {
        let layer = self.layer(&mut ConfigErrors::default());
        layer.settings.into_iter().map(|setting| setting.key).collect()
    }

    /// Returns its settings, with paths resolved against its own folder; problems go into `errors`.
    pub(super) fn layer(&self, errors: &mut ConfigErrors) -> Layer {
        let name = self.file.display().to_string();
        let mut layer = Layer { name: name.clone(), ..Layer::default() };
        let entries = match document::parse(&name, &self.text) {
            Ok(entries) => entries,
            Err(error) => {
                errors.push(error);
                return layer;
            }
        };
        let (foreign, own): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| SWEEP_SECTIONS.contains(&entry.key.as_str()));
        for entry in foreign {
            let problem = match entry.key.as_str() {
                "base" => "is not needed here: write [data] instead of [base.data]".into(),
                _ => format!("belongs to the sweep, {}; expected {ALLOWED}", self.sweep.display()),
            };
            errors.push(ConfigError::new(entry.place, entry.key, problem));
        }
        let folder = self.file.parent().unwrap_or(Path::new(""));
        for mut setting in settings(&own, errors) {
            let kind = keys::find(&setting.key).map(|spec| &spec.kind);
            let is_of_files = matches!(kind, Some(Kind::Sources));
            if !is_of_files && !KEYS.contains(&setting.key.as_str()) && !setting.key.starts_with("slurm.") {
                let problem = format!(
                    "is not a setting of this machine; move it to the sweep, {}; expected {ALLOWED}",
                    self.sweep.display()
                );
                errors.push(ConfigError::new(setting.place, setting.key, problem));
                continue;
            }
            if is_of_files || setting.key.contains('.') && !setting.key.starts_with("slurm.") {
                resolve_against(folder, &mut setting.value);
            }
            layer.settings.push(setting);
        }
        layer
    }
}

/// Prepends a folder to every relative path of a value.
fn resolve_against(folder: &Path, value: &mut Value) {
    match value {
        Value::String(path) => *path = folder.join(&path).display().to_string(),
        Value::Array(items) => items.iter_mut().for_each(|item| resolve_against(folder, item)),
        Value::Object(table) => table.values_mut().for_each(|item| resolve_against(folder, item)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn local(text: &str) -> Local {
        Local { sweep: "sweeps/a.toml".into(), file: "sweeps/local.toml".into(), text: text.into() }
    }

    fn read(text: &str) -> Result<Vec<(String, Value)>, String> {
        let mut errors = ConfigErrors::default();
        let layer = local(text).layer(&mut errors);
        let settings = layer.settings.into_iter().map(|setting| (setting.key, setting.value)).collect();
        errors.or(settings).map_err(|errors| errors.to_string())
    }

    #[test]
    fn paths_are_seen_from_the_folder_of_the_file() {
        let text = "threads = 4\ndevice = 'cuda'\ntokenizer.path = '/t'\n[data]\npretrain = ['../text/*.txt', '/b']\n\
                    pretrain_val = { wiki = ['w.txt'] }\n[exam]\nsheets = 'ceval/val'\n[slurm]\npartition = 'gpu'\n";
        let found = read(text).unwrap();
        let wanted = [
            ("threads", json!(4)),
            ("device", json!("cuda")),
            ("tokenizer.path", json!("/t")),
            ("data.pretrain", json!(["sweeps/../text/*.txt", "/b"])),
            ("data.pretrain_val", json!({ "wiki": ["sweeps/w.txt"] })),
            ("exam.sheets", json!("sweeps/ceval/val")),
            ("slurm.partition", json!("gpu")),
        ];
        assert_eq!(found, wanted.map(|(key, value)| (key.to_string(), value)));
        assert_eq!(local(text).keys()[..2], ["threads", "device"]);
    }

    #[test]
    fn what_is_no_matter_of_the_machine_is_refused() {
        let wrong = |text: &str| read(text).unwrap_err();
        assert_eq!(
            wrong("threads = 2\n[pretrain]\nlr = 1e-3\n[data]\nval_share = 0.1\n"),
            format!(
                "sweeps/local.toml:3: pretrain.lr: is not a setting of this machine; move it to the sweep, sweeps/a.toml; expected {ALLOWED}\n\
                 sweeps/local.toml:5: data.val_share: is not a setting of this machine; move it to the sweep, sweeps/a.toml; expected {ALLOWED}"
            )
        );
        assert_eq!(
            wrong("[base.data]\npretrain = ['a']\n[axes]\nseed = [1]"),
            format!(
                "sweeps/local.toml:1: base: is not needed here: write [data] instead of [base.data]\n\
                 sweeps/local.toml:3: axes: belongs to the sweep, sweeps/a.toml; expected {ALLOWED}"
            )
        );
        assert_eq!(wrong("thread = 2"), "sweeps/local.toml:1: thread: unknown key; did you mean threads?");
        assert!(wrong("threads = = 2").starts_with("sweeps/local.toml:1: not valid TOML"));
        assert!(wrong("threads = 'many'").starts_with("sweeps/local.toml:1: threads: is 'many'"));
    }

    #[test]
    fn the_files_beside_a_sweep_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let sweep = dir.path().join("a.toml");
        assert_eq!(Local::beside(&sweep).unwrap(), []);
        for name in ["a.local.toml", "b.local.toml", "local.toml"] {
            std::fs::write(dir.path().join(name), "threads = 1").unwrap();
        }
        let found = Local::beside(&sweep).unwrap();
        let names: Vec<_> = found.iter().map(|local| local.file.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["local.toml", "a.local.toml"]);
        assert_eq!(Local::beside(&dir.path().join("local.toml")).unwrap(), []);
    }
}
