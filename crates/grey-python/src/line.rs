//! Waiting for capacity: where a server answers 503, a caller in the same process stands in line.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use grey_core::{Error, ErrorKind, Result};
use tokio::sync::{Mutex, Notify};

/// How long the first in line waits for word of room before it tries without: room also comes where nobody tells.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Callers that found no room, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Line {
    turn: Mutex<()>,
    room: Notify,
    waiting: AtomicUsize,
}

impl Line {
    /// Says that there may be room.
    pub(crate) fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_one();
        }
    }

    /// Whether nobody waits: whoever comes now may try at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// What `attempt` gives once it is not refused as `Overloaded`. An attempt that is not refused when it is first
    /// polled has its room, and lets the next one try.
    pub(crate) async fn wait<T, F>(&self, deadline: Option<Instant>, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            if self.is_empty() {
                match attempt().await {
                    Err(e) if e.kind() == ErrorKind::Overloaded => {}
                    done => return done,
                }
            }
            let _waiting = Waiting::new(&self.waiting);
            let turn = within(deadline, self.turn.lock()).await?;
            let mut admitted = pin!(loop {
                let mut trial = Box::pin(attempt());
                match once(trial.as_mut()).await {
                    Poll::Pending => break trial,
                    Poll::Ready(Err(e)) if e.kind() == ErrorKind::Overloaded => {}
                    Poll::Ready(done) => {
                        // There may be room for more.
                        self.room.notify_one();
                        return done;
                    }
                }
                let _no_word = within(deadline, tokio::time::timeout(TRY_EVERY, self.room.notified())).await?;
            });
            drop((turn, _waiting));
            match admitted.as_mut().await {
                // It had to wait for something else first, and there was no room then.
                Err(e) if e.kind() == ErrorKind::Overloaded => {}
                done => return done,
            }
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Polls a future once.
async fn once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

async fn within<T>(deadline: Option<Instant>, future: impl Future<Output = T>) -> Result<T> {
    let Some(at) = deadline else { return Ok(future.await) };
    tokio::time::timeout_at(at.into(), future).await.map_err(|_elapsed| {
        Error::new(ErrorKind::DeadlineExceeded, "the timeout passed while the call waited for room on the node")
    })
}

/// Bytes of a node's budget that a call holds; given back on drop, which the line is told of.
pub(crate) struct Held {
    permit: Option<grey_serving::BytesPermit>,
    lines: Arc<Lines>,
}

impl Held {
    pub(crate) fn new(permit: grey_serving::BytesPermit, lines: Arc<Lines>) -> Self {
        Held { permit: Some(permit), lines }
    }

    /// Counts a result.
    pub(crate) fn account(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            permit.account(bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.permit = None;
        self.lines.bytes.tell();
        self.lines.rows.tell();
    }
}

/// One line for bytes, and behind it one for places in models' queues: whoever waits for rows holds its bytes, so
/// those who wait for bytes must not stand before it.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) bytes: Line,
    pub(crate) rows: Line,
}
