//! Models, data sets and exams from the Hugging Face Hub, into folders of their own.
//!
//! A name flows in; a folder comes out that is whole, or a folder of parts beside it from which the next try goes on.
//! The protocol is spoken here and not by the crate `hf-hub`: its version 1 brings 136 crates, among them a store of
//! its own; 0.5 sends the token along to where a file is redirected to, takes what comes for the rest of a part
//! whatever it is, and checks no digest.

mod download;
mod hub;
mod sheets;
#[cfg(test)]
mod tests;

pub use hub::{Digest, Entry, Hub, Kind, Listing, Missing, Repo};

use crate::fsutil::folder::whole;
use crate::fsutil::{create_dir, read_text, write_atomic};
use crate::track::{Progress, size};
use anyhow::{Context, Result, anyhow, bail, ensure};
use download::{Store, check_room, hold, rename};
use glob::Pattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The file in a fetched folder that says what it is.
pub const RECORD: &str = "fetched.json";

/// What the files of a repository become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A folder of the same files.
    AsTheyAre,
    /// A folder of question sheets, out of the archive that the repository holds.
    Sheets,
}

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The name of the folder, where no other is given.
    pub folder: String,
    /// Where it may be: the first that is there is taken.
    pub places: Vec<Repo>,
    /// Patterns of paths, of which a file has to fit one; none: all files.
    pub include: Vec<String>,
    /// What the files become.
    pub form: Form,
}

/// The models of MiniMind v1 and the exams, by the names that they have here.
pub const KNOWN: [&str; 3] = ["minimind", "ceval", "cmmlu"];

/// C-Eval's sheets as an archive; at `main` they are Parquet files.
const CEVAL: &str = "be1071324898d7ad556efed4d91511a310f9f295";

/// CMMLU 1.0.1.
const CMMLU: &str = "efcc940752ea4a1ea94d2727f11f83858d64fc8e";

/// What of a model's repository is read here.
const OF_MODELS: [&str; 7] = ["*.json", "*.safetensors", "*.bin", "*.pth", "*.jinja", "README*", "LICENSE*"];

impl Wanted {
    /// What a name means: one of [`KNOWN`] or `hf:OWNER/NAME`, which is looked for among models and then among data
    /// sets where `kind` does not say which.
    ///
    /// # Errors
    /// Where it means nothing.
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

/// Whether a name can be that of a repository: `NAME` or `OWNER/NAME`.
fn is_repository(name: &str) -> bool {
    let is_word = |word: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !word.is_empty() && !word.starts_with('.') && !word.contains("..") && word.bytes().all(is_plain)
    };
    name.split('/').count() <= 2 && name.split('/').all(is_word)
}

/// What was fetched, as [`RECORD`] keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// `OWNER/NAME`.
    pub repository: String,
    /// What it is of.
    pub kind: Kind,
    /// What was asked for.
    pub revision: String,
    /// The commit that this was.
    pub commit: String,
    /// The files that were taken from it, with the digests that were checked.
    pub files: Vec<FetchedFile>,
}

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The digest that the hub told and that it has; unset: the hub told none.
    #[serde(flatten)]
    pub digest: Option<Digest>,
}

impl Fetched {
    /// The record in a folder, where it is a fetched one.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_str(&read_text(&dir.join(RECORD)).ok()?).ok()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Fetches into `out`, which is not there before it is whole. What is there from an earlier fetch of the same files is
/// left as it is; of another state of the repository, or with other files, it is replaced.
///
/// # Errors
/// Where the hub does not give it, a file is damaged or the disk is full; then what has come stays beside `out`, in a
/// folder whose name ends in `.fetching`, and the same call goes on from it.
pub fn fetch(hub: &Hub, wanted: &Wanted, out: &Path, progress: &dyn Progress) -> Result<Fetched> {
    let (repo, listing) = locate(hub, &wanted.places)?;
    let mut entries = chosen(&repo, listing.files, wanted)?;
    let is_same = |known: &Fetched| known.repository == repo.name && known.kind == repo.kind;
    if out.exists() {
        let is_empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
        let known = Fetched::read(out);
        ensure!(
            is_empty || known.as_ref().is_some_and(is_same),
            "{}: exists already and is not a fetched {}; name another place with --out, or remove it",
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
    let held = hold(&parts)?;
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
    // The folder is whole; what is left of the parts is only in the way.
    let _ = fs::remove_dir_all(&parts);
    Ok(fetched)
}

/// The folder of parts, beside the folder that they become.
///
/// # Errors
/// Where `out` has no name, as `..` has none.
pub fn parts_of(out: &Path) -> Result<PathBuf> {
    let name =
        out.file_name().with_context(|| format!("{}: expected the name of a folder", out.display()))?;
    Ok(out.with_file_name(format!(".{}.fetching", name.to_string_lossy())))
}

/// The first place where the hub has something, and what it has.
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
        error.context("neither a model nor a data set of this name")
    } else {
        error
    })
}

/// The files that are wanted, in order, all with paths inside a folder.
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
            "{}: holds a file of the name {:?}, which does not fit a folder; nothing is fetched",
            repo.name,
            entry.path
        );
        found.insert(entry.path.clone(), entry);
    }
    let shown = others.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    let of_which = match others.len() {
        0 => "it is empty".into(),
        1..=10 => format!("it holds {shown}"),
        more => format!("it holds {shown} and {} more", more - 10),
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

/// Whether a path of a repository stays inside the folder that it is joined to, on any system.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':'])
        && !path.contains(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Downloads what is not here yet, one file after the other, and gives the places of all.
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
        let mut tell = |bytes: u64| {
            let (done, seconds) = (before + bytes, began.elapsed().as_secs_f64());
            let speed = done.saturating_sub(here) as f64 / seconds.max(1e-3);
            progress.update(done, &format!("{}, {}/s", entry.path, size(speed as u64)));
        };
        places.push(store.fetch(entry, &mut tell)?);
        before += store.present(entry);
    }
    progress.finish("");
    Ok(places)
}

/// Gives the files the names that they have in the repository.
fn lay_out(fetched: &Fetched, files: &[PathBuf], dir: &Path) -> Result<()> {
    for (index, (file, at)) in fetched.files.iter().zip(files).enumerate() {
        let to = dir.join(&file.path);
        create_dir(to.parent().unwrap_or(dir))?;
        // Equal contents were downloaded once.
        match files[index + 1..].contains(at) {
            true => drop(fs::copy(at, &to).with_context(|| format!("{}: cannot be written", to.display()))?),
            false => rename(at, &to)?,
        }
    }
    Ok(())
}
