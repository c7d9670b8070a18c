//! Experiments over several sweeps, through the command line.

use crate::common::{TINY, mindscale};
use predicates::str::contains;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const EXPERIMENT: &str = r#"
sweeps = ["../sweeps/narrow.toml", "../sweeps/both.toml"]
[[table]]
name = "by_sweep"
rows = ["sweep", "model.d_model"]
columns = ["val.bpb"]
[[compare]]
claim = "wider models predict better"
metric = "val.bpb"
a = "model.d_model == 24"
b = "model.d_model == 16 and sweep == 'both'"
paired_by = ["seed"]
"#;

/// The rows of a CSV file, as cells by column name.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    csv::Reader::from_path(path).unwrap().deserialize().map(Result::unwrap).collect()
}

#[test]
fn several_sweeps_share_their_trials_and_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for folder in ["sweeps", "experiments"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    let sweep = |name: &str, axes: &str| {
        let text = TINY.replace("\"tiny\"", &format!("{name:?}"));
        let text = format!("{text}[base.data]\nval_share = 0.2\n[axes]\n{axes}");
        fs::write(dir.join("sweeps").join(name).with_extension("toml"), text).unwrap();
    };
    // The trial with width 16 and seed 2 is in both sweeps.
    sweep("narrow", "seed = [1, 2]\n");
    sweep("both", "seed = [2, 3]\n\"model.d_model\" = [16, 24]\n");
    fs::write(dir.join("experiments/x.toml"), EXPERIMENT).unwrap();
    let run = |file: &str| mindscale(dir).args(["run", file]).assert().code(0);
    // Tokenizer and data are shared; each of five trials has three training stages and an exam.
    run("experiments/x.toml")
        .stdout(contains("22 stage runs done here, 0 already done"))
        .stderr(contains("2 seeds per setting detect differences of at least"));
    mindscale(dir)
        .args(["status", "experiments/x.toml"])
        .assert()
        .stdout(contains("6 done, 0 running, 0 failed"));

    let trials = rows(&dir.join("results/x/trials.csv"));
    let column = |name: &str| trials.iter().map(|row| row[name].as_str()).collect::<Vec<_>>();
    assert_eq!(column("sweep"), ["narrow", "narrow; both", "both", "both", "both"]);
    assert_eq!(column("seed"), ["1", "2", "2", "3", "3"]);
    assert_eq!(column("model.d_model"), ["16", "16", "24", "16", "24"]);
    assert_eq!(column("status"), ["done"; 5]);
    let bpb: Vec<f64> = column("val_bpb").iter().map(|cell| cell.parse().unwrap()).collect();

    // The table counts the trials of each sweep, the shared trial in both.
    let table = fs::read_to_string(dir.join("results/x/tables/by_sweep.md")).unwrap();
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    assert!(table.contains("Means over 2 seeds"), "{table}");
    let table: Vec<Vec<String>> =
        table.lines().skip(2).filter(|line| line.starts_with('|')).map(cells).collect();
    assert_eq!(table.len(), 3);
    for (row, (sweep, width, a, b)) in
        table.iter().zip([("narrow", "16", 0, 1), ("both", "16", 1, 3), ("both", "24", 2, 4)])
    {
        assert_eq!(row[..2], [sweep, width]);
        let mean = format!("{:.3} ±", (bpb[a] + bpb[b]) / 2.0);
        assert!(row.last().unwrap().trim_start_matches('*').starts_with(&mean), "{mean} is not in {row:?}");
    }
    // Width 16 is one setting with three seeds, in whichever sweep they are.
    let summary = rows(&dir.join("results/x/summary.csv"));
    let seeds = |row: &BTreeMap<String, String>| (row["params"].clone(), row["seeds"].clone());
    let params = |trial: usize| trials[trial]["params"].clone();
    assert_eq!(
        summary.iter().map(seeds).collect::<Vec<_>>(),
        [(params(0), "3".into()), (params(2), "2".into())]
    );
    let compared = &rows(&dir.join("results/x/comparisons.csv"))[0];
    assert_eq!([&compared["test"], &compared["n_a"], &compared["n_b"]], ["paired t", "2", "2"]);
    let effect = (bpb[2] - bpb[1] + bpb[4] - bpb[3]) / 2.0;
    assert!((compared["effect"].parse::<f64>().unwrap() - effect).abs() < 1e-12, "{compared:?}");

    // A sweep on its own finds its trials done, with the same numbers.
    run("sweeps/narrow.toml").stdout(contains("0 stage runs done here, 10 already done"));
    let alone = rows(&dir.join("results/narrow/trials.csv"));
    for (alone, shared) in alone.iter().zip(&trials) {
        for name in ["trial", "seed", "params", "train_tokens", "val_bpb", "exam_correct", "wall_seconds"] {
            assert_eq!(alone[name], shared[name], "{name}");
        }
        assert_eq!(alone["sweep"], "narrow");
    }
    assert_eq!(alone.len(), 2);
}
