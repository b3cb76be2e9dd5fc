//! Bodies: read under the node's byte budget and a limit, decompressed under the same, and
//! written with the permit attached until the last byte has left.

use std::{
    fmt::Display,
    io::{BufRead, Read, Write},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use flate2::{
    Compression,
    bufread::{MultiGzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use futures_util::FutureExt;
use grey_core::{Error, ErrorKind, Payload, Result};
use grey_serving::BytesPermit;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::error::shown;

/// Longest pause between two pieces of a body: a client that stops sending must not keep its
/// share of the byte budget.
pub(crate) const BODY_IDLE: Duration = Duration::from_secs(60);
/// Decompressed bytes per step, and so the grain in which the limit and the budget are checked.
const STEP_BYTES: usize = 64 << 10;
/// Frames below this are copied together. Kept as they came, each would cost more than it holds: its
/// entry in the list, and a whole read buffer that it may be a slice of.
const SMALL_FRAME_BYTES: usize = 4 << 10;
/// Answers below this are not compressed: the frame would cost more than it saves.
const COMPRESS_BYTES_MIN: usize = 256;

/// Compression of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which is what HTTP means by `deflate`.
    Deflate,
}

impl Coding {
    /// Name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }
}

/// The request's `Content-Encoding`.
pub(crate) fn content_coding(headers: &HeaderMap) -> Result<Option<Coding>> {
    let mut found = None;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        let next = match text.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => continue,
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            _ => {
                return Err(Error::new(
                    ErrorKind::UnsupportedMedia,
                    format!("Content-Encoding is '{}', expected gzip, deflate or identity", shown(text)),
                ));
            }
        };
        if found.replace(next).is_some() {
            return Err(Error::new(ErrorKind::UnsupportedMedia, "more than one Content-Encoding is not supported"));
        }
    }
    Ok(found)
}

/// The compression that the client accepts best; gzip among equals.
pub(crate) fn accepted_coding(headers: &HeaderMap) -> Option<Coding> {
    let mut best: Option<(f32, Coding)> = None;
    for item in
        headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','))
    {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let coding = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            _ => continue,
        };
        let q = parameters.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        let better = match best {
            None => true,
            Some((b, _)) => q > b || (q == b && coding == Coding::Gzip),
        };
        if q > 0.0 && better {
            best = Some((q, coding));
        }
    }
    best.map(|(_, c)| c)
}

fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("the body is larger than {limit} bytes (limits.body_bytes_max)"))
}

/// Bytes that the client announces, refused if above `limit`.
pub(crate) fn announced(headers: &HeaderMap, limit: u64) -> Result<Option<usize>> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|s| s.parse::<u64>().ok());
    match length {
        Some(n) if n > limit => Err(too_large(limit)),
        Some(n) => usize::try_from(n).map(Some).map_err(|_| too_large(limit)),
        None => Ok(None),
    }
}

