//! Downloads of models, data sets and exams from the Hugging Face Hub, each into its own folder.
//!
//! A name flows in; a complete folder comes out, or a folder of parts next to it from which the next attempt resumes.
//! The protocol is implemented here instead of using the crate `hf-hub`: its version 1 brings in 136 crates, among them
//! a store of its own; version 0.5 sends the token to the target of redirects, appends whatever arrives to a partial
//! file, and checks no digest.

mod download;
mod hub;
mod sheets;
#[cfg(test)]
mod tests;

pub use hub::{Digest, Entry, Hub, Kind, Listing, Missing, Repo};

use crate::fsutil::folder::whole;
use crate::fsutil::{create_dir, read_text, write_atomic};
use crate::track::{Progress, listed, size};
use anyhow::{Context, Result, anyhow, bail, ensure};
use download::{Store, check_room, lock, rename};
use glob::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// File in a downloaded folder that records where it came from.
pub const RECORD: &str = "fetched.json";

/// How the files of a repository are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The same files, unchanged.
    AsTheyAre,
    /// Question sheets, extracted from the repository's archive.
    Sheets,
}

/// A download request.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Default name of the folder.
    pub folder: String,
    /// Repositories to try, in order; the first that exists is used.
    pub places: Vec<Repo>,
    /// Glob patterns of paths, of which a file has to match one; empty: all files.
    pub include: Vec<String>,
    /// How the files are stored.
    pub form: Form,
}

/// Names with a known repository: a model of MiniMind v1 and the exams.
pub const KNOWN: [&str; 3] = ["minimind", "ceval", "cmmlu"];

/// Commit with C-Eval's sheets as an archive; at `main` they are Parquet files.
const CEVAL: &str = "be1071324898d7ad556efed4d91511a310f9f295";

/// Commit of CMMLU 1.0.1.
const CMMLU: &str = "efcc940752ea4a1ea94d2727f11f83858d64fc8e";

/// Files of a model's repository that this program can use.
const OF_MODELS: [&str; 7] = ["*.json", "*.safetensors", "*.bin", "*.pth", "*.jinja", "README*", "LICENSE*"];

impl Wanted {
    /// Resolves a name: one of [`KNOWN`], or `hf:OWNER/NAME`, which is looked up first among models and then among data
    /// sets unless `kind` says which.
    ///
    /// # Errors
    /// If the name is not one of these, or `kind` is given for one of [`KNOWN`].
    pub fn named(name: &str, kind: Option<Kind>, revision: Option<&str>) -> Result<Self> {
        let repo = |kind, name: &str, usual: &str| Repo {
            kind,
            name: name.into(),
            revision: revision.unwrap_or(usual).into(),
        };
        let patterns = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
        if let Some(known) = name.strip_prefix("hf:") {
            ensure!(
                is_repository(known),
                "{name}: expected hf:OWNER/NAME, of letters, digits, -, _ and ., such as hf:jingyaogong/minimind-v1"
            );
            let kinds = kind.map_or(vec![Kind::Model, Kind::Dataset], |kind| vec![kind]);
            return Ok(Self {
                folder: known.rsplit('/').next().unwrap_or(known).into(),
                places: kinds.into_iter().map(|kind| repo(kind, known, "main")).collect(),
                include: vec![],
                form: Form::AsTheyAre,
            });
        }
        let (folder, places, include, form) = match name {
            "minimind" => {
                let small = repo(Kind::Model, "jingyaogong/minimind-v1-small", "main");
                ("minimind-v1-small", vec![small], patterns(&OF_MODELS), Form::AsTheyAre)
            }
            "ceval" => {
                let at = |usual| repo(Kind::Dataset, "ceval/ceval-exam", usual);
                ("ceval", vec![at(CEVAL), at("main")], patterns(&["*.zip"]), Form::Sheets)
            }
            "cmmlu" => {
                let at = |name, usual| repo(Kind::Dataset, name, usual);
                let places = vec![at("lmlmcat/cmmlu", CMMLU), at("haonan-li/cmmlu", "main")];
                ("cmmlu", places, patterns(&["*.zip"]), Form::Sheets)
            }
            _ => {
                let near = crate::config::did_you_mean(name, KNOWN.iter().copied());
                let hint = if is_repository(name) && name.contains('/') {
                    format!("; did you mean hf:{name}?")
                } else {
                    near
                };
                bail!("{name}: expected {} or hf:OWNER/NAME{hint}", KNOWN.join(", "))
            }
        };
        ensure!(kind.is_none(), "--kind is for hf:OWNER/NAME; {name} is known");
        Ok(Self { folder: folder.into(), places, include, form })
    }
}

