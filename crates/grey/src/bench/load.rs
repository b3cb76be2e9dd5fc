//! The load: connections that send a request each, again and again, and what came of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, client::conn::http1::SendRequest, http::uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::timeout};

use crate::clock::now;

/// Longest latency that is told apart, in microseconds: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Digits that latencies keep.
const LATENCY_DIGITS: u8 = 3;
/// Pause before a connection that failed is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Longest part of a failure that is kept as its example, in characters.
const EXAMPLE_CHARS_MAX: usize = 200;
/// Most kinds of failures that are told apart.
const KINDS_MAX: usize = 32;

/// A body, and where its JSON ends if tensors follow.
pub(crate) type Sent = (Bytes, Option<usize>);

/// What is sent, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// `HOST:PORT`.
    pub(crate) address: String,
    pub(crate) path: PathAndQuery,
    pub(crate) bodies: Vec<Sent>,
    pub(crate) connections: usize,
    /// Requests per second; none sends the next when the last is answered.
    pub(crate) rate: Option<f64>,
    /// Longest wait for an answer.
    pub(crate) timeout: Duration,
}

/// When it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    Requests(u64),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Latencies of the answers, in microseconds.
    pub(crate) latency_us: Histogram<u64>,
    /// By kind: how many, and what the first one said.
    pub(crate) failures: BTreeMap<String, (u64, String)>,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Whether somebody ended it before its time.
    pub(crate) is_interrupted: bool,
}

impl Tally {
    fn new() -> Result<Tally, String> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS).map_err(|e| e.to_string())?;
        Ok(Tally { latency_us, failures: BTreeMap::new(), elapsed: Duration::ZERO, is_interrupted: false })
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().map(|(n, _)| n).sum()
    }

    fn answered(&mut self, latency: Duration) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn failed_by(&mut self, wrong: Wrong) {
        let is_known = self.failures.contains_key(&wrong.kind);
        let kind = if is_known || self.failures.len() < KINDS_MAX { wrong.kind } else { "other".to_owned() };
        self.failures.entry(kind).or_insert_with(|| (0, wrong.what.chars().take(EXAMPLE_CHARS_MAX).collect())).0 += 1;
    }
}

/// Why a request was not answered.
struct Wrong {
    kind: String,
    what: String,
    /// Whether the connection can go on.
    is_usable: bool,
}

impl Wrong {
    fn connection(kind: &str, what: impl ToString) -> Wrong {
        Wrong { kind: kind.to_owned(), what: what.to_string(), is_usable: false }
    }
}

/// What all connections share.
struct Shared {
    plan: Plan,
    until: Until,
    start: Instant,
    /// The next request's number.
    next: AtomicU64,
    tally: Mutex<Tally>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next request and when it is due; none when all are taken.
    fn take(&self) -> Option<(u64, Instant)> {
        let number = self.next.fetch_add(1, Relaxed);
        let after = self
            .plan
            .rate
            .map_or(Duration::ZERO, |rate| Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX));
        match self.until {
            Until::Requests(all) if number >= all => None,
            Until::Elapsed(all) if after >= all => None,
            _ => Some((number, self.start.checked_add(after)?)),
        }
    }
}

