//! The listener: bounded connections, timeouts, and an orderly end.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use grey_core::{Error, ErrorKind, Result};
use grey_serving::Node;
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::MissedTickBehavior,
};

use crate::{
    config::NodeConfig,
    connection::{Counting, LOOK_EVERY, Life, Lives, Watched, Word},
    http::{App, Front},
    settings::Settings,
};

/// Pause after a failed `accept`, which mostly means that the process is out of descriptors:
/// trying at once would only burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long answers may still be written after the drain.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// A bound HTTP front.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    node: Node,
    settings: Settings,
    name: String,
    connections_max: u32,
}

impl Server {
    /// Binds the address of `config` for `node`. Other than loopback addresses are refused unless
    /// `insecure` is set, as nobody has to authenticate yet.
    pub async fn bind(config: &NodeConfig, node: Node) -> Result<Server> {
        let at = |e: std::io::Error| Error::invalid(format!("cannot listen on '{}': {e}", config.http));
        let addresses: Vec<SocketAddr> = lookup_host(config.http.as_str()).await.map_err(at)?.collect();
        let address = choose(&addresses, config)?;
        let listener = TcpListener::bind(address).await.map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        let settings = Settings::new(config, address.ip());
        let (name, connections_max) = (config.name.as_str().to_owned(), config.limits.connections_max.get_u32());
        Ok(Server { listener, address, node, settings, name, connections_max })
    }

    /// What can be changed while it runs.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Where it listens; the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready, then drains: readiness turns false at once (and
    /// goes on being told), queued work finishes within the configured time, then connections close.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let (node, settings) = (self.node, self.settings);
        let connections = Connections::new(self.connections_max);
        let app = App {
            node: node.clone(),
            settings: settings.clone(),
            name: self.name,
            address: self.address,
            connections: connections.clone(),
        };
        let until = async {
            shutdown.await;
            node.drain(settings.drain()).await;
        };
        serve(self.listener, Front::new(Arc::new(app)), &connections, until).await;
        Ok(())
    }
}

fn choose(addresses: &[SocketAddr], config: &NodeConfig) -> Result<SocketAddr> {
    let first = addresses
        .first()
        .copied()
        .ok_or_else(|| Error::invalid(format!("cannot listen on '{}': the name has no address", config.http)))?;
    let open: Option<IpAddr> = addresses.iter().map(SocketAddr::ip).find(|a| !a.is_loopback());
    match open {
        Some(ip) if !config.insecure => Err(Error::new(
            ErrorKind::PermissionDenied,
            format!(
                "refusing to listen on '{}': {ip} is no loopback address, and whoever reaches it could do anything; \
                 give --insecure (insecure: true) if that is meant",
                config.http
            ),
        )),
        _ => Ok(first),
    }
}

/// Room for connections, and how much of it is taken. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections {
    slots: Arc<Semaphore>,
    max: usize,
    open: Arc<AtomicUsize>,
}

impl Connections {
    fn new(max: u32) -> Connections {
        let max = (max as usize).min(Semaphore::MAX_PERMITS);
        Connections { slots: Arc::new(Semaphore::new(max)), max, open: Arc::default() }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Most of them.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    fn begin(&self, slot: Option<OwnedSemaphorePermit>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open { count: self.open.clone(), _slot: slot }
    }
}

/// An open connection's place.
struct Open {
    count: Arc<AtomicUsize>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What connections call. For tests it is a router alone.
trait Serve:
    Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + Unpin> + Clone + Send + 'static
{
}

impl<S> Serve for S where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + Unpin>
        + Clone
        + Send
        + 'static
{
}

/// Accepts until `until` is ready, then lets connections finish their request for [`CLOSE_MAX`].
async fn serve<S>(listener: TcpListener, service: S, connections: &Connections, until: impl Future<Output = ()>)
where
    S: Serve,
{
    let (mut lives, mut looks) = (Lives::default(), tokio::time::interval(LOOK_EVERY));
    // A process that was stopped must not look several times at what had no time to move.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    tokio::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            (stream, slot) = accept(&listener, &connections.slots) => {
                open.spawn(connection(stream, service.clone(), lives.begin(), connections.begin(slot)));
            }
            _ = looks.tick() => lives.look(),
            // Finished connections are reaped as they end.
            Some(_) = open.join_next() => {}
        }
    }
    drop(listener);
    lives.finish();
    let all = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_MAX, all).await.is_err() {
        tracing::warn!("{} connections were cut after {CLOSE_MAX:?}", open.len());
    }
}

/// The next connection, once there is room for it. Cancelling loses nothing: what was not
/// accepted stays in the system's queue.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // Fails only if closed, which nobody does.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, service: impl Serve, life: Arc<Life>, _open: Open) {
    // Answers are written in a few large pieces; waiting to fill packets only delays the last.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!("TCP_NODELAY: {e}");
    }
    // The head's timeout is not hyper's: see `connection`.
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(Watched::new(stream, life.clone())), Counting::new(service, life.clone()));
    let mut connection = pin!(connection);
    let ended = loop {
        match life.until_told(|cx| connection.as_mut().poll(cx)).await {
            Ok(ended) => break ended,
            Err(Word::Finish) => {
                connection.as_mut().graceful_shutdown();
                break connection.await;
            }
            Err(Word::Cut) if life.goes_on() => {}
            Err(Word::Cut) => {
                tracing::debug!("connection cut: no request came, or its answer was not taken");
                return;
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!("connection ended: {e}");
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod node_tests;
