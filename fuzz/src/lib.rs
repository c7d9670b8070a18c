//! Fuzzing of every file reader, through the functions that the property tests use.

pub mod readers;

use readers::READERS;

/// Reads fuzzer input as the file that the named reader expects.
pub fn feed(name: &str, bytes: &[u8]) {
    let (Some(reader), Ok(dir)) = (READERS.iter().find(|reader| reader.name == name), tempfile::tempdir())
    else {
        return;
    };
    let path = dir.path().join(reader.file);
    if std::fs::write(&path, bytes).is_ok() {
        // Errors are fine; only crashes count.
        let _ = (reader.read)(&path);
    }
}
