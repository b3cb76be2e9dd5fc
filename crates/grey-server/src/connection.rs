//! The life of a connection, so far as the server must see it: whether a request is under way, whether
//! anything moves, and the word that it is to end. A connection is woken some times for every request, so all
//! of it is counters: a timer for every head, or a channel to ask at every wake-up, costs a small request
//! a tenth of its time.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response};
use hyper::{body::Incoming, service::Service};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};

/// How often all connections are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Looks in a row that find a connection without a request and without movement before it is cut: a
/// minute and up to [`LOOK_EVERY`] more, for the head of a request and between requests.
const LOOKS_MAX: u32 = 5;
/// The same while an answer waits for its client to take some of it. The system tells only of large pieces
/// (a third of what it buffers for a connection, megabytes), so that a client that reads steadily seems to
/// stand still for minutes: ten.
const LOOKS_BLOCKED_MAX: u32 = 41;
/// Entries of connections that may have ended before those are looked for.
const ENTRIES_MIN: usize = 256;

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The server ends: what is under way is finished.
    Finish,
    /// Nothing comes.
    Cut,
}

/// What of a connection has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Requests whose head came.
    heads: u64,
    /// Of these, requests that are answered, or whose caller went away. What then still leaves is `written`:
    /// no answer waits for anything but its client.
    answered: u64,
    /// Bytes that the client took.
    written: u64,
    /// Whether bytes wait for it to take more.
    blocked: bool,
}

/// How long nothing has come of a connection: pure, with a look as its unit of time.
#[derive(Debug, Default)]
struct Patience {
    last: Seen,
    looks: u32,
}

impl Patience {
    /// Whether it is lost.
    fn look(&mut self, now: Seen) -> bool {
        let moves = now != self.last || now.heads != now.answered;
        self.last = now;
        self.looks = if moves { 0 } else { self.looks + 1 };
        self.looks >= if now.blocked { LOOKS_BLOCKED_MAX } else { LOOKS_MAX }
    }
}

/// One connection's.
#[derive(Debug, Default)]
pub(crate) struct Life {
    heads: AtomicU64,
    answered: AtomicU64,
    written: AtomicU64,
    blocked: AtomicBool,
    /// 0 until a word is said, then 1 for [`Word::Finish`] or 2 for [`Word::Cut`].
    word: AtomicU8,
    listener: Notify,
}

impl Life {
    fn seen(&self) -> Seen {
        // A request that is answered between the two loads shows as one that is under way.
        let answered = self.answered.load(Ordering::Acquire);
        let (heads, written) = (self.heads.load(Ordering::Relaxed), self.written.load(Ordering::Relaxed));
        Seen { heads, answered, written, blocked: self.blocked.load(Ordering::Relaxed) }
    }

    /// Whether a request came after all when the connection was about to be cut: then it is not.
    pub(crate) fn goes_on(&self) -> bool {
        let seen = self.seen();
        // The word may have become another meanwhile, which stands.
        seen.heads != seen.answered && self.word.compare_exchange(2, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn say(&self, word: Word) {
        self.word.store(if word == Word::Finish { 1 } else { 2 }, Ordering::Release);
        self.listener.notify_waiters();
    }

    fn said(&self) -> Option<Word> {
        match self.word.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Word::Finish),
            _ => Some(Word::Cut),
        }
    }

    /// What `work` comes to, or the word if that comes first. To be awaited by one task.
    pub(crate) async fn until_told<T>(&self, mut work: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, Word> {
        // Made before the first look: a word said between the two reaches it.
        let mut told = pin!(self.listener.notified());
        let mut listens = false;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work(cx) {
                return Poll::Ready(Ok(done));
            }
            // Once is enough: the task's waker stays the same.
            if !std::mem::replace(&mut listens, true) {
                // Ready only where a word was said, which is what is looked for next.
                let _ready = told.as_mut().poll(cx).is_ready();
            }
            self.said().map_or(Poll::Pending, |word| Poll::Ready(Err(word)))
        })
        .await
    }
}

/// All connections'.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    all: Vec<(Weak<Life>, Patience)>,
    /// Entries at which those of connections that have ended are thrown away.
    full_at: usize,
}

impl Lives {
    /// That of a new connection; it is known as long as somebody has it.
    pub(crate) fn begin(&mut self) -> Arc<Life> {
        if self.all.len() >= self.full_at {
            self.all.retain(|(life, _)| life.strong_count() > 0);
            self.full_at = ENTRIES_MIN.max(2 * self.all.len());
        }
        let life = Arc::new(Life::default());
        self.all.push((Arc::downgrade(&life), Patience::default()));
        life
    }