/// Reads a whole body. `taken` bytes are in `permit` already; what comes beyond is added to it.
pub(crate) async fn read<B>(mut body: B, limit: u64, taken: usize, permit: &mut BytesPermit) -> Result<Payload>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let mut out = Gather::expecting(taken);
    loop {
        // What is there already needs no timer.
        let frame = match body.frame().now_or_never() {
            Some(frame) => frame,
            None => Box::pin(tokio::time::timeout(BODY_IDLE, body.frame())).await.map_err(|_| {
                Error::new(ErrorKind::DeadlineExceeded, format!("the body stopped for {} s", BODY_IDLE.as_secs()))
            })?,
        };
        let Some(frame) = frame else { return Ok(out.finish()) };
        let frame = frame.map_err(|e| Error::invalid(format!("the body was cut short: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let after = out.len().saturating_add(data.len());
        if after as u64 > limit {
            return Err(too_large(limit));
        }
        // Only what exceeds both the announcement and what came before is new.
        permit.grow(after.saturating_sub(taken.max(out.len())))?;
        out.push(data);
    }
}

/// Frames put together: few chunks, whose memory is a small multiple of their bytes.
#[derive(Default)]
struct Gather {
    whole: Payload,
    /// Small frames since the last large one.
    small: Vec<u8>,
}

impl Gather {
    /// For so many bytes: a small body is copied into memory of its own size.
    fn expecting(bytes: usize) -> Gather {
        Gather {
            whole: Payload::default(),
            small: Vec::with_capacity(if bytes < SMALL_FRAME_BYTES { bytes } else { 0 }),
        }
    }

    fn len(&self) -> usize {
        self.whole.len() + self.small.len()
    }

    fn push(&mut self, frame: Bytes) {
        if frame.len() >= SMALL_FRAME_BYTES {
            self.flush();
            self.whole.push(frame);
            return;
        }
        self.small.extend_from_slice(&frame);
        // Larger ones would be copied too often as they grow.
        if self.small.len() >= STEP_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut small = std::mem::take(&mut self.small);
        small.shrink_to_fit();
        self.whole.push(small.into());
    }

    fn finish(mut self) -> Payload {
        self.flush();
        self.whole
    }
}

/// Decompresses a body; `permit` grows with it.
pub(crate) fn decompress(coding: Coding, body: &Payload, limit: u64, permit: &mut BytesPermit) -> Result<Payload> {
    let mut source = ChunkReader(body.chunks().to_vec().into());
    let mut out = Payload::default();
    match coding {
        Coding::Gzip => inflate(MultiGzDecoder::new(&mut source), coding, limit, permit, &mut out)?,
        Coding::Deflate => inflate(ZlibDecoder::new(&mut source), coding, limit, permit, &mut out)?,
    }
    if source.0.is_empty() {
        Ok(out)
    } else {
        Err(Error::invalid(format!("the body has bytes behind its {} stream", coding.name())))
    }
}

fn inflate(mut from: impl Read, coding: Coding, limit: u64, permit: &mut BytesPermit, out: &mut Payload) -> Result<()> {
    loop {
        let mut step = vec![0u8; STEP_BYTES];
        let mut filled = 0;
        while filled < step.len() {
            match from.read(&mut step[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::invalid(format!("the body is not valid {}: {e}", coding.name()))),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        if (out.len() as u64).saturating_add(filled as u64) > limit {
            return Err(too_large(limit));
        }
        permit.grow(filled)?;
        step.truncate(filled);
        step.shrink_to_fit();
        out.push(Bytes::from(step));
    }
}

struct ChunkReader(std::collections::VecDeque<Bytes>);

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.fill_buf()?.len().min(buf.len());
        buf[..n].copy_from_slice(&self.fill_buf()?[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for ChunkReader {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        Ok(self.0.front().map_or(&[], |b| &b[..]))
    }

    fn consume(&mut self, n: usize) {
        if let Some(front) = self.0.front_mut() {
            front.advance(n.min(front.len()));
            if front.is_empty() {
                self.0.pop_front();
            }
        }
    }
}

/// Whether an answer of `len` bytes is worth compressing.
pub(crate) fn worth_compressing(len: usize) -> bool {
    len >= COMPRESS_BYTES_MIN
}

/// Compresses an answer at the fastest level: on a local network more effort never pays.
pub(crate) fn compress(coding: Coding, chunks: &[Bytes]) -> Result<Bytes> {
    let made = match coding {
        Coding::Gzip => {
            let mut to = GzEncoder::new(Vec::new(), Compression::fast());
            chunks.iter().try_for_each(|c| to.write_all(c)).and_then(|()| to.finish())
        }
        Coding::Deflate => {
            let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
            chunks.iter().try_for_each(|c| to.write_all(c)).and_then(|()| to.finish())
        }
    };
    made.map(Bytes::from).map_err(|e| Error::internal(format!("cannot compress the answer: {e}")))
}

/// An answer's chunks, with the permit for them. The connection takes a chunk from the body long before
/// its last byte has left, and drops the body then: so each chunk holds the permit, but for answers so small
/// that what the system buffers for a connection is more.
pub(crate) struct ChunkBody {
    chunks: std::vec::IntoIter<Bytes>,
    left: u64,
    _permit: Option<BytesPermit>,
}

/// Answers up to this size hold their permit as long as their body.
const SMALL_ANSWER_BYTES: u64 = 4 << 10;

struct Held {
    bytes: Bytes,
    _permit: Arc<BytesPermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ChunkBody {
    pub fn new(mut chunks: Vec<Bytes>, permit: BytesPermit) -> Self {
        let left = chunks.iter().map(|c| c.len() as u64).sum();
        if left <= SMALL_ANSWER_BYTES {
            return ChunkBody { chunks: chunks.into_iter(), left, _permit: Some(permit) };
        }
        let permit = Arc::new(permit);
        for bytes in &mut chunks {
            *bytes = Bytes::from_owner(Held { bytes: std::mem::take(bytes), _permit: permit.clone() });
        }
        ChunkBody { chunks: chunks.into_iter(), left, _permit: None }
    }
}

impl HttpBody for ChunkBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let next = self.chunks.next();
        self.left -= next.as_ref().map_or(0, |c| c.len() as u64);
        Poll::Ready(next.map(|c| Ok(Frame::data(c))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Value of `Content-Encoding`.
pub(crate) fn coding_value(coding: Coding) -> HeaderValue {
    HeaderValue::from_static(coding.name())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_best_accepted_coding_is_chosen() {
        let accepted = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT_ENCODING, v.parse().unwrap());
            accepted_coding(&h)
        };
        assert_eq!(accepted("deflate, gzip"), Some(Coding::Gzip));
        assert_eq!(accepted("gzip;q=0.1, deflate;q=0.5"), Some(Coding::Deflate));
        assert_eq!(accepted("gzip;q=0, br"), None);
        assert_eq!(accepted("identity"), None);
    }

    proptest! {
        /// However a body is cut, its bytes stay, in few chunks; only small frames are copied.
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(prop_oneof![0usize..4, 4000usize..4200, 0usize..70_000], 0..60)) {
            let all = Bytes::from((0..cuts.iter().sum()).map(|i: usize| (i % 251) as u8).collect::<Vec<u8>>());
            let (mut rest, mut gather, mut large) = (all.clone(), Gather::default(), Vec::new());
            for n in cuts {
                let frame = rest.split_to(n);
                if n >= SMALL_FRAME_BYTES {
                    large.push(frame.as_ptr());
                }
                gather.push(frame);
            }
            prop_assert_eq!(gather.len(), all.len());
            let payload = gather.finish();
            prop_assert_eq!(&payload.to_contiguous(), &all);
            // Between two chunks of small frames lies a large frame.
            prop_assert!(payload.chunks().len() <= 2 * (all.len() / SMALL_FRAME_BYTES) + 1);
            prop_assert!(large.iter().all(|p| payload.chunks().iter().any(|c| c.as_ptr() == *p)));
        }
    }

    #[test]
    fn a_body_of_single_bytes_is_few_chunks() {
        let mut gather = Gather::default();
        let buffer = Bytes::from(vec![7u8; 1 << 20]);
        (0..buffer.len()).for_each(|i| gather.push(buffer.slice(i..=i)));
        assert_eq!(gather.finish().chunks().len(), (1 << 20) / STEP_BYTES);
        assert!(buffer.is_unique(), "no frame is kept");
    }

    #[test]
    fn chunks_read_as_one() {
        let mut r = ChunkReader([Bytes::from_static(b"ab"), Bytes::from_static(b"cde")].into());
        let mut all = Vec::new();
        r.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abcde");
    }

    #[test]
    fn unknown_codings_are_refused() {
        let mut h = HeaderMap::new();
        h.insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(content_coding(&h).unwrap_err().kind(), ErrorKind::UnsupportedMedia);
        h.insert(header::CONTENT_ENCODING, HeaderValue::from_static("GZIP"));
        assert_eq!(content_coding(&h).unwrap(), Some(Coding::Gzip));
    }
}
