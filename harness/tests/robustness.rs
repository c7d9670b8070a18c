//! Damaged or malicious files: every reader ends, in bounded memory, with an error that names the file.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/src/readers.rs"]
mod readers;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use readers::{READERS, Reader};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Number of damaged files per reader.
const CASES: u32 = 150;

/// Maximum time to read a small file, on a busy machine.
const LONGEST: Duration = Duration::from_secs(10);

/// Maximum memory of all readers together, in MB.
const MAX_MB: f64 = 1500.0;

/// A change to a valid file.
#[derive(Debug, Clone)]
enum Damage {
    /// One bit flips.
    Flip(prop::sample::Index, u8),
    /// The file is truncated.
    Cut(prop::sample::Index),
    /// A number is replaced, usually by a huge one.
    Number(prop::sample::Index, &'static str),
    /// Brackets are nested deeply.
    Nest(prop::sample::Index, &'static str, usize),
    /// A part of the file is repeated.
    Again(prop::sample::Index, prop::sample::Index),
    /// Bytes of a length field are replaced.
    Length(prop::sample::Index, [u8; 4]),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    const LENGTHS: [[u8; 4]; 3] = [[255; 4], [255, 255, 255, 127], [0; 4]];
    const NUMBERS: [&str; 7] =
        ["18446744073709551615", "9223372036854775808", "4294967295", "-1", "1e400", "nan", "0"];
    const OPENINGS: [&str; 8] = ["[", "{\"a\":", "(", "{{", "{% if x %}", "a.", "\"", "- "];
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        at().prop_map(Damage::Cut),
        (at(), prop::sample::select(&NUMBERS)).prop_map(|(at, number)| Damage::Number(at, number)),
        (at(), prop::sample::select(&OPENINGS), prop_oneof![Just(40), Just(300), Just(20_000)])
            .prop_map(|(at, opening, depth)| Damage::Nest(at, opening, depth)),
        (at(), at()).prop_map(|(from, to)| Damage::Again(from, to)),
        (at(), prop::sample::select(&LENGTHS)).prop_map(|(at, l)| Damage::Length(at, l)),
    ]
}

impl Damage {
    fn apply(&self, file: &mut Vec<u8>) {
        if file.is_empty() {
            return;
        }
        match self {
            Damage::Flip(at, bit) => {
                let at = at.index(file.len());
                file[at] ^= 1 << bit;
            }
            Damage::Cut(at) => file.truncate(at.index(file.len())),
            Damage::Number(at, number) => {
                let starts: Vec<usize> = (0..file.len())
                    .filter(|&i| file[i].is_ascii_digit() && (i == 0 || !file[i - 1].is_ascii_digit()))
                    .collect();
                if !starts.is_empty() {
                    let start = starts[at.index(starts.len())];
                    let length = file[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    file.splice(start..start + length, number.bytes());
                }
            }
            Damage::Nest(at, opening, depth) => {
                let at = at.index(file.len());
                file.splice(at..at, opening.repeat(*depth).into_bytes());
            }
            Damage::Again(from, to) => {
                let (from, to) = (from.index(file.len()), to.index(file.len()));
                let piece = file[from.min(to)..from.max(to)].to_vec();
                file.splice(from..from, piece);
            }
            Damage::Length(at, bytes) => {
                let at = at.index(file.len());
                let end = (at + bytes.len()).min(file.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
    }
}

/// Reads a file in a temporary folder; returns the error, if there is one, and whether it names a file of that folder.
fn read(reader: &Reader, bytes: &[u8]) -> Option<(String, bool)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(reader.file);
    std::fs::write(&path, bytes).unwrap();
    let error = format!("{:#}", (reader.read)(&path).err()?);
    let is_named = error.contains(&format!("{}/", dir.path().display()));
    Some((error, is_named))
}

fn check(name: &str) {
    let reader = READERS.iter().find(|reader| reader.name == name).unwrap();
    assert_eq!(read(reader, &(reader.valid)()), None, "{name}: the valid file is read");
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let refused = Cell::new(0);
    let tested = runner.run(&prop::collection::vec(damage(), 1..4), |changes| {
        let mut file = (reader.valid)();
        changes.iter().for_each(|change| change.apply(&mut file));
        let began = Instant::now();
        let error = read(reader, &file);
        prop_assert!(began.elapsed() < LONGEST, "{name} took {:?}", began.elapsed());
        if let Some((error, is_named)) = error {
            refused.set(refused.get() + 1);
            prop_assert!(is_named, "{name}: the error does not name the file: {error}");
        }
        Ok(())
    });
    if let Err(error) = tested {
        panic!("{name}: {error}");
    }
    // Damage is often harmless, as in plain text; but a reader that accepts nearly all files does not check.
    assert!(refused.get() > CASES / 10, "{name} refused {} of {CASES} damaged files", refused.get());
    assert!(harness::system::peak_rss_mb() < MAX_MB, "{name} took too much memory");
}

macro_rules! robust {
    ($($test:ident: $reader:literal,)*) => {
        $(#[test] fn $test() { check($reader); })*
        #[test]
        fn every_reader_is_tested() {
            let mut tested = [$($reader),*];
            let mut readers: Vec<&str> = READERS.iter().map(|reader| reader.name).collect();
            tested.sort_unstable();
            readers.sort_unstable();
            assert_eq!(tested.as_slice(), readers);
        }
    };
}

robust! {
    sweep_files: "sweep",
    experiment_files: "experiment",
    rows_of_text: "jsonl",
    conversations: "chats",
    preference_pairs: "pairs",
    tables: "csv",
    exam_sheets: "sheets",
    tokenizers: "tokenizer",
    chat_templates: "template",
    safetensors_files: "safetensors",
    pytorch_files: "pth",
    model_shapes: "shape",
    foreign_shapes: "foreign",
    manifests: "manifest",
    stores: "store",
}
