//! Tests that all errors in a file are reported at once, before anything starts.
#![allow(clippy::unwrap_used)]

use super::{Layers, ReadOptions, Work};
use std::fs;
use std::path::Path;

const SWEEP: &str = "name = 's'\n[axes]\nseed = [1, 2]\n'model.n_layers' = [2, 4]\n";

/// The errors of an experiment over the sweep `s.toml`, without the folder in their paths.
fn problems(experiment: &str, sweep: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.toml"), experiment).unwrap();
    fs::write(dir.path().join("s.toml"), sweep).unwrap();
    of(dir.path(), "x.toml")
}

fn of(dir: &Path, file: &str) -> Vec<String> {
    let options =
        ReadOptions { runs: Some(dir.join("runs")), results: dir.join("results"), ..ReadOptions::default() };
    let work = Work::read(&dir.join(file), &options, Layers::Given).and_then(|work| work.graph());
    let error = work.err().map_or(String::new(), |error| format!("{error:#}"));
    error.replace(&format!("{}/", dir.display()), "").lines().map(Into::into).collect()
}

#[test]
fn mistakes_of_an_experiment_and_of_its_sweeps_are_reported_together() {
    let experiment = "sweeps = ['s.toml', 'gone.toml']\n[[table]]\nrows = ['seed']\ncolums = ['val.bpb']\n";
    let sweep = "name = 's'\n[base.model]\nn_head = 4\n[axis]\nseed = [1]\n";
    assert_eq!(
        problems(experiment, sweep),
        [
            "x.toml:4: table.colums: unknown key; did you mean columns?",
            "x.toml:2: table.columns: is missing, expected columns = [\"val.bpb\", \"exam.accuracy\"]",
            "x.toml:3: table.rows: names \"seed\", but tables are means over seeds; remove it",
            "s.toml:3: model.n_head: unknown key; did you mean model.n_heads?",
            "s.toml:4: axis: unknown key; did you mean axes?",
            "x.toml:1: sweeps: gone.toml is not a file, expected a sweep file",
        ]
    );
    // A misspelled file name.
    assert_eq!(
        problems("sweeps = [\n  'ss.toml']\n", SWEEP),
        ["x.toml:2: sweeps: ss.toml is not a file, expected a sweep file; did you mean s.toml?"]
    );
}

#[test]
fn what_trials_cannot_give_is_reported_beside_mistakes_of_the_file() {
    let claim = |a: &str| {
        format!("[[compare]]\nclaim = 'c'\nmetric = 'val.bpb'\na = \"{a}\"\nb = \"model.n_layers == 2\"\n")
    };
    let experiment =
        format!("sweeps = ['s.toml']\n{}{}", claim("model.n_layers = 4"), claim("model.n_layers == 8"));
    assert_eq!(
        problems(&experiment, SWEEP),
        [
            "x.toml:5: compare.a: has \"=\" at character 16, expected ==, !=, <, <=, > or >=",
            "x.toml:10: compare.a: \"model.n_layers == 8\" holds for none of the 4 trials: model.n_layers is 2, 4",
        ]
    );
    // Without sweeps nothing is reported about trials.
    let without = experiment.replace("sweeps = ['s.toml']", "sweeps = []");
    assert_eq!(problems(&without, SWEEP).len(), 2);
}

#[test]
fn missing_files_are_reported_beside_other_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("text")).unwrap();
    fs::write(dir.path().join("text/train.jsonl"), "{}").unwrap();
    let text = "name = 's'\n[base.model]\nn_heads = 3\n[base.data]\nsource = 'files'\npretrain = ['DIR/text/tran.jsonl']\nsft = ['DIR/text']\n\
                [base.dpo]\nenabled = false\n[base.exam]\nenabled = false\n";
    fs::write(dir.path().join("s.toml"), text.replace("DIR", &dir.path().display().to_string())).unwrap();
    let missing = [
        "s.toml:6: data.pretrain: no file matches \"text/tran.jsonl\"; did you mean text/train.jsonl?",
        "s.toml:7: data.sft: \"text\" is a folder, expected a file or a glob such as \"text/*.jsonl\"",
    ];
    let found = of(dir.path(), "s.toml");
    assert_eq!(found[1..], missing);
    assert!(
        found[0].starts_with("s.toml:3: model.d_model: 128 is not divisible by n_heads = 3"),
        "{}",
        found[0]
    );
    // The same together with a name that is not valid for a file.
    let text = fs::read_to_string(dir.path().join("s.toml")).unwrap().replace("'s'", "'a/b'");
    fs::write(dir.path().join("s.toml"), text).unwrap();
    let found = of(dir.path(), "s.toml");
    assert!(found[0].starts_with("s.toml:1: name: 'a/b' does not fit a file"), "{found:?}");
    assert_eq!(found[found.len() - 2..], missing);
}
