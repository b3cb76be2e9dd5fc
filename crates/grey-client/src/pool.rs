//! Connections that are kept between calls. There are never more than the configuration allows, and whoever
//! finds none waits.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::{Error, Result, address::Address, clock, connection::Connection};

/// Longest time that a connection is kept unused: less than the minute after which a node cuts it.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// Longest wait for a kept connection to be ready, which it is at once: unless it still sends the body of a request
/// that was refused early.
const READY_WAIT_MAX: Duration = Duration::from_millis(100);

/// The pool.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    connect_timeout: Duration,
    slots: Arc<Semaphore>,
    /// The last is the one that was used last.
    idle: Mutex<Vec<Connection>>,
}

/// A connection for one call. It is closed when this is dropped, unless it was given back.
#[derive(Debug)]
pub(crate) struct Lease {
    pub connection: Connection,
    /// Whether it was used before, so that the node may have closed it meanwhile.
    pub is_used: bool,
    _slot: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(address: Address, connect_timeout: Duration, connections_max: usize) -> Pool {
        let slots = Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS)));
        Pool { address, connect_timeout, slots, idle: Mutex::default() }
    }

    /// Waits for room for one more connection.
    pub async fn slot(&self) -> Result<OwnedSemaphorePermit> {
        self.slots.clone().acquire_owned().await.map_err(|_| Error::Closed)
    }

    /// A connection that was used before, if one is open still.
    pub async fn kept(&self, slot: OwnedSemaphorePermit) -> Result<Lease, OwnedSemaphorePermit> {
        while let Some(mut connection) = self.newest(clock::now()) {
            if timeout(READY_WAIT_MAX, connection.is_usable()).await.unwrap_or(false) {
                return Ok(Lease { connection, is_used: true, _slot: slot });
            }
        }
        Err(slot)
    }

    /// A new connection.
    pub async fn open(&self, slot: OwnedSemaphorePermit) -> Result<Lease> {
        let to = &self.address;
        let opened = timeout(self.connect_timeout, Connection::open(to)).await;
        let connection = opened
            .map_err(|_| {
                let longest = self.connect_timeout.as_secs_f64();
                Error::Connect(format!("cannot reach a node at {to}: no connection within {longest} s"))
            })?
            .map_err(|e| Error::Connect(format!("cannot reach a node at {to}: {e}")))?;
        Ok(Lease { connection, is_used: false, _slot: slot })
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn give_back(&self, lease: Lease) {
        let mut connection = lease.connection;
        connection.idle_since = Some(clock::now());
        // After a close nothing is kept.
        if !self.slots.is_closed() {
            self.idle.lock().push(connection);
        }
    }

    /// Closes what is not in use, and lets nobody in.
    pub fn close(&self) {
        self.slots.close();
        self.idle.lock().clear();
    }

    /// Takes the one that was used last; if even that one is too old, all are.
    fn newest(&self, now: Instant) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let connection = idle.pop()?;
        let is_young = connection.idle_since.is_some_and(|since| now.saturating_duration_since(since) < IDLE_MAX);
        if is_young {
            return Some(connection);
        }
        idle.clear();
        None
    }
}