/// Returns whether this can be the name of a repository: `NAME` or `OWNER/NAME`.
fn is_repository(name: &str) -> bool {
    let is_word = |word: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !word.is_empty() && !word.starts_with('.') && !word.contains("..") && word.bytes().all(is_plain)
    };
    name.split('/').count() <= 2 && name.split('/').all(is_word)
}

/// Record of a download, as stored in [`RECORD`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// `OWNER/NAME`.
    pub repository: String,
    /// Kind of the repository.
    pub kind: Kind,
    /// Requested branch, tag or commit.
    pub revision: String,
    /// Downloaded commit.
    pub commit: String,
    /// Downloaded files, with their verified digests.
    pub files: Vec<FetchedFile>,
}

/// A downloaded file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedFile {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Digest reported by the hub, which the file matches; `None` if the hub reported none.
    #[serde(flatten)]
    pub digest: Option<Digest>,
}

impl Fetched {
    /// Reads the record in a folder, if it is a downloaded one.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_str(&read_text(&dir.join(RECORD)).ok()?).ok()
    }

    /// Returns the total size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Downloads into `out`, which appears only when it is complete. An existing download of the same commit and files is
/// left as it is; one of another commit of the repository, or with other files, is replaced.
///
/// # Errors
/// If the hub does not provide a file, a file is damaged or the disk is full; then the parts stay next to `out`, in a
/// hidden folder whose name ends in `.fetching`, and the same call resumes from them.
pub fn fetch(hub: &Hub, wanted: &Wanted, out: &Path, progress: &dyn Progress) -> Result<Fetched> {
    let (repo, listing) = locate(hub, &wanted.places)?;
    let mut entries = chosen(&repo, listing.files, wanted)?;
    let is_same = |known: &Fetched| known.repository == repo.name && known.kind == repo.kind;
    if out.exists() {
        let is_empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        let known = Fetched::read(out);
        ensure!(
            is_empty || known.as_ref().is_some_and(is_same),
            "{}: exists already and is not a fetched {}; choose another folder with --out, or remove it",
            out.display(),
            repo.name
        );
        let names = |known: &Fetched| known.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        let wanted: Vec<String> = entries.iter().map(|entry| entry.path.clone()).collect();
        if let Some(known) = known
            && known.commit == listing.commit
            && names(&known) == wanted
        {
            return Ok(known);
        }
    }
    let parts = parts_of(out)?;
    create_dir(&parts)?;
    let held = lock(&parts)?;
    let store = Store { hub, repo: &repo, commit: &listing.commit, dir: &parts };
    for entry in &mut entries {
        store.complete(entry)?;
    }
    let files = download_all(&store, &entries, progress)?;
    let fetched = Fetched {
        repository: repo.name.clone(),
        kind: repo.kind,
        revision: repo.revision.clone(),
        commit: listing.commit.clone(),
        files: entries
            .into_iter()
            .zip(&files)
            .map(|(entry, at)| {
                let bytes = fs::metadata(at).map_or(0, |about| about.len());
                FetchedFile { path: entry.path, bytes, digest: entry.digest }
            })
            .collect(),
    };
    whole(
        out,
        |dir| Fetched::read(dir).is_some_and(|known| is_same(&known)),
        |dir| {
            match wanted.form {
                Form::AsTheyAre => lay_out(&fetched, &files, dir)?,
                Form::Sheets => files.iter().try_for_each(|archive| sheets::unpack(archive, dir))?,
            }
            write_atomic(&dir.join(RECORD), &serde_json::to_vec_pretty(&fetched)?)
        },
    )?;
    drop(held);
    // The folder is complete; the remaining parts are no longer needed.
    let _ = fs::remove_dir_all(&parts);
    Ok(fetched)
}

