//! Connections: accepted while there is room, closed if a client is too slow, and drained at the end.

use super::http::{App, router};
use super::models::Served;
use super::{Options, browse, metrics};
use crate::system::cores;
use anyhow::{Context as _, Result, ensure};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::HashSet;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

/// Maximum number of concurrent connections; others wait.
const CONNECTIONS: usize = 1024;

/// Time limit for a client to send the head of a request; also closes idle connections.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long a client may read nothing of what is sent to it.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// Minimum time between log lines about connections that cannot be accepted.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Maximum size of a request's head, in bytes.
const HEAD_BYTES: usize = 64 << 10;

/// How the server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// It is not asked to stop.
    No,
    /// Gracefully: requests in progress are finished.
    Graceful,
    /// Immediately.
    Now,
}

/// A server bound to its address.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    app: Arc<App>,
    address: SocketAddr,
}

impl Server {
    /// Binds the server to its address.
    ///
    /// # Errors
    /// If two models have the same name, or the address cannot be bound.
    pub fn bind(models: Vec<Served>, options: Options) -> Result<Self> {
        let mut names = HashSet::new();
        for served in &models {
            ensure!(
                names.insert(served.name.as_str()),
                "two models are called {}; name one as in other={}",
                served.name,
                served.name
            );
        }
        // Prompts are tokenized in threads of their own, no more than can compute at the same time.
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(cores()).build()?;
        let (host, port) = (options.host.clone(), options.port);
        let bound = runtime.block_on(TcpListener::bind((host.as_str(), port)));
        let listener = bound
            .with_context(|| format!("cannot listen on {host}:{port}; choose another port with --port"))?;
        let address = listener.local_addr()?;
        let app = Arc::new(App {
            models: models.into_iter().map(Arc::new).collect(),
            options,
            answered: metrics::Answered::default(),
            status_cache: browse::StatusCache::default(),
            next: 1.into(),
        });
        Ok(Self { runtime, listener, app, address })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is asked to stop. Failures to accept a connection are logged and retried.
    pub fn run(self, stop: watch::Receiver<Stop>) {
        let Self { runtime, listener, app, .. } = self;
        runtime.block_on(serve(listener, Arc::clone(&app), stop));
        // Tasks that still run are dropped with the runtime, and so is everything that waits for a model.
        runtime.shutdown_background();
    }
}

async fn serve(listener: TcpListener, app: Arc<App>, stop: watch::Receiver<Stop>) {
    let router = router(Arc::clone(&app));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut reported: Option<Instant> = None;
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = until(stop_requested(stop.clone(), Stop::Graceful), next).await else {
            break;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                    tracing::warn!("connections cannot be accepted: {error}; trying again");
                    reported = Some(Instant::now());
                }
                // For example, the process has too many open files: wait until others are closed.
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // only a performance setting
        let service = TowerToHyperService::new(router.clone());
        let (graceful, now) =
            (stop_requested(stop.clone(), Stop::Graceful), stop_requested(stop.clone(), Stop::Now));
        tokio::spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TimeoutStream { io: TokioIo::new(stream), waits: None }, service);
            let (mut connection, mut graceful) = (pin!(connection), pin!(graceful));
            let mut is_ending = false;
            let to_the_end = poll_fn(|context| {
                if !is_ending && graceful.as_mut().poll(context).is_ready() {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(context)
            });
            // Clients that send garbage or disconnect are not reported.
            let _ = until(now, to_the_end).await;
        });
    }
    drop(listener);
    app.models.iter().for_each(|served| served.scheduler.close());
    let drained = room.acquire_many(CONNECTIONS as u32);
    let _ = until(stop_requested(stop, Stop::Now), timeout(app.options.grace, drained)).await;
}

/// Completes once the server is asked to stop this way or more urgently, or nobody is left who could ask.
async fn stop_requested(mut stop: watch::Receiver<Stop>, how: Stop) {
    let _ = stop.wait_for(|requested| *requested >= how).await;
}

/// Returns the result of `work`, or `None` once `end` completes.
async fn until<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut end, mut work) = (pin!(end), pin!(work));
    poll_fn(|context| match end.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(context).map(Some),
    })
    .await
}

/// A connection that times out if the client reads nothing.
struct TimeoutStream {
    io: TokioIo<TcpStream>,
    waits: Option<Pin<Box<Sleep>>>,
}

impl TimeoutStream {
    fn with_timeout<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waits = None;
            return poll;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(WRITE_TIME)));
        waits.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for TimeoutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for TimeoutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, bytes);
        self.with_timeout(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(context);
        self.with_timeout(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.with_timeout(context, poll)
    }
}
