//! Bodies of requests: bytes that are there, or a file as it is read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    vec::IntoIter,
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::{fs::File, io::AsyncReadExt, sync::mpsc};

/// Bytes that are read from a file at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that are read ahead of the connection.
const PIECES_AHEAD: usize = 4;

/// What is sent. Its length is known before, so it goes with `Content-Length`.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    left: u64,
}

#[derive(Debug)]
enum Source {
    Chunks(IntoIter<Bytes>),
    File(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body {
    /// Nothing.
    pub fn empty() -> Body {
        Body::chunks(Vec::new())
    }

    /// These bytes, without another copy.
    pub fn chunks(chunks: Vec<Bytes>) -> Body {
        let left = chunks.iter().map(|c| c.len() as u64).sum();
        Body { source: Source::Chunks(chunks.into_iter()), left }
    }

    /// The next `len` bytes of a file.
    pub fn file(file: File, len: u64) -> Body {
        let (to, from) = mpsc::channel(PIECES_AHEAD);
        // Ends with the receiver, which ends with the request.
        tokio::spawn(async move {
            let mut file = file.take(len);
            let mut left = len;
            while left > 0 {
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                let read = match file.read_buf(&mut piece).await {
                    Ok(0) => {
                        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent"))
                    }
                    Ok(n) => {
                        left = left.saturating_sub(n as u64);
                        Ok(piece.freeze())
                    }
                    Err(e) => Err(e),
                };
                let is_last = read.is_err();
                if to.send(read).await.is_err() || is_last {
                    break;
                }
            }
        });
        Body { source: Source::File(from), left: len }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.source {
            Source::Chunks(chunks) => chunks.next().map(Ok),
            Source::File(pieces) => match pieces.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece,
            },
        };
        if let Some(Ok(piece)) = &next {
            self.left = self.left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
