//! For tests: the folder of reference data next to the project.

use std::path::PathBuf;

/// Returns the path of a file in the shared folder; `None`, with a message, if it is missing.
///
/// # Panics
/// If `CI` is `true` and the file is missing: tests must not be skipped there.
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
