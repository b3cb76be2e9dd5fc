//! Bodies of requests: bytes that are there, and files as they are read.

use std::{
    io,
    path::{Path, PathBuf},
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
    Pieces(mpsc::Receiver<io::Result<Bytes>>),
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

    /// These parts, one behind the other.
    pub fn parts(parts: Vec<Part>) -> Body {
        let left = parts.iter().map(Part::len).fold(0, u64::saturating_add);
        let (to, from) = mpsc::channel(PIECES_AHEAD);
        // Ends with the receiver, which ends with the request.
        tokio::spawn(async move {
            for part in parts {
                let sent = match part {
                    Part::Bytes(bytes) => to.send(Ok(bytes)).await.is_ok(),
                    // Opened when its turn comes: there may be more than a process may open.
                    Part::File(path, len) => send_file(&path, len, &to).await,
                };
                if !sent {
                    break;
                }
            }
        });
        Body { source: Source::Pieces(from), left }
    }
}

/// A part of a body.
pub(crate) enum Part {
    Bytes(Bytes),
    /// So many bytes of a file.
    File(PathBuf, u64),
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(_, len) => *len,
        }
    }
}

/// Whether all went.
async fn send_file(path: &Path, len: u64, to: &mpsc::Sender<io::Result<Bytes>>) -> bool {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot read '{}': {e}", path.display()));
    let mut file = match File::open(path).await {
        Ok(file) => file.take(len),
        Err(e) => {
            // Nobody is told if nobody listens.
            let _gone = to.send(Err(named(e))).await;
            return false;
        }
    };
    let mut left = len;
    while left > 0 {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = match file.read_buf(&mut piece).await {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was sent")),
            Ok(n) => {
                left = left.saturating_sub(n as u64);
                Ok(piece.freeze())
            }
            Err(e) => Err(e),
        };
        let failed = read.is_err();
        if to.send(read.map_err(named)).await.is_err() || failed {
            return false;
        }
    }
    true
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.source {
            Source::Chunks(chunks) => chunks.next().map(Ok),
            Source::Pieces(pieces) => match pieces.poll_recv(cx) {
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
