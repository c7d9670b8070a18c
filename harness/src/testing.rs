//! For tests: the folder of reference data beside the project.

use std::path::PathBuf;

/// A file of the shared folder; `None`, with a message, where there is no such folder.
///
/// # Panics
/// Where `CI` is `true` and the file is missing: there the tests must not be skipped.
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MINDSCALE_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{} is missing", path.display());
    eprintln!("skipped: {} is not here", path.display());
    None
}
