//! Connections: taken as long as there is room, ended where a client is too slow, let finish at the end.

use super::http::{App, router};
use super::models::Served;
use super::{Options, browse, metrics};
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
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Sleep, sleep, timeout};

/// Connections at a time; others wait.
const CONNECTIONS: usize = 1024;

/// How long a client may take to send the head of a request, an idle connection included.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How long a client may take nothing of what is sent.
const WRITE_TIME: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;

/// How the server is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Not yet.
    No,
    /// Answers that were begun are given to their ends.
    Soon,
    /// At once.
    Now,
}

/// A server that is bound to its address.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    app: Arc<App>,
    address: SocketAddr,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// Where two models have one name, or the address cannot be had.
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (host, port) = (options.host.clone(), options.port);
        let bound = runtime.block_on(TcpListener::bind((host.as_str(), port)));
        let listener =
            bound.with_context(|| format!("{host}:{port} cannot be listened at; --port says another"))?;
        let address = listener.local_addr()?;
        let app = Arc::new(App {
            models: models.into_iter().map(Arc::new).collect(),
            options,
            answered: metrics::Answered::default(),
            looks: browse::Looks::default(),
            next: 1.into(),
        });
        Ok(Self { runtime, listener, app, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until asked to stop.
    ///
    /// # Errors
    /// Where connections can no longer be taken.
    pub fn run(self, stop: watch::Receiver<Stop>) -> Result<()> {
        let Self { runtime, listener, app, .. } = self;
        let ended = runtime.block_on(serve(listener, Arc::clone(&app), stop));
        // What still runs is dropped with the runtime, and with it all that waits for a model.
        runtime.shutdown_background();
        ended
    }
}

async fn serve(listener: TcpListener, app: Arc<App>, stop: watch::Receiver<Stop>) -> Result<()> {
    let router = router(Arc::clone(&app));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = unless(asked(stop.clone(), Stop::Soon), next).await else { break };
        let Ok((stream, _)) = accepted else {
            // As where the process has too many files open: others will close theirs.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true); // slower without, not wrong
        let service = TowerToHyperService::new(router.clone());
        let (soon, now) = (asked(stop.clone(), Stop::Soon), asked(stop.clone(), Stop::Now));
        tokio::spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(Patient { io: TokioIo::new(stream), waits: None }, service);
            let (mut connection, mut soon) = (pin!(connection), pin!(soon));
            let mut is_ending = false;
            let to_the_end = poll_fn(|context| {
                if !is_ending && soon.as_mut().poll(context).is_ready() {
                    is_ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(context)
            });
            // Clients that send garbage or go away are no news.
            let _ = unless(now, to_the_end).await;
        });
    }
    drop(listener);
    app.models.iter().for_each(|served| served.scheduler.close());
    let drained = room.acquire_many(CONNECTIONS as u32);
    let _ = unless(asked(stop, Stop::Now), timeout(app.options.grace, drained)).await;
    Ok(())
}

/// Ready once the server is to end so, or nobody is left who could say it.
async fn asked(mut stop: watch::Receiver<Stop>, how: Stop) {
    let _ = stop.wait_for(|asked| *asked >= how).await;
}

/// What `work` comes to, or `None` once `end` is ready.
async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut end, mut work) = (pin!(end), pin!(work));
    poll_fn(|context| match end.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(context).map(Some),
    })
    .await
}

/// A connection that gives up on a client who takes nothing.
struct Patient {
    io: TokioIo<TcpStream>,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn minded<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waits = None;
            return poll;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(WRITE_TIME)));
        waits.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Read for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(context, bytes);
        self.minded(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(context);
        self.minded(context, poll)
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
        self.minded(context, poll)
    }
}
