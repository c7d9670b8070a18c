//! docs/files.md names every file that a sweep writes, and every column of its tables.

use crate::common::{TINY, mindscale};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The name of a file in docs/files.md, if it differs from its real name.
fn called(name: &str) -> &str {
    let end = name.rsplit('.').next().unwrap_or_default();
    match name {
        _ if name.starts_with("events.out.tfevents") => "`events.out.tfevents.*`",
        _ if end == "ckpt" => "`<step>.ckpt`",
        _ if name.ends_with(".json.gz") => "`<stage>-<uuid>.json.gz`",
        _ => name,
    }
}

#[test]
fn the_page_of_files_names_every_file_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let moe = "n_experts = 2\nexpert_hidden_dim = 16\ntop_k = 1\n";
    let sweep = TINY.replace("[base.world]", &format!("{moe}[base.world]"));
    let more = "[base.data]\nval_share = 0.2\n[base.lora]\nenabled = true\nsteps = 2\nseq_len = 64\n\
                [base.exam]\nat = [0.5, 1.0]\naverage_last = 2\nafter = ['pretrain', 'dpo']\n[axes]\nseed = [1, 2]\n";
    fs::create_dir(dir.join("sweeps")).unwrap();
    fs::write(dir.join("sweeps/tiny.toml"), format!("{sweep}{more}")).unwrap();
    fs::write(
        dir.join("x.toml"),
        "sweeps = ['sweeps/tiny.toml']\n[[figure]]\nkind = 'line'\nname = 'f'\nx = 'exam.tokens'\ny = 'exam.accuracy'\n\
         [[table]]\nname = 't'\nrows = ['exam.stage']\ncolumns = ['exam.accuracy']\n\
         [[compare]]\nclaim = 'c'\nmetric = 'exam.accuracy'\na = \"exam.stage == 'dpo'\"\nb = \"exam.stage == 'pretrain'\"\npaired_by = ['seed']\n",
    )
    .unwrap();
    mindscale(dir).args(["run", "x.toml"]).assert().code(0);

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/files.md")).unwrap();
    let (mut missing, mut columns) = (BTreeSet::new(), BTreeSet::new());
    for path in files_below(&dir.join("runs")).into_iter().chain(files_below(&dir.join("results"))) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_drawn = path
            .components()
            .any(|part| ["figures", "tables"].contains(&&*part.as_os_str().to_string_lossy()));
        if !is_drawn && !page.contains(called(&name)) {
            missing.insert(name.clone());
        }
        // The columns of trials.csv are names in experiments and have their own page.
        if name.ends_with(".csv") && name != "trials.csv" {
            let head = csv::Reader::from_path(&path).unwrap().headers().unwrap().clone();
            columns.extend(head.iter().map(|column| match column.strip_prefix("expert_load_") {
                Some(_) => "expert_load_N".to_string(),
                None => column.to_string(),
            }));
        }
    }
    columns.retain(|column| !page.contains(&format!("`{column}`")));
    assert!(missing.is_empty() && columns.is_empty(), "files {missing:?}, columns {columns:?}");
}