/// Runs the load until its end, or until `stop` says so. `progress` is told once a second how much is done.
pub(crate) async fn run(
    plan: Plan,
    until: Until,
    mut stop: watch::Receiver<bool>,
    mut progress: impl FnMut(Duration, &Tally),
) -> Result<Tally, String> {
    let mut connections = Vec::new();
    for _ in 0..plan.connections {
        // One that fails is counted when it is used.
        connections.push(connect(&plan).await.ok());
    }
    let start = now();
    let tally = Mutex::new(Tally::new()?);
    let shared = Arc::new(Shared { plan, until, start, next: AtomicU64::new(0), tally });
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(work(shared.clone(), connection));
    }
    let end = match until {
        Until::Elapsed(all) => start + all,
        Until::Requests(_) => start + Duration::from_secs(365 * 24 * 3600),
    };
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut is_interrupted = false;
    loop {
        tokio::select! {
            // What is under way when the time is up is not counted.
            () = tokio::time::sleep_until(end.into()) => break,
            stopped = stop.wait_for(|stop| *stop) => {
                is_interrupted = stopped.is_ok();
                break;
            }
            ended = tasks.join_next() => match ended {
                None => break,
                Some(ended) => ended.map_err(|e| e.to_string())?,
            },
            _ = second.tick() => progress(now() - start, &shared.tally()),
        }
    }
    tasks.shutdown().await;
    let elapsed = now() - start;
    let mut tally = shared.tally();
    let mut out = std::mem::replace(&mut *tally, Tally::new()?);
    out.elapsed = elapsed;
    out.is_interrupted = is_interrupted;
    Ok(out)
}

type Connection = SendRequest<Full<Bytes>>;

/// One connection's requests, one after the other.
async fn work(shared: Arc<Shared>, mut connection: Option<Connection>) {
    while let Some((number, due)) = shared.take() {
        // Without a rate a request is due when its connection is free. With one, it is when its turn comes: waiting
        // for a free connection counts as latency, that a timer wakes late does not.
        let due = match shared.plan.rate {
            Some(_) if due <= now() => due,
            Some(_) => {
                tokio::time::sleep_until(due.into()).await;
                now()
            }
            None => now(),
        };
        let answered = timeout(shared.plan.timeout, attempt(&shared.plan, number, &mut connection)).await;
        let late = || Wrong::connection("timeout", format!("no answer within {:?}", shared.plan.timeout));
        match answered.unwrap_or_else(|_| Err(late())) {
            Ok(()) => shared.tally().answered(now() - due),
            Err(wrong) => {
                let is_usable = wrong.is_usable;
                shared.tally().failed_by(wrong);
                if !is_usable {
                    connection = None;
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }
}

async fn connect(plan: &Plan) -> Result<Connection, Wrong> {
    let failed = |e: std::io::Error| Wrong::connection("connection", e);
    let connected = timeout(plan.timeout, TcpStream::connect(&plan.address)).await;
    let stream = connected.map_err(|_| Wrong::connection("timeout", "cannot connect"))?.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (connection, driver) = made.map_err(|e| Wrong::connection("connection", told(&e)))?;
    // Ends with the connection; its error is that of the request.
    tokio::spawn(async move {
        let _told_by_the_request = driver.await;
    });
    Ok(connection)
}

async fn attempt(plan: &Plan, number: u64, connection: &mut Option<Connection>) -> Result<(), Wrong> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(connect(plan).await?),
    };
    let broke = |e: &hyper::Error| Wrong::connection("connection", told(e));
    open.ready().await.map_err(|e| broke(&e))?;
    let request = request(plan, number).map_err(|e| Wrong::connection("request", e))?;
    let answer = open.send_request(request).await.map_err(|e| broke(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| Wrong::connection("connection", format!("the answer broke off: {e}")))?;
    if status.is_success() {
        return Ok(());
    }
    let bytes = body.to_bytes();
    let json: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    let message = json.as_ref().and_then(|j| j.get("error")?.as_str()).map(str::to_owned);
    let what = message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
    Err(Wrong { kind: format!("status {}", status.as_u16()), what, is_usable: true })
}

/// An error and its causes: hyper says little by itself.
fn told(e: &hyper::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

fn request(plan: &Plan, number: u64) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let which = usize::try_from(number).unwrap_or(0) % plan.bodies.len().max(1);
    let (body, header_length) = plan.bodies.get(which).cloned().unwrap_or_default();
    let mut request = Request::post(plan.path.as_str()).header("host", &plan.address);
    if let Some(n) = header_length {
        request = request.header(grey_server::oip::HEADER_LENGTH_HEADER, n);
    }
    let kind = if header_length.is_some() { "application/octet-stream" } else { "application/json" };
    request.header("content-type", kind).body(Full::new(body))
}
