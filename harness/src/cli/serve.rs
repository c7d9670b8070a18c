//! The verb `serve`: models over HTTP, until Ctrl-C.

use super::device_arg::DeviceArgs;
use super::models_arg::ModelsArg;
use super::{note, say};
use crate::execute::limits::{parse_size, parse_time};
use crate::fsutil::read_text;
use crate::models::ModelFiles;
use crate::serve::{Limits, Options, Served, Server, Stop};
use anyhow::{Context, Result, ensure};
use clap::Args;
use model::{Backend, Work};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    models: ModelsArg,
    /// The address to listen at; 0.0.0.0 is all of this machine's, where others can reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// The key that clients must show; unset: none
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file")]
    api_key: Option<String>,
    /// A file with the key, which a list of processes does not show
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Texts that a model writes at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Requests that wait for a model at most; more are told to come again
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// Longest time of a request, such as 5m; a text is cut there
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    time_limit: Duration,
    /// Longest body of a request, such as 4M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size)]
    body_limit: u64,
    /// Threads that a model computes with; 0 is all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Serves models until it is asked to stop.
pub fn serve(args: &ServeArgs) -> Result<bool> {
    let defaults = Options::default();
    let options = Options {
        host: args.host.clone(),
        port: args.port,
        api_key: args.key()?,
        limits: args.limits(),
        time_limit: args.time_limit,
        body_limit: usize::try_from(args.body_limit).unwrap_or(usize::MAX),
        results: args.models.results.clone(),
        runs: args.models.runs.clone().unwrap_or_else(|| defaults.runs.clone()),
        ..defaults
    };
    let models = args.device.run(args)?;
    if !options.is_local() && options.api_key.is_none() {
        note("whoever reaches this machine may ask: --api-key KEY lets in those only who have it");
    }
    let names: Vec<String> = models.iter().map(|served| served.name.clone()).collect();
    let server = Server::bind(models, options)?;
    let stop = until_ctrl_c()?;
    say(format!("serving {} at http://{}", names.join(", "), server.address()))?;
    server.run(stop)?;
    Ok(true)
}

/// The wish to stop: Ctrl-C asks for it, twice at once.
pub fn until_ctrl_c() -> Result<watch::Receiver<Stop>> {
    let (ask, stop) = watch::channel(Stop::No);
    ctrlc::set_handler(move || {
        ask.send_modify(|stop| {
            *stop = if *stop == Stop::No { Stop::Soon } else { Stop::Now };
            note(match stop {
                Stop::Soon => "answers that were begun are finished first; again to stop at once",
                _ => "stopping at once",
            });
        });
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(stop)
}

// Loads the models and starts their schedulers.
impl Work for &ServeArgs {
    type Outcome = Result<Vec<Served>>;

    fn run<B: Backend>(self, backend: &B) -> Self::Outcome {
        let serve = |files: ModelFiles| Served::new(files.load(backend)?, self.limits(), self.threads);
        self.models.files()?.into_iter().map(serve).collect()
    }
}

impl ServeArgs {
    fn limits(&self) -> Limits {
        Limits { texts: self.concurrency.into(), waiting: self.queue.into() }
    }

    fn key(&self) -> Result<Option<String>> {
        let Some(file) = &self.api_key_file else { return Ok(self.api_key.clone()) };
        let key = read_text(file)?.trim().to_owned();
        ensure!(!key.is_empty(), "{}: is empty, expected a key", file.display());
        Ok(Some(key))
    }
}
