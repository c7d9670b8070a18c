//! The page of one sweep for `status --web`: the web page of `serve`, without models.

use super::serve::until_ctrl_c;
use super::{note, say};
use crate::run::Work;
use crate::serve::{Options, Server};
use anyhow::Result;
use clap::Args;
use std::path::Path;

/// Whether to serve a web page, and on which port.
#[derive(Debug, Clone, Copy, Args)]
pub struct WebArgs {
    /// Show the sweep on a web page with tables and curves, served until Ctrl-C
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    pub web: bool,
    /// Port of the page on this machine; 0: any free one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "web")]
    pub port: u16,
}

/// Serves the page of a sweep on this machine only, until Ctrl-C.
pub fn watch(work: &Work, results: &Path, port: u16) -> Result<bool> {
    let options = Options { port, results: results.into(), runs: work.runs.clone(), ..Options::default() };
    let server = Server::bind(vec![], options)?;
    let stop = until_ctrl_c()?;
    if !work.is_begun() {
        note(&format!("{} has not been run yet; the page fills in once it is", work.name));
    }
    say(format!("{} at http://{}/#/sweeps/{}", work.name, server.address(), encoded(&work.name)))?;
    server.run(stop);
    Ok(true)
}

/// Percent-encodes a name as part of a URL.
fn encoded(name: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    name.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn names_are_parts_of_an_address() {
        assert_eq!(encoded("deep-vs_wide.1"), "deep-vs_wide.1");
        assert_eq!(encoded("a b/数"), "a%20b%2F%E6%95%B0");
    }
}
