//! The verbs `completions` and `man`: shell completions and manual pages, generated from the declaration of the command
//! line.

use super::{Cli, say};
use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder to write the pages into
    #[arg(long, value_name = "DIR", default_value = "man")]
    out: PathBuf,
}

/// Prints a shell's completion script for verbs and options.
pub fn completions(shell: Shell) -> Result<bool> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "mindscale", &mut script);
    say(String::from_utf8(script)?.trim_end())?;
    Ok(true)
}

/// Writes a manual page for the program and for each verb.
pub fn man(args: &ManArgs) -> Result<bool> {
    let fault = || format!("manual pages cannot be written into {}", args.out.display());
    std::fs::create_dir_all(&args.out).with_context(fault)?;
    clap_mangen::generate_to(Cli::command(), &args.out).with_context(fault)?;
    say(format!("pages in {}; try: man {}", args.out.display(), args.out.join("mindscale.1").display()))?;
    Ok(true)
}
