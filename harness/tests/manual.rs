//! The examples of the manual are valid, each as the kind of file that it shows.

use harness::config::{Overrides, PRESETS};
use harness::report::Experiment;
use harness::run::{Layers, ReadOptions, Work};
use harness::sweep::Sweep;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A sweep for examples that are parts of experiments, with everything that they name.
const ASKED: &str = "name = 'asked'\n[base.exam]\nat = [0.5, 1.0]\naverage_last = 2\n[axes]\nseed = [1, 2]\n\
                     'model.n_layers' = [2, 4, 8]\n'pretrain.flops' = [1e12, 2e12]\n";

/// The file of measured speeds that an example names, with a row for each of its shapes.
const SPEEDS: (&str, &str) =
    ("results/speeds/trials.csv", "model.n_layers,pretrain.tokens_per_second\n2,20000\n4,10000\n8,5000\n");

/// Settings that disable what parts of sweeps leave out, so that they need no files.
const REST: [&str; 4] = ["sft.enabled=false", "dpo.enabled=false", "exam.enabled=false", "data.sft=[]"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every TOML block of the manual, with its location.
fn blocks() -> Vec<(String, String)> {
    let mut pages = vec![root().join("README.md")];
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    pages.sort();
    let mut found = vec![];
    for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
        let text = fs::read_to_string(page).unwrap();
        let name = page.file_name().unwrap().to_string_lossy();
        let mut open: Option<(usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.trim_end()) {
                (None, "```toml") => open = Some((number + 1, String::new())),
                (Some((from, block)), "```") => {
                    found.push((format!("{name}:{from}"), std::mem::take(block)));
                    open = None;
                }
                (Some((_, block)), line) => *block += &format!("{line}\n"),
                (None, _) => {}
            }
        }
        assert!(open.is_none(), "{name}: a block has no end");
    }
    found
}

/// Whether a text has a key of an experiment.
fn is_experiment(text: &str) -> bool {
    !matches!(Experiment::read_text(Path::new("example.toml"), text), Ok(None))
}

/// Reads an experiment as a file in `experiments/`, and checks it against the trials of its sweeps.
fn experiment(text: &str) -> anyhow::Result<usize> {
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("experiments"))?;
    fs::create_dir(dir.path().join("sweeps"))?;
    for entry in fs::read_dir(root().join("sweeps"))? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with("local.toml") {
            fs::copy(&path, dir.path().join("sweeps").join(path.file_name().unwrap()))?;
        }
    }
    fs::write(dir.path().join("sweeps/asked.toml"), ASKED)?;
    let file = dir.path().join("experiments/example.toml");
    let is_part = !text.lines().any(|line| line.starts_with("sweeps"));
    fs::write(
        &file,
        if is_part { format!("sweeps = [\"../sweeps/asked.toml\"]\n{text}") } else { text.into() },
    )?;
    let (runs, results) = (dir.path().join("runs"), dir.path().join("results"));
    let options = ReadOptions { runs: Some(runs), results, ..ReadOptions::default() };
    let work = Work::read(&file, &options, Layers::Given)?;
    Ok(work.graph()?.trials.len())
}

/// Reads a sweep or a part of one.
fn sweep(text: &str) -> anyhow::Result<usize> {
    let is_whole = text.lines().any(|line| line.starts_with("name ="));
    let named = if is_whole { text.into() } else { format!("name = \"example\"\n{text}") };
    let dir = tempfile::tempdir()?;
    let speeds = dir.path().join("trials.csv");
    fs::write(&speeds, SPEEDS.1)?;
    let named = named.replace(SPEEDS.0, &speeds.to_string_lossy());
    let is_set = |key: &str| {
        let (section, name) = key.split_once('.').unwrap();
        text.contains(&format!("[base.{section}]")) && text.contains(&format!("{name} ="))
            || text.contains(&format!("{key}\""))
    };
    let rest = REST.iter().filter(|set| !is_whole && !is_set(set.split_once('=').unwrap().0));
    let overrides = Overrides { set: rest.map(ToString::to_string).collect(), ..Overrides::default() };
    Ok(Sweep::read_str("example.toml", &named, &overrides)?.expand()?.len())
}

/// Reads a local file of the machine, placed next to a sweep.
fn local(text: &str) -> anyhow::Result<usize> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("study/sweeps");
    fs::create_dir_all(&folder)?;
    // The paths that the text names exist.
    fs::create_dir(dir.path().join("corpus"))?;
    fs::write(dir.path().join("corpus/a.jsonl"), "")?;
    let file = folder.join("a.toml");
    let stages = ["sft", "dpo", "exam"].map(|stage| format!("[base.{stage}]\nenabled = false\n")).concat();
    fs::write(&file, format!("name = \"a\"\n[base.data]\nsource = \"files\"\n{stages}"))?;
    fs::write(folder.join("local.toml"), text)?;
    let options = ReadOptions { results: dir.path().join("results"), ..ReadOptions::default() };
    Ok(Work::read(&file, &options, Layers::Given)?.trials.len())
}

#[test]
fn every_example_can_be_read_expanded_and_checked() {
    let mut wrong = vec![];
    let mut read: BTreeMap<&str, usize> = BTreeMap::new();
    for (place, text) in blocks() {
        let (kind, found) = if PRESETS.iter().any(|(_, preset)| preset.trim_end() == text.trim_end()) {
            ("preset", Ok(1))
        } else if text
            .lines()
            .next()
            .is_some_and(|line| line.starts_with('#') && line.ends_with("local.toml"))
        {
            ("local", local(&text))
        } else if is_experiment(&text) {
            ("experiment", experiment(&text))
        } else {
            ("sweep", sweep(&text))
        };
        *read.entry(kind).or_default() += 1;
        match found {
            Ok(trials) if trials > 0 => {}
            Ok(_) => wrong.push(format!("{place}: no trials")),
            Err(error) => wrong.push(format!("{place}: as {kind}: {error:#}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((read["preset"], read["local"]), (PRESETS.len(), 1), "{read:?}");
    assert!(read["sweep"] > 8 && read["experiment"] >= 1, "{read:?}");
}
