//! Fuzzing of every reader through the functions that the property tests use.

pub mod readers;

use readers::READERS;

/// Reads what a fuzzer made up, as the file that the reader of this name expects.
pub fn feed(name: &str, bytes: &[u8]) {
    let (Some(reader), Ok(dir)) = (READERS.iter().find(|reader| reader.name == name), tempfile::tempdir())
    else {
        return;
    };
    let path = dir.path().join(reader.file);
    if std::fs::write(&path, bytes).is_ok() {
        // An error is as good as a result; what is looked for are crashes.
        let _ = (reader.read)(&path);
    }
}
