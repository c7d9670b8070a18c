//! The verb `init`: writes a new sweep and experiment, with comments that explain what to change.

use super::{note, say};
use crate::data::files::pattern_problem;
use crate::fsutil::write_atomic;
use anyhow::{Result, bail, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Name of the study and of its files
    name: String,
    /// Files or globs of text to train on instead of the built-in world
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pretrain: Vec<String>,
    /// Folder that contains sweeps/ and experiments/; unset: the current one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Writes `sweeps/<name>.toml` and `experiments/<name>.toml`, neither of which may exist.
pub fn init(args: &InitArgs) -> Result<bool> {
    let name = &args.name;
    let is_plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    ensure!(
        !name.is_empty() && name.chars().all(is_plain),
        "the name {name:?} cannot be used for files: expected letters, digits, - and _, such as deep-or-wide"
    );
    let dir = args.dir.clone().unwrap_or_default();
    let files = [("sweeps", sweep(args)), ("experiments", experiment(args))]
        .map(|(folder, text)| (dir.join(folder).join(format!("{name}.toml")), text));
    if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
        bail!("{} is there already; choose another name, or remove it first", path.display());
    }
    for problem in args.pretrain.iter().filter_map(|pattern| pattern_problem(pattern, Path::new(""))) {
        note(&format!("--pretrain: {problem}"));
    }
    for (path, text) in &files {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        write_atomic(path, text.as_bytes())?;
        say(path.display())?;
    }
    say(format!("\nmindscale run {}", files[1].0.display()))?;
    Ok(true)
}

fn sweep(args: &InitArgs) -> String {
    let files = toml::Value::from(args.pretrain.clone()).to_string();
    // Minutes for all trials on a laptop; natural text needs a larger vocabulary than the built-in world.
    let (data, stages, sizes) = match args.pretrain.is_empty() {
        true => (include_str!("world.toml"), include_str!("world_stages.toml"), ["640", "200_000"]),
        false => (include_str!("files.toml"), include_str!("files_stages.toml"), ["2000", "500_000"]),
    };
    let [vocab_size, params] = sizes;
    let places = [
        ("{data}", data),
        ("{stages}", stages),
        ("{files}", &files),
        ("{name}", &args.name),
        ("{vocab_size}", vocab_size),
        ("{params}", params),
    ];
    let text = include_str!("sweep.toml").to_owned();
    places.iter().fold(text, |text, (place, value)| text.replace(place, value))
}

fn experiment(args: &InitArgs) -> String {
    let exam = if args.pretrain.is_empty() { ", \"exam.accuracy\", \"exam.p_guess\"" } else { "" };
    include_str!("experiment.toml").replace("{name}", &args.name).replace("{exam}", exam)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::run::{Layers, ReadOptions, Work};

    fn args(dir: &Path, pretrain: &[&str]) -> InitArgs {
        let pretrain = pretrain.iter().map(|&file| file.to_owned()).collect();
        InitArgs { name: "mine".into(), pretrain, dir: Some(dir.into()) }
    }

    fn options(dir: &Path) -> ReadOptions {
        let folder = |name: &str| dir.join(name);
        ReadOptions {
            runs: Some(folder("runs")),
            results: folder("results"),
            set: vec![],
            preset: None,
            only: None,
            note: |_| (),
        }
    }

    #[test]
    fn what_is_written_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("own text.txt");
        std::fs::write(&text, "一\n二\n").unwrap();
        for pretrain in [vec![], vec![text.to_str().unwrap()]] {
            assert!(init(&args(dir.path(), &pretrain)).unwrap());
            let file = dir.path().join("experiments/mine.toml");
            let work = Work::read(&file, &options(dir.path()), Layers::Given).unwrap();
            assert_eq!(work.trials.len(), 9);
            let refused = init(&args(dir.path(), &pretrain)).unwrap_err().to_string();
            assert!(refused.contains("sweeps/mine.toml is there already"), "{refused}");
            for folder in ["sweeps", "experiments"] {
                std::fs::remove_dir_all(dir.path().join(folder)).unwrap();
            }
        }
    }

    #[test]
    fn names_are_those_of_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", "a/b", "..", "a b"] {
            let wrong = InitArgs { name: name.into(), ..args(dir.path(), &[]) };
            assert!(init(&wrong).unwrap_err().to_string().contains("expected letters"), "{name}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
