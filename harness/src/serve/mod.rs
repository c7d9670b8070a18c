//! Serves models over HTTP: an OpenAI-compatible API, and the web page that is part of the program.
//!
//! A request body becomes an [`ask::Ask`], and that becomes [`Request`]s to the model's [`Scheduler`], whose workers
//! generate many texts at a time; its events become an [`answer::Answer`], whole or streamed. *Invariants:* an answer
//! depends on its request alone; nothing that a client sends or fails to send delays another client; nothing is written
//! to disk.

mod access;
pub mod answer;
pub mod ask;
mod browse;
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
mod workers;

pub use models::Served;
pub use scheduler::{Counts, Ending, Failure, Limits, Refusal, Request, Scheduler, Update};
pub use server::{Server, Stop};

use std::path::PathBuf;
use std::time::Duration;

/// Options of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host name or IP address to listen on.
    pub host: String,
    /// Port; 0 picks a free one.
    pub port: u16,
    /// API key that clients must send; `None` for no authentication.
    pub api_key: Option<String>,
    /// Limits of each model's scheduler.
    pub limits: Limits,
    /// Time limit of a request, waiting included.
    pub time_limit: Duration,
    /// Maximum size of a request body, in bytes.
    pub body_limit: usize,
    /// How long requests in progress may take after the server was asked to stop.
    pub grace: Duration,
    /// Folder of results, for the web page.
    pub results: PathBuf,
    /// Folder of stage runs, for the web page.
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
    /// Returns whether the server can be reached only from this machine.
    pub fn is_local(&self) -> bool {
        access::is_local(&self.host)
    }
}
