//! Atomic creation of folders: they are filled next to their final path and renamed.

use super::{create_dir, parent};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Prefixes of the names of folders that are being filled or replaced.
pub(super) const DRAFTS: [&str; 2] = [".preparing-", ".replaced-"];

/// Fills a folder next to `out` and renames it to `out` when it is complete; if `fill` fails, nothing is left.
///
/// An existing folder at `out` is replaced if it is empty or `is_ours` returns true.
///
/// # Errors
/// If `fill` fails, something else exists at `out`, or a folder cannot be written.
pub fn whole<T>(
    out: &Path,
    is_ours: impl Fn(&Path) -> bool,
    fill: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    let shown = out.display();
    let is_empty = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    ensure!(
        !out.exists() || is_empty(out) || is_ours(out),
        "{shown}: exists already; choose another folder or remove it"
    );
    let parent = parent(out);
    create_dir(parent)?;
    let beside = |prefix: &str| {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        #[cfg(unix)]
        {
            // Temporary folders are private by default; this one becomes an ordinary folder, so the umask decides.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        builder.tempdir_in(parent).with_context(|| format!("{}: cannot be written", parent.display()))
    };
    let dir = beside(DRAFTS[0])?;
    let filled = fill(dir.path())?;
    let rename = || -> Result<()> {
        if out.exists() {
            let aside = beside(DRAFTS[1])?;
            fs::rename(out, aside.path().join("old"))?;
        }
        fs::rename(dir.path(), out)?;
        super::sync_dir(parent);
        Ok(())
    };
    rename().with_context(|| format!("{shown}: cannot be written"))?;
    // The folder has been renamed, so there is nothing to remove.
    let _ = dir.keep();
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/a");
        let names = || fs::read_dir(dir.path().join("deep")).unwrap().count();
        let fill = |inner: &Path| Ok(fs::write(inner.join("x"), "1")?);
        let fail = |inner: &Path| -> Result<()> { fill(inner).and_then(|()| bail!("no")) };
        whole(&out, |_| false, fail).unwrap_err();
        assert_eq!(names(), 0);
        whole(&out, |_| false, fill).unwrap();
        assert_eq!((fs::read(out.join("x")).unwrap(), names()), (b"1".to_vec(), 1));
        let error = whole(&out, |_| false, fill).unwrap_err().to_string();
        assert!(error.ends_with("a: exists already; choose another folder or remove it"), "{error}");
        whole(&out, |_| true, |_| Ok(())).unwrap();
        assert_eq!((fs::read_dir(&out).unwrap().count(), names()), (0, 1));
        // An empty folder may always be replaced.
        whole(&out, |_| false, fill).unwrap();
    }
}