    /// Cuts connections of which nothing comes. To be called every [`LOOK_EVERY`].
    pub(crate) fn look(&mut self) {
        self.all.retain_mut(|(life, patience)| {
            let Some(life) = life.upgrade() else { return false };
            if patience.look(life.seen()) {
                life.say(Word::Cut);
            }
            true
        });
    }

    /// Tells all to finish.
    pub(crate) fn finish(&self) {
        self.all.iter().filter_map(|(life, _)| life.upgrade()).for_each(|life| life.say(Word::Finish));
    }
}

/// A service whose requests are counted.
#[derive(Clone)]
pub(crate) struct Counting<S> {
    service: S,
    life: Arc<Life>,
}

impl<S> Counting<S> {
    pub(crate) fn new(service: S, life: Arc<Life>) -> Self {
        Counting { service, life }
    }
}

impl<S> Service<Request<Incoming>> for Counting<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Future: Unpin>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.life.heads.fetch_add(1, Ordering::Relaxed);
        let open = Some(Open(self.life.clone()));
        Answering { future: self.service.call(request), open }
    }
}

/// A request that is under way, until it is dropped.
struct Open(Arc<Life>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Release);
    }
}

/// The future of [`Counting`].
pub(crate) struct Answering<F> {
    future: F,
    open: Option<Open>,
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>> + Unpin,
{
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(Pin::new(&mut self.future).poll(cx));
        self.open = None;
        Poll::Ready(response)
    }
}

/// A stream whose written bytes are counted.
pub(crate) struct Watched {
    stream: TcpStream,
    life: Arc<Life>,
}

impl Watched {
    pub(crate) fn new(stream: TcpStream, life: Arc<Life>) -> Self {
        Watched { stream, life }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = written {
            self.life.written.fetch_add(n as u64, Ordering::Relaxed);
        }
        if self.life.blocked.load(Ordering::Relaxed) != written.is_pending() {
            self.life.blocked.store(written.is_pending(), Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_without_request_and_movement_are_lost() {
        let seen = |heads, answered, written| Seen { heads, answered, written, blocked: false };
        let looks = |all: &[Seen]| {
            let mut patience = Patience::default();
            all.iter().map(|s| patience.look(*s)).collect::<Vec<_>>()
        };
        assert_eq!(looks(&[seen(0, 0, 0); 5]), [false, false, false, false, true], "no head ever came");
        assert_eq!(looks(&[seen(1, 0, 0); 9]), [false; 9], "its request runs");
        let mut slow: Vec<Seen> = (1..9).map(|n| seen(1, 1, n)).collect();
        assert_eq!(looks(&slow), [false; 8], "the client takes its answer slowly");
        slow.extend([seen(1, 1, 8); 5]);
        assert_eq!(looks(&slow).iter().position(|lost| *lost), Some(12), "and then nothing");
        let full = [Seen { blocked: true, ..seen(1, 1, 9) }; 60];
        assert_eq!(looks(&full).iter().position(|lost| *lost), Some(41), "it seems to take nothing");
    }

    #[tokio::test]
    async fn a_word_reaches_those_who_listen_and_those_who_come_later() {
        let mut lives = Lives::default();
        let (early, late) = (lives.begin(), lives.begin());
        assert_eq!(early.until_told(|_| Poll::Ready(7)).await, Ok(7));
        let listening = early.clone();
        let listening = tokio::spawn(async move { listening.until_told(|_| Poll::<()>::Pending).await });
        tokio::task::yield_now().await;
        assert!(!listening.is_finished());
        lives.finish();
        assert_eq!(listening.await.unwrap(), Err(Word::Finish));
        assert_eq!(late.until_told(|_| Poll::<()>::Pending).await, Err(Word::Finish));
        assert_eq!(late.until_told(|_| Poll::Ready(7)).await, Ok(7), "what is done is done");
    }

    #[tokio::test]
    async fn a_request_that_just_came_is_not_cut() {
        let life = Lives::default().begin();
        life.say(Word::Cut);
        assert_eq!(life.until_told(|_| Poll::<()>::Pending).await, Err(Word::Cut));
        assert!(!life.goes_on(), "no request came");
        life.heads.fetch_add(1, Ordering::Relaxed);
        assert!(life.goes_on());
        assert_eq!(life.until_told(|_| Poll::Ready(7)).await, Ok(7));
        life.say(Word::Finish);
        assert!(!life.goes_on(), "the end of the server is no mistake");
    }

    #[test]
    fn connections_that_ended_are_forgotten() {
        let mut lives = Lives::default();
        let kept = lives.begin();
        for _ in 0..10 * ENTRIES_MIN {
            drop(lives.begin());
        }
        assert!(lives.all.len() <= 2 * ENTRIES_MIN, "{}", lives.all.len());
        (0..LOOKS_MAX).for_each(|_| lives.look());
        assert_eq!((kept.said(), lives.all.len()), (Some(Word::Cut), 1));
    }
}
