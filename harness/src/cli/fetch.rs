//! The verb `fetch`: downloads models, data sets and exams.

use super::{note, say};
use crate::exam::sheet_files;
use crate::fetch::{Fetched, Hub, Kind, Wanted, fetch as fetch_from, parts_of};
use crate::fsutil::shell_word;
use crate::track::{Board, counted, size};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Kind of a repository.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Model,
    Dataset,
}

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// minimind (the 26M model of MiniMind v1), ceval, cmmlu, or hf:OWNER/NAME
    what: String,
    /// Folder to write; unset: a folder of the same name in the current one
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Branch, tag or commit of the repository; unset: main, or for exams the commit that this program knows
    #[arg(long)]
    revision: Option<String>,
    /// Whether hf:OWNER/NAME is a model or a data set; unset: a model if there is one, otherwise a data set
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// Fetch only files that match, such as '*.safetensors'; may be repeated
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// Downloads a model, a data set or an exam.
pub fn fetch(args: &FetchArgs) -> Result<bool> {
    let kind = args.kind.map(|kind| match kind {
        KindArg::Model => Kind::Model,
        KindArg::Dataset => Kind::Dataset,
    });
    let mut wanted = Wanted::named(&args.what, kind, args.revision.as_deref())?;
    if !args.include.is_empty() {
        wanted.include.clone_from(&args.include);
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(&wanted.folder));
    let parts = parts_of(&out)?;
    // What has been downloaded is already on disk: only the message is left to do.
    ctrlc::set_handler(move || {
        match parts.exists() {
            true => note(&format!("stopped; the same command resumes from {}", parts.display())),
            false => note("stopped"),
        }
        std::process::exit(130)
    })
    .context("Ctrl-C cannot be caught")?;
    let board = match Board::for_stderr() {
        Board::Bars(bars, total) if !args.json => Board::Bars(bars, total),
        _ => Board::Silent,
    };
    let progress = board.task(&wanted.folder);
    let fetched = fetch_from(&Hub::from_env()?, &wanted, &out, progress.as_ref());
    drop(progress);
    board.finish();
    let fetched = fetched?;
    if args.json {
        let report = json!({ "folder": out, "bytes": fetched.bytes(), "fetched": fetched });
        say(serde_json::to_string_pretty(&report)?)?;
        return Ok(true);
    }
    let Fetched { repository, commit, files, .. } = &fetched;
    let (count, bytes) = (counted(files.len(), "file"), size(fetched.bytes()));
    say(format!("{}: {count}, {bytes}, {repository} at {commit:.12}", out.display()))?;
    match next(&out) {
        Some(command) => say(format!("next: {command}")),
        None => Ok(()),
    }?;
    Ok(true)
}

/// Suggests a command for the downloaded folder.
fn next(out: &Path) -> Option<String> {
    let dir = shell_word(&out.to_string_lossy());
    if sheet_files(out, "val").is_ok() {
        return Some(format!("mindscale exam MODEL --sheets {dir}"));
    }
    let is_model = out.join("config.json").is_file() && out.join("tokenizer.json").is_file();
    is_model.then(|| format!("mindscale chat {dir}"))
}
