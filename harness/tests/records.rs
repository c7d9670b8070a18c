//! Reports from the records of stage runs in the results folder, without the stage runs.

use crate::common::{TINY, mindscale};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file of a results folder with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => drop(found.insert(path.strip_prefix(dir).unwrap().into(), fs::read(&path).unwrap())),
            }
        }
    }
    found
}

/// Two depths with two seeds each; the deeper ones fail.
fn sweep() -> String {
    format!(
        "{TINY}[axes]\nseed = [1, 2]\n[[zip]]\n\"model.n_layers\" = [1, 2]\n\"pretrain.lr\" = [1e-3, 1e20]\n"
    )
}

#[test]
fn a_report_is_the_same_without_its_stage_runs() {
    let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    fs::write(here.path().join("sweep.toml"), sweep()).unwrap();
    mindscale(here.path()).args(["run", "sweep.toml"]).assert().failure();
    let written = files(&here.path().join("results"));
    let kept = |name: &Path| name.parent().is_some_and(|folder| folder.ends_with("records"));
    // Tokenizer and data for all trials; all four stages of two trials, and the failed stage of the other two.
    assert_eq!(written.keys().filter(|name| kept(name)).count(), 2 + 2 * 4 + 2);
    let records: usize = written.iter().filter(|(name, _)| kept(name)).map(|(_, bytes)| bytes.len()).sum();
    assert!(records < 60_000, "{records} bytes");
    // On another machine, with only the sweep and the results.
    fs::write(there.path().join("sweep.toml"), sweep()).unwrap();
    for (name, bytes) in &written {
        let path = there.path().join("results").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Everything except the records is made again.
        if kept(name) || name.ends_with("record.json") {
            fs::write(path, bytes).unwrap();
        }
    }
    mindscale(there.path()).args(["report", "sweep.toml"]).assert().success();
    let again = files(&there.path().join("results"));
    assert_eq!(written.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    for (name, bytes) in &written {
        assert!(again[name] == *bytes, "{}", name.display());
    }
    let trials = String::from_utf8_lossy(&again[Path::new("tiny/trials.csv")]).into_owned();
    assert_eq!(trials.matches("training diverged").count(), 2, "{trials}");
    // Records serve reports only: a run trains what is missing.
    let plan = mindscale(there.path()).args(["plan", "sweep.toml"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&plan.stdout).contains(": done"));
}

#[test]
fn a_damaged_record_is_named_and_one_that_nothing_needs_goes() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("results/tiny/records");
    fs::write(dir.path().join("sweep.toml"), TINY).unwrap();
    mindscale(dir.path()).args(["run", "sweep.toml"]).assert().success();
    let before = files(&records);
    fs::write(records.join("notes.txt"), "a user's").unwrap();
    fs::write(records.join("sft-00000000-0000-0000-0000-000000000007.json.gz"), "of another time").unwrap();
    mindscale(dir.path()).args(["run", "sweep.toml"]).assert().success();
    let after = files(&records);
    assert_eq!(after.len(), before.len() + 1);
    assert!(after.contains_key(Path::new("notes.txt")));
    let one = records.join(before.keys().next().unwrap());
    fs::write(&one, "not gzip").unwrap();
    fs::remove_dir_all(dir.path().join("runs")).unwrap();
    let refused = mindscale(dir.path()).args(["report", "sweep.toml"]).assert().failure();
    let stderr = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(
        stderr.contains(&format!(
            "{}: is damaged; remove or restore it",
            one.file_name().unwrap().to_string_lossy()
        )),
        "{stderr}"
    );
}