/// Returns the folder of parts, next to the final folder.
///
/// # Errors
/// If `out` has no file name, such as `..`.
pub fn parts_of(out: &Path) -> Result<PathBuf> {
    let name =
        out.file_name().with_context(|| format!("{}: expected the name of a folder", out.display()))?;
    Ok(out.with_file_name(format!(".{}.fetching", name.to_string_lossy())))
}

/// Returns the first repository that exists, with its files.
fn locate(hub: &Hub, places: &[Repo]) -> Result<(Repo, Listing)> {
    let mut first = None;
    for repo in places {
        match hub.list(repo) {
            Ok(listing) => return Ok((repo.clone(), listing)),
            Err(error) if error.is::<Missing>() => first = first.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    let kinds: Vec<Kind> = places.iter().map(|repo| repo.kind).collect();
    let error = first.unwrap_or_else(|| anyhow!("nowhere to look for it"));
    Err(if kinds.contains(&Kind::Model) && kinds.contains(&Kind::Dataset) {
        error.context("no model or data set has this name")
    } else {
        error
    })
}

/// Returns the requested files, sorted by path; an error if a path leads outside a folder.
fn chosen(repo: &Repo, files: Vec<Entry>, wanted: &Wanted) -> Result<Vec<Entry>> {
    let patterns = wanted.include.iter().map(|pattern| {
        Pattern::new(pattern)
            .map_err(|error| anyhow!("--include {pattern:?}: {}, at {}", error.msg, error.pos))
    });
    let patterns = patterns.collect::<Result<Vec<_>>>()?;
    let mut found: BTreeMap<String, Entry> = BTreeMap::new();
    let mut others = vec![];
    for entry in files {
        if entry.path == ".gitattributes" {
            continue;
        }
        if !patterns.is_empty() && !patterns.iter().any(|pattern| pattern.matches(&entry.path)) {
            others.push(entry.path);
            continue;
        }
        ensure!(
            is_inside(&entry.path) && entry.path != RECORD,
            "{}: lists a file named {:?}, which cannot be stored in its folder; nothing is fetched",
            repo.name,
            entry.path
        );
        found.insert(entry.path.clone(), entry);
    }
    let of_which = match others.len() {
        0 => "it is empty".into(),
        _ => format!("it holds {}", listed(&others, 10)),
    };
    ensure!(
        !found.is_empty(),
        "{} at {}: no file fits {}; {of_which}",
        repo.name,
        repo.revision,
        wanted.include.join(", ")
    );
    Ok(found.into_values().collect())
}

/// Returns whether a repository's path stays inside the folder that it is joined to, on any system.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':'])
        && !path.contains(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Downloads the missing files one after the other, and returns the places of all.
fn download_all(store: &Store, entries: &[Entry], progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let sizes = || entries.iter().map(|entry| entry.size.unwrap_or(0));
    let here: u64 =
        entries.iter().map(|entry| store.present(entry).min(entry.size.unwrap_or(u64::MAX))).sum();
    let total = sizes().sum();
    check_room(store.dir, sizes().sum::<u64>().saturating_sub(here))?;
    progress.start("", total, "bytes");
    let (began, mut before) = (Instant::now(), 0);
    let mut places = vec![];
    for entry in entries {
        let mut report = |bytes: u64| {
            let (done, seconds) = (before + bytes, began.elapsed().as_secs_f64());
            let speed = done.saturating_sub(here) as f64 / seconds.max(1e-3);
            progress.update(done, &format!("{}, {}/s", entry.path, size(speed as u64)));
        };
        places.push(store.fetch(entry, &mut report)?);
        before += store.present(entry);
    }
    progress.finish("");
    Ok(places)
}

/// Moves the files to their paths in the repository.
fn lay_out(fetched: &Fetched, files: &[PathBuf], dir: &Path) -> Result<()> {
    for (index, (file, at)) in fetched.files.iter().zip(files).enumerate() {
        let to = dir.join(&file.path);
        create_dir(to.parent().unwrap_or(dir))?;
        // Files with equal content were downloaded only once.
        match files[index + 1..].contains(at) {
            true => drop(fs::copy(at, &to).with_context(|| format!("{}: cannot be written", to.display()))?),
            false => rename(at, &to)?,
        }
    }
    Ok(())
}
