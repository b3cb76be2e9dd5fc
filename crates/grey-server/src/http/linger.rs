//! Bodies that a handler did not read to their end. A client that sends all before it reads would
//! lose the answer if its connection closed with unread bytes (the system then resets it), so the
//! rest is read and thrown away, within limits and without a share of the byte budget.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http::header;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Bodies read out at once: each holds a connection and a read buffer, and takes part of the network.
/// Beyond that connections are closed.
const LINGERING_MAX: usize = 64;
/// Most bytes thrown away of one body: four times the default limit of one.
const LINGER_BYTES_MAX: u64 = 1 << 30;
/// Longest pause between two pieces: a client that waits for the answer sends nothing.
const LINGER_IDLE: Duration = Duration::from_secs(1);
/// Longest time for one body, however steadily it comes.
const LINGER_TIME_MAX: Duration = Duration::from_secs(30);

/// Room for lingering readers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lingering(Arc<Semaphore>);

impl Lingering {
    pub fn new() -> Self {
        Lingering(Arc::new(Semaphore::new(LINGERING_MAX)))
    }
}

/// Sees to it that the request's body is read to its end, whatever the handler does with it.
pub(super) async fn linger(State(room): State<Lingering>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    next.run(read_out_at_the_end(request, room).map(Body::new)).await
}

/// The same request, whose body is read to its end.
pub(super) fn read_out_at_the_end<B: Readable>(
    request: http::Request<B>,
    room: Lingering,
) -> http::Request<ReadOut<B>> {
    // Such a client waits for a word before it sends, and the first read is what gives it.
    let waits = request.headers().contains_key(header::EXPECT);
    request.map(|body| ReadOut { body: Some(body), waits, room })
}

/// A body that can be read behind its handler's back.
pub(super) trait Readable: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static {}

impl<B: HttpBody<Data = Bytes, Error: Send> + Send + Unpin + 'static> Readable for B {}

/// A body whose rest is read out when it is dropped.
pub(super) struct ReadOut<B: Readable> {
    /// `None` once it has ended.
    body: Option<B>,
    /// The client sends nothing until the first read.
    waits: bool,
    room: Lingering,
}

impl<B: Readable> HttpBody for ReadOut<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl<B: Readable> Drop for ReadOut<B> {
    fn drop(&mut self) {
        if self.waits || self.is_end_stream() {
            return;
        }
        let Some(body) = self.body.take() else { return };
        // Without a runtime there is no connection either.
        let (Ok(runtime), Ok(slot)) = (tokio::runtime::Handle::try_current(), self.room.0.clone().try_acquire_owned())
        else {
            return;
        };
        runtime.spawn(async move {
            tokio::select! {
                () = read_out(body, LINGER_BYTES_MAX) => {}
                () = sleep(LINGER_TIME_MAX) => {}
            }
            drop(slot);
        });
    }
}

/// Reads until the end, an error, a pause, or `most` bytes. An end that is not reached closes the connection.
async fn read_out(mut body: impl Readable, most: u64) {
    let mut read = 0u64;
    while let Ok(Some(Ok(frame))) = timeout(LINGER_IDLE, body.frame()).await {
        read = read.saturating_add(frame.data_ref().map_or(0, |data| data.len() as u64));
        if read >= most {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::stream;
    use tokio::sync::oneshot;

    use super::*;

    /// A body without end, its count of frames that were read, and a word when it is dropped.
    fn endless() -> (Body, Arc<AtomicUsize>, oneshot::Receiver<()>) {
        let (read, (tell, told)) = (Arc::new(AtomicUsize::new(0)), oneshot::channel::<()>());
        let count = read.clone();
        let frames = stream::repeat_with(move || {
            let _until_dropped = &tell;
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 10]))
        });
        (Body::from_stream(frames), read, told)
    }

    fn read_out_on_drop(body: Body, waits: bool, room: &Lingering) -> ReadOut<Body> {
        ReadOut { body: Some(body), waits, room: room.clone() }
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_read() {
        let (body, read, _) = endless();
        super::read_out(body, 95).await;
        assert_eq!(read.load(Ordering::Relaxed), 10);
    }

    #[tokio::test]
    async fn only_unread_bodies_are_read_out_and_only_with_room() {
        let room = Lingering(Arc::new(Semaphore::new(1)));
        let slot = room.0.clone().acquire_owned().await.unwrap();
        let (body, read, told) = endless();
        drop(read_out_on_drop(body, false, &room));
        assert!(told.await.is_err() && read.load(Ordering::Relaxed) == 0, "no room");
        drop(slot);

        let (body, read, told) = endless();
        drop(read_out_on_drop(body, true, &room));
        assert!(told.await.is_err() && read.load(Ordering::Relaxed) == 0, "the client waits");

        let (tell, told) = oneshot::channel::<()>();
        let frames = stream::iter((0..3).map(move |_| {
            let _until_dropped = &tell;
            Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
        }));
        drop(read_out_on_drop(Body::from_stream(frames), false, &room));
        assert!(told.await.is_err());
        let _free = room.0.acquire().await.unwrap();

        let mut done = read_out_on_drop(Body::from("all"), false, &room);
        while done.frame().await.is_some() {}
        assert!(done.is_end_stream());
    }
}
