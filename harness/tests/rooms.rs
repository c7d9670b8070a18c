//! Module order: a room, which is a module of the library, imports nothing from the rooms above it. And no file of tests
//! is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the ground up; each may import those before it.
const ROOMS: [&str; 24] = [
    "stop", "fsutil", "net", "system", "track", "records", "config", "sweep", "runs", "data", "train",
    "exam", "export", "fetch", "plan", "models", "recipe", "execute", "status", "report", "compare", "bench",
    "run", "serve",
];

/// The module above all rooms.
const ROOF: &str = "cli";

/// The module for tests only.
const TESTS: &str = "testing";

#[test]
fn no_room_imports_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for path in rust_files(&source) {
        let inside = path.strip_prefix(&source).unwrap();
        let first = inside.iter().next().unwrap().to_string_lossy();
        let room = first.trim_end_matches(".rs").to_string();
        if ["lib", "main", TESTS].contains(&room.as_str()) || is_test_file(inside) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (line, imported) in imports(without_tests(&text)) {
            if imported != room && place(&imported) >= place(&room) {
                wrong.push(format!("{}:{line}: {room} imports {imported}", inside.display()));
            }
        }
        seen.insert(room);
    }
    let known: BTreeSet<String> = ROOMS.iter().chain([&ROOF]).map(ToString::to_string).collect();
    assert_eq!(seen, known, "the list of rooms is that of the modules");
    assert!(wrong.is_empty(), "arrows that point up:\n{}", wrong.join("\n"));
}

/// Files of tests are modules of one target per crate: one that `main.rs` does not name would never be compiled.
#[test]
fn every_file_of_tests_is_compiled() {
    let harness = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (tests, targets) in
        [(harness.join("tests"), vec!["main", "robustness"]), (harness.join("../model/tests"), vec!["main"])]
    {
        let main = fs::read_to_string(tests.join("main.rs")).unwrap();
        for file in fs::read_dir(&tests).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_stem().unwrap().to_string_lossy();
            let is_code = file.extension().is_some_and(|end| end == "rs") && !targets.contains(&&*name);
            assert!(
                !is_code || main.contains(&format!("\nmod {name};")),
                "{}: not a module of main.rs",
                file.display()
            );
        }
    }
}

#[test]
fn an_import_is_found_wherever_it_stands() {
    let text = "use crate::{cli::say, data};\nfn f() { crate::report::write(); }\n/// [`crate::exam`]\n";
    let found = imports(text);
    let expected = [(1, "cli"), (1, "data"), (2, "report")].map(|(line, room)| (line, room.to_string()));
    assert_eq!(found, expected);
}

fn place(room: &str) -> usize {
    ROOMS.iter().position(|known| *known == room).unwrap_or(ROOMS.len())
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false if path.extension().is_some_and(|end| end == "rs") => files.push(path),
            false => {}
        }
    }
    files
}

fn is_test_file(path: &Path) -> bool {
    path.iter().any(|part| {
        ["tests", "tests.rs", "testing.rs", "golden.rs", "simulations.rs"].contains(&&*part.to_string_lossy())
    })
}

/// A file without the test module at its end.
fn without_tests(text: &str) -> &str {
    let is_module = |after: &str| {
        let line = after.lines().nth(1).unwrap_or_default();
        line.trim_start_matches("pub ").starts_with("mod ") && line.ends_with('{')
    };
    let mut tests = text.match_indices("#[cfg(test)]\n").filter(|(start, _)| is_module(&text[*start..]));
    tests.next().map_or(text, |(end, _)| &text[..end])
}

/// Every room that code names, with the line number; links in documentation do not count.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for (at, start) in line.match_indices("crate::") {
            let rest = &line[at + start.len()..];
            let names: Vec<&str> = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').map(str::trim).collect(),
                None => vec![rest],
            };
            for name in names {
                let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
                found.push((number + 1, name[..end].to_string()));
            }
        }
    }
    found
}
