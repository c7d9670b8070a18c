//! The verb `serve`: serves models over HTTP until Ctrl-C.

use super::device_arg::DeviceArgs;
use super::models_arg::ModelsArg;
use super::{note, say, whole};
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
    /// Address to listen on; 0.0.0.0 makes the server reachable from other machines
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port; 0: any free one
    #[arg(long, value_name = "N", default_value_t = 8000)]
    port: u16,
    /// API key that clients must send; unset: none
    #[arg(long, value_name = "KEY", conflicts_with = "api_key_file")]
    api_key: Option<String>,
    /// File with the API key, so that it does not appear in the list of processes
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Maximum number of texts that a model generates at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Maximum number of requests that wait for a model; further ones are rejected and may retry
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    queue: u16,
    /// Time limit of a request, such as 5m; its text is cut off there
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    time_limit: Duration,
    /// Maximum size of a request body, such as 4M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size)]
    body_limit: u64,
    /// Number of threads per model; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<usize>)]
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
        note("anyone who can reach this machine can use the server; restrict access with --api-key KEY");
    }
    let names: Vec<String> = models.iter().map(|served| served.name.clone()).collect();
    let server = Server::bind(models, options)?;
    let stop = until_ctrl_c()?;
    say(format!("serving {} at http://{}", names.join(", "), server.address()))?;
    server.run(stop);
    Ok(true)
}

/// Returns a channel with the request to stop: the first Ctrl-C asks for a graceful stop, the second for an immediate
/// one.
pub fn until_ctrl_c() -> Result<watch::Receiver<Stop>> {
    let (ask, stop) = watch::channel(Stop::No);
    ctrlc::set_handler(move || {
        ask.send_modify(|stop| {
            *stop = if *stop == Stop::No { Stop::Graceful } else { Stop::Now };
            note(match stop {
                Stop::Graceful => "finishing answers in progress; press Ctrl-C again to stop immediately",
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
