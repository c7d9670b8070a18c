//! Models at the service of others: OpenAI's endpoints over HTTP, and the page that is part of the program.
//!
//! A body becomes an [`ask::Ask`], that becomes [`Request`]s of the model's [`Scheduler`], whose thread writes many texts
//! at a time; what it tells becomes an [`answer::Answer`], whole or as events. *Invariants:* an answer depends on its
//! request alone; nothing that a client sends or leaves out holds another one up; nothing is written to the disk.

pub mod answer;
pub mod ask;
mod browse;
mod door;
pub mod error;
pub mod fields;
mod http;
mod metrics;
pub mod models;
mod page;
pub mod scheduler;
mod server;
#[cfg(test)]
mod tests;

pub use models::Served;
pub use scheduler::{Counts, Ending, Failure, Limits, Refusal, Request, Scheduler, Told};
pub use server::{Server, Stop};

use std::path::PathBuf;
use std::time::Duration;

/// How models are served.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen at, a name or a number.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// The key that clients must show; `None` lets everybody in.
    pub api_key: Option<String>,
    /// Of each model's scheduler.
    pub limits: Limits,
    /// Longest time of a request, waiting included.
    pub time_limit: Duration,
    /// Longest body of a request, in bytes.
    pub body_limit: usize,
    /// How long answers that were begun may take once the server is to end.
    pub grace: Duration,
    /// Folder of results, for the page.
    pub results: PathBuf,
    /// Folder of stage runs, for the page.
    pub runs: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            api_key: None,
            limits: Limits { texts: 64, waiting: 256 },
            time_limit: Duration::from_secs(300),
            body_limit: 4 << 20,
            grace: Duration::from_secs(30),
            results: "results".into(),
            runs: "runs".into(),
        }
    }
}

impl Options {
    /// Whether only this machine can ask.
    pub fn is_local(&self) -> bool {
        door::is_local(&self.host)
    }
}
