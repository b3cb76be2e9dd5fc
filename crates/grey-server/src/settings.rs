//! What the front looks up anew for each request, since a running node may be told other values.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use grey_core::Result;
use http::HeaderMap;
use parking_lot::RwLock;

use crate::{
    config::{Console, NodeConfig},
    http::Guard,
};

/// The settings of a running front. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Settings(Arc<Inner>);

struct Inner {
    /// Where it listens.
    bound: IpAddr,
    body_bytes_max: AtomicU64,
    allow_upload: AtomicBool,
    allow_replay: AtomicBool,
    drain_seconds: AtomicU64,
    guard: RwLock<Guard>,
    console: RwLock<Console>,
}

impl Settings {
    pub(crate) fn new(config: &NodeConfig, bound: IpAddr) -> Settings {
        let settings = Settings(Arc::new(Inner {
            bound,
            body_bytes_max: AtomicU64::default(),
            allow_upload: AtomicBool::default(),
            allow_replay: AtomicBool::default(),
            drain_seconds: AtomicU64::default(),
            guard: RwLock::default(),
            console: RwLock::default(),
        }));
        settings.apply(config);
        settings
    }

    /// From now on as `config` says, in all that a running front can take (`Reload::Now`).
    pub fn apply(&self, config: &NodeConfig) {
        let Inner { bound, body_bytes_max, allow_upload, allow_replay, drain_seconds, guard, console } = &*self.0;
        // None of them depends on another.
        body_bytes_max.store(config.limits.body_bytes_max.get(), Ordering::Relaxed);
        allow_upload.store(config.allow_upload, Ordering::Relaxed);
        allow_replay.store(config.allow_replay.unwrap_or(bound.is_loopback()), Ordering::Relaxed);
        drain_seconds.store(config.drain_seconds.get(), Ordering::Relaxed);
        let names: Vec<String> = config.http_names.iter().cloned().chain([config.http.host().to_owned()]).collect();
        *console.write() = config.console;
        *guard.write() = Guard::new(config.insecure, *bound, &names);
    }

    /// Largest body of a request, also after decompression.
    pub(crate) fn body_bytes_max(&self) -> u64 {
        self.0.body_bytes_max.load(Ordering::Relaxed)
    }

    /// Whether `load` may bring files.
    pub(crate) fn allow_upload(&self) -> bool {
        self.0.allow_upload.load(Ordering::Relaxed)
    }

    /// Whether proofs are replayed.
    pub(crate) fn allow_replay(&self) -> bool {
        self.0.allow_replay.load(Ordering::Relaxed)
    }

    /// How long a shutdown waits for queued work.
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_secs(self.0.drain_seconds.load(Ordering::Relaxed))
    }

    /// What the page may do.
    pub(crate) fn console(&self) -> Console {
        *self.0.console.read()
    }

    /// Refuses a request that comes by a foreign name or from a foreign page; `what` is not open to such.
    pub(crate) fn guard(&self, what: &str, headers: &HeaderMap) -> Result<()> {
        self.0.guard.read().check(what, headers)
    }
}
